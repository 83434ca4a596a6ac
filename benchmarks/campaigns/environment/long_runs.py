"""Environments that step for long, checked at every step against plain references.

Dimension key:
    N: lanes, 1 of a single environment
    S, C, G: scales, colour planes, glimpse side [px]
    K: classes
    T: glimpses an episode
    t: number of the step in its episode, from 1
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

import ram_env  # registers the ids  # noqa: F401

_SAMPLED = 50  # every so many calls of step() the costly checks are made
_KEPT = ("label", "index", "position")  # of the infos: constant in an episode


@dataclass(frozen=True)
class Move:
    """A batch of actions, in words.

    Attributes:
        action: As the environment takes it.
        location: Where to look next, clipped. Shape (N, 2), float32.
        label: Class named. Shape (N,).
        stop: Whether to stop. Shape (N,), bool.
        scores: Class scores of "box". Shape (N, K).
    """

    action: Any
    location: np.ndarray
    label: np.ndarray
    stop: np.ndarray
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class Step:
    """What a step gave, a leading N everywhere.

    Attributes:
        obs: Observations of the episodes that were stepped.
        reward: Shape (N,).
        ends: Which episodes ended. Shape (N,), bool.
        truncated: Shape (N,), bool.
        info: Of the episodes that were stepped.
        next_obs: Observations now: of the next episode where one ended.
        next_info: Infos now.
    """

    obs: dict[str, np.ndarray]
    reward: np.ndarray
    ends: np.ndarray
    truncated: np.ndarray
    info: dict[str, np.ndarray]
    next_obs: dict[str, np.ndarray]
    next_info: dict[str, np.ndarray]


class LongRun:
    """An environment, what is known of its episodes, and a check of every step.

    Args:
        env_id: Registered id.
        lanes: N of the native vector environment; None for the single one.
        keywords: Of the environment.
        seed: Of the environment and of the actions.
    """

    def __init__(self, env_id: str, lanes: int | None, keywords: dict[str, Any], seed: int):
        self._name = f"{env_id}, {f'{lanes} lanes' if lanes else 'single'}"
        self._single = lanes is None
        make = gymnasium.make_vec if lanes else gymnasium.make
        options = {"num_envs": lanes} if lanes else {"disable_env_checker": True}
        self._env: Any = make(env_id, **options, **keywords).unwrapped
        self._task = self._env.task
        space = getattr(self._env, "single_observation_space", self._env.observation_space)
        self._space: gymnasium.spaces.Dict = space
        self._num_lanes = lanes or 1
        self._rng = np.random.default_rng(seed)
        self._calls = 0
        self._problem: str | None = None
        self._num_classes = self._env._episodes.scenes.num_classes
        out = self._env.reset(seed=seed)
        obs, info = map(_batched, out) if self._single else out
        self._obs = {name: part.copy() for name, part in obs.items()}
        self._kept = {name: info[name].copy() for name in _KEPT}
        self._t = np.ones(self._num_lanes, np.int64)  # of the coming step

    def __str__(self) -> str:
        return self._name

    def play(self, steps: int) -> str | None:
        """Make so many env steps, in all lanes together; say what has ever gone wrong."""
        for _ in range(steps // self._num_lanes):
            if self._problem:
                break  # what the environment should do now is not known
            try:
                problem = self._play_a_step()
            except Exception as error:
                problem = f"there was {type(error).__name__}: {error}"
            self._problem = problem and f"{problem} (call {self._calls} of step)"
            self._calls += 1
        return self._problem

    def _play_a_step(self) -> str | None:
        move = self._draw_move()
        step = self._step(move.action)
        problem = self._check(move, step)
        self._remember(step)
        return problem

    def _remember(self, step: Step) -> None:
        self._obs = {name: part.copy() for name, part in step.next_obs.items()}
        for name in _KEPT:
            self._kept[name][step.ends] = step.next_info[name][step.ends]
        self._t = np.where(step.ends, 1, self._t + 1)

    # Playing

    def _draw_move(self) -> Move:
        """Draw valid actions, of which one in ten stops where that is offered."""
        n, k, task, rng = self._num_lanes, self._num_classes, self._task, self._rng
        stop = (rng.random(n) < 0.1) & task.allow_stop
        location = (1.5 * rng.uniform(-1, 1, (n, 2))).astype(np.float32)
        label, scores = rng.integers(k, size=n), None
        if task.action_format == "box":
            scores = rng.normal(0, 3, (n, k)).astype(np.float32)
            label = np.array([max(range(k), key=row.__getitem__) for row in scores])
            columns = [location, scores] + [np.where(stop, 1, -1)[:, None]] * task.allow_stop
            action: Any = np.concatenate(columns, 1, dtype=np.float32)
        elif task.action_format == "dict":
            action = {"location": location, "label": label}
            action |= {"stop": stop.astype(np.int64)} if task.allow_stop else {}
        else:
            cells = rng.integers(task.grid, size=(n, 2))
            location = ((2 * cells + 1) / task.grid - 1).astype(np.float32)
            columns = [cells, label[:, None]] + [stop[:, None]] * task.allow_stop
            action = np.concatenate(columns, 1, dtype=np.int64)
        if self._single:
            action = _first(action) if isinstance(action, dict) else action[0]
        return Move(action, location.clip(-1, 1), label, stop, scores)

    def _step(self, action: Any) -> Step:
        obs, reward, ends, truncated, info = self._env.step(action)
        if self._single:
            obs, info = _batched(obs), _batched(info)
            then = map(_batched, self._env.reset()) if ends else (obs, info)
            flags = np.array([ends]), np.array([truncated])
            return Step(obs, np.array([reward]), *flags, info, *then)
        old_obs = {name: part.copy() for name, part in obs.items()}
        old_info = {name: info[name].copy() for name in _KEPT}
        for lane in np.flatnonzero(ends):
            for name in old_obs:
                old_obs[name][lane] = info["final_obs"][lane][name]
            for name in _KEPT:
                old_info[name][lane] = info["final_info"][name][lane]
        if ends.any():
            old_info |= {name: info["final_info"][name] for name in ("correct", "prediction")}
        return Step(old_obs, reward, ends, truncated, old_info, obs, info)

    # Checking

    def _check(self, move: Move, step: Step) -> str | None:
        """Say what is wrong with a step."""
        problem = self._check_spaces(step.obs) or self._check_spaces(step.next_obs)
        problem = problem or self._check_episodes(move, step) or self._check_views(move, step)
        problem = problem or self._check_rewards(move, step)
        if not problem and self._calls % _SAMPLED == 0:
            return self._check_sample(step)
        return problem

    def _check_spaces(self, obs: dict[str, np.ndarray]) -> str | None:
        for name, space in self._space.items():
            assert isinstance(space, gymnasium.spaces.Box)
            part = obs[name]
            if part.dtype != space.dtype or part.shape != (self._num_lanes, *space.shape):
                return f"{name} is {part.dtype} {part.shape}"
            if not (part.min() >= space.low.min() and part.max() <= space.high.max()):
                return f"{name} reaches from {part.min()} to {part.max()}"
        return None

    def _check_episodes(self, move: Move, step: Step) -> str | None:
        """Check lengths, and what is constant in an episode."""
        wanted = (self._t == self._task.num_glimpses) | move.stop
        if step.ends.dtype != np.bool_ or not np.array_equal(step.ends, wanted):
            return f"terminated should be {wanted}, got {step.ends} at steps {self._t}"
        if step.truncated.any():
            return "truncated is True"
        for name in _KEPT:
            if not np.array_equal(step.info[name], self._kept[name]):
                return f"{name} changed from {self._kept[name]} to {step.info[name]}"
        if step.ends.any():
            correct = move.label == self._kept["label"]
            for name, values in (("correct", correct), ("prediction", move.label)):
                if not np.array_equal(step.info[name][step.ends], values[step.ends]):
                    return f"{name} should be {values}, got {step.info[name]}"
        return None

    def _check_views(self, move: Move, step: Step) -> str | None:
        """Check locations and times, and that an episode's last glimpse comes again."""
        location = np.where(step.ends[:, None], self._obs["location"], move.location)
        if not np.array_equal(step.obs["location"], location):
            return f"location should be {location}, got {step.obs['location']}"
        if not np.array_equal(step.obs["glimpse"][step.ends], self._obs["glimpse"][step.ends]):
            return "the last glimpse does not come again at the end"
        for obs, t in ((step.obs, self._t + ~step.ends), (step.next_obs, None)):
            seen = np.where(step.ends, 1, self._t + 1) if t is None else t
            if not np.array_equal(obs["time"][:, 0], np.float32(seen / self._task.num_glimpses)):
                return f"time should be {seen} glimpses, got {obs['time'][:, 0]}"
        return None

    def _check_rewards(self, move: Move, step: Step) -> str | None:
        if step.reward.dtype != np.float64:
            return f"rewards are {step.reward.dtype}"
        for lane, got in enumerate(step.reward.tolist()):
            wanted = self._reward(move, lane, bool(step.ends[lane]))
            if abs(got - wanted) > 1e-9:
                return f"the reward of lane {lane} should be {wanted}, got {got}"
        return None

    def _reward(self, move: Move, lane: int, ends: bool) -> float:
        """Return the reward by the environment's page ("Rewards")."""
        task, label = self._task, int(self._kept["label"][lane])
        right = int(move.label[lane]) == label
        shares = task.num_glimpses - int(self._t[lane]) + 1 if ends else 1
        if task.reward == "final":
            return right * ends - task.glimpse_cost
        if task.reward == "dense":
            return right * shares / task.num_glimpses - task.glimpse_cost
        assert move.scores is not None
        scores = move.scores[lane].tolist()
        log_sum = math.log(sum(math.exp(score - max(scores)) for score in scores))
        log_p = max(scores[label] - max(scores) - log_sum, -7.0)
        return log_p * shares / task.num_glimpses - task.glimpse_cost

    def _check_sample(self, step: Step) -> str | None:
        """Check one lane: exactly that it is in the space, and its glimpse by a plain loop."""
        lane = int(self._rng.integers(self._num_lanes))
        obs = {name: part[lane] for name, part in step.next_obs.items()}
        if not self._space.contains(obs):
            return f"the observation is not in the space: {obs}"
        task, canvas = self._task, self._env._episodes.canvas(lane)
        wanted = slow_glimpse(canvas, obs["location"], task.glimpse_size, task.num_scales)
        if np.abs(obs["glimpse"] - wanted).max() > 1e-6:
            return f"the glimpse of lane {lane} at {obs['location']} is not that of its canvas"
        return None


