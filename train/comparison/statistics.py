"""What a handful of seeds can say: means, aggregates over tasks, tests; pure functions.

Nothing here knows of runs or files. A score is better when it is higher; an error is turned
into one by its sign or by :func:`normalised_scores`. No function makes up an interval: where
there are too few seeds for one, its ends are NaN.

Dimension key:
    n, m: seeds of an algorithm (of one task)
    N: scores of all tasks together
    R: resamples of a bootstrap
    k: marks at which a run was validated
    c: named comparisons
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata, t, trim_mean

CUT = 0.25  # of the scores, at each end of an interquartile mean
LEVEL = 0.95  # of all intervals


class Estimate(NamedTuple):
    """A value and its 95 % interval.

    Attributes:
        value: In the unit of what was given.
        low: Lower end; NaN where there are too few seeds.
        high: Upper end; NaN likewise.
    """

    value: float
    low: float = math.nan
    high: float = math.nan


class Reached(NamedTuple):
    """When runs came to a threshold.

    Attributes:
        steps: Env steps of each seed's first mark at or below it; inf if there was none within
            the budget. Shape (n,), float64.
        fraction: Of the seeds that got there.
        median: Env steps by which at least half of the seeds had; inf if fewer did.
    """

    steps: np.ndarray
    fraction: float
    median: float


def mean_interval(values: np.ndarray) -> Estimate:
    """Return the mean over seeds, with Student's interval.

        mean -+ t_{n-1}(0.975) s / sqrt(n),  s^2 = sum (x - mean)^2 / (n - 1)

    Args:
        values: One a seed. Shape (n,), finite.

    Returns:
        The mean; one seed has no interval (NaN).

    Raises:
        ValueError: If there is no value, or one isn't finite.

    Source:
        Student (1908), "The probable error of a mean". It supposes normal values: with a seed
        that diverged among them the interval is wide and only roughly one of 95 %.
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

    The scores of all tasks are pooled, and floor(N / 4) dropped at each end. A task with more
    seeds therefore weighs more. The interval is the percentile interval of a bootstrap that
    draws seeds anew within each task and keeps the tasks.

    Args:
        scores: An array a task, each (n,), finite; n may differ.
        resamples: R; 0 for no interval.
        seed: Of the generator that draws them.

    Returns:
        The interquartile mean; no interval (NaN) if a task has one seed only.

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
    """Return how probably a run of the first algorithm scores above one of the second.

        P(X > Y) + P(X = Y) / 2  =  U / (n m),  the mean over tasks

    U is Mann and Whitney's. The interval is a bootstrap's that draws both algorithms' seeds
    anew within each task. Where every run of the first is above all of the second it is
    [1, 1]: a bootstrap sees nothing beyond the seeds that there are.

    Args:
        first: Scores X, an array a task, each (n,), finite.
        second: Scores Y on the same tasks, each (m,), finite.
        resamples: R; 0 for no interval.
        seed: Of the generator that draws them.

    Returns:
        A probability; no interval (NaN) if a task has one seed only.

    Raises:
        ValueError: If the numbers of tasks differ, there is no score, or one isn't finite.

    Source:
        Agarwal et al. (2021), arXiv:2108.13264, section 4.3; that a tie counts half, as in
        U, is the usual completion.
    """
    xs, ys = _checked_tasks("first", first), _checked_tasks("second", second)
    if len(xs) != len(ys):
        raise ValueError(f"first and second must have as many tasks, got {len(xs)} and {len(ys)}")
    wins = [_wins(x, y) for x, y in zip(xs, ys, strict=True)]
    value = float(np.mean([each.mean() for each in wins]))
    if not _can_resample(resamples, xs + ys):
        return Estimate(value)
    generator = np.random.default_rng(seed)
    drawn = np.mean([_resampled_wins(each, resamples, generator) for each in wins], axis=0)  # (R,)
    return Estimate(value, *_percentiles(drawn))


def rank_test(first: np.ndarray, second: np.ndarray) -> float:
    """Test whether two algorithms' seeds come from one distribution, exactly and two-sided.

        p = P(|W - E W| >= |w - E w|),  W: rank sum of n of the n + m values drawn at random

    Wilcoxon's rank sum (Mann and Whitney's U), with middle ranks for ties and its exact
    distribution given them. Ranks, because a run that diverged counts as guessing: one of ten
    moves a mean by 8 points and swells Welch's variance till nothing is significant, but
    moves one rank. Exact, because ten or five seeds are too few for an approximation, and
    errors are whole numbers of images, which tie. The number that goes with it is
    :func:`probability_of_improvement`. With n = m = 10 no p is below 1.1e-5, with 5 none
    below 0.0079 (:func:`least_p`): six comparisons after Holm can just reach 0.048.

    Args:
        first: Scores of one algorithm. Shape (n,), finite.
        second: Scores of the other, of runs independent of them. Shape (m,), finite.

    Raises:
        ValueError: If there is no score, or one isn't finite.

    Source:
        Wilcoxon (1945), "Individual comparisons by ranking methods"; Mann and Whitney (1947).
    """
    first, second = _checked("first", first), _checked("second", second)
    ranks = np.rint(2 * rankdata(np.concatenate([first, second]))).astype(int)  # doubled: whole
    counts = _subsets_by_sum(ranks, len(first))
    mean = len(first) * (len(ranks) + 1)  # of the doubled sum
    far = abs(int(ranks[: len(first)].sum()) - mean)
    extreme = sum(count for total, count in counts.items() if abs(total - mean) >= far)
    return extreme / math.comb(len(ranks), len(first))


