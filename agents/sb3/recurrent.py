"""RecurrentPPO on minibatches of whole episodes, which is faster where all have the same length.

sb3-contrib's buffer takes episodes of any length: it pads sequences and runs the LSTM step by step.
Where all episodes have T steps, each sequence is one episode, begins with a state of zeros, and
passes through the LSTM in one call.

Dimension key:
    R: steps of a rollout
    N: lanes
    T: steps of an episode; divides R
    E: episodes of a rollout, N R / T
    B: episodes of a minibatch
    L, H: layers and units of the LSTM
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RecurrentDictRolloutBufferSamples, RNNStates
from stable_baselines3.common.buffers import DictRolloutBuffer
from torch import Tensor

from agents.sb3.policies import HybridPolicy

_SERIES = ("actions", "values", "log_probs", "advantages", "returns")


class RecurrentHybridPolicy(HybridPolicy, RecurrentActorCriticPolicy):
    """:class:`agents.sb3.HybridPolicy` with an LSTM between features and heads, for RecurrentPPO.

    Further arguments are those of ``RecurrentActorCriticPolicy``, such as ``lstm_hidden_size``
    (256). By default the critic has an LSTM of its own.
    """


class EpisodeBuffer(RecurrentDictRolloutBuffer):
    """A rollout buffer for ``RecurrentPPO`` whose minibatches are whole episodes, shuffled.

    They hold what the stock buffer's would for the same episodes, without padding.
    ``model.rollout_buffer = EpisodeBuffer.of(model)`` puts one into a new model. Lanes must be in
    step, and ``batch_size`` a multiple of the episodes' length.
    """

    @classmethod
    def of(cls, model: RecurrentPPO) -> EpisodeBuffer:
        """Make an empty buffer as large as a model's."""
        names = ("buffer_size", "observation_space", "action_space", "hidden_state_shape")
        names = (*names, "device", "gae_lambda", "gamma", "n_envs")
        return cls(**{name: getattr(model.rollout_buffer, name) for name in names})

    def reset(self) -> None:
        """Empty the buffer."""
        DictRolloutBuffer.reset(self)  # without room for the LSTM's states

    def add(self, *args: Any, lstm_states: RNNStates, **kwargs: Any) -> None:
        """Store one step of all lanes: see ``DictRolloutBuffer.add``."""
        DictRolloutBuffer.add(self, *args, **kwargs)

    def get(
        self, batch_size: int | None = None
    ) -> Generator[RecurrentDictRolloutBufferSamples, None, None]:
        """Yield the rollout once, in random order, as minibatches of ``batch_size`` steps."""
        assert self.full, "the rollout is not complete"
        length, num_steps = self._episode_length(), self.buffer_size * self.n_envs
        batch_size = batch_size or num_steps
        if batch_size % length:
            raise ValueError(f"batch_size must be a multiple of {length} steps, got {batch_size}")
        observations = {k: self._by_episode(part, length) for k, part in self.observations.items()}
        series = [self._by_episode(getattr(self, name), length) for name in _SERIES]
        _, num_layers, _, num_units = self.hidden_state_shape
        order = torch.as_tensor(np.random.permutation(num_steps // length), device=self.device)  # noqa: NPY002 - the generator that Stable-Baselines3 seeds
        for episodes in order.split(batch_size // length):
            zeros = torch.zeros(num_layers, len(episodes), num_units, device=self.device)
            mask = torch.ones(len(episodes) * length, device=self.device)  # (B T,)
            yield RecurrentDictRolloutBufferSamples(
                {name: part[episodes].flatten(0, 1) for name, part in observations.items()},
                *(part[episodes].flatten(0, 1) for part in series),
                lstm_states=RNNStates((zeros, zeros), (zeros, zeros)),  # (L, B, H)
                episode_starts=torch.zeros_like(mask),  # no resets: the states are zeros already
                mask=mask,
            )

    def _by_episode(self, part: np.ndarray, length: int) -> Tensor:
        """Turn steps and lanes (R, N, ...) into episodes (E, T, ...)."""
        by_round = part.reshape(-1, length, *part.shape[1:]).swapaxes(1, 2)  # (R / T, N, T, ...)
        return torch.as_tensor(by_round.reshape(-1, length, *part.shape[2:]), device=self.device)

    def _episode_length(self) -> int:
        """Return T, after checking that all episodes have it."""
        starts = self.episode_starts > 0  # (R, N)
        rows = np.flatnonzero(starts.any(1))
        length = int(rows[1]) if len(rows) > 1 else self.buffer_size
        expected = np.arange(self.buffer_size) % length == 0
        if self.buffer_size % length or (starts != expected[:, None]).any():
            raise ValueError(
                f"a rollout must be whole episodes of one length in all lanes at once, got starts "
                f"at steps {rows.tolist()} of {self.buffer_size}"
            )
        return length
