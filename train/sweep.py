"""Search for good settings of train/reinforce.py with Optuna.

`python train/sweep.py --trials 50` trains one run per seed in each trial, each run a process with
one thread; with --cluster slurm, a job of Slurm (docs/clusters.md). A trial's value is the mean of
its seeds' final validation errors; the test split is never used. The first trial has the project's
defaults. Flags after `--` go to every training, the first included:
`python train/sweep.py --study lstm -- --core lstm`.

The study is kept in the JSON file next to the report. Calling the sweep again continues it until it
has its total of trials. Only one sweep at a time can use it: to run trials side by side, give
--parallel. A trial that a signal or a crash interrupted is run again, and resumes its runs.

Pruning: all trials begin with the same seed, and that first run is validated at the same marks in
each. A trial is given up when its best error so far is above the median, over all finished trials,
of the error at the same mark (Optuna's MedianPruner); the other seeds of a trial that gets through
run to their end. No trial is given up before five have finished, nor before mark 4 of 10: schedules
make early errors favour low learning rates and stds. Seeds count from 1000.

A run that diverges counts as guessing in its trial's mean, and the report marks it. A run that
fails otherwise makes its trial count as failed, and the exit status of the sweep is 1.

The report is a CSV of all trials. To draw a study, pass
`train.comparison.search.load_study(JSON)` to `optuna.visualization.matplotlib.plot_slice`.
"""

from __future__ import annotations

from train import startup  # noqa: F401 - before slow imports

# isort: split
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import tyro
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

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
    """Name of the study; by default the environment's name."""
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
    work_dir: Path = Path("runs/sweep")
    """Folder for the runs of each study and, by default, for the report."""
    results: Path | None = None
    """CSV file of the report, next to which is the study; by default STUDY.csv in the work_dir."""
    report: bool = False
    """Write the report of the study as it is, and run nothing."""
    program: str | None = None
    """Program to train with instead of train/reinforce.py; it must take the same flags."""
    flags: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Further flags of every training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("trials", "total_episodes", "seeds", "num_validations")
        counts = ("startup_trials", "warmup_marks", "sampler_seed")
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
    def name(self) -> str:
        """The study's name, by default the environment's without the module that registers it."""
        return self.env_id.rpartition(":")[2] if self.study is None else self.study

    @property
    def folder(self) -> Path:
        """The folder of the trials; it can be deleted when the study is complete."""
        return self.work_dir / self.name

    @property
    def report_path(self) -> Path:
        """The file of the report."""
        return self.results or self.work_dir / f"{self.name}.csv"


class Sweep:
    """Begins a search's trials, follows them at their marks, and notes how they end."""

    def __init__(self, config: Config, held: search.Search):
        self._config, self._search, self._settings = config, held, held.study.settings
        self._seeds, self._marks = self._settings["seeds"], self._settings["num_validations"]
        self._running: dict[Job, search.Trial] = {}
        # trials with a seed to run: the seeds of one are trained one after another
        self._next = [trial for trial in held.study.trials if trial.state == "running"]

    def next_job(self) -> Job | None:
        """Return the next training: another seed of a trial, or the first of a new one."""
        trial = self._next.pop(0) if self._next else self._search.ask(self._config.trials)
        if trial is None:
            return None
        seed = self._seeds[len(trial.seed_errors)]
        folder = self._config.folder / f"trial_{trial.number:04}" / f"seed_{seed}"
        program = shlex.split(self._config.program or "") or ["python", reinforce.__file__]
        resume = (*program, "--resume", str(folder), "--env-id", self._settings["env_id"])
        words = program + make_flags(self._settings, self._search.study.values(trial))
        words += ["--seed", str(seed), "--run-dir", str(folder), "--threads", "1"]
        words += ["--final-split", "none", "--num-validations", str(self._marks)]
        job = Job(f"seed {seed}", tuple(words), folder, resume)
        self._running[job] = trial
        return job

    def falls_behind(self, job: Job) -> bool:
        """Take in a running trial's new marks; return whether it is to be given up."""
        errors = read_errors(job.folder)[: self._marks - 1]  # at the last mark the run is over
        return self._take_marks(self._running[job], errors, may_prune=True)

    def end(self, ended: Ended) -> str | None:
        """Take in how a run ended; return a line if its trial has ended with it."""
        trial, errors = self._running.pop(ended.job), read_errors(ended.job.folder)
        diverged = ended.status == DIVERGED
        may_prune = len(self._seeds) > 1 and ended.status == 0
        if trial.state == "pruned" or self._take_marks(trial, errors, may_prune=may_prune):
            how = f" at mark {len(trial.marks)}, {trial.marks[-1]:.2f} %"
            return self._end(trial, "pruned", how)
        failure = f"{ended.job.name} {ended.how}, see {ended.job.output}"
        if ended.status is None:  # the trial stays open: it is interrupted
            return f"trial {trial.number} failed: {failure}; the same command resumes it"
        if not diverged and (ended.status or not errors):
            trial.failure = failure
            return self._end(trial, "failed", f": {failure}")
        trial.diverged += [self._seeds[len(trial.seed_errors)]] * diverged
        trial.seed_errors.append(self._settings["chance_error"] if diverged else errors[-1])
        if len(trial.seed_errors) < len(self._seeds):
            self._next.append(trial)
            return None
        return self._end(trial, "finished", f", {trial.value:.2f} %")

    def _take_marks(self, trial: search.Trial, errors: Sequence[float], *, may_prune: bool) -> bool:
        """Take in the first seed's new marks; return whether to prune the trial."""
        for error in errors[len(trial.marks) :] if not trial.seed_errors else ():
            if self._search.falls_behind(trial, error) and may_prune:
                trial.state = "pruned"
                return True
        return False

    def _end(self, trial: search.Trial, state: Any, how: str) -> str:
        """Note that a trial has ended, and return a line about it."""
        self._search.end(trial, state)
        values = ", ".join(f"{k} {v}" for k, v in self._search.study.values(trial).items())
        return f"trial {trial.number} {state}{how} ({values})"


