"""Search for good settings of train/reinforce.py with Optuna.

`python train/sweep.py --trials 50` trains one run per seed in each trial, each run a process with
one thread; with --cluster slurm, a job of Slurm (docs/clusters.md). A trial's value is the mean of
its seeds' final validation errors; the test split is never used. The first trial has the project's
defaults. Flags after `--` go to every training, the first included:
`python train/sweep.py --study lstm -- --core lstm`.

The study is kept in a journal file. Calling the sweep again continues it until it has its total of
trials. Only one sweep at a time can use a journal: to run trials side by side, give --parallel. A
trial that a signal or a crash interrupted doesn't count: its settings are tried again, in a trial
that resumes its runs.

Pruning: all trials begin with the same seed, and that first run is validated at the same marks in
each. A trial is given up when its best error so far is above the median, over all finished trials,
of the error at the same mark (Optuna's MedianPruner); the other seeds of a trial that gets through
run to their end. No trial is given up before five have finished, nor before mark 4 of 10: schedules
make early errors favour low learning rates and stds. Seeds count from 1000.

A run that diverges counts as guessing in its trial's mean, and the report marks it. A run that
fails otherwise makes its trial count as failed, and the exit status of the sweep is 1.

The report is a CSV of all trials with a JSON file next to it. To draw a study, pass
`train.comparison.search.load_study(JOURNAL, NAME)` to `optuna.visualization.matplotlib.plot_slice`.
"""

from __future__ import annotations

import train.startup  # noqa: F401 - what must come before slow imports

# isort: split
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import tyro
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

import ram_env
from agents.runs.commands import DIVERGED, parse_flags, run
from agents.runs.machine import commit, describe_machine
from agents.training import check_settings
from train import reinforce
from train.comparison import search
from train.comparison.job import Job
from train.comparison.jobs import Ended, JobConfig, exit_on_signals, run_jobs
from train.keywords import make_vector_env

SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(2e-4, 5e-3, log=True),
    "std": FloatDistribution(0.05, 0.5, log=True),
    "num_envs": CategoricalDistribution((128, 256, 512)),
    "policy_coef": FloatDistribution(0.02, 1.0, log=True),
    "discount": FloatDistribution(0.0, 1.0),
}
FINAL_STD = 0.03
"""Final location std of every trial, or its first std if that is lower."""
FIRST_SEED = 1000
ENDED = ("finished", "pruned", "failed")
OWN = {
    *SPACE,
    *("final_std", "env_id", "total_episodes", "seed", "threads", "run_dir", "resume"),
    *("final_split", "num_validations", "preset"),
}
"""Settings of a training that the sweep sets itself, and what holds some of them."""


@dataclass(frozen=True)
class Config(JobConfig):
    """What to search, and how long."""

    study: str | None = None
    """Name of the study in the journal; by default the environment's name."""
    env_id: str = "ClutteredMNISTGlimpse-v0"
    """Registered glimpse environment; my_module:Mine-v0 imports a module first."""
    trials: int = 50
    """Total number of trials in the study, those of earlier calls included."""
    total_episodes: int = 550_000
    """Training episodes per run."""
    seeds: int = 1
    """Runs per trial."""
    num_validations: int = 10
    """Validations per run, evenly spaced, the last at the end: its marks."""
    startup_trials: int = 5
    """Number of trials that must have finished before one is pruned."""
    warmup_marks: int = 4
    """First mark at which a trial is pruned; above num_validations: never."""
    sampler_seed: int = 0
    """Random seed of the settings that are tried."""
    journal: Path | None = None
    """File that holds the study; by default ENV.journal in the work_dir."""
    work_dir: Path = Path("runs/sweep")
    """Folder for the runs of each study and, by default, for the journal and the report."""
    results: Path | None = None
    """CSV file of the report; by default STUDY.csv in the work_dir."""
    report: bool = False
    """Write the report of the study as it is, and run nothing."""
    program: str | None = None
    """Program to train with instead of train/reinforce.py; it must take the same flags."""
    poll_seconds: float = 1.0
    """Time between two looks at the running trials [s]."""
    flags: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Further flags of every training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("trials", "total_episodes", "seeds", "num_validations")
        counts = ("startup_trials", "warmup_marks", "sampler_seed", "poll_seconds")
        check_settings(self, {"at least 1": positive, "at least 0": counts})
        if self.results is not None and self.results.suffix != ".csv":
            raise ValueError(f"results must end in .csv, got {self.results}")
        ram_env.find_task(self.env_id)  # raises if it isn't a glimpse environment
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"study must be of letters, digits, _, . and -, got {self.name!r}")
        for flag in self.flags:
            name = flag.split("=")[0].removeprefix("--").replace("-", "_")
            if flag.startswith("--") and name in OWN:
                what = "much of what a preset holds" if name == "preset" else name
                raise ValueError(f"flags must not hold {flag}: the sweep itself sets {what}")

    @property
    def env_name(self) -> str:
        """The environment's id without the module that registers it."""
        return self.env_id.rpartition(":")[2]

    @property
    def name(self) -> str:
        """The study's name."""
        return self.env_name if self.study is None else self.study

    @property
    def folder(self) -> Path:
        """The folder of the trials; it can be deleted when the study is complete."""
        return self.work_dir / self.name


