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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._pytree import tree_map

if sys.platform != "linux":
    pytest.skip("needs a fork server and file size limits", allow_module_level=True)

from agents.estimators import ESTIMATORS
from agents.runs.checkpoints import list_checkpoints, read_checkpoint
from agents.runs.commands import DIVERGED
from ram_env import GlimpseVectorEnv
from tests.faults import system_calls
from tests.faults.runs import CALLS, VARIANTS, Outcome, assert_same_end, at_call, handle, start

STEPS = 4  # env steps of an update
TRAINING = 6 * STEPS  # env steps before the first validation
ALL_STEPS = 96  # env steps in all, with validations and the final evaluation
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Round:
    """A run to disturb, and the random numbers of a round."""

    def __init__(self, folder: Path, seed: int, first: int):
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.variant = list(VARIANTS)[(first + seed) % len(VARIANTS)]
        self.signal = SIGNALS[seed % 2]

    def start(self, fault: Any = None) -> Outcome:
        return start(self.variant, self.folder, fault)

    def finish(self) -> None:
        outcome = self.start()
        assert outcome.status == 0, outcome
        assert_same_end(self.folder, self.variant)

    def draw(self, most: int) -> int:
        """Draw a number from 1 to the most."""
        return int(self.rng.integers(1, most + 1))

    def kill_within(self, probability: float) -> None:
        """Perhaps kill the run at a system call."""
        if self.rng.random() < probability:
            half = self.draw(2) == 1
            handler = partial(system_calls.send, self.draw(CALLS), signal.SIGKILL, half)
            assert self.start(partial(handle, handler)).status in (-signal.SIGKILL, 0)

    @property
    def saved(self) -> int:
        """The update of the newest checkpoint, which is checked, or 0."""
        paths = list_checkpoints(self.folder / "checkpoints")
        return read_checkpoint(paths[-1]).step if paths else 0


@pytest.fixture
def disturbed(fault_round: int, tmp_path: Path, request: pytest.FixtureRequest) -> Round:
    """The round's run; every test goes through the variants from another one on."""
    first = sum(request.node.originalname.encode())
    return Round(tmp_path / "a run :100: [red]", fault_round, first)


@pytest.fixture
def agent(disturbed: Round) -> Round:
    """The same, for faults that the run of a baseline doesn't know."""
    if disturbed.variant == "conv":
        disturbed.variant = "agent"
    return disturbed


# Killed and stopped


def test_killed_at_system_calls(disturbed: Round):
    for _ in range(disturbed.draw(3)):
        disturbed.kill_within(1.0)
    disturbed.finish()


def send(number: signal.Signals, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    os.kill(os.getpid(), number)
    return original(*args, **kwargs)


def assert_stopped(outcome: Outcome, run: Round) -> None:
    """Check that a run has said how to resume it, and ended as its signal asks for."""
    assert outcome.status == 128 + run.signal, outcome
    assert outcome.errors == ""
    assert shlex.split(outcome.output.splitlines()[-1])[-2:] == ["--resume", str(run.folder)]


def test_stopped_at_a_step(disturbed: Round):
    """In training, in a validation or in the final evaluation, in a new or a resumed run."""
    disturbed.kill_within(0.3)
    before = disturbed.saved
    method, most = ("reset", 3) if disturbed.variant == "conv" else ("step", ALL_STEPS)
    step = disturbed.draw(most)
    fault = partial(at_call, GlimpseVectorEnv, method, step, partial(send, disturbed.signal))
    outcome = disturbed.start(fault)
    if outcome.status != 0:  # it was not too late
        assert_stopped(outcome, disturbed)
    if before == 0 and step <= TRAINING and method == "step":
        assert disturbed.saved == math.ceil(step / STEPS)
    disturbed.finish()


def send_twice(first: Any, second: Any, original: Callable[..., Any], *args: Any) -> Any:
    handle(second)
    return send(first, original, *args)


def test_a_ctrl_c_after_a_signal_ends_it_at_once(agent: Round):
    then = partial(system_calls.send, agent.draw(9), signal.SIGINT, False)
    step, act = agent.draw(TRAINING), partial(send_twice, agent.signal, then)
    outcome = agent.start(partial(at_call, GlimpseVectorEnv, "step", step, act))
    assert outcome.status == -signal.SIGINT
    assert agent.saved < math.ceil(step / STEPS)
    agent.finish()


def test_stopped_at_a_system_call(disturbed: Round):
    send = partial(system_calls.send, disturbed.draw(CALLS), disturbed.signal, False)
    outcome = disturbed.start(partial(handle, send))
    if not (disturbed.folder / "result.json").exists():
        assert_stopped(outcome, disturbed)
    disturbed.finish()


# Out of space


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (system_calls.fill_disk, errno.ENOSPC),
        (system_calls.make_read_only, errno.EROFS),
        (system_calls.limit_files, errno.EFBIG),
    ],
)
def test_a_full_or_read_only_disk_ends_it_in_one_line(disturbed: Round, handler: Any, code: int):
    disturbed.kill_within(0.5)
    outcome = disturbed.start(partial(handle, partial(handler, disturbed.draw(CALLS))))
    if outcome.status != 0:  # it was not too late
        assert outcome.status == 1, outcome
        assert re.fullmatch(f"error: .*{os.strerror(code)}.*\n", outcome.errors), outcome
    _ = disturbed.saved  # every checkpoint can be read
    disturbed.finish()


