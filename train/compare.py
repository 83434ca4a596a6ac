"""Compare algorithms fairly: `python train/compare.py --task SignpostGlimpse-v0`.

The protocol (train/comparison.toml) sets the algorithms, their budget of env steps, the seeds and
what is tuned. Every algorithm is tuned first, then run once per seed, each run a process with one
thread. A finished seed leaves a small folder in the results, from which the report is made.
Results that exist are not run again, so the same command resumes an interrupted comparison. A
run that was stopped, lost or killed continues from its checkpoint if its program can, and ends in
the same bytes. With --cluster slurm, runs are jobs of Slurm: docs/clusters.md.

A protocol names the programs that are run: use one only if you trust it as you would a script.

Any program can join. It is called with the words of the protocol, in which {env_id}, {seed},
{run_dir}, {env_steps} (the budget), {episodes} (the same in episodes), {num_glimpses} (env steps
per episode), {marks} (how many validations, evenly spaced, the last at the end) and {split} (the
final split) are filled in, and with `--name value` for each tuned setting. It must leave four files
in the run folder:

- config.json: an object. The report uses parameters (their number), commit, machine, python,
  versions, started (ISO 8601) and command. If sample is true, the run used the fallback sample of
  digits and is not kept. Optional: config, an object with the run's settings, and data, a text;
- metrics.csv (env_steps,tag,value): at each mark eval/error and eval/error_sampled, the errors [%]
  on the first 2,000 validation images in order, of the policy's mode and of its samples; optionally
  the metrics of agents.diagnostics.behaviour, which show how a policy fails;
- timing.csv with the columns env_steps,cpu_seconds: CPU time of training so far [s];
- result.json: split, and wrong out of total images of the whole split with the last weights.

The program must end with exit status 0, or 3 if a loss or weight became non-finite: the run then
counts as guessing. train/stock_ppo.py is an example. If a program saves on SIGTERM, and can resume
from the newest entry of the folder checkpoints in its run folder, the protocol may say how: give a
table with `start` and `resume` in place of a string; resume may use {run_dir} and all the others.

The exit status is 0 if all runs finished, 3 if one diverged, 1 if one failed.
"""

from __future__ import annotations

import agents.runs.extras  # noqa: F401 - reports a missing package in one line

# isort: split
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from msgspec import structs

from agents.runs.commands import DIVERGED, parse_flags, run
from agents.runs.files import make_folder
from agents.runs.machine import command_line
from agents.training import check_settings
from train.comparison import results, search
from train.comparison.clusters import JobConfig
from train.comparison.job import Job
from train.comparison.jobs import exit_on_signals, hold, run_jobs
from train.comparison.protocol import Algorithm, ComparedTask, Protocol, fill, read_protocol
from train.comparison.report import write_reports

MARKS = 10
"""Validations of a run."""

PROTOCOL = Path(__file__).with_name("comparison.toml")
STAGES = ("tune", "run", "report")


@dataclass(frozen=True)
class Config(JobConfig):
    """What to compare."""

    task: str = "SignpostGlimpse-v0"
    """Task of the protocol to compare on."""
    protocol: Path = PROTOCOL
    """TOML file with algorithms, budgets, seeds and spaces; it names programs that are run."""
    algorithms: tuple[str, ...] = ()
    """Names of the algorithms to run; by default all that the protocol has for the task."""
    seeds: int | None = None
    """Number of seeds to run, in the stage "run"; by default all of the protocol."""
    stages: tuple[Literal[STAGES], ...] = STAGES  # pyright: ignore[reportInvalidTypeForm]
    """Stages to go through: tune, run, report."""
    results: Path | None = None
    """Folder where finished seeds are kept; by default benchmarks/NAME for NAME.toml."""
    work_dir: Path = Path("runs/compare")
    """Folder for the runs; it can be deleted afterwards."""
    final_split: Literal["test", "validation"] = "test"
    """Split to evaluate the stored weights on, once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, {"at least 1": ("seeds",)})
        if not self.stages:
            raise ValueError(f"stages must be some of {', '.join(STAGES)}, got none")


class Planned(NamedTuple):
    """A run of an algorithm: a seed, which is kept in a folder, or a trial in a phase."""

    job: Job
    algorithm: Algorithm
    number: int
    settings: dict[str, Any]
    split: str
    kept: Path
    phase: str = ""


class Tuning(NamedTuple):
    """Where an algorithm's tuning is: the trials that ended by phase, and what comes next."""

    ended: dict[str, list[results.Trial]]
    missing: list[Planned]