def least_p(n: int, m: int) -> float:
    """Return the least p that :func:`rank_test` can give without ties: 2 / C(n + m, n)."""
    if n < 1 or m < 1:
        raise ValueError(f"n and m must be at least 1, got {n} and {m}")
    return min(1.0, 2 / math.comb(n + m, n))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjust p values of several tests, so that 0.05 bounds the chance of any false one.

        adjusted_(i) = max over j <= i of min(1, (c - j + 1) p_(j)),  p_(1) <= p_(2) <= ...

    Args:
        p_values: One a named comparison, in [0, 1]; NaN for one that could not be tested. It
            counts all the same, as if its p were 1, so that no result gets better because
            another is missing. Shape (c,).

    Returns:
        Adjusted values in the same order, NaN where there was none. Shape (c,), float64.

    Raises:
        ValueError: If the shape is wrong or a value is no probability.

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

    A run that never got there is counted as inf, not left out, so that the median isn't one
    of the lucky ones. The median is the least number of steps by which at least half of the
    seeds had got there (the lower of two middle ones): always a mark of a run.

    Args:
        curves: For each seed its marks' env steps, rising, and errors [%], both (k,). An
            error of NaN is not below anything.
        threshold: [%].

    Raises:
        ValueError: If there is no curve, or one's arrays differ in shape.
    """
    if not curves:
        raise ValueError("curves must hold at least one seed, got none")
    steps = np.array([_first_mark(*curve, threshold) for curve in curves])  # (n,)
    middle = (len(steps) + 1) // 2 - 1
    return Reached(steps, float(np.isfinite(steps).mean()), float(np.sort(steps)[middle]))


def normalised_scores(errors: np.ndarray, chance_error: float) -> np.ndarray:
    """Return scores that mean the same on every task: 0 is guessing, 1 is no errors.

    The controls are no ends of a scale for all: an oracle that only ever looks at the middle of
    an object that fills the image is easily beaten.

    Args:
        errors: Final errors [%]. Shape (n,), finite.
        chance_error: Of guessing [%], in (0, 100].

    Returns:
        1 - errors / chance_error. Shape (n,).

    Raises:
        ValueError: If a shape or value is wrong.
    """
    if not 0 < chance_error <= 100:
        raise ValueError(f"chance_error must be in (0, 100], got {chance_error}")
    return 1 - _checked("errors", errors) / chance_error


def _checked(name: str, values: np.ndarray) -> np.ndarray:
    """Return finite numbers as float64, (n,)."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} must have shape (n,) with n at least 1, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array.tolist()}")
    return array


def _checked_tasks(name: str, tasks: Sequence[np.ndarray]) -> list[np.ndarray]:
    if not len(tasks):
        raise ValueError(f"{name} must hold at least one task, got none")
    return [_checked(f"{name}[{index}]", each) for index, each in enumerate(tasks)]


def _can_resample(resamples: int, tasks: list[np.ndarray]) -> bool:
    """Say whether a bootstrap is wanted and each task has seeds that can differ."""
    if resamples < 0:
        raise ValueError(f"resamples must be at least 0, got {resamples}")
    return resamples > 0 and min(len(each) for each in tasks) > 1


def _percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """Return the middle 95 % of a bootstrap's values (R,)."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return 1 where x is above y, 1/2 where equal, else 0: (n, m)."""
    return (np.sign(x[:, None] - y[None, :]) + 1) / 2


def _resampled_wins(wins: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Return the mean of ``wins`` for seeds drawn anew, from how often each is: (R,)."""
    n, m = wins.shape
    first = generator.multinomial(n, np.full(n, 1 / n), size=resamples)  # (R, n)
    second = generator.multinomial(m, np.full(m, 1 / m), size=resamples)  # (R, m)
    return ((first @ wins) * second).sum(1) / (n * m)


def _subsets_by_sum(numbers: np.ndarray, size: int) -> dict[int, int]:
    """Count the subsets of ``size`` of some whole numbers, by their sum."""
    counts: list[dict[int, int]] = [{0: 1}, *({} for _ in range(size))]
    for number in numbers.tolist():
        for taken in range(size, 0, -1):
            for total, count in counts[taken - 1].items():
                counts[taken][total + number] = counts[taken].get(total + number, 0) + count
    return counts[size]


def _first_mark(env_steps: np.ndarray, error: np.ndarray, threshold: float) -> float:
    """Return the env steps of the first mark at or below the threshold, or inf."""
    if env_steps.ndim != 1 or env_steps.shape != error.shape:
        raise ValueError(
            f"curves must be pairs of equal shape (k,), got {env_steps.shape} and {error.shape}"
        )
    below = np.flatnonzero(error <= threshold)
    return float(env_steps[below[0]]) if below.size else math.inf
