"""Search for good settings with Optuna: `python train/sweep.py --trials 50`.

Every trial trains with `train/reinforce.py`, one process with one thread a seed, and its value is
the mean of the seeds' final validation errors; test is never looked at. The first trial has the
project's defaults. Flags after `--` are passed on to every training, and change what the defaults
are: `python train/sweep.py --study lstm -- --core lstm --bf16`.

The study lies in a journal file. A second call goes on until the total of trials is reached; one
at the same time, in another terminal, helps. A trial that is interrupted, by a signal or because
its process was killed, does not count, and its settings are tried again.

Pruning. All trials begin with the same seed, and that first run is validated at the same marks in
each; there, and only there, trials are compared on the way. A trial is given up when its best
error so far is above the median, over all finished trials, of the error at the same mark (Optuna's
MedianPruner); one that gets through has its other seeds run whole. None is given up before five
trials have finished, nor before mark 4 of 10: the learning rate falls along a cosine and the
location std geometrically, so that errors early on favour values that are small from the start.
Seeds count from 1000: none that is reported elsewhere.

A run that diverges counts as guessing, in a mean with the trial's other seeds, and its trial is
finished; the report names it. A run that fails otherwise is told, with the file of what it
printed; its trial counts as failed, and the exit status is 1 in the end.

The report (`--report` alone makes it anew) is a CSV of all trials with a JSON beside it, of which
`docs/sweep.py` draws a figure.
"""

from __future__ import annotations

import agents.runs.extras  # noqa: F401 - reports a missing package in one line

# isort: split
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import optuna
import tyro
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

import ram_env
from agents.runs.commands import Stop, run
from agents.runs.files import make_folder
from agents.runs.machine import commit, describe_machine
from train import reinforce
from train.comparison.sweep_runs import Attempt, make_flags
from train.comparison.sweeps import (
    COUNTED,
    Sweep,
    best_trial,
    default_trial,
    load_study,
    write_report,
)

SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(2e-4, 5e-3, log=True),
    "std": FloatDistribution(0.05, 0.5, log=True),
    "num_envs": CategoricalDistribution((64, 128, 256)),
    "policy_coef": FloatDistribution(0.02, 1.0, log=True),
    "discount": FloatDistribution(0.0, 1.0),
}
ENDED = ("finished", "pruned", "failed")
FIRST_SEED = 1000
OWN = {
    *SPACE,
    *("final_std", "env_id", "total_episodes", "seed", "threads", "run_dir", "resume"),
    *("final_split", "num_validations"),
}
"""Settings of a training that are not passed on, because they are the sweep's."""


@dataclass(frozen=True)
class Config:
    """What to search, and how long."""

    study: str | None = None
    """Name of the study in the journal; by default the environment's id."""
    env_id: str = "ClutteredMNISTGlimpse-v0"
    """A registered environment."""
    trials: int = 50
    """In the whole study: finished, pruned and failed ones, of earlier calls, too."""
    total_episodes: int = 550_000
    """Training episodes of a run."""
    seeds: int = 1
    """Runs a trial."""
    num_validations: int = 10
    """How often a run is validated, the end included: its marks."""
    startup_trials: int = 5
    """Finished trials before one is pruned."""
    warmup_marks: int = 4
    """The first mark at which a trial is pruned; more than there are for no pruning."""
    sampler_seed: int = 0
    """Of what is tried."""
    processes: int = os.cpu_count() or 1
    """Trials at a time, each with one training, of one thread."""
    journal: Path | None = None
    """Of the study; by default ENV_ID.journal in the work_dir."""
    work_dir: Path = Path("runs/sweep")
    """Where a folder of each study's runs lies, and the journal by default."""
    results: Path | None = None
    """The report's CSV; by default benchmarks/results/sweeps/STUDY.csv."""
    report: bool = False
    """Only write the report of the study as it is."""
    program: str | None = None
    """Another program to train with, called as train/reinforce.py is."""
    poll_seconds: float = 1.0
    """Between two looks at the runs under way [s]."""
    flags: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Further flags of every training."""

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("trials", "total_episodes", "seeds", "num_validations", "processes"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("startup_trials", "warmup_marks", "sampler_seed"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not 0 < self.poll_seconds < math.inf:
            raise ValueError(f"poll_seconds must be positive, got {self.poll_seconds}")
        if self.env_id not in ram_env.TASKS:
            raise ValueError(f"env_id must be of {sorted(ram_env.TASKS)}, got {self.env_id!r}")
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"study must be of letters, digits, _, . and -, got {self.study!r}")
        for flag in self.flags:
            name = flag.split("=")[0].removeprefix("--").replace("-", "_")
            if flag.startswith("--") and name in OWN:
                raise ValueError(f"flags must not hold {flag}: the sweep sets {name} itself")

    @property
    def name(self) -> str:
        """The study's name."""
        return self.env_id if self.study is None else self.study

    @property
    def journal_file(self) -> Path:
        """Where the study lies."""
        return self.journal or self.work_dir / f"{self.env_id}.journal"

    @property
    def report_file(self) -> Path:
        """Where the report goes."""
        return self.results or Path("benchmarks/results/sweeps") / f"{self.name}.csv"

    @property
    def folder(self) -> Path:
        """Where the trials' folders lie; can be deleted when the study is complete."""
        return self.work_dir / self.name


