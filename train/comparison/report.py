"""The report of a comparison: text and tables from the protocol and its folder of results alone.

Class L (the label is in the loss) and class R (observation and reward alone) are never in one
table, nor are controls and the naive first try among those compared. What is missing is said.

Dimension key:
    n: seeds there are of an algorithm, of those that the protocol wants
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.runs.files import write_whole
from train.comparison.across import across_report
from train.comparison.markdown import (
    NONE,
    document,
    estimate,
    grouped,
    p_text,
    table,
    two_decimals,
    whole,
)
from train.comparison.protocol import Protocol, Task
from train.comparison.provenance import distinct, provenance, tuning
from train.comparison.results import BEHAVIOUR
from train.comparison.rows import CLASSES, FEW, ROLES, Row, in_order, summarise
from train.comparison.statistics import (
    Reached,
    holm,
    least_p,
    probability_of_improvement,
    rank_test,
)

FILES = ("report.md", "table.csv", "curves.png", "errors.png")  # of a task
_HEADER = (
    *("algorithm", "memory", "parameters", "error [%]", "IQM [%]"),
    *("sampled, validation [%]", "seeds", "env steps to the threshold"),
    *("samples backward", "CPU time [s]"),
)


def write_reports(protocol: Protocol, results: Path) -> list[Path]:
    """Write the reports of all tasks that have results, and the one across tasks.

    Args:
        protocol: The whole.
        results: Folder of results.

    Returns:
        The files: ``report.md``, ``table.csv``, ``curves.png`` and ``errors.png`` of each task
        in its folder, and ``report.md`` of all.

    Raises:
        ValueError: If a result is damaged.
    """
    from train.comparison.figures import final_errors, learning_curves, write_figure

    written = []
    for task in protocol.tasks.values():
        folder = results / task.env_id
        if not any(row.seeds for row in summarise(protocol, task, results)):
            continue
        write_whole(folder / "report.md", task_report(protocol, task, results).encode())
        write_whole(folder / "table.csv", task_table(protocol, task, results).encode())
        write_figure(folder / "curves.png", learning_curves(protocol, task, results))
        write_figure(folder / "errors.png", final_errors(protocol, task, results))
        written += [folder / name for name in FILES]
    if written:
        write_whole(results / "report.md", across_report(protocol, results).encode())
        written.append(results / "report.md")
    return written


def task_report(protocol: Protocol, task: Task, results: Path) -> str:
    """Return the report of one task, Markdown.

    Args:
        protocol: The whole.
        task: One of its tasks.
        results: Folder of results.

    Raises:
        ValueError: If a result is damaged.
    """
    rows = summarise(protocol, task, results)
    sections = [
        [f"# Comparison on `{task.env_id}`"],
        _introduction(rows, task),
        *_result_tables(rows, task),
        _comparisons(protocol, rows, task),
        *_behaviour(rows),
        *tuning(rows, protocol.tuning_of(task), results),
        provenance(rows, task, results),
    ]
    return document(sections)


def task_table(protocol: Protocol, task: Task, results: Path) -> str:
    """Return the table of one task, CSV: a line an algorithm, in the protocol's order.

    ``class`` says which rows may be compared. Unknown numbers are empty; ``steps_to_threshold``
    is inf where fewer than half of the seeds got there.

    Raises:
        ValueError: If a result is damaged.
    """
    records = [_record(row) for row in summarise(protocol, task, results)]
    buffer = io.StringIO()
    names = list(records[0]) if records else []
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def _introduction(rows: Sequence[Row], task: Task) -> list[str]:
    """Say what everybody got, and what the columns are."""
    splits = sorted({seed.result.split for row in rows for seed in row.finished})
    spread = "In brackets: 95 % intervals of Student's t over the seeds, cut at 0 and 100."
    if task.seeds <= FEW:
        seeds = f"{task.seeds} seed{'s' * (task.seeds > 1)}"
        spread = f"**Only {seeds}: points, without ranking, intervals or tests.**"
    return [
        f"Every run has {task.env_steps:,} env steps, {task.num_glimpses} an episode; the protocol "
        f"wants {task.seeds} seeds of each algorithm. {spread}",
        "",
        f"- **error**: of the last weights on {' and '.join(splits) or 'the final split'}, looking "
        "where the policy's mean says and naming the likeliest label. A seed that diverged counts "
        f"as guessing, {task.chance_error:.2f} %.",
        "- **IQM**: interquartile mean, the mean of the middle half of the seeds.",
        "- **sampled**: mean error of the sampled policy on validation at the last mark.",
        "- **env steps to the threshold**: until the validation error was first at most "
        f"{task.threshold:.2f} %; the median, seeds that never got there counted as later; in "
        "brackets how many did.",
        "- **samples backward**: env steps times how often each goes through the networks "
        "backward. **CPU time**: of the whole process. Medians of the seeds that finished.",
        "",
        "Class L and class R are not compared with each other: the label is in the loss of "
        "the first and only in the reward of the second.",
    ]


def _result_tables(rows: Sequence[Row], task: Task) -> list[list[str]]:
    """Return a section for each role and class; guessing stands with the controls."""
    sections = []
    for role, title in ROLES.items():
        for kind, meaning in CLASSES.items():
            members = [r for r in rows if (r.algorithm.role, r.algorithm.kind) == (role, kind)]
            if members:
                lines = [_cells(row) for row in in_order(members)]
                heading = f"## {title}{'class' if title else 'Class'} {kind}: {meaning}"
                sections.append([heading, "", *table(_HEADER, lines)])
        if role == "control":
            lines = [f"A label drawn at random is wrong in {task.chance_error:.2f} %."]
            sections.append(["## Guessing", "", *lines])
    return sections


def _cells(row: Row) -> list[str]:
    """Return a row of a table of results."""
    reached = row.reached
    return [
        row.algorithm.name,
        row.algorithm.memory,
        ", ".join(map(grouped, distinct(row.seeds, "parameters"))) or NONE,
        _errors(row),
        two_decimals(row.iqm),
        two_decimals(float(row.sampled.mean()) if row.seeds else math.nan),
        _seed_count(row),
        _steps(reached, len(row.seeds)) if reached else NONE,
        whole(row.samples_backward),
        whole(row.cpu_seconds),
    ]


def _errors(row: Row) -> str:
    """Return the mean error with its interval, or with few seeds each one's."""
    if row.seeds and row.task.seeds <= FEW:
        return f"{row.mean.value:.2f} (each: {', '.join(map(two_decimals, row.errors.tolist()))})"
    return estimate(row.mean)


