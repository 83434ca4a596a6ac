"""The noise of training: every number is a pure function of (seed, lane, episode, place).

So it depends neither on other lanes or processes nor on earlier draws, and a checkpoint needs no
generator.

Dimension key:
    N: lanes (parallel episodes)
    T: glimpses per episode
    K: classes
    S: draws that all lanes share
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# SplitMix64's constants as int64, whose arithmetic wraps alike: torch hardly knows uint64
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX = (30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64)


class EpisodeNoise(NamedTuple):
    """What one episode per lane may draw, float32.

    Attributes:
        normal: Standard normal, for locations. Shape (T, N, 2).
        uniform: Uniform in [-1, 1], for locations of the random control. Shape (T, N, 2).
        clocks: Exponential of mean 1, for labels. Shape (T, N, K).
        shift: Uniform in (0, 1). Shape (N, 2).
        shared: Uniform in (0, 1), the same for all lanes. Shape (S,).
    """

    normal: Tensor
    uniform: Tensor
    clocks: Tensor
    shift: Tensor
    shared: Tensor


class Noise:
    """Draws the noise of episodes.

    Args:
        seed: The run's seed.
        lanes: The lanes' numbers in the whole run. N of them.
        num_glimpses: T.
        num_classes: K.
        num_shared: S.
        device: Where it is drawn.
    """

    def __init__(
        self,
        seed: int,
        lanes: Sequence[int],
        *,
        num_glimpses: int,
        num_classes: int,
        num_shared: int = 0,
        device: torch.device | str = "cpu",
    ):
        entropy = np.random.SeedSequence(seed, spawn_key=(0,))
        words = entropy.generate_state(max(lanes) + 2, np.uint64).view(np.int64)
        chosen = words[[0, *(1 + lane for lane in lanes)]]  # word 0 is the run's own
        self._keys = torch.as_tensor(chosen, device=device)  # (1 + N,)
        self._sizes, self._num_shared = (2, 2, num_classes), num_shared
        self._num_glimpses = num_glimpses
        num_words = max(num_glimpses * sum(self._sizes) + 2, num_shared)
        self._places = torch.arange(1, num_words + 1, device=device) * _GAMMA

    def draw(self, episode: int | Tensor) -> EpisodeNoise:
        """Return the noise of each lane's episode of this number, from 0.

        Source:
            Words are SplitMix64's (Steele, Lea and Flood 2014), as :mod:`ram_env.draws` has them;
            numbers are their inverse distribution functions.
        """
        if not isinstance(episode, Tensor):
            episode = torch.full((), episode, device=self._keys.device)  # waits for no GPU
        starts = _mix(self._keys + _mix(episode * _GAMMA + _GAMMA))  # (1 + N,)
        words = _mix(starts[:, None] + self._places)
        u = (_shifted(words, 11).double() + 0.5) * 2.0**-53  # (1 + N, words)
        u = u.clamp(max=1 - 2.0**-53)  # in (0, 1); the largest word would be rounded up to 1
        own = self._num_glimpses * sum(self._sizes)
        by_step, rest = u[1:, : own + 2].split((own, 2), 1)
        by_step = by_step.unflatten(1, (self._num_glimpses, -1)).transpose(0, 1)  # (T, N, 4 + K)
        normal, uniform, clocks = by_step.split(self._sizes, 2)
        parts = torch.special.ndtri(normal), 2 * uniform - 1, -clocks.log()
        below_1 = (part.clamp(max=1 - 2**-24) for part in (rest, u[0, : self._num_shared]))
        return EpisodeNoise(*(part.float() for part in (*parts, *below_1)))  # which could round up


def _mix(words: Tensor) -> Tensor:
    """Scramble words with SplitMix64's finaliser, a bijection."""
    for places, factor in _MIX:
        words = (words ^ _shifted(words, places)) * factor
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, places: int) -> Tensor:
    """Shift to the right and fill with zeros, where int64 would fill with the sign."""
    return (words >> places) & (2 ** (64 - places) - 1)
