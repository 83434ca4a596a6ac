"""Any Gymnasium vector environment as one of Stable-Baselines3's.

Stable-Baselines3 has a vector API of its own, older than Gymnasium's. In it infos are a list of
dicts, one a lane; at the end of an episode they hold its last observation
(``terminal_observation``) and whether a time limit cut it (``TimeLimit.truncated``); there is
one flag for both ways to end; rewards are float32; seeds and options wait for the next reset.

Dimension key:
    N: lanes (sub-environments)
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

_OF_THE_OLD_EPISODE = {"final_obs", "_final_obs", "final_info", "_final_info"}


class GlimpseVecEnv(VecEnv):
    """A Gymnasium vector environment that Stable-Baselines3 takes as it is.

    It returns what ``DummyVecEnv`` over the same single environments would: observations,
    rewards, flags, infos and reset infos. Infos are complete at every step, as Python numbers
    and rows of arrays; :attr:`vector_infos` has them as the vector environment told them.

    ``get_attr`` and its kin ask the single environments of ``SyncVectorEnv`` and
    ``AsyncVectorEnv`` (which calls a method in all of them or in none, and shuts down when
    one has no such attribute). Others are asked themselves, the outermost wrapper first, and
    the answer holds for every lane.

    Args:
        env: In the autoreset mode ``SAME_STEP``, with NumPy observations in fresh arrays.

    Attributes:
        env: The Gymnasium environment.
        vector_infos: Infos of the last step or reset, as ``env`` returned them.
        spec: Of ``env``.

    Raises:
        ValueError: If ``env`` is in another autoreset mode or reuses its arrays; in
            ``reset``, if its observations are not NumPy's.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]):
        _check(env)
        self.env = env
        self.vector_infos: dict[str, Any] = {}
        self.spec = env.spec
        self._base = env.unwrapped
        self._nobody = np.zeros(env.num_envs, bool)
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = env.metadata

    def seed(self, seed: int | Sequence[int | None] | None = None) -> Sequence[int | None]:
        """Set the seeds of the next reset.

        ``PPO(..., seed=s)`` calls it, too: call it after the algorithm was made for others.

        Args:
            seed: Lane i gets seed + i; or one a lane; None draws one from NumPy's global
                generator.

        Returns:
            One seed a lane.

        Raises:
            ValueError: If a list is not of length N.
        """
        if seed is None or isinstance(seed, (int, np.integer)):
            return super().seed(None if seed is None else int(seed))
        if len(seed) != self.num_envs:
            raise ValueError(f"seed must be one int or {self.num_envs}, got {len(seed)}")
        self._seeds = list(seed)
        return self._seeds

    def reset(self) -> Any:
        """Begin new episodes in all lanes, with the seeds and options set for it.

        Returns:
            Observations, (N, ...) or a dict of such. Infos are in ``reset_infos``.

        Raises:
            ValueError: If the options differ between lanes.
        """
        options = self._options[0]
        if any(other is not options and other != options for other in self._options):
            raise ValueError("options must be the same for all lanes, got different ones")
        obs, self.vector_infos = self.env.reset(seed=self._next_seed(), options=options or None)
        parts = obs.values() if isinstance(obs, dict) else [obs]
        if not all(isinstance(part, np.ndarray) for part in parts):
            kinds = sorted({type(part).__name__ for part in parts})
            raise ValueError(f"env must return NumPy arrays, got {kinds}: make it without device")
        self.reset_infos = split_infos(self.vector_infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Move all lanes; those whose episode ends begin the next one.

        Returns:
            Observations (of the new episode where one ended), rewards (N,), float32, flags
            of ended episodes (N,), and infos of the step: the old episode's where one ended.
            The new one's are in ``reset_infos``.
        """
        obs, reward, terminated, truncated, infos = self.env.step(self._actions)
        self.vector_infos = infos
        told = {name: part for name, part in infos.items() if name not in _OF_THE_OLD_EPISODE}
        told["TimeLimit.truncated"] = self._nobody
        rows = split_infos(told, self.num_envs)
        ended = terminated | truncated
        if ended.any():
            self._finish(rows, np.flatnonzero(ended), truncated & ~terminated)
        return obs, reward.astype(np.float32), ended, rows

    def close(self) -> None:
        """Close the Gymnasium environment."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a frame of each lane; None where the render mode is not ``"rgb_array"``."""
        if self.render_mode != "rgb_array":
            message = f"images need an env with render_mode='rgb_array', not {self.render_mode!r}"
            warnings.warn(message, stacklevel=2)
            return [None] * self.num_envs
        frames: Any = self.env.render()
        return list(frames)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of some lanes; spaces are one lane's."""
        lanes = list(self._get_indices(indices))
        if attr_name in ("observation_space", "action_space"):  # as wrappers leave them
            return [getattr(self.env, f"single_{attr_name}")] * len(lanes)
        if isinstance(self._base, SyncVectorEnv):
            return [self._base.envs[lane].get_wrapper_attr(attr_name) for lane in lanes]
        if isinstance(self._base, AsyncVectorEnv):
            values = self._base.get_attr(attr_name)
            return [values[lane] for lane in lanes]
        return [getattr(self._owner(attr_name), attr_name)] * len(lanes)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of some lanes, or of all that share it (else a ``ValueError``)."""
        lanes = list(self._get_indices(indices))
        if isinstance(self._base, SyncVectorEnv):
            for lane in lanes:
                self._base.envs[lane].set_wrapper_attr(attr_name, value)
            return
        self._need_all(attr_name, lanes)
        if isinstance(self._base, AsyncVectorEnv):
            self._base.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(self._owner(attr_name), attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of some lanes, or once for all that share it (else a ``ValueError``)."""
        lanes = list(self._get_indices(indices))
        if isinstance(self._base, SyncVectorEnv):
            methods = self.get_attr(method_name, lanes)
            return [method(*method_args, **method_kwargs) for method in methods]
        self._need_all(method_name, lanes)
        if isinstance(self._base, AsyncVectorEnv):
            values = self._base.call(method_name, *method_args, **method_kwargs)
            return [values[lane] for lane in lanes]
        method = getattr(self._owner(method_name), method_name)
        return [method(*method_args, **method_kwargs)] * len(lanes)

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Tell which lanes are wrapped (in other processes: by a class of that name)."""
        lanes = list(self._get_indices(indices))
        if isinstance(self._base, SyncVectorEnv):
            return [is_wrapped(self._base.envs[lane], wrapper_class) for lane in lanes]
        if isinstance(self._base, AsyncVectorEnv):
            names = self._base.call("__str__")  # <Outer<Inner<Env>>>
            return [f"<{wrapper_class.__name__}<" in names[lane] for lane in lanes]
        return [False] * len(lanes)

    def _owner(self, attr_name: str) -> Any:
        """Return the outermost wrapper of the vector env that has an attribute, or that env."""
        layer: Any = self.env
        while not hasattr(layer, attr_name):
            if not isinstance(layer, VectorWrapper):
                raise AttributeError(f"{self.env} has no attribute {attr_name!r}")
            layer = layer.env
        return layer

    def _need_all(self, attr_name: str, lanes: list[int]) -> None:
        if len(set(lanes)) < self.num_envs:
            raise ValueError(
                f"{attr_name} is one for all lanes of {self._base}: leave indices out, not {lanes}"
            )

    def _finish(self, rows: list[dict[str, Any]], lanes: np.ndarray, cut: np.ndarray) -> None:
        """Put what is told of the old episode into rows, of the new one into reset_infos."""
        infos = self.vector_infos
        finals = split_infos(infos.get("final_info", {}), self.num_envs, lanes)
        for lane, final in zip(lanes.tolist(), finals, strict=True):
            begun = rows[lane]
            del begun["TimeLimit.truncated"]
            if "episode" in begun:  # of Gymnasium's RecordEpisodeStatistics; SB3 reads it, too
                final["episode"] = begun.pop("episode")
            final["TimeLimit.truncated"] = bool(cut[lane])
            final["terminal_observation"] = _row(infos["final_obs"], lane)
            rows[lane], self.reset_infos[lane] = final, begun

    def _next_seed(self) -> Any:
        """Return the seeds as most vector environments take them: None, or one int if it does."""
        seeds, first = self._seeds, self._seeds[0]
        if all(seed is None for seed in seeds):
            return None
        if first is not None and seeds == list(range(first, first + self.num_envs)):
            return first
        return seeds


def split_infos(
    infos: dict[str, Any], num_envs: int, lanes: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Turn a vector environment's infos into one dict a lane.

    Args:
        infos: Arrays (N, ...), or dicts of such, each perhaps beside a mask (N,) of the lanes
            that have it, named alike with a leading underscore. Anything else is for all.
        num_envs: N.
        lanes: Which to return; None for all. Shape (n,), int64.

    Returns:
        n dicts. Entries of one-dimensional arrays become Python numbers.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(num_envs if lanes is None else len(lanes))]
    for name, values in infos.items():
        if name[:1] == "_" and name[1:] in infos:
            continue  # a mask
        column = _column(values, num_envs, lanes)
        mask = infos.get(f"_{name}")
        if mask is not None and lanes is not None:
            mask = mask[lanes]
        if mask is None or np.count_nonzero(mask) == len(rows):
            for row, value in zip(rows, column, strict=True):
                row[name] = value
        else:
            for i in np.flatnonzero(mask).tolist():
                rows[i][name] = column[i]
    return rows


def _column(values: Any, num_envs: int, lanes: np.ndarray | None) -> Sequence[Any]:
    """Return one value a lane."""
    if isinstance(values, dict):
        return split_infos(values, num_envs, lanes)
    if isinstance(values, np.ndarray) and values.shape[:1] == (num_envs,):
        part = values if lanes is None else values[lanes]
        return part.tolist() if part.ndim == 1 else list(part)
    return [values] * (num_envs if lanes is None else len(lanes))


def _row(obs: Any, lane: int) -> Any:
    """Return one lane of a batch of observations, or of an array of observations."""
    return {name: part[lane] for name, part in obs.items()} if isinstance(obs, dict) else obs[lane]


def _check(env: VectorEnv[Any, Any, Any]) -> None:
    """Refuse environments that Stable-Baselines3 would misread."""
    of_singles = isinstance(env.unwrapped, (SyncVectorEnv, AsyncVectorEnv))
    mode = env.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.SAME_STEP:
        keyword = 'autoreset_mode="SameStep"'
        if of_singles:
            keyword = 'vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}'
        raise ValueError(
            f"env must be in the autoreset mode SAME_STEP, got {mode}: pass {keyword} to "
            "gymnasium.make_vec"
        )
    if of_singles and not getattr(env.unwrapped, "copy", True):
        raise ValueError("env must return fresh arrays: make it with copy=True, the default")
