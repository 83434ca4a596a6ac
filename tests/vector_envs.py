"""What tests of the vector environments share: actions, options, and what a lane is shown."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from ram_env import testing

OPTIONS = [{"index": 3, "location": (0.5, -1)}]


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


def calls(num_steps: int, seed: int) -> testing._Calls:
    return testing._Calls(num_steps, 5, seed, sampler, OPTIONS)


def lockstep(
    envs: Sequence[VectorEnv], num_steps: int, seed: int
) -> Iterator[list[tuple[Any, ...]]]:
    return testing._lockstep(envs, calls(num_steps, seed))


def scenes(out: tuple[Any, ...]) -> list[bytes]:
    """Return each lane's scene and what is seen of it, as bytes."""
    parts = [*out[0].values(), out[-1]["index"], out[-1]["position"]]
    return [b"".join(part[lane].tobytes() for part in parts) for lane in range(len(parts[0]))]
