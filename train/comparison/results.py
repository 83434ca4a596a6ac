"""What runs leave for good: a small folder per seed, from which the reports are made.

``<results>/<task>/<algorithm>/seed_<n>/`` holds ``config.json`` (settings, command, commit,
machine, parameters), ``metrics.csv`` (validation at the marks) and ``result.json``;
``<results>/<task>/<algorithm>/trials.csv`` holds the algorithm's tuning,
``retries.csv`` and ``finals.csv`` its trials at the whole budget.

Dimension key:
    k: marks at which a run was validated
"""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from msgspec import Meta, Struct, structs

from agents.runs.commands import DIVERGED
from agents.runs.files import convert, make_folder, read_csv, read_json, to_json, write_whole
from agents.runs.records import portable
from train.comparison.jobs import Ended
from train.comparison.protocol import ComparedTask, Positive

PHASES = {"trials": "trial", "retries": "retry", "finals": "final"}
"""Phases of an algorithm's tuning, each a CSV file, and what a run in one is called."""
BEHAVIOUR = {
    "eval/most_named": "commonest answer [%]",
    "eval/centre_coverage": "on the object's middle [%]",
    "eval/location_spread": "spread of locations",
    "train/explained_variance": "value explained",
}
"""Metrics that show how a policy fails (:func:`agents.diagnostics.behaviour`), and their titles."""

Percentage = Annotated[float, Meta(ge=0, le=100)]
NotNegative = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
Count = Annotated[int, Meta(ge=0)]
Status = Literal["finished", "diverged"]


class Curve(NamedTuple):
    """Validation during training, each (k,), float64.

    Attributes:
        env_steps: Env steps so far, over all lanes.
        cpu_seconds: CPU time of training so far, at one thread [s].
        error: Error of the policy's mean location and likeliest label [%].
        error_sampled: Error with sampled locations and, if labels are actions, sampled labels [%].
        behaviour: Newest metrics of :data:`BEHAVIOUR` by tag, NaN before the first.
    """

    env_steps: np.ndarray
    cpu_seconds: np.ndarray
    error: np.ndarray
    error_sampled: np.ndarray
    behaviour: dict[str, np.ndarray] = {}  # noqa: RUF012 - never changed


class Result(Struct, frozen=True, forbid_unknown_fields=True):
    """The outcome of one seed of an algorithm.

    Attributes:
        status: ``"diverged"`` if a loss or weight became non-finite: it counts as guessing.
        error: Error of the stored weights on the final split, each image once [%].
        wrong: Misclassified images of the final split; None if it diverged.
        total: Images of the final split; None if it diverged.
        split: The final split.
        env_steps: Env steps until the last mark, over all lanes.
        cpu_seconds: CPU time since the run last started over, validation included [s].
        reason: Why it diverged, or nothing.
        last: Last values of the metrics of :data:`BEHAVIOUR` that the program logs.
    """

    status: Status
    error: Percentage
    wrong: Count | None
    total: Positive | None
    split: str
    env_steps: Count
    cpu_seconds: NotNegative
    reason: str = ""
    last: dict[str, float] = {}

    def __post_init__(self) -> None:
        if self.status == "diverged":
            return
        if self.wrong is None or self.total is None or self.wrong > self.total:
            raise ValueError(f"wrong must be a part of total, got {self.wrong} of {self.total}")
        if not math.isclose(self.error, 100 * self.wrong / self.total, abs_tol=1e-9):
            raise ValueError(f"error is {self.error} %, but {self.wrong} of {self.total} are wrong")


class Seed(NamedTuple):
    """A seed of an algorithm; ``config`` is the content of its ``config.json``."""

    algorithm: str
    number: int
    config: dict[str, Any]
    curve: Curve
    result: Result


class Trial(Struct, frozen=True, rename={"number": "trial"}):
    """Settings by flag that a tuning has tried, and the validation error at their end [%].

    Number 0 is the program's defaults, without settings. ``called_as`` is the command, as
    the protocol writes it today.
    """

    number: Count
    settings: dict[str, int | float | str]
    error: Percentage
    status: Status
    called_as: str = ""


class _Config(Struct):
    """The part of a run's ``config.json`` that reports use."""

    parameters: Count | None = None
    commit: str | None = None
    machine: str | None = None
    python: str | None = None
    versions: dict[str, str] | None = None
    started: str | None = None
    command: str = ""
    called_as: str = ""
    sample: bool = False
    config: dict[str, Any] = {}
    data: str = ""

    def __post_init__(self) -> None:
        if self.sample:
            raise ValueError("the run was trained on the sample of digits, so it is not kept")
        try:
            datetime.fromisoformat(self.started or "2026-01-31")
        except ValueError as error:
            raise ValueError(f"started must be ISO 8601, got {self.started!r}") from error


