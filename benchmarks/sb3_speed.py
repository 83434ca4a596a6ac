"""What Stable-Baselines3's view of a vector environment costs, and how fast it trains, on one core.

    python -m benchmarks.sb3_speed overhead
    python -m benchmarks.sb3_speed training

Candidates take turns (A B A B ...), so that a drift of the machine affects all alike. Both print
CPU time, to which other processes add nothing.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import gymnasium
import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from agents.sb3 import GlimpseVecEnv, VectorGlimpseHistory
from agents.sb3.training import train_once
from benchmarks.env_speed import ENV_ID, make_player, pin_to_one_core, print_machine, take_turns
from train import sb3
from train.keywords import make_vector_env


def overhead(num_envs: int = 64, repetitions: int = 15, seconds: float = 1.0) -> None:
    """Step an environment bare, through ``GlimpseVecEnv`` and through ``DummyVecEnv``.

    Prints CPU time per env step: the median over the turns of some CPU seconds, and that of the
    differences within each turn. ``DummyVecEnv`` is Stable-Baselines3's default.
    """
    make: Any = partial(gymnasium.make_vec, ENV_ID, num_envs=num_envs)
    candidates = {
        "bare vector env": make(),
        "GlimpseVecEnv": GlimpseVecEnv(make()),
        "VecMonitor(GlimpseVecEnv)": VecMonitor(GlimpseVecEnv(make())),
        "GlimpseVecEnv(VectorGlimpseHistory)": GlimpseVecEnv(VectorGlimpseHistory(make())),
        "DummyVecEnv": DummyVecEnv([lambda: gymnasium.make(ENV_ID)] * num_envs),
    }
    players = {name: make_player(env) for name, env in candidates.items()}
    costs = take_turns(players, repetitions, seconds)
    print(f"\n{ENV_ID}, {num_envs} lanes, CPU time per env step\n")
    print("| what | total [us] | beyond the bare vector env [us] |\n|---|---:|---:|")
    for name, cost in costs.items():
        beyond = [a - b for a, b in zip(cost, costs["bare vector env"], strict=True)]
        total, rest = (1e6 * statistics.median(each) for each in (cost, beyond))
        print(f"| {name} | {total:.2f} | {rest:.2f} |")


def training(env_id: str = "MNISTGlimpse-v0", num_envs: int = 64, repetitions: int = 5) -> None:
    """Let each algorithm of train/sb3.py play and update with its defaults.

    Prints env steps per CPU second, medians over the turns. Also in turn: RecurrentPPO with
    sb3-contrib's own buffer, and Stable-Baselines3's PPO with its defaults, on one environment.
    """
    models = {name: make_learner(env_id, num_envs, name) for name in sb3.ALGORITHMS}
    models["recurrent_ppo, stock buffer"] = stock = make_learner(env_id, num_envs, "recurrent_ppo")
    stock._setup_model()  # makes sb3-contrib's buffer, in place of ours
    models["stock PPO, one environment"] = PPO("MultiInputPolicy", env_id)
    updates = {
        name: partial(train_once, model, model.n_steps * model.n_envs)
        for name, model in models.items()
    }
    costs = take_turns(updates, repetitions)
    print(f"\n{env_id}, {num_envs} lanes\n\n| algorithm | env steps/CPU s |\n|---|---:|")
    for name, cost in costs.items():
        print(f"| {name} | {1 / statistics.median(cost):,.0f} |")


def make_learner(env_id: str, num_envs: int, algorithm: str) -> OnPolicyAlgorithm:
    """Make an algorithm as train/sb3.py does."""
    settings = sb3.Config(algorithm=algorithm, env_id=env_id, num_envs=num_envs)
    lanes = sb3.to_sb3(settings, make_vector_env(env_id, num_envs, split="train"))
    model: Any = sb3.make_learner(settings, lanes, torch.device("cpu"), seed=0).model
    return model


if __name__ == "__main__":
    pin_to_one_core()
    print_machine()
    tyro.extras.subcommand_cli_from_dict({"overhead": overhead, "training": training})
