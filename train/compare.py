"""Compare algorithms fairly: `python train/compare.py --env-id SignpostGlimpse-v0`.

The protocol (train/comparison.toml) sets the algorithms, their budget of env steps, the seeds and
what is tuned. Every algorithm is tuned first, then run once per seed, each run a process with one
thread. A finished seed leaves a small folder in the results, from which the report is made.
Results that are there are not run again, so the same command resumes an interrupted comparison;
a run that was killed is run again from its start.

A protocol names the programs that are run: use one only if you trust it as you would a script.

Any program can join. It is called with the words of the protocol, in which {env_id}, {seed},
{run_dir}, {env_steps} (the budget), {episodes} (the same in episodes), {marks} (how often to
validate, evenly spaced, the end included) and {split} (the final split) are filled in, and with
`--name value` for each tuned setting. It must leave four files in the run folder:

- config.json: an object. The report uses parameters (their number), commit, machine, python,
  versions, started (ISO 8601) and command; if sample is true, the run used the fallback sample of
  digits and is not kept;
- metrics.csv (env_steps,tag,value): at each mark eval/error and eval/error_sampled, the errors [%]
  on the first 2,000 validation images in order, of the policy's mode and of its samples; optionally
  the metrics of agents.diagnostics.behaviour, which show how a policy fails;
- timing.csv with the columns env_steps,cpu_seconds: CPU time of training so far [s];
- result.json: split, and wrong out of total images of the whole split with the last weights.

It must end with exit status 0, or 3 if a loss or weight became non-finite: it then counts as
guessing. train/stock_ppo.py is an example.

The exit status is 0 if all runs finished, 3 if one diverged, 1 if one failed.
"""

from __future__ import annotations

import agents.runs.extras  # noqa: F401 - reports a missing package in one line

# isort: split
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from agents.runs.commands import DIVERGED, run
from agents.runs.files import make_folder
from agents.runs.machine import command_line
from train.comparison import results, search
from train.comparison.jobs import Job, exit_on_signals, hold, run_jobs
from train.comparison.protocol import Algorithm, ComparedTask, Protocol, fill, read_protocol
from train.comparison.report import write_reports

MARKS = 10
"""Validations of a run."""

PROTOCOL = Path(__file__).with_name("comparison.toml")
STAGES = ("tune", "run", "report")


