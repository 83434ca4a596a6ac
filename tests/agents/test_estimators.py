"""Estimators: what each may look at, and which step each gradient belongs to."""

from dataclasses import fields, replace

import pytest
import torch

from agents.episodes import Step
from agents.estimators import ESTIMATORS, Rollout, Terms, Weights
from agents.losses import dense_returns, exact_dense_returns, gaussian_entropy
from agents.ram import Output

NUM_STEPS, NUM_ENVS = 4, 6
DENSE = ("dense", "dense_last_glimpse", "dense_not_normalised", "paper_dense_returns")
NORMALISED = [name for name, estimator in ESTIMATORS.items() if estimator.normalises]
LAST_GLIMPSE = ("paper", "paper_dense_returns", "paper_normalised", "dense_last_glimpse")
SAMPLED_REWARD = ("reward_only", "reward_only_no_baseline")
OUTCOME = ("outcome", "outcome_completed", "outcome_normalised")
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


def steps_of(logits, predictions, reward) -> list[Step]:
    """Return steps with these logits, (N, K) each, labels and rewards, (N,); the rest is 0."""
    zeros = torch.zeros(len(reward))
    outputs = [Output(zeros, each, zeros) for each in logits]
    return [
        Step(zeros, zeros, output, zeros, prediction, zeros, reward)
        for output, prediction in zip(outputs, predictions, strict=True)
    ]


def loss_of(name: str, rollout: Rollout, weights: Weights = WEIGHTS) -> torch.Tensor:
    return torch.stack(list(ESTIMATORS[name].terms(rollout, weights).by_name().values())).sum()


def returns_of(name: str, rollout: Rollout) -> torch.Tensor:
    """Return what each action is credited with: locations, and the scored label if sampled."""
    log_p = rollout.label_log_prob.detach()
    if name in DENSE:
        return dense_returns(log_p, 0.5)
    if name == "dense_log_odds":
        return dense_returns(rollout.label_log_odds.detach() / 9, 0.5)
    if name == "dense_exact":
        return exact_dense_returns(log_p, [1 / NUM_STEPS] * NUM_STEPS)
    if name in OUTCOME:
        answered = rollout.answer_log_prob, rollout.other_log_prob
        return dense_returns(torch.where(rollout.reward[-1] == 1, *answered).detach(), 0.5)
    steps = NUM_STEPS if ESTIMATORS[name].samples_label else NUM_STEPS - 1
    return rollout.reward[-1].expand(steps, NUM_ENVS)  # only the last step pays


def advantage_of(name: str, rollout: Rollout, axes: tuple[int, ...] = (0, 1)) -> torch.Tensor:
    returns = returns_of(name, rollout)
    if name == "reward_only_no_baseline":
        return returns
    if name == "leave_one_out":
        return returns - returns[:, [1, 0, 3, 2, 5, 4]]  # the image's other rollout
    advantage = returns - rollout.baseline.detach()[: len(returns)]
    if name in NORMALISED:
        advantage = advantage - advantage.mean(axes, keepdim=True)
        advantage /= advantage.std(axes, keepdim=True)
    is_mean = name in OUTCOME or (name.startswith("dense") and name != "dense_exact")
    return advantage / (NUM_STEPS - 1) if is_mean else advantage


@pytest.mark.parametrize("name", ESTIMATORS)
def test_locations_baseline_and_classifier_learn_from_what_the_estimator_says(name):
    rollout, expected = make_rollout(), torch.zeros(3, NUM_STEPS, NUM_ENVS)
    loss_of(name, rollout).backward()
    returns, policy_coef = returns_of(name, rollout), 1.0 if name == "dense_exact" else 0.5
    location, baseline, label = expected
    location[:-1] = -policy_coef * advantage_of(name, rollout)[: NUM_STEPS - 1] / NUM_ENVS
    torch.testing.assert_close(rollout.location_log_prob.grad, location)
    # d/db of 0.25 mean (b - R)^2
    error = rollout.baseline.detach()[: len(returns)] - returns
    baseline[: len(returns)] = 2 * 0.25 * error / returns.numel()
    drawn = baseline if ESTIMATORS[name].learns_baseline else None
    torch.testing.assert_close(rollout.baseline.grad, drawn)
    weights = torch.tensor([0.0, 0, 0, 1] if name in LAST_GLIMPSE else [0.25] * 4)
    label[:] = -weights[:, None] / NUM_ENVS
    taught = label if ESTIMATORS[name].sees_label else None
    torch.testing.assert_close(rollout.label_log_prob.grad, taught)


