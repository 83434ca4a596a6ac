"""How fast the training scripts train.

    python -m benchmarks.training_speed reinforce --num-envs 128 512 2048 --device cuda
    python -m benchmarks.training_speed sb3

See where the time of an update goes with `python -m cProfile -s tottime train/reinforce.py FLAGS`.
"""

from __future__ import annotations

import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.graph import WARM_UP
from agents.runs.files import read_csv
from agents.sb3.training import train_once
from benchmarks.env_speed import pin_to_one_core, print_machine, take_turns
from train import reinforce, sb3
from train.algorithms import ON_POLICY
from train.keywords import make_vector_env

VARIANTS: dict[str, dict[str, Any]] = {
    "--no-bf16": {"bf16": False},
    "--graph --no-bf16": {"graph": True, "bf16": False},
    "plain": {},
    "--graph": {"graph": True},
}
"""Settings of train/reinforce.py to compare, by the flags that set them."""


def time_reinforce(
    env_id: str = "ClutteredMNISTGlimpse-v0",
    num_envs: tuple[int, ...] = (128, 512),
    device: str = "cpu",
    threads: int = 1,
    updates: int = 200,
) -> None:
    """Print images per second of train/reinforce.py, a row per number of lanes.

    Args:
        env_id: Registered environment to train on.
        num_envs: Numbers of episodes in the batch of one update.
        device: Device to train on.
        threads: CPU threads for the networks.
        updates: Number of updates to time in each cell, after a warm-up.
    """
    print_machine()
    table = []
    for lanes in num_envs:
        settings = {"env_id": env_id, "num_envs": lanes, "device": device, "threads": threads}
        seconds = [time_updates(updates, **settings, **flags) for flags in VARIANTS.values()]
        table.append((lanes, *(f"{lanes * updates / each:,.0f}" for each in seconds)))
    print(f"\nimages/s, {env_id}, {device}\n")
    print(f"| lanes | {' | '.join(VARIANTS)} |\n|---:|{'---:|' * len(VARIANTS)}")
    for row in table:
        print(f"| {' | '.join(map(str, row))} |")


def time_updates(updates: int, **settings: Any) -> float:
    """Train; return the seconds of some updates after a warm-up, from the run's own clock."""
    skipped = max(2 * WARM_UP, updates)  # metrics are logged at its end: a GPU has caught up
    settings |= {"num_validations": 1, "validation_images": 1, "final_split": "none"}
    settings |= {"total_episodes": (skipped + updates) * settings["num_envs"]}
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        reinforce.main(reinforce.Config(**settings, log_every=skipped, run_dir=run_dir))
        begun, ended = (float(row["seconds"]) for row in read_csv(run_dir / "timing.csv"))
    return ended - begun


def time_sb3(env_id: str = "MNISTGlimpse-v0", num_envs: int = 64, repetitions: int = 5) -> None:
    """Let each algorithm of train/sb3.py play and update with its defaults.

    Prints env steps per CPU second on one core, medians over turns (A B A B ...). Also in turn:
    RecurrentPPO with sb3-contrib's own buffer, and Stable-Baselines3's PPO with its defaults, on
    one environment.
    """
    pin_to_one_core()
    print_machine()
    models = {name: make_learner(env_id, num_envs, name) for name in ON_POLICY}
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
    tyro.extras.subcommand_cli_from_dict({"reinforce": time_reinforce, "sb3": time_sb3})
