"""Stable-Baselines3's algorithms for `train/sb3.py`: their policies, schedules and stored state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from sb3_contrib import CrossQ, RecurrentPPO
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecMonitor
from torch import nn

from agents.sb3 import GlimpseVecEnv, HistoryFeatures, HybridPolicy
from agents.sb3.flat import FlatHistoryFeatures, FlatPlayer, FlatVecEnv
from agents.sb3.recurrent import EpisodeBuffer, RecurrentHybridPolicy
from agents.sb3.training import OffPolicyState, weights_of
from agents.training import cosine_rate

if TYPE_CHECKING:
    from train.sb3 import Config

ON_POLICY: dict[str, Any] = {
    "ppo": PPO,
    "a2c": A2C,
    "recurrent_ppo": RecurrentPPO,
    "ppo_history": PPO,
    "a2c_history": A2C,
}
OFF_POLICY: dict[str, Any] = {"sac": SAC, "crossq": CrossQ}
REPLAY_STEPS = 100_000
STEPS_PER_GRADIENT_STEP = 8  # env steps, off-policy


class Learner(NamedTuple):
    """An algorithm and what :func:`train.sb3.train` has to know of it."""

    model: BaseAlgorithm
    weights: nn.Module
    """The networks that it trains; a run stores the best ones."""
    optimizer: torch.optim.Optimizer
    """Its optimiser, or all of them as one."""
    player: PolicyPredictor
    """What acts in an evaluation."""
    schedule: Callable[[float], None] = lambda progress: None
    """Prepares an update, given the share of the updates that are done."""
    stored: Mapping[str, Any] = {}
    """What else a run depends on: see :class:`agents.training.Training`."""


def make_learner(config: Config, lanes: GlimpseVecEnv, device: torch.device, seed: int) -> Learner:
    """Make the algorithm that the settings name, for some lanes."""
    make = make_off_policy if config.algorithm in OFF_POLICY else make_on_policy
    shared = {
        "stats_window_size": config.update_episodes,  # the newest rollout
        "seed": seed % 2**32,  # the limit of NumPy's global generator
        "device": device,
    }
    return make(config, lanes, shared)


def make_on_policy(config: Config, lanes: GlimpseVecEnv, shared: Mapping[str, Any]) -> Learner:
    """Make PPO, A2C or RecurrentPPO, with the schedules of the learning rate and of the std.

    It doesn't discount returns, since all episodes have the same length.
    """
    env: Any = lanes.env.unwrapped
    kind: Any = ON_POLICY[config.algorithm]
    policy: dict[str, Any] = {
        "num_classes": env.num_classes,
        "initial_std": config.std,
        "label_counts": "last" if config.reward == "final" else "every",
        "location_weight": config.policy_coef,
    }
    if config.sees_history:
        policy["features_extractor_class"] = HistoryFeatures
        policy["features_extractor_kwargs"] = {"num_features": config.hidden_size}
    if kind is RecurrentPPO:
        policy["lstm_hidden_size"] = config.hidden_size
    batches = {"batch_size": config.batch * env.task.num_glimpses, "n_epochs": config.n_epochs}
    policy_class: Any = RecurrentHybridPolicy if kind is RecurrentPPO else HybridPolicy
    model = kind(
        policy_class,
        VecMonitor(lanes, info_keywords=("correct",)),
        learning_rate=config.learning_rate,
        n_steps=config.lane_episodes * env.task.num_glimpses,
        gamma=1.0,
        gae_lambda=config.gae_lambda,
        ent_coef=config.entropy_coef,
        normalize_advantage=True,
        policy_kwargs=policy,
        **({"use_rms_prop": False} if kind is A2C else batches),
        **shared,
    )
    if kind is RecurrentPPO:
        model.rollout_buffer = EpisodeBuffer.of(model)
    log_std = model.policy.log_std.requires_grad_(False)

    def schedule(progress: float) -> None:
        rate = cosine_rate(config.learning_rate, progress)
        model.lr_schedule = lambda _: rate
        log_std.fill_(math.log(config.std * (config.final_std / config.std) ** progress))

    return Learner(model, weights_of(model.policy), model.policy.optimizer, model, schedule)


def make_off_policy(config: Config, lanes: GlimpseVecEnv, shared: Mapping[str, Any]) -> Learner:
    """Make SAC or CrossQ with the library's defaults, except the size of CrossQ's critics.

    Those have 256 units instead of 1,024, which makes a step 2.4 times as fast. Actions are the
    env's Box, squashed by tanh.
    """
    history: Any = lanes.observation_space
    model = OFF_POLICY[config.algorithm](
        "MlpPolicy",
        VecMonitor(FlatVecEnv(lanes), info_keywords=("correct",)),
        gradient_steps=max(1, config.num_envs // STEPS_PER_GRADIENT_STEP),
        buffer_size=REPLAY_STEPS,
        # Each observation is stored once; episodes are never truncated.
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
        policy_kwargs={
            "net_arch": [256, 256],
            "features_extractor_class": FlatHistoryFeatures,
            "features_extractor_kwargs": {"history": history, "num_features": config.hidden_size},
        },
        **shared,
    )
    weights = nn.ModuleDict({"actor": model.actor, "critic": model.critic})
    state = OffPolicyState(model)
    player = FlatPlayer(model, history)
    return Learner(model, weights, state.optimizer, player, stored={"off_policy": state})
