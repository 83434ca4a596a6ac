"""Measure how fast the environments step and how much memory they take, on one core.

`python -m benchmarks.env_speed` prints the machine, a Markdown table and the memory growth. The
task is ClutteredMNISTGlimpse-v0 (60 x 60 canvases, 12 x 12 glimpses at 3 scales, 8 glimpses per
episode). Random valid actions are drawn beforehand; the measured CPU time includes everything else:
action checks, infos, resets, fresh canvases. Candidates take turns (A B C A B C ...), so that
they share any drift of the machine.

The rows of ap_gym need that package (`pip install ap_gym aiohttp pillow`). Without it they are
left out.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import ram_env
from agents.runs.machine import commit, describe_machine
from agents.sb3 import GlimpseVecEnv, VectorGlimpseHistory
from ram_env.data import open_split

ENV_ID = "ClutteredMNISTGlimpse-v0"
NUM_GLIMPSES = ram_env.find_task(ENV_ID).num_glimpses
NUM_BATCHES = 16  # of actions drawn beforehand, cycled

Play = Callable[[], int]
"""Plays one episode in every lane and returns the env steps that took, over all lanes."""


def main(repetitions: int = 7, seconds: float = 1.0, memory_steps: int = 1_000_000) -> None:
    """Measure and print.

    Args:
        repetitions: Number of turns per candidate; the table shows their median.
        seconds: CPU time of a turn [s]. The episodes under way at its end are played to their end.
        memory_steps: Number of env steps over which memory must not grow. 0 skips the memory
            measurement, which needs Linux.
    """
    pin_to_one_core()
    print_machine()
    print(f"- data: {open_split('MNIST', 'train').source}")
    players = {name: make_player(env) for name, env in our_envs().items()}
    if find_spec("ap_gym"):
        players |= ap_gym_players()
    costs = take_turns(players, repetitions, seconds)
    print("\n| what | CPU us per env step | steps/s, median | min - max |\n|---|---:|---:|---:|")
    for name, cost in costs.items():
        median = statistics.median(cost)
        rates = f"{1 / median:,.0f} | {1 / max(cost):,.0f} - {1 / min(cost):,.0f}"
        print(f"| {name} | {1e6 * median:.2f} | {rates} |")
    if memory_steps:
        print_memory(memory_steps)


def pin_to_one_core() -> None:
    """Keep this process, and those it starts, on one core."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def print_machine() -> None:
    """Print the command, the commit, the versions and the machine."""
    for name, value in describe_machine(commit()).items():
        print(f"- {name}: {value}")


def our_envs() -> dict[str, Any]:
    """Return our environments and their wrappers; N, the number of lanes, is 64 unless named."""

    def vector(lanes: int = 64) -> Any:
        return gymnasium.make_vec(ENV_ID, lanes)

    return {
        **{f"ram_env vector, N = {n}": vector(n) for n in (1, 64, 256, 1024)},
        "ram_env single (gym.make)": gymnasium.make(ENV_ID),
        "SyncVectorEnv of ram_env singles": gymnasium.make_vec(
            ENV_ID, 64, "sync", vector_kwargs={"autoreset_mode": "SameStep"}
        ),
        "GlimpseVecEnv": GlimpseVecEnv(vector()),
        "VecMonitor(GlimpseVecEnv)": VecMonitor(GlimpseVecEnv(vector())),
        "GlimpseVecEnv(VectorGlimpseHistory)": GlimpseVecEnv(VectorGlimpseHistory(vector())),
        "DummyVecEnv of ram_env singles": DummyVecEnv([lambda: gymnasium.make(ENV_ID)] * 64),
    }


