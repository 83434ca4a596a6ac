"""The sections of a task's report, in Markdown.

Classes L, R and R* are never in one table, nor are controls and the naive first try among the
compared algorithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.runs.files import read_toml
from train.comparison import statistics
from train.comparison.protocol import Algorithm, Choices, ComparedTask, Protocol
from train.comparison.results import BEHAVIOUR, Seed, Trial
from train.comparison.summary import CLASSES, FEW, ROLES, Row, TaskResults, in_order
from train.comparison.tuning import tuning_phases

Line = tuple[Algorithm, Sequence[str]]
"""The cells of a table's line, with the algorithm that decides which table it is in."""

TEXTS = read_toml(Path(__file__).with_name("texts.toml"), dict[str, str])
NONE = "-"


def document(sections: Iterable[list[str]]) -> str:
    """Join sections by empty lines."""
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    cells = [[text.replace("|", "\\|") for text in row] for row in [header, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]


def by_class(
    header: Sequence[str], lines: Sequence[Line], heading: str = "Class {}:"
) -> list[list[str]]:
    """Return a table per class that has lines; the class and its meaning fill the heading."""
    rows = {letter: [cells for a, cells in lines if a.feedback == letter] for letter in CLASSES}
    return [
        [heading.format(letter, CLASSES[letter]), "", *table(header, rows[letter])]
        for letter in CLASSES
        if rows[letter]
    ]


def by_role(header: Sequence[str], lines: Sequence[Line], prefix: str = "") -> list[list[str]]:
    """Return a table per role and class that has lines."""
    sections: list[list[str]] = []
    for role, words in ROLES.items():
        own = [(algorithm, cells) for algorithm, cells in lines if algorithm.role == role]
        sections += by_class(header, own, f"{prefix}{words} {{}}: {{}}")
    return sections


def estimate(of: statistics.Estimate) -> str:
    """Return a number with its interval, if there is one."""
    value, low, high = map(number, of)
    return value if low == NONE else f"{value} ({low} to {high})"


def number(value: float, decimals: int = 2) -> str:
    """Return a number with some decimals, a dash for NaN."""
    return NONE if math.isnan(value) else f"{value:,.{decimals}f}"


def distinct(seeds: Iterable[Seed], key: str) -> list[str]:
    """Return the different values of a key of the runs' configurations."""

    def describe(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {version}" for name, version in sorted(value.items()))
        return "unknown" if value is None else str(value)

    return list(dict.fromkeys(describe(seed.config.get(key)) for seed in seeds))


def _count_seeds(number: int) -> str:
    return f"{number} seed{'s' * (number != 1)}"


def _p_text(probability: float) -> str:
    return f"{probability:.1e}" if probability < 1e-4 else f"{probability:.4f}"


def introduction(results: TaskResults) -> list[str]:
    """Say what every algorithm got, and explain the columns."""
    task = results.task
    splits = sorted({seed.result.split for row in results.rows for seed in row.finished})
    most = _count_seeds(max(row.task.seeds for row in results.rows))
    named = task.algorithms if isinstance(task.algorithms, dict) else {}
    fewer = [f"{n} for {name}" for name, n in named.items() if n != task.seeds]
    longer = any("num_glimpses" in row.algorithm.flags for row in results.rows)
    text = TEXTS["introduction"].format(
        task=task,
        seeds=_count_seeds(task.seeds),
        own=f" ({', '.join(fewer)})" if fewer else "",
        longer=" (rows whose flags change that play as many episodes)" if longer else "",
        few=f" **Only {most}: nothing is ranked or tested.**" if results.few else "",
        curriculum=TEXTS["curriculum"].format(task.curriculum) if task.curriculum else "",
        splits=" and ".join(splits) or "the final split",
    )
    return [text]


def result_tables(results: TaskResults) -> list[list[str]]:
    """Return a section per role and class, and one on guessing."""
    rows = in_order(results.rows)
    lines = [(row.algorithm, [cell(row) for cell in _COLUMNS.values()]) for row in rows]
    usual, parts = results.task.chance_error, [f"{results.task.chance_error:.2f} % of the images"]
    own = [row for row in rows if row.task.chance_error != usual]
    parts += [f"{row.task.chance_error:.2f} % in `{row.algorithm.name}`" for row in own]
    text = f"A random label is wrong on {', '.join(parts)}."
    return [*by_role(list(_COLUMNS), lines, "## "), ["## Guessing", "", text]]


def _parameters(row: Row) -> str:
    texts = distinct(row.seeds, "parameters")
    return ", ".join(f"{int(n):,}" if n.isdecimal() else n for n in texts) or NONE


def _seeds(row: Row) -> str:
    diverged = len(row.seeds) - len(row.finished)
    text = f"{len(row.seeds)} of {row.task.seeds} seeds" + ": incomplete" * (not row.complete)
    return text + (f", {diverged} diverged" if diverged else "")


def _steps(row: Row) -> str:
    if not row.seeds:
        return NONE
    steps, count = row.steps_to_threshold, sum(map(math.isfinite, row.reached))
    return f"{number(steps, 0) if steps < math.inf else '> budget'} ({count} of {len(row.seeds)})"


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "algorithm": lambda row: row.algorithm.name,
    "memory": lambda row: row.algorithm.memory,
    "parameters": _parameters,
    "error [%]": lambda row: estimate(row.mean),
    "each seed [%]": lambda row: ", ".join(map(number, row.errors)) or NONE,
    "sampled, validation [%]": lambda row: number(row.sampled),
    "seeds": _seeds,
    "env steps to the threshold": _steps,
    "samples backward": lambda row: number(row.samples_backward, 0),
    "CPU time [s]": lambda row: number(row.cpu_seconds, 0),
}


def comparisons(protocol: Protocol, results: TaskResults) -> list[list[str]]:
    """Test the named comparisons on a task, corrected for all of them together."""
    if results.few or not protocol.comparisons:
        return []
    by_name = {row.algorithm.name: row for row in results.rows}
    pairs = [[by_name[name] for name in pair if name in by_name] for pair in protocol.comparisons]
    p_values = np.full(len(pairs), math.nan)
    for index, pair in enumerate(pairs):
        if len(pair) == 2 and all(row.complete and row.task.seeds > FEW for row in pair):
            p_values[index] = statistics.rank_test(*(row.errors for row in pair))
    tested = zip(protocol.comparisons, pairs, p_values, statistics.holm(p_values), strict=True)
    lines = [
        (protocol.algorithms[names[0]], [*names, *_comparison_cells(pair, p, adjusted)])
        for names, pair, p, adjusted in tested
    ]
    header = ("expected better", "than", "difference of means [points]")
    header += ("P(lower error)", "p", "p after Holm")
    seeds, count = [row.task.seeds for row in results.rows], len(pairs)
    least = statistics.least_p(max(seeds))
    text = TEXTS["tested"].format(
        seeds=f"{'at most ' * (min(seeds) < max(seeds))}{max(seeds)}",
        least=_p_text(least),
        comparisons=f"{count} named comparison{'s' * (count > 1)}",
        least_adjusted=_p_text(min(1, count * least)),
    )
    return [["## Named comparisons", "", text], *by_class(header, lines)]


def _comparison_cells(pair: Sequence[Row], p: float, adjusted: float) -> list[str]:
    if math.isnan(p):
        counts = [f"{r.algorithm.name} has {len(r.seeds)} of {r.task.seeds} seeds" for r in pair]
        counts += [f"a test needs {FEW + 1}"] * any(r.task.seeds <= FEW for r in pair)
        reason = "not run on this task" if len(pair) < 2 else ", ".join(counts)
        return [f"not tested: {reason}", *[NONE] * 3]
    first, second = pair
    better = statistics.probability_of_improvement(-first.errors, -second.errors)
    difference = f"{first.mean.value - second.mean.value:+.2f}"
    return [difference, estimate(better), _p_text(p), _p_text(adjusted)]


def behaviour(results: TaskResults) -> list[list[str]]:
    """Return what the policies do at their end, which shows how those fail that fail."""
    lines = [
        (row.algorithm, [row.algorithm.name, *(number(row.last(tag)) for tag in BEHAVIOUR)])
        for row in results.rows
        if any(seed.result.last for seed in row.seeds)
    ]
    tables = by_class(("algorithm", *BEHAVIOUR.values()), lines)
    return [["## What the policies do", "", TEXTS["behaviour"]], *tables] if tables else []


def tuning_tables(results: TaskResults) -> list[list[str]]:
    """Return what was tried for each algorithm on the task of its tuning."""
    source = results.tuning_task
    if not source.trials:
        return []
    texts = {"tuning": True, "retries": source.retry_above < 100, "finals": source.finalists}
    text = "".join(TEXTS[name].format(source) for name, said in texts.items() if said)
    algorithms = [row.algorithm for row in results.rows]
    lines = [(a, _tuning_cells(a, source, results.trials)) for a in algorithms]
    header = ("algorithm", "space", "trials", "defaults [%]", "lowest [%]", "at the whole [%]")
    header += ("chosen",)
    return [["## Tuning", "", text], *by_class(header, lines)]


def _tuning_cells(algorithm: Algorithm, source: ComparedTask, tried: Sequence[Trial]) -> list[str]:
    space = "; ".join(
        f"{flag} {{{', '.join(map(str, span.choices))}}}"
        if isinstance(span, Choices)
        else f"{flag} {span[0]:g} to {span[1]:g}"
        for flag, span in algorithm.space.items()
    )
    space = space or (f"as {algorithm.tuned_as}" if algorithm.tuned_as else "not tuned")
    tried = [trial for trial in tried if trial.algorithm == algorithm.name]
    phases = {phase: (n, best) for phase, n, best in tuning_phases(source, tried)}
    if not (trials := phases["trials"][1]):
        return [algorithm.name, space, "none" if algorithm.space else NONE, *[NONE] * 4]
    diverged = sum(trial.status == "diverged" for trial in trials)
    count = f"{sum(trial.number > 0 for trial in trials)} of {source.trials}"
    count += f", {diverged} diverged" if diverged else ""
    defaults = next((trial.error for trial in trials if trial.number == 0), math.nan)
    lowest = min(trial.error for trial in trials)
    phase, (numbers, ended) = phases.popitem()
    if len(ended) < len(numbers):
        return [algorithm.name, space, count, number(defaults), number(lowest), NONE, NONE]
    best = ended[0]
    chosen = "; ".join(
        f"{flag} {value:.3g}" if isinstance(value, float) else f"{flag} {value}"
        for flag, value in best.settings.items()
    )
    errors = [defaults, lowest, math.nan if phase == "trials" else best.error]
    return [algorithm.name, space, count, *map(number, errors), chosen or "defaults"]


def provenance(results: TaskResults) -> list[str]:
    """Say with what code, where and when the runs were made, and give their commands."""
    seeds, head = results.seeds, ["## How it was run", ""]
    if not seeds:
        return [*head, "No run has ended yet."]
    lines: list[str] = []
    for key in ("commit", "machine"):
        members: dict[str, list[str]] = {}  # rows of each value
        for row in results.rows:
            for value in distinct(row.seeds, key):
                members.setdefault(value, []).append(row.algorithm.name)
        shared = len(members) == 1
        lines += [
            f"- {key}: {value}" if shared else f"- {key} {value}: {', '.join(names)}"
            for value, names in members.items()
        ]
    lines += [f"- {key}: {'; '.join(distinct(seeds, key))}" for key in ("python", "versions")]
    days = sorted({str(seed.config.get("started") or "unknown")[:10] for seed in seeds})
    lines += [f"- started: {' to '.join(dict.fromkeys((days[0], days[-1])))}"]
    off = [  # by more than a last update's env steps
        f"{seed.algorithm} seed {seed.number} ({seed.result.env_steps:,})"
        for seed in seeds
        if seed.result.status == "finished"
        and abs(seed.result.env_steps / results.task.env_steps - 1) > 0.02
    ]
    if off:
        lines += [f"- **more than 2 % off the budget of env steps**: {', '.join(off)}"]
    if results.left_out:
        lines += [f"- left out: {results.left_out} seeds that the protocol doesn't ask for"]
    firsts = (row.seeds[0] for row in results.rows if row.seeds)
    commands = [f"{seed.algorithm}: {seed.config.get('command', NONE)}" for seed in firsts]
    text = "The command of each algorithm's first seed:"
    return [*head, *lines, "", text, "", "```", *commands, "```"]
