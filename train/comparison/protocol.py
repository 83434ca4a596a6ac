"""Who is compared on what: the protocol of ``train/comparison.toml``, read and checked.

A task says how many env steps, seeds and trials of tuning everybody gets there. An algorithm is
a program and flags of it. Any program can take part: ``train/compare.py`` says what it is called
with and what it must leave.
"""

from __future__ import annotations

import math
import re
import shlex
import string
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from agents.runs.files import read_file

PLACEHOLDERS = ("env_id", "seed", "run_dir", "env_steps", "marks", "episodes", "split")
"""What may stand in braces in a program's command."""

ROLES = ("compared", "ablation", "control", "naive")


@dataclass(frozen=True)
class Task:
    """What everybody gets on one environment.

    Attributes:
        env_id: The environment.
        num_glimpses: Env steps of an episode.
        env_steps: Budget of a run, of all lanes together.
        seeds: Seeds 0, 1, ... that are reported.
        trials: Configurations tried before, at a third of the budget, beside the defaults.
        chance_error: Of guessing [%]; what a run that diverged counts as.
        threshold: Validation error [%] to which the steps are counted.
        tuned_on: The environment whose tuned settings are used; this one unless another is named.
        algorithms: Who takes part, by name; empty for all.
    """

    env_id: str
    num_glimpses: int
    env_steps: int
    seeds: int
    trials: int
    chance_error: float
    threshold: float
    tuned_on: str = ""
    algorithms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("num_glimpses", "env_steps", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.trials < 0:
            raise ValueError(f"trials must be at least 0, got {self.trials}")
        for name in ("chance_error", "threshold"):
            if not 0 < getattr(self, name) < 100:
                raise ValueError(f"{name} must be in (0, 100), got {getattr(self, name)}")


@dataclass(frozen=True)
class Setting:
    """A setting that is tuned.

    Attributes:
        flag: Of the program, without the dashes.
        low: Least value.
        high: Greatest value; values between are drawn uniformly in their logarithm.
        choices: The values, in place of a range.
    """

    flag: str
    low: float = math.nan
    high: float = math.nan
    choices: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        """Check that it is a range or a choice."""
        if not self.choices and not 0 < self.low <= self.high < math.inf:
            raise ValueError(f"{self.flag} must be [low, high] with 0 < low <= high, or a list")


@dataclass(frozen=True)
class Algorithm:
    """A row of the comparison.

    Attributes:
        name: In tables and folders.
        program: Key of the protocol's programs.
        flags: Further arguments for the program.
        sees_label: Class L, whose loss uses the true label; else R, reward alone.
        role: ``"compared"``, ``"ablation"`` (one thing changed in another's), ``"control"`` (what
            locations of another origin are worth) or ``"naive"`` (what a newcomer tries first;
            never tuned).
        memory: In words: ``"none"``, ``"history"``, ``"rectifier RNN"``.
        passes: Times that each env step goes through the networks backward.
        space: What is tuned.
        tuned_as: An algorithm whose tuned settings it takes, in place of a space.
    """

    name: str
    program: str
    flags: str = ""
    sees_label: bool = False
    role: str = "compared"
    memory: str = "none"
    passes: float = 1
    space: tuple[Setting, ...] = ()
    tuned_as: str = ""

    def __post_init__(self) -> None:
        """Check every value; the name becomes a folder's."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.name):
            raise ValueError(f"an algorithm's name must be of a-z, 0-9, _ and -, got {self.name!r}")
        if self.role not in ROLES:
            raise ValueError(f"role of {self.name} must be one of {ROLES}, got {self.role!r}")
        if self.space and self.tuned_as:
            raise ValueError(f"{self.name} takes either a space or tuned_as, got both")
        if not 0 < self.passes < math.inf:
            raise ValueError(f"passes of {self.name} must be positive, got {self.passes}")

    @property
    def kind(self) -> str:
        """L or R: classes across which nobody is called better."""
        return "L" if self.sees_label else "R"


@dataclass(frozen=True)
class Protocol:
    """Everything that is fixed before the first run.

    Attributes:
        programs: Commands with placeholders, by name.
        tasks: By environment.
        algorithms: By name.
        comparisons: Pairs of algorithms of one class, the first expected to be better: the only
            ones that are tested, at most six.
        path: The file.
    """

    programs: dict[str, str]
    tasks: dict[str, Task]
    algorithms: dict[str, Algorithm]
    comparisons: tuple[tuple[str, str], ...] = ()
    path: Path = field(default=Path(), compare=False)

    def __post_init__(self) -> None:
        """Check that all names mean something."""
        for algorithm in self.algorithms.values():
            if algorithm.program not in self.programs:
                raise ValueError(
                    f"program of {algorithm.name} must be one of {sorted(self.programs)}, "
                    f"got {algorithm.program!r}"
                )
            if algorithm.tuned_as:
                self._check_known(f"tuned_as of {algorithm.name}", (algorithm.tuned_as,))
        for task in self.tasks.values():
            self._check_known(f"algorithms of {task.env_id}", task.algorithms)
            if task.tuned_on and task.tuned_on not in self.tasks:
                raise ValueError(
                    f"tuned_on of {task.env_id} must be of {sorted(self.tasks)}, "
                    f"got {task.tuned_on!r}"
                )
        if len(self.comparisons) > 6:
            raise ValueError(f"at most 6 comparisons are tested, got {len(self.comparisons)}")
        for pair in self.comparisons:
            self._check_known("comparisons", pair)
            kinds = {self.algorithms[name].kind for name in pair}
            if len(pair) != 2 or len(kinds) != 1:
                raise ValueError(f"a comparison takes two algorithms of one class, got {pair}")

    def _check_known(self, what: str, names: tuple[str, ...]) -> None:
        unknown = sorted(set(names) - set(self.algorithms))
        if unknown:
            raise ValueError(f"{what} must be of {sorted(self.algorithms)}, got {unknown}")

    def on(self, task: Task) -> list[Algorithm]:
        """Return who takes part in a task, in the order of the file."""
        names = task.algorithms or self.algorithms
        return [algorithm for name, algorithm in self.algorithms.items() if name in names]

    def tuning_of(self, task: Task) -> Task:
        """Return the task on which the settings for a task are tuned."""
        return self.tasks[task.tuned_on or task.env_id]


def read_protocol(path: Path) -> Protocol:
    """Read a protocol.

    Args:
        path: A TOML file with the tables ``programs``, ``tasks``, ``algorithms`` and the list
            ``comparisons``; the keys are the attributes of the classes here.

    Raises:
        ValueError: If it cannot be read, a name is unknown or a value not allowed; the message
            names the file.
    """
    try:
        content = tomllib.loads(read_file(path, 2**20).decode())
        tables = {"programs", "tasks", "algorithms", "comparisons"}
        if set(content) - tables:
            raise ValueError(f"tables must be of {sorted(tables)}, got {sorted(content)}")
        for name, command in content.get("programs", {}).items():
            _check_command(name, command)
        return Protocol(
            content.get("programs", {}),
            {
                env_id: Task(**_known(Task, {"env_id": env_id, **table}))
                for env_id, table in content.get("tasks", {}).items()
            },
            {
                name: Algorithm(**_known(Algorithm, {"name": name, **table}))
                for name, table in content.get("algorithms", {}).items()
            },
            tuple(tuple(pair) for pair in content.get("comparisons", [])),
            path,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def fill(command: str, **values: Any) -> list[str]:
    """Return the words of a program's command, with values in place of the braces."""
    return [word.format(**values) for word in shlex.split(command)]


def _check_command(name: str, command: str) -> None:
    """Refuse unknown braces, and a command that cannot tell its runs apart."""
    named = {part[1] for part in string.Formatter().parse(command) if part[1] is not None}
    unknown, missing = named - set(PLACEHOLDERS), {"env_id", "seed", "run_dir"} - named
    if unknown or missing:
        raise ValueError(
            f"program {name} may use {{{'}, {'.join(PLACEHOLDERS)}}} and must use env_id, seed "
            f"and run_dir, got {sorted(named)}"
        )


def _known(kind: type, table: dict[str, Any]) -> dict[str, Any]:
    """Return a table's values as a class's keywords, lists as tuples."""
    unknown = set(table) - {each.name for each in fields(kind)}
    if unknown:
        raise ValueError(f"unknown settings of {kind.__name__}: {sorted(unknown)}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    if "space" in values:
        values["space"] = tuple(_setting(flag, span) for flag, span in values["space"].items())
    return values


def _setting(flag: str, span: Any) -> Setting:
    """Return a setting from ``[low, high]`` (two floats) or a table ``{choices = [...]}``."""
    if isinstance(span, dict):
        return Setting(flag, choices=tuple(span["choices"]))
    low, high = span
    return Setting(flag, low, high)
