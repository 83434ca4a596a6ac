"""Train the glimpse agent with Stable-Baselines3: `python train/sb3.py --algorithm ppo_history`.

All learn from rewards, never from the label. PPO and A2C have no memory or, with `_history`, see
the episode's glimpses so far, as SAC and CrossQ do. These two learn from a replay of the last
100,000 env steps, one gradient step per 8 env steps; a checkpoint holds the replay, 1.4 GB on
`ClutteredMNISTGlimpse-v0`, and the newest three are kept. Environment, log, checkpoints and
evaluation are those of `train/reinforce.py`; updates are Stable-Baselines3's.
"""

from __future__ import annotations

from train import startup  # noqa: F401 - before slow imports

# isort: split
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.type_aliases import PolicyPredictor

from agents.diagnostics import behaviour
from agents.evaluation import Score, score_by_glimpse
from agents.runs.commands import Stop, parse_flags, run
from agents.runs.folder import RunLog, run_in_folder
from agents.sb3 import (
    GlimpseVecEnv,
    VectorGlimpseHistory,
    evaluate_sb3,
    play_split_sb3,
    save_sb3,
)
from agents.sb3.training import ResumedVectorEnv, RunLogger, train_once
from agents.training import (
    Training,
    check_finite,
    check_settings,
    check_used,
    check_validation_images,
    choose_device,
    spread_seed,
)
from ram_env import find_task
from ram_env.tasks import Task
from train.algorithms import OFF_POLICY, ON_POLICY, make_learner
from train.curriculum import CurriculumEnv
from train.keywords import AgentConfig, make_vector_env
from train.session import NUM_ENVS, Session, describe


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of a run; every one is a flag."""

    algorithm: Literal[(*ON_POLICY, *OFF_POLICY)] = "ppo_history"  # pyright: ignore[reportInvalidTypeForm]
    """Algorithm; with _history, the observation holds the episode's glimpses so far."""
    env_id: str = "MNISTGlimpse-v0"
    """Registered environment to train on."""
    device: str = "auto"
    """Device for the networks: cpu, cuda or cuda:N; auto is cpu, which is faster for small ones."""
    total_steps: int = 5_000_000
    """Env steps (glimpses) to train for, all lanes together; rounded up to whole updates."""
    reward: Literal["final", "dense", "log_score"] = "final"
    """Reward, whatever the id's own; dense and log_score reward every label, not only the last."""
    num_envs: int = 128
    """Lanes: episodes played in parallel."""
    rollout_episodes: int | None = None
    """Episodes per lane and update; by default 8, or 4 for A2C. Fewer learn more slowly."""
    batch_episodes: int = 64
    """Minibatch size in episodes' worth of steps; recurrent_ppo keeps them whole. Not for A2C."""
    n_epochs: int = 4
    """Passes over the rollout in each update. Not for A2C."""
    learning_rate: float = 2e-3
    """Learning rate at the start. It falls to 0 along half a cosine."""
    std: float = 0.22
    """Std of the location policy at the start, in units of half an image."""
    final_std: float = 0.05
    """Std of the location policy at the end; the decay is geometric."""
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
        check_env(self.env_id, **self.keywords)
        if "reward" in self.keywords:
            raise ValueError("env_kwargs must leave out reward: --reward sets it")
        _ = self.stages  # which refuses a bad curriculum
        counts = ("total_steps", "num_envs", "rollout_episodes", "batch_episodes", "n_epochs")
        bounds = {"at least 1": (*counts, "hidden_size"), "in [0, 1]": ("gae_lambda",)}
        bounds |= {"positive": ("learning_rate", "std", "final_std")}
        bounds |= {"at least 0": ("entropy_coef", "policy_coef")}
        check_settings(self, bounds)
        own = ("batch_episodes", "n_epochs", "gae_lambda", *bounds["positive"])
        on_policy = self.algorithm in ON_POLICY, "PPO or A2C"
        check_used(self, dict.fromkeys((*own, *bounds["at least 0"]), on_policy))
        if self.final_std > self.std:
            raise ValueError(f"final_std must be at most std={self.std}, got {self.final_std}")
        episodes, batch = self.update_episodes, self.batch
        if episodes % batch or batch * self.task.num_glimpses < 2:
            raise ValueError(
                "batch_episodes must divide num_envs x rollout_episodes, and hold two steps, got "
                f"{batch} of {episodes} episodes"
            )

    @property
    def task(self) -> Task:
        """The task, with its keywords and reward."""
        return replace(super().task, reward=self.reward)

    @property
    def lane_episodes(self) -> int:
        """Episodes that each lane plays for one update."""
        return self.rollout_episodes or (4 if self.algorithm.startswith("a2c") else 8)

    @property
    def update_episodes(self) -> int:
        """Episodes of an update, all lanes together."""
        return self.num_envs * self.lane_episodes

    @property
    def batch(self) -> int:
        """Episodes of a minibatch; all of an update's where the algorithm has none of these."""
        has_batches = self.algorithm in ("ppo", "ppo_history", "recurrent_ppo")
        return self.batch_episodes if has_batches else self.update_episodes

    @property
    def sees_history(self) -> bool:
        """Whether an observation holds the episode's glimpses so far."""
        return self.algorithm in OFF_POLICY or self.algorithm.endswith("_history")


