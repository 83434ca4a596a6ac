"""The episode so far as one observation: memory for algorithms that have none.

The wrappers replace ``glimpse`` and ``location`` by all of the episode's, in the order in which
they were seen, beside a mask of those seen; :class:`HistoryFeatures` turns them into features
for Stable-Baselines3. Both environments and observations are NumPy's.

Dimension key:
    N: lanes, or samples
    T: glimpses an episode
    P, G: glimpse planes (scales x colours), glimpse side [px]
    D: size of the joined glimpse vector
    F: features that the heads see
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space, create_empty_array
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.nn import functional

from agents.sb3.policies import make_glimpse_network, need_keys

Obs = dict[str, np.ndarray]

JOINS = ("sum", "concat")


class _Slots:
    """The glimpses and locations of N lanes' episodes, T slots each, those unseen zero."""

    def __init__(self, space: Any, num_glimpses: int, num_lanes: int):
        need_keys(space, ("glimpse", "location", "time"))
        if num_glimpses < 1:
            raise ValueError(f"num_glimpses must be at least 1, got {num_glimpses}")
        self.space = _history_space(space, num_glimpses)
        self._num_glimpses = num_glimpses
        self._arrays: dict[str, Any] = {
            name: create_empty_array(self.space[name], num_lanes)  # zeros
            for name in ("glimpses", "locations", "mask")
        }

    def show(self, obs: Obs) -> Obs:
        """Take in what all lanes see, and return their episodes so far, in fresh arrays.

        A lane whose time is that of a first glimpse begins anew. A glimpse shown again, at an
        episode's end, takes its own slot again.
        """
        slots = self._slots(obs["time"])
        lanes = np.arange(len(slots))
        if not ((slots == 0) | (self._arrays["mask"][lanes, slots - 1] > 0)).all():
            raise self._misfit(obs["time"])
        for part in self._arrays.values():
            part[slots == 0] = 0
        _put(self._arrays, lanes, slots, obs)
        return {**{name: part.copy() for name, part in self._arrays.items()}, "time": obs["time"]}

    def show_ends(self, lanes: np.ndarray, ends: list[Obs]) -> list[Obs]:
        """Return some lanes' episodes with their last observations, before what follows is shown.

        Args:
            lanes: Which. Shape (n,), int64.
            ends: Their last observations, n.
        """
        obs = {name: np.stack([end[name] for end in ends]) for name in ends[0]}
        episodes = {name: part[lanes] for name, part in self._arrays.items()}  # (n, T, ...)
        _put(episodes, np.arange(len(lanes)), self._slots(obs["time"]), obs)
        episodes["time"] = obs["time"]
        return [{name: part[i] for name, part in episodes.items()} for i in range(len(lanes))]

    def _slots(self, time: np.ndarray) -> np.ndarray:
        """Return the slots (N,) of the glimpses shown at times (N, 1), that is seen / T."""
        seen = time[:, 0] * self._num_glimpses
        slots = np.rint(seen).astype(int) - 1
        if (np.abs(slots + 1 - seen) > 1e-3).any() or (slots < 0).any():
            raise self._misfit(time)
        return slots

    def _misfit(self, time: np.ndarray) -> ValueError:
        return ValueError(
            f"num_glimpses must be the environment's, got {self._num_glimpses}, but the times "
            f"{np.unique(time).tolist()} (glimpses seen / num_glimpses) don't go on by one glimpse"
        )


class VectorGlimpseHistory(VectorWrapper, RecordConstructorArgs):
    """Show each lane's episode so far, of a vector environment in any autoreset mode.

    Observation Space:
    | key | shape | meaning |
    |---|---|---|
    | ``glimpses`` | (T, P, G, G) | glimpse t of the episode, zeros where it wasn't seen yet |
    | ``locations`` | (T, 2) | where it lay |
    | ``mask`` | (T,) | 1 where it was seen, else 0 |
    | ``time`` | (1,) | as before |

    Args:
        env: With the observations ``glimpse``, ``location`` and ``time`` (glimpses seen / T).
        num_glimpses: T, as of ``env``.

    Raises:
        ValueError: If the observations are others; in ``reset`` and ``step``, if T is wrong.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], num_glimpses: int):
        RecordConstructorArgs.__init__(self, num_glimpses=num_glimpses)
        super().__init__(env)
        self._slots = _Slots(env.single_observation_space, num_glimpses, env.num_envs)
        self.single_observation_space = self._slots.space
        self.observation_space = batch_space(self._slots.space, env.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Begin new episodes; lanes that a ``reset_mask`` leaves out keep theirs."""
        obs, infos = self.env.reset(seed=seed, options=options)
        return self._slots.show(obs), infos

    def step(self, actions: Any) -> Any:
        """Move all lanes; ``final_obs`` are whole episodes."""
        obs, reward, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:  # SAME_STEP, where an episode ended
            lanes, ends = np.flatnonzero(infos["_final_obs"]), infos["final_obs"].copy()
            ends[lanes] = self._slots.show_ends(lanes, ends[lanes].tolist())
            infos = {**infos, "final_obs": ends}
        return self._slots.show(obs), reward, terminated, truncated, infos


