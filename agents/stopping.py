"""Learning when to stop looking, where a glimpse has a price.

Dimension key:
    T: glimpses per episode
    N: episodes played in parallel
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from agents.estimators import Estimator, Rollout, Terms, Weights
from agents.losses import check_time_first

STOP_HIDDEN = 64
"""Units of the hidden layer of the stop network."""


def learn_to_stop(estimator: Estimator, price: float | None) -> Estimator:
    """Return an estimator that also teaches the stop network; as it is without a price.

    Ending at glimpse t pays 1 if the label is right, less t prices. Episodes are played to their
    end, so what a stop would have earned is known without it.
    """
    if price is None:
        return estimator

    def loss(with_stop: Estimator, rollout: Rollout, weights: Weights) -> Terms:
        terms = estimator.terms(rollout, weights)
        assert rollout.stop_logit is not None
        glimpses = torch.arange(1, len(rollout.right) + 1, device=rollout.right.device)[:, None]
        reward = rollout.right - price * glimpses  # (T, N)
        stop = stop_loss(rollout.stop_logit, reward, weights.entropy_coef)
        return terms._replace(shared={**terms.shared, "stop": stop})

    return replace(estimator, loss=loss)


def stop_loss(stop_logit: Tensor, reward: Tensor, entropy_coef: float = 0.0) -> Tensor:
    """Return the loss of a policy that ends the episode at glimpse t with probability s_t.

        L = -mean_n sum_{t<T} (s_t (r_t - V_{t+1}) + c_e H[s_t])
        V_t = s_t r_t + (1 - s_t) V_{t+1},    V_T = r_T

    r_t and V_{t+1}, the expected reward of going on, carry no gradient. It is the policy gradient
    with the expectation over stopping in place of samples, summed over all t with equal weights
    instead of the probabilities to get there, which vanish for late t while early stops are likely.

    Args:
        stop_logit: Log-odds of s_t, with gradient. Shape (T, N); the last row is unused.
        reward: r_t, what ending at glimpse t pays in all. Shape (T, N).
        entropy_coef: c_e, weight of the entropy H. Without it, an agent that can't classify yet
            soon always stops at once, and then never learns to go on.

    Raises:
        ValueError: If the shapes differ.

    Source:
        Ours.
    """
    check_time_first(stop_logit=stop_logit, reward=reward)
    stop = stop_logit.sigmoid()
    value, gains = reward[-1], []
    for s, paid in zip(stop.detach()[:-1].flip(0), reward[:-1].flip(0), strict=True):
        gains.append(paid - value)
        value = s * paid + (1 - s) * value
    gain = torch.stack([*gains[::-1], torch.zeros_like(value)])  # (T, N)
    entropy = functional.binary_cross_entropy_with_logits(stop_logit, stop, reduction="none")
    return -(stop * gain + entropy_coef * entropy)[:-1].sum(0).mean()