def _seed_count(row: Row) -> str:
    diverged = len(row.seeds) - len(row.finished)
    text = f"{len(row.seeds)} of {row.task.seeds} seeds"
    text += "" if row.complete else ": incomplete"
    return text + (f", {diverged} diverged" if diverged else "")


def _steps(reached: Reached, seeds: int) -> str:
    count = round(reached.fraction * seeds)
    steps = f"{reached.median:,.0f}" if math.isfinite(reached.median) else "> budget"
    return f"{steps} ({count} of {seeds})"


def _record(row: Row) -> dict[str, Any]:
    """Return a line of the CSV table."""
    reached, algorithm = row.reached, row.algorithm
    errors = {seed.number: error for seed, error in zip(row.seeds, row.errors, strict=True)}
    record = {
        "env_id": row.task.env_id,
        "algorithm": algorithm.name,
        "class": algorithm.kind,
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
    """Return a number without the dust of floating point, nothing for NaN."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.10g}"


def _comparisons(protocol: Protocol, rows: Sequence[Row], task: Task) -> list[str]:
    """Test the named comparisons, class by class, corrected for all of them together."""
    if task.seeds <= FEW or not protocol.comparisons:
        return []
    by_name = {row.algorithm.name: row for row in rows}
    pairs = [(by_name.get(first), by_name.get(second)) for first, second in protocol.comparisons]
    p_values = np.array([_p_value(*pair) for pair in pairs])
    adjusted = holm(p_values)
    lines = ["## Named comparisons", "", _how_tested(task, len(pairs))]
    header = ("expected better", "than", "difference of means [points]")
    header += ("P(less error)", "p", "p after Holm")
    for kind in CLASSES:
        cells = [
            [*names, *_compared(*pair, float(p), float(after))]
            for names, pair, p, after in zip(
                protocol.comparisons, pairs, p_values, adjusted, strict=True
            )
            if protocol.algorithms[names[0]].kind == kind
        ]
        lines += ["", f"Class {kind}:", "", *table(header, cells)] if cells else []
    return lines


def _behaviour(rows: Sequence[Row]) -> list[list[str]]:
    """Return what the policies do at their end, which tells how those fail that fail."""
    header = ("algorithm", "commonest answer [%]", "on the object's middle [%]")
    header += ("spread of locations", "value explained")
    sections = []
    for kind in CLASSES:
        cells = [
            [row.algorithm.name, *(two_decimals(row.last(tag)) for tag in BEHAVIOUR)]
            for row in rows
            if row.algorithm.kind == kind and any(seed.result.last for seed in row.seeds)
        ]
        sections += [[f"Class {kind}:", "", *table(header, cells)]] if cells else []
    text = (
        "At the last mark, medians over the seeds that tell it, looking where the mean says. "
        "**Commonest answer**: images that get it; 100 if the label has collapsed to one. **On the "
        "object's middle**: glimpses after the first whose finest patch covers it. **Spread**: "
        "standard deviation of x and y over images, in units of half an image; 0 if it looks at "
        "the same places whatever it sees. **Value explained**: 1 less the share of the returns' "
        "variance that the value leaves in the last update, far below 0 where returns are equal."
    )
    return [["## What the policies do", "", text], *sections] if sections else []


def _how_tested(task: Task, count: int) -> str:
    least = least_p(task.seeds, task.seeds)
    return (
        "Wilcoxon's rank sum test of the seeds' errors, exact, two-sided; with "
        f"{task.seeds} seeds a side no p is below {p_text(least)}, and after Holm's correction for "
        f"the {count} named comparisons (tested or not, on this task) none below "
        f"{p_text(min(1, count * least))}. The difference is the first's mean minus the second's. "
        "P(less error): the probability that a run of the first errs less than one of the "
        "second, ties half, with a bootstrap interval; 1.00 to 1.00 only means that all seeds did."
    )


def _p_value(first: Row | None, second: Row | None) -> float:
    """Return the p of a comparison; NaN unless both have all their seeds."""
    if first is None or second is None or not (first.complete and second.complete):
        return math.nan
    return rank_test(first.errors, second.errors)


def _compared(first: Row | None, second: Row | None, p: float, after: float) -> list[str]:
    if first is None or second is None:
        return ["not tested: does not take part in this task", *[NONE] * 3]
    if math.isnan(p):
        counts = (
            f"{row.algorithm.name} has {len(row.seeds)} of {row.task.seeds} seeds"
            for row in (first, second)
        )
        return [f"not tested: {', '.join(counts)}", *[NONE] * 3]
    better = probability_of_improvement([-first.errors], [-second.errors])
    return [
        f"{first.mean.value - second.mean.value:+.2f}",
        estimate(better),
        p_text(p),
        p_text(after),
    ]