class GlimpseHistory(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """:class:`VectorGlimpseHistory` for a single environment.

    Args:
        env: With the observations ``glimpse``, ``location`` and ``time`` (glimpses seen / T).
        num_glimpses: T, as of ``env``.

    Raises:
        ValueError: If the observations are others; in ``reset`` and ``step``, if T is wrong.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], num_glimpses: int):
        RecordConstructorArgs.__init__(self, num_glimpses=num_glimpses)
        super().__init__(env)
        self._slots = _Slots(env.observation_space, num_glimpses, 1)
        self.observation_space = self._slots.space

    def observation(self, observation: Obs) -> Obs:
        """Return the episode so far."""
        shown = self._slots.show({name: part[None] for name, part in observation.items()})
        return {name: part[0] for name, part in shown.items()}


class HistoryFeatures(BaseFeaturesExtractor):
    """Features of an episode so far: each glimpse through the glimpse network, then joined.

    ``"sum"``: ReLU(W [sum_t g_t, g_now, time]). A sum has one size whatever T is, and is what a
    rectifier core that starts as the identity computes at first; the present glimpse stands
    beside it, since in a sum the order is lost and where to look next may depend on what is
    seen now. With the paper's sizes it has exactly as many weights as the paper's core.

    ``"concat"``: ReLU(W [g_1, ..., g_T, time]), zeros for glimpses not seen yet: it keeps the
    order, at T/2 times the weights.

    Args:
        observation_space: Of :class:`VectorGlimpseHistory` or :class:`GlimpseHistory`.
        join: ``"sum"`` or ``"concat"``.
        num_features: F, units of the hidden layer over the joined glimpses.
        **sizes: Of :func:`agents.sb3.make_glimpse_network`.

    Raises:
        ValueError: If the space is not a history's, or a value is not allowed.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        *,
        join: Literal["sum", "concat"] = "sum",
        num_features: int = 256,
        **sizes: int,
    ):
        need_keys(observation_space, ("glimpses", "locations", "mask", "time"))
        if join not in JOINS:
            raise ValueError(f"join must be one of {JOINS}, got {join!r}")
        super().__init__(observation_space, num_features)
        shape: Any = observation_space["glimpses"].shape  # (T, P, G, G)
        self._join = join
        self.glimpse_network = make_glimpse_network(shape[1:], **sizes)
        width = self.glimpse_network.join_what.out_features
        self.hidden = nn.Linear(width * (2 if join == "sum" else shape[0]) + 1, num_features)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Map ``glimpses`` (N, T, P, G, G) and the rest of a history to features (N, F)."""
        seen = observations["mask"] > 0.5  # (N, T)
        glimpses, locations = observations["glimpses"][seen], observations["locations"][seen]
        shown = self.glimpse_network(glimpses, locations)  # those seen only, (n, D)
        g = shown.new_zeros(*seen.shape, shown.shape[1])  # (N, T, D)
        g[seen] = shown
        if self._join == "sum":
            now = seen.sum(1).clamp(min=1) - 1  # (N,); padded samples have seen nothing
            g = torch.stack((g.sum(1), g[torch.arange(len(g)), now]), 1)  # (N, 2, D)
        joined = torch.cat((g.flatten(1), observations["time"]), 1)
        return functional.relu(self.hidden(joined))


def _history_space(space: spaces.Dict, num_glimpses: int) -> spaces.Dict:
    """Return the space of whole episodes."""
    glimpse, location = space["glimpse"], space["location"]
    assert isinstance(glimpse, spaces.Box)
    assert isinstance(location, spaces.Box)
    return spaces.Dict(
        {
            "glimpses": batch_space(glimpse, num_glimpses),
            "locations": batch_space(location, num_glimpses),
            "mask": spaces.Box(0, 1, (num_glimpses,), np.float32),
            "time": space["time"],
        }
    )


def _put(arrays: Obs, lanes: np.ndarray, slots: np.ndarray, obs: Obs) -> None:
    """Write glimpses and locations into the lanes' slots."""
    arrays["glimpses"][lanes, slots] = obs["glimpse"]
    arrays["locations"][lanes, slots] = obs["location"]
    arrays["mask"][lanes, slots] = 1
