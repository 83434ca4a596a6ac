"""The ways to learn from an episode, side by side: each turns a rollout into loss terms.

Estimators differ in what they pay an action with (the reward, or a likelihood or log-odds
of labels), in their baseline, and in which glimpses teach the classifier. The script that
plays the episodes is the same for all. A new estimator is a function and a row of
:data:`ESTIMATORS`.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from agents import losses
from agents.losses import baseline_loss, reinforce_loss, reward_to_go

Objective = Literal[
    "log-likelihood",
    "log-likelihood, last glimpse",
    "reward, last glimpse",
    "reward, every glimpse",
    "sampled reward",
]


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What N episodes recorded. Every tensor has shape (T, N).

    Attributes:
        label_log_prob: log p_t of the true label.
        label_log_odds: log p_t - log(1 - p_t) of the true label, without a gradient.
        prediction_log_prob: Log-probability of the label that the agent gave.
        answer_log_prob: log p_t(a).
        other_log_prob: log(1 - p_t(a)), without cancellation where p_t(a) is near 1.
        rest_log_prob: sum_{k != a} q(k) log p_t(k), where q is p_T without a, renormalised.
        location_log_prob: log pi(l_t | h_t) of the sampled location. The environment does not
            use the last one.
        baseline: b(h_t).
        reward: r_t, paid by the environment.
        location_entropy: Entropy of pi(. | h_t) [nat].
        label_entropy: Entropy of the class probabilities given h_t [nat].
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
    location_entropy: Tensor
    label_entropy: Tensor

    @classmethod
    def from_steps(
        cls, label: Tensor, std: float | Tensor, steps: Sequence[Mapping[str, Tensor]]
    ) -> Rollout:
        """Stack what an episode's steps recorded, and add log-probabilities and entropies.

        Args:
            label: True classes. Shape (N,).
            std: Standard deviation of the location policy: a scalar, or one each for x and y.
            steps: ``logits`` of the classes, shape (N, K), ``prediction`` (labels that the agent
                gave), ``location_log_prob``, ``baseline`` and ``reward``, shape (N,).
        """
        recorded = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
        logits, prediction = recorded.pop("logits"), recorded.pop("prediction")  # (T, N, K), (T, N)
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
            location_entropy=torch.zeros_like(of_label) + losses.gaussian_entropy(std),
            label_entropy=losses.categorical_entropy(logits),
            **recorded,
        )


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights and choices that estimators share.

    Attributes:
        policy_coef: c, weight of the location policy's loss.
        baseline_coef: c_b, weight of the baseline's loss.
        discount: gamma of :func:`~agents.losses.dense_returns`.
        max_log_odds: o_max, log-odds up to which ``dense_log_odds`` pays for evidence. 9 is
            p = 0.9999.
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
    """The loss as weighted terms by name, grouped by the action that they teach.

    Attributes:
        label: Terms that teach the label alone.
        location: Terms that only a learned choice of locations needs; a control leaves them out.
        shared: Terms of both actions.
    """

    label: dict[str, Tensor]
    location: dict[str, Tensor]
    shared: dict[str, Tensor]

    def by_name(self, *, location: bool = True) -> dict[str, Tensor]:
        """Return the terms to add up, with or without those of the location.

        Raises:
            ValueError: If a name occurs twice or a term is not a scalar.
        """
        groups = self.label, self.location if location else {}, self.shared
        terms = [item for group in groups for item in group.items()]
        names = [name for name, _ in terms]
        if len({*names}) < len(names):
            raise ValueError(f"terms must have different names, got {names}")
        for name, term in terms:
            if term.ndim:
                raise ValueError(f"term {name!r} must be a scalar, got shape {(*term.shape,)}")
        return dict(terms)


@dataclass(frozen=True)
class Estimator:
    """One way to learn.

    Attributes:
        terms: Turns a rollout into loss terms.
        objective: What the estimator ascends or, without the label, approximates;
            ``benchmarks/gradient_quality.py`` defines each.
        location_reaches_core: Whether the location network's gradient flows into the core.
        samples_label: Whether labels are sampled; otherwise the agent gives the likeliest one.
        normalises: Whether advantages are normalised, which takes two of them or more.
        discounts: Whether ``discount`` matters.
        learns_baseline: Whether a baseline is learned.
        needs_rollouts: Whether every image is played ``num_rollouts`` times.
        sees_label: Whether the loss uses the true label (class L) or the reward alone (class R).
        binary_reward: Whether it reads the reward as whether the answer is the label (class R with
            the structure of the reward). Any policy may then sample the answer.
    """

    terms: Callable[[Rollout, Weights], Terms]
    objective: Objective
    location_reaches_core: bool = True
    samples_label: bool = False
    normalises: bool = False
    discounts: bool = False
    learns_baseline: bool = True
    needs_rollouts: bool = False
    sees_label: bool = True
    binary_reward: bool = False


def paper(rollout: Rollout, weights: Weights) -> Terms:
    """The hybrid loss of the paper: terminal reward, cross-entropy at the last glimpse.

        L = -log p_T - c sum_{t<T} (R_t - b_t) log pi(l_t | h_t) + c_b mean_{t<T} (b_t - R_t)^2

    The location's gradient stops before the core, as in many implementations. Equation 3 takes
    the gradient of the whole RNN, with any weight: ``--location-gradient core --policy-coef C``.

    Source:
        Mnih et al. (2014), arXiv:1406.6247, equation 3 and "hybrid supervised loss".
    """
    return _hybrid(rollout, weights, _last(rollout), _reward(rollout))


def every_glimpse(rollout: Rollout, weights: Weights) -> Terms:
    """:func:`paper`'s loss with -1/T sum_t log p_t: every glimpse teaches the classifier (ours)."""
    return _hybrid(rollout, weights, _even(rollout), _reward(rollout))