def main(config: Config) -> None:
    """Search until the study has its total, unless only the report is wanted, and report."""
    path = config.report_path.with_suffix(".json")
    failures = 0 if config.report else search_settings(config, path)
    study = search.load(path, config.name)
    best, lines = study.best(), ["no trial has finished"]
    if best is not None:
        words = make_flags(study.settings, study.values(best))
        program = study.settings["program"] or "python train/reinforce.py"
        default = study.trials[0]
        reference = f"{default.value:.2f} %" if default.state == "finished" else "not finished"
        line = f"best: trial {best.number}, {best.value:.2f} % (the defaults: {reference})"
        lines = [line, shlex.join([*shlex.split(program), *words])]
    search.write_report(study, config.report_path)
    print(config.report_path, *lines, sep="\n")
    if failures:
        sys.exit(1)


def search_settings(config: Config, path: Path) -> int:
    """Run trials until the study has its total; return how many failed."""
    exit_on_signals(config.cluster)
    pruner = optuna.pruners.MedianPruner(config.startup_trials, config.warmup_marks)
    settings = choose_settings(config)
    space = {name: SPACE[name] for name in settings["defaults"]}
    failures = 0
    study = (path, config.name, space, settings, pruner, config.sampler_seed)
    with search.open_search(*study) as held:
        if not held.study.trials and config.folder.exists():
            raise ValueError(f"{config.folder} holds trials of another study: move it away")
        held.study.sessions.append({**describe_machine(commit()), "optuna": version("optuna")})
        sweep = Sweep(config, held)
        with closing(run_jobs(sweep.next_job, config, sweep.falls_behind)) as jobs:
            for line in filter(None, map(sweep.end, jobs)):
                ended = sum(trial.ended != "" for trial in held.study.trials)
                print(f"{ended} of {config.trials}: {line}", flush=True)
                failures += " failed: " in line
    return failures


def choose_settings(config: Config) -> dict[str, Any]:
    """Return what must be the same for all trials of a study, ready for JSON.

    Among it are the defaults of what is searched: what a training with the sweep's flags uses.
    A default outside the space is a ValueError.
    """
    base = reinforce.parse([*config.flags, "--env-id", config.env_id])
    if base.price is not None:
        raise ValueError("flags must leave out allow_stop and glimpse_cost: trials rank by error")
    used = [name for name in SPACE if base.users.get(name, (True,))[0]]
    defaults = {name: getattr(base, name) for name in used}
    try:
        space = {name: SPACE[name] for name in used}
        optuna.trial.create_trial(params=defaults, distributions=space, value=0.0)
    except ValueError as error:
        raise ValueError(f"the defaults must lie in the space that is searched: {error}") from error
    num_classes = make_vector_env(config.env_id, 1, split="validation", **base.keywords).num_classes
    names = ("env_id", "total_episodes", "num_validations", "startup_trials", "warmup_marks")
    return {
        **{name: getattr(config, name) for name in (*names, "sampler_seed", "program")},
        "seeds": [FIRST_SEED + k for k in range(config.seeds)],
        "flags": list(config.flags),
        "defaults": defaults,
        "chance_error": 100 * (1 - 1 / num_classes),  # a run that diverged counts as this [%]
    }


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
