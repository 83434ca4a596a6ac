"""Whatever happens to a run, once it is resumed it ends with the bytes of an undisturbed run.

Weights, optimiser, state, metrics, result and TensorBoard's scalars are compared. A fault from
within strikes at a system call or a step of the environment that the round's seed chooses; one
from outside strikes when the run's log has grown to a size that the seed chooses.
"""

import dataclasses
import errno
import itertools
import math
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

if sys.platform != "linux":
    pytest.skip("needs a fork server and file size limits", allow_module_level=True)

from agents.runs.checkpoints import list_checkpoints, read_checkpoint
from agents.runs.commands import DIVERGED
from ram_env import GlimpseVectorEnv
from tests.faults.runs import (
    DEADLINE,
    VARIANTS,
    Outcome,
    assert_same_end,
    at_call,
    handle,
    start,
    undisturbed,
)
from tests.faults.system_calls import (
    Handler,
    fill_disk,
    interrupt,
    kill,
    limit_files,
    make_read_only,
)
from train import reinforce

STEPS = 4  # env steps of an update
TRAINING_STEPS = 6 * STEPS  # env steps before the first validation
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclasses.dataclass
class Round:
    """A run to disturb, and the random numbers of a round."""

    folder: Path
    rng: np.random.Generator
    variant: str

    def start(self, fault: Any = None, outside: Any = None) -> Outcome:
        return start(self.variant, self.folder, fault, outside)

    def finish(self) -> None:
        outcome = self.start()
        assert outcome.status == 0, outcome
        assert_same_end(self.folder, self.variant)

    def draw_call(self) -> int:
        """Choose one of the system calls that the undisturbed run makes."""
        return int(self.rng.integers(len(undisturbed(self.variant)[1])))

    def kill_within(self, probability: float = 1.0) -> Outcome | None:
        if self.rng.random() > probability:
            return None
        handler = partial(kill, self.draw_call(), bool(self.rng.integers(2)))
        return self.start(partial(handle, handler))


@pytest.fixture
def disturbed(fault_round: int, tmp_path: Path, request: pytest.FixtureRequest) -> Round:
    """The round's run; every test goes through the variants from another one on."""
    first = sum(request.node.originalname.encode())
    variant = list(VARIANTS)[(first + fault_round) % len(VARIANTS)]
    folder = tmp_path / "a run :100: [red]"
    return Round(folder, np.random.default_rng(fault_round), variant)


@pytest.fixture
def disturbed_agent(disturbed: Round) -> Round:
    """The same for faults that an agent's run alone knows."""
    if disturbed.variant == "conv":
        disturbed.variant = "agent"
    return disturbed


def newest(folder: Path) -> int:
    paths = list_checkpoints(folder / "checkpoints")
    return read_checkpoint(paths[-1]).step if paths else 0


# Killed


def test_killed_at_system_calls(disturbed: Round):
    for _ in range(disturbed.rng.integers(1, 4)):
        outcome = disturbed.kill_within()
        assert outcome
        assert outcome.status in (-signal.SIGKILL, 0)
    disturbed.finish()


