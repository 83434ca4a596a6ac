"""The three action formats: their spaces, and how an action is checked and read.

Dimension key:
    N: lanes (sub-environments)
    K: classes
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Any

import numpy as np
from gymnasium import spaces

from ram_env import arrays as xp
from ram_env.arrays import Array


@dataclass(frozen=True)
class Decision:
    """What N agents decided: their actions, checked and clipped, whatever the format.

    Attributes:
        location: Where to look next, in [-1, 1]. Shape (N, 2), float32.
        label: Predicted class. Shape (N,), int64.
        scores: Class scores, where the format has them. Shape (N, K), float32.
        stop: Whether to end the episode, where offered, on the host. Shape (N,), bool.
    """

    location: Array
    label: Array
    scores: Array | None = None
    stop: np.ndarray | None = None


class ActionFormat(ABC):
    """One way to encode a decision, in the action space of a single environment."""

    def __init__(self, space: spaces.Space, limits: dict[str, int]):
        """Take how many values each integer part has; all other parts are finite numbers."""
        self.space, self._limits = space, limits

    def parse(
        self,
        action: Any,
        batch: tuple[int, ...] = (),
        active: np.ndarray | None = None,
        device: str | None = None,
        all_valid: Array | None = None,
    ) -> Decision:
        """Check an action and read the decision in it, with N = 1 for a single environment.

        Args:
            action: Of one environment or a batch; array-likes are accepted.
            batch: () for one environment, (N,) for a batch.
            active: Lanes whose action counts; the others may hold anything. None: all.
                Shape (N,), bool, on the host.
            device: Where the decision's arrays go; None for NumPy.
            all_valid: A flag on the device. An invalid lane clears it and acts as if its numbers
                were 0; the host does not wait. Shape (), bool.

        Raises:
            ValueError: If a shape or dtype kind is wrong, a number is NaN or infinite, or a
                label, grid cell or stop is out of range.
        """
        parts = self._read(action, batch, device)
        if active is not None and not active.all():
            resting = xp.to_device(~active, device)
            for name, part in parts.items():
                parts[name] = xp.copy(part)  # the memory may be the caller's
                parts[name][resting] = 0
        valid = reduce(and_, (self._is_valid(*part) for part in parts.items()))  # (N,)
        stop = None
        if "stop" in parts:  # one transfer for both
            valid, stop = xp.to_host(xp.library(valid).stack((valid, parts["stop"] == 1)))
        if all_valid is not None:
            all_valid &= valid.all()
            for name, part in parts.items():
                rows = valid[:, None] if part.ndim == 2 else valid
                parts[name] = xp.library(part).where(rows, part, 0)
        elif not valid.all():
            lane = int(xp.to_host(valid).argmin())
            rows = {name: part[lane : lane + 1] for name, part in parts.items()}
            name = next(name for name in rows if not self._is_valid(name, rows[name]).all())
            limit, got = self._limits.get(name), xp.to_host(rows[name])[0].tolist()
            allowed = "finite in float32" if limit is None else f"in 0..{limit - 1}"
            where = f" in lane {lane}" if batch else ""
            raise ValueError(f"action: {name} must be {allowed}, got {got}{where}")
        return Decision(*self._decide(parts), stop)

    @abstractmethod
    def _read(self, action: Any, batch: tuple[int, ...], device: str | None) -> dict[str, Array]:
        """Check shapes and dtype kinds; return the parts with a leading N."""

    @abstractmethod
    def _decide(self, parts: dict[str, Array]) -> tuple[Array, Array, Array | None]:
        """Return location, label and scores."""

    def _is_valid(self, name: str, part: Array) -> Array:
        """Return which lanes hold allowed values, (N,), bool."""
        if name in self._limits:
            return (part >= 0) & (part < self._limits[name])
        return xp.library(part).isfinite(part).all(1)


class BoxFormat(ActionFormat):
    """x, y, then K class scores (the first highest wins).

    With ``allow_stop``, a last number: above 0 stops.
    """

    def __init__(self, num_classes: int, allow_stop: bool, grid: Any = None):
        self._width, self._scores = 2 + num_classes + allow_stop, slice(2, 2 + num_classes)
        limits = {"stop": 2} if allow_stop else {}
        super().__init__(spaces.Box(-1, 1, (self._width,), np.float32), limits)

    def _read(self, action: Any, batch: tuple[int, ...], device: str | None) -> dict[str, Array]:
        if isinstance(action, Mapping):
            raise ValueError("action must be an array, got a dict: it needs action_format='dict'")
        array = _read("action", action, (*batch, self._width), "float32", device)
        parts = {"all numbers": array.reshape(-1, self._width)}
        return parts | ({"stop": parts["all numbers"][:, -1] > 0} if self._limits else {})

    def _decide(self, parts: dict[str, Array]) -> tuple[Array, Array, Array | None]:
        entries = parts["all numbers"]
        scores = entries[:, self._scores]
        return entries[:, :2].clip(-1, 1), scores.argmax(1), scores


class DictFormat(ActionFormat):
    """``{"location": (x, y), "label": class}``, and ``"stop"``: 0 or 1 where offered."""

    def __init__(self, num_classes: int, allow_stop: bool, grid: Any = None):
        limits = {"label": num_classes, **({"stop": 2} if allow_stop else {})}
        location = {"location": spaces.Box(-1, 1, (2,), np.float32)}
        integers = {name: spaces.Discrete(limit) for name, limit in limits.items()}
        super().__init__(spaces.Dict({**location, **integers}), limits)

    def _read(self, action: Any, batch: tuple[int, ...], device: str | None) -> dict[str, Array]:
        names = sorted(["location", *self._limits])
        if not isinstance(action, Mapping) or {*action} != {*names}:
            got = sorted(map(str, action)) if isinstance(action, Mapping) else type(action).__name__
            raise ValueError(f"action must be a dict of {names}, got {got}")
        parts = {"location": ((*batch, 2), "float32", (-1, 2))}
        parts |= dict.fromkeys(self._limits, (batch, "int64", (-1,)))
        return {
            name: _read(f"action[{name!r}]", action[name], shape, dtype, device).reshape(flat)
            for name, (shape, dtype, flat) in parts.items()
        }

    def _decide(self, parts: dict[str, Array]) -> tuple[Array, Array, Array | None]:
        return parts["location"].clip(-1, 1), parts["label"], None


class MultiDiscreteFormat(ActionFormat):
    """Column, row, class, and stop where offered; the location is the grid cell's centre."""

    def __init__(self, num_classes: int, allow_stop: bool, grid: tuple[int, int]):
        limits = {"column": grid[0], "row": grid[1], "label": num_classes}
        limits |= {"stop": 2} if allow_stop else {}
        super().__init__(spaces.MultiDiscrete([*limits.values()]), limits)
        self._centres = [
            ((2 * np.arange(cells) + 1) / cells - 1).astype(np.float32) for cells in grid
        ]

    def _read(self, action: Any, batch: tuple[int, ...], device: str | None) -> dict[str, Array]:
        width = len(self._limits)
        array = _read("action", action, (*batch, width), "int64", device).reshape(-1, width)
        return {name: array[:, column] for column, name in enumerate(self._limits)}

    def _decide(self, parts: dict[str, Array]) -> tuple[Array, Array, Array | None]:
        cells = parts["column"], parts["row"]
        location = xp.new_empty(cells[0], (len(cells[0]), 2), "float32")
        for axis, centres in enumerate(self._centres):
            location[:, axis] = xp.to_device(centres, xp.device_of(location))[cells[axis]]
        return location, xp.copy(parts["label"]), None


FORMATS = {"box": BoxFormat, "dict": DictFormat, "multidiscrete": MultiDiscreteFormat}
"""The format with each name; called with K, whether to offer a stop, and (columns, rows)."""


def _read(name: str, value: Any, shape: tuple[int, ...], dtype: str, device: str | None) -> Array:
    """Read real numbers ("float32") or integers ("int64") of this shape."""
    array, kind = xp.to_array(name, value, device)
    kinds, wanted = ("iub", "integers") if dtype == "int64" else ("fiu", "real numbers")
    if kind not in kinds:
        raise ValueError(f"{name} must hold {wanted}, got dtype {array.dtype}")
    if tuple(array.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(array.shape)}")
    return xp.cast(array, dtype)