def main(config: Config) -> None:
    """Tune, run and report what is missing."""
    exit_on_signals(config.cluster)
    comparison = Comparison(config, read_protocol(config.protocol))
    if config.work_dir.resolve() == comparison.results.resolve():
        raise ValueError(f"work_dir must be another folder than results, got {config.work_dir}")
    statuses = []
    make_folder(config.work_dir)
    make_folder(comparison.results)
    with ExitStack() as locks:
        for folder in (config.work_dir, comparison.results):
            lock = folder / f".{config.task}.lock"
            locks.enter_context(hold(lock, f"another comparison uses {folder}"))
        if "tune" in config.stages:
            statuses += comparison.tune()
        if "run" in config.stages:
            statuses += comparison.run_seeds()
        if "report" in config.stages:  # one for all environments
            lock = comparison.results / ".report.lock"
            with hold(lock, f"another report is made in {comparison.results}", seconds=300):
                written = write_reports(comparison.protocol, comparison.results)
                print(*written or [f"{comparison.results} holds no results"], sep="\n")
    if any(statuses):
        sys.exit(DIVERGED if set(statuses) <= {0, DIVERGED} else 1)


class Comparison:
    """The runs of a command line on one task of a protocol."""

    def __init__(self, config: Config, protocol: Protocol):
        self.config, self.protocol = config, protocol
        self.results = config.results or Path("benchmarks", config.protocol.stem)
        if config.task not in protocol.tasks:
            known = sorted(protocol.tasks)
            raise ValueError(f"task must be among {known}, got {config.task!r}")
        self.task = protocol.tasks[config.task]
        there = [algorithm.name for algorithm in protocol.on(self.task)]
        if unknown := sorted(set(config.algorithms) - set(there)):
            raise ValueError(f"algorithms must be among {sorted(there)}, got {unknown}")
        names = config.algorithms or there
        self.algorithms = [each for each in protocol.on(self.task) if each.name in names]
        most = max((self.task.for_algorithm(each).seeds for each in self.algorithms), default=0)
        if "run" in config.stages and (config.seeds or 0) > most:
            raise ValueError(f"seeds must be at most the protocol's {most}, got {config.seeds}")

    def tune(self) -> Iterator[int]:
        """Run the missing trials phase by phase, and yield an exit status for each trial."""
        tried: set[Job] = set()
        phases = [self.read_tuning(self.task, each).ended.values() for each in self.algorithms]
        stored = [*chain(*chain(*phases))]
        yield from (DIVERGED for trial in stored if trial.status == "diverged")
        for _ in results.PHASES:
            tunings = [self.read_tuning(self.task, each) for each in self.algorithms]
            planned = [each for tuning in tunings for each in tuning.missing]
            planned = [each for each in planned if each.job not in tried]  # else it failed
            tried |= {each.job for each in planned}
            for each, seed in self.run(planned):
                if seed is not None:
                    end = (seed.result.error, seed.result.status, each.job.called_as)
                    trial = results.Trial(each.number, each.settings, *end)
                    path = each.kept.with_name(f"{each.phase}.csv")
                    results.write_trials(path, [*results.read_trials(path), trial])
                yield exit_status(seed)
        if stored and not tried:
            print(f"all trials are stored in {self.results}: another --results FOLDER repeats them")

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
        wanted = {each.name: self.task.for_algorithm(each).seeds for each, _ in ready}
        for number in range(self.config.seeds or max(wanted.values(), default=0)):
            for algorithm, settings in ready:
                if number >= wanted[algorithm.name]:
                    continue
                each = self.plan(self.task, algorithm, number, settings)
                if (each.kept / "result.json").exists():
                    seed = results.read_seed(each.kept)
                    refuse_another(str(each.kept), seed.config.get("called_as"), each.job)
                    yield exit_status(seed)
                else:
                    planned.append(each)
        if len(ready) == len(self.algorithms) and not planned:
            print(f"all runs are stored in {self.results}: another --results FOLDER repeats them")
        for each, seed in self.run(planned):
            if seed is not None:
                results.write_seed(each.kept, seed)
            yield exit_status(seed)

    def run(self, planned: list[Planned]) -> Iterator[tuple[Planned, results.Seed | None]]:
        """Run programs, print a line as each ends, and yield what it left: None if it failed."""
        by_job, jobs = {each.job: each for each in planned}, (each.job for each in planned)
        for job in by_job:
            if job.holds_another():
                advice = "move it away, or choose another --work-dir"
                raise ValueError(f"{job.folder} holds a run of another command: {advice}")
        if planned:
            print(f"runs to do in {self.config.work_dir}: {len(planned)}", flush=True)
        with closing(run_jobs(lambda: next(jobs, None), self.config)) as all_ended:
            for count, ended in enumerate(all_ended, 1):
                line = f"{ended.job.name}, {ended.cpu_seconds:.0f} s: {ended.last_words}"
                print(f"{count} of {len(planned)}: {line}", flush=True)
                each, seed = by_job[ended.job], None
                try:
                    names = (each.algorithm.name, each.number)
                    chance_error = self.task.for_algorithm(each.algorithm).chance_error
                    seed = results.harvest(ended, *names, each.split, chance_error)
                except ValueError as error:
                    print(f"error: {ended.job.name}: {error}", file=sys.stderr)
                yield each, seed
                if ended.status in (0, DIVERGED):  # it is kept, or of no use
                    ended.job.forget()

    def plan(
        self,
        task: ComparedTask,
        algorithm: Algorithm,
        number: int,
        settings: dict[str, Any],
        *,
        phase: str = "",
    ) -> Planned:
        """Return the run of a seed, or of a trial in a phase of :data:`results.PHASES`."""
        name = f"{results.PHASES.get(phase, 'seed')}_{number}"
        place = Path(task.name, algorithm.name, name)
        env_steps = task.env_steps // 3 if phase == "trials" else task.env_steps
        split = "validation" if phase else self.config.final_split
        trial_seed = search.TRIAL_SEED + (phase == "finals")
        values = {
            "env_id": task.env_id,
            "seed": trial_seed if phase else number,
            "run_dir": self.config.work_dir / place,
            "env_steps": env_steps,
            "episodes": math.ceil(env_steps / task.num_glimpses),
            "num_glimpses": task.num_glimpses,
            "marks": 1 if phase else MARKS,
            "split": split,
        }
        program = self.protocol.programs[algorithm.program]
        words = fill(f"{program.start} {algorithm.flags}", **values)
        words += ["--curriculum", task.curriculum] if task.curriculum else []
        for flag, value in settings.items():
            words += [f"--{flag.replace('_', '-')}", str(value)]
        title = f"{algorithm.name}, {name.replace('_', ' ')}"
        resume = tuple(fill(program.resume, **values))
        job = Job(title, tuple(words), self.config.work_dir / place, resume)
        kept = self.results / place
        return Planned(job, algorithm, number, settings, split, kept, phase)

    def read_tuning(self, task: ComparedTask, algorithm: Algorithm) -> Tuning:
        """Return an algorithm's trials on a task that have ended, best first, and those to run."""
        tuning = Tuning({}, [])
        if not (settings := search.draw_trials(algorithm, task.trials)):
            return tuning

        def path_of(phase: str) -> Path:
            return results.trials_path(self.results, task.name, algorithm.name, phase)

        stored = results.tuning_phases(task, lambda phase: results.read_trials(path_of(phase)))
        for phase, numbers, ended in stored:
            for number in numbers:
                planned = self.plan(task, algorithm, number, settings[number], phase=phase)
                if (trial := ended.get(number)) is None:
                    tuning.missing.append(planned)
                else:
                    what = f"{path_of(phase)}, trial {number},"
                    refuse_another(what, trial.called_as, planned.job)
                    # A CSV file can't tell the text "1e3" from a number.
                    ended[number] = structs.replace(trial, settings=settings[number])
            tuning.ended[phase] = results.best_trials(ended.values())
        return tuning

    def tuned_settings(self, algorithm: Algorithm) -> dict[str, Any]:
        """Return the settings of the best trial; an incomplete tuning is a ValueError."""
        algorithm = self.protocol.algorithms.get(algorithm.tuned_as, algorithm)
        task = self.protocol.tuning_task(self.task)
        tuning = self.read_tuning(task, algorithm)
        phase, trials = next(reversed(tuning.ended.items()), ("", []))
        if missing := tuning.missing:
            count = f"{len(trials)} of {len(trials) + len(missing)} {phase}"
            flags = f"--task {task.name} --algorithms {algorithm.name} --stages tune"
            raise ValueError(
                f"{algorithm.name} has {count} on {task.name}. "
                f"Resume its tuning with: {command_line()} {flags}"
            )
        return trials[0].settings if trials else {}


def exit_status(seed: results.Seed | None) -> int:
    """Return the exit status for what a run left, None if it failed."""
    if seed is None:
        return 1
    return DIVERGED if seed.result.status == "diverged" else 0


def refuse_another(what: str, called_as: Any, job: Job) -> None:
    """Raise a ValueError if a result comes from another command than a job's."""
    if called_as != job.called_as:
        raise ValueError(
            f"{what} was run as {called_as!r}, but would now be run as {job.called_as!r}: "
            "move it away, or choose another --results"
        )


parse = partial(parse_flags, Config, description=__doc__)
"""Returns the settings of a command line."""


if __name__ == "__main__":
    run(main, parse)