def ap_gym_players() -> dict[str, Play]:
    """Return players of ap_gym's image classification on our canvases.

    It plays ready-made validation canvases (it paints none), with a glimpse of the same side but
    one scale. Its actions move the glimpse instead of placing it, and its reward is a
    cross-entropy. It is made as its own MNIST is, with its log wrapper. One extra step resets
    all lanes together; it counts as steps, in ap_gym's favour. Its prefetching thread is off, as
    it would work during the other candidates' turns.
    """
    import ap_gym  # pyright: ignore[reportMissingImports]
    from ap_gym.envs import image, registration  # pyright: ignore[reportMissingImports]

    canvases, labels = ram_env.frozen_canvases(ENV_ID, "validation")

    class Canvases(image.ImageClassificationDataset):
        def _get_num_classes(self) -> int:
            return 10

        def _get_num_channels(self) -> int:
            return 1

        def _get_length(self) -> int:
            return len(labels)

        def _get_data_point_batch(self, idx: Any) -> tuple[Any, Any]:
            return canvases[idx], labels[idx]

    registration.register_image_classification_env(
        name="Canvases-v0",
        dataset=Canvases(),
        step_limit=NUM_GLIMPSES,
        kwargs={"sensor_size": (12, 12), "prefetch": False},
    )
    vector = make_player(ap_gym.make_vec("Canvases-v0", 64), calls=NUM_GLIMPSES + 1)
    name = f"ap_gym {version('ap_gym')}"
    single = make_player(ap_gym.make("Canvases-v0"))
    return {f"{name} vector": vector, f"{name} single (make)": single}


def make_player(env: Any, calls: int = NUM_GLIMPSES) -> Play:
    """Return a function that plays one episode in every lane.

    Args:
        env: A single environment, or a vector environment, of Gymnasium or Stable-Baselines3,
            that resets its lanes itself, all at the same step.
        calls: Calls of ``step`` from one episode's start to the next one's.
    """
    lanes = getattr(env, "num_envs", None)
    single = getattr(env, "single_action_space", env.action_space)
    single.seed(0)
    samples = [[single.sample() for _ in range(lanes or 1)] for _ in range(NUM_BATCHES)]
    actions = itertools.cycle([np.stack(each) if lanes else each[0] for each in samples])
    env.reset()

    def play() -> int:
        if lanes is None:
            env.reset()
        terminated = [env.step(next(actions))[2] for _ in range(calls)]  # (calls, N)
        assert np.all(terminated[NUM_GLIMPSES - 1])
        return calls * (lanes or 1)

    return play


def take_turns(
    candidates: dict[str, Play], repetitions: int, seconds: float = 0
) -> dict[str, list[float]]:
    """Return each candidate's CPU seconds per env step, one per turn after a warm-up.

    A turn plays at least once, and until it has taken ``seconds`` of CPU time.
    """
    costs: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repetitions + 1):
        for name, play in candidates.items():
            start, steps = time.process_time(), play()
            while turn and time.process_time() < start + seconds:
                steps += play()
            costs[name].append((time.process_time() - start) / steps)
    return {name: each[1:] for name, each in costs.items()}


def print_memory(steps: int) -> None:
    """Print the growth of memory by making, and by stepping, each measured in a new process."""
    made, stepped = "made and stepped, beyond the dataset", f"{steps:,} further steps"
    print()
    for what, arguments in {
        f"a 1024-lane vector env {made}": (1, 1024, 0),
        f"64 single envs {made}": (64, None, 0),
        f"{stepped} of a 64-lane vector env": (1, 64, steps),
    }.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            growth = pool.submit(measure_growth, *arguments).result()
        print(f"- memory growth, {what}: {growth:.1f} MB")


def measure_growth(count: int, lanes: int | None, steps: int) -> float:
    """Return how much this process's resident size grows [MB].

    Args:
        count: Number of environments, each made and played for 20 episodes.
        lanes: Lanes of each vector environment; None makes single ones.
        steps: Measure the growth of this many further steps, over all lanes together; 0
            measures that of the making and the 20 episodes.
    """

    def make(lanes: int | None) -> Play:
        made = gymnasium.make(ENV_ID) if lanes is None else gymnasium.make_vec(ENV_ID, lanes)
        return make_player(made)

    open_split("MNIST", "train").images.max()  # touches every page of the dataset
    for warm_up in (None, 1):  # imports and first calls don't count
        make(warm_up)()
    before = resident_mb()
    players = [make(lanes) for _ in range(count)]
    for play in players * 20:
        play()
    if steps:
        before = resident_mb()
    while steps > 0:
        steps -= sum(play() for play in players)
    return resident_mb() - before


def resident_mb() -> float:
    """Return this process's resident size [MB]."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    tyro.cli(main)
