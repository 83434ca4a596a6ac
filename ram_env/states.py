"""Saved states: what the future of N lanes depends on, as JSON, and how it is checked.

Dimension key: N lanes (sub-environments), T glimpses per episode.
"""

import json
import reprlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np

from ram_env.checks import expect
from ram_env.scenes import Scenes
from ram_env.tasks import Task

_VERSION = 2
_PER_LANE = ("keyed", "key", "episode", "index", "seen", "running", "location")


def describe_origin(task: Task, scenes: Scenes) -> dict[str, Any]:
    """Return the entries of a state that say which version, task and data it belongs to."""
    keywords = asdict(task)
    keywords.pop("data_dir", None)
    keywords["grid_size"] = task.grid
    scales = np.broadcast_to(keywords.pop("object_scale", 1), 2).tolist()
    if scales != [1, 1]:  # states from before this keyword stay as they are
        keywords["object_scale"] = scales
    data = {"num_scenes": scenes.num_scenes, "is_sample": scenes.is_sample}
    return {"version": _VERSION, "task": json.loads(json.dumps(keywords)), "data": data}


def read_state(state: Any, task: Task, scenes: Scenes, num_lanes: int) -> dict[str, np.ndarray]:
    """Read the lanes' entries of a state from :meth:`ram_env.episodes.Episodes.get_state`.

    Raises:
        ValueError: If an entry belongs to another task or has a wrong type, shape or value.
    """
    got = type(state).__name__
    expect(isinstance(state, dict), f"state must be a dict from get_state(), got {got}")
    for name, expected in describe_origin(task, scenes).items():
        got = state.get(name)
        if isinstance(got, dict) and isinstance(expected, dict):  # name what differs
            keys = [key for key in {**expected, **got} if got.get(key) != expected.get(key)]
            got, expected = ({key: entries.get(key) for key in keys} for entries in (got, expected))
        expect(got == expected, f"state[{name!r}] must be {expected}, got {reprlib.repr(got)}")
    entries = {  # JSON type, shape behind N, dtype, lowest and highest value
        "keyed": (list[bool], (), np.bool_, 0, 1),
        "key": (list[int], (), np.uint64, 0, 2**64 - 1),
        "episode": (list[int], (), np.int64, -1, 2**62),
        "index": (list[int], (), np.int64, 0, scenes.num_scenes - 1),
        "seen": (list[int], (), np.int64, 0, task.num_glimpses),
        "running": (list[bool], (), np.bool_, 0, 1),
        "location": (list[list[float]], (2,), np.float32, -1, 1),
    }
    read = {}
    for name, (json_type, shape, dtype, low, high) in entries.items():
        try:
            array = np.array(msgspec.convert(state.get(name), json_type), dtype)
        except (msgspec.ValidationError, ValueError, OverflowError) as error:
            raise ValueError(f"state[{name!r}] can't be read: {error}") from error
        wanted, inside = (num_lanes, *shape), ((array >= low) & (array <= high)).all()
        shaped = array.shape == wanted
        expect(shaped, f"state[{name!r}] must have shape {wanted}, got {array.shape}")
        expect(inside, f"state[{name!r}] must lie in {low}..{high}, got {array.tolist()}")
        read[name] = array
    begun = np.stack([read["keyed"], read["episode"] >= 0, read["seen"] > 0])  # (3, N)
    whole = ((begun.any(0) | read["running"]) == begun.all(0)).all()
    wanted = "'keyed', with 'episode' >= 0 and 'seen' > 0, or none of these and not 'running'"
    expect(whole, f"each lane of a state must be {wanted}")
    return read


def join_states(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the state of one vector environment that has the lanes of several, in their order.

    ValueError if they are of ``order="sequential"``, where an episode depends on N.
    """
    free = len(states) == 1 or states[0]["task"]["order"] == "random"
    expect(free, "states must be of order='random' to be joined, got 'sequential'")
    lanes = {
        k: [lane for state in states for lane in state[k]] for k in states[0] if k in _PER_LANE
    }
    return {**states[0], **lanes}


def split_state(state: dict[str, Any], part: int, num_parts: int) -> dict[str, Any]:
    """Return the state of one of ``num_parts`` environments that :func:`join_states` joined."""

    def lanes(values: Any) -> Any:
        size, rest = divmod(len(values), num_parts) if isinstance(values, list) else (0, 1)
        return values if rest else values[part * size : (part + 1) * size]

    return {k: lanes(value) if k in _PER_LANE else value for k, value in state.items()}
