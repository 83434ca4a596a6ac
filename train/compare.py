"""Compare algorithms fairly: `python train/compare.py --env-id SignpostGlimpse-v0`.

The protocol (`train/comparison.toml`) names the algorithms, their budget of env steps, the seeds
and what is tuned. Every algorithm is tuned first, then run once a seed, each in a process with
one thread; a finished seed leaves a small folder below `benchmarks/results/`, from which the
report is made. What is found there is not run again: an interrupted comparison goes on when it is
called again, and a process that was killed is run again.

Any program can join. It is called with the words of the protocol, in which `{env_id}`, `{seed}`,
`{run_dir}`, `{env_steps}` (the budget), `{episodes}` (the same in episodes), `{marks}` (how often
to validate, evenly, the end included) and `{split}` (final split) are filled in, and with
`--name value` for each tuned setting. It must leave in the run folder

- `config.json`: an object; `parameters` (their number), `commit`, `machine`, `versions`, `started`
  (ISO 8601) go into the report; a run whose `sample` is true, on the fallback sample of digits, is
  not kept;
- `metrics.csv` (`env_steps,tag,value`): at each mark `eval/error` and `eval/error_sampled`, the
  error [%] on the first 2,000 validation images in order, of the policy's mode and of its samples;
  if it likes, what tells how it fails: see `agents.diagnostics.behaviour`;
- `timing.csv` with the columns `env_steps,cpu_seconds`: CPU time of training so far [s];
- `result.json`: `split`, and the last weights' `wrong` of `total` images on the whole of it;

and end with exit status 0, or 3 if its numbers were no numbers any more: it then counts as
guessing. `train/stock_ppo.py` is an example.

The exit status is 0 if all runs finished, 3 if one diverged, 1 if one failed.
"""

from __future__ import annotations

import agents.runs.extras  # noqa: F401 - reports a missing package in one line

# isort: split
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from filelock import FileLock, Timeout

from agents.runs.commands import DIVERGED, run
from agents.runs.files import make_folder
from train.comparison.jobs import Ended, Job, harvest, run_jobs
from train.comparison.protocol import Algorithm, Protocol, Task, fill, read_protocol
from train.comparison.report import write_reports
from train.comparison.results import (
    Trial,
    best_trial,
    read_seed,
    read_trials,
    seed_folder,
    trials_path,
    write_seed,
    write_trials,
)
from train.comparison.tuning import TRIAL_SEED, draw_trials

MARKS = 10
"""Validations of a run."""

PROTOCOL = Path(__file__).with_name("comparison.toml")
STAGES = ("tune", "run", "report")


