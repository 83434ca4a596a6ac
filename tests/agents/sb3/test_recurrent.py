"""Minibatches of whole episodes hold what the stock buffer's hold, and teach the same."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO

import ram_env  # noqa: F401
from agents.sb3 import GlimpseVecEnv
from agents.sb3.recurrent import EpisodeBuffer, RecurrentHybridPolicy

N, T, ROUNDS = 6, 4, 3
EPISODES = N * ROUNDS
SERIES = ("actions", "old_values", "old_log_prob", "advantages", "returns")


def make_model(*, whole: bool, n_steps: int = ROUNDS * T) -> RecurrentPPO:
    env = GlimpseVecEnv(gym.make_vec("SignpostGlimpse-v0", num_envs=N))
    settings: dict[str, Any] = {"batch_size": EPISODES * T, "n_epochs": 1, "seed": 0}
    settings["policy_kwargs"] = {"lstm_hidden_size": 16, "num_classes": 4}
    model = RecurrentPPO(RecurrentHybridPolicy, env, n_steps=n_steps, device="cpu", **settings)
    if whole:
        model.rollout_buffer = EpisodeBuffer.of(model)
    return model


def roll_out(model: RecurrentPPO) -> Any:
    """Fill the model's buffer; both kinds of model play the same."""
    _, callback = model._setup_learn(1)
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model.rollout_buffer


def episodes_of(batches: list[Any]) -> list[dict[str, torch.Tensor]]:
    """Return each episode of some minibatches without padding, sorted by its first log-prob."""
    episodes = []
    for batch in batches:
        width = len(batch.mask) // batch.lstm_states.pi[0].shape[1]
        for first in range(0, len(batch.mask), width):
            steps = slice(first, first + int(batch.mask[first : first + width].sum()))
            series = {name: getattr(batch, name)[steps] for name in SERIES}
            episodes.append(series | {k: part[steps] for k, part in batch.observations.items()})
    return sorted(episodes, key=lambda episode: float(episode["old_log_prob"][0]))


@pytest.fixture
def _cut_between_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the stock buffer cut its rollout where no episode is cut in two."""
    monkeypatch.setattr(np.random, "randint", lambda high: 0)


@pytest.mark.usefixtures("_cut_between_episodes")
@pytest.mark.parametrize("batch_size", [None, 6 * T])
def test_episodes_are_those_of_the_stock_buffer(batch_size):
    stock, mine = (roll_out(make_model(whole=whole)) for whole in (False, True))
    expected = episodes_of(list(stock.get(batch_size)))
    for _ in range(2):  # two passes
        batches = list(mine.get(batch_size))
        assert [len(b.mask) for b in batches] == [T * 6] * 3 if batch_size else [T * EPISODES]
        got = episodes_of(batches)
        assert len(got) == len(expected) == EPISODES
        for one, other in zip(got, expected, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)
            assert one["time"].flatten().tolist() == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.usefixtures("_cut_between_episodes")
def test_an_update_is_that_of_the_stock_buffer():
    weights, gradients = [], []
    for whole in (False, True):
        model = make_model(whole=whole)
        roll_out(model)
        model.train()
        weights.append(model.policy.state_dict())
        gradients.append({n: p.grad for n, p in model.policy.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-4, rtol=0)


def test_a_pass_shuffles_all_episodes_and_repeats_none():
    buffer = roll_out(make_model(whole=True))
    orders = []
    for _ in range(2):
        firsts = [batch.old_log_prob[::T] for batch in buffer.get(6 * T)]
        orders.append(torch.cat(firsts).tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    assert len(set(orders[0])) == EPISODES


def test_episodes_that_are_cut_are_refused():
    buffer = roll_out(make_model(whole=True, n_steps=T + 2))
    with pytest.raises(ValueError, match=r"whole episodes of one length .* steps \[0, 4\] of 6"):
        next(buffer.get(T))
    buffer = roll_out(make_model(whole=True))
    with pytest.raises(ValueError, match="batch_size must be a multiple of 4 steps, got 6"):
        next(buffer.get(6))
    buffer.episode_starts[1, 0] = 1  # lanes out of step
    with pytest.raises(ValueError, match="in all lanes at once"):
        next(buffer.get(T))


def test_a_rollout_of_one_round_is_known_for_whole_episodes():
    buffer = roll_out(make_model(whole=True, n_steps=T))
    assert [len(batch.mask) for batch in buffer.get(2 * T)] == [2 * T] * 3
