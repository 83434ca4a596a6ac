"""Statistics over a handful of seeds: means, aggregates over tasks, tests. Pure functions.

A higher score is better; an error becomes a score by its sign or by :func:`normalised_scores`.
Where there are too few seeds for an interval, its ends are NaN.

Dimension key:
    n, m: seeds of an algorithm (of one task)
    N: scores of all tasks together
    R: resamples of a bootstrap
    k: marks at which a run was validated
    c: comparisons
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import mannwhitneyu, permutation_test, rankdata, t, trim_mean

CUT = 0.25  # share of the scores dropped at each end of an interquartile mean
LEVEL = 0.95  # of all intervals


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval, NaN if there are too few seeds for one."""

    value: float
    low: float = math.nan
    high: float = math.nan


class Reached(NamedTuple):
    """When runs reached a threshold.

    Attributes:
        steps: Env steps of each seed's first mark at or below it; inf if there was none within
            the budget. Shape (n,), float64.
        fraction: Share of the seeds that reached it.
        median: Env steps by which at least half of the seeds reached it; inf if fewer did.
    """

    steps: np.ndarray
    fraction: float
    median: float


def mean_interval(values: np.ndarray) -> Estimate:
    """Return the mean over seeds, with Student's interval.

        mean -+ t_{n-1}(0.975) s / sqrt(n),  s^2 = sum (x - mean)^2 / (n - 1)

    Args:
        values: A value per seed. Shape (n,), finite.

    Raises:
        ValueError: If there is no value, or one isn't finite.

    Source:
        Student (1908), "The probable error of a mean". It assumes normal values: if a seed
        diverged, the interval is wide and covers only roughly 95 %.
    """
    values = _checked("values", values)
    if len(values) == 1:
        return Estimate(float(values[0]))
    mean, spread = values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * spread
    return Estimate(float(mean), float(mean - half), float(mean + half))


def interquartile_mean(
    scores: Sequence[np.ndarray], *, resamples: int = 10_000, seed: int = 0
) -> Estimate:
    """Return the mean of the middle half of all tasks' scores.

    The scores of all tasks are pooled, and floor(N / 4) are dropped at each end, so a task with
    more seeds weighs more. The interval is the percentile interval of a bootstrap that resamples
    the seeds within each task; a task with only one seed leaves it NaN.

    Args:
        scores: An array per task, each (n,), finite; n may differ.
        resamples: R; 0 gives no interval.
        seed: Random seed of the bootstrap.

    Raises:
        ValueError: If there is no task or score, one isn't finite, or ``resamples`` negative.

    Source:
        Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical
        precipice", arXiv:2108.13264, section 4.
    """
    tasks = _checked_tasks("scores", scores)
    value = float(trim_mean(np.concatenate(tasks), CUT))
    if not _can_resample(resamples, tasks):
        return Estimate(value)
    generator = np.random.default_rng(seed)
    drawn = [each[generator.integers(len(each), size=(resamples, len(each)))] for each in tasks]
    pooled = np.concatenate(drawn, axis=1)  # (R, N)
    return Estimate(value, *_percentiles(trim_mean(pooled, CUT, axis=1)))


