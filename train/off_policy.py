"""Train Stable-Baselines3's SAC or CrossQ: `python train/off_policy.py --algorithm sac`.

They learn from a replay of the last 100,000 env steps, one gradient step per 8 env steps. The
observation is the episode so far, through the glimpse network of `train/sb3.py`; the action is the
env's Box, location and class scores, squashed by tanh. All other settings are the library's
defaults, except CrossQ's critics: 256 units instead of 1,024, which makes a step 2.4 times as fast.
A checkpoint holds the replay, 1.4 GB on `ClutteredMNISTGlimpse-v0`; the newest three are kept.
"""

from __future__ import annotations

from train import startup  # noqa: F401 - before slow imports

# isort: split
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from sb3_contrib import CrossQ
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecMonitor
from torch import nn

from agents.runs.commands import parse_flags, run
from agents.sb3 import GlimpseVecEnv
from agents.sb3.flat import FlatHistoryFeatures, FlatPlayer, FlatVecEnv
from agents.sb3.training import OffPolicyState
from train.sb3 import Learner, TrainingConfig, train_in_folder

ALGORITHMS = {"sac": SAC, "crossq": CrossQ}
REPLAY_STEPS = 100_000


@dataclass(frozen=True)
class Config(TrainingConfig):
    """Settings of a run; every one is a flag."""

    algorithm: Literal["sac", "crossq"] = "sac"
    """Algorithm to train."""
    total_steps: int = 1_000_000
    """Env steps to train for, all lanes together; rounded up to whole updates of 64 episodes."""
    reward: Literal["final", "dense", "log_score"] = "log_score"
    """Reward of the environment; dense and log_score reward every label, not only the last."""

    num_envs = 8  # lanes, and so env steps per gradient step
    update_episodes = 64  # between two looks at the log, the clock and the signals
    sees_history = True


def make_learner(config: Config, lanes: GlimpseVecEnv, device: torch.device, seed: int) -> Learner:
    """Make SAC or CrossQ."""
    history: Any = lanes.observation_space
    model: Any = ALGORITHMS[config.algorithm](
        "MlpPolicy",
        VecMonitor(FlatVecEnv(lanes), info_keywords=("correct",)),
        buffer_size=REPLAY_STEPS,
        # Each observation is stored once; episodes are never truncated.
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
        policy_kwargs={
            "net_arch": [256, 256],
            "features_extractor_class": FlatHistoryFeatures,
            "features_extractor_kwargs": {"history": history},
        },
        stats_window_size=config.update_episodes,
        seed=seed % 2**32,  # the limit of NumPy's global generator
        device=device,
    )
    model.critic.register_forward_pre_hook(_freeze_critic)
    weights = nn.ModuleDict({"actor": model.actor, "critic": model.critic})
    state = OffPolicyState(model)
    player = FlatPlayer(model, history)
    return Learner(model, weights, state.optimizer, player, stored={"off_policy": state})


def _freeze_critic(critic: nn.Module, inputs: Any) -> None:
    """Freeze the critic in the actor's loss: SAC and CrossQ would discard its gradients."""
    _, actions = inputs
    critic.requires_grad_(not actions.requires_grad)  # the replay's actions have no gradients


main = partial(train_in_folder, make_learner)
parse = partial(parse_flags, Config)


if __name__ == "__main__":
    run(main, parse)
