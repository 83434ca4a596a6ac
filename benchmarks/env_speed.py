"""How fast the environments step and what memory they take, on one core.

    python benchmarks/env_speed.py --json env_speed.json

prints the machine, a Markdown table and the memory growth. The task is
ClutteredMNISTGlimpse-v0 (60 x 60 canvases, 12 x 12 glimpses at 3 scales, 8 glimpses an
episode) with random valid actions drawn beforehand; everything else is inside the measured
time: action checks, infos, resets, fresh canvases. Candidates take turns (A B C A B C ...),
so that a drift of the machine hits all alike.

The rows of ap_gym need that package (``pip install ap_gym aiohttp pillow``) and are left out,
with a line that says so, where it is not installed.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium
import torch
import tyro
from gymnasium.vector import AutoresetMode

import ram_env
from agents.runs.machine import commit, describe_machine
from ram_env.data import open_split

ENV_ID = "ClutteredMNISTGlimpse-v0"
NUM_GLIMPSES = int(ram_env.TASKS[ENV_ID][1]["num_glimpses"])
NUM_BATCHES = 16  # of actions drawn beforehand, cycled
STATM = Path("/proc/self/statm")  # a process's memory, on Linux
NOTES_ON_AP_GYM = """\
ap_gym plays the validation split's canvases, handed to it ready-made (it paints none), with a
glimpse of the same side but one scale (ours has three), and 8 moves an episode. An action moves
the glimpse a little instead of placing it, and the reward is a cross-entropy. It is made as its
own MNIST is, with its log wrapper. All its lanes end together and are reset by one more step,
which is counted as steps, in its favour. Its prefetching thread is off: it would work during
the other candidates' turns."""


@dataclass(frozen=True)
class Config:
    """Settings of the benchmark; every one is a flag."""

    repetitions: int = 7
    """Turns that each candidate takes; the table shows their median."""
    seconds: float = 1.0
    """Length of a turn (whole episodes are played until it is over)."""
    memory_steps: int = 1_000_000
    """Environment steps over which memory must not grow; 0 leaves the memory out."""
    json: Path | None = None
    """Also write everything to this file."""

    def __post_init__(self) -> None:
        """Check what would fail late."""
        if self.repetitions < 1:
            raise ValueError(f"repetitions must be at least 1, got {self.repetitions}")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds must be positive, got {self.seconds}")
        if self.json and not self.json.parent.is_dir():
            raise ValueError(f"{self.json} cannot be written: there is no folder there")
        if self.memory_steps and not STATM.exists():
            raise ValueError(f"memory_steps must be 0 here: there is no {STATM} to read")


@dataclass
class Candidate:
    """Something that steps."""

    what: str
    lanes: int
    play: Callable[[], int]
    """Plays one episode in every lane and returns the steps that took, of all lanes."""
    rates: list[float] = field(default_factory=list)
    """Steps a second, one entry a turn."""

    @property
    def median(self) -> float:
        """Median steps a second."""
        return statistics.median(self.rates)


def main(config: Config) -> None:
    """Measure, print and write."""
    pin_to_one_core()
    facts = describe()
    print("\n".join(f"- {name}: {value}" for name, value in facts.items()), end="\n\n")

    candidates = our_candidates() + ap_gym_candidates()
    take_turns(candidates, config.repetitions, config.seconds)
    print(table(candidates), end="\n\n")
    if find(candidates, "ap_gym vector"):
        print(NOTES_ON_AP_GYM, end="\n\n")

    growth = measure_memory(config.memory_steps) if config.memory_steps else {}
    for what, megabytes in growth.items():
        print(f"- memory growth, {what}: {megabytes:.1f} MB")
    if config.json:
        speeds = [
            {"what": c.what, "lanes": c.lanes, "median": c.median, "rates": c.rates}
            for c in candidates
        ]
        report = {"config": asdict(config), "machine": facts, "steps_per_second": speeds}
        report["memory_growth_mb"] = growth
        config.json.write_text(json.dumps(report, indent=2, default=str) + "\n")


# Candidates


def our_candidates() -> list[Candidate]:
    """Return the vector env with more and more lanes, the single env and its SyncVectorEnv."""
    native = [
        Candidate("ram_env vector", lanes, make_player(lanes)) for lanes in (1, 64, 256, 1024)
    ]
    sync = gymnasium.make_vec(
        ENV_ID, 64, "sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    return [
        *native,
        Candidate("ram_env single (gym.make)", 1, make_player(None)),
        Candidate("SyncVectorEnv of ram_env singles", 64, vector_player(sync)),
    ]


def ap_gym_candidates() -> list[Candidate]:
    """Return ap_gym's image classification on our canvases; empty if it isn't installed."""
    try:
        import ap_gym  # pyright: ignore[reportMissingImports]
        from ap_gym.envs import image, registration  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"ap_gym is left out: {error} (pip install ap_gym aiohttp pillow)\n")
        return []
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
    vector = vector_player(ap_gym.make_vec("Canvases-v0", 64), calls=NUM_GLIMPSES + 1)
    return [
        Candidate("ap_gym vector", 64, vector),
        Candidate("ap_gym single (make)", 1, single_player(ap_gym.make("Canvases-v0"))),
    ]


