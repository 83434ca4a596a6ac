"""Train the glimpse agent with Stable-Baselines3: `python train/sb3.py --algorithm ppo_history`.

PPO and A2C without memory or with the episode's glimpses so far in the observation, and
RecurrentPPO. They see rewards only, never the label. Environment, log, checkpoints and
evaluation are those of `train/reinforce.py`. The paragraphs of `train` are, in order: setup,
algorithm, callback, result; what happens in an update is Stable-Baselines3's.

Dimension key:
    N: lanes of the environment
    T: glimpses an episode
"""

from __future__ import annotations

import agents.runs.extras  # noqa: F401 - reports a missing package in one line

# isort: split
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium.vector import VectorEnv
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from agents.baselines import count_parameters
from agents.diagnostics import behaviour, sizes_of
from agents.evaluation import score_by_glimpse
from agents.runs.commands import Stop, read_resumed, run
from agents.runs.folder import RunLog, run_in_folder
from agents.sb3.checkpoints import save_sb3
from agents.sb3.evaluation import evaluate_sb3, play_split_sb3
from agents.sb3.history import HistoryFeatures, VectorGlimpseHistory
from agents.sb3.policies import HybridPolicy, RecurrentHybridPolicy
from agents.sb3.recurrent import EpisodeBuffer
from agents.sb3.training import GoingOn, cosine, learn, make_logger, weights_of
from agents.sb3.vec_env import GlimpseVecEnv
from agents.training import (
    Training,
    check_finite,
    check_validation_images,
    choose_device,
    spread_seed,
    validation_updates,
)
from ram_env import GlimpseVectorEnv, find_task

ALGORITHMS = ("ppo", "a2c", "recurrent_ppo", "ppo_history", "a2c_history")


@dataclass(frozen=True)
class Config:
    """Settings of a run; every one is a flag."""

    algorithm: Literal[ALGORITHMS] = "ppo_history"  # pyright: ignore[reportInvalidTypeForm]
    """Who learns; _history puts all glimpses of the episode so far into the observation."""
    env_id: str = "MNISTGlimpse-v0"
    """A registered environment."""
    total_steps: int = 5_000_000
    """Env steps, one a glimpse, of all lanes together; the schedules below end with the last."""
    num_envs: int = 128
    """Episodes played side by side."""
    seed: int = 0
    """Of everything: weights, exploration, images and places."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes a GPU if there is one. The environment is NumPy's."""
    threads: int = os.cpu_count() or 1
    """CPU threads for the networks."""
    run_dir: Path | None = None
    """Where the run is written; by default a new folder below runs/."""
    resume: Path | None = None
    """Folder of a run to go on with, with its own settings; takes no other flag."""
    final_split: Literal["test", "validation", "none"] = "test"
    """The split for the last line; test is looked at once, by the best model on validation."""
    reward: Literal["final", "dense", "log_score"] = "final"
    """Of the environment. All but final pay every label, and so make every label count. A sampled
    label has no class scores but +1 and -1: log_score then only is dense on another scale."""
    rollout_episodes: int | None = None
    """Episodes that each lane plays for one update; by default 8, for A2C 4. Few learn slowly."""
    batch_episodes: int = 64
    """Episodes' worth of steps in a minibatch; whole ones for recurrent_ppo. Not for A2C."""
    n_epochs: int = 4
    """Times that an update passes over its rollout. Not for A2C."""
    learning_rate: float = 2e-3
    """At the start."""
    decay: bool = True
    """Let the learning rate fall to 0 along half a cosine; else it stays. An update has the rate of
    its end, as Stable-Baselines3 counts: the last has 0, and a run of one update learns nothing."""
    std: float = 0.22
    """Of the location policy at the start, in units of half an image."""
    final_std: float = 0.05
    """At the end; the std falls geometrically."""
    learned_std: bool = False
    """Learn the std of x and of y from its start on, in place of that schedule."""
    hidden_size: int = 256
    """Units of the LSTM, or of the layer over the episode's glimpses."""
    entropy_coef: float = 0.05
    """Weight of the entropy, of the label's where it counts and of the location's elsewhere."""
    gae_lambda: float = 0.95
    """Of the advantages; 1 takes the whole return, lower ones lean on the value."""
    num_validations: int = 12
    """How often it is validated, the end included."""
    validation_images: int | None = None
    """Validate on so many images, the first of the split; by default on all."""
    validate_sampled: bool = False
    """Validate the policy that samples, too."""
    keep: Literal["best", "last"] = "best"
    """The weights that are stored and judged in the end: the best on validation, or the last."""
    log_every: int = 10
    """Updates between two lines of metrics."""
    checkpoint_every: int = 50
    """Updates between two checkpoints; there is one before each validation, too."""

    def __post_init__(self) -> None:
        """Check every value."""
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {ALGORITHMS}, got {self.algorithm!r}")
        check_env(self.env_id)
        for name in (
            *("total_steps", "num_envs", "threads", "rollout_episodes", "batch_episodes"),
            *("n_epochs", "hidden_size", "num_validations", "validation_images"),
            *("log_every", "checkpoint_every"),
        ):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.entropy_coef < math.inf:
            raise ValueError(f"entropy_coef must be at least 0, got {self.entropy_coef}")
        if not 0 <= self.gae_lambda <= 1:
            raise ValueError(f"gae_lambda must be in [0, 1], got {self.gae_lambda}")
        if not 0 < self.final_std <= self.std < math.inf:
            raise ValueError(
                f"0 < final_std <= std must hold, got final_std={self.final_std}, std={self.std}"
            )
        if not 0 <= self.seed < 2**32:  # NumPy's global generator takes no more
            raise ValueError(f"seed must be in 0..{2**32 - 1}, got {self.seed}")
        episodes = self.num_envs * self.lane_episodes
        if not self.algorithm.startswith("a2c") and episodes % self.batch_episodes:
            raise ValueError(
                f"batch_episodes must divide the {episodes} episodes of an update "
                f"(num_envs x rollout_episodes), got {self.batch_episodes}"
            )

    @property
    def lane_episodes(self) -> int:
        """Episodes that each lane plays for one update."""
        return self.rollout_episodes or (4 if self.algorithm.startswith("a2c") else 8)


