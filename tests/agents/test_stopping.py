"""Stopping: the loss by hand and against exact gradients, and what a stop earns."""

from dataclasses import fields, replace

import pytest
import torch

from agents.estimators import ESTIMATORS, Rollout, Weights
from agents.stopping import learn_to_stop, stop_loss


def test_stopping_by_hand():
    # s = 1/2 and 3/4; V_3 = 1, V_2 = 3/4 * 0.2 + 1/4 * 1 = 0.4, so going on gains 0.4 - 0.1 at the
    # first glimpse and 1 - 0.2 at the second
    logit = torch.tensor([[1.0], [3.0], [0.1]]).log()
    loss = stop_loss(logit, torch.tensor([[0.1], [0.2], [1.0]]))
    assert loss.item() == pytest.approx(1 / 2 * 0.3 + 3 / 4 * 0.8)
    # H(1/2) + H(3/4) = 0.69315 + 0.56234
    entropy = loss.item() - stop_loss(logit, torch.tensor([[0.1], [0.2], [1.0]]), 0.1).item()
    assert entropy == pytest.approx(0.1 * 1.25549, abs=1e-6)


def test_the_first_stop_has_the_exact_policy_gradient():
    torch.manual_seed(0)
    logit, reward = torch.randn(5, 40, requires_grad=True), torch.randn(5, 40)
    (ours,) = torch.autograd.grad(stop_loss(logit, reward), logit)
    s = torch.cat([logit[:-1].sigmoid(), torch.ones(1, 40)])
    reach = torch.cat([torch.ones(1, 40), (1 - s[:-1]).cumprod(0)])  # that glimpse t is seen
    (exact,) = torch.autograd.grad(-(reach * s * reward).sum(0).mean(), logit)
    torch.testing.assert_close(ours * reach, exact)  # times the chance of t


def test_an_agent_that_can_stop_is_paid_for_being_right_less_a_price_per_glimpse():
    zeros, weights = torch.zeros(2, 1), Weights(policy_coef=1, baseline_coef=1, discount=0)
    rollout = Rollout(**{each.name: zeros for each in fields(Rollout)})
    stops = torch.tensor([[0.3], [-0.2]])
    rollout = replace(rollout, stop_logit=stops, right=torch.tensor([[0.0], [1.0]]))
    row, weights = ESTIMATORS["paper"], replace(weights, entropy_coef=0.02)
    assert learn_to_stop(row, None) is row
    terms = learn_to_stop(row, 0.1).terms(rollout, weights).by_name()
    expected = stop_loss(stops, torch.tensor([[-0.1], [0.8]]), 0.02)
    assert terms == {**row.terms(rollout, weights).by_name(), "stop": expected}
    assert [*terms][-1] == "stop"
