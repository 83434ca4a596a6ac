"""Train the glimpse agent with Stable-Baselines3: `python train/sb3.py --algorithm ppo_history`.

PPO, A2C and RecurrentPPO learn from rewards, never from the label. PPO and A2C have no memory
or, with `_history`, see the episode's glimpses so far. Environment, log, checkpoints and
evaluation are those of `train/reinforce.py`; updates are Stable-Baselines3's.
"""

from __future__ import annotations

from train import startup  # noqa: F401 - before slow imports

# isort: split
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecMonitor
from torch import nn

from agents.diagnostics import behaviour
from agents.evaluation import Score, score_by_glimpse
from agents.runs.commands import Stop, parse_flags, run
from agents.runs.folder import RunLog, run_in_folder
from agents.sb3 import (
    GlimpseVecEnv,
    HistoryFeatures,
    HybridPolicy,
    VectorGlimpseHistory,
    evaluate_sb3,
    play_split_sb3,
    save_sb3,
)
from agents.sb3.recurrent import EpisodeBuffer, RecurrentHybridPolicy
from agents.sb3.training import ResumedVectorEnv, RunLogger, train_once, weights_of
from agents.training import (
    Training,
    check_finite,
    check_settings,
    check_validation_images,
    choose_device,
    cosine_rate,
    spread_seed,
)
from ram_env import GlimpseVectorEnv, find_task
from ram_env.tasks import Task
from train.keywords import AgentConfig, make_vector_env
from train.session import Session, describe
from train.stages import CurriculumEnv

ALGORITHMS = ("ppo", "a2c", "recurrent_ppo", "ppo_history", "a2c_history")


@dataclass(frozen=True)
class TrainingConfig(AgentConfig):
    """Settings that the scripts with Stable-Baselines3's algorithms share."""

    env_id: str = "MNISTGlimpse-v0"
    """Registered environment to train on."""
    device: str = "auto"
    """Device for the networks: cpu, cuda or cuda:N; auto is cpu, which is faster for small ones."""
    total_steps: int = 5_000_000
    """Env steps (glimpses) to train for, all lanes together; rounded up to whole updates."""
    reward: Literal["final", "dense", "log_score"] = "final"
    """Reward, whatever the id's own; dense and log_score reward every label, not only the last."""

    @property
    def task(self) -> Task:
        """The task, with its keywords and reward."""
        return replace(super().task, reward=self.reward)

    def __post_init__(self) -> None:
        """Check the shared values; scripts extend this with their own."""
        super().__post_init__()
        check_settings(self, {"at least 1": ("total_steps",)})
        check_env(self.env_id, **self.keywords)
        if "reward" in self.keywords:
            raise ValueError("env_kwargs must leave out reward: --reward sets it")
        _ = self.stages  # which refuses a bad curriculum


@dataclass(frozen=True)
class Config(TrainingConfig):
    """Settings of a run; every one is a flag."""

    algorithm: Literal[ALGORITHMS] = "ppo_history"  # pyright: ignore[reportInvalidTypeForm]
    """Algorithm; with _history, the observation holds the episode's glimpses so far."""
    num_envs: int = 128
    """Lanes: episodes played in parallel."""
    rollout_episodes: int | None = None
    """Episodes per lane and update; by default 8, or 4 for A2C. Fewer learn more slowly."""
    batch_episodes: int = 64
    """Minibatch size in episodes' worth of steps; recurrent_ppo keeps them whole. Not for A2C."""
    n_epochs: int = 4
    """Passes over the rollout in each update. Not for A2C."""
    learning_rate: float = 2e-3
    """Learning rate at the start."""
    decay: bool = True
    """Decay the learning rate along half a cosine to 0."""
    std: float = 0.22
    """Std of the location policy at the start, in units of half an image."""
    final_std: float = 0.05
    """Std of the location policy at the end; the decay is geometric."""
    learned_std: bool = False
    """Learn the std of x and of y, starting from --std; --final-std then has no effect."""
    hidden_size: int = 256
    """Units of the LSTM, or of the layer over the episode's glimpses. Not for ppo and a2c."""
    entropy_coef: float = 0.05
    """Weight of the entropy: the label's where it is scored, the location's before the end."""
    policy_coef: float = 1.0
    """Weight of the location's policy gradient relative to the label's."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation; 1 uses whole returns."""
    log_every: int = 10
    """Updates between two lines of metrics."""
    checkpoint_every: int = 50
    """Updates between two checkpoints; each validation has one too."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        counts = ("num_envs", "rollout_episodes", "batch_episodes", "n_epochs", "hidden_size")
        bounds = {"at least 1": counts, "positive": ("learning_rate", "std", "final_std")}
        bounds |= {"at least 0": ("entropy_coef", "policy_coef"), "in [0, 1]": ("gae_lambda",)}
        check_settings(self, bounds)
        if not self.learned_std and self.final_std > self.std:
            raise ValueError(f"final_std must be at most std={self.std}, got {self.final_std}")
        if self.update_episodes % self.batch:
            whole = f"the {self.update_episodes} episodes of an update"
            got = f"(num_envs x rollout_episodes), got {self.batch_episodes}"
            raise ValueError(f"batch_episodes must divide {whole} {got}")
        if self.batch * self.task.num_glimpses < 2:
            what = "num_envs x rollout_episodes" if self.is_a2c else "batch_episodes"
            raise ValueError(f"{what} must be at least 2 where an episode has one glimpse")

    @property
    def is_a2c(self) -> bool:
        """Whether the algorithm is A2C, which makes one step per update."""
        return self.algorithm.startswith("a2c")

    @property
    def lane_episodes(self) -> int:
        """Episodes that each lane plays for one update."""
        return self.rollout_episodes or (4 if self.is_a2c else 8)

    @property
    def batch(self) -> int:
        """Episodes of a minibatch."""
        return self.update_episodes if self.is_a2c else self.batch_episodes

    @property
    def update_episodes(self) -> int:
        """Episodes of an update, all lanes together."""
        return self.num_envs * self.lane_episodes

    @property
    def sees_history(self) -> bool:
        """Whether an observation holds the episode's glimpses so far."""
        return self.algorithm.endswith("_history")


