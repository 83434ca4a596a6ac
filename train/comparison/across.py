"""The report over all tasks: normalised scores, classes apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.comparison.markdown import document, estimate, table
from train.comparison.protocol import Protocol
from train.comparison.rows import CLASSES, ROLES, Row, summarise
from train.comparison.statistics import (
    interquartile_mean,
    normalised_scores,
    probability_of_improvement,
)


def across_report(protocol: Protocol, results: Path, *, resamples: int = 10_000) -> str:
    """Return the report over all tasks that have results, Markdown.

    Args:
        protocol: The whole.
        results: Folder of results.
        resamples: Of each bootstrap.

    Raises:
        ValueError: If a result is damaged.
    """
    tables = {env_id: summarise(protocol, task, results) for env_id, task in protocol.tasks.items()}
    tables = {env_id: rows for env_id, rows in tables.items() if any(row.seeds for row in rows)}
    sections = [["# Comparison across tasks"], _scale(tables)]
    for env_ids in _sets_of_tasks(tables):
        sections += _across_tables(protocol, tables, env_ids, resamples)
    if len(sections) == 2:
        sections.append(["No algorithm has all its seeds on two tasks yet."])
    return document(sections)


def _scale(tables: dict[str, list[Row]]) -> list[str]:
    """Say what 0 and 1 mean."""
    lines = [
        "Scores are normalised on each task: 0 is guessing, 1 is no errors. Their interquartile "
        "mean (IQM) is taken over all seeds of all tasks; a task with more seeds weighs more. "
        "Intervals: 95 %, bootstrap of the seeds within each task. Only algorithms with all "
        "their seeds take part. The rows are in the protocol's order.",
        "",
    ]
    for env_id, rows in tables.items():
        task = rows[0].task
        lines.append(
            f"- `{env_id}`, {task.seeds} seeds: guessing errs in {task.chance_error:.2f} %"
        )
    return lines


def _sets_of_tasks(tables: dict[str, list[Row]]) -> list[tuple[str, ...]]:
    """Return the sets of two tasks or more on which an algorithm is complete, largest first."""
    names = dict.fromkeys(row.algorithm.name for rows in tables.values() for row in rows)
    sets = [
        tuple(
            env_id
            for env_id, rows in tables.items()
            if any(row.algorithm.name == name and row.complete for row in rows)
        )
        for name in names
    ]
    return sorted({each for each in sets if len(each) > 1}, key=lambda each: (-len(each), each))


def _across_tables(
    protocol: Protocol,
    tables: dict[str, list[Row]],
    env_ids: tuple[str, ...],
    resamples: int,
) -> list[list[str]]:
    """Return the tables of one set of tasks, of all algorithms that are on all of them."""
    complete = {
        env_id: {row.algorithm.name: row for row in tables[env_id] if row.complete}
        for env_id in env_ids
    }
    by_name = {
        name: [
            normalised_scores(rows[name].errors, rows[name].task.chance_error)
            for rows in complete.values()
        ]
        for name in protocol.algorithms
        if all(name in rows for rows in complete.values())
    }
    sections = [[f"## On {', '.join(f'`{env_id}`' for env_id in env_ids)}"]]
    for role, title in ROLES.items():
        for kind, meaning in CLASSES.items():
            cells = [
                [name, estimate(interquartile_mean(each, resamples=resamples))]
                for name, each in by_name.items()
                if (protocol.algorithms[name].role, protocol.algorithms[name].kind) == (role, kind)
            ]
            heading = f"{title}{'class' if title else 'Class'} {kind}: {meaning}"
            if cells:
                sections.append([heading, "", *table(("algorithm", "IQM"), cells)])
    return sections + _improvements(protocol, by_name, resamples)


def _improvements(
    protocol: Protocol, by_name: dict[str, list[np.ndarray]], resamples: int
) -> list[list[str]]:
    """Return the named comparisons' probabilities, the mean over tasks, class by class."""
    sections = []
    for kind in CLASSES:
        cells = []
        for first, second in protocol.comparisons:
            if protocol.algorithms[first].kind == kind and {first, second} <= set(by_name):
                better = probability_of_improvement(
                    by_name[first], by_name[second], resamples=resamples
                )
                cells.append([first, second, estimate(better)])
        lines = table(("expected better", "than", "P(higher score)"), cells)
        sections += [[f"Named comparisons, class {kind}:", "", *lines]] if cells else []
    return sections
