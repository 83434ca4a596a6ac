"""How fast Stable-Baselines3's algorithms train here, one thread, play and updates together.

    python -m benchmarks.sb3_training

lets each algorithm of train/sb3.py, with its default settings, make some updates in turns (A B A
B ...) and prints env steps per CPU second: the median over turns. Beside them stand RecurrentPPO
with sb3-contrib's own buffer on the same lanes, rollouts and minibatches (ours takes minibatches
of whole episodes), and what Stable-Baselines3 does by itself: PPO on one environment.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import tyro
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecMonitor

from agents.runs.machine import commit, describe_machine
from train import sb3


@dataclass(frozen=True)
class Config:
    """Settings of the benchmark; every one is a flag."""

    env_id: str = "MNISTGlimpse-v0"
    """A registered environment."""
    num_envs: int = 64
    """Lanes."""
    repetitions: int = 5
    """Turns that each candidate takes."""

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("num_envs", "repetitions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def main(config: Config) -> None:
    """Measure and print a Markdown table."""
    torch.set_num_threads(1)
    for name, value in describe_machine(commit()).items():
        print(f"- {name}: {value}")
    models = {name: make(config, name) for name in sb3.ALGORITHMS}
    models["recurrent_ppo, stock buffer"] = with_stock_buffer(make(config, "recurrent_ppo"))
    models["stock PPO, one environment"] = PPO("MultiInputPolicy", f"ram_env:{config.env_id}")
    speeds = take_turns({name: updater(m) for name, m in models.items()}, config.repetitions)
    print(
        f"\n{config.env_id}, {config.num_envs} lanes\n\n| algorithm | env steps/CPU s |\n|---|---:|"
    )
    for name, speed in speeds.items():
        print(f"| {name} | {statistics.median(speed):,.0f} |")


def make(config: Config, algorithm: str) -> OnPolicyAlgorithm:
    """Make an algorithm as train/sb3.py does."""
    settings = replace(
        sb3.Config(), algorithm=algorithm, env_id=config.env_id, num_envs=config.num_envs
    )
    env = sb3.make_env(settings, config.num_envs, split="train")
    num_glimpses = env.task.num_glimpses
    lanes = VecMonitor(sb3.to_sb3(settings, env, num_glimpses))
    return sb3.make_model(settings, lanes, num_glimpses, torch.device("cpu"), seed=0)


def with_stock_buffer(model: OnPolicyAlgorithm) -> OnPolicyAlgorithm:
    """Give a RecurrentPPO the buffer that it makes itself."""
    ours = model.rollout_buffer
    assert isinstance(ours, RecurrentDictRolloutBuffer)
    model.rollout_buffer = RecurrentDictRolloutBuffer(
        ours.buffer_size,
        ours.observation_space,
        ours.action_space,
        ours.hidden_state_shape,
        ours.device,
        ours.gae_lambda,
        ours.gamma,
        ours.n_envs,
    )
    return model


def updater(model: OnPolicyAlgorithm) -> Callable[[], int]:
    """Return a function that makes one update and returns its env steps."""

    def update() -> int:
        steps = model.n_steps * model.n_envs
        model.learn(steps, reset_num_timesteps=False)
        return steps

    return update


def take_turns(updates: dict[str, Callable[[], int]], repetitions: int) -> dict[str, list[float]]:
    """Return each one's env steps per CPU second, one entry a turn, after a warm-up."""
    speeds: dict[str, list[float]] = {name: [] for name in updates}
    for turn in range(repetitions + 1):
        for name, update in updates.items():
            start = time.process_time()
            steps = update()
            if turn:
                speeds[name].append(steps / (time.process_time() - start))
    return speeds


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
