"""The settings of train/reinforce.py, in groups that check themselves; every one is a flag."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from agents.controls import CONTROLS
from agents.distributed import num_ranks
from agents.estimators import ESTIMATORS, Estimator, Weights
from agents.ram import CORES, RAMConfig
from agents.runs.commands import expert, given_flags, parse_flags
from agents.runs.initial import initial_flags
from agents.stopping import STOP_HIDDEN, learn_to_stop
from agents.training import check_settings, check_used
from train.keywords import AgentConfig

PRESETS = Path(__file__).parent / "presets"
"""Folder of the files of settings that ``--preset`` takes by name."""
RANGES = {
    "at least 1": ("total_episodes", "num_envs", "num_rollouts", "replay_size"),
    "positive": (
        *("std", "final_std", "learning_rate", "max_log_odds", "max_grad_norm"),
        "label_temperature",
    ),
    "at least 0": (
        *("shift", "glimpse_cost", "state_cap", "discount", "policy_coef", "baseline_coef"),
        *("entropy_coef", "weight_decay", "location_rate", "muon_rate", "replay_steps"),
    ),
    "in [0, 1)": ("ema", "beta2"),
}


@dataclass(frozen=True)
class StartConfig(AgentConfig):
    """Where a run starts from."""

    preset: str | None = None
    """Settings in place of the defaults, which other flags override: a TOML file or a name."""
    initial: str | None = None
    """Weights to start from: the name of a published agent, such as cluttered, or a run folder. Its
    model's kind and sizes are then the defaults."""


@dataclass(frozen=True)
class EpisodeConfig(StartConfig):
    """What an episode of training is."""

    locations: Literal[CONTROLS] = "learned"  # pyright: ignore[reportInvalidTypeForm]
    """Who chooses where to look: the learned policy, or a rule in its place."""
    shift: int = 0
    """Largest random shift of each training image along x and along y, in pixels."""
    glimpse_cost: float = 0.0
    """Price of a glimpse, in rewards. Above 0 the agent also learns when to stop."""


@dataclass(frozen=True)
class ModelConfig(EpisodeConfig):
    """What the agent is made of."""

    core: Literal[tuple(CORES)] = "gru"  # pyright: ignore[reportInvalidTypeForm]
    """Type of the recurrent core. The paper's is rnn."""
    recurrent_init: Literal["identity", "uniform"] = expert("identity")
    """Initial recurrent weights of an rnn core: the identity (ours), or PyTorch's uniform noise."""
    hidden_size: int = 160
    """Units of the recurrent core. The paper's has 256."""
    see_time: bool = False
    """Show the core the share of glimpses so far. The paper's core doesn't see it."""
    state_cap: float = expert(0.0)
    """Cap on the activations of an rnn core, against divergence. 0 disables it."""
    conv_features: int = 32
    """Channels of the first of two convolutions over the glimpse. 0 leaves both out (the paper)."""
    location: Literal["offset", "absolute"] = expert("offset")
    """What the location network predicts: an offset from the present location, or a location."""
    location_hidden: int = expert(128)
    """Units of a hidden layer in the location network. 0 leaves it out, as in the paper."""
    location_gradient: Literal["estimator", "core", "stopped"] = expert("estimator")
    """Whether the location network's gradient reaches the core; the estimator decides."""
    std: float = 0.2
    """Standard deviation of the location policy at the start, in units of half an image."""
    final_std: float | None = 0.03
    """Standard deviation at the end; it falls geometrically. None keeps std, as in the paper."""
    learned_std: bool = expert(False)
    """Learn the standard deviations of x and y, from std or those of --initial on."""
    bf16: bool = True
    """Compute the networks in bfloat16 during training if the hardware has it, which is faster."""
    graph: bool = False
    """Run each update as one CUDA graph (faster on a GPU; no effect on the CPU)."""


