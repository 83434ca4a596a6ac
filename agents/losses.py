"""Losses: pure functions of what an episode recorded, time first.

A loss is a scalar; returns and advantages carry no gradient. Every function of (T, N) raises
ValueError for other shapes.

Dimension key:
    T: glimpses per episode
    N: episodes played in parallel
    M: rollouts of one image
    K: classes
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from agents.distributed import all_lanes


def reward_to_go(reward: Tensor) -> Tensor:
    """Return the undiscounted return from each step on: R_t = sum_{k>=t} r_k, (T, N).

    Args:
        reward: r_t, paid for the action at step t. Shape (T, N).

    Source:
        Williams (1992): an action is credited with the rewards that follow it.
    """
    check_time_first(reward=reward)
    return reward.flip(0).cumsum(0).flip(0)


def reinforce_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """Return the policy loss -mean_n sum_t A_t log pi(a_t | h_t).

    Minus its gradient estimates the policy gradient, without bias if A_t is a return minus a
    baseline that was fixed before a_t was drawn.

    Args:
        log_prob: log pi(a_t | h_t) of the sampled actions, with gradient. Shape (T, N).
        advantage: A_t, detached here. Shape (T, N).

    Source:
        Williams (1992); Mnih et al. (2014), equation 3.
    """
    check_time_first(log_prob=log_prob, advantage=advantage)
    return -(advantage.detach() * log_prob).sum(0).mean()


def baseline_loss(baseline: Tensor, returns: Tensor) -> Tensor:
    """Return the baseline's loss mean_{t,n} (b_t - R_t)^2.

    Args:
        baseline: b_t, with gradient. Shape (T, N).
        returns: R_t, detached here. Shape (T, N).

    Source:
        Mnih et al. (2014), section 3.2: the baseline is learned by regression.
    """
    check_time_first(baseline=baseline, returns=returns)
    return (baseline - returns.detach()).square().mean()


def leave_one_out_baseline(returns: Tensor, num_rollouts: int) -> Tensor:
    """Return the mean return of the image's other rollouts: b^i = sum_{j!=i} R^j / (M - 1), (T, N).

    It is independent of the episode's own actions, so subtracting it adds no bias.

    Args:
        returns: R of N / M images, M neighbouring rollouts each. Shape (T, N).
        num_rollouts: M, at least 2; divides N.

    Source:
        Mnih and Rezende (2016), arXiv:1602.06725; Kool et al. (2019).
    """
    check_time_first(returns=returns)
    if num_rollouts < 2 or returns.shape[1] % num_rollouts:
        raise ValueError(
            f"num_rollouts must be at least 2 and divide N={returns.shape[1]}, got {num_rollouts}"
        )
    groups = returns.unflatten(1, (-1, num_rollouts))  # (T, N / M, M)
    others = groups.sum(2, keepdim=True) - groups
    return (others / (num_rollouts - 1)).flatten(1)


def cross_entropy(label_log_prob: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the classifier's loss -mean_n sum_t w_t log p_t.

    Args:
        label_log_prob: log p_t = log p(y | h_t) of the true label. Shape (T, N).
        weights: The T weights w_t, which sum to 1. All on the last glimpse is the paper's hybrid
            loss.

    Source:
        Mnih et al. (2014), section 3.2 "hybrid supervised loss".
    """
    check_time_first(label_log_prob=label_log_prob)
    _check_weights(weights, len(label_log_prob))
    rows = [w * log_p for w, log_p in zip(weights, label_log_prob, strict=True) if w]
    return -torch.stack(rows).sum(0).mean()


