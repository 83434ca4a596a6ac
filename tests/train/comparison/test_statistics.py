"""The statistics of a few seeds: by hand, against slow loops and other packages, invariants."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from train.comparison.statistics import (
    holm,
    least_p,
    mean_interval,
    probability_of_improvement,
    rank_test,
)

RESAMPLES = 2_000


def draw(*sizes, seed=0):
    """Return scores in hundredths, so that some are equal: an array per size."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 40, size) / 100 for size in sizes]


def test_the_mean_has_students_interval():
    # mean 3, s = sqrt((4 + 1 + 0 + 1 + 4) / 4) = 1.5811, s / sqrt(5) = 0.70711, and
    # t_4(0.975) = 2.77645 from a table: the half width is 1.96325
    value, low, high = mean_interval(np.array([1.0, 2, 3, 4, 5]))
    assert (value, low, high) == pytest.approx((3, 3 - 1.96325, 3 + 1.96325), abs=1e-4)
    assert mean_interval(np.array([4.2])) == pytest.approx((4.2, math.nan, math.nan), nan_ok=True)


def test_the_probability_of_improvement_counts_pairs_and_half_the_ties():
    # 3 beats 1, 1 and ties 3; 2 beats 1, 1: (2 + 1/2 + 2) / 6
    first, second = np.array([3.0, 2]), np.array([1.0, 1, 3])
    assert probability_of_improvement(first, second).value == pytest.approx(4.5 / 6)
    (x,), (y,) = draw(9), draw(7, seed=1)
    u = mannwhitneyu(x, y).statistic
    assert probability_of_improvement(x, y).value == pytest.approx(u / (9 * 7))


def test_the_bootstrap_of_the_improvement_is_a_slow_loops_and_mirrors():
    (x,), (y,) = draw(8), draw(6, seed=1)
    generator, expected = np.random.default_rng(9), []
    for _ in range(RESAMPLES):
        u, v = generator.choice(x, len(x)), generator.choice(y, len(y))
        expected.append(np.mean([(a > b) + 0.5 * (a == b) for a in u for b in v]))
    value, low, high = probability_of_improvement(x, y, resamples=RESAMPLES)
    assert (low, high) == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=0.03)
    back = probability_of_improvement(y, x, resamples=RESAMPLES)
    assert value + back.value == pytest.approx(1)
    assert (low, high) == pytest.approx((1 - back.high, 1 - back.low), abs=0.03)


def test_with_one_seed_there_is_no_bootstrap_interval():
    for x, y in (draw(1, 5), draw(5, 1)):
        value, *ends = probability_of_improvement(x, y)
        assert (math.isfinite(value), *map(math.isnan, ends)) == (True, True, True)


@pytest.mark.parametrize(("n", "m"), [(10, 10), (5, 5), (4, 7), (2, 3)])
def test_without_ties_p_is_scipys_exact_one(n, m):
    generator = np.random.default_rng(n)
    for shift in (0, 1, 3):
        x, y = generator.normal(shift, 1, n), generator.normal(0, 1, m)
        assert rank_test(x, y) == pytest.approx(mannwhitneyu(x, y, method="exact").pvalue)


def test_with_ties_p_is_that_of_all_permutations():
    x, y = np.array([3.0, 1, 90, 90]), np.array([1.0, 1, 2, 3, 0])
    everything = np.concatenate([x, y])
    below = [sum((other < v) + 0.5 * (other == v) for other in everything) for v in everything]
    sums = np.array([sum(below[i] for i in ids) for ids in itertools.combinations(range(9), 4)])
    far = abs(sum(below[:4]) - sums.mean()) - 1e-9
    assert rank_test(x, y) == pytest.approx((np.abs(sums - sums.mean()) >= far).mean())


def test_the_least_p_needs_all_seeds_better_and_one_diverged_seed_barely_raises_it():
    for n in (5, 10):
        assert rank_test(np.arange(n), np.arange(n) + n) == pytest.approx(least_p(n))
    assert (least_p(5), least_p(1)) == (2 / 252, 1)
    good, bad = np.linspace(2, 3, 10), np.linspace(4, 5, 10)
    good[3] = 90.0
    assert rank_test(good, bad) == rank_test(bad[::-1], good) < 0.01
    assert rank_test(good, good) == 1


def test_holms_values_by_hand():
    # sorted 0.01 0.02 0.03 0.5: times 4, 3, 2, 1 is 0.04 0.06 0.06 0.5
    adjusted = holm(np.array([0.03, 0.5, 0.01, 0.02]))
    assert adjusted == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm(np.array([0.02, 0.015])) == pytest.approx([0.03, 0.03])  # never falls
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]
    untested = holm(np.array([0.01, math.nan, math.nan]))  # they count
    assert untested == pytest.approx([0.03, math.nan, math.nan], nan_ok=True)
