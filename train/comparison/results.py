"""What runs leave for good: a line of JSON per seed and per trial, which the reports are made of.

``<results>/<task>/seeds.jsonl`` holds the :class:`Seed` of every run that has ended, and
``trials.jsonl`` every :class:`Trial` of the task's tuning, each by algorithm and number.

Dimension key:
    k: marks at which a run was validated
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from msgspec import Meta, Struct, json, structs

from agents.runs.files import MAX_TEXT, make_folder, parse, read_file, write_whole
from train.comparison.protocol import Positive

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


class Curve(Struct, frozen=True, forbid_unknown_fields=True):
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
    behaviour: dict[str, np.ndarray] = {}


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
        if self.status == "finished":
            counts = f"{self.wrong} of {self.total} images are wrong"
            if self.wrong is None or self.total is None or self.wrong > self.total:
                raise ValueError(f"{counts}: wrong must be a part of total")
            if not math.isclose(self.error, 100 * self.wrong / self.total, abs_tol=1e-9):
                raise ValueError(f"error is {self.error} %, but {counts}")


class Seed(Struct, frozen=True, forbid_unknown_fields=True, rename={"number": "seed"}):
    """A seed of an algorithm: what it is, how it ended, how it learned, how it was run.

    ``config`` is the content of the run's ``config.json``, with the command as the protocol writes
    it under ``called_as``.
    """

    algorithm: str
    number: Count
    result: Result
    curve: Curve
    config: dict[str, Any]

    def __post_init__(self) -> None:
        """Refuse what no report can use: a curve that is not that of a whole run, for example."""
        *columns, behaviour = structs.astuple(self.curve)
        steps, seconds, *errors = columns
        if {each.shape for each in (*columns, *behaviour.values())} != {(len(steps),)}:
            raise ValueError("the columns of a curve must have a number per mark")
        rises, last = (np.diff(steps, prepend=-1) > 0).all(), max(steps, default=0)
        finished = self.result.status == "finished"
        demands = {
            f"behaviour must be of {sorted(BEHAVIOUR)}": behaviour.keys() <= BEHAVIOUR.keys(),
            "errors must be from 0 to 100": (np.abs(np.array(errors) - 50) <= 50).all(),
            "cpu_seconds must be finite and at least 0": (np.abs(seconds) < math.inf).all()
            and min(seconds, default=0) >= 0,
            "env_steps must rise to the result's": rises and last == self.result.env_steps,
            "a run that finished must have a mark with eval/error": len(steps) or not finished,
        }
        if broken := [demand for demand, holds in demands.items() if not holds]:
            raise ValueError("; ".join(broken))


class Trial(Struct, frozen=True, forbid_unknown_fields=True, rename={"number": "trial"}):
    """Settings that the tuning of an algorithm has tried in a phase of ``tuning.PHASES``.

    ``settings`` are by flag; number 0 is the program's defaults, without settings. ``error`` is
    the validation error at the end [%], ``called_as`` the command as the protocol writes it.
    """

    algorithm: str
    phase: str
    number: Count
    settings: dict[str, int | float | str]
    error: Percentage
    status: Status
    called_as: str = ""


Line = TypeVar("Line", bound=Seed | Trial)


def path_of(kind: type[Seed | Trial], results: Path, task: str) -> Path:
    """Return the file of a task's seeds or trials."""
    return results / task / ("seeds.jsonl" if kind is Seed else "trials.jsonl")


def read_lines(kind: type[Line], results: Path, task: str) -> list[Line]:
    """Return the stored seeds or trials of a task, by algorithm and number; none without a file.

    Raises:
        ValueError: If the file is damaged or holds a run twice; the message names it.
    """
    path = path_of(kind, results, task)
    if not path.exists():
        return []

    def to_array(kind: type, value: Any) -> np.ndarray:
        return np.array(value, dtype=float)  # null, which JSON has for NaN, becomes NaN

    decoder = json.Decoder(kind, dec_hook=to_array)
    lines: list[Line] = parse(read_file(path, MAX_TEXT), path, Any, decoder.decode_lines)
    counts = Counter(map(_place, lines))
    if twice := [place for place, count in counts.items() if count > 1]:
        raise ValueError(f"{path} has several lines of {twice}: delete all but one of each")
    return lines


def add_line(line: Seed | Trial, results: Path, task: str) -> None:
    """Add a seed or trial to those of a task; a crash leaves the old file or the new one."""
    lines = [*read_lines(type(line), results, task), line]
    write_lines(path_of(type(line), results, task), lines)


def write_lines(path: Path, lines: Sequence[Seed | Trial]) -> None:
    """Write a file of seeds or trials, by algorithm and number."""
    make_folder(path.parent)
    encoder = json.Encoder(enc_hook=np.ndarray.tolist)
    write_whole(path, encoder.encode_lines(sorted(lines, key=_place)))


def _place(line: Seed | Trial) -> tuple[str, str, int]:
    return line.algorithm, line.phase if isinstance(line, Trial) else "", line.number
