"""Draws are SplitMix64, number for number."""

import numpy as np
import pytest

from ram_env.draws import below, draw_key, draw_words, lane_key, named_key, uniform_locations

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15
MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def slow_mix(word: int) -> int:
    for shift, multiplier in MULTIPLIERS:
        word = (word ^ (word >> shift)) * multiplier & MASK
    return word


def slow_words(key: int, counter: int, num_words: int) -> list[int]:
    """Word d is output d of SplitMix64 seeded mix(key + mix(gamma (counter + 1)))."""
    return slow_stream(slow_mix((key + slow_mix((counter + 1) * GAMMA & MASK)) & MASK), num_words)


def slow_stream(seed: int, num_words: int) -> list[int]:
    return [slow_mix((seed + (d + 1) * GAMMA) & MASK) for d in range(num_words)]


def slow_below(word: int, bound: int) -> int:
    return (word >> 32) * bound >> 32


KEYS = [0, 1, 2**63, MASK, lane_key(0), named_key("test")]
COUNTERS = [0, 1, 2, 59_999, 2**32, 2**62]


def test_words_equal_slow_integers():
    keys = np.array([key for key in KEYS for _ in COUNTERS], np.uint64)
    counters = np.array(COUNTERS * len(KEYS))
    expected = [slow_words(key, counter, 7) for key in KEYS for counter in COUNTERS]
    before = keys.tobytes() + counters.tobytes()
    assert draw_words(keys, counters, 7).tolist() == expected
    assert keys.tobytes() + counters.tobytes() == before  # the caller's arrays are left alone


def test_the_slow_integers_are_the_published_splitmix64_stream():
    # The first outputs of the reference implementation (Vigna) from the seed 1234567.
    assert slow_stream(1234567, 5) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_keys_never_change():
    assert named_key("test") == 0x7465737420202020  # ASCII, padded with spaces
    assert named_key("validation") == 0x76616C6964617469
    splits = ("train", "validation", "test", "train+validation")
    assert len({named_key(split) for split in splits}) == 4
    assert lane_key(0) == 15793235383387715774
    assert len({lane_key(seed) for seed in range(1000)}) == 1000
    keys = [draw_key(np.random.default_rng(0)) for _ in range(2)]
    assert keys[0] == keys[1]
    assert 0 <= keys[0] <= MASK


@pytest.mark.parametrize("bound", [1, 2, 3, 33, 55_000, 2**31])
def test_below_equals_slow_integers_from_the_first_outcome_to_the_last(bound):
    words = draw_words(np.array([3], np.uint64), np.array([0]), 500)[0]
    words[:2] = 0, MASK
    drawn = below(words, bound)
    assert drawn.tolist() == [slow_below(int(word), bound) for word in words]
    assert drawn[:2].tolist() == [0, bound - 1]


def test_locations_are_symmetric_inside_the_image_and_exact():
    words = draw_words(np.array([1], np.uint64), np.array([0]), 10_000)[0]
    words[:3] = 0, 1, MASK
    locations = uniform_locations(words)
    assert locations.dtype == np.float32
    # 23 bits k give (2 k + 1) / 2^23 - 1: the outermost are 1 - 2^-23, and 0 is not among them.
    assert locations[:3].tolist() == [2**-23 - 1, 2**-23 - 1, 1 - 2**-23]
    assert (uniform_locations(~words) == -locations).all()
    multiples = locations.astype(np.float64) * 2**23
    assert (multiples % 2 == 1).all()  # exact: no rounding on the way to float32