class _Time(Struct):
    """A line of a run's ``timing.csv``."""

    env_steps: NotNegative
    cpu_seconds: NotNegative


class _Mark(_Time):
    """A line of a seed's ``metrics.csv``."""

    error: Percentage
    error_sampled: Percentage


class _Metric(Struct):
    """A line of a run's ``metrics.csv``."""

    env_steps: NotNegative
    tag: str
    value: float

    def __post_init__(self) -> None:
        if self.tag in ("eval/error", "eval/error_sampled") and not 0 <= self.value <= 100:
            raise ValueError(f"{self.tag} must be from 0 to 100, got {self.value}")


class _End(Struct):
    """A run's ``result.json``."""

    split: str
    wrong: Count
    total: Positive

    def __post_init__(self) -> None:
        if self.wrong > self.total:
            raise ValueError(f"wrong must be at most total={self.total}, got {self.wrong}")


def harvest(ended: Ended, algorithm: str, number: int, split: str, chance_error: float) -> Seed:
    """Return what a program has left in its run folder; one that diverged counts as guessing.

    Raises:
        ValueError: If it failed, something is missing or damaged, it was evaluated on another
            split, or the data was the sample of digits; the message names the file.
    """
    if ended.status not in (0, DIVERGED):
        raise ValueError(f"{ended.how}: see {ended.job.output}")
    folder = ended.job.folder
    config = {**portable(_read_config(folder), folder), "called_as": ended.job.called_as}
    curve, last = _read_run(folder)
    steps = int(max(curve.env_steps, default=0))
    if ended.status == DIVERGED:
        reason = ended.last_words.removeprefix("error: ")
        outcome = ("diverged", chance_error, None, None)
    else:
        end, reason = read_json(folder / "result.json", _End), ""
        if end.split != split:
            raise ValueError(f"{folder / 'result.json'}: split must be {split}, got {end.split!r}")
        outcome = ("finished", 100 * end.wrong / end.total, end.wrong, end.total)
    result = Result(*outcome, split, steps, ended.cpu_seconds, reason, last)
    _check_marks(folder / "metrics.csv", curve, result)
    return Seed(algorithm, number, config, curve, result)


def trials_path(results: Path, task: str, algorithm: str, phase: str = "trials") -> Path:
    """Return the file of a phase of an algorithm's tuning."""
    return results / task / algorithm / f"{phase}.csv"


def write_seed(folder: Path, seed: Seed) -> None:
    """Write a seed's folder; the result goes last, so that a folder that has one is complete."""
    make_folder(folder)
    *columns, behaviour = seed.curve
    rows = zip(*(column.tolist() for column in [*columns, *behaviour.values()]), strict=True)
    write_whole(folder / "config.json", to_json(seed.config))
    write_whole(folder / "metrics.csv", to_csv([[*_Mark.__struct_fields__, *behaviour], *rows]))
    write_whole(folder / "result.json", to_json(structs.asdict(seed.result)))


def read_seed(folder: Path) -> Seed:
    """Read a seed's folder; raise ValueError with the file's name if it is damaged."""
    result = read_json(folder / "result.json", Result)
    marks = [structs.astuple(mark) for mark in read_csv(folder / "metrics.csv", _Mark)]
    columns = np.array(marks, dtype=float).reshape(-1, len(_Mark.__struct_fields__)).T
    rows = read_csv(folder / "metrics.csv", dict[str, float])
    header = list(rows[0]) if rows else []
    if unknown := set(header) - {*_Mark.__struct_fields__, *BEHAVIOUR}:
        raise ValueError(f"{folder / 'metrics.csv'} has unknown columns {sorted(unknown)}")
    tags = [tag for tag in BEHAVIOUR if tag in header]
    curve = Curve(*columns, behaviour={tag: np.array([row[tag] for row in rows]) for tag in tags})
    _check_marks(folder / "metrics.csv", curve, result)
    number = int(folder.name.removeprefix("seed_"))
    return Seed(folder.parent.name, number, _read_config(folder), curve, result)


def read_seeds(results: Path, task: str) -> list[Seed]:
    """Read all seeds on a task, sorted; a damaged one or a copy is a ValueError."""
    folders = [path.parent for path in (results / task).glob("*/seed_*/result.json")]
    named = [each for each in folders if re.fullmatch(r"seed_(0|[1-9]\d*)", each.name)]
    seeds = sorted(map(read_seed, named), key=lambda seed: seed[:2])
    known: dict[tuple[str, str], Seed] = {}
    for seed in seeds:
        called_as = seed.config.get("called_as") or f"seed {seed.number}"
        first = known.setdefault((seed.algorithm, called_as), seed)
        if first is not seed:
            folder = results / task / seed.algorithm / f"seed_{seed.number}"
            raise ValueError(f"{folder} is a copy of seed_{first.number}: move it away")
    return seeds