@dataclass(frozen=True)
class Config:
    """What to compare."""

    env_id: str = "SignpostGlimpse-v0"
    """Environment of the protocol to compare on."""
    protocol: Path = PROTOCOL
    """TOML file with algorithms, budgets, seeds and spaces; it names programs that are run."""
    algorithms: tuple[str, ...] = ()
    """Names of the algorithms to run; by default all that the protocol has for the environment."""
    seeds: int | None = None
    """Number of seeds to run; by default all of the protocol."""
    stages: tuple[Literal[STAGES], ...] = STAGES  # pyright: ignore[reportInvalidTypeForm]
    """Stages to go through: tune, run, report."""
    results: Path = Path("benchmarks/results")
    """Folder where finished seeds are kept."""
    work_dir: Path = Path("runs/compare")
    """Folder for the runs; it can be deleted afterwards."""
    processes: int = os.cpu_count() or 1
    """Programs that run side by side, with one thread each."""
    final_split: Literal["test", "validation"] = "test"
    """Split to evaluate the last weights on, once."""

    def __post_init__(self) -> None:
        for name in ("seeds", "processes"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


class Planned(NamedTuple):
    """A run of an algorithm: a trial of its tuning, or a seed, which is kept in a folder."""

    job: Job
    algorithm: Algorithm
    number: int
    settings: dict[str, Any]
    split: str
    kept: Path


def main(config: Config) -> None:
    """Tune, run and report what is missing."""
    exit_on_signals()
    comparison = Comparison(config, read_protocol(config.protocol))
    statuses = []
    make_folder(config.work_dir)
    make_folder(config.results)
    with ExitStack() as locks:
        for folder in (config.work_dir, config.results):
            lock = folder / f".{config.env_id}.lock"
            locks.enter_context(hold(lock, f"another comparison uses {folder}"))
        if "tune" in config.stages:
            statuses += comparison.tune()
        if "run" in config.stages:
            statuses += comparison.run_seeds()
        if "report" in config.stages:  # one for all environments
            lock = config.results / ".report.lock"
            with hold(lock, f"another report is made in {config.results}"):
                for path in write_reports(comparison.protocol, config.results):
                    print(path)
    if any(statuses):
        sys.exit(DIVERGED if set(statuses) <= {0, DIVERGED} else 1)


class Comparison:
    """The runs of a command line on one task of a protocol."""

    def __init__(self, config: Config, protocol: Protocol):
        self.config, self.protocol = config, protocol
        if config.env_id not in protocol.tasks:
            known = sorted(protocol.tasks)
            raise ValueError(f"env_id must be among {known}, got {config.env_id!r}")
        self.task = protocol.tasks[config.env_id]
        there = [algorithm.name for algorithm in protocol.on(self.task)]
        if unknown := sorted(set(config.algorithms) - set(there)):
            raise ValueError(f"algorithms must be among {sorted(there)}, got {unknown}")
        names = config.algorithms or there
        self.algorithms = [each for each in protocol.on(self.task) if each.name in names]

    def tune(self) -> Iterator[int]:
        """Run the missing trials, and yield an exit status for each trial."""
        planned, trials = [], {}
        for algorithm in self.algorithms:
            ended, missing = self.read_tuning(self.task, algorithm)
            trials[algorithm.name], planned = ended, planned + missing
            yield from (DIVERGED for trial in ended if trial.status == "diverged")
        for each, seed in self.run(planned):
            if seed is not None:
                end = (seed.result.error, seed.result.status, each.job.called_as)
                ended = trials[each.algorithm.name]
                ended.append(results.Trial(each.number, each.settings, *end))
                results.write_trials(each.kept.with_name("trials.csv"), ended)
            yield exit_status(seed)

    def run_seeds(self) -> Iterator[int]:
        """Run the missing seeds, the first of all algorithms first; yield their exit statuses."""
        ready: list[tuple[Algorithm, dict[str, Any]]] = []
        for algorithm in self.algorithms:
            try:
                ready.append((algorithm, self.tuned_settings(algorithm)))
            except ValueError as error:  # the others can run
                print(f"error: {error}", file=sys.stderr)
                yield 1
        planned = []
        for number in range(min(self.config.seeds or self.task.seeds, self.task.seeds)):
            for algorithm, settings in ready:
                each = self.plan(self.task, algorithm, number, settings)
                if (each.kept / "result.json").exists():
                    seed = results.read_seed(each.kept)
                    refuse_another(str(each.kept), seed.config.get("called_as"), each.job)
                    yield exit_status(seed)
                else:
                    planned.append(each)
        for each, seed in self.run(planned):
            if seed is not None:
                results.write_seed(each.kept, seed)
            yield exit_status(seed)

    def run(self, planned: list[Planned]) -> Iterator[tuple[Planned, results.Seed | None]]:
        """Run programs, print a line as each ends, and yield what it left: None if it failed."""
        by_job, jobs = {each.job: each for each in planned}, (each.job for each in planned)
        with closing(run_jobs(lambda: next(jobs, None), self.config.processes)) as all_ended:
            for count, ended in enumerate(all_ended, 1):
                line = f"{ended.job.name}, {ended.cpu_seconds:.0f} s: {ended.last_line}"
                print(f"{count} of {len(planned)}: {line}", flush=True)
                each, seed = by_job[ended.job], None
                try:
                    names = (each.algorithm.name, each.number)
                    seed = results.harvest(ended, *names, each.split, self.task.chance_error)
                except ValueError as error:
                    print(f"error: {ended.job.name}: {error}", file=sys.stderr)
                yield each, seed

    def plan(
        self,
        task: ComparedTask,
        algorithm: Algorithm,
        number: int,
        settings: dict[str, Any],
        *,
        trial: bool = False,
    ) -> Planned:
        """Return the run of a seed, or of a trial at a third of the budget."""
        name = f"{'trial' if trial else 'seed'}_{number}"
        place = Path(task.env_id, algorithm.name, name)
        env_steps = task.env_steps // 3 if trial else task.env_steps
        split = "validation" if trial else self.config.final_split
        words = fill(
            f"{self.protocol.programs[algorithm.program]} {algorithm.flags}",
            env_id=task.env_id,
            seed=search.TRIAL_SEED if trial else number,
            run_dir=self.config.work_dir / place,
            env_steps=env_steps,
            episodes=math.ceil(env_steps / task.num_glimpses),
            marks=1 if trial else MARKS,
            split=split,
        )
        for flag, value in settings.items():
            words += [f"--{flag.replace('_', '-')}", str(value)]
        title = f"{algorithm.name}, {name.replace('_', ' ')}"
        job = Job(title, tuple(words), self.config.work_dir / place)
        return Planned(job, algorithm, number, settings, split, self.config.results / place)

    def read_tuning(
        self, task: ComparedTask, algorithm: Algorithm
    ) -> tuple[list[results.Trial], list[Planned]]:
        """Return an algorithm's trials on a task that have ended, and the runs of the others."""
        path = results.trials_path(self.config.results, task.env_id, algorithm.name)
        planned = [
            self.plan(task, algorithm, number, settings, trial=True)
            for number, settings in enumerate(search.draw_trials(algorithm, task.trials))
        ]
        ended = {t.number: t for t in results.read_trials(path) if t.number < len(planned)}
        for number, trial in ended.items():
            refuse_another(f"{path}, trial {number},", trial.called_as, planned[number].job)
        return list(ended.values()), [each for each in planned if each.number not in ended]

    def tuned_settings(self, algorithm: Algorithm) -> dict[str, Any]:
        """Return the settings of the best trial; an incomplete tuning is a ValueError."""
        algorithm = self.protocol.algorithms.get(algorithm.tuned_as, algorithm)
        task = self.protocol.tuning_task(self.task)
        trials, missing = self.read_tuning(task, algorithm)
        if missing:
            count = f"{len(trials)} of {len(trials) + len(missing)} trials"
            flags = f"--env-id {task.env_id} --algorithms {algorithm.name} --stages tune"
            raise ValueError(
                f"{algorithm.name} has {count} on {task.env_id}. "
                f"Resume its tuning with: {command_line()} {flags}"
            )
        best = results.best_trial(trials)
        return best.settings if best else {}


def exit_status(seed: results.Seed | None) -> int:
    """Return the exit status for what a run left, None if it failed."""
    if seed is None:
        return 1
    return DIVERGED if seed.result.status == "diverged" else 0


def refuse_another(what: str, called_as: Any, job: Job) -> None:
    """Raise a ValueError if a result comes from another command than the protocol's."""
    if called_as != job.called_as:
        raise ValueError(
            f"{what} was run as {called_as!r}, but the protocol now says {job.called_as!r}: "
            "move it away to run it again"
        )


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line."""
    return tyro.cli(Config, args=arguments, description=__doc__)


if __name__ == "__main__":
    run(main, parse)
