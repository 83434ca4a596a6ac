"""Any Gymnasium vector environment as a Stable-Baselines3 ``VecEnv``.

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
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

_OLD_EPISODE_INFOS = {"final_obs", "_final_obs", "final_info", "_final_info"}


class GlimpseVecEnv(VecEnv):
    """A Gymnasium vector environment that Stable-Baselines3 takes directly.

    It returns what ``DummyVecEnv`` over the same single environments would. Infos are complete at
    every step, as Python numbers and rows of arrays.

    ``get_attr`` and its relatives ask the single environments of ``SyncVectorEnv`` and
    ``AsyncVectorEnv`` (which shuts down if one lacks the attribute). Any other vector environment
    is asked itself (or its outermost wrapper), and the answer holds for every lane.
    Attributes are set, and methods called, in all lanes at once.

    Args:
        env: Vector environment in the autoreset mode ``SAME_STEP`` that returns NumPy observations
            in fresh arrays; any other raises a ValueError.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]):
        _check(env)
        self.env = env
        self.spec = env.spec
        self._base = env.unwrapped
        self._no_lane = np.zeros(env.num_envs, bool)
        self._actions: Any = None
        self._next_seed: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = env.metadata

    def seed(self, seed: int | Sequence[int | None] | None = None) -> Sequence[int | None]:
        """Set the seeds of the next reset, and return one per lane.

        An int seeds lane i with seed + i, a list has one seed per lane, None is random. ``PPO(...,
        seed=s)`` calls this too. Seeds s and s + 1 then share all lanes but one: for independent
        runs, call ``seed(agents.training.spread_seed(s, N)[0])`` after making the algorithm.
        """
        several = isinstance(seed, (Sequence, np.ndarray))
        seeds = seed if several else [seed]
        if (several and len(seeds) != self.num_envs) or not all(map(_is_seed, seeds)):
            what = f"None or an int >= 0, or a list of {self.num_envs} of these"
            raise ValueError(f"seed must be {what}, got {seed!r}")
        if not several:
            super().seed(seed if seed is None else int(seed))
            self._next_seed = self._seeds[0]  # lane i has seed + i; any vector env takes one int
        else:
            self._next_seed = self._seeds = [each if each is None else int(each) for each in seeds]
        return self._seeds

    def reset(self) -> Any:
        """Begin new episodes in all lanes, with the seeds and options that were set.

        Returns observations, (N, ...) or a dict of such. Infos are in ``reset_infos``. Options that
        differ between lanes raise a ``ValueError``.
        """
        options = self._options[0]
        if not all(other is options or _equal(options, other) for other in self._options[1:]):
            raise ValueError("options must be the same for all lanes, got different ones")
        obs, infos = self.env.reset(seed=self._next_seed, options=options or None)
        parts = obs.values() if isinstance(obs, dict) else [obs]
        if not all(isinstance(part, np.ndarray) for part in parts):
            kinds = sorted({type(part).__name__ for part in parts})
            raise ValueError(f"env must return NumPy arrays, got {kinds}: make it without device")
        self.reset_infos = split_infos(infos, self.num_envs)
        self._next_seed = None
        self._reset_seeds()
        self._reset_options()
        return obs

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
        current["TimeLimit.truncated"] = self._no_lane
        rows = split_infos(current, self.num_envs)
        ended = terminated | truncated
        if ended.any():
            self._move_infos(infos, rows, np.flatnonzero(ended), truncated & ~terminated)
        return obs, reward.astype(np.float32), ended, rows

    def close(self) -> None:
        """Close the Gymnasium environment."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a frame per lane; None where the render mode is not ``"rgb_array"``."""
        frames: Any = self.env.render() if self.render_mode == "rgb_array" else None
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of some lanes; spaces are those of one lane."""
        if attr_name in ("observation_space", "action_space"):  # as the wrappers leave them
            values = [getattr(self.env, f"single_{attr_name}")] * self.num_envs
        elif isinstance(self._base, SyncVectorEnv):
            values = [env.get_wrapper_attr(attr_name) for env in self._base.envs]
        elif isinstance(self._base, AsyncVectorEnv):
            values = self._base.get_attr(attr_name)
        else:
            values = [getattr(self._owner(attr_name), attr_name)] * self.num_envs
        return [values[lane] for lane in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of all lanes; raises a ``ValueError`` for some of them."""
        self._require_all(attr_name, indices)
        if isinstance(self._base, (SyncVectorEnv, AsyncVectorEnv)):
            self._base.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(self._owner(attr_name), attr_name, value)

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of all lanes; raises a ``ValueError`` for some of them."""
        self._require_all(method_name, indices)
        if isinstance(self._base, (SyncVectorEnv, AsyncVectorEnv)):
            return list(self._base.call(method_name, *args, **kwargs))
        method = getattr(self._owner(method_name), method_name)
        return [method(*args, **kwargs)] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return whether each lane is wrapped by a class of that name."""
        names = [""] * self.num_envs
        if isinstance(self._base, (SyncVectorEnv, AsyncVectorEnv)):
            names = self._base.call("__str__")  # <Outer<Inner<Env>>>
        return [f"<{wrapper_class.__name__}<" in names[i] for i in self._get_indices(indices)]

    def _owner(self, attr_name: str) -> Any:
        return self.env if hasattr(self.env, attr_name) else self._base

    def _require_all(self, attr_name: str, indices: VecEnvIndices) -> None:
        if len(set(self._get_indices(indices))) < self.num_envs:
            advice = f"leave indices out, got {indices}"
            raise ValueError(f"{attr_name} is set or called in all lanes only: {advice}")

    def _move_infos(
        self, infos: dict[str, Any], rows: list[dict[str, Any]], lanes: np.ndarray, cut: np.ndarray
    ) -> None:
        """Move a new episode's infos to reset_infos and put the old episode's into rows."""
        finals = split_infos(infos.get("final_info", {}), self.num_envs)
        for lane in lanes.tolist():
            begun, final = rows[lane], finals[lane]
            del begun["TimeLimit.truncated"]
            if "episode" in begun:  # Gymnasium's RecordEpisodeStatistics; SB3 reads it too
                final["episode"] = begun.pop("episode")
            final["TimeLimit.truncated"] = bool(cut[lane])
            obs = infos["final_obs"]
            final["terminal_observation"] = (
                {k: part[lane] for k, part in obs.items()} if isinstance(obs, dict) else obs[lane]
            )
            rows[lane], self.reset_infos[lane] = final, begun


def _equal(some: dict[str, Any], others: dict[str, Any]) -> bool:
    return some.keys() == others.keys() and all(np.array_equal(some[k], others[k]) for k in some)


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


def _check(env: VectorEnv[Any, Any, Any]) -> None:
    """Refuse environments that Stable-Baselines3 would misread."""
    if not isinstance(env, VectorEnv):
        raise ValueError(f"env must be a vector environment, from gymnasium.make_vec, got {env!r}")
    of_singles = isinstance(env.unwrapped, (SyncVectorEnv, AsyncVectorEnv))
    mode = env.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.SAME_STEP:
        keyword = 'autoreset_mode="SameStep"'
        if of_singles:
            keyword = 'vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}'
        advice = f"pass {keyword} to gymnasium.make_vec"
        raise ValueError(f"env must be in the autoreset mode SAME_STEP, got {mode}: {advice}")
    if of_singles and not getattr(env.unwrapped, "copy", True):
        raise ValueError("env must return fresh arrays: make it with copy=True, the default")


def _is_seed(value: Any) -> bool:
    is_int = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return value is None or (is_int and int(value) >= 0)
