"""Statistics over a handful of seeds of one task: means, effect sizes, tests. Pure functions.

Values and scores are finite, arrays (n,); a higher score is better. Where there are too few seeds
for an interval, its ends are NaN.

Dimension key:
    n, m: seeds of an algorithm
    R: resamples of a bootstrap
    c: comparisons
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit
from scipy.stats import rankdata

LEVEL = 0.95  # of all intervals


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval, NaN if there are too few seeds for one."""

    value: float
    low: float = math.nan
    high: float = math.nan


def mean_interval(values: np.ndarray) -> Estimate:
    """Return the mean over seeds (n,), with Student's interval.

        mean -+ t_{n-1}(0.975) s / sqrt(n),  s^2 = sum (x - mean)^2 / (n - 1)

    Source:
        Student (1908), "The probable error of a mean". It assumes normal values: if a seed
        diverged, the interval is wide and covers only roughly 95 %.
    """
    if len(values) == 1:
        return Estimate(float(values[0]))
    mean, spread = values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    half = stdtrit(len(values) - 1, (1 + LEVEL) / 2) * spread
    return Estimate(float(mean), float(mean - half), float(mean + half))


def probability_of_improvement(
    first: np.ndarray, second: np.ndarray, resamples: int = 10_000
) -> Estimate:
    """Return the probability that a run of the first algorithm scores above one of the second.

        P(X > Y) + P(X = Y) / 2  =  U / (n m)

    U is Mann and Whitney's. The interval comes from a bootstrap that resamples both algorithms'
    seeds; only one seed leaves it NaN. If every run of the first is above all of the second it is
    [1, 1]: a bootstrap sees nothing beyond the seeds that there are.

    Source:
        Agarwal et al. (2021), arXiv:2108.13264, section 4.3; counting a tie as a half, as U
        does, is the usual completion.
    """
    wins = (np.sign(first[:, None] - second) + 1) / 2  # (n, m)
    n, m = wins.shape
    if min(n, m) == 1:
        return Estimate(float(wins.mean()))
    generator = np.random.default_rng(0)
    often = generator.multinomial(n, np.full(n, 1 / n), size=resamples)  # (R, n)
    other = generator.multinomial(m, np.full(m, 1 / m), size=resamples)  # (R, m)
    drawn = ((often @ wins) * other).sum(1) / (n * m)  # (R,)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Estimate(float(wins.mean()), low, high)


def rank_test(first: np.ndarray, second: np.ndarray) -> float:
    """Test whether two algorithms' seeds come from one distribution; return the two-sided p.

        p = P(|W - E W| >= |w - E w|),  W: rank sum of n of the n + m values drawn at random

    Wilcoxon's rank-sum test (Mann and Whitney's U), with middle ranks for ties. Ranks, because a
    run that diverged counts as guessing: one of ten moves a mean by 8 points and inflates Welch's
    variance until nothing is significant, but moves one rank. Exact, because five or ten seeds are
    too few for an approximation, and errors are whole numbers of images, which tie.

    Source:
        Wilcoxon (1945), "Individual comparisons by ranking methods"; Mann and Whitney (1947).
    """
    n = len(first)
    twice = (2 * rankdata([*first, *second])).astype(int)  # twice the ranks: whole numbers
    total = twice.sum()
    ways = np.zeros((n + 1, total + 1))  # to draw k of the ranks so far with a sum
    ways[0, 0] = 1
    for rank in twice:
        ways[1:, rank:] += ways[:-1, : total + 1 - rank]
    distance = np.abs(np.arange(total + 1) - n * (len(twice) + 1))  # of twice the sum from its mean
    return float(ways[n, distance >= distance[twice[:n].sum()]].sum() / ways[n].sum())


def least_p(n: int) -> float:
    """Return the least p that :func:`rank_test` can give for n seeds each without ties."""
    return min(1.0, 2 / math.comb(2 * n, n))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjust p values (c,) of several tests, so that 0.05 bounds the chance of any false one.

        adjusted_(i) = max over j <= i of min(1, (c - j + 1) p_(j)),  p_(1) <= p_(2) <= ...

    NaN is for a test that could not be made. It counts as if its p were 1, so that no result
    improves because another is missing, and stays NaN.

    Source:
        Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    order = np.argsort(p_values)  # NaN last
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p_values[order]))
    return adjusted
