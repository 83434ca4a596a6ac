"""What ranks of train/reinforce.py do in tests: `torchrun tests/train/ranks.py MODE ...`.

``play FOLDER`` checks what must hold in each rank, then trains each of ``RUNS``; every other mode
runs the command line that follows, and meanwhile something happens to one rank (``EVENTS``).
"""

import hashlib
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from agents import distributed
from agents.distributed import all_lanes, gathered, largest, mean_over_ranks, on_first, own_lanes
from agents.runs.commands import run
from agents.torchrun import joined
from agents.training import Training
from ram_env import GlimpseVectorEnv
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


def check_lanes(rank: int) -> None:
    """Lanes are split in order, and joined to what was split."""
    whole = torch.arange(24.0).reshape(2, 4, 3)  # (T, N, 3)
    lanes = own_lanes(4)
    assert lanes == (range(2), range(2, 4))[rank]
    own = whole[:, lanes.start : lanes.stop]
    assert torch.equal(all_lanes(own, axis=1), whole)
    with pytest.raises(ValueError, match=r"num_envs must be a multiple of 2, .* got 5"):
        own_lanes(5)
    with pytest.raises(ValueError, match=r"multiple of 6, .* in groups of 3; got 8"):
        own_lanes(8, group=3)


def check_agreements(rank: int) -> None:
    """All ranks get the same numbers, results and errors."""
    assert largest(15 * rank) == 15
    assert gathered({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    means = mean_over_ranks({"a": torch.tensor(1.0 + rank), "b": torch.tensor(float("inf") * rank)})
    assert means["a"] == 1.5
    assert not means["b"].isfinite()
    assert on_first(distributed.rank) == 0
    for error in (FloatingPointError("update 3: loss not finite"), SystemExit(143)):
        call = Mock(side_effect=error)
        with pytest.raises(type(error)) as raised:
            on_first(call)
        assert raised.value.args == error.args
        assert call.called == (rank == 0)


def play(folder: Path) -> None:
    """Train each of the runs; keep what every rank plays in the first update."""
    step, begin = GlimpseVectorEnv.step, Training.__init__
    played: list[dict[str, np.ndarray]] = []
    trained: list[Training[Any]] = []

    def note_step(self: GlimpseVectorEnv, actions: Any) -> Any:
        if len(played) < 4:  # glimpses of an episode
            chosen = {"chosen": np.array(actions["location"]), "answer": np.array(actions["label"])}
            first = {} if played else {"first": self._observe()["location"]}
            played.append({**chosen, **first, **self._episodes.describe()})
        return step(self, actions)

    def note_training(self: Training[Any], *words: Any) -> None:
        trained[:] = [self]
        begin(self, *words)

    folder.mkdir(exist_ok=True)
    (folder / "stages.toml").write_text(STAGES)
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GlimpseVectorEnv, "step", note_step)
        patch.setattr(Training, "__init__", note_training)
        for name, changes in {**RUNS, "bfloat16": {"bf16": True}}.items():
            played.clear()
            main(Config(run_dir=folder / name, **{"bf16": False, **SHORT, **changes}))
            entries: dict[str, Any] = {
                k: np.stack([each[k] for each in played if k in each]) for k in played[0]
            }
            np.savez(folder / f"{name}_{distributed.rank()}.npz", **entries)  # (T, N / W, ...)
            digests = gathered(_digest(trained[0].pack()[0]))
            assert digests == [digests[0]] * len(digests), name


def _digest(groups: dict[str, dict[str, torch.Tensor]]) -> str:
    """Return a digest of all that a checkpoint holds: weights, their mean, Adam's state, replay."""
    tensors = [part for group in groups.values() for part in group.values()]
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in tensors)).hexdigest()


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
            check_lanes(distributed.rank())
            check_agreements(distributed.rank())
            play(Path(sys.argv[1]))
    else:
        if mode == "flags" and os.environ["RANK"] == "1":
            sys.argv += ["--seed", "1"]
        if mode in EVENTS:
            let_happen(EVENTS[mode])
        run(main, reinforce.parse, several=True)
