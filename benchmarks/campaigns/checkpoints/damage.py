"""A campaign that damages checkpoints: an older one must be used, or the run refused, in words."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.campaigns.checkpoints.checkpoint_damage import PASSED_OVER, Fault, Target
from benchmarks.campaigns.checkpoints.checkpoint_mixups import REFUSED
from benchmarks.campaigns.checkpoints.small_runs import (
    STEPS,
    Resumed,
    checkpoint_path,
    make_run,
    resume,
    same,
    valid_checkpoints,
)

_GO_ON = 4  # steps that a run goes on for: more than checkpoints are kept


def damaged_checkpoints(rounds: int, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Damage checkpoints of a small run and go on with it.

    Damage that a checkpoint itself shows is warned of by name, and the newest one without is
    used, to the bit; the run then goes on and saves. Where none is left, and where a sound
    checkpoint is of something else, the run is refused.

    Args:
        rounds: Cases to run.
        folder: Scratch directory.

    Yields:
        A case's name, and None or what went wrong.
    """
    whole, other = folder / "whole", folder / "other"
    make_run(whole)
    make_run(other, seed=1)
    kinds = [(fault, _judge_passed_over) for fault in PASSED_OVER]
    kinds += [(fault, _judge_refused) for fault in REFUSED]
    for number in range(rounds):
        turn, which = divmod(number, len(kinds))
        fault, judge = kinds[which]
        here = folder / "here"
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(whole, here)
        rng = np.random.default_rng(number)
        all_of_them = turn % 2 and judge is _judge_passed_over and not fault.also
        steps = STEPS[::-1] if all_of_them else STEPS[-1:]
        name = f"{number}: {fault.name}, in {'all' if len(steps) > 1 else 'the newest'}"
        try:
            for step in steps:
                before = checkpoint_path(here, STEPS[STEPS.index(step) - 1])
                path = checkpoint_path(here, step)
                fault.damage(Target(path, before, checkpoint_path(other, step), rng))
            problem = judge(fault, whole, here, {*steps, *(STEPS[-2:] if fault.also else ())})
        except Exception as error:
            problem = f"the run could not go on: {error!r}"
        yield name, problem


def _judge_passed_over(fault: Fault, whole: Path, here: Path, bad: set[int]) -> str | None:
    """Say what is wrong with a run, some of whose checkpoints show that they are damaged."""
    resumed = resume(here, then=_GO_ON)
    warnings = [line for line in resumed.lines if line.startswith("warning: ")]
    expected = len(bad) if fault.said else 0
    if len(warnings) != expected or not all(re.search(fault.said, line) for line in warnings):
        return f"there should be {expected} warnings of {fault.said!r}: {resumed}"
    if not all("checkpoints/step_" in line and "passed over" in line for line in warnings):
        return f"no warning may be without a name: {warnings}"
    left = max(set(STEPS) - bad, default=0)
    if fault.said and not left:
        return _judge_error(resumed, "checkpoints holds none that can be used: start a new run")
    return _judge_going_on(resumed, whole, here, left)


def _judge_going_on(resumed: Resumed, whole: Path, here: Path, left: int) -> str | None:
    """Say what is wrong with a run that goes on from step ``left``, 0 for the start."""
    if resumed.error is not None:
        return f"it should go on: {resumed}"
    if left:
        expected = valid_checkpoints(whole / "checkpoints")[left]
        if resumed.checkpoint is None or not same(resumed.checkpoint, expected):
            return f"checkpoint {left} was not used as it is: {resumed}"
    elif resumed.checkpoint is not None or "starting over" not in resumed.lines[0]:
        return f"it should say that it starts over: {resumed}"
    now = set(valid_checkpoints(here / "checkpoints"))
    if now != {left + _GO_ON - 2, left + _GO_ON - 1, left + _GO_ON}:
        return f"after going on there are the checkpoints {sorted(now)}"
    if odd := [path.name for path in (here / "checkpoints").glob(".*")]:
        return f"{odd[0]} was left over"
    return None


def _judge_refused(fault: Fault, whole: Path, here: Path, bad: set[int]) -> str | None:
    """Say what is wrong with a run whose newest checkpoint is sound, but of something else."""
    before = {path: path.read_bytes() for path in here.rglob("*.s*") if path.is_file()}
    resumed = resume(here)
    if before != {path: path.read_bytes() for path in here.rglob("*.s*") if path.is_file()}:
        return "a checkpoint was changed"
    return _judge_error(resumed, fault.said)


def _judge_error(resumed: Resumed, said: str) -> str | None:
    """Say what is wrong with how a run was refused."""
    if not isinstance(resumed.error, ValueError | OSError):
        return f"it was not refused as it should: {resumed}"
    if not re.search(said, str(resumed.error)):
        return f"the error does not say {said!r}: {resumed.error}"
    return None