@dataclass(frozen=True)
class Learner:
    """An algorithm of Stable-Baselines3 and what :func:`train` has to know of it."""

    model: BaseAlgorithm
    weights: nn.Module
    """The networks that it trains; a run stores the best ones."""
    optimizer: torch.optim.Optimizer
    """Its optimiser, or all of them as one."""
    player: PolicyPredictor
    """What acts in an evaluation."""
    schedule: Callable[[float], None] = lambda progress: None
    """Prepares an update, given the share of the updates that are done."""
    stored: Mapping[str, Any] = field(default_factory=dict)
    """What else a run depends on: see :class:`agents.training.Training`."""


def train_in_folder(make_learner: Callable[..., Learner], config: Any) -> None:
    """Train, or resume training, in the run folder."""
    run_in_folder(config, f"{config.env_id}_{config.algorithm}", partial(train, make_learner))


def train(make_learner: Callable[..., Learner], config: Any, log: RunLog, stop: Stop) -> None:
    """Train, validate on the way, and evaluate the best model once on the final split.

    ``make_learner`` makes the algorithm, given ``config``, lanes, a device and a seed. ``config``
    is a :class:`TrainingConfig` with an algorithm, lanes and what :func:`to_sb3` needs.
    """
    # Setup
    torch.set_num_threads(config.threads)
    torch.backends.cudnn.deterministic = True  # the same command gives the same bytes
    device = choose_device("cpu" if config.device == "auto" else config.device)
    make = partial(make_vector_env, config.env_id, reward=config.reward, **config.keywords)
    seeds = partial(spread_seed, config.seed, config.num_envs)
    make_stage = partial(make, config.num_envs, split="train")
    env = CurriculumEnv(make_stage, config.stages, lambda stage: seeds(stage=stage)[0])
    validation_env = make(500, split="validation", order="sequential")
    config.open_final_split()
    check_validation_images(config.validation_images, validation_env.num_images)
    update_steps = config.update_episodes * env.task.num_glimpses

    # Algorithm
    resumed_env = ResumedVectorEnv(env)
    lanes, validation_lanes = to_sb3(config, resumed_env), to_sb3(config, validation_env)
    lane_seeds, torch_seed = seeds()
    learner = make_learner(config, lanes, device, torch_seed)
    model, weights, player = learner.model, learner.weights, learner.player
    model.set_logger(RunLogger(log))
    lanes.seed(lane_seeds)  # in place of the algorithm's
    training = Training(weights, learner.optimizer, env, learner.stored)
    how = {"sampled": config.validate_sampled, "on_batch": stop.check}
    judge = partial(validate, player, validation_lanes, config.validation_images, **how)
    num_updates = math.ceil(config.total_steps / update_steps)
    said = update_steps, "env steps"
    session = Session(config, log, stop, training, judge, num_updates, update_steps, said)
    packages = {name: version(name) for name in ("stable-baselines3", "sb3-contrib")}
    describe(config, log, env, device, weights, **packages)
    log.say(f"{config.algorithm}: {update_steps} steps an update")
    resumed_env.restored = session.resume()
    model.num_timesteps = getattr(log.checkpoint, "step", 0) * update_steps

    # Updates
    for update in session.updates():
        if (begun := env.advance(update / num_updates)) is not None:
            resumed_env.restored, model._last_obs = begun, None  # so that the next rollout resets
            log.say(f"{model.num_timesteps} env steps: {env}")
        learner.schedule(update / num_updates)
        np.random.seed([config.seed % 2**32, update])  # noqa: NPY002 - draws Stable-Baselines3's batches
        train_once(model, update_steps)
        check_finite(update, dict(weights.named_parameters()))
        training.move_mean(0.0)  # the policy itself is evaluated, not a running mean
        correct = [episode["correct"] for episode in model.ep_info_buffer or ()]  # of this update
        log.status((update + 1) * config.update_episodes, float(np.mean(correct)))
        if session.logs(update):
            model.dump_logs()  # pyright: ignore[reportAttributeAccessIssue] - on- and off-policy ones have it

    # Result
    weights.load_state_dict(training.best)
    save_sb3(model, log.folder / "best.zip")
    session.finish(make, partial(evaluate, config, player, stop))


