"""RecurrentPPO on minibatches of whole episodes: quicker, where all have one length.

sb3-contrib's buffer takes episodes of any length: it cuts the rollout at a random place, copies
each sequence into a tensor of its own, pads them, and has the LSTM walk step by step, since a
sequence may begin with an episode, for which its state must be reset. Episodes of T steps in
lanes that are in step need none of that: here a sequence is an episode, it begins with a state
of zeros, and the LSTM takes all its steps at once.

Dimension key:
    R: steps of a rollout
    N: lanes
    T: steps of an episode; R is a multiple of it
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
from sb3_contrib.common.recurrent.type_aliases import RecurrentDictRolloutBufferSamples, RNNStates
from stable_baselines3.common.buffers import DictRolloutBuffer
from torch import Tensor

_SERIES = ("actions", "values", "log_probs", "advantages", "returns")


class EpisodeBuffer(RecurrentDictRolloutBuffer):
    """A rollout buffer for ``RecurrentPPO`` that hands out whole episodes, shuffled.

    Its minibatches hold what the stock buffer's would of the same episodes, without padding; the
    LSTM's states aren't stored, as episodes begin without one. Its arguments are the stock
    buffer's; ``model.rollout_buffer = EpisodeBuffer.of(model)`` puts it into a new model.

    Raises:
        ValueError: In ``get``, if the rollout isn't whole episodes of one length in lanes that
            are in step, or ``batch_size`` isn't whole episodes.
    """

    @classmethod
    def of(cls, model: RecurrentPPO) -> EpisodeBuffer:
        """Make an empty buffer as large as a model's."""
        stock = model.rollout_buffer
        assert isinstance(stock, RecurrentDictRolloutBuffer)
        return cls(
            stock.buffer_size,
            stock.observation_space,
            stock.action_space,
            stock.hidden_state_shape,
            stock.device,
            stock.gae_lambda,
            stock.gamma,
            stock.n_envs,
        )

    def reset(self) -> None:
        """Forget the rollout."""
        DictRolloutBuffer.reset(self)  # without room for the LSTM's states

    def add(self, *args: Any, lstm_states: RNNStates, **kwargs: Any) -> None:
        """Take in a step of all lanes: see ``DictRolloutBuffer.add``."""
        DictRolloutBuffer.add(self, *args, **kwargs)

    def get(
        self, batch_size: int | None = None
    ) -> Generator[RecurrentDictRolloutBufferSamples, None, None]:
        """Go through the rollout's episodes once, in random order, ``batch_size`` steps at once."""
        assert self.full, "the rollout is not complete"
        length, num_steps = self._episode_length(), self.buffer_size * self.n_envs
        batch_size = batch_size or num_steps
        if batch_size % length:
            raise ValueError(
                f"batch_size must be whole episodes of {length} steps, got {batch_size}"
            )
        observations = {k: self._by_episode(part, length) for k, part in self.observations.items()}
        series = [self._by_episode(getattr(self, name), length) for name in _SERIES]
        order = torch.as_tensor(np.random.permutation(num_steps // length), device=self.device)  # noqa: NPY002 - the generator that Stable-Baselines3 seeds
        for episodes in order.split(batch_size // length):
            yield self._batch(episodes, length, observations, series)

    def _batch(
        self, episodes: Tensor, length: int, observations: dict[str, Tensor], series: list[Tensor]
    ) -> RecurrentDictRolloutBufferSamples:
        """Return a minibatch of episodes (B,), the steps of each one after another, (B T, ...)."""
        _, num_layers, _, num_units = self.hidden_state_shape
        nothing = torch.zeros(num_layers, len(episodes), num_units, device=self.device)  # (L, B, H)
        mask = torch.ones(len(episodes) * length, device=self.device)
        return RecurrentDictRolloutBufferSamples(
            {name: part[episodes].flatten(0, 1) for name, part in observations.items()},
            *(part[episodes].flatten(0, 1) for part in series),
            lstm_states=RNNStates((nothing, nothing), (nothing, nothing)),
            episode_starts=torch.zeros_like(mask),  # nothing to reset: the states are zeros
            mask=mask,
        )

    def _by_episode(self, part: np.ndarray, length: int) -> Tensor:
        """Turn steps and lanes (R, N, ...) into episodes (E, T, ...)."""
        by_round = part.reshape(-1, length, *part.shape[1:]).swapaxes(1, 2)  # (R / T, N, T, ...)
        return torch.as_tensor(by_round.reshape(-1, length, *part.shape[2:]), device=self.device)

    def _episode_length(self) -> int:
        """Return T, once all episodes have it."""
        begins = self.episode_starts > 0  # (R, N)
        rows = np.flatnonzero(begins.any(1))
        length = int(rows[1]) if len(rows) > 1 else self.buffer_size
        expected = np.arange(self.buffer_size) % length == 0
        if self.buffer_size % length or (begins != expected[:, None]).any():
            raise ValueError(
                f"a rollout must be whole episodes of one length in all lanes at once, got starts "
                f"at steps {rows.tolist()} of {self.buffer_size}"
            )
        return length
