"""Actions of all sorts, and an oracle that says which of them the environments must accept.

The oracle is written from the page of :class:`ram_env.GlimpseEnv` ("Action Space"), on Python's
own numbers. An array-like counts as what NumPy reads it as: numbers of one list share the widest
kind among them, so that ``[True, 2]`` is integers and ``[True, 0.5]`` real numbers.

Dimension key:
    N: lanes
    K: classes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

_TOO_LARGE = 2**128 - 2**103  # what rounds to float32's infinity from here on


@dataclass(frozen=True)
class Rules:
    """What an environment's actions look like.

    Attributes:
        action_format: "box", "dict" or "multidiscrete".
        allow_stop: Whether an action has a stop.
        batch: (N,) of a vector environment, () of a single one.
        num_classes: K.
        grid: Columns and rows of "multidiscrete".
    """

    action_format: str
    allow_stop: bool
    batch: tuple[int, ...]
    num_classes: int = 4
    grid: tuple[int, int] = (3, 2)

    @property
    def limits(self) -> list[int]:
        """Of "multidiscrete": how many values each entry has."""
        return [*self.grid, self.num_classes] + [2] * self.allow_stop


# The oracle


def is_valid(action: Any, rules: Rules) -> bool:
    """Tell whether an environment must accept an action."""
    batch, stop = rules.batch, rules.allow_stop
    if rules.action_format == "box":
        return _are_real(action, (*batch, 2 + rules.num_classes + stop))
    if rules.action_format == "multidiscrete":
        return _are_below(rules.limits, action, (*batch, len(rules.limits)))
    keys = {"location", "label"} | ({"stop"} if stop else set())
    if not isinstance(action, Mapping) or {*action} != keys:
        return False
    return (
        _are_real(action["location"], (*batch, 2))
        and _are_below([rules.num_classes], action["label"], batch)
        and (not stop or _are_below([2], action["stop"], batch))
    )


def _are_real(value: Any, shape: tuple[int, ...]) -> bool:
    """Real numbers, finite as float32, of a shape."""
    kind, got, numbers = _read(value)
    return kind in ("i", "f") and got == shape and all(abs(x) < _TOO_LARGE for x in numbers)


def _are_below(limits: list[int], value: Any, shape: tuple[int, ...]) -> bool:
    """Integers of a shape, each at least 0 and below its limit; the limits repeat."""
    kind, got, numbers = _read(value)
    if kind != "i" or got != shape:
        return False
    return all(0 <= x < limits[i % len(limits)] for i, x in enumerate(numbers))


def _read(value: Any) -> tuple[str, tuple[int, ...], list[Any]]:
    """Return kind (b, i, f or anything else), shape and numbers of an array-like."""
    if isinstance(value, np.ndarray | np.generic):
        kind = value.dtype.kind.replace("u", "i")
        return kind, value.shape, value.ravel().tolist() if kind in "bif" else []
    if isinstance(value, list | tuple | range):
        return _read_sequence(value)
    if isinstance(value, bool):
        return "b", (), [value]
    if isinstance(value, int):  # NumPy has no larger integers
        return "i" if -(2**63) <= value < 2**64 else "none", (), [value]
    return ("f", (), [value]) if isinstance(value, float) else ("none", (), [])


def _read_sequence(items: Sequence[Any]) -> tuple[str, tuple[int, ...], list[Any]]:
    if not items:
        return "f", (0,), []
    parts = [_read(item) for item in items]
    kinds, shapes = {kind for kind, _, _ in parts}, {shape for _, shape, _ in parts}
    if len(shapes) > 1 or not kinds <= {*"bif"}:
        return "none", (), []
    numbers = [number for _, _, numbers in parts for number in numbers]
    return max(kinds, key="bif".index), (len(items), *shapes.pop()), numbers


# The actions

_NUMBERS: list[Any] = [
    *(0, 1, -1, 3, 4, 2**31, 2**63 - 1, 2**63, -(2**63), 2**64, 2**128, 10**400),
    *(0.5, 1.0, -0.0, 1e-320, 3.4e38, 3.5e38, 1e39, -1e300),
    *(float("nan"), float("inf"), -float("inf")),
    *(np.float16(2), np.float16("inf"), np.float32("nan"), np.float64(1e39), np.longdouble(2)),
    *(np.longdouble("1e4000"), np.int8(-1), np.int64(1), np.uint64(2**64 - 1)),
]
_OTHERS: list[Any] = [
    *(None, True, np.bool_(False), 1j, np.complex64(1), "", "0", "nan", b"1", object(), int, dict),
    *([], [[]], (), {}, set(), frozenset({1}), range(3), range(6), slice(3), NotImplemented),
    *({"location": 0}, {"label": 0}, {"location": (0, 0), "label": 0, "stop": 0}),
    *(np.datetime64(0, "s"), np.timedelta64(0, "s"), np.array("0"), np.array(None)),
    *(np.zeros(0), np.zeros((0, 6)), np.zeros((1,) * 20), [1, [2]], [[0.5], [1, 2]]),
    np.zeros(1, [("a", int)]),
]
_DTYPES = [*("f2", "f4", "f8", "g", ">f4", "i1", "i4", "i8", ">i8", "u1", "u8"), "f4", "i8"]
_STRANGE_DTYPES = ["?", "c8", "O", "U3", "S3", "m8[s]", "M8[s]", "V8"]


def draw_action(rules: Rules, rng: np.random.Generator) -> Any:
    """Draw an action: a valid one, one with a flaw or two, or anything at all."""
    if rng.random() < 0.1:
        return draw_anything(rng)
    parts: dict[Any, Any] = {**draw_valid(rules, rng)}
    for _ in range(rng.integers(3)):
        name = _pick(rng, [*parts])
        parts[name] = _pick(rng, _CHANGES)(parts[name], rng)
    if rules.action_format != "dict":
        return parts["action"]
    return _pick(rng, _KEY_CHANGES)(parts, rng) if rng.random() < 0.2 else parts


def draw_valid(rules: Rules, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw a valid action's parts; of a box or multidiscrete there is one, "action"."""
    if rules.action_format == "multidiscrete":
        shape = (*rules.batch, len(rules.limits))
        return {"action": rng.integers(np.broadcast_to(rules.limits, shape))}
    if rules.action_format == "box":
        return {"action": _reals((*rules.batch, 2 + rules.num_classes + rules.allow_stop), rng)}
    parts = {
        "location": _reals((*rules.batch, 2), rng),
        "label": rng.integers(rules.num_classes, size=rules.batch),
    }
    return parts | ({"stop": rng.integers(2, size=rules.batch)} if rules.allow_stop else {})


