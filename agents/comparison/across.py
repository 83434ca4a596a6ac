"""The report over all tasks: normalised scores, classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agents.comparison.markdown import document, estimate, table
from agents.comparison.protocol import Protocol
from agents.comparison.rows import CLASSES, ROLES, Row, summarise
from agents.comparison.statistics import (
    Normalised,
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
    scores = {env_id: _normalise(rows) for env_id, rows in tables.items()}
    sections = [["# Comparison across tasks"], _scales(tables, scores)]
    for env_ids in _sets_of_tasks(tables):
        sections += _across_tables(protocol, tables, scores, env_ids, resamples)
    if len(sections) == 2:
        sections.append(["No algorithm has all its seeds on two tasks yet."])
    return document(sections)


def _normalise(rows: Sequence[Row]) -> dict[str, Normalised]:
    """Return the normalised scores of a task's algorithms, by name."""
    random, oracle = _control(rows, "random"), _control(rows, "oracle")
    ends = [each.errors if each else None for each in (random, oracle)]
    return {
        row.algorithm.name: normalised_scores(row.errors, row.task.chance_error, *ends)
        for row in rows
        if row.complete
    }


def _control(rows: Sequence[Row], word: str) -> Row | None:
    """Return the first complete control whose name has a word."""
    for row in rows:
        words = row.algorithm.name.replace("_", "-").split("-")
        if row.algorithm.role == "control" and word in words and row.complete:
            return row
    return None


def _scales(tables: dict[str, list[Row]], scores: dict[str, dict[str, Normalised]]) -> list[str]:
    """Say what 0 and 1 mean on each task."""
    lines = [
        "Scores are normalised on each task, and their interquartile mean (IQM) taken over all "
        "seeds of all tasks; a task with more seeds weighs more. Intervals: 95 %, bootstrap of "
        "the seeds within each task. Only algorithms with all their seeds take part. The rows "
        "are in the protocol's order. The uncertainty of the scales is not in the intervals.",
        "",
    ]
    for env_id, rows in tables.items():
        ends, scale = "0 is guessing, 1 is no errors", {s.scale for s in scores[env_id].values()}
        random, oracle = _control(rows, "random"), _control(rows, "oracle")
        if scale == {"controls"} and random and oracle:
            ends = (
                f"0 is `{random.algorithm.name}` ({random.mean.value:.2f} %), "
                f"1 is `{oracle.algorithm.name}` ({oracle.mean.value:.2f} %)"
            )
        lines.append(f"- `{env_id}`, {rows[0].task.seeds} seeds: {ends}")
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
    scores: dict[str, dict[str, Normalised]],
    env_ids: tuple[str, ...],
    resamples: int,
) -> list[list[str]]:
    """Return the tables of one set of tasks, of all algorithms that are on all of them."""
    by_name = {
        name: [scores[env_id][name].scores for env_id in env_ids]
        for name in protocol.algorithms
        if all(name in scores[env_id] for env_id in env_ids)
    }
    sections = [[f"## On {', '.join(f'`{env_id}`' for env_id in env_ids)}"]]
    if len({each.scale for env_id in env_ids for each in scores[env_id].values()}) > 1:
        sections.append(["**These tasks' scales differ, see above; the IQM mixes them.**"])
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
