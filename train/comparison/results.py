"""What a finished run leaves for good: a small folder a seed, from which reports are made.

``<results>/<env_id>/<algorithm>/seed_<n>/`` holds ``config.json`` (of the run: settings, command,
commit, machine, parameters), ``metrics.csv`` (validation at the marks) and ``result.json``;
``<results>/<env_id>/<algorithm>/trials.csv`` its tuning.

Dimension key:
    k: marks at which a run was validated
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.runs.files import make_folder, read_file, read_json, to_json, write_whole

STATUSES = ("finished", "diverged")
BEHAVIOUR = (
    *("eval/most_named", "eval/centre_coverage", "eval/location_spread"),
    *("train/explained_variance",),
)
"""Metrics that tell how an algorithm fails: :func:`agents.diagnostics.behaviour`, and the value."""
_MAX_CSV = 2**20  # [B]


class Curve(NamedTuple):
    """Validation on the way, each (k,), float64.

    Attributes:
        env_steps: So far, of all lanes together.
        cpu_seconds: So far, of training alone, at one thread [s].
        error: Looking where the policy's mean says and naming the likeliest label [%].
        error_sampled: Sampling both, or the location where the label is no action [%].
    """

    env_steps: np.ndarray
    cpu_seconds: np.ndarray
    error: np.ndarray
    error_sampled: np.ndarray


@dataclass(frozen=True)
class Result:
    """What one seed of an algorithm came to.

    Attributes:
        status: ``"finished"``, or ``"diverged"``: its numbers were no numbers any more. It then
            counts as guessing.
        error: Of the last weights on the final split, each image once [%].
        wrong: Images named wrongly there; None if it diverged.
        total: Images of the final split; None if it diverged.
        split: The final split.
        env_steps: Of the run until its last mark, of all lanes together.
        cpu_seconds: Of the whole process, start and validation included [s].
        reason: Why it diverged, or nothing.
        last: Last values of the metrics of :data:`BEHAVIOUR`, of those that the program logs.
    """

    status: str
    error: float
    wrong: int | None
    total: int | None
    split: str
    env_steps: int
    cpu_seconds: float
    reason: str = ""
    last: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Seed:
    """A seed's folder, read.

    Attributes:
        algorithm: Its name.
        number: The seed.
        config: What ``config.json`` holds.
        curve: See :class:`Curve`.
        result: See :class:`Result`.
    """

    algorithm: str
    number: int
    config: dict[str, Any]
    curve: Curve
    result: Result


@dataclass(frozen=True)
class Trial:
    """One configuration of an algorithm's tuning.

    Attributes:
        number: 0 for the program's defaults, then the sampler's.
        settings: By flag; empty for the defaults.
        error: Validation error at its end [%].
        status: As of :class:`Result`.
        called_as: The command, without the machine's folders.
    """

    number: int
    settings: dict[str, Any]
    error: float
    status: str
    called_as: str


def seed_folder(results: Path, env_id: str, algorithm: str, seed: int) -> Path:
    """Return where a seed's results lie."""
    return results / env_id / algorithm / f"seed_{seed}"


def trials_path(results: Path, env_id: str, algorithm: str) -> Path:
    """Return where an algorithm's trials lie."""
    return results / env_id / algorithm / "trials.csv"


def write_seed(folder: Path, config: dict[str, Any], curve: Curve, result: Result) -> None:
    """Write a seed's folder; the result last, so that what has one is complete."""
    make_folder(folder)
    rows = [Curve._fields, *zip(*(column.tolist() for column in curve), strict=True)]
    write_whole(folder / "config.json", to_json(config))
    write_whole(folder / "metrics.csv", _to_csv(rows))
    write_whole(folder / "result.json", to_json(asdict(result)))


def read_seed(folder: Path) -> Seed:
    """Read a seed's folder.

    Raises:
        ValueError: If a file is missing or damaged; the message names it.
    """
    try:
        result = Result(**read_json(folder / "result.json"))
        rows = _read_csv(folder / "metrics.csv")
        columns = [np.array([float(row[name]) for row in rows]) for name in Curve._fields]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no result of a comparison: {error}") from error
    if result.status not in STATUSES:
        raise ValueError(f"{folder / 'result.json'}: status must be one of {STATUSES}")
    number = int(folder.name.removeprefix("seed_"))
    config = read_json(folder / "config.json")
    return Seed(folder.parent.name, number, config, Curve(*columns), result)


def read_seeds(results: Path, env_id: str) -> list[Seed]:
    """Read all finished seeds on an environment, by algorithm and number."""
    folders = [
        path.parent
        for path in sorted((results / env_id).glob("*/seed_*/result.json"))
        if re.fullmatch(r"seed_\d+", path.parent.name)
    ]
    seeds = [read_seed(folder) for folder in folders]
    return sorted(seeds, key=lambda seed: (seed.algorithm, seed.number))


def write_trials(path: Path, trials: list[Trial]) -> None:
    """Write an algorithm's trials, ``trials.csv``."""
    make_folder(path.parent)
    flags = list(dict.fromkeys(flag for trial in trials for flag in trial.settings))
    rows = [
        [t.number, t.status, t.error, *(t.settings.get(f, "") for f in flags), t.called_as]
        for t in sorted(trials, key=lambda trial: trial.number)
    ]
    write_whole(path, _to_csv([["trial", "status", "error", *flags, "called_as"], *rows]))


def read_trials(path: Path) -> list[Trial]:
    """Read an algorithm's trials; none if the file isn't there.

    Raises:
        ValueError: If it is damaged; the message names it.
    """
    if not path.exists():
        return []
    try:
        return [
            Trial(
                int(row.pop("trial")),
                {flag: _number(text) for flag, text in row.items() if flag not in _OWN and text},
                float(row["error"]),
                row["status"],
                row["called_as"],
            )
            for row in _read_csv(path)
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no trials: {error}") from error


def best_trial(trials: list[Trial]) -> Trial | None:
    """Return the trial with the lowest validation error, the first of several, or None.

    One that diverged is only returned where all have.
    """
    return min(trials, key=lambda t: (t.status == "diverged", t.error, t.number), default=None)


_OWN = ("trial", "status", "error", "called_as")


def _number(text: str) -> Any:
    """Return a setting as it was: a whole number, a number or a word."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _to_csv(rows: list[Any]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        return list(csv.DictReader(io.StringIO(read_file(path, _MAX_CSV).decode())))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
