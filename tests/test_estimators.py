"""Estimators: what each may look at, and which step each gradient belongs to."""

from dataclasses import replace

import pytest
import torch

from agents.estimators import ESTIMATORS, Rollout, Weights
from agents.losses import dense_returns, exact_dense_returns

NUM_STEPS, NUM_ENVS = 4, 6
WEIGHTS = Weights(0.5, 0.25, discount=0.5, num_rollouts=2, entropy_coef=0.1)


def make_rollout(seed: int = 0) -> Rollout:
    generator = torch.Generator().manual_seed(seed)

    def leaf() -> torch.Tensor:
        return (-torch.rand(NUM_STEPS, NUM_ENVS, generator=generator)).requires_grad_()

    reward = torch.zeros(NUM_STEPS, NUM_ENVS)
    reward[-1] = torch.tensor([1.0, 0, 1, 1, 0, 0])
    return Rollout(leaf(), leaf(), leaf(), leaf(), reward, leaf(), leaf())


def loss_of(name: str, rollout: Rollout) -> torch.Tensor:
    return torch.stack(list(ESTIMATORS[name].terms(rollout, WEIGHTS).values())).sum()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_last_location_moved_nothing_and_learns_nothing(name):
    rollout = make_rollout()
    loss_of(name, rollout).backward()
    grad = rollout.location_log_prob.grad
    assert grad is not None
    assert (grad[-1] == 0).all()
    assert (grad[:-1] != 0).any(1).all()


@pytest.mark.parametrize("name", [n for n, e in ESTIMATORS.items() if not e.sees_label])
def test_a_reward_only_estimator_never_looks_at_the_label(name):
    rollout = make_rollout()
    other = replace(rollout, label_log_prob=torch.full((NUM_STEPS, NUM_ENVS), torch.nan))
    assert torch.equal(loss_of(name, rollout), loss_of(name, other))


def test_a_sampled_label_counts_at_the_scoring_step_only():
    rollout = make_rollout()
    loss_of("reward_only", rollout).backward()
    grad = rollout.named_log_prob.grad
    assert grad is not None
    assert (grad[:-1] == 0).all()
    assert (grad[-1] != 0).any()


@pytest.mark.parametrize("name", ["reward_only", "reward_only_no_baseline"])
def test_entropy_counts_where_its_action_does_something(name):
    rollout = make_rollout()
    loss_of(name, rollout).backward()
    location, label = rollout.location_entropy.grad, rollout.label_entropy.grad
    assert location is not None
    assert label is not None
    torch.testing.assert_close(location[:-1], torch.full_like(location[:-1], -0.1 / NUM_ENVS))
    torch.testing.assert_close(label[-1], torch.full_like(label[-1], -0.1 / NUM_ENVS))
    assert not location[-1].any()
    assert not label[:-1].any()


@pytest.mark.parametrize(("name", "glimpses"), [("paper", [3]), ("every_glimpse", [0, 1, 2, 3])])
def test_the_classifier_learns_at_the_glimpses_it_should(name, glimpses):
    rollout = make_rollout()
    loss_of(name, rollout).backward()
    grad = rollout.label_log_prob.grad
    assert grad is not None
    assert (grad != 0).any(1).nonzero()[:, 0].tolist() == glimpses


@pytest.mark.parametrize("name", ESTIMATORS)
def test_advantages_are_constants_so_the_policy_teaches_neither_baseline_nor_classifier(name):
    rollout = make_rollout()
    ESTIMATORS[name].terms(rollout, WEIGHTS)["policy"].backward()
    assert rollout.baseline.grad is None
    assert rollout.label_log_prob.grad is None


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_better_outcome_makes_its_locations_likelier(name):
    rollout = make_rollout()
    label_log_prob = torch.full((NUM_STEPS, NUM_ENVS), -2.0)
    label_log_prob[1:, 0] = -0.1  # rewarded, too; its neighbour of the same image was not
    terms = ESTIMATORS[name].terms(
        replace(
            rollout,
            label_log_prob=label_log_prob,
            baseline=torch.full((NUM_STEPS, NUM_ENVS), 0.5),
        ),
        WEIGHTS,
    )
    terms["policy"].backward()
    grad = rollout.location_log_prob.grad
    assert grad is not None
    assert grad[0, 0] < 0
    assert grad[0, 1] > grad[0, 0]


def test_the_paper_is_the_only_kind_that_keeps_locations_out_of_the_core():
    kept_out = [name for name, e in ESTIMATORS.items() if not e.location_reaches_core]
    assert kept_out == ["paper", "every_glimpse"]


def test_dense_and_exact_pay_for_the_same_gains():
    log_p = make_rollout().label_log_prob
    even = torch.full((NUM_STEPS,), 1 / NUM_STEPS)
    later = torch.arange(NUM_STEPS - 1, 0, -1)[:, None]  # glimpses after t
    exact = exact_dense_returns(log_p, even)
    torch.testing.assert_close(exact, dense_returns(log_p, 1.0) * later / NUM_STEPS)
