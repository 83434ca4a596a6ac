"""Bias and variance of each estimator's gradient, at the weights of stored runs.

    python -m benchmarks.gradient_quality EARLY MIDDLE LATE --csv gradient_quality.csv

plays each run's environment (train split, no shift, float32) and compares every estimator with a
reference: the mean, over other episodes, of an unbiased estimate of the whole gradient of its
objective, core and glimpse network included. The objectives, with b a fitted baseline:

- log-likelihood, J_w = E[sum_k w_k log p_k] with w = 1/T: the gradient is the expectation of
  sum_k w_k grad log p_k + sum_{t<T} (sum_{k>t} w_k (log p_k - log p_t) - b) grad log pi(l_t).
  The estimators of an outcome are held against it, too, since it is what they do without.
- log-likelihood, last glimpse: the same with w = (0, ..., 0, 1).
- reward, last glimpse or every glimpse, c E[r], r paid for the likeliest label, c = policy_coef:
  c E[sum_t (r - b) grad log pi(l_t)] is the whole gradient in the location network. No score
  function captures how other weights change the likeliest label; the hybrid loss's
  E[sum_k w_k grad log p_k], w = (0, ..., 0, 1) or 1/T, stands for that.
- sampled reward, E[r], r paid for a label drawn from p_T: E[(r - b) grad log p_T(label)], and the
  locations' as before with c = 1.

The baseline, which has no objective, is fitted anew to each estimator's returns. With g_i the
gradients of B batches, of mean G, and r_j of R blocks of the reference, of mean F:

- cosine of a batch: mean_i cos(g_i, F); of the mean: cos(G, F), 1 if unbiased up to a factor. So
  that noise does not shrink it, |G|^2 is the mean of g_i . g_k over i != k, |F|^2 likewise, and
  G . F the mean of g_i . r_j. It may exceed 1, and is n/a where such a square isn't positive.
- variance: episodes per batch times E|g_i - G|^2 / |G|^2. Times the CPU seconds per episode, it
  is the CPU seconds until the noise in the mean is as long as G.
- halves: plain cosine between the means of the reference's two halves.
- +-: one standard error, by the jackknife over batches and over blocks.

The estimators take turns, one batch each; CPU time is the median of play, loss and gradient.

Dimension key:
    T, N, D: glimpses per episode, parallel episodes, units of the recurrent state
    B, R, P: batches of an estimator, blocks of a reference, parameters
"""

from __future__ import annotations

import copy
import itertools
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from csv import writer
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from agents.actions import choose_label, sample_location
from agents.baselines import count_parameters
from agents.episodes import play_episode
from agents.estimators import ESTIMATORS, Estimator, Rollout, Weights
from agents.losses import exact_dense_returns
from agents.noise import EpisodeNoise, Noise
from agents.ram import Output, RecurrentAttentionModel
from agents.runs.loading import load_run
from agents.runs.machine import commit, describe_machine
from agents.training import spread_seed
from ram_env import find_task
from train.keywords import make_vector_env

SEEDS = (10**6, 10**6 + 1)  # of a reference's and an estimator's episodes: no run trained on them
REFERENCE_EPISODES = 200_000  # rounded up to whole batches in each block
NUM_BLOCKS = 20  # of a reference
NUM_BATCHES = 200  # of each estimator
NUM_ENVS = 128  # episodes per batch
FIT_EPISODES = 4096  # that a baseline is fitted to
STD = 0.2  # of the location policy of runs that did not learn their own
WEIGHTS = Weights(policy_coef=0.2, baseline_coef=0.5, discount=0.5, num_rollouts=4)
GROUPS = ("location_network", "core", "glimpse_network", "action_network")  # of parameters
Row = dict[str, str | float]
Stored = tuple[RecurrentAttentionModel, dict[str, Any]]  # as load_run returns it


def weights_of(estimator: Estimator) -> Weights:
    """Return an estimator's weights; the baseline's only scales its own gradient."""
    return replace(WEIGHTS, policy_coef=1.0) if estimator.objective == "sampled reward" else WEIGHTS


def exact_last_gain(rollout: Rollout, weights: Weights) -> Tensor:
    """Return the gains that make the gradient of the last log-likelihood exact, (T - 1, N)."""
    last = [0.0] * (len(rollout.reward) - 1) + [1.0]
    return exact_dense_returns(rollout.label_log_prob, last)


PAPER_CORE = replace(ESTIMATORS["paper"], location_reaches_core=True)
"""The paper's rule as ``--preset paper-cluttered`` has it."""
MEASURED = {**ESTIMATORS, "paper, gradient in the core": PAPER_CORE}
REFERENCES: dict[str, Estimator] = {
    "log-likelihood": ESTIMATORS["dense_exact"],
    "log-likelihood, last glimpse": replace(
        ESTIMATORS["dense_exact"], returns=exact_last_gain, glimpses="last"
    ),
    "reward, last glimpse": PAPER_CORE,
    "reward, every glimpse": replace(ESTIMATORS["every_glimpse"], location_reaches_core=True),
    "sampled reward": ESTIMATORS["reward_only"],
}
"""An unbiased estimator of the whole gradient of each objective."""