def vector_player(env: Any, calls: int = NUM_GLIMPSES) -> Callable[[], int]:
    """Return a function that plays one episode in every lane, relying on autoreset.

    Args:
        env: A vector environment whose lanes run in step.
        calls: Calls of ``step`` from one episode's start to the next one's.
    """
    actions = draw_actions(env.action_space)
    env.reset(seed=0)

    def play() -> int:
        terminated = [env.step(next(actions))[2] for _ in range(calls)]  # (calls, N)
        assert terminated[NUM_GLIMPSES - 1].all()
        return calls * env.num_envs

    return play


def single_player(env: Any) -> Callable[[], int]:
    """Return a function that resets the environment and plays one episode."""
    actions = draw_actions(env.action_space)
    env.reset(seed=0)

    def play() -> int:
        env.reset()
        terminated = [env.step(next(actions))[2] for _ in range(NUM_GLIMPSES)]
        assert terminated[-1]
        return NUM_GLIMPSES

    return play


def draw_actions(space: gymnasium.Space[Any]) -> Iterator[Any]:
    """Draw a few actions, or batches of them, and repeat them for ever."""
    space.seed(0)
    return itertools.cycle([space.sample() for _ in range(NUM_BATCHES)])


# Speed


def take_turns(candidates: list[Candidate], repetitions: int, seconds: float) -> None:
    """Fill in the candidates' rates, after a short turn that does not count."""
    for candidate in candidates:
        time_turn(candidate.play, seconds / 5)
    for _ in range(repetitions):
        for candidate in candidates:
            candidate.rates.append(time_turn(candidate.play, seconds))


def time_turn(play: Callable[[], int], seconds: float) -> float:
    """Play whole episodes for at least so long; return steps a second."""
    steps, start, elapsed = 0, time.perf_counter(), 0.0
    while elapsed < seconds:
        steps += play()
        elapsed = time.perf_counter() - start
    return steps / elapsed


def table(candidates: list[Candidate]) -> str:
    """Return the Markdown table."""
    lines = [
        "| what | lanes | steps/s, median | min - max | / ap_gym vector | / SyncVectorEnv |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    rivals = [find(candidates, "ap_gym vector"), find(candidates, "SyncVectorEnv")]
    for c in candidates:
        ratios = [f"{c.median / rival.median:.2f}" if rival else "-" for rival in rivals]
        spread = f"{min(c.rates):,.0f} - {max(c.rates):,.0f}"
        cells = [c.what, str(c.lanes), f"{c.median:,.0f}", spread, *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def find(candidates: list[Candidate], start: str) -> Candidate | None:
    """Return the candidate whose name starts so, if any."""
    return next((c for c in candidates if c.what.startswith(start)), None)


# Memory


def measure_memory(steps: int) -> dict[str, float]:
    """Return how much the resident size grows [MB], by what was done, each in a new process."""
    made, stepped = "made and stepped, beyond the dataset", f"{steps:,} further steps"
    probes = {
        f"a 1024-lane vector env {made}": (0, 1, 1024, 0),
        f"64 single envs {made}": (0, 64, None, 0),
        f"{stepped} of a 64-lane vector env": (1, 1, 64, steps),
    }
    growth = {}
    for what, (part, *arguments) in probes.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            growth[what] = pool.submit(grow, *arguments).result()[part]
    return growth


def grow(count: int, lanes: int | None, steps: int) -> tuple[float, float]:
    """Return the growth [MB] by making environments and playing 20 episodes, and by more steps.

    Args:
        count: Environments.
        lanes: Of each vector environment; None for single ones.
        steps: Steps to make after the 20 episodes, of all lanes together.
    """
    open_split("MNIST", "train").images.max()  # touches every page of the dataset
    for warm_up in (make_player(None), make_player(1)):  # imports and first calls aside, too
        warm_up()
    start = resident_mb()
    players = [make_player(lanes) for _ in range(count)]
    for play in players * 20:
        play()
    made, done = resident_mb(), 0
    while done < steps:
        done += sum(play() for play in players)
    return made - start, resident_mb() - made


def make_player(lanes: int | None) -> Callable[[], int]:
    """Make our vector environment, or the single one for None, and its player."""
    if lanes is None:
        return single_player(gymnasium.make(ENV_ID))
    return vector_player(gymnasium.make_vec(ENV_ID, lanes))


def resident_mb() -> float:
    """Return this process's resident size [MB] (Linux)."""
    pages = int(STATM.read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


# Machine


def pin_to_one_core() -> None:
    """Keep this process, and those it starts, on one core."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def describe() -> dict[str, Any]:
    """Return what a reader needs to judge the numbers."""
    facts = describe_machine(commit())
    try:
        facts["versions"]["ap_gym"] = version("ap_gym")
    except PackageNotFoundError:
        facts["versions"]["ap_gym"] = "none"
    return {**facts, "data": open_split("MNIST", "train").source}


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
