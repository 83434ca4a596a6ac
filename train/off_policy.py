"""Train Stable-Baselines3's SAC or CrossQ: `python train/off_policy.py --run-dir runs/x`.

They learn from a replay of the last 100,000 env steps, one gradient step per 8 env steps. The
observation is the episode so far, through the glimpse network of `train/sb3.py`; the action is the
env's Box, location and class scores, squashed by tanh. The other settings are defaults,
except that CrossQ's critics have SAC's 256 units: with 1,024 a step costs 2.4 times as much.
"""

from __future__ import annotations

import agents.runs.extras  # noqa: F401 - reports a missing package in one line

# isort: split
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from sb3_contrib import CrossQ
from stable_baselines3 import SAC

from agents.runs.commands import parse_flags, run
from agents.sb3 import GlimpseVecEnv, VectorGlimpseHistory
from agents.sb3.flat import FlatHistoryFeatures, FlatPlayer, FlatVecEnv
from train.keywords import make_vector_env
from train.stock_ppo import StockConfig, train

ALGORITHMS = {"sac": SAC, "crossq": CrossQ}


@dataclass(frozen=True)
class Config(StockConfig):
    """Settings of a run; every one is a flag."""

    algorithm: Literal["sac", "crossq"] = "sac"
    """Algorithm to train."""
    reward: Literal["final", "dense", "log_score"] = "log_score"
    """Reward of the environment; dense and log_score reward every label, not only the last."""
    env_steps: int = 1_000_000
    """Env steps to train for, all lanes together; rounded up to whole rollouts."""


def main(config: Config) -> None:
    """Train SAC or CrossQ on 8 lanes."""

    def make_lanes(num_envs: int = 500, **keywords: Any) -> GlimpseVecEnv:
        env = make_vector_env(config.env_id, num_envs, reward=config.reward, **keywords)
        return GlimpseVecEnv(VectorGlimpseHistory(env))

    history: Any = make_lanes(1).observation_space

    def make_model() -> SAC | CrossQ:
        return ALGORITHMS[config.algorithm](
            "MlpPolicy",
            FlatVecEnv(make_lanes(8)),  # one gradient step per step of all lanes
            buffer_size=100_000,
            # Each observation is stored once; episodes are never truncated.
            optimize_memory_usage=True,
            replay_buffer_kwargs={"handle_timeout_termination": False},
            policy_kwargs={
                "net_arch": [256, 256],
                "features_extractor_class": FlatHistoryFeatures,
                "features_extractor_kwargs": {"history": history},
            },
            seed=config.seed,
            device="cpu",
        )

    train(config, make_model, make_lanes, lambda model: FlatPlayer(model, history))


parse = partial(parse_flags, Config)
"""Returns the settings of a command line."""


if __name__ == "__main__":
    run(main, parse)
