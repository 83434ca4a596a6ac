"""What Stable-Baselines3's view of a vector environment costs, on one core.

    python -m benchmarks.sb3_overhead

steps an environment bare, through :class:`agents.sb3.GlimpseVecEnv` and through ``DummyVecEnv``,
which Stable-Baselines3 uses by default. They take turns (A B A B ...), so that a drift of the
machine affects all alike. It prints CPU time per env step, to which other processes add nothing:
the median over the turns, and that of the differences within each turn.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import tyro
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

import ram_env
from agents.sb3 import GlimpseVecEnv, VectorGlimpseHistory
from benchmarks.env_speed import Play, pin_to_one_core, print_machine, take_turns


def main(
    env_id: str = "ClutteredMNISTGlimpse-v0", num_envs: int = 64, repetitions: int = 15
) -> None:
    """Measure in turns of 20 episodes per lane, and print a Markdown table."""
    pin_to_one_core()
    print_machine()
    make: Any = partial(gymnasium.make_vec, env_id, num_envs=num_envs)
    num_glimpses = ram_env.find_task(env_id).num_glimpses
    candidates = {
        "bare vector env": make(),
        "GlimpseVecEnv": GlimpseVecEnv(make()),
        "VecMonitor(GlimpseVecEnv)": VecMonitor(GlimpseVecEnv(make())),
        "GlimpseVecEnv(VectorGlimpseHistory)": GlimpseVecEnv(VectorGlimpseHistory(make())),
        "DummyVecEnv": DummyVecEnv([lambda: gymnasium.make(env_id)] * num_envs),
    }
    players = {name: make_player(env, 20 * num_glimpses) for name, env in candidates.items()}
    costs = take_turns(players, repetitions)
    print(f"\n{env_id}, {num_envs} lanes, CPU time per env step\n")
    print("| what | total [us] | beyond the bare vector env [us] |\n|---|---:|---:|")
    for name, cost in costs.items():
        beyond = [a - b for a, b in zip(cost, costs["bare vector env"], strict=True)]
        total, rest = (1e6 * statistics.median(each) for each in (cost, beyond))
        print(f"| {name} | {total:.2f} | {rest:.2f} |")


def make_player(env: Any, steps: int) -> Play:
    """Return a function that steps all lanes, relying on autoreset, and counts the env steps."""
    single = env.action_space if isinstance(env, VecEnv) else env.single_action_space
    single.seed(0)
    batches = [np.stack([single.sample() for _ in range(env.num_envs)]) for _ in range(16)]
    env.reset()

    def play() -> int:
        for step in range(steps):
            env.step(batches[step % len(batches)])
        return steps * env.num_envs

    return play


if __name__ == "__main__":
    tyro.cli(main)
