"""The ways to learn from an episode, side by side: each turns a rollout into loss terms.

An estimator is a row of :data:`ESTIMATORS`: a location's return, the baseline that is subtracted,
and what the classifier learns from.

Dimension key:
    T: glimpses per episode
    N: episodes played in parallel
    K: classes

Symbols:
    h_t: state after glimpse t, which has seen glimpses 1..t
    l_t: location sampled from pi(. | h_t), of glimpse t + 1
    p_t: probability of the true label y given h_t; p_t(k): that of class k
    a: the answer, the label given at the last glimpse
    r_t, R_t: reward of step t, and R_t = sum_{k>=t} r_k
    b_t: baseline b(h_t)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from agents import losses
from agents.episodes import Step
from agents.losses import baseline_loss, reinforce_loss, reward_to_go


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What N episodes recorded; every tensor has shape (T, N).

    Attributes:
        label_log_prob: log p_t of the true label.
        label_log_odds: log p_t - log(1 - p_t) of the true label, without a gradient.
        prediction_log_prob: Log-probability of the label that the agent gave.
        answer_log_prob: log p_t(a).
        other_log_prob: log(1 - p_t(a)), without cancellation where p_t(a) is near 1.
        rest_log_prob: sum_{k != a} q(k) log p_t(k), where q is p_T without a, renormalised.
        location_log_prob: log pi(l_t | h_t); the environment does not use the last location.
        baseline: b(h_t).
        reward: r_t, from the environment.
        right: Whether the label that the agent gave is the true one, 0 or 1.
        location_entropy: Entropy of pi(. | h_t) [nat].
        label_entropy: Entropy of the class probabilities given h_t [nat].
        stop_logit: Log-odds of ending the episode after glimpse t; None without a stop network.
    """

    label_log_prob: Tensor
    label_log_odds: Tensor
    prediction_log_prob: Tensor
    answer_log_prob: Tensor
    other_log_prob: Tensor
    rest_log_prob: Tensor
    location_log_prob: Tensor
    baseline: Tensor
    reward: Tensor
    right: Tensor
    location_entropy: Tensor
    label_entropy: Tensor
    stop_logit: Tensor | None = None

    @classmethod
    def from_steps(cls, label: Tensor, std: float | Tensor, steps: Sequence[Step]) -> Rollout:
        """Stack what an episode's steps recorded, and add log-probabilities and entropies.

        Args:
            label: True classes. Shape (N,).
            std: Standard deviation of the location policy: a scalar, or one each for x and y.
            steps: From :func:`~agents.episodes.play_episode`. T of them.
        """
        logits = torch.stack([step.output.logits for step in steps])  # (T, N, K)
        prediction = torch.stack([step.prediction for step in steps])  # (T, N)
        stops = [step.output.stop_logit for step in steps if step.output.stop_logit is not None]
        log_p = logits.log_softmax(2)
        answer = prediction[-1].expand_as(prediction)
        classes = (label.expand_as(prediction), prediction, answer)
        of_classes = (log_p.gather(2, each[..., None])[..., 0] for each in classes)
        of_label, of_prediction, of_answer = of_classes
        rest = log_p.scatter(2, answer[..., None], -math.inf)  # (T, N, K)
        q = rest[-1].detach().softmax(1)  # (N, K)
        wrong = log_p.detach().scatter(2, classes[0][..., None], -math.inf)  # (T, N, K)
        return cls(
            label_log_prob=of_label,
            label_log_odds=of_label.detach() - wrong.logsumexp(2),
            prediction_log_prob=of_prediction,
            answer_log_prob=of_answer,
            other_log_prob=rest.logsumexp(2),
            rest_log_prob=(q * log_p).sum(2),
            location_log_prob=torch.stack([step.location_log_prob for step in steps]),
            baseline=torch.stack([step.output.baseline for step in steps]),
            reward=torch.stack([step.reward for step in steps]),
            right=(prediction == label).float(),
            location_entropy=torch.zeros_like(of_label) + losses.gaussian_entropy(std),
            label_entropy=losses.categorical_entropy(logits),
            stop_logit=torch.stack(stops) if stops else None,
        )

    @property
    def outcome_log_prob(self) -> Tensor:
        """Log-likelihood of whether the answer was right, log P_t. Shape (T, N)."""
        right = self.reward[-1] > 0.5
        return torch.where(right, self.answer_log_prob, self.other_log_prob)

    @property
    def completed_log_prob(self) -> Tensor:
        """Log P_T and, before the last glimpse, the cross-entropy with what p_T believes."""
        right = self.reward[-1] > 0.5
        to_q = torch.where(right, self.answer_log_prob, self.rest_log_prob)
        return torch.cat((to_q[:-1], self.outcome_log_prob[-1:]))  # (T, N)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights and choices that estimators share.

    Attributes:
        policy_coef: c, weight of the location policy's loss.
        baseline_coef: c_b, weight of the baseline's loss.
        discount: gamma of :func:`~agents.losses.dense_returns`.
        max_log_odds: o_max, cap on the log-odds in ``dense_log_odds``. 9 is p = 0.9999.
        normalise_by_step: Whether estimators that normalise do so at each step alone.
        num_rollouts: M, rollouts of one image for leave-one-out.
        entropy_coef: c_e, weight of both actions' entropy in the reward_only estimators.
    """

    policy_coef: float
    baseline_coef: float
    discount: float
    max_log_odds: float = 9.0
    normalise_by_step: bool = False
    num_rollouts: int = 1
    entropy_coef: float = 0.0


class Terms(NamedTuple):
    """The loss as weighted terms by name, which are scalars: of the label, the location, and both.

    A control, which chooses locations in the policy's place, leaves those of the location out.
    """

    label: dict[str, Tensor]
    location: dict[str, Tensor]
    shared: dict[str, Tensor]

    def by_name(self, *, location: bool = True) -> dict[str, Tensor]:
        """Return the terms to add up, with or without those of the location."""
        groups = self.label, self.location if location else {}, self.shared
        terms = {name: term for group in groups for name, term in group.items()}
        if len(terms) < sum(map(len, groups)) or any(term.ndim for term in terms.values()):
            raise ValueError(f"terms must be scalars with different names, got {groups}")
        return terms


# Returns of locations, (T - 1, N), as the last location shows nothing


def terminal_reward(rollout: Rollout, weights: Weights) -> Tensor:
    """Return R_t."""
    return reward_to_go(rollout.reward)[:-1]


def likelihood_gain(rollout: Rollout, weights: Weights) -> Tensor:
    """Return the gain in the label's log-likelihood."""
    return losses.dense_returns(rollout.label_log_prob, weights.discount)


