"""Campaigns about runs that cannot go on: no room on the disk, numbers that are none."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from agents.commands import DIVERGED
from benchmarks.campaigns.runs.process_faults import (
    Fault,
    arm,
    fill_disk,
    kill,
    limit_files,
    make_read_only,
    spoil_gradient,
    spoil_loss,
    spoil_reward,
    spoil_weights,
)
from benchmarks.campaigns.runs.processes import Outcome
from benchmarks.campaigns.runs.run_ends import check_checkpoints, find_broken_number, newest
from benchmarks.campaigns.runs.runs import SAVES, UPDATES, VALIDATIONS, VARIANTS, Run, undisturbed

_UPDATE = "agents.training.Training.move_mean"  # once an update
_SAVE = "agents.run_log.RunLog.save_checkpoint"
_START = "agents.commands.run"


# Disks


def full_disks(rounds: int, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Let the disk be full or read-only, from the start, on the way or at a resume.

    The run must stop with one plain line and leave its last checkpoint as it was; once there
    is room again it must go on.

    Args:
        rounds: Cases to run.
        folder: Scratch directory.

    Yields:
        A case's name, and None or what went wrong.
    """
    variants = list(VARIANTS)
    for number in range(rounds):
        rng = np.random.default_rng(number)
        when = _WHEN[number % len(_WHEN)]
        variant = variants[number % len(variants)]
        name = when.__name__.strip("_").replace("_", " ")
        problem = when(Run(variant, folder / f"full {number}"), rng)
        yield f"{number}: {variant}, {name}", problem


def _full_from_the_start(run: Run, rng: np.random.Generator) -> str | None:
    outcome = run.go([Fault(_START, 1, partial(limit_files, _small(run, rng)))])
    return _refused(run, outcome, 0, errno.EFBIG) or run.finish()


def _full_on_the_way(run: Run, rng: np.random.Generator) -> str | None:
    update = int(rng.integers(1, UPDATES + 1))
    outcome = run.go([Fault(_UPDATE, update, partial(limit_files, _small(run, rng)))])
    return _refused(run, outcome, _last_save(update - 1), errno.EFBIG) or run.finish()


def _full_while_saving(run: Run, rng: np.random.Generator) -> str | None:
    save = int(rng.integers(len(SAVES)))
    there = Fault("os.write", int(rng.integers(1, 8)), fill_disk)
    outcome = run.go([Fault(_SAVE, save + 1, partial(arm, there))])
    return _refused(run, outcome, (0, *SAVES)[save], errno.ENOSPC) or run.finish()


def _full_when_resumed(run: Run, rng: np.random.Generator) -> str | None:
    update = int(rng.integers(1, UPDATES + 1))
    run.go([Fault(_UPDATE, update, kill)])
    outcome = run.go([Fault(_START, 1, partial(limit_files, _small(run, rng)))])
    return _refused(run, outcome, _last_save(update - 1), errno.EFBIG) or run.finish()


def _read_only_on_the_way(run: Run, rng: np.random.Generator) -> str | None:
    update = int(rng.integers(1, UPDATES + 1))
    outcome = run.go([Fault(_UPDATE, update, make_read_only)])
    return _refused(run, outcome, _last_save(update - 1), errno.EROFS) or run.finish()


def _read_only_when_resumed(run: Run, rng: np.random.Generator) -> str | None:
    update = int(rng.integers(1, UPDATES + 1))
    run.go([Fault(_UPDATE, update, kill)])
    before = _contents(run.folder)
    outcome = run.go([Fault(_START, 1, make_read_only)])
    if _contents(run.folder) != before:
        return "something was changed all the same"
    return _refused(run, outcome, _last_save(update - 1), errno.EROFS) or run.finish()


_WHEN = (
    _full_from_the_start,
    _full_on_the_way,
    _read_only_on_the_way,
    _full_while_saving,
    _read_only_when_resumed,
    _full_when_resumed,
)


def _small(run: Run, rng: np.random.Generator) -> int:
    """Draw a size [B] that some file of a checkpoint exceeds."""
    largest = max(len(content) for content in undisturbed(run.variant)[0].files.values())
    return int(math.exp(rng.uniform(0, math.log(largest))))


