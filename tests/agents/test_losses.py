"""Losses by hand, by a slow loop, and against exact gradients by enumeration."""

import itertools
from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn

from agents.estimators import ESTIMATORS, Rollout, Weights
from agents.losses import (
    baseline_loss,
    categorical_entropy,
    cross_entropy,
    dense_returns,
    exact_dense_returns,
    gaussian_entropy,
    leave_one_out_baseline,
    normalise,
    reinforce_loss,
    reward_to_go,
)


def test_reward_to_go_by_hand():
    reward = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 1.0]])
    # 1 + 2 + 4, 2 + 4, 4; 0 + 0 + 1, 0 + 1, 1
    assert reward_to_go(reward).tolist() == [[7, 1], [6, 1], [4, 1]]


def test_leave_one_out_is_the_mean_of_the_other_rollouts():
    returns = torch.tensor([[1.0, 0.0, 0.0, 4.0, 8.0, 6.0]])
    # (0 + 0) / 2, (1 + 0) / 2, (1 + 0) / 2; (8 + 6) / 2, (4 + 6) / 2, (4 + 8) / 2
    assert leave_one_out_baseline(returns, 3).tolist() == [[0, 0.5, 0.5, 7, 5, 6]]


def test_cross_entropy_by_hand():
    log_p = torch.tensor([[-4.0, -2.0], [-1.0, -3.0]])
    # -(0.25 * (-4 - 2) / 2 + 0.75 * (-1 - 3) / 2) = 0.75 + 1.5
    assert cross_entropy(log_p, [0.25, 0.75]).item() == pytest.approx(2.25)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 4.0])
def test_dense_returns_equal_a_slow_loop(gamma):
    log_p = -torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    num_steps, num_envs = log_p.shape
    slow = torch.zeros(num_steps - 1, num_envs)
    for t in range(num_steps - 1):
        for n in range(num_envs):
            weights = [gamma ** (k - t - 1) for k in range(t + 1, num_steps)]
            later = [float(log_p[k, n]) for k in range(t + 1, num_steps)]
            mean = sum(w * x for w, x in zip(weights, later, strict=True)) / sum(weights)
            slow[t, n] = mean - float(log_p[t, n])
    torch.testing.assert_close(dense_returns(log_p, gamma), slow)


def test_exact_dense_returns_by_hand():
    # 0.3 (4 - 2) + 0.5 (4 - 1) = 2.1, then 0.5 (2 - 1)
    returns = exact_dense_returns(torch.tensor([[-4.0], [-2.0], [-1.0]]), [0.2, 0.3, 0.5])
    torch.testing.assert_close(returns, torch.tensor([[2.1], [0.5]]))


def test_dense_returns_of_a_long_episode_are_finite_whatever_the_discount():
    assert dense_returns(-torch.rand(3000, 2), 4.0).isfinite().all()


@pytest.mark.parametrize(("by_step", "axes"), [(False, (0, 1)), (True, (1,))])
def test_normalised_advantages_have_mean_0_and_std_1_over_the_batch_or_at_each_step(by_step, axes):
    sizes = torch.tensor([[1.0], [0.1], [10.0]])
    advantage = 3 + sizes * torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    normalised = normalise(advantage, by_step=by_step)
    for moment, value in ((normalised.mean(axes), 0.0), (normalised.std(axes), 1.0)):
        torch.testing.assert_close(moment, torch.full_like(moment, value), atol=1e-5, rtol=0)


def test_entropies_equal_those_of_the_distributions():
    normal = torch.distributions.Normal(torch.zeros(2), 0.3)
    assert gaussian_entropy(0.3).item() == pytest.approx(normal.entropy().sum().item())
    logits = torch.tensor([[0.0, 1.0, -2.0]])
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(categorical_entropy(logits), expected)


# The exact gradient of J_w, by enumeration: 2 images, 3 places, 4 glimpses.

NUM_IMAGES, NUM_PLACES, NUM_STEPS = 2, 3, 4
PATHS = torch.tensor(list(itertools.product(range(NUM_PLACES), repeat=NUM_STEPS - 1)))  # (P, T - 1)
EVEN, UNEVEN = [0.25] * NUM_STEPS, [0.1, 0.2, 0.3, 0.4]


