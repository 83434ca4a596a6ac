"""The three action formats: their spaces, and how an action is checked and read.

Dimension key: N lanes (sub-environments), K classes.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Any

import numpy as np
from gymnasium import spaces

from ram_env import arrays as xp
from ram_env.arrays import Array

FORMATS = ("box", "dict", "multidiscrete")


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


class ActionFormat:
    """One way to encode a decision, in the action space of a single environment.

    Args:
        name: One of :data:`FORMATS`; the environments' page describes them.
        num_classes: K.
        allow_stop: Whether an action has a part that stops.
        grid: Columns and rows of "multidiscrete".
    """

    def __init__(self, name: str, num_classes: int, allow_stop: bool, grid: tuple[int, int]):
        self._name, self._num_classes = name, num_classes
        # How many values each integer part has; all other parts are finite numbers
        self._limits = {"label": num_classes, **({"stop": 2} if allow_stop else {})}
        if name == "box":
            self.space = spaces.Box(-1, 1, (2 + num_classes + allow_stop,), np.float32)
            del self._limits["label"]
        elif name == "dict":
            integers = {part: spaces.Discrete(limit) for part, limit in self._limits.items()}
            location = spaces.Box(-1, 1, (2,), np.float32)
            self.space = spaces.Dict({"location": location, **integers})
        else:
            self._limits = {"column": grid[0], "row": grid[1], **self._limits}
            self.space = spaces.MultiDiscrete([*self._limits.values()])
        self._centres = [((2 * np.arange(n) + 1) / n - 1).astype(np.float32) for n in grid]

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

    def _read(self, action: Any, batch: tuple[int, ...], device: str | None) -> dict[str, Array]:
        """Check shapes and dtype kinds; return the parts with a leading N."""
        if self._name == "box":
            numbers = _read("action", action, batch, self.space.shape, "float32", device)
            stop = {"stop": numbers[:, -1] > 0} if self._limits else {}
            return {"all numbers": numbers, **stop}
        if self._name == "multidiscrete":
            array = _read("action", action, batch, self.space.shape, "int64", device)
            return {name: array[:, column] for column, name in enumerate(self._limits)}
        names = sorted(["location", *self._limits])
        if not isinstance(action, Mapping) or {*action} != {*names}:
            raise ValueError(f"action must be a dict of {names}, got {reprlib.repr(action)}")
        kinds = {"location": ((2,), "float32"), **dict.fromkeys(self._limits, ((), "int64"))}
        return {
            name: _read(f"action[{name!r}]", action[name], batch, shape, dtype, device)
            for name, (shape, dtype) in kinds.items()
        }

    def _decide(self, parts: dict[str, Array]) -> tuple[Array, Array, Array | None]:
        """Return location, label and scores."""
        if self._name == "box":
            entries = parts["all numbers"]
            scores = entries[:, 2 : 2 + self._num_classes]
            return entries[:, :2].clip(-1, 1), scores.argmax(1), scores
        if self._name == "dict":
            return parts["location"].clip(-1, 1), parts["label"], None
        cells = parts["column"], parts["row"]
        location = xp.new_empty(cells[0], (len(cells[0]), 2), "float32")
        for axis, centres in enumerate(self._centres):
            location[:, axis] = xp.to_device(centres, xp.device_of(location))[cells[axis]]
        return location, xp.copy(parts["label"]), None

    def _is_valid(self, name: str, part: Array) -> Array:
        """Return which lanes hold allowed values, (N,), bool."""
        if name in self._limits:
            return (part >= 0) & (part < self._limits[name])
        return xp.library(part).isfinite(part).all(1)


def _read(name: str, value: Any, batch: Any, shape: Any, dtype: str, device: str | None) -> Array:
    """Read real numbers ("float32") or integers ("int64") of this shape, with a leading N."""
    array, kind = xp.to_array(name, value, device)
    kinds, wanted = ("iub", "integers") if dtype == "int64" else ("fiu", "real numbers")
    if kind not in kinds or tuple(array.shape) != (*batch, *shape):
        got = f"{array.dtype} of shape {tuple(array.shape)}"
        raise ValueError(f"{name} must hold {wanted}, of shape {(*batch, *shape)}, got {got}")
    return xp.cast(array, dtype).reshape(-1, *shape)
