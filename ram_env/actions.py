"""The three action formats: their spaces, and how an action becomes a checked move.

Dimension key:
    N: lanes (sub-environments)
    K: classes
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from ram_env.arrays import (
    Array,
    cast,
    copy,
    device_of,
    isfinite,
    new_empty,
    stack,
    to_array,
    to_device,
    to_host,
)


@dataclass(frozen=True)
class Move:
    """What N agents decided, checked and clipped.

    Attributes:
        location: Where to look next, in [-1, 1]. Shape (N, 2), float32.
        label: Class named. Shape (N,), int64.
        scores: Class scores, where the format has them. Shape (N, K), float32.
        stop: Whether to end here, on the host; None where stopping isn't offered.
            Shape (N,), bool.
    """

    location: Array
    label: Array
    scores: Array | None = None
    stop: np.ndarray | None = None


class ActionFormat(ABC):
    """One way to write a move down.

    Args:
        num_classes: K.
        allow_stop: Whether the action has a stop.

    Attributes:
        space: Of a single environment's action.
    """

    space: spaces.Space

    def __init__(self, num_classes: int, allow_stop: bool):
        self._num_classes, self._allow_stop = num_classes, allow_stop

    def parse(
        self,
        action: Any,
        batch: tuple[int, ...] = (),
        active: np.ndarray | None = None,
        device: str | None = None,
    ) -> Move:
        """Check an action and turn it into a move; nothing else is touched.

        Args:
            action: Of one environment or a batch; array-likes are accepted.
            batch: () for one environment, (N,) for a batch.
            active: Lanes whose action counts; the others may hold anything. None: all.
                Shape (N,), bool, on the host.
            device: Where the move's arrays go; None for NumPy.

        Returns:
            The move, with N = 1 for a single environment.

        Raises:
            ValueError: If a shape or dtype kind is wrong, a number is NaN or infinite, or a
                label, grid cell or stop is out of range.
        """
        parts = self._read(action, batch, device)
        if active is not None and not active.all():  # what rests may hold anything: blank it
            resting = to_device(~active, device)
            for name, part in parts.items():
                parts[name] = copy(part)  # it may be the caller's
                parts[name][resting] = 0
        ok = self._in_range(parts)  # (N,)
        stop = None
        if self._allow_stop:  # one transfer for both
            ok, stop = to_host(stack((ok, self._stop(parts))))
        if not ok.all():
            self._explain(parts, int(to_host(ok).argmin()))
        return Move(*self._decide(parts), stop)

    @abstractmethod
    def _read(self, action: Any, batch: tuple[int, ...], device: str | None) -> dict[str, Array]:
        """Check shapes and dtype kinds; return named arrays with a leading N."""

    @abstractmethod
    def _in_range(self, parts: dict[str, Array]) -> Array:
        """Tell which lanes hold allowed values, (N,), bool."""

    @abstractmethod
    def _decide(self, parts: dict[str, Array]) -> tuple[Array, Array, Array | None]:
        """Return location, label and scores."""

    @abstractmethod
    def _stop(self, parts: dict[str, Array]) -> Array:
        """Return who stops, (N,), bool."""

    @abstractmethod
    def _explain(self, parts: dict[str, Array], lane: int) -> None:
        """Raise the ValueError that says what is wrong in ``lane``."""


class BoxFormat(ActionFormat):
    """x, y, then K class scores (the first highest wins), then > 0 stops where offered."""

    def __init__(self, num_classes: int, allow_stop: bool):
        super().__init__(num_classes, allow_stop)
        self._width = 2 + num_classes + allow_stop
        self.space = spaces.Box(-1, 1, (self._width,), np.float32)

    def _read(self, action: Any, batch: tuple[int, ...], device: str | None) -> dict[str, Array]:
        array = _to_floats("action", action, (*batch, self._width), device)
        return {"action": array.reshape(-1, self._width)}

    def _in_range(self, parts: dict[str, Array]) -> Array:
        return isfinite(parts["action"]).all(1)

    def _decide(self, parts: dict[str, Array]) -> tuple[Array, Array, Array | None]:
        action = parts["action"]
        scores = action[:, 2 : 2 + self._num_classes]
        return action[:, :2].clip(-1, 1), scores.argmax(1), scores

    def _stop(self, parts: dict[str, Array]) -> Array:
        return parts["action"][:, -1] > 0

    def _explain(self, parts: dict[str, Array], lane: int) -> None:
        got = to_host(parts["action"][lane])
        raise ValueError(f"action must be finite, got {got} in lane {lane}")


class DictFormat(ActionFormat):
    """``{"location": (x, y), "label": class}``, and ``"stop"``: 0 or 1 where offered."""

    def __init__(self, num_classes: int, allow_stop: bool):
        super().__init__(num_classes, allow_stop)
        parts: dict[str, spaces.Space] = {
            "location": spaces.Box(-1, 1, (2,), np.float32),
            "label": spaces.Discrete(num_classes),
        }
        if allow_stop:
            parts["stop"] = spaces.Discrete(2)
        self.space = spaces.Dict(parts)
        self._keys = set(parts)

    def _read(self, action: Any, batch: tuple[int, ...], device: str | None) -> dict[str, Array]:
        if not isinstance(action, Mapping) or {*action} != self._keys:
            got = sorted(map(str, action)) if isinstance(action, Mapping) else type(action).__name__
            raise ValueError(f"action must be a dict of {sorted(self._keys)}, got {got}")
        parts = {
            name: _to_integers(f"action[{name!r}]", action[name], batch, device).reshape(-1)
            for name in self._keys - {"location"}
        }
        location = _to_floats("action['location']", action["location"], (*batch, 2), device)
        return {"location": location.reshape(-1, 2), **parts}

    def _in_range(self, parts: dict[str, Array]) -> Array:
        label = parts["label"]
        ok = isfinite(parts["location"]).all(1) & (label >= 0) & (label < self._num_classes)
        return ok & (parts["stop"] >= 0) & (parts["stop"] <= 1) if self._allow_stop else ok

    def _decide(self, parts: dict[str, Array]) -> tuple[Array, Array, Array | None]:
        return parts["location"].clip(-1, 1), parts["label"], None

    def _stop(self, parts: dict[str, Array]) -> Array:
        return parts["stop"] == 1

    def _explain(self, parts: dict[str, Array], lane: int) -> None:
        got = {name: to_host(part[lane]).tolist() for name, part in sorted(parts.items())}
        stop = ", stop 0 or 1" if self._allow_stop else ""
        raise ValueError(
            f"action['location'] must be finite, action['label'] in 0..{self._num_classes - 1}"
            f"{stop}; got {got} in lane {lane}"
        )


class MultiDiscreteFormat(ActionFormat):
    """Column, row, class, and stop where offered; the location is the grid cell's centre.

    Args:
        num_classes: K.
        allow_stop: Whether the action has a stop.
        grid: Columns and rows.
    """

    def __init__(self, num_classes: int, allow_stop: bool, grid: tuple[int, int]):
        super().__init__(num_classes, allow_stop)
        self._limits = np.array([*grid, num_classes] + [2] * allow_stop)
        self.space = spaces.MultiDiscrete(self._limits)
        self._centres = [
            ((2 * np.arange(cells) + 1) / cells - 1).astype(np.float32) for cells in grid
        ]

    def _read(self, action: Any, batch: tuple[int, ...], device: str | None) -> dict[str, Array]:
        width = len(self._limits)
        array = _to_integers("action", action, (*batch, width), device)
        return {"action": array.reshape(-1, width)}

    def _in_range(self, parts: dict[str, Array]) -> Array:
        action = parts["action"]
        limits = to_device(self._limits, device_of(action))
        return ((action >= 0) & (action < limits)).all(1)

    def _decide(self, parts: dict[str, Array]) -> tuple[Array, Array, Array | None]:
        action = parts["action"]
        location = new_empty(action, (len(action), 2), "float32")
        for axis, centres in enumerate(self._centres):
            location[:, axis] = to_device(centres, device_of(action))[action[:, axis]]
        return location, action[:, 2], None

    def _stop(self, parts: dict[str, Array]) -> Array:
        return parts["action"][:, 3] == 1

    def _explain(self, parts: dict[str, Array], lane: int) -> None:
        raise ValueError(
            f"action must lie in 0..{(self._limits - 1).tolist()}, "
            f"got {to_host(parts['action'][lane]).tolist()} in lane {lane}"
        )


def make_format(
    name: str, num_classes: int, allow_stop: bool, grid: tuple[int, int]
) -> ActionFormat:
    """Return the action format called ``name``."""
    if name == "multidiscrete":
        return MultiDiscreteFormat(num_classes, allow_stop, grid)
    return {"box": BoxFormat, "dict": DictFormat}[name](num_classes, allow_stop)


def _to_floats(name: str, value: Any, shape: tuple[int, ...], device: str | None) -> Array:
    array, kind = to_array(name, value, device)
    _check(name, array, kind, shape, "fiu", "real numbers")
    return cast(array, "float32")


def _to_integers(name: str, value: Any, shape: tuple[int, ...], device: str | None) -> Array:
    array, kind = to_array(name, value, device)
    _check(name, array, kind, shape, "iu", "integers")
    return cast(array, "int64")


def _check(
    name: str, array: Array, kind: str, shape: tuple[int, ...], kinds: str, wanted: str
) -> None:
    if kind not in kinds:
        raise ValueError(f"{name} must hold {wanted}, got dtype {array.dtype}")
    if tuple(array.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(array.shape)}")