def main(config: Config) -> None:
    """Train, or go on training, in the run folder."""
    run_in_folder(config, f"{config.env_id}_{config.algorithm}", train)


def train(config: Config, log: RunLog, stop: Stop) -> None:
    """Train, validate on the way, and judge the best model once on the final split."""
    # Setup
    torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    lane_seeds, torch_seed = spread_seed(config.seed, config.num_envs)
    env = make_env(config, config.num_envs, split="train")
    validation_env = make_env(config, 500, split="validation", order="sequential")
    check_validation_images(config.validation_images, validation_env.num_images)
    steps = config.num_envs * config.lane_episodes * env.task.num_glimpses  # of an update
    num_updates = math.ceil(config.total_steps / steps)
    validations = validation_updates(num_updates, config.num_validations)

    # Algorithm
    start = GoingOn(env)
    lanes = to_sb3(config, start, env.task.num_glimpses)
    model = make_model(config, VecMonitor(lanes), env.task.num_glimpses, device, torch_seed)
    model.set_logger(make_logger(log))
    lanes.seed(lane_seeds)  # in place of the algorithm's
    policy = model.policy
    assert isinstance(policy, HybridPolicy)
    policy.log_std.requires_grad_(config.learned_std)
    weights = weights_of(policy)
    training = Training(weights, policy.optimizer, env)
    log.note_facts({"data": env.data_source, "sample": env.data_is_sample, "device": str(device)})
    log.note_facts({"parameters": count_parameters(weights)})
    log.note_facts({name: version(name) for name in ("stable-baselines3", "sb3-contrib")})
    log.say(f"device {device}, {config.threads} threads, seed {config.seed}, run {log.folder}")
    log.say(env.data_source)
    log.say(f"{config.algorithm}: {count_parameters(weights)} parameters, {steps} steps an update")

    def judged(env: GlimpseVectorEnv, num_images: int | None = None) -> dict[str, Any]:
        lanes = to_sb3(config, env, env.task.num_glimpses)
        images = num_images or env.num_images
        return {"model": model, "env": lanes, "num_images": images, "on_batch": stop.check}

    def validate(env_steps: int) -> None:
        with log.judging():
            beliefs = play_split_sb3(**judged(validation_env, config.validation_images))
            score = score_by_glimpse(beliefs)[-1]
            metrics = {"eval/error": score.error, **behaviour(beliefs, **sizes_of(validation_env))}
            if config.validate_sampled:
                sampled = evaluate_sb3(
                    **judged(validation_env, config.validation_images), deterministic=False
                )
                metrics["eval/error_sampled"] = sampled.error
        log.scalars(env_steps, metrics)
        log.say(f"{env_steps} env steps: validation {score}, {log.time_left}")
        if training.is_best(score.error, always=config.keep == "last"):
            log.save_weights(training.best)

    if log.checkpoint is not None:
        start.shown = training.unpack(log.checkpoint)
        model.num_timesteps = log.checkpoint.step * steps
        if log.checkpoint.step in validations:
            validate(model.num_timesteps)

    # Callback
    def before(update: int) -> None:
        np.random.seed([config.seed, update])  # noqa: NPY002 - shuffles Stable-Baselines3's batches
        if not config.learned_std:
            std = config.std * (config.final_std / config.std) ** (update / num_updates)
            policy.log_std.fill_(math.log(std))

    def after(done: int) -> None:
        check_finite(done - 1, dict(weights.named_parameters()))
        if done % config.log_every == 0 or done == num_updates:
            model.dump_logs()
        training.move_mean(0.0)  # what is judged is the policy itself
        if done % config.checkpoint_every == 0 or done in validations or stop.requested:
            log.save_checkpoint(done, done * steps, *training.pack())
        stop.check()
        if done in validations:
            validate(done * steps)

    learn(model, num_updates * steps, log.progress(num_updates), before, after)

    # Result
    weights.load_state_dict(training.best)
    save_sb3(model, log.folder / "best.zip")
    score, data = None, env.data_source
    if config.final_split != "none":
        final_env = make_env(config, 500, split=config.final_split, order="sequential")
        score, data = evaluate_sb3(**judged(final_env)), final_env.data_source
        log.say(data)
    log.result(config.final_split, score, data)