def main(config: Config) -> None:
    """Train, or resume training, in the run folder."""
    run_in_folder(config, f"{config.env_id}_{config.algorithm}", train)


def train(config: Config, log: RunLog, stop: Stop) -> None:
    """Train, validate on the way, and evaluate the best model once on the final split."""
    # Setup
    torch.set_num_threads(config.threads)
    torch.backends.cudnn.deterministic = True  # the same command gives the same bytes
    device = choose_device("cpu" if config.device == "auto" else config.device)
    make = partial(make_vector_env, config.env_id, reward=config.reward, **config.keywords)
    seeds = partial(spread_seed, config.seed, config.num_envs)
    make_stage = partial(make, config.num_envs, split="train")
    env = CurriculumEnv(make_stage, config.stages, lambda stage: seeds(stage=stage)[0])
    validation_env = make(NUM_ENVS, split="validation", order="sequential")
    config.open_final_split()
    check_validation_images(config.validation_images, validation_env.num_images)
    update_steps = config.update_episodes * env.task.num_glimpses

    # Algorithm
    resumed_env = ResumedVectorEnv(env)
    lanes, validation_lanes = to_sb3(config, resumed_env), to_sb3(config, validation_env)
    lane_seeds, torch_seed = seeds()
    learner = make_learner(config, lanes, device, torch_seed)
    model, weights = learner.model, learner.weights
    model.set_logger(RunLogger(log))
    lanes.seed(lane_seeds)  # in place of the algorithm's
    training = Training(weights, learner.optimizer, env, learner.stored)
    how = {"sampled": config.validate_sampled, "on_batch": stop.check}
    judge = partial(validate, learner.player, validation_lanes, config.validation_images, **how)
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

    def evaluate(env: Any) -> tuple[Score, dict[str, float]]:
        lanes = to_sb3(config, env)
        return evaluate_sb3(learner.player, lanes, env.num_images, on_batch=stop.check), {}

    session.finish(make, evaluate)


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


def check_env(env_id: str, **keywords: Any) -> None:
    """Raise a ValueError unless actions are a location and class scores in one ``Box``."""
    task = find_task(env_id, **keywords)
    if task.action_format != "box" or task.allow_stop:
        raise ValueError(
            "the environment's actions must be a Box of x, y and class scores, without allow_stop: "
            f"{env_id} has action_format={task.action_format!r} and allow_stop={task.allow_stop}"
        )


def to_sb3(config: Config, env: VectorEnv) -> GlimpseVecEnv:
    """Adapt an environment, with the episode so far as observation if the algorithm uses it."""
    return GlimpseVecEnv(VectorGlimpseHistory(env) if config.sees_history else env)


parse = partial(parse_flags, Config)


if __name__ == "__main__":
    run(main, parse)