def validate(
    model: PolicyPredictor,
    lanes: GlimpseVecEnv,
    num_images: int | None,
    updates_done: int,
    *,
    sampled: bool,
    on_batch: Callable[[], None] = lambda: None,
) -> tuple[Score, dict[str, float]]:
    """Return the score on the first images, or on all, and the metrics to log."""
    counted: int = num_images or lanes.get_attr("num_images")[0]
    play = partial(play_split_sb3, model, lanes, counted, on_batch=on_batch)
    beliefs, task = play(), lanes.get_attr("task")[0]
    score = score_by_glimpse(beliefs)[-1]
    metrics = {"eval/error": score.error, **behaviour(beliefs, task)}
    if sampled:
        metrics["eval/error_sampled"] = score_by_glimpse(play(deterministic=False))[-1].error
    return score, metrics


def evaluate(
    config: Any, player: PolicyPredictor, stop: Stop, env: GlimpseVectorEnv
) -> tuple[Score, dict[str, float]]:
    """Return the score on a whole split, and no further numbers."""
    return evaluate_sb3(player, to_sb3(config, env), env.num_images, on_batch=stop.check), {}


def check_env(env_id: str, **keywords: Any) -> None:
    """Raise a ValueError unless actions are a location and class scores in one ``Box``."""
    task = find_task(env_id, **keywords)
    if task.action_format != "box" or task.allow_stop:
        raise ValueError(
            "the environment's actions must be a Box of x, y and class scores, without allow_stop: "
            f"{env_id} has action_format={task.action_format!r} and allow_stop={task.allow_stop}"
        )


def to_sb3(config: Any, env: VectorEnv) -> GlimpseVecEnv:
    """Adapt an environment, with the episode so far as observation if the algorithm uses it."""
    if config.sees_history:
        env = VectorGlimpseHistory(env)
    return GlimpseVecEnv(env)


def make_learner(config: Config, lanes: GlimpseVecEnv, device: torch.device, seed: int) -> Learner:
    """Make the algorithm, with the schedules of the learning rate and of the std.

    It doesn't discount returns, since all episodes have the same length.
    """
    env: Any = lanes.env.unwrapped
    policy: dict[str, Any] = {
        "num_classes": env.num_classes,
        "initial_std": config.std,
        "label_counts": "last" if config.reward == "final" else "every",
        "location_weight": config.policy_coef,
    }
    if config.sees_history:
        policy["features_extractor_class"] = HistoryFeatures
        policy["features_extractor_kwargs"] = {"num_features": config.hidden_size}
    settings: dict[str, Any] = {
        "env": VecMonitor(lanes, info_keywords=("correct",)),
        "learning_rate": config.learning_rate,
        "n_steps": config.lane_episodes * env.task.num_glimpses,
        "gamma": 1.0,
        "gae_lambda": config.gae_lambda,
        "ent_coef": config.entropy_coef,
        "normalize_advantage": True,
        "stats_window_size": config.update_episodes,  # the newest rollout
        "policy_kwargs": policy,
        "seed": seed % 2**32,  # the limit of NumPy's global generator
        "device": device,
    }
    batches = {"batch_size": config.batch * env.task.num_glimpses, "n_epochs": config.n_epochs}
    if config.is_a2c:
        model = A2C(HybridPolicy, use_rms_prop=False, **settings)
    elif config.algorithm == "recurrent_ppo":
        policy["lstm_hidden_size"] = config.hidden_size
        model = RecurrentPPO(RecurrentHybridPolicy, **batches, **settings)
        model.rollout_buffer = EpisodeBuffer.of(model)
    else:
        model = PPO(HybridPolicy, **batches, **settings)
    log_std: Any = model.policy.log_std.requires_grad_(config.learned_std)

    def schedule(progress: float) -> None:
        if config.decay:
            rate = cosine_rate(config.learning_rate, progress)
            model.lr_schedule = lambda _: rate
        if not config.learned_std:
            std = config.std * (config.final_std / config.std) ** progress
            log_std.fill_(math.log(std))

    return Learner(model, weights_of(model.policy), model.policy.optimizer, model, schedule)


main = partial(train_in_folder, make_learner)
parse = partial(parse_flags, Config)


if __name__ == "__main__":
    run(main, parse)
