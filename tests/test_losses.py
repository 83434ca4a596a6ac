"""Losses by hand, by a slow loop and by enumeration."""

import math

import pytest
import torch

from agents.losses import dense_policy_loss, dense_returns


def test_dense_returns_by_hand():
    log_p = torch.tensor([[-2.0], [-1.0], [-0.5]])
    # r_1 = (-1 + 0.5 * -0.5) / 1.5 + 2 = 1.1667; r_2 = -0.5 + 1 = 0.5
    expected = torch.tensor([[-1.25 / 1.5 + 2], [0.5]])
    torch.testing.assert_close(dense_returns(log_p, 0.5), expected)
    # gamma 1: the later ones' mean, r_1 = (-1 - 0.5) / 2 + 2; gamma 0: the next one alone
    torch.testing.assert_close(dense_returns(log_p, 1.0)[0], torch.tensor([1.25]))
    torch.testing.assert_close(dense_returns(log_p, 0.0)[0], torch.tensor([1.0]))


def test_dense_returns_equal_a_slow_loop():
    log_p = -torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    gamma, (num_steps, num_envs) = 0.7, log_p.shape
    slow = torch.zeros(num_steps - 1, num_envs)
    for t in range(num_steps - 1):
        for n in range(num_envs):
            weights = [gamma ** (k - t - 1) for k in range(t + 1, num_steps)]
            later = [float(log_p[k, n]) for k in range(t + 1, num_steps)]
            mean = sum(w * x for w, x in zip(weights, later, strict=True)) / sum(weights)
            slow[t, n] = mean - float(log_p[t, n])
    torch.testing.assert_close(dense_returns(log_p, gamma), slow)


def test_dense_returns_carry_no_gradient():
    log_p = torch.rand(3, 2, requires_grad=True)
    assert not dense_returns(log_p, 1.0).requires_grad


def test_the_policy_loss_by_hand():
    returns = torch.tensor([[1.0, 3.0]])
    baseline = torch.tensor([[0.0, 0.0]], requires_grad=True)
    log_prob = torch.tensor([[0.0, 0.0]], requires_grad=True)
    policy, value = dense_policy_loss(log_prob, baseline, returns)
    (policy + value).backward()
    # A = (1 - 2, 3 - 2) / sqrt(2) = (-0.707, 0.707); d policy / d log pi = -A / 2
    expected = torch.tensor([[0.5 / math.sqrt(2), -0.5 / math.sqrt(2)]])
    torch.testing.assert_close(log_prob.grad, expected)
    # d (mean (b - r)^2) / d b = 2 (b - r) / 2 = (-1, -3): the policy adds nothing to it
    torch.testing.assert_close(baseline.grad, torch.tensor([[-1.0, -3.0]]))
    assert value.item() == pytest.approx((1 + 9) / 2)


def test_the_policy_learns_the_best_of_three_arms():
    torch.manual_seed(0)
    logits = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    gain = torch.tensor([0.0, 1.0, 0.5])
    for _ in range(100):
        arms = torch.distributions.Categorical(logits=logits).sample((1, 64))
        log_prob = logits.log_softmax(0)[arms]
        policy, _ = dense_policy_loss(log_prob, torch.zeros(1, 64), gain[arms])
        optimizer.zero_grad()
        policy.backward()
        optimizer.step()
    assert logits.softmax(0)[1] > 0.9


@pytest.mark.parametrize(
    ("log_p", "discount", "named"),
    [
        (torch.zeros(1, 3), 0.5, "T >= 2"),
        (torch.zeros(3), 0.5, "T >= 2"),
        (torch.zeros(3, 3), 1.5, "discount"),
    ],
)
def test_bad_arguments_are_refused(log_p, discount, named):
    with pytest.raises(ValueError, match=named):
        dense_returns(log_p, discount)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        dense_policy_loss(torch.zeros(2, 3), torch.zeros(3, 3), torch.zeros(2, 3))