@dataclass(frozen=True)
class Config:
    """What to compare."""

    env_id: str = "SignpostGlimpse-v0"
    """An environment of the protocol."""
    protocol: Path = PROTOCOL
    """Algorithms, budgets, seeds, spaces."""
    algorithms: tuple[str, ...] = ()
    """Only these; by default all that the protocol names for the environment."""
    seeds: int | None = None
    """Only the first so many; by default all of the protocol."""
    stages: tuple[Literal[STAGES], ...] = STAGES  # pyright: ignore[reportInvalidTypeForm]
    """What to do: tune, run, report."""
    results: Path = Path("benchmarks/results")
    """Where finished seeds lie for good."""
    work_dir: Path = Path("runs/compare")
    """Where run folders lie; can be deleted."""
    processes: int = os.cpu_count() or 1
    """Programs at a time, one thread each."""
    final_split: Literal["test", "validation"] = "test"
    """The split that the last weights are judged on, once."""

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("seeds", "processes"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


def main(config: Config) -> None:
    """Tune, run and report what isn't there yet."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    protocol = read_protocol(config.protocol)
    task, algorithms = choose(config, protocol)
    with only_here(config.work_dir, task.env_id), only_here(config.results, task.env_id):
        statuses = [*tune_and_run(config, protocol, task, algorithms)]
        if "report" in config.stages:
            with FileLock(config.results / ".report.lock"):  # it is of all environments
                for path in write_reports(protocol, config.results):
                    print(path)
    if any(statuses):
        sys.exit(DIVERGED if set(statuses) <= {0, DIVERGED} else 1)


@contextmanager
def only_here(folder: Path, env_id: str) -> Iterator[None]:
    """Keep a folder's part for an environment from other comparisons.

    Raises:
        ValueError: If another one writes there.
    """
    make_folder(folder)
    try:
        lock = FileLock(folder / f".{env_id}.lock").acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{folder} is in use: another comparison writes to it") from error
    with lock:
        yield


def choose(config: Config, protocol: Protocol) -> tuple[Task, list[Algorithm]]:
    """Return the task and who takes part.

    Raises:
        ValueError: If the protocol doesn't name them.
    """
    if config.env_id not in protocol.tasks:
        raise ValueError(f"env_id must be of {sorted(protocol.tasks)}, got {config.env_id!r}")
    task = protocol.tasks[config.env_id]
    there = {algorithm.name: algorithm for algorithm in protocol.on(task)}
    unknown = sorted(set(config.algorithms) - set(there))
    if unknown:
        raise ValueError(f"algorithms must be of {sorted(there)} on {task.env_id}, got {unknown}")
    return task, [there[name] for name in there if name in (config.algorithms or there)]


def tune_and_run(
    config: Config, protocol: Protocol, task: Task, algorithms: list[Algorithm]
) -> Iterator[int]:
    """Run what is missing and yield an exit status for each program.

    Raises:
        ValueError: If a seed lies there that was run otherwise.
    """
    if "tune" in config.stages:
        yield from tune(config, protocol, task, algorithms)
    if "run" in config.stages:
        yield from run_seeds(config, protocol, task, algorithms)


def tune(
    config: Config, protocol: Protocol, task: Task, algorithms: list[Algorithm]
) -> Iterator[int]:
    """Try the configurations that haven't been tried, at a third of the budget."""
    jobs: dict[Job, tuple[Algorithm, int, dict[str, Any], list[Trial]]] = {}
    for algorithm in algorithms:
        done = read_tuning(config, protocol, task, algorithm)
        tried = {trial.number for trial in done}
        yield from (DIVERGED for trial in done if trial.status == "diverged")
        for number, settings in enumerate(draw_trials(algorithm, task.trials)):
            if number not in tried:
                job = trial_job(config, protocol, task, algorithm, number, settings)
                jobs[job] = (algorithm, number, settings, done)
    for ended in with_news(run_jobs(jobs, config.processes), len(jobs)):
        found = try_harvest(ended, "validation", task)
        if found is not None:
            algorithm, number, settings, done = jobs[ended.job]
            end = (found[2].error, found[2].status)
            done.append(Trial(number, settings, *end, called_as(ended.job)))
            write_trials(trials_path(config.results, task.env_id, algorithm.name), done)
        yield DIVERGED if ended.status == DIVERGED else int(found is None)


def read_tuning(
    config: Config, protocol: Protocol, task: Task, algorithm: Algorithm
) -> list[Trial]:
    """Return the trials that have been run of an algorithm's tuning on a task.

    Raises:
        ValueError: If one was run otherwise than the protocol says now.
    """
    path = trials_path(config.results, task.env_id, algorithm.name)
    drawn = draw_trials(algorithm, task.trials)
    trials = [trial for trial in read_trials(path) if trial.number < len(drawn)]
    for trial in trials:
        settings = drawn[trial.number]
        job = trial_job(config, protocol, task, algorithm, trial.number, settings)
        refuse_another(f"{path}, trial {trial.number},", trial.called_as, job)
    return trials


def trial_job(
    config: Config,
    protocol: Protocol,
    task: Task,
    algorithm: Algorithm,
    number: int,
    settings: dict[str, Any],
) -> Job:
    """Return the program of a trial."""
    folder = config.work_dir / task.env_id / algorithm.name / f"trial_{number}"
    budget = task.env_steps // 3
    words = make_command(
        protocol, task, algorithm, settings, folder, TRIAL_SEED, budget, "validation", 1
    )
    return Job(f"{algorithm.name}, trial {number}", words, folder)


def run_seeds(
    config: Config, protocol: Protocol, task: Task, algorithms: list[Algorithm]
) -> Iterator[int]:
    """Run the seeds that aren't there, the first seed of all algorithms first."""
    jobs: dict[Job, Path] = {}
    tuned: dict[str, dict[str, Any]] = {}
    for algorithm in algorithms:
        try:
            tuned[algorithm.name] = tuned_settings(config, protocol, task, algorithm)
        except ValueError as error:  # the others can go on
            print(f"error: {error}")
            yield 1
    for seed in range(min(config.seeds or task.seeds, task.seeds)):
        for algorithm in algorithms:
            name = algorithm.name
            if name not in tuned:
                continue
            folder = config.work_dir / task.env_id / name / f"seed_{seed}"
            words = make_command(
                protocol, task, algorithm, tuned[name], folder, seed, task.env_steps,
                config.final_split,
            )  # fmt: skip
            job = Job(f"{name}, seed {seed}", words, folder)
            kept = seed_folder(config.results, task.env_id, name, seed)
            if not (kept / "result.json").exists():
                jobs[job] = kept
                continue
            there = read_seed(kept)
            refuse_another(str(kept), there.config.get("called_as"), job)
            yield DIVERGED if there.result.status == "diverged" else 0
    for ended in with_news(run_jobs(jobs, config.processes), len(jobs)):
        found = try_harvest(ended, config.final_split, task)
        if found is not None:
            settings, curve, result = found
            settings["called_as"] = called_as(ended.job)
            write_seed(jobs[ended.job], settings, curve, result)
        yield DIVERGED if ended.status == DIVERGED else int(found is None)


def refuse_another(what: str, was: Any, job: Job) -> None:
    """Raise a ValueError if a result is of another command than the protocol's."""
    if was != called_as(job):
        raise ValueError(
            f"{what} was run as {was!r}, which is not what the protocol says now, "
            f"{called_as(job)!r}: move it away to run it again"
        )


def make_command(
    protocol: Protocol,
    task: Task,
    algorithm: Algorithm,
    settings: dict[str, Any],
    run_dir: Path,
    seed: int,
    env_steps: int,
    split: str,
    marks: int = MARKS,
) -> tuple[str, ...]:
    """Return the words that a program is called with."""
    words = fill(
        f"{protocol.programs[algorithm.program]} {algorithm.flags}",
        env_id=task.env_id,
        seed=seed,
        run_dir=run_dir,
        env_steps=env_steps,
        episodes=math.ceil(env_steps / task.num_glimpses),
        marks=marks,
        split=split,
    )
    for flag, value in settings.items():
        words += [f"--{flag.replace('_', '-')}", str(value)]
    return tuple(words)


def called_as(job: Job) -> str:
    """Return a program's command as it is kept beside a result, without this machine's folders."""
    return " ".join(job.command).replace(str(job.run_dir), "RUN_DIR")


def tuned_settings(
    config: Config, protocol: Protocol, task: Task, algorithm: Algorithm
) -> dict[str, Any]:
    """Return an algorithm's settings of the lowest validation error in its tuning.

    Raises:
        ValueError: If the tuning isn't complete, or was run otherwise than the protocol says.
    """
    if algorithm.tuned_as:
        return tuned_settings(config, protocol, task, protocol.algorithms[algorithm.tuned_as])
    source = protocol.tuning_of(task)
    wanted = len(draw_trials(algorithm, source.trials))
    if not wanted:
        return {}
    trials = read_tuning(config, protocol, source, algorithm)
    if len(trials) < wanted:
        raise ValueError(
            f"{algorithm.name} has {len(trials)} of {wanted} trials on {source.env_id}: "
            f"python train/compare.py --env-id {source.env_id} --stages tune"
        )
    best = best_trial(trials)
    assert best is not None
    return best.settings


def with_news(programs: Iterator[Ended], total: int) -> Iterator[Ended]:
    """Print a line for each program that has ended."""
    for count, ended in enumerate(programs, 1):
        print(f"{count} of {total}: {ended.job.name}, {ended.cpu_seconds:.0f} s: {ended.last_line}")
        sys.stdout.flush()
        yield ended


def try_harvest(ended: Ended, split: str, task: Task) -> Any:
    """Return what a program left, or None, and say why, if it failed."""
    if ended.status not in (0, DIVERGED):
        print(f"error: {ended.job.name} ended with status {ended.status}: {ended.job.output}")
        return None
    try:
        return harvest(ended, split, task.chance_error)
    except ValueError as error:
        print(f"error: {ended.job.name}: {error}")
        return None


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line."""
    return tyro.cli(Config, args=arguments, description=__doc__)


if __name__ == "__main__":
    run(main, parse)