# Broken numbers


def break_reward(update: int, value: float) -> None:
    def spoil(original: Any, *args: Any) -> Any:
        obs, reward, *rest = original(*args)
        return obs, np.where(np.arange(len(reward)) == 0, value, reward), *rest

    at_call(GlimpseVectorEnv, "step", STEPS * update + 2, spoil)


def break_loss(update: int, value: float) -> None:
    calls = itertools.count()

    def spoil(loss: Callable[..., Any], *args: Any) -> Any:
        result, is_now = loss(*args), next(calls) == update
        return tree_map(lambda term: term + value, result) if is_now else result

    for name, estimator in list(ESTIMATORS.items()):
        ESTIMATORS[name] = dataclasses.replace(estimator, loss=partial(spoil, estimator.loss))


def break_weights(update: int, value: float) -> None:
    def spoil(original: Any, optimizer: torch.optim.Optimizer) -> None:
        original(optimizer)
        optimizer.param_groups[0]["params"][0].data.view(-1)[-1] = value

    at_call(torch.optim.AdamW, "step", update + 1, spoil)


@pytest.mark.parametrize("broken", [break_reward, break_loss, break_weights])
def test_a_broken_number_ends_it_at_that_update(agent: Round, broken: Any):
    value, update = [math.nan, math.inf, -math.inf][agent.draw(3) - 1], agent.draw(5)
    outcome = agent.start(partial(broken, update, value))
    assert outcome.status == DIVERGED, outcome
    assert re.fullmatch(rf"error: .*\bupdate {update}\b.*\n", outcome.errors), outcome
    assert agent.saved <= update
    for path in agent.folder.rglob("*.*"):
        if path.suffix == ".safetensors":
            assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path
        elif path.suffix in (".json", ".csv"):
            assert not re.search(r"\b(nan|inf|infinity)\b", path.read_text(), re.IGNORECASE), path
    agent.finish()


# What these tests notice


def skip(original: Any, *args: Any) -> None:
    pass


def test_faults_strike_up_to_the_last_calls_and_no_later(tmp_path: Path):
    for number, status in ((9 * CALLS // 10, -signal.SIGKILL), (11 * CALLS // 10, 0)):
        kill = partial(system_calls.send, number, signal.SIGKILL, False)
        outcome = start("agent", tmp_path / str(number), partial(handle, kill))
        assert outcome.status == status


def test_a_resume_that_forgets_the_optimiser_is_noticed(tmp_path: Path):
    stopped = partial(at_call, GlimpseVectorEnv, "step", 20, partial(send, signal.SIGTERM))
    assert start("agent", tmp_path / "run", stopped).status == 128 + signal.SIGTERM
    fault = partial(at_call, torch.optim.Optimizer, "load_state_dict", 1, skip)
    assert start("agent", tmp_path / "run", fault).status == 0
    with pytest.raises(AssertionError):
        assert_same_end(tmp_path / "run", "agent")
