"""Histories as flat vectors: for algorithms of Stable-Baselines3 that take no dict observations.

CrossQ joins batches of observations, and a replay buffer of vectors can store each observation
once. :class:`FlatVecEnv` flattens the observations of training lanes, :class:`FlatHistoryFeatures`
splits them again, and :class:`FlatPlayer` lets the trained model play in lanes that aren't flat.

Dimension key:
    N: lanes, or samples
    D: numbers in an observation
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor

from agents.sb3.history import HistoryFeatures, Obs


def flatten(obs: Obs, space: spaces.Dict) -> np.ndarray:
    """Join the parts of observations, in the space's order: (N, D), float32."""
    parts = [obs[name] for name in space]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1, dtype=np.float32)


class FlatVecEnv(VecEnvWrapper):
    """Lanes whose observations, dicts of boxes, are joined to vectors (N, D), final ones too."""

    def __init__(self, venv: VecEnv):
        self._space: Any = venv.observation_space
        super().__init__(venv, spaces.flatten_space(self._space))

    def reset(self) -> Any:
        """Begin new episodes."""
        obs: Any = self.venv.reset()
        return flatten(obs, self._space)

    def step_wait(self) -> Any:
        """Finish a step."""
        step: Any = self.venv.step_wait()
        obs, reward, ended, infos = step
        for info in infos:
            if "terminal_observation" in info:
                final = {name: part[None] for name, part in info["terminal_observation"].items()}
                info["terminal_observation"] = flatten(final, self._space)[0]
        return flatten(obs, self._space), reward, ended, infos


class FlatHistoryFeatures(HistoryFeatures):
    """:class:`agents.sb3.HistoryFeatures` of flat observations (N, D).

    Args:
        observation_space: That of :class:`FlatVecEnv`.
        history: The space that was flattened, of :class:`agents.sb3.VectorGlimpseHistory`.
        **keywords: Those of :class:`agents.sb3.HistoryFeatures`.
    """

    def __init__(self, observation_space: spaces.Box, *, history: spaces.Dict, **keywords: Any):
        super().__init__(history, **keywords)
        self._shapes: dict[str, Any] = {name: part.shape for name, part in history.items()}

    def forward(self, observations: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map flat histories (N, D) to features (N, F)."""
        parts = observations.split([*map(math.prod, self._shapes.values())], 1)
        named = zip(self._shapes.items(), parts, strict=True)
        return super().forward({name: part.unflatten(1, shape) for (name, shape), part in named})


class FlatPlayer:
    """A ``model`` that was trained on :class:`FlatVecEnv` and takes dicts of ``space``."""

    def __init__(self, model: Any, space: spaces.Dict):
        self._model, self._space, self.device = model, space, model.device

    def predict(self, observation: Any, *arguments: Any, **keywords: Any) -> Any:
        """Return what the model's ``predict`` does."""
        return self._model.predict(flatten(observation, self._space), *arguments, **keywords)
