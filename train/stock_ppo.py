"""What a newcomer tries first: Stable-Baselines3's PPO as it comes, `python train/stock_ppo.py`.

`PPO("MultiInputPolicy", "ram_env:MNISTGlimpse-v0")`, every setting its default, one lane, no
memory, an action that is one Gaussian of 2 + K numbers. A row of `train/compare.py`, and an
example of how any program joins it.
"""

from __future__ import annotations

import agents.runs.extras  # noqa: F401 - reports a missing package in one line

# isort: split
import csv
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium
import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from agents.baselines import count_parameters
from agents.diagnostics import behaviour, sizes_of
from agents.evaluation import score_by_glimpse
from agents.runs.commands import run
from agents.runs.machine import commit, describe_machine
from agents.sb3.evaluation import evaluate_sb3, play_split_sb3
from agents.sb3.training import raising_divergence
from agents.sb3.vec_env import GlimpseVecEnv
from agents.training import check_finite, validation_updates
from ram_env import GlimpseVectorEnv
from train.sb3 import check_env


@dataclass(frozen=True)
class Config:
    """What to run."""

    run_dir: Path
    """Made here; where the files are written."""
    env_id: str = "MNISTGlimpse-v0"
    """A registered environment."""
    seed: int = 0
    """Of everything."""
    env_steps: int = 1_500_000
    """Env steps."""
    marks: int = 10
    """How often it is validated, on the first 2,000 images, the end included."""
    final_split: Literal["test", "validation"] = "test"
    """The split that the last weights are judged on."""

    def __post_init__(self) -> None:
        """Check the environment, before there is a folder."""
        check_env(self.env_id)


class Marks(BaseCallback):
    """Validates at the marks, and writes down how much CPU time the training took until then."""

    def __init__(self, config: Config):
        super().__init__()
        self._env_id, self._folder = config.env_id, config.run_dir
        self._marks = validation_updates(config.env_steps, config.marks)
        self._begun, self._judging = time.process_time(), 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps in self._marks:
            self._validate()
        return True

    def _validate(self) -> None:
        begun = time.process_time()
        trained = begun - self._begun - self._judging
        env = make_env(self._env_id, "validation")
        beliefs, sampled = (
            play_split_sb3(self.model, GlimpseVecEnv(env), 2000, deterministic=mode)
            for mode in (True, False)
        )
        metrics = {
            "eval/error": score_by_glimpse(beliefs)[-1].error,
            "eval/error_sampled": score_by_glimpse(sampled)[-1].error,
            **behaviour(beliefs, **sizes_of(env)),
        }
        for tag, value in metrics.items():
            append(self._folder / "metrics.csv", [self.num_timesteps, tag, value])
        append(self._folder / "timing.csv", [self.num_timesteps, trained])
        self._judging += time.process_time() - begun


def main(config: Config) -> None:
    """Train, validate at the marks, and judge the last weights once."""
    torch.set_num_threads(1)
    config.run_dir.mkdir(parents=True)
    append(config.run_dir / "metrics.csv", ["env_steps", "tag", "value"])
    append(config.run_dir / "timing.csv", ["env_steps", "cpu_seconds"])

    model = PPO("MultiInputPolicy", f"ram_env:{config.env_id}", seed=config.seed, device="cpu")
    final_env = make_env(config.env_id, config.final_split)
    settings = {
        **describe_machine(commit()),
        "parameters": count_parameters(model.policy),
        "sample": final_env.data_is_sample,
    }
    (config.run_dir / "config.json").write_text(json.dumps(settings))
    with raising_divergence():
        model.learn(config.env_steps, Marks(config))
    check_finite(model.num_timesteps // model.n_steps, dict(model.policy.named_parameters()))

    score = evaluate_sb3(model, GlimpseVecEnv(final_env), final_env.num_images)
    result = {"split": config.final_split, "wrong": score.wrong, "total": score.total}
    (config.run_dir / "result.json").write_text(json.dumps(result))
    print(f"{config.final_split} {score}")


def make_env(env_id: str, split: str) -> GlimpseVectorEnv:
    """Make lanes that pass through a split in order."""
    env = gymnasium.make_vec(f"ram_env:{env_id}", num_envs=500, split=split, order="sequential")
    assert isinstance(env, GlimpseVectorEnv)
    return env


def append(path: Path, row: list[object]) -> None:
    """Write a line to the end of a CSV file."""
    with path.open("a", newline="") as file:
        csv.writer(file).writerow(row)


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line."""
    return tyro.cli(Config, args=arguments, description=(__doc__ or "").splitlines()[0])


if __name__ == "__main__":
    run(main, parse)
