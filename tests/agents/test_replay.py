"""A replayed rollout teaches the classifier what it taught when it was played."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agents.episodes import Step
from agents.estimators import ESTIMATORS, Rollout, Weights
from agents.ram import RAMConfig, RecurrentAttentionModel
from agents.replay import Replay

T, N, K, SHAPE = 3, 5, 4, (2, 3, 3)
WEIGHTS = Weights(policy_coef=0.5, baseline_coef=0.5, discount=0.5)
CPU = torch.device("cpu")


def play(model: RecurrentAttentionModel, seed: int) -> list[Step]:
    """Return an episode of glimpses of whole 1/255, at random locations, with random answers."""
    generator = torch.Generator().manual_seed(seed)
    answers = torch.randint(K, (N,), generator=generator)
    state, steps = model.initial_state(N), []
    for _ in range(T):
        glimpse = torch.randint(256, (N, *SHAPE), generator=generator) / 255
        location = 2 * torch.rand(N, 2, generator=generator) - 1
        output, state = model(glimpse, location, state)
        acted = answers, torch.randn(N, generator=generator), torch.arange(N) % 2.0
        steps.append(Step(glimpse, location, output, state, *acted))
    return steps


def gradients(model: RecurrentAttentionModel, loss: Tensor) -> dict[str, Tensor]:
    parts = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return {name: part for (name, _), part in zip(model.named_parameters(), parts, strict=True)}


@pytest.mark.parametrize("name", ["outcome", "outcome_completed"])
def test_the_loss_of_a_replayed_rollout_is_that_of_its_labels_when_it_was_played(name):
    torch.manual_seed(0)
    model = RecurrentAttentionModel(RAMConfig(SHAPE, K, num_glimpses=T, core="gru"))
    steps = play(model, 0)
    true = (steps[-1].prediction + 1) % K  # another label would change every loss that saw it
    terms = ESTIMATORS[name].terms(Rollout.from_steps(true, 0.2, steps), WEIGHTS)
    expected = gradients(model, terms.label["classifier"])
    replay = Replay(1, (T, N, *SHAPE), CPU)
    replay.add(steps)
    loss = replay.loss(model, ESTIMATORS[name], WEIGHTS, torch.tensor(1 - 2**-24))
    torch.testing.assert_close(loss, terms.label["classifier"])
    got = gradients(model, loss)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(got[parameter], gradient)
    taught = {parameter.split(".")[0] for parameter, each in got.items() if each.count_nonzero()}
    assert taught == {"glimpse_network", "core", "action_network", "time"}


def test_it_draws_from_the_newest_rollouts_alone_and_from_all_of_them():
    torch.manual_seed(0)
    model = RecurrentAttentionModel(RAMConfig(SHAPE, K))
    draws = torch.linspace(0.01, 0.99, 12)

    def losses(replay: Replay) -> set[float]:
        with torch.no_grad():
            loss = (replay.loss(model, ESTIMATORS["outcome"], WEIGHTS, u) for u in draws)
            return {round(each.item(), 5) for each in loss}

    alone = []
    for seed in range(5):
        replay = Replay(1, (T, N, *SHAPE), CPU)
        replay.add(play(model, seed))
        alone.append(losses(replay))
    assert all(len(each) == 1 for each in alone)
    replay = Replay(3, (T, N, *SHAPE), CPU)
    for seed in range(5):
        replay.add(play(model, seed))
        assert losses(replay) == set().union(*alone[max(0, seed - 2) : seed + 1])


def test_a_replay_that_no_checkpoint_could_hold_is_refused_at_once():
    with pytest.raises(ValueError, match=r"has 5\.4 GiB, .* 3\.9: lower replay_size or num_envs"):
        Replay(200, (8, 8192, 3, 12, 12), torch.device("meta"))
    with pytest.raises(ValueError, match="lower replay_size or num_envs"):
        Replay(10**9, (8, 8192, 3, 12, 12), CPU)  # no machine has the memory


def test_a_replay_of_no_rollouts_stores_nothing():
    replay = Replay(0, (T, N, *SHAPE), CPU)
    replay.add(play(RecurrentAttentionModel(RAMConfig(SHAPE, K)), 0))
    assert not len(replay)
    assert replay.tensors["added"] == 0
