"""Bias and variance of each estimator's gradient, at the weights of stored runs.

    python -m benchmarks.gradient_quality EARLY MIDDLE LATE --csv gradient_quality.csv

plays each run's environment (train split, no shift, float32) and compares every estimator with a
reference: the mean, over other episodes, of an unbiased estimate of the whole gradient of the
estimator's objective. Both terms of a reference reach core and glimpse network. With b a fitted
baseline, the objectives and their two terms, the classifier's and the locations', are:

- log-likelihood, J_w = E[sum_k w_k log p_k] with w = 1/T: E[sum_k w_k grad log p_k] and
  E[sum_{t<T} A_t grad log pi(l_t)], A_t = sum_{k>t} w_k (log p_k - log p_t) - b.
- reward, last glimpse or every glimpse, c E[r], r paid for the likeliest label, c = policy_coef:
  c E[sum_t (r - b) grad log pi(l_t)] is the whole gradient in the location network. No score
  function captures that the other weights change which label is the likeliest; the hybrid loss's
  E[sum_k w_k grad log p_k], w = (0, ..., 0, 1) or 1/T, stands for that.
- sampled reward, E[r], r paid for a label drawn from p_T: E[(r - b) grad log p_T(label)], and the
  locations' as before with c = 1.

The baseline network has no objective and is left out. It is fitted anew to each estimator's
returns, because the stored one fits those of the estimator that trained the run. With g_i the
gradients of B batches, of expectation G, and r_j of R blocks of the reference, of F:

- cosine of a batch: mean_i cos(g_i, F); of the mean: cos(G, F), 1 if unbiased up to a factor.
  The plain cosine of noisy means is too small. So |G|^2 is the mean of g_i . g_k over i != k,
  |F|^2 likewise and G . F the mean of g_i . r_j, all products of different episodes. A cosine may
  then exceed 1; it is n/a where such a square isn't positive.
- variance: episodes per batch times E|g_i - G|^2 / |G|^2. Times the CPU seconds per episode, it
  is the CPU seconds until the noise in the mean is as long as G.
- halves: plain cosine between the means of the reference's two halves.
- +-: one standard error, by the jackknife over batches and over blocks.

The estimators take turns, one batch each, and share nothing, so that each one's CPU time is its
own: the median of play, loss and gradient, without the optimiser's step.

Dimension key:
    T, N, D, K: glimpses per episode, parallel episodes, units of the recurrent state, classes
    B, R, P: batches of an estimator, blocks of a reference, parameters
"""

from __future__ import annotations

import copy
import csv
import itertools
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import gymnasium
import torch
import tyro
from torch import Tensor, nn

import ram_env
from agents.estimators import ESTIMATORS, Estimator, Rollout, Weights
from agents.evaluation import to_env, to_tensors
from agents.locations import sample_location
from agents.ram import RecurrentAttentionModel
from agents.runs.commands import parse_flags, run
from agents.runs.loading import load_run
from agents.runs.machine import commit, describe_machine
from agents.training import check_settings, spread_seed
from train.reinforce import choose_label

FIRST_SEED = 10**6  # of episodes: no stored run was trained on them
NUM_BLOCKS = 20  # of a reference
FIT_EPISODES = 4096  # that a baseline is fitted to
GROUPS = ("location_network", "core", "glimpse_network", "action_network")  # of parameters
Row = dict[str, str | float]


@dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs of train/reinforce.py: an early, a middle and a late one."""
    reference_episodes: int = 200_000
    """Episodes of each reference, rounded up to whole batches in each block."""
    num_batches: int = 200
    """Batches of each estimator."""
    num_envs: int = 128
    """Episodes per batch."""
    num_rollouts: int = 4
    """How often each image is played, for leave_one_out. Must divide num_envs."""
    std: float = 0.2
    """Standard deviation of the location policy of runs that did not learn their own."""
    policy_coef: float = 0.2
    """Weight of the location policy's loss relative to the classifier's (1 for sampled labels)."""
    discount: float = 0.5
    """Discount on a location's credit for the glimpses after the next one, for dense."""
    seed: int = 0
    """Random seed for episodes and exploration."""
    threads: int = 1
    """CPU threads."""
    csv: Path | None = None
    """File to write the numbers to."""

    def __post_init__(self) -> None:
        """Check what would otherwise fail late."""
        counts = ("reference_episodes", "num_envs", "num_rollouts", "threads")
        check_settings(self, {"at least 1": counts, "at least 0": ("seed",), "positive": ("std",)})
        if self.num_batches < 3:
            raise ValueError(f"num_batches must be at least 3, got {self.num_batches}")
        if self.num_rollouts < 2 or self.num_envs % self.num_rollouts:
            raise ValueError(
                f"num_rollouts must be at least 2 and divide num_envs={self.num_envs}, "
                f"got {self.num_rollouts}"
            )
        if not self.run_dirs:
            raise ValueError("give at least one run folder")
        if self.csv is not None and not self.csv.parent.is_dir():
            raise ValueError(f"{self.csv} cannot be written: there is no such folder")

    def weights(self, estimator: Estimator) -> Weights:
        """Return an estimator's weights; the baseline's only scales its own gradient."""
        policy_coef = 1.0 if estimator.samples_label else self.policy_coef
        rest = {"discount": self.discount, "num_rollouts": self.num_rollouts}
        return Weights(policy_coef=policy_coef, baseline_coef=0.5, **rest)