def _last_save(update: int) -> int:
    """Return the update of the last checkpoint when ``update`` updates have been done."""
    return max((save for save in SAVES if save <= update), default=0)


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _refused(run: Run, outcome: Outcome, saved: int, number: int) -> str | None:
    """Say what is wrong with how a run ended that could not write."""
    reason = os.strerror(number)
    return _ended(outcome, reason) or _left(run, saved)


def _ended(outcome: Outcome, reason: str, status: int = 1) -> str | None:
    if outcome.status != status:
        return f"the exit status should be {status}: {outcome.told}"
    lines = outcome.errors.splitlines()
    if len(lines) != 1 or not lines[0].startswith("error: ") or reason not in lines[0]:
        return f"stderr should hold one line with {reason!r}: {outcome.errors[:500]!r}"
    return None


def _left(run: Run, saved: int) -> str | None:
    if newest(run.folder) != saved:
        return f"the newest checkpoint is of update {newest(run.folder)}, not {saved}"
    return check_checkpoints(run.folder)


# Numbers


def broken_numbers(rounds: int, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Put NaN or infinity into a reward, a loss, a gradient or a weight.

    The run must stop at that update and name what is broken, and nothing of it may be stored.

    Args:
        rounds: Cases to run.
        folder: Scratch directory.

    Yields:
        A case's name, and None or what went wrong.
    """
    values = (math.nan, math.inf, -math.inf)
    others = [variant for variant in VARIANTS if variant not in ("agent", "conv")]
    for number in range(rounds):
        rng = np.random.default_rng(number)
        variant, what, make, reason = _BROKEN[number % len(_BROKEN)]
        turn = number // len(_BROKEN)
        if turn and variant == "agent" and "policy" not in what:  # a control has none
            variant = others[(turn + number) % len(others)]
        value = values[number % len(values)]
        update = int(rng.choice([u for u in range(1, UPDATES) if u not in VALIDATIONS]))
        run = Run(variant, folder / f"broken {number}")
        outcome = run.go([make(update, value, rng)])
        problem = (
            _ended(outcome, f"update {update}: ", DIVERGED)
            or _ended(outcome, reason, DIVERGED)
            or _left(run, _last_save(update))
            or find_broken_number(run.folder)
            or run.finish()
        )
        yield f"{number}: {variant}, {value} in the {what} of update {update}", problem


_Make = Callable[[int, float, np.random.Generator], Fault]


def _reward(update: int, value: float, rng: np.random.Generator) -> Fault:
    step = int(rng.integers(1, 5))
    there = Fault("ram_env.GlimpseVectorEnv.step", step, partial(spoil_reward, value))
    return Fault(_UPDATE, update, partial(arm, there))  # after the update before


def _loss(function: str) -> _Make:
    def make(update: int, value: float, rng: np.random.Generator) -> Fault:
        return Fault(function, update + 1, partial(spoil_loss, value))

    return make


def _gradient(update: int, value: float, rng: np.random.Generator) -> Fault:
    act = partial(spoil_gradient, value, int(rng.integers(4)))
    return Fault("torch.optim.Optimizer.zero_grad", update + 1, act)


def _weights(update: int, value: float, rng: np.random.Generator) -> Fault:
    return Fault(
        "torch.optim.Adam.step", update + 1, partial(spoil_weights, value, int(rng.integers(99)))
    )


_BROKEN: list[tuple[str, str, _Make, str]] = [  # variant, what, how, and what must be said
    ("agent", "reward", _reward, "reward"),
    ("agent", "classifier's loss", _loss("agents.estimators.cross_entropy"), "classifier loss"),
    ("agent", "gradient", _gradient, "the gradient is not finite in ["),
    ("agent", "weights", _weights, " not finite"),
    ("agent", "policy's loss", _loss("agents.estimators.reinforce_loss"), "policy loss"),
    ("conv", "loss", _loss("torch.nn.functional.cross_entropy"), "loss"),
    ("conv", "gradient", _gradient, "gradient"),
    ("conv", "weights", _weights, " not finite"),
]
