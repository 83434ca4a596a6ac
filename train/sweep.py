"""Search for good settings of train/reinforce.py.

`python train/sweep.py --trials 50` is the tuning of train/compare.py for one algorithm. Settings
drawn at random are tried at a third of the budget, after the defaults. The best few are run again
at the whole budget with another seed, and the best of these is printed as a command. Errors are
those on the validation split; the test split is never used. Flags after `--` go to every training:
`python train/sweep.py --results runs/lstm -- --core lstm`.

Each run is a process with one thread; with --cluster slurm, a job of Slurm (docs/clusters.md).
trials.jsonl in --results has a line per trial. The same command resumes the search, and with more
--trials it goes on; a search with other flags needs another --results. A run that diverges counts
as guessing. The exit status is 0 if all runs finished, 3 if one diverged, 1 if one failed.
"""

from __future__ import annotations

from train import startup  # noqa: F401 - before slow imports

# isort: split
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path

import tyro

from agents.runs.commands import parse_flags, run
from agents.training import check_settings
from train import compare, reinforce
from train.comparison.jobs import JobConfig
from train.comparison.protocol import Algorithm, Choices, ComparedTask, Program, Protocol, Span
from train.comparison.results import Trial
from train.keywords import make_vector_env

SPACE: dict[str, Span | Choices] = {
    "learning_rate": (2e-4, 5e-3),
    "std": (0.05, 0.5),
    "num_envs": Choices((128, 256, 512)),
    "policy_coef": (0.02, 1.0),
    "discount": Choices((0.0, 0.25, 0.5, 0.75, 1.0)),
}
"""Settings that are tried, as far as the estimator uses them."""
START = """python train/reinforce.py --env-id {env_id} --seed {seed} --run-dir {run_dir} --threads 1
    --total-episodes {episodes} --num-validations {marks} --final-split {split}
    --validate-sampled"""
RESUME = "python train/reinforce.py --resume {run_dir} --env-id {env_id}"
NAME = "reinforce"


@dataclass(frozen=True)
class Config(JobConfig):
    """What to search, and how long."""

    env_id: str = "ClutteredMNISTGlimpse-v0"
    """Registered glimpse environment; my_module:Mine-v0 imports a module first."""
    trials: int = 50
    """Settings that are tried besides the defaults, each at a third of the budget."""
    finalists: int = 3
    """Number of best trials that are run again at the whole budget."""
    total_episodes: int = 1_650_000
    """Training episodes of a run at the whole budget."""
    results: Path = Path("runs/sweep")
    """Folder where the trials are kept."""
    work_dir: Path = Path("runs/sweep/work")
    """Folder for the runs; it can be deleted afterwards."""
    flags: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Further flags of every training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("trials", "finalists", "total_episodes")
        check_settings(self, {"at least 1": counts})


def make_protocol(config: Config) -> Protocol:
    """Return the protocol of the search, whose algorithm and task are the only ones."""
    base = reinforce.parse([*config.flags, "--env-id", config.env_id])
    if base.price is not None:
        raise ValueError("flags must leave out allow_stop and glimpse_cost: trials rank by error")
    env = make_vector_env(config.env_id, 1, split="validation", **base.keywords)
    chance_error = 100 * (1 - 1 / env.num_classes)
    task = ComparedTask(
        name=config.env_id.rpartition(":")[2],
        num_glimpses=base.task.num_glimpses,
        env_steps=config.total_episodes * base.task.num_glimpses,
        seeds=1,
        trials=config.trials,
        chance_error=chance_error,
        threshold=chance_error,
        env_id=config.env_id,
        finalists=config.finalists,
    )
    space = {name: each for name, each in SPACE.items() if base.users.get(name, (True,))[0]}
    algorithm = Algorithm(NAME, NAME, shlex.join(config.flags), space=space)
    return Protocol({NAME: Program(START, RESUME)}, {task.name: task}, {NAME: algorithm})


def main(config: Config) -> None:
    """Run the trials that are missing, and print the command with the best settings."""
    protocol = make_protocol(config)
    (task,), algorithm = protocol.tasks.values(), protocol.algorithms[NAME]
    shared = {each.name: getattr(config, each.name) for each in fields(JobConfig)}
    settings = compare.Config(task=task.name, stages=("tune",), results=config.results, **shared)
    comparison = compare.Comparison(settings, protocol)
    status = comparison.carry_out()
    best, missing = comparison.read_tuning(task, algorithm)
    if missing:
        print(f"{len(missing)} trials have failed: the same command runs them again")
    else:
        print(f"best: trial {best[0].number}, {best[0].error:.2f} %")
        print(command(config, best[0]))
    if status:
        sys.exit(status)


def command(config: Config, trial: Trial) -> str:
    """Return the command of a training with a trial's settings."""
    flags = {"env_id": config.env_id, "total_episodes": config.total_episodes, **trial.settings}
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in flags.items()]
    words = [*config.flags, *chain.from_iterable(words)]
    return shlex.join(["python", "train/reinforce.py", *words])


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line; the words after ``--`` go to the trainings."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    config = parse_flags(Config, arguments[:cut], description=__doc__)
    return replace(config, flags=tuple(arguments[cut + 1 :]))


if __name__ == "__main__":
    run(main, parse)
