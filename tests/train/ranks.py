"""What ranks of train/reinforce.py do in tests: `torchrun tests/train/ranks.py MODE ...`.

``play FOLDER`` trains each of ``RUNS``; every other mode runs the command line that follows, and
meanwhile something happens to one rank (``EVENTS``).
"""

import hashlib
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents import distributed
from agents.distributed import gathered
from agents.runs.commands import run
from agents.torchrun import joined
from agents.training import Training
from tests.script_helpers import SMALL_RUN, wait_for
from train import reinforce
from train.reinforce import Config, main

UPDATES = 6
SHORT = {**SMALL_RUN, "num_envs": 8, "total_episodes": 8 * UPDATES}
STAGES = """stages = [
    { until = 0.8, success = 0.001, env = { num_marks = 4, board_size = 2 } },
]"""
RUNS: dict[str, dict[str, Any]] = {
    "dense": {},
    "leave_one_out": {"estimator": "leave_one_out", "num_rollouts": 2},
    "reward_only": {"estimator": "reward_only", "core": "gru"},
    "outcome": {"estimator": "outcome", "replay_steps": 2, "replay_size": 3, "see_time": True},
    "random": {"locations": "random", "curriculum": "stages.toml"},
    "stops": {"glimpse_cost": 0.1},
    "learned_std": {"learned_std": True, "shift": 1, "core": "lstm", "weight_decay": 0.1},
}
"""Flags of runs by name: what could differ between ranks."""


def play(folder: Path) -> None:
    """Train each of the runs; check that all ranks end with the same weights and state."""
    begin, trained = Training.__init__, list[Training[Any]]()

    def note_training(self: Training[Any], *words: Any) -> None:
        trained[:] = [self]
        begin(self, *words)

    folder.mkdir(exist_ok=True)
    (folder / "stages.toml").write_text(STAGES)
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "__init__", note_training)
        for name, changes in {**RUNS, "bfloat16": {"bf16": True}}.items():
            main(Config(run_dir=folder / name, **{"bf16": False, **SHORT, **changes}))
            groups = trained[0].pack()[0].values()
            parts = [part.numpy().tobytes() for group in groups for part in group.values()]
            digests = gathered(hashlib.sha256(b"".join(parts)).hexdigest())
            assert digests == [digests[0]] * len(digests), name


def signalled() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def stopped() -> None:
    """Signal torchrun, and wait until it has passed that on."""
    os.kill(os.getppid(), signal.SIGTERM)
    wait_for(lambda: signal.getsignal(signal.SIGTERM) == signal.SIG_IGN)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def diverged() -> None:
    raise FloatingPointError("update 2: made to fail")


EVENTS: dict[str, Callable[[], None]] = {
    event.__name__: event for event in (signalled, stopped, killed, diverged)
}


def let_happen(event: Callable[[], None]) -> None:
    """Let something happen to the last rank in the third update."""
    move, updates = Training.move_mean, itertools.count(1)

    def wrapped(self: Training[Any], decay: Any) -> None:
        if next(updates) == 3 and distributed.rank() == distributed.num_ranks() - 1:
            event()
        move(self, decay)

    Training.move_mean = wrapped


if __name__ == "__main__":
    mode = sys.argv.pop(1)
    if mode == "play":
        with joined():
            play(Path(sys.argv[1]))
    else:
        if mode == "flags" and os.environ["RANK"] == "1":
            sys.argv += ["--seed", "1"]
        if mode in EVENTS:
            let_happen(EVENTS[mode])
        run(main, reinforce.parse, several=True)