def leave_one_out(rollout: Rollout, weights: Weights) -> Terms:
    """Terminal reward compared with other rollouts of the same image; no learned baseline.

        L = -1/T sum_t log p_t - c sum_{t<T} (R_t^i - mean_{j!=i} R_t^j) log pi(l_t^i | h_t^i)

    i is one of the M = ``num_rollouts`` rollouts of an image.

    Source:
        Mnih and Rezende (2016), arXiv:1602.06725; Kool et al. (2019).
    """
    returns = _reward(rollout)
    baseline = losses.leave_one_out_baseline(returns, weights.num_rollouts)
    return _hybrid(rollout, weights, _even(rollout), returns, baseline=baseline)


def dense(rollout: Rollout, weights: Weights) -> Terms:
    """Pay each location with its gain in log-likelihood, normalised over the batch.

        L = -1/T sum_t log p_t - c mean_{t<T} A_t log pi(l_t | h_t) + c_b mean_{t<T} (b_t - g_t)^2

    g_t is :func:`~agents.losses.dense_returns`, and A_t is g_t - b_t, normalised over t and n.
    That rescales the step, so this is not the gradient of one objective.

    Source:
        Ours; Ba et al. (2015), arXiv:1412.7755, pay with the last log-likelihood.
    """
    returns = _gain(rollout, weights)
    return _hybrid(rollout, weights, _even(rollout), returns, normalised=True, mean=True)


def dense_log_odds(rollout: Rollout, weights: Weights) -> Terms:
    """As :func:`dense`, but pay each location with its gain in the label's log-odds.

        o_t = log(p_t / (1 - p_t)) / o_max

    o_t, limited to [-1, 1], takes the place of log p_t in g_t. A log-likelihood has nothing left to
    gain where p_t is near 1, so an agent that is paid with it stops looking for evidence. Log-odds
    have, up to o_max, ``max_log_odds``. Only the classifier still ascends the log-likelihood, which
    is given as the objective; the locations don't.

    Source:
        Ours. A gain in log-odds is the weight of evidence of Good (1950), "Probability and the
        weighing of evidence".
    """
    log_odds = (rollout.label_log_odds / weights.max_log_odds).clamp(-1, 1)
    returns = losses.dense_returns(log_odds, weights.discount)
    return _hybrid(rollout, weights, _even(rollout), returns, normalised=True, mean=True)