class Learner:
    """An estimator at a run's weights, with a copy of them whose baseline is fitted to it.

    Its ``batches`` are endless: a rollout and its states h_t, (T, N, D), each.
    """

    def __init__(self, stored: Stored, estimator: Estimator, seed: int):
        self.model, self._estimator = copy.deepcopy(stored[0]), estimator
        reaches_core = estimator.location_reaches_core
        self.model.config = replace(self.model.config, location_reaches_core=reaches_core)
        self.batches = self._play(stored[1], seed)
        self._fit_baseline()

    def gradient(self) -> Tensor:
        """Play a batch and return the loss's gradient in all parameters, (P,)."""
        loss = torch.stack(self._losses(next(self.batches)[0])).sum()
        parts = torch.autograd.grad(loss, list(self.model.parameters()), materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    def _losses(self, rollout: Rollout) -> list[Tensor]:
        terms = self._estimator.terms(rollout, weights_of(self._estimator))
        return list(terms.by_name().values())

    def _play(self, settings: dict[str, Any], seed: int) -> Iterator[tuple[Rollout, Tensor]]:
        """Play batches without end, as train/reinforce.py does; yield each with its h_t."""
        model, n = self.model, NUM_ENVS
        rollouts = WEIGHTS.num_rollouts if self._estimator.needs_rollouts else 1
        fixed = {"action_format": "dict", "grid_size": None, "allow_stop": False, "split": "train"}
        keywords = {**settings.get("env_kwargs", {}), **fixed}
        env = make_vector_env(settings["env_id"], n, **keywords)
        carry = env.reset(seed=spread_seed(seed, n, rollouts)[0])
        num_glimpses, temperature = env.task.num_glimpses, float(self._estimator.samples_label)
        noise = Noise(seed, range(n), num_glimpses=num_glimpses, num_classes=env.num_classes)
        for episode in itertools.count():
            std = STD if model.location_std is None else model.location_std
            label, drawn = torch.as_tensor(carry[1]["label"]), noise.draw(episode)  # (N,)

            def act(
                step: int, output: Output, drawn: EpisodeNoise = drawn, std: float | Tensor = std
            ) -> tuple[Tensor, Tensor, Tensor]:
                answer = choose_label(output.logits, drawn.clocks[step], temperature)
                return *sample_location(output.location_mean, std, drawn.normal[step]), answer

            steps, carry = play_episode(model, env, carry, act)
            states = torch.stack([step.state[:, : model.config.hidden_size] for step in steps])
            yield Rollout.from_steps(label, std, steps), states

    def _fit_baseline(self) -> None:
        """Fit the baseline network, which is linear, to some batches, if the estimator uses it."""
        batches = itertools.islice(self.batches, math.ceil(FIT_EPISODES / NUM_ENVS))
        with torch.no_grad():
            rollouts, states = zip(*batches, strict=True)
        names = [name for name, part in vars(rollouts[0]).items() if part is not None]
        parts = {k: torch.cat([vars(each)[k] for each in rollouts], 1) for k in names}
        h, network = torch.cat(states, 1), self.model.baseline_network  # (T, N, D)
        search = {"max_iter": 100, "line_search_fn": "strong_wolfe"}
        optimizer = torch.optim.LBFGS(network.parameters(), **search)

        def closure() -> Tensor:
            optimizer.zero_grad()
            rollout = Rollout(**{**parts, "baseline": network(h)[..., 0]})
            losses = [loss for loss in self._losses(rollout) if loss.requires_grad]
            loss = torch.stack([torch.zeros((), requires_grad=True), *losses]).sum()
            loss.backward()
            return loss

        optimizer.step(closure)  # pyright: ignore[reportArgumentType]


def collect(
    learners: dict[str, Learner], rows: int, batches: int = 1
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return gradients, (rows, P), means over batches in float64, and a batch's CPU seconds."""
    spent, gradients = defaultdict[str, list](list), defaultdict[str, list](list)
    for _, (name, learner) in itertools.product(range(rows), learners.items()):
        total = torch.zeros((), dtype=torch.float64)
        for _ in range(batches):
            start = time.process_time()
            gradient = learner.gradient()
            spent[name].append(time.process_time() - start)
            total = total + gradient
        gradients[name].append((total / batches).float())
    seconds = {name: statistics.median(each) for name, each in spent.items()}
    return {name: torch.stack(gradients.pop(name)) for name in learners}, seconds


def groups_of(model: nn.Module) -> dict[str, slice]:
    """Return where each of the model's networks lies in the gradient."""
    groups, start = {}, 0
    for name, network in model.named_children():
        stop = start + count_parameters(network)
        groups[name], start = slice(start, stop), stop
    return groups


def squared_norm(products: Tensor) -> Tensor:
    """Estimate |E g|^2 without bias from the products (n, n) of n samples; NaN if it is <= 0."""
    n = len(products)
    square = (products.sum() - products.trace()) / (n * (n - 1))
    return torch.where(square > 0, square, torch.nan)


def quality(g: Tensor, cross: Tensor, r: Tensor) -> Tensor:
    """Return a batch's cosine, the mean's cosine and a batch's relative variance, (3,).

    ``g`` (B, B), ``cross`` (B, R) and ``r`` (R, R) are inner products among the gradients of
    batches, of batches with blocks of the reference, and among the blocks.
    """
    square, reference = squared_norm(g), squared_norm(r).sqrt()
    batch_cosine = (cross.mean(1) / g.diagonal().sqrt()).mean() / reference
    cosine = cross.mean() / (square.sqrt() * reference)
    variance = (g.trace() - g.sum() / len(g)) / (len(g) - 1)
    return torch.stack([batch_cosine, cosine, variance / square])


def standard_errors(g: Tensor, cross: Tensor, r: Tensor) -> Tensor:
    """Return the standard errors of :func:`quality`, (3,), by the jackknife."""
    b, k = (~torch.eye(len(products), dtype=torch.bool) for products in (g, r))
    without_batch = torch.stack([quality(g[i][:, i], cross[i], r) for i in b])
    without_block = torch.stack([quality(g, cross[:, j], r[j][:, j]) for j in k])
    one, other = ((len(x) - 1) * x.var(0, correction=0) for x in (without_batch, without_block))
    return (one + other).sqrt()


def measure(stored: Stored) -> list[Row]:
    """Return the numbers at a run's weights, one row per estimator and group."""

    def learners(estimators: dict[str, Estimator], seed: int) -> dict[str, Learner]:
        return {name: Learner(stored, each, seed) for name, each in estimators.items()}

    per_block = math.ceil(REFERENCE_EPISODES / (NUM_ENVS * NUM_BLOCKS))
    references, _ = collect(learners(REFERENCES, SEEDS[0]), NUM_BLOCKS, per_block)
    gradients, seconds = collect(learners(MEASURED, SEEDS[1]), NUM_BATCHES)
    groups, n, rows = groups_of(stored[0]), NUM_ENVS, []
    for (name, estimator), group in itertools.product(MEASURED.items(), GROUPS):
        pair = gradients[name], references[estimator.objective]
        g, r = (each[:, groups[group]].double() for each in pair)
        products = g @ g.T, g @ r.T, r @ r.T
        batch_cosine, cosine, variance = quality(*products).tolist()
        errors = standard_errors(*products).tolist()
        halves = torch.cosine_similarity(*(half.mean(0) for half in r.chunk(2)), dim=0).item()
        row: Row = {"estimator": name, "objective": estimator.objective, "group": group}
        row |= {"halves": halves, "cosine of a batch": batch_cosine, "+- batch": errors[0]}
        row |= {"cosine of the mean": cosine, "+- mean": errors[1]}
        row |= {"variance": variance * n, "+- variance": errors[2] * n}
        row |= {"CPU ms an episode": 1000 * seconds[name] / n}
        rows.append({**row, "variance x CPU s": variance * seconds[name]})
    return rows


def load(run_dir: Path) -> Stored:
    """Read a run; ValueError unless it learned locations, paid for nothing but the last label."""
    model, settings = load_run(run_dir)
    task = find_task(settings["env_id"], **settings.get("env_kwargs", {}))
    learned = settings.get("locations", "learned") == "learned"
    if not learned or task.reward != "final" or task.glimpse_cost:
        raise ValueError(
            f"{run_dir} must be a run of train/reinforce.py with learned locations, "
            "reward='final' and no glimpse_cost"
        )
    return model, settings


def main(run_dirs: tyro.conf.Positional[tuple[Path, ...]], csv: Path) -> None:
    """Measure and write a CSV file.

    Args:
        run_dirs: Folders of runs of train/reinforce.py: an early, a middle and a late one.
        csv: File to write.
    """
    torch.set_num_threads(1)
    runs = [load(run_dir) for run_dir in run_dirs]  # a bad one fails at once
    for name, value in describe_machine(commit()).items():
        print(f"- {name}: {value}")
    rows: list[Row] = []
    for run_dir, stored in zip(run_dirs, runs, strict=True):
        rows += [{"run": str(run_dir), **row} for row in measure(stored)]
        with csv.open("w", newline="") as file:
            table = [rows[0].keys(), *(row.values() for row in rows)]
            writer(file, lineterminator="\n").writerows(table)
        print(f"{csv}: {len(rows)} rows", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
