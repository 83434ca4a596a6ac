"""Train Stable-Baselines3's PPO with its defaults: `python train/stock_ppo.py --run-dir runs/x`.

`PPO("MultiInputPolicy", "MNISTGlimpse-v0")` is what a newcomer tries first: every setting its
default, one lane, no memory, an action that is one Gaussian over 2 + K numbers. It is a row of
`train/compare.py`, and an example of how any program can join that comparison.
"""

from __future__ import annotations

import agents.runs.extras  # noqa: F401 - reports a missing package in one line

# isort: split
import csv
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from agents.baselines import count_parameters
from agents.runs.commands import parse_flags, run
from agents.runs.machine import commit, describe_machine
from agents.sb3 import GlimpseVecEnv, evaluate_sb3
from agents.sb3.training import raising_divergence
from agents.training import check_finite, validation_updates
from train import sb3
from train.sb3 import check_env, make_env, validate


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
    """Env steps to train for; PPO rounds them up to whole rollouts of 2,048."""
    marks: int = 10
    """Number of validations on the first 2,000 images, evenly spaced up to --env-steps."""
    final_split: Literal["test", "validation"] = "test"
    """Split to evaluate once, at the end, with the last weights."""

    def __post_init__(self) -> None:
        """Check the environment before anything is written."""
        check_env(self.env_id)


class Marks(BaseCallback):
    """Validates at the marks, as train/sb3.py does, and records the CPU time of training so far."""

    def __init__(self, config: Config):
        super().__init__()
        self._folder = config.run_dir
        self._env = make_env(config.env_id, 500, split="validation", order="sequential")
        images = min(2000, self._env.num_images)
        self._settings = sb3.Config(
            algorithm="ppo", env_id=config.env_id, validation_images=images, validate_sampled=True
        )
        self._marks = validation_updates(config.env_steps, config.marks)
        self._start, self._validation_time = time.process_time(), 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps in self._marks:
            start = time.process_time()
            trained = start - self._start - self._validation_time
            _, metrics = validate(self._settings, self.model, self._env)
            rows = [[self.num_timesteps, tag, value] for tag, value in metrics.items()]
            append_rows(self._folder / "metrics.csv", rows)
            append_rows(self._folder / "timing.csv", [[self.num_timesteps, trained]])
            self._validation_time += time.process_time() - start
        return True


def main(config: Config) -> None:
    """Train, validate at the marks, and evaluate the last weights once."""
    torch.set_num_threads(1)
    config.run_dir.mkdir(parents=True)
    append_rows(config.run_dir / "metrics.csv", [["env_steps", "tag", "value"]])
    append_rows(config.run_dir / "timing.csv", [["env_steps", "cpu_seconds"]])
    model = PPO("MultiInputPolicy", config.env_id, seed=config.seed, device="cpu")
    final_env = make_env(config.env_id, 500, split=config.final_split, order="sequential")
    env_steps = math.ceil(config.env_steps / model.n_steps) * model.n_steps
    settings = {
        **describe_machine(commit()),
        "parameters": count_parameters(model.policy),
        "sample": final_env.data_is_sample,
        "env_steps": env_steps,
    }
    (config.run_dir / "config.json").write_text(json.dumps(settings))
    print(f"{env_steps} env steps, in whole rollouts of {model.n_steps}", flush=True)
    with raising_divergence():
        model.learn(env_steps, Marks(config))
    check_finite(env_steps // model.n_steps, dict(model.policy.named_parameters()))
    score = evaluate_sb3(model, GlimpseVecEnv(final_env), final_env.num_images)
    result = {"split": config.final_split, **asdict(score)}
    (config.run_dir / "result.json").write_text(json.dumps(result))
    print(f"{config.final_split} {score}")


def append_rows(path: Path, rows: list[list[Any]]) -> None:
    """Write lines to the end of a CSV file."""
    with path.open("a", newline="") as file:
        csv.writer(file).writerows(rows)


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line."""
    return parse_flags(Config, arguments, (__doc__ or "").splitlines()[0])


if __name__ == "__main__":
    run(main, parse)
