"""Lanes in step on a device, for which the host never waits: what one CUDA graph can hold.

Dimension key: N lanes (sub-environments).
"""

from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorWrapper

from ram_env.arrays import Array
from ram_env.canvas import ImageScenes
from ram_env.checks import expect
from ram_env.signpost import SignpostScenes
from ram_env.vector_env import GlimpseVectorEnv, SignpostVectorEnv


class LockstepEnv(VectorWrapper):
    """A vector environment whose lanes begin and end together, stepped without any wait.

    For a trainer that checks its actions itself. Observations, rewards and states are those of the
    environment, to the bit, but

    - an action that is not allowed counts as zeros, which are class 0 and the middle of the image
      (of a grid, the first cell), and clears ``valid``;
    - ``terminated`` and ``truncated`` are NumPy arrays, which the host knows without asking;
    - infos hold ``label``, ``index``, ``position`` and ``object_size`` alone, of the episode that
      is shown.

    Attributes:
        valid: Whether all actions so far were allowed: a flag on the device. Shape (), bool.

    Args:
        env: In the autoreset mode ``SAME_STEP``, on a device and without ``allow_stop``.

    Raises:
        ValueError: If the environment is another, its lanes are out of step, or it or its scenes
            are of a subclass, whose Python a CUDA graph does not replay.
    """

    def __init__(self, env: GlimpseVectorEnv):
        known = GlimpseVectorEnv, SignpostVectorEnv
        own = type(env) in known and type(env._episodes.scenes) in (ImageScenes, SignpostScenes)
        expect(own, f"env and its scenes must be of ram_env's own classes, not subclasses: {env}")
        fits = env.autoreset_mode is AutoresetMode.SAME_STEP and not env.task.allow_stop
        wanted = "lanes in step need a device, autoreset_mode='SameStep' and allow_stop=False"
        expect(env.device and fits, wanted)
        super().__init__(env)
        self._episodes = env._episodes
        self._check_in_step()
        import torch

        self.valid = torch.ones((), dtype=torch.bool, device=env.device)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the environment."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, **how: Any) -> tuple[dict[str, Array], dict[str, Any]]:
        """Begin new episodes in all lanes: see the environment's ``reset``."""
        masked = (how.get("options") or {}).get("reset_mask") is not None
        expect(not masked, "lanes in step are reset together: leave reset_mask out")
        self.env.reset(**how)
        return self._episodes.observe(), self._episodes.describe()

    def step(self, actions: Any) -> tuple[dict[str, Array], Array, Array, Array, dict[str, Any]]:
        """Step all lanes; after an episode's end, the next one is shown."""
        env: Any = self.env
        env._check_open("step")
        episodes = self._episodes
        if not episodes.running.all():
            raise ResetNeeded("call reset() before step()")
        decision = episodes.action_format.parse(
            actions, (self.num_envs,), device=episodes.device, all_valid=self.valid
        )
        reward, _, ends = episodes.step(decision)
        if ends.all():
            episodes.begin(np.arange(self.num_envs))
        return episodes.observe(), reward, ends, np.zeros_like(ends), episodes.describe()

    def set_state(self, state: dict[str, Any]) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """Continue where ``get_state`` was called; see the environment's ``set_state``."""
        env: Any = self.env
        shown = env.set_state(state)
        self._check_in_step()
        return None if shown is None else (self._episodes.observe(), self._episodes.describe())

    def _check_in_step(self) -> None:
        got = self._episodes.seen.tolist()
        wanted = "lanes in step must have seen as many glimpses as each other"
        expect(len({*got}) == 1, f"{wanted}, got {got}")
