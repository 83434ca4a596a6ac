"""What tests of the environments share: tasks, actions and options."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from ram_env import testing

TOY: dict[str, Any] = {"dataset": "toy", "translate": True, "num_clutter": 2}
SMALL = {**TOY, "canvas_size": 36, "glimpse_size": 6, "num_scales": 3, "num_glimpses": 4}
# The first scale shows the whole canvas from its middle, the second from anywhere.
WHOLE = {**TOY, "canvas_size": 32, "glimpse_size": 32, "num_scales": 2, "num_glimpses": 3}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "signpost": ("SignpostGlimpse-v0", {}),
    "toy": ("MNISTGlimpse-v0", {**SMALL, "object_scale": (0.5, 1.2)}),
    "whole": ("MNISTGlimpse-v0", WHOLE),
    "whole-test": ("MNISTGlimpse-v0", {**WHOLE, "split": "test", "object_scale": (0.5, 1.1)}),
    "whole-sequential": ("MNISTGlimpse-v0", {**WHOLE, "order": "sequential", "object_scale": 0.8}),
}
OPTIONS = [{"index": 3, "location": (0.5, -1)}]


def make_vector(task: str = "signpost", num_envs: int = 3, **keywords: Any) -> Any:
    env_id, own = TASKS[task]
    return gym.make_vec(env_id, num_envs=num_envs, **{**own, **keywords})


def make_single(task: str = "signpost", **keywords: Any) -> Any:
    env_id, own = TASKS[task]
    return gym.make(env_id, disable_env_checker=True, **{**own, **keywords}).unwrapped


def sampler(env: VectorEnv, seed: int) -> Callable[[], Any]:
    """Return a source of random actions: often out of bounds, rarely stopping."""
    task = env.unwrapped.task  # pyright: ignore[reportAttributeAccessIssue]
    space, rng = copy.deepcopy(env.action_space), np.random.default_rng(seed)
    space.seed(seed)

    def sample() -> Any:
        action = space.sample()
        stays = rng.random(env.num_envs) < 0.7 * task.allow_stop
        if task.action_format == "dict":
            action["location"] *= 1.3
            if task.allow_stop:
                action["stop"][stays] = 0
        elif task.action_format == "box":
            action[:, :2] *= 1.3
            action[:, 2:] *= 9
            action[stays, -1] = -1
        else:
            action[stays, -1] = 0
        return action

    return sample


def checks(num_steps: int, seed: int) -> testing._Checks:
    return testing._Checks(num_steps, 5, seed, sampler, OPTIONS)