@dataclass
class RunningTrial:
    """A trial whose seeds are trained one after another."""

    trial: optuna.Trial
    errors: list[float] = field(default_factory=list)  # final ones of the seeds so far [%]
    marks: int = 0  # of the first seed, that the study knows
    pruned: bool = False


class Sweep:
    """Begins a search's trials, follows them at their marks, and tells the study how they end."""

    def __init__(self, config: Config, held: search.Search, settings: Mapping[str, Any]):
        self._config, self._search, self._settings = config, held, settings
        self._seeds, self._marks = settings["seeds"], settings["num_validations"]
        self._running: dict[Job, RunningTrial] = {}
        self._next: list[RunningTrial] = []  # those with another seed to run

    def next_job(self) -> Job | None:
        """Return the next training: another seed of a trial, or the first of a new one."""
        if self._next:
            running = self._next.pop(0)
        elif (trial := self._search.ask(self._config.trials)) is not None:
            running = RunningTrial(trial)
        else:
            return None
        seed = self._seeds[len(running.errors)]
        number = running.trial.user_attrs.get("continues", running.trial.number)
        folder = self._config.folder / f"trial_{number:04}" / f"seed_{seed}"
        program = shlex.split(self._config.program or "") or ["python", reinforce.__file__]
        resume = (*program, "--resume", str(folder), "--env-id", self._settings["env_id"])
        words = program + make_flags(self._settings, search.rounded(running.trial))
        words += ["--seed", str(seed), "--run-dir", str(folder), "--threads", "1"]
        words += ["--final-split", "none", "--num-validations", str(self._marks)]
        job = Job(f"seed {seed}", tuple(words), folder, resume)
        self._running[job] = running
        return job

    def falls_behind(self, job: Job) -> bool:
        """Report a running trial's new marks; return whether it is to be given up."""
        running = self._running[job]
        errors = read_errors(job.folder)[: self._marks - 1]  # at the last mark the run is over
        return self._report_marks(running, errors, may_prune=True)

    def end(self, ended: Ended) -> str | None:
        """Take in how a run ended; return a line if its trial has ended with it."""
        running, errors = self._running.pop(ended.job), read_errors(ended.job.folder)
        diverged = ended.status == DIVERGED
        may_prune = len(self._seeds) > 1 and ended.status == 0
        if running.pruned or self._report_marks(running, errors, may_prune=may_prune):
            how = f"pruned at mark {running.marks}, {errors[running.marks - 1]:.2f} %"
            return self._tell(running, TrialState.PRUNED, how)
        failure = f"{ended.job.name} {ended.how}, see {ended.job.output}"
        if ended.status is None:  # the trial stays open: it is interrupted
            return f"trial {running.trial.number} failed: {failure}; the same command resumes it"
        if not diverged and (ended.status or not errors):
            running.trial.set_user_attr("failure", failure)
            return self._tell(running, TrialState.FAIL, f"failed: {failure}")
        if diverged:
            seeds = running.trial.user_attrs.get("diverged", [])
            seeds = [*seeds, self._seeds[len(running.errors)]]
            running.trial.set_user_attr("diverged", seeds)
        running.errors.append(self._settings["chance_error"] if diverged else errors[-1])
        running.trial.set_user_attr("seed_errors", running.errors)
        if len(running.errors) < len(self._seeds):
            self._next.append(running)
            return None
        value = sum(running.errors) / len(running.errors)
        return self._tell(running, TrialState.COMPLETE, f"finished, {value:.2f} %", value)

    def _report_marks(
        self, running: RunningTrial, errors: Sequence[float], *, may_prune: bool
    ) -> bool:
        """Report the first seed's new marks to the study; return whether to prune the trial."""
        for error in errors[running.marks :] if not running.errors else ():
            running.marks += 1
            running.trial.report(error, running.marks)
            if may_prune and running.trial.should_prune():
                running.pruned = True
                break
        return running.pruned

    def _tell(
        self, running: RunningTrial, state: TrialState, how: str, value: float | None = None
    ) -> str:
        """Tell the study how a trial ended, and return a line about it."""
        self._search.study.tell(running.trial, value, state)
        values = ", ".join(f"{k} {v}" for k, v in search.rounded(running.trial).items())
        return f"trial {running.trial.number} {how} ({values})"