def log_odds_gain(rollout: Rollout, weights: Weights) -> Tensor:
    """Return the gain in the label's log-odds, as shares of ``max_log_odds``."""
    log_odds = (rollout.label_log_odds / weights.max_log_odds).clamp(-1, 1)
    return losses.dense_returns(log_odds, weights.discount)


def outcome_gain(rollout: Rollout, weights: Weights) -> Tensor:
    """Return the gain in the log-likelihood of the outcome."""
    return losses.dense_returns(rollout.outcome_log_prob, weights.discount)


def exact_gain(rollout: Rollout, weights: Weights) -> Tensor:
    """Return the gain in log-likelihood that makes the policy gradient exact."""
    return losses.exact_dense_returns(rollout.label_log_prob, _even(rollout))


# The baseline that is subtracted, (T - 1, N)


def learned_baseline(rollout: Rollout, returns: Tensor, weights: Weights) -> Tensor:
    """Return b_t, which is drawn to the returns."""
    return rollout.baseline.detach()[: len(returns)]


def other_rollouts(rollout: Rollout, returns: Tensor, weights: Weights) -> Tensor:
    """Return the mean return of the image's other rollouts."""
    return losses.leave_one_out_baseline(returns, weights.num_rollouts)


def no_baseline(rollout: Rollout, returns: Tensor, weights: Weights) -> Tensor:
    """Return zeros."""
    return torch.zeros_like(returns)


