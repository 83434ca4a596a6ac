"""The rules of the task, for N lanes at once; the environments are thin shells around them.

Dimension key:
    N: lanes (sub-environments)
    n: lanes that a call is about
    S, C, G: scales, colour planes, glimpse side [px]
    K: classes
    T: glimpses an episode
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from gymnasium import spaces

from ram_env.actions import Move, make_format
from ram_env.arrays import (
    Array,
    arange,
    cast,
    copy,
    log_softmax,
    new_empty,
    to_device,
    to_host,
    where,
)
from ram_env.draws import below, draw_words, named_key, uniform_locations
from ram_env.retina import margin_of, sense
from ram_env.tasks import Task

LOCATION_WORDS = slice(1, 3)  # word 0 is the scene's number, the first location follows,
SCENE_WORDS = slice(3, None)  # and the rest paints the scene
_LOG_SCORE_FLOOR = -7.0
_STATE_VERSION = 2


class Episodes:
    """N episodes of a task side by side: what they show, and what a move does to them.

    What decides when an episode begins and ends is on the host, one NumPy entry a lane; what
    the agent sees and is judged by is on ``device``. Episodes never end up out of bounds: an
    action is a checked :class:`~ram_env.actions.Move` before it gets here.

    Args:
        task: The keywords.
        num_lanes: N.
        device: Where canvases, glimpses and rewards live; None for NumPy.
        record: Whether to keep paths and decisions for rendering.

    Attributes:
        action_format: Turns actions into moves.
        glimpse_shape: Of one lane, (S * C, G, G).
        observation_space: Of one lane.
        scenes: What is shown.
        seen: Glimpses that each lane has seen. Shape (N,), int64.
        keyed: Lanes that have a key, from a seed or drawn. Shape (N,), bool.
        running: Lanes whose episode has begun and not ended. Shape (N,), bool.
        path: Locations so far, where recorded. Shape (N, T, 2), float32, on the host.
        decided: Lanes that have decided in their present episode, where recorded. Shape (N,).
        prediction: The last labels named, where recorded. Shape (N,), on the host.
        scores: The last class scores, where recorded and any. Shape (N, K), on the host.
    """

    def __init__(self, task: Task, num_lanes: int, device: str | None = None, record: bool = False):
        self.task, self.num_lanes, self.device = task, num_lanes, device
        self.scenes = task.open_scenes(device)
        self.action_format = make_format(
            task.action_format, self.scenes.num_classes, task.allow_stop, task.grid
        )
        self.glimpse_shape = (
            task.num_scales * self.scenes.channels,
            task.glimpse_size,
            task.glimpse_size,
        )
        self.observation_space = spaces.Dict(
            {
                "glimpse": spaces.Box(0, 1, self.glimpse_shape, np.float32),
                "location": spaces.Box(-1, 1, (2,), np.float32),
                "time": spaces.Box(0, 1, (1,), np.float32),
            }
        )
        self.keyed = np.zeros(num_lanes, bool)
        self.seen = np.zeros(num_lanes, np.int64)
        self.running = np.zeros(num_lanes, bool)
        self._keys = np.zeros(num_lanes, np.uint64)
        self._episodes = np.full(num_lanes, -1)  # number of the present one since the seed
        self._times = (np.arange(task.num_glimpses + 1) / task.num_glimpses).astype(np.float32)
        self._margin = margin_of(task.glimpse_size, task.num_scales)
        side = self.scenes.side + 2 * self._margin
        canvases = np.zeros((num_lanes, self.scenes.channels, side, side), np.uint8)
        self._canvases = to_device(canvases, device)
        self._lanes = arange(self._canvases, num_lanes)
        self._location = to_device(np.zeros((num_lanes, 2), np.float32), device)
        self._label = to_device(np.zeros(num_lanes, np.int64), device)
        self._index = to_device(np.zeros(num_lanes, np.int64), device)
        self._position = to_device(np.zeros((num_lanes, 2), np.int64), device)
        self.path = np.zeros((num_lanes, task.num_glimpses, 2), np.float32) if record else None
        self.decided = np.zeros(num_lanes, bool)
        self.prediction = np.zeros(num_lanes, np.int64)
        self.scores: np.ndarray | None = None

    def seed(self, lanes: np.ndarray, keys: np.ndarray) -> None:
        """Give lanes their keys; each lane's next episode is its first.

        Args:
            lanes: Shape (n,), int64.
            keys: From :func:`ram_env.draws.lane_key`. Shape (n,), uint64.
        """
        self._keys[lanes] = keys
        self._episodes[lanes] = -1
        self.keyed[lanes] = True

    def begin(
        self,
        lanes: np.ndarray,
        index: np.ndarray | None = None,
        location: np.ndarray | None = None,
    ) -> None:
        """Begin the next episode of some lanes.

        Args:
            lanes: Which. Shape (n,), int64.
            index: Scenes to show instead of the drawn ones. Shape (n,), int64.
            location: First locations instead of the drawn ones. Shape (n, 2), float32.
        """
        self._episodes[lanes] += 1
        first = self._show(lanes, index)
        self.seen[lanes] = 1
        self.running[lanes] = True
        self.decided[lanes] = False
        self._go(lanes, first if location is None else location)

    def step(self, move: Move, active: np.ndarray | None = None) -> tuple[Array, Array, np.ndarray]:
        """Score the moves and, where the episode goes on, look at the new location.

        Args:
            move: Of all lanes.
            active: Lanes that move; the others get reward 0 and stay. None: all. Shape (N,), bool.

        Returns:
            Rewards, shape (N,), float64 (float32 on a device); whether each label was right,
            shape (N,), bool; and which episodes ended, on the host, shape (N,), bool.
        """
        ends = self.seen == self.task.num_glimpses
        if move.stop is not None:
            ends = ends | move.stop
        if active is not None:
            ends = ends & active
        correct = move.label == self._label
        reward = self._score(move, correct, ends)
        if active is not None:
            reward = reward * self._shared(active) + 0.0  # 0, not -0
        goes_on = ~ends if active is None else active & ~ends
        if goes_on.all():
            self._location = move.location
        elif goes_on.any():
            self._location = where(
                to_device(goes_on[:, None], self.device), move.location, self._location
            )
        self.seen += goes_on
        self.running &= ~ends
        if self.path is not None:
            self._note(move, goes_on, active)
        return reward, correct, ends

    def observe(self, lanes: np.ndarray | None = None) -> dict[str, Array]:
        """Show what lanes see, in fresh memory.

        Args:
            lanes: Which; None for all. Shape (n,), int64.

        Returns:
            ``glimpse`` (n, S * C, G, G), ``location`` (n, 2) and ``time`` (n, 1), float32.
        """
        if lanes is None:
            index, location, seen = self._lanes, copy(self._location), self.seen
        else:
            index = to_device(lanes, self.device)
            location, seen = self._location[index], self.seen[lanes]
        task = self.task
        glimpse = sense(
            self._canvases, index, location, size=task.glimpse_size, num_scales=task.num_scales
        )
        time = new_empty(location, (len(index), 1), "float32")
        time[:, 0] = self._shared(self._times[seen])
        return {"glimpse": glimpse, "location": location, "time": time}

    def describe(self, lanes: np.ndarray | None = None) -> dict[str, Array]:
        """Return what is hidden from the agent, in fresh memory: label, index and position.

        Args:
            lanes: Which; None for all. Shape (n,), int64.
        """
        hidden = {"label": self._label, "index": self._index, "position": self._position}
        if lanes is None:
            return {name: copy(array) for name, array in hidden.items()}
        index = to_device(lanes, self.device)
        return {name: array[index] for name, array in hidden.items()}

    def canvas(self, lane: int) -> np.ndarray:
        """Return a copy of a lane's canvas, uint8, (side, side) or (side, side, 3)."""
        inside = slice(self._margin, self._margin + self.scenes.side)
        planes = to_host(self._canvases[lane, :, inside, inside])
        return planes[0].copy() if len(planes) == 1 else planes.transpose(1, 2, 0).copy()

    def get_state(self) -> dict[str, Any]:
        """Return all that the rest of the lanes' lives depends on, ready for JSON."""
        state = {
            "version": _STATE_VERSION,
            "task": _describe_task(self.task),
            "data": self._describe_data(),
            "keyed": self.keyed.tolist(),
            "key": self._keys.tolist(),
            "episode": self._episodes.tolist(),
            "index": to_host(self._index).tolist(),
            "seen": self.seen.tolist(),
            "running": self.running.tolist(),
            "location": to_host(self._location).tolist(),
        }
        return state if self.path is None else {**state, "path": self.path.tolist()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`get_state` was called.

        Raises:
            ValueError: If the state is of another version, task, number of lanes or dataset;
                nothing has changed then.
        """
        read = self._read_state(state)
        self.keyed, self._keys, self._episodes = read["keyed"], read["key"], read["episode"]
        self.seen, self.running = read["seen"], read["running"]
        self.decided[:] = False
        begun = np.flatnonzero(self._episodes >= 0)
        if len(begun):
            self._show(begun, read["index"][begun])
        self._go(np.arange(self.num_lanes), read["location"])
        if self.path is not None:  # unrecorded steps are shown where the lane is now
            self.path[:] = read.get("path", read["location"][:, None])

    def _read_state(self, state: dict[str, Any]) -> dict[str, np.ndarray]:
        """Check a state and return its entries as arrays with a leading N."""
        if not isinstance(state, dict):
            raise ValueError(f"state must be a dict from get_state(), got {type(state).__name__}")
        mine = {"version": _STATE_VERSION, "task": _describe_task(self.task)}
        for name, value in {**mine, "data": self._describe_data()}.items():
            if state.get(name) != value:
                raise ValueError(f"state[{name!r}] must be {value!r}, got {state.get(name)!r}")
        last_scene, num_glimpses = self.scenes.num_scenes - 1, self.task.num_glimpses
        entries = {  # shape behind N, dtype, lowest and highest value
            "keyed": ((), np.bool_, 0, 1),
            "key": ((), np.uint64, 0, 2**64 - 1),
            "episode": ((), np.int64, -1, 2**62),
            "index": ((), np.int64, 0, last_scene),
            "seen": ((), np.int64, 0, num_glimpses),
            "running": ((), np.bool_, 0, 1),
            "location": ((2,), np.float32, -1, 1),
            "path": ((num_glimpses, 2), np.float32, -1, 1),
        }
        read = {
            name: _read_entry(name, state.get(name), (self.num_lanes, *shape), *rest)
            for name, (shape, *rest) in entries.items()
            if name != "path" or (self.path is not None and "path" in state)
        }
        begun = (read["seen"] > 0) & (read["episode"] >= 0) & read["keyed"]
        if (read["running"] & ~begun).any():
            raise ValueError("state['running'] must be false of lanes that have seen nothing")
        return read

    def _describe_data(self) -> dict[str, Any]:
        """Return what tells one set of data under a name from another."""
        return {"num_scenes": self.scenes.num_scenes, "is_sample": self.scenes.is_sample}

    def _show(self, lanes: np.ndarray, index: np.ndarray | None) -> np.ndarray:
        """Paint the present episode of some lanes; return the first locations, (n, 2)."""
        scenes, pinned = self.scenes, np.full(len(lanes), named_key(self.task.split), np.uint64)
        keys, counters, passes = self._keys[lanes], self._episodes[lanes], 0
        if self.task.order == "sequential":
            keys, counters = pinned, counters * self.num_lanes + lanes  # the visit's number
            passes = counters // scenes.num_scenes
            drawn_index = counters % scenes.num_scenes
        else:
            drawn_index = below(draw_words(keys, counters, 1)[:, 0], scenes.num_scenes)
        index = drawn_index if index is None else index
        if scenes.frozen:  # scene and first location belong to the scene's number
            keys, counters = pinned, passes * scenes.num_scenes + index
        words = draw_words(keys, counters, 3 + scenes.num_words)  # (n, 3 + num_words)
        first = uniform_locations(words[:, LOCATION_WORDS])
        if scenes.frozen and np.any(passes):
            words = draw_words(pinned, index, 3 + scenes.num_words)
        drawn = scenes.draw(self._canvases, self._margin, lanes, index, words[:, SCENE_WORDS])
        where_to = to_device(lanes, self.device)
        self._index[where_to] = to_device(index, self.device)
        self._label[where_to] = to_device(drawn.labels, self.device)
        self._position[where_to] = to_device(drawn.positions, self.device)
        return first if drawn.locations is None else drawn.locations

    def _go(self, lanes: np.ndarray, locations: np.ndarray) -> None:
        """Set the locations of some lanes, (n, 2), on the host, and forget their paths."""
        self._location[to_device(lanes, self.device)] = to_device(locations, self.device)
        if self.path is not None:
            self.path[lanes, 0] = locations

    def _score(self, move: Move, correct: Array, ends: np.ndarray) -> Array:
        """Return rewards, (N,)."""
        task = self.task
        if task.reward == "final":
            weight = ends.astype(np.float64)
        else:  # an early stop is paid in full
            weight = np.where(ends, task.num_glimpses - self.seen + 1, 1) / task.num_glimpses
        if task.reward == "log_score":
            assert move.scores is not None
            log_p = log_softmax(move.scores)[self._lanes, self._label]  # (N,)
            reward = log_p.clip(_LOG_SCORE_FLOOR) * self._shared(weight) - task.glimpse_cost
        else:  # summed on the host, so that a device rounds float64's result once
            cost = task.glimpse_cost
            reward = where(correct, self._shared(weight - cost), 0.0 - cost)
        return cast(reward, "float64" if self.device is None else "float32")

    def _shared(self, values: np.ndarray) -> Any:
        """Bring one value a lane to the device: as a scalar where all lanes agree.

        Lanes in step with each other, which is the rule, then move nothing over the bus.
        """
        if self.device is None:
            return values
        first = values[0]
        return first.item() if (values == first).all() else to_device(values, self.device)

    def _note(self, move: Move, goes_on: np.ndarray, active: np.ndarray | None) -> None:
        """Keep what rendering shows."""
        assert self.path is not None
        lanes = np.flatnonzero(goes_on)
        self.path[lanes, self.seen[lanes] - 1] = to_host(self._location)[lanes]
        self.prediction = to_host(copy(move.label))
        self.scores = None if move.scores is None else to_host(copy(move.scores))
        self.decided = np.ones(self.num_lanes, bool) if active is None else active.copy()


class TaskFacts:
    """What an environment tells of its task, beside its spaces: of one that has episodes."""

    _episodes: Episodes

    @property
    def data_source(self) -> str:
        """Where the images came from, a sentence for logs."""
        return self._episodes.scenes.source

    @property
    def data_is_sample(self) -> bool:
        """Whether the images are the sample that no published result may use."""
        return self._episodes.scenes.is_sample

    @property
    def glimpse_shape(self) -> tuple[int, int, int]:
        """Shape of a glimpse, (S * C, G, G)."""
        return self._episodes.glimpse_shape

    @property
    def object_size(self) -> tuple[int, int]:
        """Width and height of an object, whose top left pixel is ``info["position"]`` [px]."""
        return self._episodes.scenes.object_size

    @property
    def num_classes(self) -> int:
        """Labels are 0 .. num_classes - 1."""
        return self._episodes.scenes.num_classes

    @property
    def num_images(self) -> int:
        """Images in the split: an ``order="sequential"`` pass takes this many episodes."""
        return self._episodes.scenes.num_scenes


def _read_entry(
    name: str, value: Any, shape: tuple[int, ...], dtype: Any, low: int, high: int
) -> np.ndarray:
    """Return one entry of a state as an array, or raise ValueError saying what is wrong."""
    kinds = {np.bool_: (bool,), np.float32: (float, int)}.get(dtype, (int,))
    try:
        if not all(type(entry) in kinds for entry in np.array(value, object).flat):
            raise TypeError(f"entries must be {np.dtype(dtype)}, got {value!r}")
        array = np.array(value, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"state[{name!r}] can't be read: {error}") from error
    if array.shape != shape:
        raise ValueError(f"state[{name!r}] must have shape {shape}, got {array.shape}")
    if not ((array >= low) & (array <= high)).all():
        raise ValueError(f"state[{name!r}] must lie in {low}..{high}, got {array.tolist()}")
    return array


def _describe_task(task: Task) -> dict[str, Any]:
    """Return the keywords that a state depends on, as JSON would give them back."""
    keywords = asdict(task)
    keywords.pop("data_dir", None)
    keywords["grid_size"] = list(task.grid)
    return keywords
