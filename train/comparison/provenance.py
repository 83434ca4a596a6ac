"""What a report says of how its runs were tuned and where they ran."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from train.comparison.markdown import NONE, table, two_decimals
from train.comparison.protocol import Algorithm, Setting, Task
from train.comparison.results import Seed, best_trial, read_trials, trials_path
from train.comparison.rows import CLASSES, Row


def tuning(rows: Sequence[Row], source: Task, results: Path) -> list[list[str]]:
    """Return what was tried on the task of the tuning for each algorithm, class by class."""
    text = (
        f"On `{source.env_id}`: {source.trials} trials of each algorithm and its defaults, a third "
        "of the budget each; errors on validation. The lowest is chosen, so its own flatters it. "
        "All trials: `trials.csv` in the algorithm's folder of results."
    )
    sections = [["## Tuning", "", text]]
    header = ("algorithm", "space", "trials", "defaults [%]", "best [%]", "chosen")
    for kind in CLASSES:
        members = [row.algorithm for row in rows if row.algorithm.kind == kind]
        cells = [_tuned(algorithm, source, results) for algorithm in members]
        sections += [[f"Class {kind}:", "", *table(header, cells)]] if cells else []
    return sections


def _tuned(algorithm: Algorithm, task: Task, results: Path) -> list[str]:
    """Return a row of the table of tuning."""
    trials = read_trials(trials_path(results, task.env_id, algorithm.name))
    best = best_trial(trials)
    space = "; ".join(map(_space, algorithm.space)) or "not tuned"
    if algorithm.tuned_as:
        space = f"as {algorithm.tuned_as}"
    if best is None:
        return [algorithm.name, space, "none" if algorithm.space else NONE, *[NONE] * 3]
    diverged = sum(trial.status == "diverged" for trial in trials)
    tried = sum(trial.number > 0 for trial in trials)
    defaults = next((trial.error for trial in trials if trial.number == 0), math.nan)
    count = f"{tried} of {task.trials}" + (f", {diverged} diverged" if diverged else "")
    chosen = "; ".join(f"{flag} {_setting(value)}" for flag, value in best.settings.items())
    return [
        algorithm.name,
        space,
        count,
        two_decimals(defaults),
        two_decimals(best.error),
        chosen or "defaults",
    ]


def _space(setting: Setting) -> str:
    if setting.choices:
        return f"{setting.flag} {{{', '.join(map(str, setting.choices))}}}"
    return f"{setting.flag} {setting.low:g} to {setting.high:g}"


def _setting(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def provenance(rows: Sequence[Row], task: Task, results: Path) -> list[str]:
    """Say with what code, where and when, and give a command of each algorithm."""
    seeds = [seed for row in rows for seed in row.seeds]
    if not seeds:
        return ["## How it was run", "", "No run has ended yet."]
    keys = ("machine", "python", "versions")
    lines = ["## How it was run", "", *_commits(rows)]
    lines += [f"- {key}: {'; '.join(distinct(seeds, key))}" for key in keys]
    lines += [f"- started: {_dates(seeds)}", *_off_budget(rows, task)]
    extra = len(list((results / task.env_id).glob("*/seed_*/result.json"))) - len(seeds)
    lines += [f"- left out: {extra} seeds that the protocol does not want"] if extra else []
    commands = [
        f"{row.algorithm.name}: {row.seeds[0].config.get('command', NONE)}"
        for row in rows
        if row.seeds
    ]
    return [*lines, "", "The first seed's command of each:", "", "```", *commands, "```"]


def distinct(seeds: Iterable[Seed], key: str) -> list[str]:
    """Return the different values of a key of configurations, as text."""
    values = (seed.config.get(key) for seed in seeds)
    return list(dict.fromkeys(_described(value) for value in values))


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in sorted(value.items()))
    return "unknown" if value is None else str(value)


def _dates(seeds: Sequence[Seed]) -> str:
    """Return the first and last day on which a run started."""
    texts = [seed.config["started"] for seed in seeds if seed.config.get("started")]
    days = sorted({datetime.fromisoformat(text).date() for text in texts})
    if not days:
        return "unknown"
    return f"{days[0]}" if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _commits(rows: Sequence[Row]) -> list[str]:
    """Name the commit, and whose it is if there are several."""
    members: dict[str, list[str]] = {}
    for row in rows:
        for commit in distinct(row.seeds, "commit"):
            members.setdefault(commit, []).append(row.algorithm.name)
    if len(members) == 1:
        return [f"- commit: {next(iter(members))}"]
    return [f"- commit {commit}: {', '.join(names)}" for commit, names in members.items()]


def _off_budget(rows: Sequence[Row], task: Task) -> list[str]:
    """Name the seeds whose env steps are not the budget's, but for a last update's."""
    off = [
        f"{row.algorithm.name} seed {seed.number} ({seed.result.env_steps:,})"
        for row in rows
        for seed in row.finished
        if abs(seed.result.env_steps / task.env_steps - 1) > 0.02
    ]
    return [f"- **more than 2 % off the budget of env steps**: {', '.join(off)}"] if off else []