def probability_of_improvement(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Return the probability that a run of the first algorithm scores above one of the second.

        P(X > Y) + P(X = Y) / 2  =  U / (n m),  the mean over tasks

    U is Mann and Whitney's. The interval comes from a bootstrap that resamples both algorithms'
    seeds within each task. If every run of the first is above all of the second it is [1, 1]: a
    bootstrap sees nothing beyond the seeds that there are.

    Args:
        first: Scores X, an array per task, each (n,), finite.
        second: Scores Y on the same tasks, each (m,), finite.
        resamples: R; 0 gives no interval, and neither does a task with only one seed.
        seed: Random seed of the bootstrap.

    Raises:
        ValueError: If the numbers of tasks differ, there is no score, or one isn't finite.

    Source:
        Agarwal et al. (2021), arXiv:2108.13264, section 4.3; counting a tie as a half, as U
        does, is the usual completion.
    """
    xs, ys = _checked_tasks("first", first), _checked_tasks("second", second)
    if len(xs) != len(ys):
        raise ValueError(f"first and second must share their tasks, got {len(xs)} and {len(ys)}")
    wins = [(np.sign(x[:, None] - y) + 1) / 2 for x, y in zip(xs, ys, strict=True)]  # (n, m) each
    value = float(np.mean([each.mean() for each in wins]))
    if not _can_resample(resamples, xs + ys):
        return Estimate(value)
    generator = np.random.default_rng(seed)
    drawn = np.mean([_resampled_wins(each, resamples, generator) for each in wins], axis=0)  # (R,)
    return Estimate(value, *_percentiles(drawn))


def rank_test(first: np.ndarray, second: np.ndarray) -> float:
    """Test whether two algorithms' seeds come from one distribution; return the two-sided p.

        p = P(|W - E W| >= |w - E w|),  W: rank sum of n of the n + m values drawn at random

    Wilcoxon's rank-sum test (Mann and Whitney's U), with middle ranks for ties. Ranks, because a
    run that diverged counts as guessing: one of ten moves a mean by 8 points and inflates Welch's
    variance until nothing is significant, but moves one rank. Exact, because five or ten seeds
    are too few for an approximation, and errors are whole numbers of images, which tie. With
    n = m = 10 no p is below 1.1e-5, with 5 none is below 0.0079 (:func:`least_p`): six
    comparisons after Holm can just reach 0.048. With ties and more than ten seeds each, the
    distribution is sampled. :func:`probability_of_improvement` is the effect size.

    Args:
        first: Scores of one algorithm. Shape (n,), n at least 2, finite.
        second: Scores of independent runs of another. Shape (m,), m at least 2, finite.

    Raises:
        ValueError: If a shape is wrong or a score isn't finite.

    Source:
        Wilcoxon (1945), "Individual comparisons by ranking methods"; Mann and Whitney (1947).
    """
    first, second = _checked("first", first, 2), _checked("second", second, 2)
    ranks = rankdata(np.concatenate([first, second]))
    if len(set(ranks)) == len(ranks):
        return float(mannwhitneyu(first, second, method="exact").pvalue)

    def distance(some: np.ndarray, others: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(some.sum(axis) - len(first) * (len(ranks) + 1) / 2)

    parts = (ranks[: len(first)], ranks[len(first) :])
    options = {"alternative": "greater", "n_resamples": 200_000, "rng": 0}  # 10 of 20: 184,756
    return float(permutation_test(parts, distance, vectorized=True, **options).pvalue)


def least_p(n: int, m: int) -> float:
    """Return the least p that :func:`rank_test` can give without ties: 2 / C(n + m, n)."""
    if n < 1 or m < 1:
        raise ValueError(f"n and m must be at least 1, got {n} and {m}")
    return min(1.0, 2 / math.comb(n + m, n))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjust p values of several tests, so that 0.05 bounds the chance of any false one.

        adjusted_(i) = max over j <= i of min(1, (c - j + 1) p_(j)),  p_(1) <= p_(2) <= ...

    Args:
        p_values: One per comparison, in [0, 1]; NaN for one that could not be tested, which
            counts as if its p were 1, so that no result improves because another is missing.
            Shape (c,).

    Returns:
        Adjusted values in the same order, NaN where there was none. Shape (c,), float64.

    Raises:
        ValueError: If the shape is wrong or a value is not a probability.

    Source:
        Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    p_values = np.asarray(p_values, dtype=float)
    if p_values.ndim != 1 or (p_values < 0).any() or (p_values > 1).any():
        raise ValueError(f"p_values must be (c,) in [0, 1] or NaN, got {p_values.tolist()}")
    order = np.argsort(p_values)  # NaN last
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p_values[order]))
    return adjusted


def steps_to_threshold(
    curves: Sequence[tuple[np.ndarray, np.ndarray]], threshold: float
) -> Reached:
    """Return when each run's validation error was first at or below a threshold.

    A run that never gets there counts as inf, so that the median isn't one of the lucky runs
    alone. The median is the lower of two middle ones, so it is always a mark of a run.

    Args:
        curves: Env steps at the marks, rising, and errors [%] of each seed, both (k,). An error
            of NaN is not below anything.
        threshold: Validation error [%].

    Raises:
        ValueError: If there is no curve, or its arrays differ in shape.
    """
    if not curves:
        raise ValueError("curves must hold at least one seed, got none")
    for at, error in curves:
        if at.ndim != 1 or at.shape != error.shape:
            raise ValueError(f"curves must be pairs of (k,), got {at.shape} and {error.shape}")
    steps = np.array([min(at[error <= threshold], default=math.inf) for at, error in curves])
    return Reached(
        steps, float(np.isfinite(steps).mean()), float(np.sort(steps)[(len(steps) - 1) // 2])
    )


def normalised_scores(errors: np.ndarray, chance_error: float) -> np.ndarray:
    """Return scores that mean the same on every task: 0 is guessing, 1 is no errors.

    Args:
        errors: Final errors [%]. Shape (n,), finite.
        chance_error: Error of guessing [%], in (0, 100].

    Returns:
        1 - errors / chance_error. Shape (n,).

    Raises:
        ValueError: If a shape or value is wrong.
    """
    if not 0 < chance_error <= 100:
        raise ValueError(f"chance_error must be in (0, 100], got {chance_error}")
    return 1 - _checked("errors", errors) / chance_error


def _checked(name: str, values: np.ndarray, least: int = 1) -> np.ndarray:
    """Return finite numbers as float64, (n,), with n at least ``least``."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) < least or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, (n,) with n >= {least}, got {array.tolist()}")
    return array


def _checked_tasks(name: str, tasks: Sequence[np.ndarray]) -> list[np.ndarray]:
    if not len(tasks):
        raise ValueError(f"{name} must hold at least one task, got none")
    return [_checked(f"{name}[{index}]", each) for index, each in enumerate(tasks)]


def _can_resample(resamples: int, tasks: list[np.ndarray]) -> bool:
    """Say whether to resample: if it is asked for and each task has several seeds."""
    if resamples < 0:
        raise ValueError(f"resamples must be at least 0, got {resamples}")
    return resamples > 0 and min(len(each) for each in tasks) > 1


def _percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """Return the middle 95 % of a bootstrap's values (R,)."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _resampled_wins(wins: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Return the mean of ``wins`` over resampled seeds, from how often each is drawn: (R,)."""
    n, m = wins.shape
    first = generator.multinomial(n, np.full(n, 1 / n), size=resamples)  # (R, n)
    second = generator.multinomial(m, np.full(m, 1 / m), size=resamples)  # (R, m)
    return ((first @ wins) * second).sum(1) / (n * m)
