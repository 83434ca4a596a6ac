"""The rules of the task, for N lanes at once; the environments are thin shells around them.

Dimension key: N lanes (sub-environments), n lanes that a call is about, S scales, C colour planes,
glimpse side G [px], K classes, T glimpses per episode.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from ram_env import arrays as xp
from ram_env.actions import ActionFormat, Decision
from ram_env.arrays import Array
from ram_env.draws import below, draw_words, named_key, to_keys, to_words, uniform_locations
from ram_env.retina import margin_of, sense
from ram_env.states import describe_origin, read_state
from ram_env.tasks import Task

# The random words of an episode: word 0 is the scene's number, words 1 and 2 the first location,
LOCATION_WORDS = slice(1, 3)
SCENE_WORDS = slice(3, None)  # and the rest places the object and its clutter.
_LOG_SCORE_FLOOR = -7.0


class Episodes:
    """N episodes of a task side by side: what they show, and what a decision does to them.

    When an episode begins and ends is decided on the host, one NumPy entry per lane; all else is on
    ``device``. While all lanes are in step, :meth:`begin`, :meth:`step` and
    :meth:`observe` neither wait for a GPU nor copy to it, so a CUDA graph can hold them.

    Args:
        task: The task.
        num_lanes: N.
        device: Where canvases, glimpses and rewards live; None for NumPy.
        record: Whether to keep paths and decisions for rendering.

    Attributes:
        action_format: Checks actions and reads decisions from them.
        glimpse_shape: Shape of a glimpse, (S * C, G, G).
        observation_space: The observation space of one lane.
        scenes: The scenes to show.
        seen: Glimpses that each lane has seen, 0 before the first reset. Shape (N,), int64.
        running: Lanes whose episode has begun and not ended. Shape (N,), bool.
        path: Locations so far, where recorded. Shape (N, T, 2), float32, on the host.
        prediction: The episodes' last predictions, -1 before the first, where recorded. Shape (N,).
        scores: The last class scores, where recorded and any. Shape (N, K), on the host.
    """

    def __init__(self, task: Task, num_lanes: int, device: str | None = None, record: bool = False):
        self.task, self.num_lanes, self.device = task, num_lanes, device
        self.scenes = task.open_scenes(device)
        self.action_format = ActionFormat(
            task.action_format, self.scenes.num_classes, task.allow_stop, task.grid
        )
        size, channels = task.glimpse_size, self.scenes.channels
        self.glimpse_shape = (task.num_scales * channels, size, size)
        parts = {"glimpse": (0, self.glimpse_shape), "location": (-1, (2,)), "time": (0, (1,))}
        self.observation_space = spaces.Dict(
            {name: spaces.Box(low, 1, shape, np.float32) for name, (low, shape) in parts.items()}
        )
        self.seen = np.zeros(num_lanes, np.int64)
        self.running = np.zeros(num_lanes, bool)
        self._times = (np.arange(task.num_glimpses + 1) / task.num_glimpses).astype(np.float32)
        self._margin = margin_of(size, task.num_scales)
        side = self.scenes.side + 2 * self._margin
        canvases = np.zeros((num_lanes, channels, side, side), np.uint8)
        self._canvases = xp.to_device(canvases, device)
        self._lanes = xp.to_device(np.arange(num_lanes), device)
        self._keys = to_words(np.zeros(num_lanes, np.uint64), device)
        self._episodes = xp.to_device(np.full(num_lanes, -1), device)  # the present one's number
        self._location = xp.to_device(np.zeros((num_lanes, 2), np.float32), device)
        shapes = {"label": (), "index": (), "position": (2,), "object_size": (2,)}
        self._hidden = {
            name: xp.to_device(np.zeros((num_lanes, *shape), np.int64), device)
            for name, shape in shapes.items()
        }
        self.path = np.zeros((num_lanes, task.num_glimpses, 2), np.float32) if record else None
        self.prediction = np.full(num_lanes, -1)
        self.scores: np.ndarray | None = None

    def seed(self, lanes: np.ndarray, keys: np.ndarray) -> None:
        """Give lanes (n,) their keys, (n,), uint64; each lane's next episode is its first."""
        here = self.on_device(lanes)
        self._keys[here] = to_words(keys, self.device)
        self._episodes[here] = -1

    def begin(
        self, lanes: np.ndarray, index: np.ndarray | None = None, location: np.ndarray | None = None
    ) -> None:
        """Begin the next episode of lanes, at these scenes, (n,), and locations, (n, 2), if any."""
        self._episodes[self.on_device(lanes)] += 1
        first = self._show(lanes, index)
        self.seen[lanes] = 1
        self.running[lanes] = True
        self.prediction[lanes] = -1
        given = None if location is None else xp.to_device(location, self.device)
        self._set_locations(lanes, first if given is None else given)

    def step(
        self, decision: Decision, active: np.ndarray | None = None
    ) -> tuple[Array, Array, np.ndarray]:
        """Score the decisions and, where the episode continues, look at the new location.

        Lanes that aren't ``active``, (N,), bool (None: all are), get reward 0 and stay. Returns
        rewards, float64 (float32 on a device), whether each label was right, and, on the host,
        which episodes ended.
        """
        ends = self.seen == self.task.num_glimpses
        if decision.stop is not None:
            ends = ends | decision.stop
        if active is not None:
            ends = ends & active
        correct = decision.label == self._hidden["label"]
        reward = self._score(decision, correct, ends)
        if active is not None:
            reward = reward * self._per_lane(active) + 0.0  # 0, not -0
        continues = ~ends if active is None else active & ~ends
        if continues.all():
            self._location[:] = decision.location
        elif continues.any():
            self._location[:] = xp.library(self._location).where(
                xp.to_device(continues[:, None], self.device), decision.location, self._location
            )
        self.seen += continues
        self.running &= ~ends
        if self.path is not None:
            self._record(decision, continues, active)
        return reward, correct, ends

    def observe(self, lanes: np.ndarray | None = None) -> dict[str, Array]:
        """Return some lanes' (None: all) observations, in fresh memory."""
        task, index = self.task, self._lanes if lanes is None else self.on_device(lanes)
        location, seen = self._location[index], self.seen if lanes is None else self.seen[lanes]
        glimpse = sense(
            self._canvases, index, location, size=task.glimpse_size, num_scales=task.num_scales
        )
        time = xp.new_empty(location, (len(index), 1), "float32")
        time[:, 0] = self._per_lane(self._times[seen])
        return {"glimpse": glimpse, "location": location, "time": time}

    def describe(self, lanes: np.ndarray | None = None) -> dict[str, Array]:
        """Return what is hidden from the agent, in fresh memory."""
        index = self._lanes if lanes is None else self.on_device(lanes)
        return {name: array[index] for name, array in self._hidden.items()}

    def on_device(self, lanes: np.ndarray) -> Array:
        """Return ascending numbers of lanes (n,) on the device: all N without a transfer."""
        return self._lanes if len(lanes) == self.num_lanes else xp.to_device(lanes, self.device)

    def canvas(self, lane: int) -> np.ndarray:
        """Return a copy of a lane's canvas, uint8, (side, side) or (side, side, 3)."""
        inside = slice(self._margin, self._margin + self.scenes.side)
        planes = xp.to_host(self._canvases[lane, :, inside, inside])
        return planes[0].copy() if len(planes) == 1 else planes.transpose(1, 2, 0).copy()

    def get_state(self) -> dict[str, Any]:
        """Return everything that the lanes' future depends on, ready for JSON."""
        return {
            **describe_origin(self.task, self.scenes),
            "keyed": (self.seen > 0).tolist(),
            "key": to_keys(self._keys).tolist(),
            "episode": xp.to_host(self._episodes).tolist(),
            "index": xp.to_host(self._hidden["index"]).tolist(),
            "seen": self.seen.tolist(),
            "running": self.running.tolist(),
            "location": xp.to_host(self._location).tolist(),
        }

    def set_state(self, state: Any) -> None:
        """Continue where :meth:`get_state` was called; see :func:`ram_env.states.read_state`."""
        read = read_state(state, self.task, self.scenes, self.num_lanes)
        self.seen, self.running = read["seen"], read["running"]
        self._keys[:] = to_words(read["key"], self.device)
        self._episodes[:] = xp.to_device(read["episode"], self.device)
        self._hidden["index"][:] = xp.to_device(read["index"], self.device)
        self.prediction[:] = -1
        begun = np.flatnonzero(read["episode"] >= 0)
        if len(begun):
            self._show(begun, read["index"][begun])
        locations = xp.to_device(read["location"], self.device)
        self._set_locations(np.arange(self.num_lanes), locations)

    def _show(self, lanes: np.ndarray, index: np.ndarray | None) -> Array:
        """Show the present episode of some lanes; return their first locations, (n, 2)."""
        here = self.on_device(lanes)
        given = None if index is None else xp.to_device(index, self.device)
        shown, location_words, scene_words = self._draw_words(here, given)
        drawn = self.scenes.draw(self._canvases, self._margin, here, shown, scene_words)
        new = (drawn.labels, shown, drawn.positions, drawn.sizes)
        for array, values in zip(self._hidden.values(), new, strict=True):
            array[here] = values
        return uniform_locations(location_words) if drawn.locations is None else drawn.locations

    def _draw_words(self, lanes: Array, index: Array | None) -> tuple[Array, Array, Array]:
        """Return the present scenes' numbers, (n,), and the words of first locations and places.

        A given ``index`` replaces the drawn scene and moves no other draw.
        """
        num_scenes, num_words = self.scenes.num_scenes, 3 + self.scenes.num_words
        keys, counters, passes = self._keys[lanes], self._episodes[lanes], 0
        pinned = xp.library(keys).full_like(keys, named_key(self.task.split))
        if self.task.order == "sequential":
            # The visit's number stands in for seed and episode, so that N lanes pass through
            # the split together and every evaluation sees the same scenes.
            keys, counters = pinned, counters * self.num_lanes + lanes
            passes, drawn_index = counters // num_scenes, counters % num_scenes
        else:
            drawn_index = below(draw_words(keys, counters, 1)[:, 0], num_scenes)
        shown = drawn_index if index is None else index
        if self.scenes.frozen:
            # Scene and first location belong to the scene's number, whoever plays it.
            keys, counters = pinned, passes * num_scenes + shown
        words = location_words = draw_words(keys, counters, num_words)
        if self.scenes.frozen and self.task.order == "sequential":
            # A later pass has its own first locations, but shows the scenes of the first pass.
            words = draw_words(pinned, shown, num_words)
        return shown, location_words[:, LOCATION_WORDS], words[:, SCENE_WORDS]

    def _set_locations(self, lanes: np.ndarray, locations: Array) -> None:
        """Move some lanes to locations, (n, 2), and fill their paths with them."""
        self._location[self.on_device(lanes)] = locations
        if self.path is not None:
            self.path[lanes] = xp.to_host(locations)[:, None]

    def _score(self, decision: Decision, correct: Array, ends: np.ndarray) -> Array:
        """Return rewards, (N,)."""
        task = self.task
        if task.reward == "final":
            weight = ends.astype(np.float64)
        else:  # an early stop is paid in full
            weight = np.where(ends, task.num_glimpses - self.seen + 1, 1) / task.num_glimpses
        if task.reward == "log_score":
            assert decision.scores is not None
            log_p = xp.log_softmax(decision.scores)[self._lanes, self._hidden["label"]]  # (N,)
            reward = log_p.clip(_LOG_SCORE_FLOOR) * self._per_lane(weight) - task.glimpse_cost
        else:  # summed on the host, so that a device rounds float64's result once
            cost = task.glimpse_cost
            paid = xp.like(correct, self._per_lane(weight - cost))
            reward = xp.library(correct).where(correct, paid, xp.like(correct, 0.0 - cost))
        return xp.cast(reward, "float64" if self.device is None else "float32")

    def _per_lane(self, values: np.ndarray) -> Any:
        """Bring values (N,) to the device: as a scalar, without transfer, where all lanes agree."""
        if self.device is None:
            return values
        first = values[0]
        return first.item() if (values == first).all() else xp.to_device(values, self.device)

    def _record(self, decision: Decision, continues: np.ndarray, active: np.ndarray | None) -> None:
        """Keep what rendering shows."""
        assert self.path is not None
        lanes = np.flatnonzero(continues)
        self.path[lanes, self.seen[lanes] - 1] = xp.to_host(self._location)[lanes]
        decided = True if active is None else active
        self.prediction = np.where(decided, xp.to_host(decision.label), -1)
        self.scores = None if decision.scores is None else xp.to_host(xp.copy(decision.scores))
