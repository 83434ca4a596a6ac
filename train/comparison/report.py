"""The reports of a comparison, made from its protocol and its folder of results alone."""

from __future__ import annotations

from pathlib import Path

from agents.runs.files import write_whole
from train.comparison import tables
from train.comparison.protocol import Protocol
from train.comparison.summary import TaskResults, read_results

FILES = ("report.md", "curves.png", "errors.png")
"""The files of a task's report."""


def write_reports(protocol: Protocol, results: Path) -> list[Path]:
    """Write the report of each task that has results, and the one across tasks; return the files.

    They are :data:`FILES` in each task's folder, and ``report.md`` above them. A damaged result
    is a ValueError.
    """
    from train.comparison.figures import final_errors, learning_curves, write_figure

    by_task = read_results(protocol, results)
    by_task = {task: found for task, found in by_task.items() if found.seeds}
    written: list[Path] = []
    for task, found in by_task.items():
        report, curves, errors = (results / task / name for name in FILES)
        write_whole(report, task_report(protocol, found).encode())
        write_figure(curves, learning_curves(protocol, found))
        write_figure(errors, final_errors(protocol, found))
        written += [report, curves, errors]
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


def across_report(protocol: Protocol, by_task: dict[str, TaskResults]) -> str:
    """Return the report across tasks, Markdown: a column per task."""
    cells = {
        (row.algorithm.name, task): tables.estimate(row.mean) + row.missing
        for task, results in by_task.items()
        for row in results.rows
        if row.seeds
    }
    lines = [
        (algorithm, [name, *(cells.get((name, task), tables.NONE) for task in by_task)])
        for name, algorithm in protocol.algorithms.items()
        if any((name, task) in cells for task in by_task)
    ]
    header = ("algorithm", *(f"`{task}`" for task in by_task))
    head = [["# Comparison across tasks"], [tables.TEXTS["across"]]]
    return tables.document([*head, *tables.by_role(header, lines)])
