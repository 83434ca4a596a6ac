"""Measure how fast the environments step and how much memory they take, on one core.

`python benchmarks/env_speed.py` prints the machine, a Markdown table and the memory growth. The
task is ClutteredMNISTGlimpse-v0 (60 x 60 canvases, 12 x 12 glimpses at 3 scales, 8 glimpses per
episode). Random valid actions are drawn beforehand; the measured CPU time includes everything else:
action checks, infos, resets, fresh canvases. Candidates take turns (A B C A B C ...), so that
they share any drift of the machine.

The rows of ap_gym need that package (`pip install ap_gym aiohttp pillow`). Without it they are
left out, and a line says so.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import numpy as np
import torch
import tyro

import ram_env
from agents.runs.machine import commit, describe_machine
from agents.training import check_settings
from ram_env.data import open_split

K = TypeVar("K")
ENV_ID = "ClutteredMNISTGlimpse-v0"
NUM_GLIMPSES = ram_env.find_task(ENV_ID).num_glimpses
NUM_BATCHES = 16  # of actions drawn beforehand, cycled
STATM = Path("/proc/self/statm")  # a process's memory, on Linux

Play = Callable[[], int]
"""Plays one episode in every lane and returns the env steps that took, over all lanes."""
Players = dict[tuple[str, int], Play]
"""Environments under measurement, by what they are and their number of lanes."""


@dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    repetitions: int = 7
    """Number of turns per candidate; the table shows their median."""
    seconds: float = 1.0
    """CPU time of a turn [s]. The episodes under way at its end are played to their end."""
    memory_steps: int = 1_000_000
    """Number of env steps over which memory must not grow. 0 skips the memory measurement."""

    def __post_init__(self) -> None:
        """Check what would fail late."""
        check_settings(self, {"at least 1": ("repetitions",), "positive": ("seconds",)})
        if self.memory_steps and not STATM.exists():
            raise ValueError(f"memory_steps must be 0 on this system: it has no {STATM}")


def main(config: Config) -> None:
    """Measure and print."""
    pin_to_one_core()
    print_machine()
    candidates = our_candidates() | ap_gym_candidates()
    costs = take_turns(candidates, config.repetitions, config.seconds)
    print(f"\n{table(costs)}\n")
    if config.memory_steps:
        for what, megabytes in measure_memory(config.memory_steps):
            print(f"- memory growth, {what}: {megabytes:.1f} MB")


def pin_to_one_core() -> None:
    """Keep this process, and those it starts, on one core."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def print_machine() -> None:
    """Print the machine, the versions and the data."""
    facts = describe_machine(commit())
    try:
        facts["versions"]["ap_gym"] = version("ap_gym")
    except PackageNotFoundError:
        facts["versions"]["ap_gym"] = "not installed"
    for name, value in {**facts, "data": open_split("MNIST", "train").source}.items():
        print(f"- {name}: {value}")


# Candidates


def our_candidates() -> Players:
    """Return the vector env with 1 to 1024 lanes, the single env and a SyncVectorEnv of those."""
    sync = gymnasium.make_vec(ENV_ID, 64, "sync", vector_kwargs={"autoreset_mode": "SameStep"})
    return {
        **{("ram_env vector", n): make_player(make_env(n)) for n in (1, 64, 256, 1024)},
        ("ram_env single (gym.make)", 1): make_player(make_env(None)),
        ("SyncVectorEnv of ram_env singles", 64): make_player(sync),
    }


def ap_gym_candidates() -> Players:
    """Return ap_gym's image classification on our canvases, or nothing if it isn't installed.

    It plays ready-made validation canvases (it paints none), with a glimpse of the same side but
    one scale. Its actions move the glimpse instead of placing it, and its reward is a
    cross-entropy. It is made as its own MNIST is, with its log wrapper. One extra step resets
    all lanes together; it counts as steps, in ap_gym's favour. Its prefetching thread is off, as
    it would work during the other candidates' turns.
    """
    try:
        import ap_gym  # pyright: ignore[reportMissingImports]
        from ap_gym.envs import image, registration  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"\nap_gym is left out: {error} (pip install ap_gym aiohttp pillow)")
        return {}
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
    single = make_player(ap_gym.make("Canvases-v0"))
    return {("ap_gym vector", 64): vector, ("ap_gym single (make)", 1): single}


def make_env(lanes: int | None) -> Any:
    """Make our vector environment, or the single one for None."""
    return gymnasium.make(ENV_ID) if lanes is None else gymnasium.make_vec(ENV_ID, lanes)


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


# Speed


def take_turns(
    candidates: Mapping[K, Play], repetitions: int, seconds: float = 0
) -> dict[K, list[float]]:
    """Return each candidate's CPU seconds per env step, one per turn after a warm-up.

    A turn plays at least once, and until it has taken ``seconds`` of CPU time.
    """
    costs: dict[K, list[float]] = {name: [] for name in candidates}
    for turn in range(repetitions + 1):
        for name, play in candidates.items():
            start, steps = time.process_time(), play()
            while turn and time.process_time() < start + seconds:
                steps += play()
            costs[name].append((time.process_time() - start) / steps)
    return {name: each[1:] for name, each in costs.items()}


def table(costs: dict[tuple[str, int], list[float]]) -> str:
    """Return the Markdown table."""
    lines = [
        "| what | lanes | steps/s, median | min - max | / ap_gym vector | / SyncVectorEnv |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    medians = {what.split(" of ")[0]: statistics.median(each) for (what, _), each in costs.items()}
    rivals = [medians.get(rival, math.nan) for rival in ("ap_gym vector", "SyncVectorEnv")]
    for (what, lanes), each in costs.items():
        median = statistics.median(each)
        ratios = " | ".join(f"{rival / median:.2f}".replace("nan", "-") for rival in rivals)
        rates = f"{1 / median:,.0f} | {1 / max(each):,.0f} - {1 / min(each):,.0f}"
        lines.append(f"| {what} | {lanes} | {rates} | {ratios} |")
    return "\n".join(lines)


# Memory


def measure_memory(steps: int) -> Iterator[tuple[str, float]]:
    """Yield what was done and the growth [MB] that it caused, each measured in a new process."""
    made, stepped = "made and stepped, beyond the dataset", f"{steps:,} further steps"
    probes = {
        f"a 1024-lane vector env {made}": (1, 1024, 0),
        f"64 single envs {made}": (64, None, 0),
        f"{stepped} of a 64-lane vector env": (1, 64, steps),
    }
    for what, arguments in probes.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            yield what, pool.submit(measure_growth, *arguments).result()


def measure_growth(count: int, lanes: int | None, steps: int) -> float:
    """Return how much this process's resident size grows [MB].

    Args:
        count: Number of environments, each made and played for 20 episodes.
        lanes: Lanes of each vector environment; None makes single ones.
        steps: Measure the growth of this many further steps, over all lanes together; 0
            measures that of the making and the 20 episodes.
    """
    open_split("MNIST", "train").images.max()  # touches every page of the dataset
    for warm_up in (None, 1):  # imports and first calls don't count
        make_player(make_env(warm_up))()
    before = resident_mb()
    players = [make_player(make_env(lanes)) for _ in range(count)]
    for play in players * 20:
        play()
    if steps:
        before = resident_mb()
    while steps > 0:
        steps -= sum(play() for play in players)
    return resident_mb() - before


def resident_mb() -> float:
    """Return this process's resident size [MB]."""
    pages = int(STATM.read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
