"""Options and seeds of a reset, checked before anything changes.

Dimension key:
    N: lanes (sub-environments)
    n: lanes to reset
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ram_env.arrays import cast, to_array
from ram_env.checks import check_seed, expect


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
    options = {} if options is None else options
    wanted = isinstance(options, Mapping)
    expect(wanted, f"options must be None or a dict, got {options!r}")
    allowed = ["index", "location"] + ["reset_mask"] * vector
    unknown = sorted(map(str, {*options} - {*allowed}))
    expect(not unknown, f"unknown reset options {unknown}; allowed: {allowed}")
    read = {k: to_array(f"options[{k!r}]", v) for k, v in options.items() if v is not None}
    lanes, index, location = np.arange(num_lanes), None, None
    per_lane = f"one or one per lane ({num_lanes})"
    if "reset_mask" in read:
        mask, _ = read["reset_mask"]
        fits = mask.dtype == np.bool_ and mask.shape == (num_lanes,) and mask.any()
        wanted = f"bool of shape ({num_lanes},) with at least one True"
        got = f"{mask.dtype} of shape {mask.shape} with {np.count_nonzero(mask)} set"
        expect(fits, f"options['reset_mask'] must be {wanted}, got {got}")
        lanes = np.flatnonzero(mask)
    if "index" in read:
        given, kind = read["index"]
        if kind in "iu" and given.shape in ((), (num_lanes,)):
            index = np.broadcast_to(given, (num_lanes,))[lanes].astype(np.int64)
        inside = index is not None and ((index >= 0) & (index < num_scenes)).all()
        wanted = f"an integer in 0..{num_scenes - 1}, {per_lane}"
        expect(inside, f"options['index'] must be {wanted}, got {given}")
    if "location" in read:
        given, kind = read["location"]
        if kind in "fiu" and given.shape in ((2,), (num_lanes, 2)):
            location = cast(np.broadcast_to(given, (num_lanes, 2))[lanes], "float32")
        inside = location is not None and (np.abs(location) <= 1).all()
        expect(inside, f"options['location'] must be (x, y) in [-1, 1], {per_lane}, got {given}")
    return lanes, index, location


def seeds_of_lanes(seed: int | Sequence[int | None] | None, num_lanes: int) -> list[int | None]:
    """Return one seed per lane: s, s + 1, ... for an int, None for lanes that stay unseeded.

    Raises:
        ValueError: If the seed is neither None, an int >= 0 nor a list of N of these.
    """
    if seed is None:
        return [None] * num_lanes
    if not isinstance(seed, Sequence):
        try:
            check_seed(seed)
        except ValueError as error:
            raise ValueError(f"{error}, or a list of {num_lanes} of these") from error
        return [seed + lane for lane in range(num_lanes)]
    if len(seed) != num_lanes or isinstance(seed, bytes):  # which hold ints, too
        raise ValueError(f"seed must hold one entry per lane, {num_lanes}, got {seed!r}")
    for entry in seed:
        check_seed(entry)
    return list(seed)
