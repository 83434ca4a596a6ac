"""A Gymnasium vector environment as a Stable-Baselines3 ``VecEnv``.

Stable-Baselines3's vector API is older than Gymnasium's. Infos are a list with one dict per lane,
which at the end of an episode holds the last observation (``terminal_observation``) and whether a
time limit ended it (``TimeLimit.truncated``). One flag covers both ways to end, rewards are
float32, and seeds and options wait for the next reset.

Dimension key:
    N: lanes (sub-environments)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

_OLD_EPISODE_INFOS = {"final_obs", "_final_obs", "final_info", "_final_info"}


class GlimpseVecEnv(VecEnv):
    """A Gymnasium vector environment that Stable-Baselines3 takes directly.

    It returns what ``DummyVecEnv`` over the same single environments would. Infos are complete at
    every step, as Python numbers and rows of arrays. All lanes are one environment, so attributes
    can be read but not set: do that on ``env``.

    Args:
        env: Vector environment in the autoreset mode ``SAME_STEP`` that returns NumPy observations
            in fresh arrays; any other raises a ValueError.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]):
        if not isinstance(env, VectorEnv):
            raise ValueError(f"env must be a vector environment of gymnasium.make_vec, got {env!r}")
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP or not getattr(env.unwrapped, "copy", True):
            raise ValueError(
                "env must return fresh arrays in the autoreset mode SAME_STEP: pass "
                f'autoreset_mode="SameStep" to gymnasium.make_vec, got {mode}'
            )
        self.env = env
        self.spec = env.spec
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = env.metadata

    def seed(self, seed: int | Sequence[int | None] | None = None) -> Sequence[int | None]:
        """Set the seeds of the next reset, and return one per lane.

        An int seeds lane i with seed + i, a list has one seed per lane, None is random. ``PPO(...,
        seed=s)`` calls this too. Seeds s and s + 1 then share all lanes but one: for independent
        runs, call ``seed(agents.training.spread_seed(s, N)[0])`` after making the algorithm.
        """
        if isinstance(seed, Sequence):
            self._seeds = list(seed)
            return self._seeds
        return super().seed(seed)

    def reset(self) -> Any:
        """Begin new episodes in all lanes, with the seeds and options that were set.

        Returns observations, (N, ...) or a dict of such. Infos are in ``reset_infos``.
        """
        obs, infos = self.env.reset(seed=self._seeds, options=self._options[0] or None)  # pyright: ignore[reportArgumentType]
        parts = obs.values() if isinstance(obs, dict) else [obs]
        if not all(isinstance(part, np.ndarray) for part in parts):
            kinds = sorted({type(part).__name__ for part in parts})
            raise ValueError(f"env must return NumPy arrays, got {kinds}: make it without device")
        self.reset_infos = split_infos(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return obs

    def set_options(self, options: dict[str, Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Set the options of the next reset, as Gymnasium's vector environment takes them."""
        self._options = [options or {}]

    def step_async(self, actions: np.ndarray) -> None:
        """Store the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step all lanes; those whose episode ends begin the next one.

        Return observations (of the new episode where one ended), rewards (N,), float32, flags of
        ended episodes (N,), and infos: the old episode's where one ended, with the new one's in
        ``reset_infos``.
        """
        obs, reward, terminated, truncated, infos = self.env.step(self._actions)
        current = {name: part for name, part in infos.items() if name not in _OLD_EPISODE_INFOS}
        rows, ended = split_infos(current, self.num_envs), terminated | truncated
        if ended.any():
            self._move_infos(infos, rows, np.flatnonzero(ended).tolist())
        for row, cut in zip(rows, (truncated & ~terminated).tolist(), strict=True):
            row["TimeLimit.truncated"] = cut
        return obs, reward.astype(np.float32), ended, rows

    def close(self) -> None:
        """Close the Gymnasium environment."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a frame per lane; None where the render mode is not ``"rgb_array"``."""
        frames: Any = self.env.render() if self.render_mode == "rgb_array" else None
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the environment, once per lane; spaces are those of one lane."""
        if attr_name in ("observation_space", "action_space"):  # as the wrappers leave them
            attr_name = f"single_{attr_name}"
        owner = self.env if hasattr(self.env, attr_name) else self.env.unwrapped
        return [getattr(owner, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: a lane has no attributes of its own."""
        raise NotImplementedError(f"all lanes are one environment: set {attr_name} on its `env`")

    def env_method(self, method_name: str, *args: Any, **keywords: Any) -> list[Any]:
        """Refuse: a lane has no methods of its own."""
        raise NotImplementedError(f"all lanes are one environment: call {method_name} of its `env`")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return False for each lane: a lane has no wrapper of its own."""
        return [False for _ in self._get_indices(indices)]

    def _move_infos(
        self, infos: dict[str, Any], rows: list[dict[str, Any]], lanes: list[int]
    ) -> None:
        """Move a new episode's infos to reset_infos and put the old episode's into rows."""
        finals = {**infos.get("final_info", {}), "terminal_observation": infos["final_obs"]}
        ends = split_infos(finals, self.num_envs)
        for lane in lanes:
            begun = rows[lane]
            if "episode" in begun:  # Gymnasium's RecordEpisodeStatistics; SB3 reads it too
                ends[lane]["episode"] = begun.pop("episode")
            rows[lane], self.reset_infos[lane] = ends[lane], begun


def split_infos(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Split a vector environment's infos into one dict per lane, of Python numbers where possible.

    Infos are arrays (N, ...) or dicts of such. A mask (N,) of the lanes that have an entry bears
    its name with a leading underscore. Any other value holds for all lanes.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for name, values in infos.items():
        if name[:1] == "_" and name[1:] in infos:
            continue  # a mask
        if isinstance(values, dict):
            column = split_infos(values, num_envs)
        elif isinstance(values, np.ndarray) and values.shape[:1] == (num_envs,):
            column = values.tolist() if values.ndim == 1 else list(values)
        else:
            column = [values] * num_envs
        mask = infos.get(f"_{name}")
        for i in range(num_envs) if mask is None else np.flatnonzero(mask).tolist():
            rows[i][name] = column[i]
    return rows
