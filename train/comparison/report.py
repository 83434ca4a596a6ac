"""The reports of a comparison, made from its protocol and its folder of results alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from agents.runs.files import write_whole
from train.comparison.protocol import Protocol
from train.comparison.results import to_csv
from train.comparison.statistics import (
    interquartile_mean,
    normalised_scores,
    probability_of_improvement,
)
from train.comparison.summary import CLASSES, Row, TaskResults, read_results
from train.comparison.tables import (
    behaviour,
    by_class,
    by_role,
    comparisons,
    distinct,
    document,
    estimate,
    introduction,
    provenance,
    result_tables,
    table,
    tuning_tables,
)

FILES = ("report.md", "table.csv", "curves.png", "errors.png")
"""The files of a task's report."""


def write_reports(protocol: Protocol, results: Path) -> list[Path]:
    """Write the report of each task that has results, and the one across tasks.

    Args:
        protocol: The protocol.
        results: Folder of results.

    Returns:
        The files: :data:`FILES` in each task's folder, and ``report.md`` above them.

    Raises:
        ValueError: If a result is damaged.
    """
    from train.comparison.figures import final_errors, learning_curves, write_figure

    by_task, written = read_results(protocol, results), []
    for env_id, task_results in by_task.items():
        if task_results.seeds:
            report, csv, curves, errors = (results / env_id / name for name in FILES)
            write_whole(report, task_report(protocol, task_results).encode())
            write_whole(csv, task_table(task_results))
            write_figure(curves, learning_curves(protocol, task_results))
            write_figure(errors, final_errors(protocol, task_results))
            written += [report, csv, curves, errors]
    if written:
        written.append(results / "report.md")
        write_whole(written[-1], across_report(protocol, by_task).encode())
    return written


def task_report(protocol: Protocol, results: TaskResults) -> str:
    """Return the report of one task, Markdown."""
    sections = [
        [f"# Comparison on `{results.task.env_id}`"],
        introduction(results),
        *result_tables(results),
        *comparisons(protocol, results),
        *behaviour(results),
        *tuning_tables(results),
        provenance(results),
    ]
    return document(sections)


def task_table(results: TaskResults) -> bytes:
    """Return the table of one task, CSV: a line per algorithm, in the protocol's order.

    ``class`` says which rows may be compared. Unknown numbers are empty; ``steps_to_threshold``
    is inf where fewer than half of the seeds got there.
    """
    records = [_record(row) for row in results.rows]
    return to_csv([records[0].keys(), *(record.values() for record in records)])


def across_report(
    protocol: Protocol, by_task: dict[str, TaskResults], *, resamples: int = 10_000
) -> str:
    """Return the report across all tasks that have results, Markdown.

    Args:
        protocol: The protocol.
        by_task: Its results: see :func:`~train.comparison.summary.read_results`.
        resamples: Number of resamples per bootstrap.
    """
    by_task = {env_id: results for env_id, results in by_task.items() if results.seeds}
    sections = [["# Comparison across tasks"], _explain_scores(by_task)]
    for env_ids in _sets_of_tasks(by_task):
        sections += _across_tables(protocol, by_task, env_ids, resamples)
    if len(sections) == 2:
        sections.append(["No algorithm has all its seeds on two tasks yet."])
    return document(sections)


def _record(row: Row) -> dict[str, Any]:
    """Return a line of the CSV table."""
    reached, algorithm = row.reached, row.algorithm
    errors = {seed.number: error for seed, error in zip(row.seeds, row.errors, strict=True)}
    record = {
        "env_id": row.task.env_id,
        "algorithm": algorithm.name,
        "class": algorithm.feedback,
        "role": algorithm.role,
        "memory": algorithm.memory,
        "parameters": " ".join(distinct(row.seeds, "parameters")),
        "seeds_wanted": row.task.seeds,
        "seeds_finished": len(row.finished),
        "seeds_diverged": len(row.seeds) - len(row.finished),
        **dict(zip(("error_mean", "error_low", "error_high"), row.mean, strict=True)),
        "error_iqm": row.iqm,
        "error_sampled": float(row.sampled.mean()) if row.seeds else math.nan,
        "threshold": row.task.threshold,
        "seeds_at_threshold": int(np.isfinite(reached.steps).sum()) if reached else math.nan,
        "steps_to_threshold": reached.median if reached else math.nan,
        "passes": algorithm.passes,
        "samples_backward": row.samples_backward,
        "cpu_seconds": row.cpu_seconds,
        "commit": " ".join(distinct(row.seeds, "commit")),
        **{f"error_seed_{n}": errors.get(n, math.nan) for n in range(row.task.seeds)},
    }
    return {name: _plain(value) for name, value in record.items()}


def _plain(value: Any) -> Any:
    """Return a float without its rounding noise, nothing for NaN."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.10g}"


def _explain_scores(by_task: dict[str, TaskResults]) -> list[str]:
    lines = [
        "Scores are normalised per task: 0 is guessing, 1 is no errors. The interquartile mean "
        "(IQM) is taken over all seeds of all tasks, so a task with more seeds weighs more. "
        "Intervals are 95 %, from a bootstrap of the seeds within each task. Only algorithms with "
        "all their seeds take part. Rows are in the protocol's order.",
        "",
    ]
    for env_id, results in by_task.items():
        task = results.task
        chance = f"guessing is wrong on {task.chance_error:.2f} % of the images"
        lines.append(f"- `{env_id}`, {task.seeds} seeds: {chance}")
    return lines


def _sets_of_tasks(by_task: dict[str, TaskResults]) -> list[tuple[str, ...]]:
    """Return the sets of two tasks or more on which an algorithm is complete, largest first."""
    on: dict[str, tuple[str, ...]] = {}
    for env_id, results in by_task.items():
        for row in results.rows:
            if row.complete:
                on[row.algorithm.name] = (*on.get(row.algorithm.name, ()), env_id)
    return sorted({each for each in on.values() if len(each) > 1}, key=lambda e: (-len(e), e))


def _across_tables(
    protocol: Protocol,
    by_task: dict[str, TaskResults],
    env_ids: tuple[str, ...],
    resamples: int,
) -> list[list[str]]:
    """Return the tables of one set of tasks, with all algorithms that are complete on each."""
    complete = [
        {row.algorithm.name: row for row in by_task[env_id].rows if row.complete}
        for env_id in env_ids
    ]
    scores = {
        name: [normalised_scores(r[name].errors, r[name].task.chance_error) for r in complete]
        for name in protocol.algorithms
        if all(name in rows for rows in complete)
    }
    sections = [[f"## On {', '.join(f'`{env_id}`' for env_id in env_ids)}"]]
    cells = (
        (protocol.algorithms[name], [name, estimate(interquartile_mean(each, resamples=resamples))])
        for name, each in scores.items()
    )
    sections += [[head, "", *table(("algorithm", "IQM"), group)] for head, group in by_role(cells)]
    return sections + _improvements(protocol, scores, resamples)


def _improvements(
    protocol: Protocol, scores: dict[str, list[np.ndarray]], resamples: int
) -> list[list[str]]:
    """Return the probabilities of the named comparisons, the mean over tasks."""
    cells: dict[str, list[list[str]]] = {letter: [] for letter in CLASSES}
    for first, second in protocol.comparisons:
        if {first, second} <= scores.keys():
            better = probability_of_improvement(scores[first], scores[second], resamples=resamples)
            cells[protocol.algorithms[first].feedback].append([first, second, estimate(better)])
    header = ("expected better", "than", "P(higher score)")
    return by_class(header, cells, prefix="Named comparisons, ")
