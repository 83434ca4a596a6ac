"""A line of a comparison: what an algorithm came to on a task, over its seeds.

Dimension key:
    n: seeds there are of an algorithm, of those that the protocol wants
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.comparison.protocol import Algorithm, Protocol, Task
from train.comparison.results import Seed, read_seeds
from train.comparison.statistics import (
    Estimate,
    Reached,
    interquartile_mean,
    mean_interval,
    steps_to_threshold,
)

FEW = 3  # seeds: up to here, points without an order and without tests
CLASSES = {"L": "the loss uses the true label", "R": "observation and reward alone"}
ROLES = {
    "compared": "",
    "ablation": "Ablations, ",
    "control": "Controls, ",
    "naive": "The naive first try, ",
}


@dataclass(frozen=True)
class Row:
    """What an algorithm came to on a task.

    Attributes:
        algorithm: Which.
        task: On which.
        seeds: Those of the protocol that there are, by number.
    """

    algorithm: Algorithm
    task: Task
    seeds: tuple[Seed, ...]

    @property
    def errors(self) -> np.ndarray:
        """Final errors [%], a diverged seed's that of guessing: (n,)."""
        return np.array([self._or_chance(seed, seed.result.error) for seed in self.seeds])

    @property
    def sampled(self) -> np.ndarray:
        """Errors [%] of the sampled policy at the last mark, likewise: (n,)."""
        last = [(seed, [math.nan, *seed.curve.error_sampled][-1]) for seed in self.seeds]
        return np.array([self._or_chance(seed, error) for seed, error in last])

    @property
    def finished(self) -> list[Seed]:
        """The seeds that ran to their end."""
        return [seed for seed in self.seeds if seed.result.status == "finished"]

    @property
    def complete(self) -> bool:
        """Whether all seeds of the protocol are there."""
        return len(self.seeds) == self.task.seeds

    @property
    def mean(self) -> Estimate:
        """Mean final error [%]; its interval, cut at 0 and 100, needs more than a few seeds."""
        if not self.seeds:
            return Estimate(math.nan)
        value, low, high = mean_interval(self.errors)
        if self.task.seeds <= FEW:
            return Estimate(value)
        return Estimate(value, *np.clip([low, high], 0, 100).tolist())

    @property
    def iqm(self) -> float:
        """Interquartile mean of the final errors [%]."""
        return interquartile_mean([self.errors], resamples=0).value if self.seeds else math.nan

    @property
    def reached(self) -> Reached | None:
        """When the threshold was reached."""
        curves = [(seed.curve.env_steps, seed.curve.error) for seed in self.seeds]
        return steps_to_threshold(curves, self.task.threshold) if curves else None

    def last(self, tag: str) -> float:
        """Median last value of a metric of behaviour, over the seeds that have it; else NaN."""
        values = [seed.result.last[tag] for seed in self.seeds if tag in seed.result.last]
        return self._median(values)

    @property
    def samples_backward(self) -> float:
        """Median samples through the networks backward, of the seeds that finished."""
        return self._median(seed.result.env_steps * self.algorithm.passes for seed in self.finished)

    @property
    def cpu_seconds(self) -> float:
        """Median CPU time [s] of a whole run, of the seeds that finished."""
        return self._median(seed.result.cpu_seconds for seed in self.finished)

    def _or_chance(self, seed: Seed, error: float) -> float:
        return error if seed.result.status == "finished" else self.task.chance_error

    @staticmethod
    def _median(values: Iterable[float]) -> float:
        numbers = list(values)
        return float(np.median(numbers)) if numbers else math.nan


def summarise(protocol: Protocol, task: Task, results: Path) -> list[Row]:
    """Return a row for each algorithm of a task, in the protocol's order.

    Args:
        protocol: The whole.
        task: One of its tasks.
        results: Folder of results; seeds and algorithms that the protocol doesn't want are
            left out.

    Raises:
        ValueError: If a result is damaged.
    """
    seeds = [seed for seed in read_seeds(results, task.env_id) if seed.number < task.seeds]
    return [
        Row(algorithm, task, tuple(seed for seed in seeds if seed.algorithm == algorithm.name))
        for algorithm in protocol.on(task)
    ]


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Return rows of one class by mean error, incomplete ones behind in the protocol's order.

    With few seeds all stay in the protocol's order: nobody is called better.
    """
    few = any(row.task.seeds <= FEW for row in rows)
    return sorted(rows, key=lambda row: row.mean.value if row.complete and not few else math.inf)
