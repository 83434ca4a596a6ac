"""Train Stable-Baselines3's PPO with its defaults: `python train/stock_ppo.py --run-dir runs/x`.

`PPO("MultiInputPolicy", "ram_env:MNISTGlimpse-v0")` is what a newcomer tries first: default
settings, no memory and, by default, one lane and one Gaussian over 2 + K numbers as the action (K
classes). It is a row of `train/compare.py`, and shows how any program can join that comparison.
"""

from __future__ import annotations

from train import startup  # noqa: F401 - before slow imports

# isort: split
import csv
import json
import math
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from stable_baselines3 import PPO

from agents.baselines import count_parameters
from agents.runs.commands import parse_flags, run
from agents.runs.machine import commit, describe_machine
from agents.sb3 import GlimpseVecEnv, evaluate_sb3
from agents.sb3.training import train_once
from agents.training import check_finite, check_settings, spread_seed, validation_updates
from train.keywords import make_vector_env
from train.sb3 import check_env, validate
from train.session import NUM_ENVS


@dataclass(frozen=True)
class Config:
    """Settings of a run; every one is a flag."""

    run_dir: Path
    """Folder to write the run to; must not exist yet."""
    env_id: str = "MNISTGlimpse-v0"
    """Registered environment to train on."""
    seed: int = 0
    """Random seed for weights, exploration, images and locations."""
    env_steps: int = 1_500_000
    """Env steps to train for, all lanes together; rounded up to whole rollouts."""
    marks: int = 10
    """Number of validations on the first 2,000 images, evenly spaced up to the end."""
    final_split: Literal["test", "validation"] = "test"
    """Split to evaluate once, at the end, with the last weights."""
    num_envs: int = 1
    """Lanes: episodes played in parallel."""
    action_format: Literal["box", "multidiscrete"] = "box"
    """box: one Gaussian over location and class scores; multidiscrete: column, row and class."""

    def __post_init__(self) -> None:
        """Check every value before anything is written."""
        check_env(self.env_id)
        counts = ("env_steps", "marks", "num_envs")
        check_settings(self, {"at least 1": counts, "at least 0": ("seed",)})
        if self.run_dir.exists():
            raise ValueError(f"{self.run_dir} exists already: choose another with --run-dir")


def main(config: Config) -> None:
    """Train PPO, validate it at the marks, and evaluate its last weights once."""

    def make_lanes(num_envs: int = NUM_ENVS, **keywords: Any) -> GlimpseVecEnv:
        keywords["action_format"] = config.action_format
        return GlimpseVecEnv(make_vector_env(config.env_id, num_envs, **keywords))

    # Setup: one lane, as the environment's id makes it, or many
    torch.set_num_threads(1)
    plain = config.num_envs == 1 and config.action_format == "box"
    env = config.env_id if plain else make_lanes(config.num_envs)
    model = PPO("MultiInputPolicy", env, seed=config.seed, device="cpu")
    trained: Any = model.get_env()
    if trained.num_envs > 1:  # SB3 seeds lane i with seed + i: adjacent runs would share lanes
        trained.seed(spread_seed(config.seed, trained.num_envs)[0])
    lanes = make_lanes(split="validation", order="sequential")
    final_lanes = make_lanes(split=config.final_split, order="sequential")
    final_env: Any = final_lanes.env.unwrapped
    rollout = model.n_steps * model.n_envs
    num_updates = math.ceil(config.env_steps / rollout)
    marks = validation_updates(num_updates * rollout, config.marks)
    print(f"{num_updates * rollout} env steps, in whole rollouts of {rollout}", flush=True)

    # What train/compare.py reads
    settings = {name: value for name, value in asdict(config).items() if name != "run_dir"}
    facts = {"parameters": count_parameters(model.policy), "sample": final_env.data_is_sample}
    config.run_dir.mkdir(parents=True)
    content = {"config": settings, **describe_machine(commit()), **facts}
    (config.run_dir / "config.json").write_text(json.dumps(content))
    metrics, timing = (config.run_dir / f"{name}.csv" for name in ("metrics", "timing"))
    append_rows(metrics, [["env_steps", "tag", "value"]])
    append_rows(timing, [["env_steps", "cpu_seconds"]])

    # Updates
    num_images, cpu_seconds = min(2000, lanes.get_attr("num_images")[0]), 0.0
    for update in range(1, num_updates + 1):
        start = time.process_time()
        steps = update * train_once(model, rollout)
        cpu_seconds += time.process_time() - start
        check_finite(update, dict(model.policy.named_parameters()))
        if any(steps - rollout < mark <= steps for mark in marks):
            _, values = validate(model, lanes, num_images, update, sampled=True)
            append_rows(metrics, [[steps, *row] for row in values.items()])
            append_rows(timing, [[steps, cpu_seconds]])

    # Result
    score = evaluate_sb3(model, final_lanes, final_env.num_images)
    result = {"split": config.final_split, **asdict(score)}
    (config.run_dir / "result.json").write_text(json.dumps(result))
    print(f"{config.final_split} {score}")


def append_rows(path: Path, rows: list[list[Any]]) -> None:
    """Write lines to the end of a CSV file."""
    with path.open("a", newline="") as file:
        csv.writer(file).writerows(rows)


parse = partial(parse_flags, Config)
"""Returns the settings of a command line."""


if __name__ == "__main__":
    run(main, parse)