def _reals(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return (rng.normal(size=shape) * _pick(rng, [1, 1, 3, 1e20])).astype(np.float32)


def draw_anything(rng: np.random.Generator) -> Any:
    """Draw a number, an oddity, an array of a random shape and dtype, or lists of all these."""
    kind = rng.random()
    if kind < 0.5:
        return _pick(rng, _NUMBERS if kind < 0.2 else _OTHERS)
    if kind < 0.75:
        shape = tuple(rng.integers(0, 8, rng.integers(4)))
        return np.zeros(shape, _pick(rng, _DTYPES + _STRANGE_DTYPES))
    return [draw_anything(rng) for _ in range(rng.integers(4))]


def _pick(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


# Flaws, and changes that are none


def _another_number(part: Any, rng: np.random.Generator) -> Any:
    """Put another number, rarely something else, in the place of one number in nested lists."""
    items = part.tolist() if isinstance(part, np.ndarray) else part
    if not isinstance(items, list | tuple) or not items:
        return _pick(rng, _NUMBERS if rng.random() < 0.8 else _OTHERS)
    items = [*items]
    place = int(rng.integers(len(items)))
    items[place] = _another_number(items[place], rng)
    return items


def _another_container(part: Any, rng: np.random.Generator) -> Any:
    if not isinstance(part, np.ndarray):
        return _pick(rng, ([part], (part,)))
    changes = (list, tuple, lambda x: tuple(x.tolist())) if part.ndim else (lambda x: [x],)
    return _pick(rng, (np.ndarray.tolist, *changes))(part)


def _another_dtype(part: Any, rng: np.random.Generator) -> Any:
    if not isinstance(part, np.ndarray) or part.dtype.kind not in "fiu":
        return part
    if rng.random() < 0.2:
        return np.zeros(part.shape, _pick(rng, _STRANGE_DTYPES))
    with np.errstate(over="ignore", invalid="ignore"):
        return part.astype(_pick(rng, _DTYPES))


def _another_shape(part: Any, rng: np.random.Generator) -> Any:
    if not isinstance(part, np.ndarray) or not part.size:
        return [part]
    changes = (
        lambda x: x[np.newaxis],
        lambda x: x[..., np.newaxis],
        lambda x: x.reshape(-1),
        lambda x: x[..., :-1],
        lambda x: x[:-1],
        lambda x: np.concatenate([x, x]),
        lambda x: np.concatenate([x, x[..., :1]], axis=-1),
        lambda x: x.T,
        lambda x: x[0],
    )
    return _pick(rng, changes)(part) if part.ndim else np.full((1, 1), part)


def _anything(_: Any, rng: np.random.Generator) -> Any:
    return draw_anything(rng)


def _fewer_keys(parts: dict[Any, Any], rng: np.random.Generator) -> Any:
    del parts[_pick(rng, [*parts])]
    return parts


def _more_keys(parts: dict[Any, Any], rng: np.random.Generator) -> Any:
    key = _pick(rng, ["stop", "action", "Label", "", 0, None, ("label",), "location "])
    return {**parts, key: draw_anything(rng)}


def _no_dict(parts: dict[Any, Any], rng: np.random.Generator) -> Any:
    return _pick(rng, (lambda x: [*x.items()], lambda x: (*x.values(),), lambda x: [x], list))(
        parts
    )


_CHANGES = (_another_number, _another_container, _another_dtype, _another_shape, _anything)
_KEY_CHANGES = (_fewer_keys, _more_keys, _no_dict, lambda parts, _: MappingProxyType(parts))