def slow_glimpse(
    canvas: np.ndarray, location: np.ndarray, size: int, num_scales: int
) -> np.ndarray:
    """Return what the retina sees, by a plain loop over scales and pixels.

    Args:
        canvas: uint8. Shape (H, W) or (H, W, 3).
        location: (x, y) in [-1, 1], float32.
        size: G [px].
        num_scales: S.

    Returns:
        Shape (S C, G, G), in [0, 1].
    """
    planes = canvas[None] if canvas.ndim == 2 else canvas.transpose(2, 0, 1)  # (C, H, W)
    height, width = planes.shape[1:]
    column, row = (
        round(float((coordinate + np.float32(1)) * np.float32(side / 2)))  # half to even
        for coordinate, side in zip(location, (width, height), strict=True)
    )
    glimpse = np.zeros((num_scales, len(planes), size, size))
    for scale in range(num_scales):
        block, half = 2**scale, size * 2**scale // 2
        for y in range(2 * half):
            for x in range(2 * half):
                at_y, at_x = row - half + y, column - half + x
                if 0 <= at_y < height and 0 <= at_x < width:
                    glimpse[scale, :, y // block, x // block] += planes[:, at_y, at_x]
        glimpse[scale] /= 255 * block**2
    return glimpse.reshape(-1, size, size)


def _batched(parts: dict[str, Any]) -> dict[str, np.ndarray]:
    """Give everything a leading N = 1."""
    return {name: np.array([part]) for name, part in parts.items()}


def _first(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: part[0] for name, part in parts.items()}
