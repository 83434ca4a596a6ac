"""Counter-based random draws: every number is a pure function of (key, counter, place).

A lane's whole randomness is then two integers, its key and the number of its episode. Episodes
can't depend on the number of lanes, on the device or on earlier actions, and saving a state
means saving two integers.

Dimension key:
    n: lanes (sub-environments) that draw
    D: words drawn per lane
"""

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, SplitMix64's increment


def lane_key(seed: int) -> int:
    """Spread a seed over 64 bits, so that neighbouring seeds share nothing."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])


def draw_key(generator: np.random.Generator) -> int:
    """Draw the key of a lane that was never seeded from a generator."""
    return int(generator.integers(2**64, dtype=np.uint64))


def named_key(name: str) -> int:
    """Return the first eight bytes of a name: a pinned key, which no library's change can move."""
    return int.from_bytes(name.encode()[:8].ljust(8), "big")


def draw_words(keys: np.ndarray, counters: np.ndarray, num_words: int) -> np.ndarray:
    """Draw the random words of one episode per lane.

    Word d of (key, counter) is output d of a SplitMix64 stream that starts at a mix of both.

    Args:
        keys: The lanes' keys. Shape (n,), uint64.
        counters: Numbers of their episodes, non-negative. Shape (n,), integers.
        num_words: D.

    Returns:
        Independent uniform 64-bit words. Shape (n, D), uint64.

    Source:
        Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators":
        SplitMix64 with the finaliser of Stafford's variant 13.
    """
    starts = _mix(keys + _mix(counters.astype(np.uint64) * _GAMMA + _GAMMA))  # (n,)
    places = np.arange(1, num_words + 1, dtype=np.uint64) * _GAMMA  # (D,)
    return _mix(starts[:, None] + places)  # (n, D)


def below(words: np.ndarray, bound: int | np.ndarray) -> np.ndarray:
    """Map uint64 words to integers (int64) in 0 .. bound - 1 by multiply and shift.

    ``bound``, 1 to 2^31, broadcasts with the words; a probability is off by less than 2^-32.
    """
    scaled = (words >> np.uint64(32)) * np.asarray(bound, np.uint64)
    return (scaled >> np.uint64(32)).astype(np.int64)


def uniform_locations(words: np.ndarray) -> np.ndarray:
    """Map uint64 words to coordinates uniform in (-1, 1), symmetric about 0, float32.

    They are odd multiples of 2^-23, so exact.
    """
    odd = 2 * (words >> np.uint64(41)).astype(np.int64) + 1  # below 2^24
    return (odd / 2**23 - 1).astype(np.float32)


def _mix(words: np.ndarray) -> np.ndarray:
    """Scramble words with SplitMix64's finaliser, a bijection; ``words`` is overwritten."""
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words
