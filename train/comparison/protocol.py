"""The protocol of a comparison: the algorithms, their tasks and budgets, and what is tuned.

``train/comparison.toml`` is one. A task sets the env steps, seeds and trials that every
algorithm gets on it. An algorithm is a program with flags; any program can take part, see
``python train/compare.py --help``.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, structs

from agents.runs.files import convert, read_toml

PLACEHOLDERS = dict.fromkeys(
    ("env_id", "seed", "run_dir", "split", "env_steps", "episodes", "num_glimpses", "marks"), "x"
)
"""What a program's command may hold in braces, each with a value to try it with."""
Positive = Annotated[int, Meta(ge=1)]
Percent = Annotated[float, Meta(gt=0, lt=100)]


class ComparedTask(Struct, frozen=True, forbid_unknown_fields=True):
    """What every algorithm gets on one environment at one budget.

    Attributes:
        name: In tables and folders.
        num_glimpses: Env steps per episode.
        env_steps: Budget of a run, over all lanes.
        seeds: Number of reported seeds: 0, 1, ...
        trials: Settings tried per algorithm besides its defaults, each at a third of the budget.
        chance_error: Error of guessing [%]; a run that diverged counts as guessing.
        threshold: Validation error [%] for the column "env steps to the threshold".
        tuned_on: Task whose tuned settings are used; by default this one.
        algorithms: Names of those that take part, with their own number of seeds if it is a
            table; by default all.
        env_id: The environment; by default the task's name.
        curriculum: Curriculum of all algorithms, for their flag ``--curriculum``; by default none.
        retry_above: If no trial's error [%] is below this, all are run again at the whole budget.
        finalists: Number of best trials that are run again at the whole budget with another seed,
            to choose among them. 0: the best trial is chosen.
    """

    name: Annotated[str, Meta(pattern=r"^\w[\w.:-]*$")]
    num_glimpses: Positive
    env_steps: Positive
    seeds: Positive
    trials: Annotated[int, Meta(ge=0)]
    chance_error: Percent
    threshold: Percent
    tuned_on: str = ""
    algorithms: tuple[str, ...] | dict[str, Positive] = ()
    env_id: str = ""
    curriculum: str = ""
    retry_above: Annotated[float, Meta(gt=0, le=100)] = 100.0
    finalists: Annotated[int, Meta(ge=0)] = 0

    def for_algorithm(self, algorithm: Algorithm) -> ComparedTask:
        """Return the task with the number of seeds and error of guessing that an algorithm has."""
        own = self.algorithms.get(algorithm.name) if isinstance(self.algorithms, dict) else None
        chance_error = algorithm.chance_error or self.chance_error
        return structs.replace(self, seeds=own or self.seeds, chance_error=chance_error)


class Choices(Struct, frozen=True, forbid_unknown_fields=True):
    """A setting that takes one of a few values."""

    choices: Annotated[tuple[int | float | str, ...], Meta(min_length=1)]


Span = tuple[float, float]
"""A setting's lowest and highest value; values between are drawn uniformly in the logarithm."""


class Program(Struct, frozen=True, forbid_unknown_fields=True):
    """A program of the protocol; one that can't resume may be given as its command alone.

    Attributes:
        start: Command of a run, with placeholders.
        resume: Command that resumes a run from the newest entry of ``checkpoints`` in its run
            folder, and ends in the same bytes; without it, an interrupted run starts over.
        formerly: The start as an earlier version wrote it, which stored results may name.
    """

    start: str
    resume: str = ""
    formerly: str = ""


class Algorithm(Struct, frozen=True, forbid_unknown_fields=True):
    """A row of the comparison.

    Attributes:
        name: In tables and folders.
        program: Key of the protocol's programs.
        flags: Further arguments of the program.
        sees_label: Whether the loss uses the true label (class L) or only the reward (class R).
        binary_reward: Whether it reads the reward as whether the answer is right (class R*).
        role: ``"compared"``; ``"ablation"``, one change to another algorithm; ``"control"``,
            locations that are not learned; or ``"naive"``, a newcomer's first try.
        memory: In words: ``"none"``, ``"history"``, ``"rectifier RNN"``.
        passes: How often each env step goes through the networks backward.
        space: Tuned settings by flag, without dashes: a :data:`Span` or :class:`Choices`.
        tuned_as: Algorithm whose tuned settings are used, instead of a space.
        chance_error: Error of guessing [%], where its flags change the task's.
    """

    name: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]*$")]
    program: str
    flags: str = ""
    sees_label: bool = False
    role: Literal["compared", "ablation", "control", "naive"] = "compared"
    memory: str = "none"
    passes: Annotated[float, Meta(gt=0, le=sys.float_info.max)] = 1
    space: dict[str, Span | Choices] = {}
    tuned_as: str = ""
    binary_reward: bool = False
    chance_error: Percent | None = None

    def __post_init__(self) -> None:
        if self.space and self.tuned_as:
            raise ValueError("takes either a space or tuned_as, got both")
        for flag, span in self.space.items():
            if isinstance(span, tuple) and not 0 < span[0] <= span[1] < math.inf:
                raise ValueError(f"space.{flag} must be [low, high] with 0 < low <= high")

    @property
    def feedback(self) -> str:
        """The class, a key of ``summary.CLASSES``: two classes are never ranked together."""
        return "L" if self.sees_label else "R*" if self.binary_reward else "R"