def main(config: Config) -> None:
    """Search until the study has its total, unless only the report is wanted, and report."""
    journal = config.journal or config.work_dir / f"{config.env_name}.journal"
    failures = 0 if config.report else search_settings(config, journal)
    study = search.load_study(journal, config.name)
    best, default = search.best_and_default(study)
    lines, command = ["no trial has finished"], None
    if best is not None:
        words = make_flags(study.user_attrs["settings"], search.rounded(best))
        program = study.user_attrs["settings"]["program"] or "python train/reinforce.py"
        command = shlex.join([*shlex.split(program), *words])
        reference = "not finished" if default is None else f"{default.value:.2f} %"
        line = f"best: trial {best.number}, {best.value:.2f} % (the defaults: {reference})"
        lines = [line, command]
    report = config.results or config.work_dir / f"{config.name}.csv"
    search.write_report(study, report, command)
    print(report, *lines, sep="\n")
    if failures:
        sys.exit(1)


def search_settings(config: Config, journal: Path) -> int:
    """Run trials until the study has its total; return how many failed."""
    exit_on_signals(config.cluster)
    pruner = optuna.pruners.MedianPruner(config.startup_trials, config.warmup_marks)
    settings, defaults = choose_settings(config), choose_defaults(config)
    space = {name: SPACE[name] for name in defaults}
    study = (journal, config.name, space, settings, defaults, pruner, config.sampler_seed)
    failures = 0
    with search.open_search(*study) as held:
        if not held.count(*search.COUNTED, "interrupted") and config.folder.exists():
            raise ValueError(f"{config.folder} holds trials of another study: move it away")
        session = {**describe_machine(commit()), "optuna": version("optuna")}
        sessions = held.study.user_attrs.get("sessions", [])
        held.study.set_user_attr("sessions", [*sessions, session])
        sweep = Sweep(config, held, settings)
        looks = {"give_up": sweep.falls_behind, "poll_seconds": config.poll_seconds}
        with closing(run_jobs(sweep.next_job, config, **looks)) as jobs:
            for line in filter(None, map(sweep.end, jobs)):
                print(f"{held.count(*ENDED)} of {config.trials}: {line}", flush=True)
                failures += " failed: " in line
    return failures


def choose_settings(config: Config) -> dict[str, Any]:
    """Return what must be the same for all trials of a study, ready for JSON."""
    base = reinforce.parse([*config.flags, "--env-id", config.env_id])
    if base.price is not None:
        raise ValueError("flags must leave out allow_stop and glimpse_cost: trials rank by error")
    num_classes = make_vector_env(config.env_id, 1, split="validation", **base.keywords).num_classes
    names = ("env_id", "total_episodes", "num_validations", "startup_trials", "warmup_marks")
    return {
        **{name: getattr(config, name) for name in (*names, "sampler_seed", "program")},
        "seeds": [FIRST_SEED + k for k in range(config.seeds)],
        "flags": list(config.flags),
        "chance_error": 100 * (1 - 1 / num_classes),  # a run that diverged counts as this [%]
    }


def choose_defaults(config: Config) -> dict[str, Any]:
    """Return the defaults of what is searched: what a training with the sweep's flags uses.

    A default outside the space is a ValueError.
    """
    base = reinforce.parse([*config.flags, "--env-id", config.env_id])
    used = [name for name in SPACE if base.users.get(name, (True,))[0]]
    defaults = {name: getattr(base, name) for name in used}
    try:
        space = {name: SPACE[name] for name in used}
        optuna.trial.create_trial(params=defaults, distributions=space, value=0.0)
    except ValueError as error:
        raise ValueError(f"the defaults must lie in the space that is searched: {error}") from error
    return defaults


def make_flags(settings: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    """Return the flags of a training: the study's, then the trial's."""
    own = {"env_id": settings["env_id"], "total_episodes": settings["total_episodes"]}
    own |= params
    own["final_std"] = min(own["std"], FINAL_STD)
    words = list(settings["flags"])
    for name, value in own.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def read_errors(run_dir: Path) -> list[float]:
    """Return a run's validation errors so far, one per mark [%]."""
    try:
        lines = (run_dir / "metrics.csv").read_text().split("\n")[:-1]  # whole ones
    except FileNotFoundError:  # no mark yet; a training that starts over may delete its folder now
        return []
    rows = [line.split(",") for line in lines]
    return [float(row[2]) for row in rows if row[1:2] == ["eval/error"]]


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line; the words after ``--`` go to the trainings."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    config = parse_flags(Config, arguments[:cut], description=__doc__)
    return replace(config, flags=tuple(arguments[cut + 1 :]))


if __name__ == "__main__":
    run(main, parse)
