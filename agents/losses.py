"""Losses: pure functions of what an episode recorded, time first.

Dimension key:
    T: glimpses an episode
    N: episodes side by side
"""

from __future__ import annotations

import torch
from torch import Tensor


def dense_returns(label_log_prob: Tensor, discount: float) -> Tensor:
    """Return what each location won: the later log-likelihoods' mean, less the present one.

        r_t = sum_{k>t} gamma^(k-t-1) log p_k / sum_{k>t} gamma^(k-t-1)  -  log p_t

    Args:
        label_log_prob: log p_t = log p(y | h_t) of the true label. Shape (T, N), T >= 2.
        discount: gamma, 0 to 1: 1 credits a location with all later glimpses alike, 0 with
            the next one only.

    Returns:
        Shape (T - 1, N), detached.

    Raises:
        ValueError: If there are fewer than two steps or the discount is out of range.
    """
    if label_log_prob.ndim != 2 or len(label_log_prob) < 2:
        raise ValueError(f"label_log_prob must be (T >= 2, N), got {tuple(label_log_prob.shape)}")
    if not 0 <= discount <= 1:
        raise ValueError(f"discount must be in 0..1, got {discount}")
    log_p = label_log_prob.detach()
    total, weight = torch.zeros_like(log_p[0]), 0.0
    means = []
    for later in log_p[1:].flip(0):  # from the last step back
        total, weight = later + discount * total, 1 + discount * weight
        means.append(total / weight)
    return torch.stack(means[::-1]) - log_p[:-1]


def dense_policy_loss(
    location_log_prob: Tensor, baseline: Tensor, returns: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the location policy's loss and its baseline's, from one return a location.

        policy   = -mean_{t<T,n} [ A_t log pi(l_t | h_t) ]
        baseline =  mean_{t<T,n} [ (b_t - r_t)^2 ]
        A        = r - b, centred and divided by its standard deviation over all (t, n)

    b_t is made from h_t, before l_t is drawn: a baseline one step late would be biased.
    Centring and scaling rescale the step and are no part of an exact gradient.

    Args:
        location_log_prob: log pi(l_t | h_t) of the sampled locations. Shape (T - 1, N).
        baseline: b(h_t), with gradient. Shape (T - 1, N).
        returns: r_t, without gradient. Shape (T - 1, N).

    Returns:
        Two scalars.

    Raises:
        ValueError: If the shapes differ.

    Source:
        Williams (1992); Mnih et al. (2014), equation 3, with the reward's place taken by
        the gain in log-likelihood (Ba et al. 2015, arXiv:1412.7755, for a single term).
    """
    if not location_log_prob.shape == baseline.shape == returns.shape:
        raise ValueError(
            "location_log_prob, baseline and returns must have one shape, got "
            f"{tuple(location_log_prob.shape)}, {tuple(baseline.shape)}, {tuple(returns.shape)}"
        )
    returns = returns.detach()
    advantage = returns - baseline.detach()
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    policy = -(advantage * location_log_prob).mean()
    return policy, (baseline - returns).square().mean()
