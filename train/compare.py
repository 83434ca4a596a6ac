"""Compare algorithms fairly: `python train/compare.py --task SignpostGlimpse-v0`.

The protocol (train/comparison.toml) sets the algorithms, their budget of env steps, the seeds and
what is tuned. Every algorithm is tuned first, then run once per seed, each run a process with one
thread. A finished seed leaves a line in seeds.jsonl of the results, of which the report is made.
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

from train import startup  # noqa: F401 - before slow imports

# isort: split
import math
import signal
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock

from agents.runs.commands import DIVERGED, parse_flags, run
from agents.runs.files import make_folder
from agents.runs.machine import command_line
from agents.training import check_settings
from train.comparison.harvest import harvest
from train.comparison.job import Job
from train.comparison.jobs import Ended, JobConfig, run_jobs
from train.comparison.protocol import Algorithm, ComparedTask, Protocol, fill, read_protocol
from train.comparison.report import write_reports
from train.comparison.results import Seed, Trial, add_line, path_of, read_lines
from train.comparison.tuning import PHASES, TRIAL_SEED, draw_trials, tuning_phases

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
    """Most seeds to run, in the stage "run"; by default all of the protocol."""
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


Settings = dict[str, Any]
"""Tuned settings by flag."""


class Planned(NamedTuple):
    """A run of an algorithm: a seed, or a trial in a phase of its tuning."""

    job: Job
    algorithm: Algorithm
    number: int
    settings: Settings
    split: str
    phase: str = ""


def main(config: Config) -> None:
    """Tune, run and report what is missing."""
    if status := Comparison(config, read_protocol(config.protocol)).carry_out():
        sys.exit(status)


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

    def carry_out(self) -> int:
        """Go through the stages, alone on the task in both folders; return the exit status."""
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        statuses: list[int] = []
        with ExitStack() as locks:
            for folder in (self.config.work_dir, self.results):
                make_folder(folder)
                locks.enter_context(FileLock(folder / f".{self.task.name}.lock", timeout=0))
            for name, stage in (("tune", self.tune), ("run", self.run_seeds)):
                statuses += stage() if name in self.config.stages else []
            if "report" in self.config.stages:  # one for all tasks
                with FileLock(self.results / ".report.lock"):
                    written = write_reports(self.protocol, self.results)
                print(*written or [f"{self.results} holds no results"], sep="\n")
        return max(statuses, default=0) if set(statuses) <= {0, DIVERGED} else 1

    def tune(self) -> list[int]:
        """Run the missing trials phase by phase; return an exit status for each trial."""
        names, tried = {each.name for each in self.algorithms}, set[Job]()
        stored = read_lines(Trial, self.results, self.task.name)
        stored = [each for each in stored if each.algorithm in names]
        statuses = [DIVERGED * (trial.status == "diverged") for trial in stored]
        while planned := [
            planned
            for algorithm in self.algorithms
            for planned in self.read_tuning(self.task, algorithm)[1]
            if planned.job not in tried
        ]:
            tried |= {each.job for each in planned}
            statuses += self.run(planned)
        return statuses

    def run_seeds(self) -> list[int]:
        """Run the missing seeds, the first of all algorithms first; return all exit statuses."""
        stored = {
            (seed.algorithm, seed.number): seed
            for seed in read_lines(Seed, self.results, self.task.name)
        }
        statuses: list[int] = []
        planned: list[Planned] = []
        for algorithm in self.algorithms:
            try:
                settings = self.tuned_settings(algorithm)
            except ValueError as error:  # the others can run
                print(f"error: {error}", file=sys.stderr)
                statuses.append(1)
                continue
            wanted = self.task.for_algorithm(algorithm).seeds
            for number in range(min(self.config.seeds or wanted, wanted)):
                each = self.plan(self.task, algorithm, number, settings)
                if (seed := stored.get((algorithm.name, number))) is None:
                    planned.append(each)
                else:
                    path = path_of(Seed, self.results, self.task.name)
                    refuse_another(path, each.job, seed.config.get("called_as"))
                    statuses.append(DIVERGED * (seed.result.status == "diverged"))
        if stored:
            print(f"not run again: what is stored in {self.results}; --results FOLDER changes that")
        return statuses + self.run(sorted(planned, key=lambda each: each.number))

    def run(self, planned: list[Planned]) -> list[int]:
        """Run programs and keep what they leave; print a line and return a status for each."""
        by_job = {each.job: each for each in planned}
        if planned:
            print(f"runs to do in {self.config.work_dir}: {len(planned)}", flush=True)
        statuses: list[int] = []
        with closing(run_jobs([*by_job], self.config)) as all_ended:
            for ended in all_ended:
                line = f"{ended.job.name}, {ended.cpu_seconds:.0f} s: {ended.last_words}"
                print(f"{len(statuses) + 1} of {len(planned)}: {line}", flush=True)
                statuses.append(self.keep(by_job[ended.job], ended))
                if ended.status in (0, DIVERGED):  # it is kept, or of no use
                    ended.job.forget()
        return statuses

    def keep(self, planned: Planned, ended: Ended) -> int:
        """Keep what a run has left, unless it failed; return its exit status."""
        algorithm, number, settings = planned.algorithm, planned.number, planned.settings
        chance_error = self.task.for_algorithm(algorithm).chance_error
        try:
            seed = harvest(ended, algorithm.name, number, planned.split, chance_error)
        except ValueError as error:
            print(f"error: {planned.job.name}: {error}", file=sys.stderr)
            return 1
        line, error, status = seed, seed.result.error, seed.result.status
        if planned.phase:
            tried = (planned.phase, number, settings, error, status)
            line = Trial(algorithm.name, *tried, planned.job.called_as)
        add_line(line, self.results, self.task.name)
        return ended.status or 0

    def plan(
        self,
        task: ComparedTask,
        algorithm: Algorithm,
        number: int,
        settings: Settings,
        phase: str = "",
    ) -> Planned:
        """Return the run of a seed, or of a trial in a phase of :data:`PHASES`."""
        name = f"{PHASES.get(phase, 'seed')}_{number}"
        folder = self.config.work_dir / task.name / algorithm.name / name
        env_steps = task.env_steps // 3 if phase == "trials" else task.env_steps
        split = "validation" if phase else self.config.final_split
        values = {
            "env_id": task.env_id,
            "seed": TRIAL_SEED + (phase == "finals") if phase else number,
            "run_dir": folder,
            "env_steps": env_steps,
            "episodes": math.ceil(env_steps / task.num_glimpses),
            "num_glimpses": task.num_glimpses,
            "marks": 1 if phase else MARKS,
            "split": split,
        }
        program = self.protocol.programs[algorithm.program]
        extra = ["--curriculum", task.curriculum] if task.curriculum else []
        for flag, value in settings.items():
            extra += [f"--{flag.replace('_', '-')}", str(value)]

        def command(start: str) -> tuple[str, ...]:
            return (*fill(f"{start} {algorithm.flags}", **values), *extra) if start else ()

        title = f"{algorithm.name}, {name.replace('_', ' ')}"
        resume = tuple(fill(program.resume, **values))
        job = Job(title, command(program.start), folder, resume, command(program.formerly))
        return Planned(job, algorithm, number, settings, split, phase)

    def read_tuning(
        self, task: ComparedTask, algorithm: Algorithm
    ) -> tuple[list[Trial], list[Planned]]:
        """Return the trials of a tuning's last phase, best first, and those to run next."""
        settings = draw_trials(algorithm, task.trials)
        best, missing = list[Trial](), list[Planned]()
        path = path_of(Trial, self.results, task.name)
        stored = read_lines(Trial, self.results, task.name)
        stored = [each for each in stored if each.algorithm == algorithm.name]
        for phase, numbers, best in tuning_phases(task, stored) if settings else ():
            ended = {trial.number: trial for trial in best}
            planned = [self.plan(task, algorithm, k, settings[k], phase) for k in numbers]
            missing = [each for each in planned if each.number not in ended]
            for each in planned:
                if each.number in ended:
                    refuse_another(path, each.job, ended[each.number].called_as)
        return best, missing

    def tuned_settings(self, algorithm: Algorithm) -> Settings:
        """Return the settings of the best trial; an incomplete tuning is a ValueError."""
        algorithm = self.protocol.algorithms.get(algorithm.tuned_as, algorithm)
        task = self.protocol.tuning_task(self.task)
        best, missing = self.read_tuning(task, algorithm)
        if missing:
            count = f"{len(best)} of {len(best) + len(missing)} {missing[0].phase}"
            flags = f"--task {task.name} --algorithms {algorithm.name} --stages tune"
            raise ValueError(
                f"{algorithm.name} has {count} on {task.name}. "
                f"Resume its tuning with: {command_line()} {flags}"
            )
        return best[0].settings if best else {}


def refuse_another(path: Path, job: Job, called_as: Any) -> None:
    """Raise a ValueError if a stored result comes from another command than a job's."""
    if not job.was_called(called_as):
        raise ValueError(
            f"{path}: {job.name} was run as {called_as!r}, but would now be run as "
            f"{job.called_as!r}: delete its line, or choose another --results"
        )


parse = partial(parse_flags, Config, description=__doc__)
"""Returns the settings of a command line."""


if __name__ == "__main__":
    run(main, parse)