class Toy(nn.Module):
    """A tiny recurrent agent: what it sees depends on image and place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        shapes = (NUM_IMAGES * NUM_PLACES, 5), (5, 5), (5, NUM_PLACES), (5, NUM_IMAGES)
        parts = (nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes)
        self.glimpse, self.recurrent, self.policy, self.classifier = parts

    def play(self, *, detach_core: bool = False):
        """Walk all paths, which begin at place 0, on all images: N = 2 P episodes.

        Returns log p_t (T, N), log pi(l_t) (T - 1, N) and states (T, N, 5). ``detach_core`` stops
        the policy's gradient before the core.
        """
        image = torch.arange(NUM_IMAGES).repeat_interleave(len(PATHS))  # its label, too
        places = nn.functional.pad(PATHS, (1, 0)).repeat(NUM_IMAGES, 1)  # (N, T)
        state = torch.zeros(len(image), 5, dtype=torch.float64)
        log_p, log_pi, states = [], [], []
        for t in range(NUM_STEPS):
            seen = self.glimpse[image * NUM_PLACES + places[:, t]]
            state = torch.tanh(state @ self.recurrent + seen)
            states.append(state)
            log_p.append((state @ self.classifier).log_softmax(1).gather(1, image[:, None])[:, 0])
            policy = ((state.detach() if detach_core else state) @ self.policy).log_softmax(1)
            log_pi.append(policy.gather(1, places[:, [(t + 1) % NUM_STEPS]])[:, 0])
        return torch.stack(log_p), torch.stack(log_pi[:-1]), torch.stack(states)

    def gradient(self, loss: Tensor) -> Tensor:
        parts = torch.autograd.grad(loss, list(self.parameters()), materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])


def error_of(loss, weights: list[float] = EVEN, *, baseline=False, late=False, detach=False):
    """Return how far a loss's expected gradient is from that of J_w, as a share of the latter.

    J_w is the mean over images and the sum over paths of pi(path) sum_k w_k log p_k.
    """
    toy = Toy()
    log_p, log_pi, _ = toy.play()
    weighted = (torch.tensor(weights)[:, None] * log_p).sum(0)  # (N,)
    exact = toy.gradient((log_pi.sum(0).exp() * weighted).sum() / NUM_IMAGES)
    log_p, log_pi, states = toy.play(detach_core=detach)
    # anything of the state before l_t is drawn; one step late it knows l_t
    known = 3 * states.detach().sum(2).sin() * baseline  # (T, N)
    # the losses are means over episodes: weigh each episode's gradient by its probability
    scale = log_pi.detach().sum(0).exp() * len(PATHS)
    for log_prob in (log_p, log_pi):
        log_prob.register_hook(lambda gradient: gradient * scale)
    expected = -toy.gradient(loss(log_p, log_pi, known.roll(-1, 0) if late else known))
    return ((expected - exact).norm() / exact.norm()).item()


def dense_loss(weights: list[float], weights_2: list[float] | None = None):
    """Return the two losses' sum, as a function; the returns may have weights of their own."""

    def loss(log_p, log_pi, baseline):
        returns = exact_dense_returns(log_p, weights if weights_2 is None else weights_2)
        return cross_entropy(log_p, weights) + reinforce_loss(log_pi, returns - baseline[:-1])

    return loss


def trainers_loss(log_p, log_pi, baseline):
    """Return the loss of the trainer's estimator, which ignores ``policy_coef``."""
    unused = {field.name: torch.zeros_like(log_p) for field in fields(Rollout)}
    log_pi = torch.cat([log_pi, torch.zeros_like(log_p[:1])])  # the last location moves nothing
    used = {"label_log_prob": log_p, "location_log_prob": log_pi, "baseline": baseline}
    weights = Weights(policy_coef=0.5, baseline_coef=0.5, discount=0.5)
    terms = ESTIMATORS["dense_exact"].terms(Rollout(**{**unused, **used}), weights)
    return sum(terms.by_name().values())


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("weights", [EVEN, [0.0, 0, 0, 1], UNEVEN])
def test_the_dense_estimator_is_the_exact_gradient(weights, baseline):
    assert ESTIMATORS["dense_exact"].location_reaches_core  # as the enumeration's policy does
    assert error_of(dense_loss(weights), weights, baseline=baseline) < 1e-6
    if weights == EVEN:
        assert error_of(trainers_loss, baseline=baseline) < 1e-6


@pytest.mark.parametrize(
    ("loss", "mistake"),
    [
        (trainers_loss, {"baseline": True, "late": True}),
        (dense_loss(EVEN, UNEVEN), {}),
        (trainers_loss, {"detach": True}),
    ],
    ids=["a baseline one step late", "unequal weights in the two terms", "a detached core"],
)
def test_the_enumeration_would_notice(loss, mistake):
    assert error_of(loss, **mistake) > 1e-2


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: dense_returns(torch.zeros(1, 3), 0.5), "T >= 2"),
        (lambda: dense_returns(torch.zeros(3, 3), -0.5), "discount"),
        (lambda: reinforce_loss(torch.zeros(2, 3), torch.zeros(3, 3)), "advantage"),
        (lambda: baseline_loss(torch.zeros(2, 3), torch.zeros(2)), "returns"),
        (lambda: leave_one_out_baseline(torch.zeros(2, 4), 1), "num_rollouts"),
        (lambda: cross_entropy(torch.zeros(2, 3), [1.0, 1.0]), "sum to 1"),
        (lambda: cross_entropy(torch.zeros(3, 2), [0.5, 0.5]), "3 numbers"),
        (lambda: exact_dense_returns(torch.zeros(1, 3), [1.0]), "T >= 2"),
        (lambda: normalise(torch.zeros(1, 1)), "two advantages"),
        (lambda: normalise(torch.zeros(2, 1), by_step=True), "two advantages"),
    ],
)
def test_bad_arguments_are_refused(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_returns_are_constants_of_the_policy_gradient():
    log_p = torch.randn(3, 4, requires_grad=True)
    assert not dense_returns(log_p, 0.5).requires_grad
    assert not exact_dense_returns(log_p, [1 / 3] * 3).requires_grad
    baseline, returns = torch.zeros(2, 4, requires_grad=True), torch.ones(2, 4, requires_grad=True)
    baseline_loss(baseline, returns).backward()
    assert baseline.grad is not None
    assert returns.grad is None  # the agent can't make its returns easier to predict


def test_equal_advantages_are_normalised_to_nothing():
    assert normalise(torch.full((3, 4), 0.5)).tolist() == [[0.0] * 4] * 3


def test_a_glimpse_of_no_weight_may_rule_the_label_out():
    log_p = torch.tensor([[-torch.inf], [-1.0]])
    assert cross_entropy(log_p, [0.0, 1.0]).item() == 1
