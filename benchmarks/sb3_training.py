"""How fast Stable-Baselines3's algorithms train here, one thread, rollouts and updates together.

    python -m benchmarks.sb3_training

lets each algorithm of train/sb3.py make updates with its defaults, in turns (A B A B ...), and
prints env steps per CPU second: the median over the turns. Also in turn: RecurrentPPO with
sb3-contrib's own buffer, and Stable-Baselines3's PPO with its defaults, on one environment.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.sb3.training import train_once
from benchmarks.env_speed import print_machine, take_turns
from train import sb3
from train.keywords import make_vector_env


def main(env_id: str = "MNISTGlimpse-v0", num_envs: int = 64, repetitions: int = 5) -> None:
    """Measure and print a Markdown table."""
    torch.set_num_threads(1)
    print_machine()
    models = {name: make(env_id, num_envs, name) for name in sb3.ALGORITHMS}
    models["recurrent_ppo, stock buffer"] = stock = make(env_id, num_envs, "recurrent_ppo")
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


def make(env_id: str, num_envs: int, algorithm: str) -> OnPolicyAlgorithm:
    """Make an algorithm as train/sb3.py does."""
    settings = sb3.Config(algorithm=algorithm, env_id=env_id, num_envs=num_envs)
    lanes = sb3.to_sb3(settings, make_vector_env(env_id, num_envs, split="train"))
    model: Any = sb3.make_learner(settings, lanes, torch.device("cpu"), seed=0).model
    return model


if __name__ == "__main__":
    tyro.cli(main)