def dense_exact(rollout: Rollout, weights: Weights) -> Terms:
    """The exact policy gradient of the mean log-likelihood J_w, w_k = 1/T.

        L = -sum_k w_k log p_k - sum_{t<T} (g_t - b_t) log pi(l_t | h_t)
            + c_b mean_{t<T} (b_t - g_t)^2

    g_t is :func:`~agents.losses.exact_dense_returns`, which names the source. ``policy_coef`` is
    ignored: any value but 1 would make the gradient inexact.
    """
    even = _even(rollout)
    returns = losses.exact_dense_returns(rollout.label_log_prob, even)  # (T - 1, N)
    return _hybrid(rollout, replace(weights, policy_coef=1.0), even, returns)


def reward_only(rollout: Rollout, weights: Weights) -> Terms:
    """REINFORCE on the reward alone: locations and the scored label are both sampled actions.

        L = -(R_T - b_T) log p(label) - c sum_{t<T} (R_t - b_t) log pi(l_t | h_t)
            - c_e (sum_{t<T} H[pi(. | h_t)] + H[p(. | h_T)]) + c_b mean_t (b_t - R_t)^2

    Without the entropy H the sampled label soon is the same for all images.

    Source:
        Williams (1992); the entropy is Williams and Peng (1991).
    """
    returns = reward_to_go(rollout.reward)
    baseline = weights.baseline_coef * baseline_loss(rollout.baseline, returns)
    return _reward_only(rollout, returns - rollout.baseline, weights, baseline=baseline)


def reward_only_no_baseline(rollout: Rollout, weights: Weights) -> Terms:
    """As :func:`reward_only` with b_t = 0 (Williams 1992)."""
    return _reward_only(rollout, reward_to_go(rollout.reward), weights)


def outcome(rollout: Rollout, weights: Weights) -> Terms:
    """The likelihood of the outcome, whether the sampled answer a was right, at every glimpse.

        L = -1/T sum_t log P_t - c mean_{t<T} (g_t - b_t) log pi(l_t | h_t)
            + c_b mean_{t<T} (b_t - g_t)^2,    P_t = p_t(a) if R_T = 1, else 1 - p_t(a)

    g_t is :func:`~agents.losses.dense_returns` of log P_t. In the logits, the gradient of
    log P_t is (R_T - p_t(a)) / (1 - p_t(a)) times that of log p_t(a): REINFORCE whose baseline
    is the answer's own probability, rescaled. At the last glimpse the loss is a proper score for
    any way to sample a from h_T. Before, it isn't: a knows of the label what h_t doesn't.

    Source:
        Ours. One bit per answer as a likelihood: Hu et al. (2020), "One-bit supervision".
    """
    log_outcome = _log_outcome(rollout)
    return _outcome(rollout, weights, log_outcome, log_outcome)


def outcome_completed(rollout: Rollout, weights: Weights) -> Terms:
    """As :func:`outcome`, but before the last glimpse the classifier learns what p_T believes.

        L = -1/T (log P_T + sum_{t<T} sum_k q(k) log p_t(k)) + ...

    q is the answer if R_T = 1, else p_T without it, renormalised. Its mean given h_t is the
    posterior if p_T is calibrated; while it isn't, the agent learns its own mistakes (ours).
    """
    log_outcome = _log_outcome(rollout)
    right = rollout.reward[-1] > 0.5
    to_q = torch.where(right, rollout.answer_log_prob, rollout.rest_log_prob)
    return _outcome(rollout, weights, torch.cat((to_q[:-1], log_outcome[-1:])), log_outcome)


def outcome_normalised(rollout: Rollout, weights: Weights) -> Terms:
    """As :func:`outcome`, with A_t, which is g_t - b_t normalised over t and n (ours).

    The gains shrink while the agent improves, and with them the location's gradient next to the
    classifier's. Normalised, it keeps its size.
    """
    log_outcome = _log_outcome(rollout)
    return _outcome(rollout, weights, log_outcome, log_outcome, normalised=True)