@pytest.mark.parametrize("name", NORMALISED)
def test_returns_may_be_normalised_at_each_step_alone(name):
    rollout = make_rollout()
    loss_of(name, rollout, replace(WEIGHTS, normalise_by_step=True)).backward()
    expected = torch.zeros(NUM_STEPS, NUM_ENVS)
    expected[:-1] = -0.5 * advantage_of(name, rollout, (1,)) / NUM_ENVS
    torch.testing.assert_close(rollout.location_log_prob.grad, expected)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_weight_matters_where_the_estimator_says_so(name):
    estimator, rollout = ESTIMATORS[name], make_rollout()
    for weight, matters in (
        ("discount", estimator.discounts),
        ("baseline_coef", estimator.learns_baseline),
        ("policy_coef", name != "dense_exact"),
    ):
        losses = [loss_of(name, rollout, replace(WEIGHTS, **{weight: w})) for w in (0.25, 0.5)]
        assert (losses[0] != losses[1]) == matters, weight


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


@pytest.mark.parametrize("sign", [-1, 1])
def test_evidence_beyond_the_largest_log_odds_earns_nothing(sign):
    weights = replace(WEIGHTS, max_log_odds=18.0)

    def policy(last: float) -> torch.Tensor:
        log_odds = torch.linspace(-2, 2, NUM_STEPS * NUM_ENVS).reshape(NUM_STEPS, NUM_ENVS)
        log_odds[-1, 0] = sign * last
        rollout = replace(make_rollout(), label_log_odds=log_odds)
        return ESTIMATORS["dense_log_odds"].terms(rollout, weights).location["policy"]

    assert policy(18) == policy(36) == policy(torch.inf) != policy(17)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_without_its_location_terms_an_estimator_teaches_no_location(name):
    terms = ESTIMATORS[name].terms(rollout := make_rollout(), WEIGHTS)
    kept = terms.by_name(location=False)
    assert {**kept, **terms.location} == terms.by_name()
    torch.stack(list(kept.values())).sum().backward()
    assert rollout.location_log_prob.grad is None
    assert rollout.baseline.grad is None or ESTIMATORS[name].samples_label  # which needs it


def test_terms_are_scalars_with_names_of_their_own():
    one = torch.zeros(())
    with pytest.raises(ValueError, match="scalars with different names"):
        Terms({"loss": one}, {"loss": one}, {}).by_name()
    with pytest.raises(ValueError, match="scalars with different names"):
        Terms({"loss": one}, {"policy": torch.zeros(6)}, {}).by_name()


def test_a_rollout_takes_the_log_probabilities_of_label_and_prediction():
    # two glimpses of one episode, two classes with p = 1/4 and 3/4, then 1/2 and 1/2; the answer,
    # given at the second, is class 0
    logits = [torch.tensor([[1.0, 3.0]]).log().requires_grad_(), torch.tensor([[1.0, 1.0]]).log()]
    steps = steps_of(logits, torch.tensor([[1], [0]]), torch.zeros(1))
    rollout = Rollout.from_steps(torch.tensor([0]), 0.5, steps)
    assert rollout.right.flatten().tolist() == [0, 1]
    assert rollout.label_log_prob.exp().flatten().tolist() == pytest.approx([1 / 4, 1 / 2])
    assert rollout.label_log_odds.exp().flatten().tolist() == pytest.approx([1 / 3, 1])
    assert not rollout.label_log_odds.requires_grad  # only returns are made of them
    assert rollout.prediction_log_prob.exp().flatten().tolist() == pytest.approx([3 / 4, 1 / 2])
    assert rollout.answer_log_prob.exp().flatten().tolist() == pytest.approx([1 / 4, 1 / 2])
    assert rollout.other_log_prob.exp().flatten().tolist() == pytest.approx([3 / 4, 1 / 2])
    assert rollout.rest_log_prob.exp().flatten().tolist() == pytest.approx([3 / 4, 1 / 2])
    assert rollout.label_entropy.flatten().tolist() == pytest.approx([0.56234, 0.69315], abs=1e-5)
    spread = gaussian_entropy(0.5).item()
    assert rollout.location_entropy.flatten().tolist() == pytest.approx([spread, spread])


