"""The episode so far as one observation: memory for algorithms that have none.

:class:`VectorGlimpseHistory` replaces ``glimpse`` and ``location`` by all those of the episode so
far, in order, as NumPy arrays with a mask of the slots that are filled. :class:`HistoryFeatures`
turns them into features for Stable-Baselines3.

Dimension key:
    N: lanes, or samples
    n: some of them
    T: glimpses per episode
    P, G: glimpse planes (scales x colours), glimpse side [px]
    D: size of the joined glimpse vector
    F: features that the heads see
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space, create_empty_array
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.nn import functional

from agents.ram import GlimpseNetwork, RAMConfig
from agents.sb3.policies import require_keys

Obs = dict[str, np.ndarray]
_SERIES = ("glimpse", "location")


class VectorGlimpseHistory(VectorWrapper):
    """Observe each lane's episode so far, for a vector environment in any autoreset mode.

    The environment's state doesn't hold past glimpses. Restore one only at an episode's first
    glimpse, and let ``reset`` return what ``set_state`` did, as
    ``agents.sb3.training.ResumedVectorEnv`` does.

    Observation Space:
    | key | shape | meaning |
    |---|---|---|
    | ``glimpses`` | (T, P, G, G) | glimpse t of the episode, zeros while it is unseen |
    | ``locations`` | (T, 2) | location of glimpse t, zeros while it is unseen |
    | ``mask`` | (T,) | 1 where a glimpse was seen, else 0 |
    | ``time`` | (1,) | share of the episode's glimpses seen, unchanged |

    Args:
        env: Environment with the observations ``glimpse``, ``location`` and ``time`` and, as
            ``ram_env`` has it, T in ``env.unwrapped.task.num_glimpses``.

    Raises:
        ValueError: If the observations are others, or later, if an episode doesn't begin at its
            first glimpse.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]):
        super().__init__(env)
        require_keys(env.single_observation_space, ("glimpse", "location", "time"))
        self._num_glimpses: int = env.unwrapped.task.num_glimpses  # pyright: ignore[reportAttributeAccessIssue]
        single: Any = env.single_observation_space
        parts = {f"{name}s": batch_space(single[name], self._num_glimpses) for name in _SERIES}
        mask = spaces.Box(0, 1, (self._num_glimpses,), np.float32)
        self.single_observation_space = space = spaces.Dict(
            {**parts, "mask": mask, "time": single["time"]}
        )
        self.observation_space = batch_space(space, env.num_envs)
        self._seen: Any = {  # zeros, (N, T, ...)
            part: create_empty_array(space[part], env.num_envs) for part in (*parts, "mask")
        }

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Begin new episodes; lanes that a ``reset_mask`` leaves out keep theirs."""
        obs, infos = self.env.reset(seed=seed, options=options)
        return self._observe(obs), infos

    def step(self, actions: Any) -> Any:
        """Step all lanes; each of ``final_obs`` is a whole episode."""
        obs, reward, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:  # SAME_STEP, where an episode ended
            lanes, finals = np.flatnonzero(infos["_final_obs"]), infos["final_obs"].copy()
            finals[lanes] = self._complete(lanes, finals[lanes].tolist())
            infos = {**infos, "final_obs": finals}
        return self._observe(obs), reward, terminated, truncated, infos

    def _observe(self, obs: Obs) -> Obs:
        """Store what all lanes see, and return their episodes so far in fresh arrays."""
        self._add(self._seen, obs)
        return {**{name: part.copy() for name, part in self._seen.items()}, "time": obs["time"]}

    def _complete(self, lanes: np.ndarray, finals: list[Obs]) -> list[Obs]:
        """Return the ended episodes of the lanes (n,), given their n final observations."""
        obs = {name: np.stack([final[name] for final in finals]) for name in finals[0]}
        episodes = {name: part[lanes] for name, part in self._seen.items()}  # (n, T, ...)
        self._add(episodes, obs)
        episodes["time"] = obs["time"]
        return [{name: part[i] for name, part in episodes.items()} for i in range(len(lanes))]

    def _add(self, episodes: Obs, obs: Obs) -> None:
        """Write the glimpses of observations (N, ...) into their slots of the episodes (N, T, ...).

        The time of a first glimpse begins a new episode. One that an episode's end repeats fills
        its own slot again.
        """
        slots = np.rint(obs["time"][:, 0] * self._num_glimpses).astype(int) - 1  # (N,)
        lanes = np.arange(len(slots))
        if not ((slots == 0) | (episodes["mask"][lanes, slots - 1] > 0)).all():
            raise ValueError("an episode must be seen from its first glimpse on")
        for part in episodes.values():
            part[slots == 0] = 0
        for name in _SERIES:
            episodes[f"{name}s"][lanes, slots] = obs[name]
        episodes["mask"][lanes, slots] = 1


class HistoryFeatures(BaseFeaturesExtractor):
    """Features of an episode so far: ReLU(W [sum_t g_t, g_now, time]).

    Each glimpse passes through the paper's glimpse network. The sum has one size whatever T is. It
    loses the order, and the best next location may depend on what is seen now, so the current
    glimpse stands next to it. With the paper's sizes the layer is as large as the paper's core.

    Args:
        observation_space: That of :class:`VectorGlimpseHistory`.
        num_features: F, units of the hidden layer over the joined glimpses.
        **sizes: Sizes of the glimpse network: see :class:`agents.sb3.GlimpseFeatures`.
    """

    def __init__(self, observation_space: spaces.Dict, *, num_features: int = 256, **sizes: Any):
        require_keys(observation_space, ("glimpses", "locations", "mask", "time"))
        super().__init__(observation_space, num_features)
        shape: Any = observation_space["glimpses"].shape  # (T, P, G, G)
        self.glimpse_network = GlimpseNetwork(RAMConfig(shape[1:], 1, **sizes))
        self.hidden = nn.Linear(2 * self.glimpse_network.join_what.out_features + 1, num_features)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Map ``glimpses`` (N, T, P, G, G) and the rest of a history to features (N, F)."""
        seen = observations["mask"] > 0.5  # (N, T)
        glimpses, locations = observations["glimpses"][seen], observations["locations"][seen]
        g_seen = self.glimpse_network(glimpses, locations)  # (n, D): no work on empty slots
        g = g_seen.new_zeros(*seen.shape, g_seen.shape[1])  # (N, T, D)
        g[seen] = g_seen
        now = seen.sum(1).clamp(min=1) - 1  # (N,); padded samples have seen nothing
        g = torch.stack((g.sum(1), g[torch.arange(len(g)), now]), 1)  # (N, 2, D)
        joined = torch.cat((g.flatten(1), observations["time"]), 1)
        return functional.relu(self.hidden(joined))