def paper_dense_returns(rollout: Rollout, weights: Weights) -> Terms:
    """:func:`paper`'s loss, with each location's gain in log-likelihood as its return.

        L = -log p_T - c sum_{t<T} (g_t - b_t) log pi(l_t | h_t) + c_b mean_{t<T} (b_t - g_t)^2

    Ours.
    """
    return _hybrid(rollout, weights, _last(rollout), _gain(rollout, weights))


def paper_normalised(rollout: Rollout, weights: Weights) -> Terms:
    """:func:`paper`'s loss, with A_t, which is R_t - b_t normalised over t and n.

        L = -log p_T - c sum_{t<T} A_t log pi(l_t | h_t) + c_b mean_{t<T} (b_t - R_t)^2

    Ours.
    """
    return _hybrid(rollout, weights, _last(rollout), _reward(rollout), normalised=True)


def dense_last_glimpse(rollout: Rollout, weights: Weights) -> Terms:
    """:func:`dense`'s loss, with cross-entropy at the last glimpse alone.

        L = -log p_T - c mean_{t<T} A_t log pi(l_t | h_t) + c_b mean_{t<T} (b_t - g_t)^2

    Ours.
    """
    returns = _gain(rollout, weights)
    return _hybrid(rollout, weights, _last(rollout), returns, normalised=True, mean=True)


def dense_terminal_reward(rollout: Rollout, weights: Weights) -> Terms:
    """:func:`dense`'s loss, with A_t, which is R_t - b_t normalised over t and n.

        L = -1/T sum_t log p_t - c mean_{t<T} A_t log pi(l_t | h_t) + c_b mean_{t<T} (b_t - R_t)^2

    Ours.
    """
    returns = _reward(rollout)
    return _hybrid(rollout, weights, _even(rollout), returns, normalised=True, mean=True)


def dense_not_normalised(rollout: Rollout, weights: Weights) -> Terms:
    """:func:`dense`'s loss, without normalisation.

        L = -1/T sum_t log p_t - c mean_{t<T} (g_t - b_t) log pi(l_t | h_t)
            + c_b mean_{t<T} (b_t - g_t)^2

    Ours.
    """
    return _hybrid(rollout, weights, _even(rollout), _gain(rollout, weights), mean=True)


_DETACHED: dict[str, bool] = {"location_reaches_core": False}
_DENSE: dict[str, bool] = {"discounts": True, "normalises": True}
_REWARD: dict[str, bool] = {"samples_label": True, "sees_label": False}
_OUTCOME: dict[str, bool] = {"discounts": True, "binary_reward": True, **_REWARD}

ESTIMATORS = {
    "paper": Estimator(paper, "reward, last glimpse", **_DETACHED),
    "every_glimpse": Estimator(every_glimpse, "reward, every glimpse", **_DETACHED),
    "leave_one_out": Estimator(
        leave_one_out, "reward, every glimpse", needs_rollouts=True, learns_baseline=False
    ),
    "dense": Estimator(dense, "log-likelihood", **_DENSE),
    "dense_log_odds": Estimator(dense_log_odds, "log-likelihood", **_DENSE),
    "dense_exact": Estimator(dense_exact, "log-likelihood"),
    "reward_only": Estimator(reward_only, "sampled reward", **_REWARD),
    "reward_only_no_baseline": Estimator(
        reward_only_no_baseline, "sampled reward", learns_baseline=False, **_REWARD
    ),
    "outcome": Estimator(outcome, "log-likelihood", **_OUTCOME),
    "outcome_completed": Estimator(outcome_completed, "log-likelihood", **_OUTCOME),
    "outcome_normalised": Estimator(
        outcome_normalised, "log-likelihood", normalises=True, **_OUTCOME
    ),
    "paper_dense_returns": Estimator(
        paper_dense_returns, "log-likelihood, last glimpse", discounts=True, **_DETACHED
    ),
    "paper_normalised": Estimator(
        paper_normalised, "reward, last glimpse", normalises=True, **_DETACHED
    ),
    "dense_last_glimpse": Estimator(dense_last_glimpse, "log-likelihood, last glimpse", **_DENSE),
    "dense_terminal_reward": Estimator(
        dense_terminal_reward, "reward, every glimpse", normalises=True
    ),
    "dense_not_normalised": Estimator(dense_not_normalised, "log-likelihood", discounts=True),
}
"""All estimators by name, the paper's first; each of the last five changes one thing in another."""


