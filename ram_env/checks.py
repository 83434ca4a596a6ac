"""Checks of arguments that several modules share, and of what a reset is given.

Dimension key: N lanes (sub-environments), n lanes to reset.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ram_env.arrays import cast, to_array


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
    wanted = "None or a Python int >= 0 (in a vector environment, or a list with one per lane)"
    expect(seed is None or given, f"seed must be {wanted}, got {seed!r}")


def check_glimpse(name: str, size: Any, num_scales: Any, side: int) -> None:
    """Raise ValueError unless glimpses of these sizes make sense on an image of ``side`` px."""
    check_int(name, size, 2, side)
    check_int("num_scales", num_scales, 1, 8)
    expect(size % 2 == 0, f"{name} must be even, got {size}")
    coarsest = size * 2 ** (num_scales - 1)
    wide = f"num_scales={num_scales} makes the coarsest patch {coarsest} px wide, more than twice"
    advice = "use fewer scales or a larger image"
    expect(coarsest <= 2 * side, f"{wide} the image ({side} px): {advice}")


def to_python(value: Any) -> Any:
    """Return a NumPy scalar as Python's, anything else as it is, for the checks to refuse."""
    return value.item() if isinstance(value, np.generic) else value


def read_options(
    options: dict[str, Any] | None, num_lanes: int, num_scenes: int, *, vector: bool
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Check ``index``, ``location`` and, in a vector env, ``reset_mask``.

    Lanes that the mask leaves out may hold anything.

    Returns:
        The lanes to reset, shape (n,), int64, and the scene of each, shape (n,), int64, and its
        first location, shape (n, 2), float32, or None where they are to be drawn.

    Raises:
        ValueError: If an option is unknown or its value not allowed.
    """
    allowed = ["index", "location"] + ["reset_mask"] * vector
    known = options is None or (isinstance(options, Mapping) and {*options} <= {*allowed})
    expect(known, f"options must be None or a dict of some of {allowed}, got {options!r}")
    read = {k: to_array(f"options[{k!r}]", v) for k, v in (options or {}).items() if v is not None}
    lanes, chosen = np.arange(num_lanes), {}
    if "reset_mask" in read:
        mask, _ = read["reset_mask"]
        fits = mask.dtype == np.bool_ and mask.shape == (num_lanes,) and mask.any()
        wanted = f"bool of shape ({num_lanes},) with at least one True"
        expect(fits, f"options['reset_mask'] must be {wanted}, got {mask}")
        lanes = np.flatnonzero(mask)
    table = {  # dtype kinds, dtype, shape, lowest and highest value
        "index": ("iu", "int64", (), 0, num_scenes - 1),
        "location": ("fiu", "float32", (2,), -1, 1),
    }
    for name in table.keys() & read.keys():
        kinds, dtype, shape, low, high = table[name]
        given, kind = read[name]
        inside = kind in kinds and given.shape in (shape, (num_lanes, *shape))
        if inside:
            rows = np.broadcast_to(given, (num_lanes, *shape))[lanes]
            chosen[name] = cast(rows, dtype)
            inside = ((chosen[name] >= low) & (chosen[name] <= high)).all()
        wanted = f"in {low}..{high}, of shape {shape} or, per lane, {(num_lanes, *shape)}"
        expect(inside, f"options[{name!r}] must be {wanted}; got {given}, {given.dtype}")
    return lanes, chosen.get("index"), chosen.get("location")


def seeds_of_lanes(seed: int | Sequence[int | None] | None, num_lanes: int) -> list[int | None]:
    """Return one seed per lane: s, s + 1, ... for an int, None for lanes that stay unseeded."""
    if not isinstance(seed, Sequence):
        check_seed(seed)
        return [None if seed is None else seed + lane for lane in range(num_lanes)]
    fits = len(seed) == num_lanes and not isinstance(seed, bytes)  # which hold ints, too
    expect(fits, f"seed must hold one entry per lane, {num_lanes}, got {seed!r}")
    for entry in seed:
        check_seed(entry)
    return list(seed)