def write_trials(path: Path, trials: list[Trial]) -> None:
    """Write an algorithm's trials, by number."""
    make_folder(path.parent)
    flags = dict.fromkeys(flag for trial in trials for flag in trial.settings)
    rows = [
        [t.number, t.status, t.error, *(t.settings.get(f, "") for f in flags), t.called_as]
        for t in sorted(trials, key=lambda trial: trial.number)
    ]
    write_whole(path, to_csv([["trial", "status", "error", *flags, "called_as"], *rows]))


def read_trials(path: Path) -> list[Trial]:
    """Read an algorithm's trials, none without the file; raise ValueError if it is damaged."""
    trials = []
    for number, row in enumerate(read_csv(path) if path.exists() else ()):
        own = {name: row.pop(name, None) for name in ("trial", "status", "error", "called_as")}
        own["settings"] = {flag: _number_or_text(text) for flag, text in row.items() if text}
        try:
            trials.append(convert(own, Trial, strict=False))
        except ValueError as error:
            raise ValueError(f"{path}, trial {number}: {error}") from error
    return trials


def best_trials(trials: Iterable[Trial]) -> list[Trial]:
    """Return trials by error, ties by number; those that diverged come last."""
    return sorted(trials, key=lambda t: (t.status == "diverged", t.error, t.number))


def tuning_phases(
    task: ComparedTask, read: Callable[[str], Iterable[Trial]]
) -> Iterator[tuple[str, Sequence[int], dict[int, Trial]]]:
    """Yield a tuning's phases up to the first that lacks trials, each as far as it is.

    All trials are run at a third of the budget; if none is good enough, again at the whole; then
    the best once more with another seed. The last phase's best trial is chosen.

    Args:
        task: The task of the tuning.
        read: Returns the stored trials of a phase.

    Yields:
        The phase, the numbers of its trials, and those that have ended, by number.
    """
    best: list[Trial] = []
    for phase in PHASES:
        numbers: Sequence[int] = range(task.trials + 1)  # 0: the defaults
        if phase == "retries" and best[0].error < task.retry_above:
            continue
        if phase == "finals" and not (numbers := sorted(t.number for t in best[: task.finalists])):
            continue
        ended = {trial.number: trial for trial in read(phase) if trial.number in numbers}
        yield phase, numbers, ended
        if len(ended) < len(numbers):
            return
        best = best_trials(ended.values())


def to_csv(rows: Iterable[Iterable[Any]]) -> bytes:
    """Return rows as CSV files hold them."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def _number_or_text(text: str) -> int | float | str:
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text


def _read_config(folder: Path) -> dict[str, Any]:
    read_json(folder / "config.json", _Config)  # checks it
    return read_json(folder / "config.json")


def _check_marks(path: Path, curve: Curve, result: Result) -> None:
    """Refuse a curve that is not that of a whole run."""
    steps, last = curve.env_steps.tolist(), result.env_steps
    if result.status == "finished" and not steps:
        raise ValueError(f"{path} must have a mark with eval/error, got none")
    if (np.diff(steps) <= 0).any() or last != max(steps, default=0):
        raise ValueError(f"{path}: env_steps must rise to the result's {last}, got {steps}")


def _newest(values: dict[float, float], mark: float) -> float:
    """Return the value by env steps that is the newest at a mark, or NaN."""
    return values[max(past)] if (past := [steps for steps in values if steps <= mark]) else math.nan


def _read_run(folder: Path) -> tuple[Curve, dict[str, float]]:
    """Return a run's validation at the marks, and its last metrics of behaviour."""
    values: dict[str, dict[float, float]] = {}  # by tag and env steps
    for metric in read_csv(folder / "metrics.csv", _Metric):
        if math.isfinite(metric.value):  # explained variance is NaN where all returns are equal
            values.setdefault(metric.tag, {})[metric.env_steps] = metric.value
    error, sampled = (values.get(f"eval/{name}", {}) for name in ("error", "error_sampled"))
    marks = sorted(error)
    if missing := [mark for mark in marks if mark not in sampled]:
        raise ValueError(f"{folder / 'metrics.csv'} has no eval/error_sampled at {missing}")
    timed = [(0.0, 0.0), *map(structs.astuple, read_csv(folder / "timing.csv", _Time))]
    cpu_seconds = np.interp(marks, *np.transpose(timed))  # linear between two lines
    columns = (marks, cpu_seconds, [error[m] for m in marks], [sampled[m] for m in marks])
    known = {tag: values[tag] for tag in BEHAVIOUR if tag in values}
    behaviour = {
        tag: np.array([_newest(each, mark) for mark in marks]) for tag, each in known.items()
    }
    last = {tag: [*each.values()][-1] for tag, each in known.items()}
    return Curve(*(np.array(column, dtype=float) for column in columns), behaviour=behaviour), last