def check_env(env_id: str) -> None:
    """Raise a ValueError unless actions are a location and class scores in one ``Box``."""
    task = find_task(env_id)
    if task.action_format != "box" or task.allow_stop:
        raise ValueError(
            "env_id must name a glimpse environment whose actions are a Box of x, y and class "
            f"scores, without allow_stop, such as MNISTGlimpse-v0, got {env_id!r}"
        )


def make_env(config: Config, num_envs: int, **keywords: Any) -> GlimpseVectorEnv:
    """Make the environment, in NumPy."""
    env = gymnasium.make_vec(config.env_id, num_envs=num_envs, reward=config.reward, **keywords)
    assert isinstance(env, GlimpseVectorEnv)
    return env


def to_sb3(config: Config, env: VectorEnv, num_glimpses: int) -> GlimpseVecEnv:
    """Show Stable-Baselines3 an environment, with the episode so far if the algorithm wants it."""
    if config.algorithm.endswith("_history"):
        env = VectorGlimpseHistory(env, num_glimpses)
    return GlimpseVecEnv(env)


def make_model(
    config: Config, env: VecEnv, num_glimpses: int, device: torch.device, seed: int
) -> OnPolicyAlgorithm:
    """Make the algorithm; returns are not discounted, as an episode's length is fixed."""
    policy: dict[str, Any] = {
        "initial_std": config.std,
        "label_counts": "last" if config.reward == "final" else "every",
    }
    if config.algorithm.endswith("_history"):
        policy["features_extractor_class"] = HistoryFeatures
        policy["features_extractor_kwargs"] = {"num_features": config.hidden_size}
    rate = config.learning_rate
    settings: dict[str, Any] = {
        "learning_rate": cosine(rate) if config.decay else rate,
        "n_steps": config.lane_episodes * num_glimpses,
        "gamma": 1.0,
        "gae_lambda": config.gae_lambda,
        "ent_coef": config.entropy_coef,
        "normalize_advantage": True,
        "stats_window_size": config.num_envs * config.lane_episodes,  # the newest rollout's
        "policy_kwargs": policy,
        "seed": seed % 2**32,  # more is too much for NumPy's global generator
        "device": device,
    }
    if config.algorithm.startswith("a2c"):
        return A2C(HybridPolicy, env, use_rms_prop=False, **settings)
    settings |= {"batch_size": config.batch_episodes * num_glimpses, "n_epochs": config.n_epochs}
    if config.algorithm != "recurrent_ppo":
        return PPO(HybridPolicy, env, **settings)
    policy["lstm_hidden_size"] = config.hidden_size
    model = RecurrentPPO(RecurrentHybridPolicy, env, **settings)
    model.rollout_buffer = EpisodeBuffer.of(model)
    return model


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line, or of the run that it resumes."""
    return read_resumed(Config, arguments) or tyro.cli(
        Config, args=arguments, description=(__doc__ or "").splitlines()[0]
    )


if __name__ == "__main__":
    run(main, parse)