@dataclass(frozen=True)
class LearningConfig(ModelConfig):
    """How the agent learns."""

    total_episodes: int = 700_000
    """Number of training episodes. The schedules end with the last one."""
    num_envs: int = 512
    """Number of episodes played in parallel, over all processes: the batch of one update."""
    estimator: Literal[tuple(ESTIMATORS)] = "dense_log_odds"  # pyright: ignore[reportInvalidTypeForm]
    """How the agent learns from an episode: see docs/estimators.md."""
    num_rollouts: int = 1
    """How often each image is played; a divisor of num_envs. leave_one_out needs at least 2."""
    optimizer: Literal["adamw", "muon", "sgd"] = "muon"
    """Muon for matrices and AdamW for the rest, AdamW alone, or the paper's SGD, momentum 0.9."""
    learning_rate: float = 2e-3
    """Learning rate at the start. It falls to 0 along half a cosine."""
    location_rate: float = expert(1.0)
    """Learning rate of the location network, in multiples of the others'."""
    muon_rate: float = expert(3.0)
    """Learning rate of the matrices that Muon moves, in multiples of the others'."""
    label_temperature: float = expert(1.0)
    """Temperature of the softmax from which the outcome estimators sample labels."""
    replay_steps: int = 0
    """Further steps of the classifier per update, each on an old rollout (outcome estimators)."""
    replay_size: int = expert(200)
    """Number of newest rollouts that the replay holds, of num_envs episodes each."""
    discount: float = 0.5
    """Weight of each later glimpse in a location's return, relative to the one before (outcome and
    most dense estimators). Above 1, the last glimpses count most."""
    max_log_odds: float = expert(9.0)
    """Cap on the log-odds of the label in a location's return (dense_log_odds)."""
    normalise_by_step: bool = expert(False)
    """Normalise the return of each glimpse's location on its own (estimators that normalise)."""
    policy_coef: float = 0.2
    """Weight of the location policy's loss relative to the classifier's (dense_exact: always 1)."""
    baseline_coef: float = expert(0.5)
    """Weight of the baseline's loss."""
    entropy_coef: float = 0.01
    """Weight of the entropy of location and label (reward_only estimators), and of stopping."""
    max_grad_norm: float = expert(1.0)
    """Norm to which longer gradients are clipped; 1e9 clips none."""
    weight_decay: float = expert(0.0)
    """Weight decay times the learning rate: decoupled, but with sgd a part of the gradient."""
    beta2: float = expert(0.999)
    """AdamW's decay of the mean squared gradient. Lower values react faster to large gradients."""
    ema: float = expert(0.999)
    """Decay of the running mean of the weights. The mean is what is validated and stored."""