REFERENCES: dict[str, Estimator] = {
    "log-likelihood": ESTIMATORS["dense_exact"],
    "reward, last glimpse": replace(ESTIMATORS["paper"], location_reaches_core=True),
    "reward, every glimpse": replace(ESTIMATORS["every_glimpse"], location_reaches_core=True),
    "sampled reward": ESTIMATORS["reward_only"],
}
"""An unbiased estimator of the whole gradient of each objective."""


class Stored(NamedTuple):
    """Weights to measure at, and the environment they were learned in."""

    model: RecurrentAttentionModel
    env_id: str


class Learner:
    """An estimator at stored weights, with its own copy of them, episodes and fitted baseline.

    Attributes:
        model: The copy; its location gradient reaches the core if the estimator's does.
        batches: Endless batches of episodes, each with its states h_t, (T, N, D).
    """

    def __init__(self, stored: Stored, estimator: Estimator, config: Config, seed: int):
        self.model, self._estimator, self._config = copy.deepcopy(stored.model), estimator, config
        self._weights = config.weights(estimator)
        reaches_core = estimator.location_reaches_core
        self.model.config = replace(self.model.config, location_reaches_core=reaches_core)
        self.batches = self._play(stored.env_id, seed)
        self._fit_baseline()

    def gradient(self) -> Tensor:
        """Play a batch and return the loss's gradient in all parameters, (P,)."""
        loss = torch.stack(self._losses(next(self.batches)[0])).sum()
        parts = torch.autograd.grad(loss, list(self.model.parameters()), materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    def _losses(self, rollout: Rollout) -> list[Tensor]:
        return list(self._estimator.terms(rollout, self._weights).by_name().values())

    def _play(self, env_id: str, seed: int) -> Iterator[tuple[Rollout, Tensor]]:
        """Play batches without end, as train/reinforce.py does; yield each with its h_t."""
        model, n = self.model, self._config.num_envs
        rollouts = self._config.num_rollouts if self._estimator.needs_rollouts else 1
        env = gymnasium.make_vec(env_id, num_envs=n, action_format="dict", split="train")
        assert isinstance(env, ram_env.GlimpseVectorEnv)
        env_seeds, torch_seed = spread_seed(seed, n, rollouts)
        torch.manual_seed(torch_seed)
        obs, infos = env.reset(seed=env_seeds)
        while True:
            std = self._config.std if model.location_std is None else model.location_std
            label = torch.as_tensor(infos["label"])  # (N,)
            state, steps = model.initial_state(n), []
            for _ in range(env.task.num_glimpses):
                output, state = model(*to_tensors(obs, label.device), state)
                location, log_prob = sample_location(output.location_mean, std)
                prediction = choose_label(output.logits, sample=self._estimator.samples_label)
                action = to_env({"location": location, "label": prediction}, obs)
                obs, reward, _, _, infos = env.step(action)
                reward = torch.as_tensor(reward, dtype=torch.float32)
                h = state[:, : model.config.hidden_size]
                steps.append((output.logits, prediction, log_prob, output.baseline, reward, h))
            logits, prediction, log_prob, baseline, reward, h = map(
                torch.stack, zip(*steps, strict=True)
            )
            rollout = Rollout.from_episode(
                label=label,
                logits=logits,
                prediction=prediction,
                location_log_prob=log_prob,
                std=std,
                baseline=baseline,
                reward=reward,
            )
            yield rollout, h

    def _fit_baseline(self) -> None:
        """Fit the baseline network, which is linear, to some batches, if the estimator uses it."""
        count = math.ceil(FIT_EPISODES / self._config.num_envs)
        with torch.no_grad():
            batches = list(itertools.islice(self.batches, count))
        h = torch.cat([h for _, h in batches], 1)  # (T, N, D)
        names = [field.name for field in fields(Rollout)]
        parts = {name: torch.cat([getattr(r, name) for r, _ in batches], 1) for name in names}
        network = self.model.baseline_network
        optimizer = torch.optim.LBFGS(
            network.parameters(), max_iter=100, line_search_fn="strong_wolfe"
        )

        def baseline_losses() -> list[Tensor]:
            rollout = Rollout(**{**parts, "baseline": network(h)[..., 0]})
            return [loss for loss in self._losses(rollout) if loss.requires_grad]

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = torch.stack(baseline_losses()).sum()
            loss.backward()
            return loss

        if baseline_losses():
            optimizer.step(closure)  # pyright: ignore[reportArgumentType]


def collect(
    learners: dict[str, Learner], rows: int, batches: int = 1
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return gradients, (rows, P), means over batches in float64, and a batch's CPU seconds."""
    spent: dict[str, list[float]] = {name: [] for name in learners}
    gradients: dict[str, list[Tensor]] = {name: [] for name in learners}
    for _ in range(rows):
        for name, learner in learners.items():
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
        stop = start + sum(parameter.numel() for parameter in network.parameters())
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


def halves_cosine(blocks: Tensor) -> float:
    """Return the cosine between the means of the first and second half, from products (R, R)."""
    half = len(blocks) // 2
    squares = blocks[:half, :half].mean() * blocks[half:, half:].mean()
    return float(blocks[:half, half:].mean() / squares.sqrt())


def measure(stored: Stored, config: Config) -> list[Row]:
    """Return the numbers at a run's weights, one row per estimator and group."""

    def learners(estimators: dict[str, Estimator], seed: int) -> dict[str, Learner]:
        return {name: Learner(stored, each, config, seed) for name, each in estimators.items()}

    per_block = math.ceil(config.reference_episodes / (config.num_envs * NUM_BLOCKS))
    seeds = [FIRST_SEED + 2 * config.seed + i for i in (0, 1)]  # which share no episodes
    references, _ = collect(learners(REFERENCES, seeds[0]), NUM_BLOCKS, per_block)
    gradients, seconds = collect(learners(ESTIMATORS, seeds[1]), config.num_batches)
    groups, rows = groups_of(stored.model), []
    for (name, estimator), group in itertools.product(ESTIMATORS.items(), GROUPS):
        reference = references[estimator.objective]
        g, r = (x[:, groups[group]].double() for x in (gradients[name], reference))
        row = {"estimator": name, "objective": estimator.objective, "group": group}
        rows.append(row | describe(g, r, config.num_envs, seconds[name]))
    return rows


def describe(g: Tensor, r: Tensor, num_envs: int, seconds: float) -> Row:
    """Return the numbers of a row from gradients of batches (B, P) and blocks (R, P)."""
    products = g @ g.T, g @ r.T, r @ r.T
    batch_cosine, cosine, variance = quality(*products).tolist()
    errors = standard_errors(*products).tolist()
    return {
        "halves": halves_cosine(products[2]),
        "cosine of a batch": batch_cosine,
        "+- batch": errors[0],
        "cosine of the mean": cosine,
        "+- mean": errors[1],
        "variance": variance * num_envs,
        "+- variance": errors[2] * num_envs,
        "CPU ms an episode": 1000 * seconds / num_envs,
        "variance x CPU s": variance * seconds,
    }


def table(rows: list[Row]) -> str:
    """Return Markdown, each error in the cell of its number."""
    lines = [[name for name in rows[0] if not name.startswith("+-")]]
    lines.append(["---:"] * len(lines[0]))
    for row in rows:
        lines.append(cells := [])
        for name, value in row.items():
            text = value if isinstance(value, str) else f"{value:.3g}".replace("nan", "n/a")
            if name.startswith("+-"):
                cells[-1] += f" +- {text}"
            else:
                cells.append(text)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("n/a +- n/a", "n/a")


def load(run_dir: Path) -> Stored:
    """Read a run; ValueError if the folder holds none, or one that did not learn locations."""
    model, settings = load_run(run_dir)
    if "env_id" not in settings or settings.get("locations", "learned") != "learned":
        raise ValueError(f"{run_dir} must be a run of train/reinforce.py with learned locations")
    return Stored(model, settings["env_id"])


def main(config: Config) -> None:
    """Measure, print one Markdown table per run, and write the CSV file."""
    torch.set_num_threads(config.threads)
    runs = [load(run_dir) for run_dir in config.run_dirs]  # a bad one fails at once
    for name, value in describe_machine(commit()).items():
        print(f"- {name}: {value}")
    found: list[Row] = []
    for run_dir, stored in zip(config.run_dirs, runs, strict=True):
        rows = measure(stored, config)
        print(f"\n## {run_dir}, {stored.env_id}\n\n{table(rows)}", flush=True)
        found += [{"run": str(run_dir), **row} for row in rows]
    if config.csv is not None:
        with config.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    run(main, lambda arguments: parse_flags(Config, arguments, __doc__ or ""))