def main(config: Config) -> None:
    """Search until the total is reached, unless only the report is wanted, and report."""
    failures = 0 if config.report else search(config)
    study = load_study(config.journal_file, config.name)
    best, default = best_trial(study), default_trial(study)
    command = None
    if best is not None:
        words = make_flags(study.user_attrs["settings"], best.params)
        command = shlex.join(["python", "train/reinforce.py", *words])
    write_report(study, config.report_file, command)
    print(config.report_file)
    if best is None:
        print("no trial has finished")
    else:
        told = "not finished" if default is None else f"{default.value:.2f} %"
        print(f"best: trial {best.number}, {best.value:.2f} % (the defaults: {told})")
        print(command)
    if failures:
        sys.exit(1)


def search(config: Config) -> int:
    """Run trials, several at a time, until the study has its total; return how many failed."""
    pruner = optuna.pruners.MedianPruner(config.startup_trials, config.warmup_marks)
    settings, defaults = choose_settings(config), choose_defaults(config)
    make_folder(config.journal_file.parent)
    sweep = Sweep(
        config.journal_file, config.name, SPACE, settings, defaults, pruner, config.sampler_seed
    )
    if not sweep.count(*COUNTED, "interrupted") and config.folder.exists():
        raise ValueError(f"{config.folder} holds trials of another study: move it away")
    sweep.note_session({**describe_machine(commit()), "optuna": version("optuna")})
    failures, under_way = 0, list[Attempt]()
    with Stop() as stop:
        try:
            while begin(config, sweep, settings, under_way):
                time.sleep(config.poll_seconds)
                stop.check()
                for attempt in tuple(under_way):
                    attempt.look()
                    if attempt.state is not None:
                        under_way.remove(attempt)
                        failures += attempt.state == TrialState.FAIL
                        print(f"{sweep.count(*ENDED)} of {config.trials}: {attempt.news}")
                        sys.stdout.flush()
        finally:
            interrupt(under_way)
    return failures


def begin(
    config: Config, sweep: Sweep, settings: Mapping[str, Any], under_way: list[Attempt]
) -> bool:
    """Begin as many trials as there is room for; return whether any is under way."""
    while len(under_way) < config.processes:
        if (trial := sweep.begin(config.trials)) is None:
            break
        program = shlex.split(config.program or "") or [sys.executable, reinforce.__file__]
        under_way.append(Attempt(program, config.folder, sweep, trial, settings))
    return bool(under_way)


def interrupt(under_way: list[Attempt]) -> None:
    """Stop all trials, side by side, and leave their settings to be tried again."""
    for attempt in under_way:
        attempt.terminate()
    for attempt in under_way:
        attempt.put_back()


def choose_settings(config: Config) -> dict[str, Any]:
    """Return what must be the same for all trials of a study, ready for JSON."""
    env = gymnasium.make_vec(config.env_id, num_envs=1, split="validation")
    assert isinstance(env, ram_env.GlimpseVectorEnv)
    names = ("env_id", "total_episodes", "num_validations", "startup_trials", "warmup_marks")
    return {
        **{name: getattr(config, name) for name in (*names, "sampler_seed", "program")},
        "seeds": [FIRST_SEED + k for k in range(config.seeds)],
        "flags": list(config.flags),
        "chance_error": 100 * (1 - 1 / env.num_classes),  # what diverging counts as [%]
    }


def choose_defaults(config: Config) -> dict[str, Any]:
    """Return the settings that a training with the sweep's flags would have of itself."""
    base = reinforce.parse([*config.flags, "--env-id", config.env_id])
    defaults = {name: getattr(base, name) for name in SPACE}
    for name, value in defaults.items():
        if not holds(SPACE[name], value):
            raise ValueError(f"{name}={value}, the default, lies outside of {SPACE[name]}")
    return defaults


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Say whether a value is of a distribution of the space."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution)
    return distribution.low <= value <= distribution.high


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line; what follows ``--`` goes to the trainings."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    config = tyro.cli(Config, args=arguments[:cut], description=__doc__)
    return replace(config, flags=tuple(arguments[cut + 1 :]))


if __name__ == "__main__":
    run(main, parse)