@dataclass(frozen=True)
class Config(LearningConfig):
    """Settings of a run."""

    def __post_init__(self) -> None:
        """Check every value, and what goes with what."""
        super().__post_init__()
        check_settings(self, RANGES)
        row, task, name, stops = self._row, self.task, self.estimator, self.price is not None
        stages = [{}, *(stage.env for stage in self.stages)]
        side = min(replace(task, **changes).side for changes in stages)
        lanes, rollouts = self.num_envs, self.num_rollouts
        normalised = lanes * (1 if self.normalise_by_step else task.num_glimpses - 1)
        binary = task.reward == "final" and not task.glimpse_cost
        rewards = ("final", "dense") if row.sees_label and not stops else ("final",)
        last_std = 0.0 if self.learned_std else self.final_std or 0.0
        refused = [
            (self.graph and num_ranks() > 1, "graph must be off under torchrun: it is untested"),
            (self.shift and self.locations == "oracle", "shift must be 0 with locations oracle"),
            (self.shift >= side, f"shift must be less than the smallest canvas's {side} pixels"),
            (last_std > self.std, f"final_std must be at most std={self.std}, got {last_std}"),
            (lanes % rollouts, f"num_rollouts must divide num_envs={lanes}, got {rollouts}"),
            (row.needs_rollouts and rollouts < 2, f"num_rollouts must be at least 2 for {name}"),
            (task.glimpse_cost and self.glimpse_cost, "glimpse_cost must be 0: the task has one"),
            (stops and not row.sees_label, f"{name} must see the label to learn when to stop"),
            (
                task.num_glimpses < 2 and row.objective != "sampled reward",
                f"num_glimpses must be at least 2 for {name}, which compares glimpses",
            ),
            (row.normalises and normalised < 2, f"num_envs must be at least 2 for {name} here"),
            (
                row.binary_reward and not binary,
                f"{name} needs a reward of 0 or 1: reward 'final' and no glimpse_cost",
            ),
            (
                task.reward not in rewards,
                f"reward must be {' or '.join(rewards)} for {name} here, got {task.reward}",
            ),
        ]
        for applies, message in refused:
            if applies:
                raise ValueError(message)
        check_used(self, self.users)

    @property
    def users(self) -> dict[str, tuple[bool, str]]:
        """By setting that not every run uses: whether this one does, and what uses it."""
        row, name = self._row, self.estimator
        has_entropy = row.objective == "sampled reward" or self.price is not None
        return {
            "state_cap": (self.core == "rnn", "core rnn"),
            "final_std": (not self.learned_std, "a std that isn't learned"),
            "muon_rate": (self.optimizer == "muon", "optimizer muon"),
            "beta2": (self.optimizer != "sgd", "optimizer muon or adamw"),
            "replay_size": (self.replay_steps > 0, "replay_steps"),
            "replay_steps": (row.binary_reward, "an outcome estimator"),
            "label_temperature": (row.binary_reward, "an outcome estimator"),
            "max_log_odds": (name == "dense_log_odds", "estimator dense_log_odds"),
            "discount": (row.discounts, "an estimator that discounts"),
            "policy_coef": (row.weighted, "another estimator than dense_exact"),
            "baseline_coef": (row.learns_baseline, "an estimator with a learned baseline"),
            "normalise_by_step": (row.normalises, "an estimator that normalises"),
            "entropy_coef": (has_entropy, "a reward_only estimator or a stop action"),
        }

    @property
    def price(self) -> float | None:
        """Price of a glimpse where the agent learns to stop, None where it doesn't."""
        learns = self.task.allow_stop or self.glimpse_cost > 0
        return (self.glimpse_cost or self.task.glimpse_cost) if learns else None

    @property
    def _row(self) -> Estimator:
        return ESTIMATORS[self.estimator]

    @property
    def row(self) -> Estimator:
        """The estimator; where the agent learns to stop, with the loss of that."""
        return learn_to_stop(self._row, self.price)

    @property
    def weights(self) -> Weights:
        """The estimator's weights."""
        return Weights(**{name: getattr(self, name) for name in Weights.__dataclass_fields__})

    @property
    def temperature(self) -> float:
        """Temperature of the answers in training; 0 takes the likeliest."""
        return self.label_temperature if self._row.samples_label else 0.0

    @property
    def num_updates(self) -> int:
        """Updates of the weights: as many as the episodes fill."""
        return math.ceil(self.total_episodes / self.num_envs)

    @property
    def summary(self) -> str:
        """How the agent learns, in a line."""
        how = "; a GPU would run each update as one graph" if self.graph else ""
        size = f"{self.total_episodes} episodes, {self.num_envs} per update{how}"
        return f"estimator {self.estimator}, {self.locations} locations: {size}"

    def scheduled_std(self, update: int) -> float:
        """Return the standard deviation of the location policy in an update."""
        ratio = (self.final_std or self.std) / self.std
        return self.std * ratio ** (update / self.num_updates)

    def sizes(self, glimpse_shape: tuple[int, int, int], num_classes: int) -> RAMConfig:
        """Return the sizes of the agent for glimpses (P, G, G) and K classes."""
        own = ("hidden_size", "core", "state_cap", "conv_features", "location", "location_hidden")
        reaches = {"estimator": self._row.location_reaches_core, "core": True, "stopped": False}
        return RAMConfig(
            glimpse_shape,
            num_classes,
            identity_core=self.core == "rnn" and self.recurrent_init == "identity",
            location_reaches_core=reaches[self.location_gradient],
            num_glimpses=self.task.num_glimpses if self.see_time else 0,
            initial_std=self.std if self.learned_std else 0.0,
            stop_hidden=0 if self.price is None else STOP_HIDDEN,
            **{name: getattr(self, name) for name in own},
        )


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line: a run's, or a preset's and then the other flags.

    With ``--initial``, flags of that agent's kind and sizes come before the given ones.
    """
    given = given_flags(arguments)
    if (initial := given.get("--initial", "None")) != "None" and "--resume" not in given:
        arguments = [*initial_flags(initial), *arguments]
    what = "Train the recurrent attention model with REINFORCE."
    return parse_flags(Config, arguments, presets=PRESETS, description=what)
