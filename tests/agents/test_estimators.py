"""Estimators: what each may look at, and which step each gradient belongs to."""

from dataclasses import fields, replace

import pytest
import torch

from agents.estimators import ESTIMATORS, Rollout, Weights
from agents.losses import dense_returns, exact_dense_returns

NUM_STEPS, NUM_ENVS = 4, 6
TERMINAL_REWARD = ("paper", "every_glimpse", "leave_one_out")
SAMPLED_REWARD = ("reward_only", "reward_only_no_baseline")
WORKED_OUT = (*TERMINAL_REWARD, "dense", "dense_exact", *SAMPLED_REWARD)  # returns_of knows these
WEIGHTS = Weights(
    policy_coef=0.5, baseline_coef=0.25, discount=0.5, num_rollouts=2, entropy_coef=0.1
)


def make_rollout(seed: int = 0) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    leaves = {
        field.name: (-torch.rand(NUM_STEPS, NUM_ENVS, generator=generator)).requires_grad_()
        for field in fields(Rollout)
    }
    reward = torch.zeros(NUM_STEPS, NUM_ENVS)
    reward[-1] = torch.tensor([1.0, 0, 1, 1, 0, 0])
    return Rollout(**{**leaves, "reward": reward})


def loss_of(name: str, rollout: Rollout) -> torch.Tensor:
    return torch.stack(list(ESTIMATORS[name].terms(rollout, WEIGHTS).by_name().values())).sum()


def returns_of(name: str, rollout: Rollout) -> torch.Tensor:
    """Return what each action is credited with: locations, and the scored label if sampled."""
    log_p = rollout.label_log_prob.detach()
    if name == "dense":
        return dense_returns(log_p, 0.5)
    if name == "dense_exact":
        return exact_dense_returns(log_p, torch.full((NUM_STEPS,), 1 / NUM_STEPS))
    steps = NUM_STEPS if ESTIMATORS[name].samples_label else NUM_STEPS - 1
    return rollout.reward[-1].expand(steps, NUM_ENVS)  # only the last step pays


def advantage_of(name: str, rollout: Rollout) -> torch.Tensor:
    returns = returns_of(name, rollout)
    if name == "reward_only_no_baseline":
        return returns
    if name == "leave_one_out":
        return returns - returns[:, [1, 0, 3, 2, 5, 4]]  # the image's other rollout
    advantage = returns - rollout.baseline.detach()[: len(returns)]
    if name == "dense":  # normalised, and a mean over locations
        return (advantage - advantage.mean()) / advantage.std() / (NUM_STEPS - 1)
    return advantage


@pytest.mark.parametrize("name", WORKED_OUT)
def test_a_location_is_weighted_with_its_returns_less_the_baseline(name):
    rollout = make_rollout()
    loss_of(name, rollout).backward()
    policy_coef = 1.0 if name == "dense_exact" else 0.5
    expected = torch.zeros(NUM_STEPS, NUM_ENVS)
    expected[:-1] = -policy_coef * advantage_of(name, rollout)[: NUM_STEPS - 1] / NUM_ENVS
    torch.testing.assert_close(rollout.location_log_prob.grad, expected)


@pytest.mark.parametrize("name", WORKED_OUT)
def test_the_baseline_is_drawn_to_the_returns(name):
    rollout = make_rollout()
    loss_of(name, rollout).backward()
    if name in ("leave_one_out", "reward_only_no_baseline"):
        assert rollout.baseline.grad is None
        return
    returns = returns_of(name, rollout)
    expected = torch.zeros(NUM_STEPS, NUM_ENVS)
    # d/db of 0.25 mean (b - R)^2
    error = rollout.baseline.detach()[: len(returns)] - returns
    expected[: len(returns)] = 2 * 0.25 * error / returns.numel()
    torch.testing.assert_close(rollout.baseline.grad, expected)


@pytest.mark.parametrize("name", [n for n, e in ESTIMATORS.items() if not e.sees_label])
def test_a_reward_only_estimator_never_looks_at_the_label(name):
    rollout = make_rollout()
    other = replace(rollout, label_log_prob=torch.full((NUM_STEPS, NUM_ENVS), torch.nan))
    assert torch.equal(loss_of(name, rollout), loss_of(name, other))


@pytest.mark.parametrize("name", SAMPLED_REWARD)
def test_a_sampled_label_and_the_entropies_count_where_their_action_does_something(name):
    rollout = make_rollout()
    loss_of(name, rollout).backward()
    label, location_entropy, label_entropy = torch.zeros(3, NUM_STEPS, NUM_ENVS)
    label[-1] = -advantage_of(name, rollout)[-1] / NUM_ENVS
    location_entropy[:-1] = label_entropy[-1] = -0.1 / NUM_ENVS
    torch.testing.assert_close(rollout.prediction_log_prob.grad, label)
    torch.testing.assert_close(rollout.location_entropy.grad, location_entropy)
    torch.testing.assert_close(rollout.label_entropy.grad, label_entropy)


@pytest.mark.parametrize("name", [*TERMINAL_REWARD, "dense", "dense_exact"])
def test_the_classifier_learns_at_every_glimpse_alike_but_the_papers_at_the_last(name):
    rollout = make_rollout()
    loss_of(name, rollout).backward()
    weights = torch.tensor([0.0, 0, 0, 1] if name == "paper" else [0.25] * 4)
    expected = -weights[:, None].expand(NUM_STEPS, NUM_ENVS) / NUM_ENVS
    torch.testing.assert_close(rollout.label_log_prob.grad, expected)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_advantages_are_constants_so_what_teaches_locations_teaches_nothing_else(name):
    terms = ESTIMATORS[name].terms(rollout := make_rollout(), WEIGHTS).by_name()
    for term in terms.values():
        inputs = [rollout.location_log_prob, rollout.baseline, rollout.label_log_prob]
        of_location, *others = torch.autograd.grad(
            term, inputs, allow_unused=True, retain_graph=True
        )
        assert of_location is None or others == [None, None]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_without_its_location_terms_an_estimator_teaches_no_location(name):
    terms = ESTIMATORS[name].terms(rollout := make_rollout(), WEIGHTS)
    kept = terms.by_name(location=False)
    assert {**kept, **terms.location} == terms.by_name()
    torch.stack(list(kept.values())).sum().backward()
    assert rollout.location_log_prob.grad is None
    assert rollout.baseline.grad is None or ESTIMATORS[name].samples_label  # which needs it


def test_a_rollout_takes_the_log_probabilities_of_label_and_prediction():
    # two glimpses of one episode, two classes with p = 1/4 and 3/4, then 1/2 and 1/2
    rest = dict.fromkeys(("location_log_prob", "baseline", "reward"), torch.zeros(1))
    steps = [
        {"logits": torch.tensor([[1.0, 3.0]]).log(), "prediction": torch.tensor([1]), **rest},
        {"logits": torch.tensor([[1.0, 1.0]]).log(), "prediction": torch.tensor([0]), **rest},
    ]
    rollout = Rollout.from_steps(torch.tensor([0]), 0.5, steps)
    assert rollout.label_log_prob.exp().flatten().tolist() == pytest.approx([1 / 4, 1 / 2])
    assert rollout.prediction_log_prob.exp().flatten().tolist() == pytest.approx([3 / 4, 1 / 2])
    assert rollout.location_entropy.shape == rollout.label_entropy.shape == (2, 1)
