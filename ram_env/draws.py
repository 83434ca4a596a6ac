"""Counter-based random draws: every number is a pure function of (key, counter, place).

A lane's whole randomness is then two integers, its key and the number of its episode. Episodes
can't depend on the number of lanes, on the device or on earlier actions, and saving a state
means saving two integers. Words are uint64 in NumPy. Torch hardly supports it, so there the
same bits are int64, whose arithmetic wraps alike.

Dimension key:
    n: lanes (sub-environments) that draw
    D: words drawn per lane
"""

from typing import Any

import numpy as np

from ram_env import arrays as xp
from ram_env.arrays import Array

_GAMMA = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, SplitMix64's increment


def lane_key(seed: int) -> int:
    """Spread a seed over 64 bits, so that neighbouring seeds share nothing."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])


def draw_key(generator: np.random.Generator) -> int:
    """Draw the key of a lane that was never seeded from a generator."""
    return int(generator.integers(2**64, dtype=np.uint64))


def named_key(name: str) -> int:
    """Return the first eight bytes of a name: a pinned key, which no library's change can move."""
    return int.from_bytes(name.encode()[:8].ljust(8), "big")


def to_words(keys: np.ndarray, device: str | None) -> Array:
    """Return uint64 as words on ``device`` (None: themselves)."""
    return keys if device is None else xp.to_device(keys.view(np.int64), device)


def to_keys(words: Array) -> np.ndarray:
    """Return words as uint64 on the host."""
    return xp.to_host(words).view(np.uint64)


def draw_words(keys: Array, counters: Array, num_words: int) -> Array:
    """Draw the random words of one episode per lane.

    Word d of (key, counter) is output d of a SplitMix64 stream that starts at a mix of both.

    Args:
        keys: The lanes' keys. Shape (n,), words.
        counters: Numbers of their episodes, non-negative. Shape (n,), integers.
        num_words: D.

    Returns:
        Independent uniform 64-bit words, where the keys are. Shape (n, D).

    Source:
        Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators":
        SplitMix64 with the finaliser of Stafford's variant 13.
    """
    gamma, counters = _like(keys, _GAMMA), xp.cast(counters, xp.dtype_name(keys))
    starts = _mix(keys + _mix(counters * gamma + gamma))  # (n,)
    places = xp.arange(keys, 1, num_words + 1) * gamma  # (D,)
    return _mix(starts[:, None] + places)  # (n, D)


def below(words: Array, bound: int | Array) -> Array:
    """Map words to integers (int64) in 0 .. bound - 1 by multiply and shift.

    ``bound`` is 1 to 2^31, or as many in words; a probability is off by less than 2^-32.
    """
    return xp.cast(_shifted(words, 32) * bound >> 32, "int64")


def uniform_locations(words: Array) -> Array:
    """Map words to coordinates uniform in (-1, 1), symmetric about 0, float32.

    They are odd multiples of 2^-23, so exact.
    """
    odd = 2 * xp.cast(_shifted(words, 41), "int64") + 1  # below 2^24
    return xp.cast(odd, "float32") / 2**23 - 1


def _mix(words: Array) -> Array:
    """Scramble words with SplitMix64's finaliser, a bijection; ``words`` is overwritten."""
    words ^= _shifted(words, 30)
    words *= _like(words, 0xBF58476D1CE4E5B9)
    words ^= _shifted(words, 27)
    words *= _like(words, 0x94D049BB133111EB)
    words ^= _shifted(words, 31)
    return words


def _like(words: Array, constant: int) -> Any:
    """Return a constant of 64 bits, the highest of them set, as the words' library takes it."""
    return constant - 2**64 if xp.is_tensor(words) else np.uint64(constant)


def _shifted(words: Array, places: int) -> Array:
    """Shift to the right and fill with zeros, where int64 would fill with the sign."""
    shifted = words >> places
    return shifted & (2 ** (64 - places) - 1) if xp.is_tensor(words) else shifted
