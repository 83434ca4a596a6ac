"""What a folder of results says about each algorithm on each task.

Dimension key:
    n: seeds of an algorithm that have ended
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, median_low

import numpy as np

from train.comparison.protocol import Algorithm, ComparedTask, Protocol
from train.comparison.results import Seed, Trial, read_lines
from train.comparison.statistics import Estimate, mean_interval

FEW = 3
"""Up to this number of seeds there is no order and no test; an interval needs as many."""
CLASSES = {
    "L": "the loss uses the true label",
    "R": "observation and reward alone",
    "R*": "R, with the structure of the reward: one label is right",
}
"""Classes of feedback, and what they mean."""
ROLES = {
    "compared": "Class",
    "ablation": "Ablations, class",
    "control": "Controls, class",
    "naive": "The naive first try, class",
}


@dataclass(frozen=True)
class Row:
    """An algorithm on a task, with those of the protocol's seeds that have ended, by number.

    Numbers are NaN where no seed has one.
    """

    algorithm: Algorithm
    task: ComparedTask
    seeds: tuple[Seed, ...]

    @property
    def errors(self) -> np.ndarray:
        """Final errors [%], with guessing for a seed that diverged: (n,)."""
        return np.array([self._or_chance(seed, seed.result.error) for seed in self.seeds])

    @property
    def sampled(self) -> float:
        """Mean error of the sampled policy at the last mark [%], likewise."""
        last = [self._or_chance(s, [math.nan, *s.curve.error_sampled][-1]) for s in self.seeds]
        return float(np.mean(last)) if last else math.nan

    @property
    def finished(self) -> list[Seed]:
        """The seeds that did not diverge."""
        return [seed for seed in self.seeds if seed.result.status == "finished"]

    @property
    def complete(self) -> bool:
        """Whether all seeds of the protocol have ended."""
        return len(self.seeds) == self.task.seeds

    @property
    def missing(self) -> str:
        """How many seeds have ended, to be appended to a text, unless all have."""
        return "" if self.complete else f", {len(self.seeds)} of {self.task.seeds} seeds"

    @property
    def mean(self) -> Estimate:
        """Mean final error [%]; its interval, cut at 0 and 100, needs at least three seeds."""
        if not self.seeds:
            return Estimate(math.nan)
        value, *ends = mean_interval(self.errors)
        return Estimate(value, *np.clip(ends if len(self.seeds) >= FEW else [], 0, 100).tolist())

    @property
    def reached(self) -> list[float]:
        """Env steps of each seed's first mark at or below the threshold; inf without one: (n,)."""
        curves = [seed.curve for seed in self.seeds]
        hits = [each.env_steps[each.error <= self.task.threshold] for each in curves]
        return [float(min(steps, default=math.inf)) for steps in hits]

    @property
    def steps_to_threshold(self) -> float:
        """Env steps by which at least half of the seeds reached it; inf if fewer did."""
        return median_low(self.reached or [math.nan])

    @property
    def samples_backward(self) -> float:
        """Median number of samples that go backward, over the seeds that finished."""
        return _median(seed.result.env_steps * self.algorithm.passes for seed in self.finished)

    @property
    def cpu_seconds(self) -> float:
        """Median CPU time of a whole run, over the seeds that finished [s]."""
        return _median(seed.result.cpu_seconds for seed in self.finished)

    def last(self, tag: str) -> float:
        """Return the median last value of a metric, over the seeds that log it."""
        return _median(s.result.last[tag] for s in self.seeds if tag in s.result.last)

    def _or_chance(self, seed: Seed, error: float) -> float:
        return error if seed.result.status == "finished" else self.task.chance_error


@dataclass(frozen=True)
class TaskResults:
    """All results on a task: a row per algorithm, in the protocol's order, and its tuning.

    ``trials`` holds all trials of the tuning task, ``left_out`` the number of stored seeds that
    the protocol doesn't ask for.
    """

    task: ComparedTask
    rows: tuple[Row, ...]
    tuning_task: ComparedTask
    trials: list[Trial]
    left_out: int

    @property
    def few(self) -> bool:
        """Whether every algorithm has a few seeds only: nothing is then ranked or tested."""
        return all(row.task.seeds <= FEW for row in self.rows)

    @property
    def seeds(self) -> list[Seed]:
        """All seeds, algorithm by algorithm."""
        return [seed for row in self.rows for seed in row.seeds]


def read_results(protocol: Protocol, results: Path) -> dict[str, TaskResults]:
    """Read all stored results that a protocol asks for, by task."""
    found: dict[str, TaskResults] = {}
    for name, task in protocol.tasks.items():
        stored = read_lines(Seed, results, name)
        rows = tuple(_row(each, task.for_algorithm(each), stored) for each in protocol.on(task))
        left_out = len(stored) - sum(len(row.seeds) for row in rows)
        tuned_on = protocol.tuning_task(task)
        trials = read_lines(Trial, results, tuned_on.name)
        found[name] = TaskResults(task, rows, tuned_on, trials, left_out)
    return found


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Return rows of a task by mean error, with incomplete ones last, in their order.

    Classes with few seeds in a row keep the protocol's order: no algorithm is called better.
    """
    few = {row.algorithm.feedback for row in rows if row.task.seeds <= FEW}

    def place(row: Row) -> float:
        ranked = row.complete and row.algorithm.feedback not in few
        return row.mean.value if ranked else math.inf

    return sorted(rows, key=place)


def _row(algorithm: Algorithm, task: ComparedTask, stored: list[Seed]) -> Row:
    seeds = [s for s in stored if s.algorithm == algorithm.name and s.number < task.seeds]
    settings = [seed.config.get("config", {}) for seed in seeds]
    for seed, each in zip(seeds, settings, strict=True):
        shared = each.keys() & settings[0].keys() - {"seed", "run_dir", "resume"}
        if other := sorted(name for name in shared if each[name] != settings[0][name]):
            raise ValueError(
                f"{task.name}, {algorithm.name}, seed {seed.number}: {other} differ from those of "
                f"seed {seeds[0].number}; delete one of the lines to run it again"
            )
    return Row(algorithm, task, tuple(seeds))


def _median(values: Iterable[float]) -> float:
    return median([*values] or [math.nan])