def _hybrid(
    rollout: Rollout,
    weights: Weights,
    label_weights: Sequence[float],
    returns: Tensor,
    *,
    baseline: Tensor | None = None,
    normalised: bool = False,
    mean: bool = False,
) -> Terms:
    """Return cross-entropy with T weights, and REINFORCE on the returns (T - 1, N).

    A ``baseline`` (T - 1, N) takes the place of the learned one. The policy's loss is a sum over
    locations, or their ``mean``.
    """
    learned = rollout.baseline[:-1]
    advantage = returns - (learned.detach() if baseline is None else baseline)
    if normalised:
        advantage = losses.normalise(advantage, by_step=weights.normalise_by_step)
    policy = reinforce_loss(rollout.location_log_prob[:-1], advantage)
    location = {"policy": weights.policy_coef * (policy / len(returns) if mean else policy)}
    if baseline is None:
        location["baseline"] = weights.baseline_coef * baseline_loss(learned, returns)
    label = losses.cross_entropy(rollout.label_log_prob, label_weights)
    return Terms({"classifier": label}, location, shared={})


def _reward_only(rollout: Rollout, advantage: Tensor, weights: Weights, **shared: Tensor) -> Terms:
    """Return the losses of both actions, the label's at the step that is scored.

    The baseline is among the ``shared`` terms, since it serves the label's advantage too.
    """
    policy = weights.policy_coef * reinforce_loss(rollout.location_log_prob[:-1], advantage[:-1])
    of_location = -weights.entropy_coef * rollout.location_entropy[:-1].sum(0).mean()
    of_label = -weights.entropy_coef * rollout.label_entropy[-1].mean()
    label = {
        "label": reinforce_loss(rollout.prediction_log_prob[-1:], advantage[-1:]),
        "label_entropy": of_label,
    }
    return Terms(label, {"policy": policy, "location_entropy": of_location}, shared)


def _log_outcome(rollout: Rollout) -> Tensor:
    """Return log P_t, the log-likelihood of whether the answer was right, (T, N)."""
    right = rollout.reward[-1] > 0.5
    return torch.where(right, rollout.answer_log_prob, rollout.other_log_prob)


def _outcome(
    rollout: Rollout,
    weights: Weights,
    label_log_prob: Tensor,
    log_outcome: Tensor,
    *,
    normalised: bool = False,
) -> Terms:
    """Return the losses of a classifier's log-probability and of the outcome's dense returns."""
    returns = losses.dense_returns(log_outcome, weights.discount)  # (T - 1, N)
    taught = replace(rollout, label_log_prob=label_log_prob)  # in the true label's place
    return _hybrid(taught, weights, _even(rollout), returns, normalised=normalised, mean=True)


def _even(rollout: Rollout) -> list[float]:
    """Return the weights 1/T of every glimpse."""
    return [1 / len(rollout.reward)] * len(rollout.reward)


def _last(rollout: Rollout) -> list[float]:
    """Return the weights 0, ..., 0, 1, of the last glimpse alone."""
    return [0.0] * (len(rollout.reward) - 1) + [1.0]


def _reward(rollout: Rollout) -> Tensor:
    """Return R_t of each location, (T - 1, N)."""
    return reward_to_go(rollout.reward)[:-1]


def _gain(rollout: Rollout, weights: Weights) -> Tensor:
    """Return each location's gain in the label's log-likelihood, (T - 1, N)."""
    return losses.dense_returns(rollout.label_log_prob, weights.discount)
