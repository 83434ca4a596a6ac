"""The ways to learn from an episode, side by side: each turns a rollout into loss terms.

They differ in what they are paid with (the environment's reward, or the true label's
log-likelihood), in their baseline, and in which glimpses teach the classifier; the script
that plays the episodes is the same for all.

Dimension key:
    T: glimpses an episode
    N: episodes side by side
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.losses import (
    baseline_loss,
    cross_entropy,
    dense_returns,
    exact_dense_returns,
    leave_one_out_baseline,
    normalise,
    reinforce_loss,
    reward_to_go,
)


@dataclass(frozen=True)
class Rollout:
    """What N episodes recorded, each (T, N).

    Attributes:
        label_log_prob: log p_t of the true label.
        location_log_prob: log pi(l_t | h_t) of the executed location; the last one moved
            nothing and counts nowhere.
        named_log_prob: Log-probability of the label that was named.
        baseline: b(h_t).
        reward: What the environment paid.
        location_entropy: Entropy of pi(l_t | h_t).
        label_entropy: Entropy of p_t.
    """

    label_log_prob: Tensor
    location_log_prob: Tensor
    named_log_prob: Tensor
    baseline: Tensor
    reward: Tensor
    location_entropy: Tensor
    label_entropy: Tensor


@dataclass(frozen=True)
class Weights:
    """Weights and choices that estimators share.

    Attributes:
        policy_coef: Weight of the location policy's loss.
        baseline_coef: Weight of the baseline's loss.
        discount: gamma of :func:`~agents.losses.dense_returns`.
        num_rollouts: M, rollouts of one image for leave-one-out.
        entropy_coef: Weight of the entropy of both actions, where labels are sampled.
    """

    policy_coef: float
    baseline_coef: float
    discount: float
    num_rollouts: int
    entropy_coef: float = 0.0


Terms = dict[str, Tensor]  # named losses, which are added


@dataclass(frozen=True)
class Estimator:
    """One way to learn.

    Attributes:
        terms: Turns a rollout into named loss terms.
        location_reaches_core: Whether the location network's gradient flows into the core.
        samples_label: Whether labels are sampled actions; otherwise the likeliest is named.
        needs_rollouts: Whether every image is played ``num_rollouts`` times.
        sees_label: Whether the loss uses the true label (class L), or the reward alone (R).
    """

    terms: Callable[[Rollout, Weights], Terms]
    location_reaches_core: bool = True
    samples_label: bool = False
    needs_rollouts: bool = False
    sees_label: bool = True


def paper(rollout: Rollout, weights: Weights) -> Terms:
    """Mnih et al. (2014): terminal reward, learned baseline, cross-entropy at the last glimpse."""
    returns = reward_to_go(rollout.reward)[:-1]  # (T - 1, N)
    baseline = rollout.baseline[:-1]
    policy = reinforce_loss(rollout.location_log_prob[:-1], returns - baseline)
    return {
        "classifier": cross_entropy(rollout.label_log_prob, _last(rollout)),
        "policy": weights.policy_coef * policy,
        "baseline": weights.baseline_coef * baseline_loss(baseline, returns),
    }


def every_glimpse(rollout: Rollout, weights: Weights) -> Terms:
    """As the paper's, but the classifier learns at every glimpse."""
    return {
        **paper(rollout, weights),
        "classifier": cross_entropy(rollout.label_log_prob, _even(rollout)),
    }


def leave_one_out(rollout: Rollout, weights: Weights) -> Terms:
    """Terminal reward less the other rollouts' of the same image; no learned baseline."""
    returns = reward_to_go(rollout.reward)[:-1]
    advantage = returns - leave_one_out_baseline(returns, weights.num_rollouts)
    policy = reinforce_loss(rollout.location_log_prob[:-1], advantage)
    return {
        "classifier": cross_entropy(rollout.label_log_prob, _even(rollout)),
        "policy": weights.policy_coef * policy,
    }


def dense(rollout: Rollout, weights: Weights) -> Terms:
    """Pay each location with its gain in log-likelihood, normalised over the batch.

    The policy's loss is a mean over locations here, not a sum, as the advantages have been
    rescaled anyway.
    """
    returns = dense_returns(rollout.label_log_prob, weights.discount)  # (T - 1, N)
    baseline = rollout.baseline[:-1]
    advantage = normalise(returns - baseline.detach())
    policy = reinforce_loss(rollout.location_log_prob[:-1], advantage) / len(returns)
    return {
        "classifier": cross_entropy(rollout.label_log_prob, _even(rollout)),
        "policy": weights.policy_coef * policy,
        "baseline": weights.baseline_coef * baseline_loss(baseline, returns),
    }


def dense_exact(rollout: Rollout, weights: Weights) -> Terms:
    """The exact gradient of J_w, w = 1/T; ``policy_coef`` has no say, it must be 1."""
    even = _even(rollout)
    returns = exact_dense_returns(rollout.label_log_prob, even)  # (T - 1, N)
    baseline = rollout.baseline[:-1]
    return {
        "classifier": cross_entropy(rollout.label_log_prob, even),
        "policy": reinforce_loss(rollout.location_log_prob[:-1], returns - baseline),
        "baseline": weights.baseline_coef * baseline_loss(baseline, returns),
    }


def reward_only(rollout: Rollout, weights: Weights) -> Terms:
    """REINFORCE on the reward alone: locations and the scored label are both sampled actions."""
    returns = reward_to_go(rollout.reward)
    return {
        **_reward_only(rollout, returns - rollout.baseline, weights),
        "baseline": weights.baseline_coef * baseline_loss(rollout.baseline, returns),
    }


def reward_only_no_baseline(rollout: Rollout, weights: Weights) -> Terms:
    """The same without a baseline: Williams's (1992) REINFORCE as it stands."""
    return _reward_only(rollout, reward_to_go(rollout.reward), weights)


ESTIMATORS = {
    "paper": Estimator(paper, location_reaches_core=False),
    "every_glimpse": Estimator(every_glimpse, location_reaches_core=False),
    "leave_one_out": Estimator(leave_one_out, needs_rollouts=True),
    "dense": Estimator(dense),
    "dense_exact": Estimator(dense_exact),
    "reward_only": Estimator(reward_only, samples_label=True, sees_label=False),
    "reward_only_no_baseline": Estimator(
        reward_only_no_baseline, samples_label=True, sees_label=False
    ),
}
"""All estimators by name, from the paper's on."""


def _reward_only(rollout: Rollout, advantage: Tensor, weights: Weights) -> Terms:
    """Return the losses of both actions, the label's at the step that is scored.

    Without the entropy (Williams and Peng 1991) a sampled label soon is the same for all images.
    """
    location = reinforce_loss(rollout.location_log_prob[:-1], advantage[:-1])
    label = reinforce_loss(rollout.named_log_prob[-1:], advantage[-1:])
    entropy = rollout.location_entropy[:-1].sum(0) + rollout.label_entropy[-1]  # (N,)
    return {
        "label": label,
        "policy": weights.policy_coef * location,
        "entropy": -weights.entropy_coef * entropy.mean(),
    }


def _even(rollout: Rollout) -> Tensor:
    """Return the weights 1/T of every glimpse, (T,), on the CPU."""
    steps = len(rollout.label_log_prob)
    return torch.full((steps,), 1 / steps)


def _last(rollout: Rollout) -> Tensor:
    """Return the weights (0, ..., 0, 1), (T,)."""
    weights = torch.zeros_like(_even(rollout))
    weights[-1] = 1
    return weights
