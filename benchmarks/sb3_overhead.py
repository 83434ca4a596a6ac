"""What Stable-Baselines3's view of a vector environment costs, on one core.

    python -m benchmarks.sb3_overhead

steps an environment bare and through :class:`agents.sb3.vec_env.GlimpseVecEnv`, in turns (A B A B
...), so that a drift of the machine hits both alike, and prints CPU time per env step: the median
over the turns, and of the differences within each turn. CPU time, because it is one thread's and
others' work on the core then doesn't count. Actions are drawn beforehand.

Beside it stand the environment with the episode's history in its observation, and what
Stable-Baselines3 does by itself: ``DummyVecEnv`` over single environments.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import tyro
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

import ram_env
from agents.runs.machine import commit, describe_machine
from agents.sb3.history import VectorGlimpseHistory
from agents.sb3.vec_env import GlimpseVecEnv
from benchmarks.env_speed import pin_to_one_core

NUM_BATCHES = 16  # of actions drawn beforehand, cycled


@dataclass(frozen=True)
class Config:
    """Settings of the benchmark; every one is a flag."""

    env_id: str = "ClutteredMNISTGlimpse-v0"
    """A registered environment."""
    num_envs: int = 64
    """Lanes."""
    repetitions: int = 15
    """Turns that each candidate takes."""
    episodes: int = 20
    """Episodes that each lane plays in a turn."""


def main(config: Config) -> None:
    """Measure and print a Markdown table."""
    pin_to_one_core()
    for name, value in describe_machine(commit()).items():
        print(f"- {name}: {value}")
    print()

    def make() -> Any:
        return gymnasium.make_vec(config.env_id, num_envs=config.num_envs)

    num_glimpses = make().task.num_glimpses
    singles = DummyVecEnv([lambda: gymnasium.make(config.env_id)] * config.num_envs)
    candidates: dict[str, VectorEnv | VecEnv] = {
        "bare vector env": make(),
        "GlimpseVecEnv": GlimpseVecEnv(make()),
        "VecMonitor(GlimpseVecEnv)": VecMonitor(GlimpseVecEnv(make())),
        "GlimpseVecEnv(VectorGlimpseHistory)": GlimpseVecEnv(
            VectorGlimpseHistory(make(), num_glimpses)
        ),
        "DummyVecEnv": singles,
    }
    players = {name: make_player(env) for name, env in candidates.items()}
    steps = config.episodes * num_glimpses
    costs = take_turns(players, config.repetitions, steps, config.num_envs)
    bare = costs["bare vector env"]
    print(f"{ram_env.__name__} {config.env_id}, {config.num_envs} lanes, CPU time per env step\n")
    print("| what | total [us] | beyond the bare vector env [us] |\n|---|---:|---:|")
    for name, cost in costs.items():
        beyond = statistics.median(a - b for a, b in zip(cost, bare, strict=True))
        print(f"| {name} | {statistics.median(cost):.2f} | {beyond:.2f} |")


def make_player(env: Any) -> Callable[[int], None]:
    """Return a function that makes so many steps, relying on autoreset."""
    single = env.action_space if isinstance(env, VecEnv) else env.single_action_space
    single.seed(0)
    batches = [np.stack([single.sample() for _ in range(env.num_envs)]) for _ in range(NUM_BATCHES)]
    env.reset()

    def play(steps: int) -> None:
        for step in range(steps):
            env.step(batches[step % NUM_BATCHES])

    return play


def take_turns(
    players: dict[str, Callable[[int], None]], repetitions: int, steps: int, num_envs: int
) -> dict[str, list[float]]:
    """Return each player's CPU microseconds per env step, one entry a turn, after a warm-up."""
    costs: dict[str, list[float]] = {name: [] for name in players}
    for turn in range(repetitions + 1):
        for name, play in players.items():
            start = time.process_time()
            play(steps)
            spent = time.process_time() - start
            if turn:
                costs[name].append(1e6 * spent / (steps * num_envs))
    return costs


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