def classifier_gradient(name: str, step: int, belief: torch.Tensor, episodes) -> torch.Tensor:
    """Return the expected gradient of the classifier's loss in the logits at a step, (K,).

    Args:
        name: An estimator.
        step: 0, or 1, the last.
        belief: Class probabilities at that step. Shape (K,).
        episodes: Equally likely ones: label, answer, and the belief at the other step.
    """
    label, answer, other = (torch.tensor(part) for part in zip(*episodes, strict=True))
    logits = [other.log(), other.log()]
    logits[step] = of_step = belief.log().expand(len(label), -1).clone().requires_grad_()
    steps = steps_of(logits, (answer, answer), (label == answer).float())
    rollout = Rollout.from_steps(label, 0.5, steps)
    ESTIMATORS[name].terms(rollout, WEIGHTS).label["classifier"].backward()
    assert of_step.grad is not None
    return of_step.grad.sum(0)


@pytest.mark.parametrize("name", OUTCOME)
@pytest.mark.parametrize("answers", [(0, 1, 2), (0, 0, 0, 1, 2), (0, 1, 1, 2, 2, 2)])
def test_at_the_last_glimpse_only_the_posterior_is_a_fixed_point_however_labels_are_sampled(
    name, answers
):
    episodes = [(y, a, [0.2, 0.3, 0.5]) for y in (0, 0, 1, 2) for a in answers]
    posterior = torch.tensor([0.5, 0.25, 0.25])
    assert classifier_gradient(name, 1, posterior, episodes).norm() < 1e-6
    for belief in torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) + 0.05:
        belief = belief / belief.sum()
        distance = (belief - posterior).norm()
        assert classifier_gradient(name, 1, belief, episodes).norm() > 0.1 * distance


# Later glimpses tell class 0 from the classes 1 and 2. Then a is 0 if y is 0, and else 1 or 2.
TOLD_APART = [(0, 0, [1.0, 1e-9, 1e-9])] * 4
TOLD_APART += [(y, a, [1e-9, 0.5, 0.5]) for y in (1, 2) for a in (1, 1, 2, 2)]


def test_outcome_is_overconfident_before_the_last_glimpse():
    # -1/3 log(1 - 2 x) - 1/3 (log x + log(1 - x)) is least where 6 x^2 - 6 x + 1 = 0
    x = (6 - 12**0.5) / 12  # 0.211
    there = torch.tensor([1 - 2 * x, x, x])
    assert classifier_gradient("outcome", 0, there, TOLD_APART).norm() < 1e-6
    assert classifier_gradient("outcome", 0, torch.full((3,), 1 / 3), TOLD_APART).norm() > 0.01


def test_outcome_completed_is_unbiased_if_the_last_belief_is_calibrated():
    uniform = torch.full((3,), 1 / 3)
    assert classifier_gradient("outcome_completed", 0, uniform, TOLD_APART).norm() < 1e-6


def test_a_wrong_answer_given_with_certainty_still_has_a_gradient():
    logits = torch.tensor([[40.0, 0, 0]], requires_grad=True)  # 1 - p(a) is 0 in float32
    steps = steps_of((logits, logits), torch.tensor([[0], [0]]), torch.zeros(1))
    rollout = Rollout.from_steps(torch.tensor([1]), 0.5, steps)
    ESTIMATORS["outcome"].terms(rollout, WEIGHTS).label["classifier"].backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[1.0, -0.5, -0.5]]))