def hybrid_loss(estimator: Estimator, rollout: Rollout, weights: Weights) -> Terms:
    """Cross-entropy teaches the classifier, REINFORCE the locations.

        L = -sum_t w_t log p_t - c sum_{t<T} A_t log pi(l_t | h_t) + c_b mean_{t<T} (b_t - g_t)^2

    g_t are the estimator's returns, A_t = g_t - b_t, and w_t is 1/T or, at the last glimpse, 1.

    Source:
        Mnih et al. (2014), arXiv:1406.6247, section 3.2 "hybrid supervised loss".
    """
    returns = estimator.returns(rollout, weights)  # (T - 1, N)
    advantage = returns - estimator.baseline(rollout, returns, weights)
    if estimator.normalises:
        advantage = losses.normalise(advantage, by_step=weights.normalise_by_step)
    policy = reinforce_loss(rollout.location_log_prob[:-1], advantage)
    policy = policy / len(returns) if estimator.takes_mean else policy
    location = {"policy": (weights.policy_coef if estimator.weighted else 1.0) * policy}
    if estimator.learns_baseline:
        baseline = baseline_loss(rollout.baseline[:-1], returns)
        location["baseline"] = weights.baseline_coef * baseline
    last = [0.0] * (len(rollout.reward) - 1) + [1.0]
    taught = _even(rollout) if estimator.glimpses == "every" else last
    label = losses.cross_entropy(getattr(rollout, estimator.classifier), taught)
    return Terms({"classifier": label}, location, shared={})


def sampled_label_loss(estimator: Estimator, rollout: Rollout, weights: Weights) -> Terms:
    """REINFORCE teaches locations and the scored label, which is sampled; both gain entropy.

        L = -(R_T - b_T) log p(label) - c sum_{t<T} (R_t - b_t) log pi(l_t | h_t)
            - c_e (sum_{t<T} H[pi(. | h_t)] + H[p(. | h_T)]) + c_b mean_t (b_t - R_t)^2

    Source:
        Williams (1992); the entropy is Williams and Peng (1991).
    """
    returns = reward_to_go(rollout.reward)  # (T, N)
    advantage, shared = returns, {}
    if estimator.learns_baseline:
        advantage = returns - rollout.baseline
        baseline = baseline_loss(rollout.baseline, returns)
        shared = {"baseline": weights.baseline_coef * baseline}
    policy = weights.policy_coef * reinforce_loss(rollout.location_log_prob[:-1], advantage[:-1])
    label = reinforce_loss(rollout.prediction_log_prob[-1:], advantage[-1:])
    of_label = -weights.entropy_coef * rollout.label_entropy[-1].mean()
    of_location = -weights.entropy_coef * rollout.location_entropy[:-1].sum(0).mean()
    location = {"policy": policy, "location_entropy": of_location}
    return Terms({"label": label, "label_entropy": of_label}, location, shared)


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """One way to learn.

    Attributes:
        returns: Returns of the locations, (T - 1, N): row t is that of l_t, which chooses glimpse
            t + 1. Detached in the loss.
        baseline: What is subtracted from the returns; ``learned_baseline`` is trained.
        classifier: Name of the rollout's log-probabilities that the classifier ascends.
        glimpses: Which glimpses teach the classifier: every one alike, or the last.
        normalises: Whether advantages are normalised.
        takes_mean: Whether the policy's loss is a mean over locations instead of their sum.
        weighted: Whether ``policy_coef`` weighs the policy's loss.
        location_reaches_core: Whether the location network's gradient flows into the core.
        samples_label: Whether labels are sampled; otherwise the agent gives the likeliest one.
        binary_reward: Whether it reads the reward as whether the answer is the label. Any policy
            may then sample the answer.
        loss: Turns a rollout into loss terms.
    """

    returns: Callable[[Rollout, Weights], Tensor] = terminal_reward
    baseline: Callable[[Rollout, Tensor, Weights], Tensor] = learned_baseline
    classifier: str = "label_log_prob"
    glimpses: Literal["every", "last"] = "every"
    normalises: bool = False
    takes_mean: bool = False
    weighted: bool = True
    location_reaches_core: bool = True
    samples_label: bool = False
    binary_reward: bool = False
    loss: Callable[[Estimator, Rollout, Weights], Terms] = hybrid_loss

    def terms(self, rollout: Rollout, weights: Weights) -> Terms:
        """Return the terms of the loss."""
        return self.loss(self, rollout, weights)

    @property
    def sees_label(self) -> bool:
        """Whether the loss uses the true label (class L) or the reward alone (class R)."""
        return not self.samples_label

    @property
    def discounts(self) -> bool:
        """Whether ``discount`` matters."""
        return self.returns not in (terminal_reward, exact_gain)

    @property
    def learns_baseline(self) -> bool:
        """Whether a baseline is learned."""
        return self.baseline is learned_baseline

    @property
    def needs_rollouts(self) -> bool:
        """Whether every image is played ``num_rollouts`` times."""
        return self.baseline is other_rollouts

    @property
    def objective(self) -> str:
        """What it ascends or approximates; ``benchmarks/gradient_quality.py`` defines each."""
        if self.loss is sampled_label_loss:
            return "sampled reward"
        if self.returns is terminal_reward:
            return f"reward, {self.glimpses} glimpse"
        return "log-likelihood" + (", last glimpse" if self.glimpses == "last" else "")


