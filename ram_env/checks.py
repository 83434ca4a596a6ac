"""Checks of arguments that several modules share."""

from typing import Any

import numpy as np


def expect(holds: object, message: str) -> None:
    """Raise ValueError with the message unless something holds."""
    if not holds:
        raise ValueError(message)


def check_int(name: str, value: object, low: int, high: int) -> None:
    """Raise ValueError unless ``value`` is a Python int, which JSON can hold, in low..high."""
    inside = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    expect(inside, f"{name} must be a Python int in {low}..{high}, got {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is True or False."""
    expect(isinstance(value, bool), f"{name} must be True or False, got {value!r}")


def check_scale(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is a number in 0.5..1.5, or two, the lower one first."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    numbers = all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in pair)
    inside = len(pair) == 2 and numbers and 0.5 <= pair[0] <= pair[1] <= 1.5
    wanted = "a number in 0.5..1.5, or (lowest, highest) of such numbers"
    expect(inside, f"{name} must be {wanted}, got {value!r}")


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is among ``allowed``."""
    wanted = ", ".join(map(repr, allowed))
    expect(value in allowed, f"{name} must be one of {wanted}, got {value!r}")


def check_seed(seed: object) -> None:
    """Raise ValueError unless ``seed`` is None or an int >= 0."""
    given = isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0
    expect(seed is None or given, f"seed must be None or a Python int >= 0, got {seed!r}")


def check_glimpse(name: str, size: Any, num_scales: Any, side: int) -> None:
    """Raise ValueError unless glimpses of these sizes make sense on an image of ``side`` px."""
    large = isinstance(size, int) and size > side
    expect(not large, f"{name} must be at most the side of the image, {side} px, got {size}")
    check_int(name, size, 2, side)
    check_int("num_scales", num_scales, 1, 8)
    expect(size % 2 == 0, f"{name} must be even, got {size}")
    coarsest = size * 2 ** (num_scales - 1)
    wide = f"num_scales={num_scales} makes the coarsest patch {coarsest} px wide, more than twice"
    expect(
        coarsest <= 2 * side, f"{wide} the image ({side} px): use fewer scales or a larger image"
    )


def to_python(value: Any) -> Any:
    """Return a NumPy scalar as Python's, anything else as it is, for the checks to refuse."""
    return value.item() if isinstance(value, np.generic) else value