class Protocol(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that is fixed before the first run.

    Attributes:
        programs: By name.
        tasks: By name.
        algorithms: By name.
        comparisons: Pairs of algorithms of one class, the first expected to be better. Only
            these are tested.
    """

    programs: dict[str, Program]
    tasks: dict[str, ComparedTask]
    algorithms: dict[str, Algorithm]
    comparisons: Annotated[tuple[tuple[str, str], ...], Meta(max_length=6)] = ()

    def __post_init__(self) -> None:
        for name, program in self.programs.items():
            _check_command(f"programs.{name}", program.start, "{env_id}", "{seed}", "{run_dir}")
            if program.resume:
                _check_command(f"programs.{name}.resume", program.resume, "{run_dir}")
        tuned = [name for name, each in self.algorithms.items() if not each.tuned_as]
        for name, each in self.algorithms.items():
            _check_command(f"algorithms.{name}.flags", each.flags)
            _check_known(f"algorithms.{name}.program", [each.program], self.programs)
            _check_known(f"algorithms.{name}.tuned_as", filter(None, [each.tuned_as]), tuned)
        for name, task in self.tasks.items():
            _check_known(f"tasks.{name}.algorithms", task.algorithms, self.algorithms)
            _check_known(f"tasks.{name}.tuned_on", filter(None, [task.tuned_on]), self.tasks)
        for name, task in self.tasks.items():
            tuning = self.tuning_task(task)
            own = [self.algorithms[each.tuned_as or each.name] for each in self.on(task)]
            wanted = [each.name for each in own if each.space and tuning.trials]
            entry = f"tasks.{name}.algorithms that are tuned on {tuning.name}"
            _check_known(entry, wanted, [each.name for each in self.on(tuning)])
        for pair in self.comparisons:
            _check_known("comparisons", pair, self.algorithms)
            if len({self.algorithms[name].feedback for name in pair}) > 1:
                raise ValueError(f"comparisons must pair algorithms of one class, got {pair}")

    def on(self, task: ComparedTask) -> list[Algorithm]:
        """Return the algorithms that take part in a task, in the order of the file."""
        names = task.algorithms or self.algorithms
        return [algorithm for name, algorithm in self.algorithms.items() if name in names]

    def tuning_task(self, task: ComparedTask) -> ComparedTask:
        """Return the task on which the settings for a task are tuned."""
        return self.tasks[task.tuned_on or task.name]


def read_protocol(path: Path) -> Protocol:
    """Read a protocol: a TOML file whose keys are the attributes of :class:`Protocol`.

    Raises:
        ValueError: If it can't be read, a name is unknown or a value is not allowed; the
            message names the file and the entry.
    """
    tables, entry = read_toml(path), ""
    schemas = {"programs": Program, "tasks": ComparedTask, "algorithms": Algorithm}
    try:
        for kind, schema in schemas.items():
            entry = f"{kind}: "
            tables[kind] = convert(tables.get(kind), dict[str, Any])
            for name, table in tables[kind].items():
                entry = f"{kind}.{name}: "
                table = {"start": table} if isinstance(table, str) else table
                default = {"env_id": name} if kind == "tasks" else {}
                own = {} if kind == "programs" else {"name": name}
                tables[kind][name] = convert({**default, **table, **own}, schema)
        entry = ""
        return convert(tables, Protocol)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {entry}{error}") from error


def fill(command: str, **values: Any) -> list[str]:
    """Return the words of a program's command, with values in place of the placeholders."""
    return [word.format_map(values) for word in shlex.split(command)]


def _check_command(entry: str, command: str, *required: str) -> None:
    """Refuse open quotes, unknown placeholders, and a command that can't tell its runs apart."""
    if missing := [name for name in required if name not in command]:
        raise ValueError(f"{entry} must use {', '.join(required)}, lacks {missing}")
    try:
        fill(command, **PLACEHOLDERS)
    except (ValueError, LookupError, AttributeError) as error:
        rule = f"braces may only hold {', '.join(PLACEHOLDERS)}, and quotes must be closed"
        raise ValueError(f"{entry}: {rule}, got {command!r}") from error


def _check_known(entry: str, names: Iterable[str], known: Collection[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"{entry} must be among {sorted(known)}, got {unknown}")