# Mnih et al. (2014), arXiv:1406.6247: "hybrid supervised loss"
_PAPER = Estimator(glimpses="last", location_reaches_core=False)
_DENSE = Estimator(returns=likelihood_gain, normalises=True, takes_mean=True)  # ours
_REWARD_ONLY = Estimator(samples_label=True, loss=sampled_label_loss)  # Williams (1992)
_OUTCOME = Estimator(  # ours
    returns=outcome_gain,
    classifier="outcome_log_prob",
    takes_mean=True,
    samples_label=True,
    binary_reward=True,
)

ESTIMATORS = {
    "paper": _PAPER,
    "every_glimpse": replace(_PAPER, glimpses="every"),
    "leave_one_out": Estimator(baseline=other_rollouts),  # Mnih and Rezende (2016)
    "dense": _DENSE,
    "dense_log_odds": replace(_DENSE, returns=log_odds_gain),
    # any policy_coef but 1 would make the gradient inexact
    "dense_exact": Estimator(returns=exact_gain, weighted=False),
    "reward_only": _REWARD_ONLY,
    "reward_only_no_baseline": replace(_REWARD_ONLY, baseline=no_baseline),
    "outcome": _OUTCOME,
    "outcome_completed": replace(_OUTCOME, classifier="completed_log_prob"),
    "outcome_normalised": replace(_OUTCOME, normalises=True),
    # Steps between the paper's rule and ours: each changes one thing
    "paper_dense_returns": replace(_PAPER, returns=likelihood_gain),
    "paper_normalised": replace(_PAPER, normalises=True),
    "dense_last_glimpse": replace(_DENSE, glimpses="last"),
    "dense_terminal_reward": replace(_DENSE, returns=terminal_reward),
    "dense_not_normalised": replace(_DENSE, normalises=False),
}
"""All estimators by name, the paper's first. ``docs/estimators.md`` has their equations."""


def _even(rollout: Rollout) -> list[float]:
    """Return the weights 1/T of every glimpse."""
    return [1 / len(rollout.reward)] * len(rollout.reward)