def dense_returns(label_log_prob: Tensor, discount: float) -> Tensor:
    """Return each location's gain, (T - 1, N): mean later log-likelihood minus the present one.

        g_t = sum_{k>t} gamma^(k-t-1) log p_k / sum_{k>t} gamma^(k-t-1)  -  log p_t

    Args:
        label_log_prob: log p_t = log p(y | h_t) of the true label. Shape (T, N), T >= 2.
        discount: gamma, at least 0. 0 counts the next glimpse only, 1 all later ones alike, and
            above 1 mostly the last.

    Source:
        Ours.
    """
    log_p = _checked(label_log_prob)
    if not 0 <= discount < math.inf:
        raise ValueError(f"discount must be finite and at least 0, got {discount}")
    mean, weight = torch.zeros_like(log_p[0]), 0.0
    means = []
    for later in log_p[1:].flip(0):  # from the last step back
        weight = 1 + discount * weight
        mean = mean + (later - mean) / weight
        means.append(mean)
    return torch.stack(means[::-1]) - log_p[:-1]


def exact_dense_returns(label_log_prob: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the gains, (T - 1, N), that make the policy gradient of J_w exact.

        J_w = E[ sum_k w_k log p_k ],    g_t = sum_{k>t} w_k (log p_k - log p_t)

    With A_t = g_t - b(h_t), grad J_w is the expected negative gradient of
    ``cross_entropy(label_log_prob, weights) + reinforce_loss(log_prob, A)`` if both terms reach
    core and glimpse network and neither is rescaled.

    Args:
        label_log_prob: log p_t of the true label. Shape (T, N).
        weights: The T weights w_k, which sum to 1.

    Source:
        Ba et al. (2015), arXiv:1412.7755, equation 9, for w = (0, ..., 0, 1).
    """
    log_p = _checked(label_log_prob)
    _check_weights(weights, len(log_p))
    later, weight, gains = torch.zeros_like(log_p[0]), 0.0, []  # sums over k > t
    for w, now in zip(reversed(weights), log_p.flip(0), strict=True):  # from the last step back
        gains.append(later - weight * now)
        later, weight = later + w * now, weight + w
    return torch.stack(gains[:0:-1])


def normalise(advantage: Tensor, *, by_step: bool = False) -> Tensor:
    """Return (A - mean A) / std A, (T, N), with both taken over all steps, episodes and ranks.

    This rescales each update, so the result is not the gradient of one objective.

    Args:
        advantage: A_t. Shape (T, N).
        by_step: Take mean and std at each step alone.

    Raises:
        ValueError: If there is only one advantage to take them over, which has no std.
    """
    check_time_first(advantage=advantage)
    everywhere = all_lanes(advantage, axis=1)
    axes = (1,) if by_step else (0, 1)
    if everywhere.shape[1] < 2 and (by_step or len(everywhere) < 2):
        raise ValueError("normalise needs two advantages or more: take more lanes or glimpses")
    mean, std = (f(everywhere, axes, keepdim=True) for f in (torch.mean, torch.std))
    return (advantage - mean) / (std + 1e-8)


def gaussian_entropy(std: float | Tensor) -> Tensor:
    """Return the entropy of a Gaussian over x and y: 1 + log(2 pi) + log std_x + log std_y [nat].

    ``std`` is a scalar, or one each for x and y, (2,).
    """
    return 1 + math.log(2 * math.pi) + torch.as_tensor(std).log().expand(2).sum()


def categorical_entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax(logits) over the last axis, (..., K) to (...) [nat]."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def check_time_first(**tensors: Tensor) -> None:
    """Raise ValueError unless all tensors are (T, N) of one shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if {len(shape) for shape in shapes.values()} != {2} or len(set(shapes.values())) > 1:
        raise ValueError(f"expected one shape (T, N), got {shapes}")


def _checked(label_log_prob: Tensor) -> Tensor:
    """Return log-probabilities without gradient; ValueError unless they are (T >= 2, N)."""
    check_time_first(label_log_prob=label_log_prob)
    if len(label_log_prob) < 2:
        raise ValueError(f"label_log_prob must be (T >= 2, N), got {tuple(label_log_prob.shape)}")
    return label_log_prob.detach()


def _check_weights(weights: Sequence[float], num_steps: int) -> None:
    """Raise ValueError unless there are T weights that sum to 1."""
    if len(weights) != num_steps or not abs(sum(weights) - 1) <= 1e-5:
        raise ValueError(f"weights must be {num_steps} numbers that sum to 1, got {weights}")
