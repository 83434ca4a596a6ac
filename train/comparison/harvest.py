"""What a comparison reads of a run folder: the files that a program must leave in it.

``python train/compare.py --help`` describes them.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from msgspec import Struct, structs

from agents.runs.commands import DIVERGED
from agents.runs.files import read_csv, read_json
from agents.runs.records import portable
from train.comparison.jobs import Ended
from train.comparison.protocol import Positive
from train.comparison.results import BEHAVIOUR, Count, Curve, NotNegative, Result, Seed


class _Time(Struct):
    """A line of a run's ``timing.csv``."""

    env_steps: NotNegative
    cpu_seconds: NotNegative


class _Metric(Struct):
    """A line of a run's ``metrics.csv``."""

    env_steps: NotNegative
    tag: str
    value: float


class _End(Struct):
    """A run's ``result.json``."""

    split: str
    wrong: Count
    total: Positive


def harvest(ended: Ended, algorithm: str, number: int, split: str, chance_error: float) -> Seed:
    """Return what a program has left in its run folder; one that diverged counts as guessing.

    Raises:
        ValueError: If it failed, something is missing or damaged, it was evaluated on another
            split, or the data was the sample of digits; the message names the folder.
    """
    if ended.status not in (0, DIVERGED):
        raise ValueError(f"{ended.how}: see {ended.job.beside('txt')}")
    folder = ended.job.folder
    config = read_json(folder / "config.json")
    try:
        if config.get("sample"):
            raise ValueError("the run was trained on the sample of digits, so it is not kept")
        config = {**portable(config, folder), "called_as": ended.job.called_as}
        curve, last = _read_run(folder)
        steps, reason = int(max(curve.env_steps, default=0)), ""
        if ended.status == DIVERGED:
            reason = ended.last_words.removeprefix("error: ")
            outcome = ("diverged", chance_error, None, None)
        else:
            end = read_json(folder / "result.json", _End)
            if end.split != split:
                raise ValueError(f"the split of result.json must be {split}, got {end.split!r}")
            outcome = ("finished", 100 * end.wrong / end.total, end.wrong, end.total)
        result = Result(*outcome, split, steps, ended.cpu_seconds, reason, last)
        return Seed(algorithm, number, result, curve, config)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _read_run(folder: Path) -> tuple[Curve, dict[str, float]]:
    """Return a run's validation at the marks, and its last metrics of behaviour."""
    values: dict[str, dict[float, float]] = {}  # by tag and env steps
    for metric in read_csv(folder / "metrics.csv", _Metric):
        if math.isfinite(metric.value):  # explained variance is NaN where all returns are equal
            values.setdefault(metric.tag, {})[metric.env_steps] = metric.value
    error, sampled = (values.get(f"eval/{name}", {}) for name in ("error", "error_sampled"))
    marks = sorted(error)
    if missing := [mark for mark in marks if mark not in sampled]:
        raise ValueError(f"metrics.csv has no eval/error_sampled at {missing}")
    timed = [(0.0, 0.0), *map(structs.astuple, read_csv(folder / "timing.csv", _Time))]
    cpu_seconds = np.interp(marks, *np.transpose(timed))  # linear between two lines
    columns = (marks, cpu_seconds, [error[m] for m in marks], [sampled[m] for m in marks])
    known = {tag: values[tag] for tag in BEHAVIOUR if tag in values}
    behaviour = {
        tag: np.array([_newest(each, mark) for mark in marks]) for tag, each in known.items()
    }
    last = {tag: [*each.values()][-1] for tag, each in known.items()}
    return Curve(*np.array(columns, dtype=float), behaviour=behaviour), last


def _newest(values: dict[float, float], mark: float) -> float:
    """Return the value by env steps that is the newest at a mark, or NaN."""
    return values[max(past)] if (past := [steps for steps in values if steps <= mark]) else math.nan
