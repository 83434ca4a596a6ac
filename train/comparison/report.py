"""The reports of a comparison, made from its protocol and its folder of results alone."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agents.runs.files import write_whole
from train.comparison import tables
from train.comparison.protocol import Protocol
from train.comparison.summary import Row, TaskResults, read_results

FILES = ("report.md", "table.csv", "curves.png", "errors.png")
"""The files of a task's report."""


def write_reports(protocol: Protocol, results: Path) -> list[Path]:
    """Write the report of each task that has results, and the one across tasks; return the files.

    They are :data:`FILES` in each task's folder, and ``report.md`` above them. A damaged result
    is a ValueError.
    """
    from train.comparison.figures import final_errors, learning_curves, write_figure

    by_task, written = read_results(protocol, results), []
    for task, task_results in by_task.items():
        if task_results.seeds:
            report, csv, curves, errors = (results / task / name for name in FILES)
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
        [f"# Comparison on `{results.task.name}`"],
        tables.introduction(results),
        *tables.result_tables(results),
        *tables.comparisons(protocol, results),
        *tables.behaviour(results),
        *tables.tuning_tables(results),
        tables.provenance(results),
    ]
    return tables.document(sections)


def task_table(results: TaskResults) -> bytes:
    """Return the table of one task, CSV: a line per algorithm, in the protocol's order.

    ``class`` says which rows may be compared. Unknown numbers are empty; ``steps_to_threshold``
    is inf where fewer than half of the seeds got there.
    """
    most = max(row.task.seeds for row in results.rows)
    records = [_record(row, most) for row in results.rows]
    return to_csv([records[0].keys(), *(map(_plain, record.values()) for record in records)])


def across_report(protocol: Protocol, by_task: dict[str, TaskResults]) -> str:
    """Return the report across all tasks that have results, Markdown: a column per task."""
    found = {task: results for task, results in by_task.items() if results.seeds}
    rows: dict[str, dict[str, str]] = {name: {} for name in protocol.algorithms}
    for task, results in found.items():
        for row in results.rows:
            if row.seeds:
                rows[row.algorithm.name][task] = tables.short_error(row)
    lines = [
        (protocol.algorithms[name], [name, *(cells.get(task, tables.NONE) for task in found)])
        for name, cells in rows.items()
        if cells
    ]
    header = ("algorithm", *(f"`{task}`" for task in found))
    head = [["# Comparison across tasks"], [tables.TEXTS["across"]]]
    return tables.document([*head, *tables.by_role(header, lines)])


def _record(row: Row, num_seeds: int) -> dict[str, Any]:
    """Return a line of the CSV table, with a column for each of a number of seeds."""
    algorithm, ended = row.algorithm, len(row.seeds)
    errors = dict(zip((seed.number for seed in row.seeds), row.errors.tolist(), strict=True))
    return {
        "task": row.task.name,
        "algorithm": algorithm.name,
        "class": algorithm.feedback,
        "role": algorithm.role,
        "memory": algorithm.memory,
        "parameters": " ".join(tables.distinct(row.seeds, "parameters")),
        "seeds_wanted": row.task.seeds,
        "seeds_finished": len(row.finished),
        "seeds_diverged": ended - len(row.finished),
        **dict(zip(("error_mean", "error_low", "error_high"), row.mean, strict=True)),
        "error_sampled": row.sampled,
        "threshold": row.task.threshold,
        "seeds_at_threshold": sum(map(math.isfinite, row.reached)) if ended else math.nan,
        "steps_to_threshold": row.steps_to_threshold,
        "passes": algorithm.passes,
        "samples_backward": row.samples_backward,
        "cpu_seconds": row.cpu_seconds,
        "commit": " ".join(tables.distinct(row.seeds, "commit")),
        **{f"error_seed_{n}": errors.get(n, math.nan) for n in range(num_seeds)},
    }


def _plain(value: Any) -> Any:
    """Return a float without its rounding noise, nothing for NaN."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.10g}"


def to_csv(rows: Iterable[Iterable[Any]]) -> bytes:
    """Return rows as CSV files hold them."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()