def strike(number: signal.Signals, size: int, process_id: int, folder: Path) -> None:
    """Send a signal once the log and the metrics have a size, if it comes to that."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until and not (folder / "result.json").exists():
        with suppress(FileNotFoundError):
            names = ("config.json", "log.txt", "metrics.csv")
            if sum((folder / name).stat().st_size for name in names) >= size:
                break
        time.sleep(0.001)
    with suppress(ProcessLookupError):
        os.kill(process_id, number)


def draw_size(disturbed: Round) -> int:
    return int(disturbed.rng.integers(1, 3000))


def test_killed_from_outside(disturbed: Round):
    outcome = disturbed.start(None, partial(strike, signal.SIGKILL, draw_size(disturbed)))
    assert outcome.status in (-signal.SIGKILL, 0)
    disturbed.finish()


# Stopped


def send(number: signal.Signals, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    os.kill(os.getpid(), number)
    return original(*args, **kwargs)


def send_twice(
    first: signal.Signals, then: Handler, original: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    handle(then)
    return send(first, original, *args, **kwargs)


def assert_stopped(outcome: Outcome, number: int, folder: Path) -> None:
    """Check that a run has said how to resume it, and ended as its signal asks for."""
    assert outcome.status == 128 + number, outcome
    assert outcome.errors == ""
    assert shlex.split(outcome.output.splitlines()[-1])[-2:] == ["--resume", str(folder)]


@pytest.mark.parametrize("number", SIGNALS, ids=str)
def test_stopped_in_training_it_saves_that_update(disturbed_agent: Round, number: signal.Signals):
    step = int(disturbed_agent.rng.integers(1, TRAINING_STEPS + 1))
    fault = partial(at_call, GlimpseVectorEnv, "step", step, partial(send, number))
    assert_stopped(disturbed_agent.start(fault), number, disturbed_agent.folder)
    assert newest(disturbed_agent.folder) == math.ceil(step / STEPS)
    disturbed_agent.finish()


@pytest.mark.parametrize("number", SIGNALS, ids=str)
def test_stopped_anywhere(disturbed: Round, number: signal.Signals):
    """In training, in a validation or in the final evaluation, in a new or a resumed run."""
    disturbed.kill_within(0.3)
    most = 3 if disturbed.variant == "conv" else 96
    method = "reset" if disturbed.variant == "conv" else "step"
    call = int(disturbed.rng.integers(1, most + 1))
    outcome = disturbed.start(
        partial(at_call, GlimpseVectorEnv, method, call, partial(send, number))
    )
    if outcome.status != 0:
        assert_stopped(outcome, number, disturbed.folder)
    disturbed.finish()


@pytest.mark.parametrize(("first", "second"), [*itertools.product(SIGNALS, SIGNALS)])
def test_a_second_signal_ends_it_at_once(
    disturbed_agent: Round, first: signal.Signals, second: signal.Signals
):
    step = int(disturbed_agent.rng.integers(1, TRAINING_STEPS + 1))
    then = partial(interrupt, int(disturbed_agent.rng.integers(1, 10)), second)
    act = partial(send_twice, first, then)
    outcome = disturbed_agent.start(partial(at_call, GlimpseVectorEnv, "step", step, act))
    assert outcome.status == -second
    assert newest(disturbed_agent.folder) < math.ceil(step / STEPS)
    disturbed_agent.finish()


@pytest.mark.parametrize("number", SIGNALS, ids=str)
def test_stopped_from_outside(disturbed: Round, number: signal.Signals):
    outcome = disturbed.start(None, partial(strike, number, draw_size(disturbed)))
    if not (disturbed.folder / "result.json").exists():
        assert_stopped(outcome, number, disturbed.folder)
    disturbed.finish()


# Out of space


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("handler", "code"),
    [(fill_disk, errno.ENOSPC), (make_read_only, errno.EROFS), (limit_files, errno.EFBIG)],
)
def test_a_full_or_read_only_disk_ends_it_in_one_line(disturbed: Round, handler: Any, code: int):
    disturbed.kill_within(0.5)
    outcome = disturbed.start(partial(handle, partial(handler, disturbed.draw_call())))
    if outcome.status != 0:
        assert outcome.status == 1, outcome
        assert re.fullmatch(f"error: .*{os.strerror(code)}.*\n", outcome.errors), outcome
    newest(disturbed.folder)  # can be read
    disturbed.finish()


def test_a_read_only_disk_changes_nothing_at_a_resume(disturbed: Round):
    disturbed.kill_within()
    before = contents(disturbed.folder)
    disturbed.start(partial(handle, partial(make_read_only, 0)))
    assert contents(disturbed.folder) == before
    disturbed.finish()


# Broken numbers


def spoil_reward(value: float, original: Any, *args: Any) -> Any:
    obs, reward, *rest = original(*args)
    reward = reward.copy()
    reward[0] = value
    return obs, reward, *rest


def break_reward(update: int, value: float) -> None:
    at_call(GlimpseVectorEnv, "step", STEPS * update + 2, partial(spoil_reward, value))


def break_loss(update: int, value: float) -> None:
    calls = itertools.count()

    def spoil(terms: Callable[..., dict[str, torch.Tensor]], *args: Any) -> Any:
        result = terms(*args)
        added = value if next(calls) == update else 0.0
        return {name: term + added for name, term in result.items()}

    for name, estimator in list(reinforce.ESTIMATORS.items()):
        terms = partial(spoil, estimator.terms)
        reinforce.ESTIMATORS[name] = dataclasses.replace(estimator, terms=terms)


def spoil_gradient(value: float, original: Any, optimizer: torch.optim.Optimizer) -> None:
    original(optimizer)
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.register_hook(lambda gradient: torch.full_like(gradient, value))


def break_gradient(update: int, value: float) -> None:
    at_call(torch.optim.Optimizer, "zero_grad", update + 1, partial(spoil_gradient, value))


def spoil_weights(value: float, original: Any, optimizer: torch.optim.Optimizer) -> None:
    original(optimizer)
    with torch.no_grad():
        optimizer.param_groups[0]["params"][0].view(-1)[-1] = value


def break_weights(update: int, value: float) -> None:
    at_call(torch.optim.AdamW, "step", update + 1, partial(spoil_weights, value))


@pytest.mark.parametrize("broken", [break_reward, break_loss, break_gradient, break_weights])
def test_a_broken_number_ends_it_at_that_update(disturbed_agent: Round, broken: Any):
    value = [math.nan, math.inf, -math.inf][disturbed_agent.rng.integers(3)]
    update = int(disturbed_agent.rng.integers(1, 6))
    outcome = disturbed_agent.start(partial(broken, update, value))
    assert outcome.status == DIVERGED, outcome
    assert re.fullmatch(rf"error: .*\bupdate {update}\b.*\n", outcome.errors), outcome
    assert newest(disturbed_agent.folder) <= update
    for path in disturbed_agent.folder.rglob("*.*"):
        if path.suffix == ".safetensors":
            assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path
        elif path.suffix in (".json", ".csv"):
            assert not re.search(r"\b(nan|inf|infinity)\b", path.read_text(), re.IGNORECASE), path
    disturbed_agent.finish()


# What these tests notice


def skip(original: Any, *args: Any) -> None:
    pass


def test_a_resume_that_forgets_the_optimiser_is_noticed(tmp_path: Path):
    folder = tmp_path / "run"
    send_late = partial(send, signal.SIGTERM)
    start("agent", folder, partial(at_call, GlimpseVectorEnv, "step", 20, send_late))
    fault = partial(at_call, torch.optim.Optimizer, "load_state_dict", 1, skip)
    assert start("agent", folder, fault).status == 0
    with pytest.raises(AssertionError):
        assert_same_end(folder, "agent")
