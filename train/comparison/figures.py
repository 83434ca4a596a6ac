"""Figures of a comparison: learning curves, and the final error of every seed.

Classes L and R have separate panels. An algorithm has the same colour and marker in all figures
of a protocol; controls are grey. Figures are drawn without pyplot, which would keep them alive.

Dimension key:
    n: seeds of an algorithm
    k: marks of a run
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.typing import LineStyleType
from PIL import Image

from agents.runs.files import make_folder, write_whole
from train.comparison.protocol import ComparedTask, Protocol
from train.comparison.results import Seed
from train.comparison.summary import CLASSES, FEW, ROLES, Row, TaskResults, in_order

# Okabe and Ito (2008), "Color universal design", with the yellow darkened, as it is too pale for
# lines; the last two colours are ours. Markers tell lines apart in grey print.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#E69F00", "#8C7A00", "#000000"),
    *("#7A3E9D", "#7F4F24"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
CONTROL_STYLES: tuple[LineStyleType, ...] = ("--", "-.", (0, (6, 2, 1, 2, 1, 2)), (0, (8, 3)))
GREY = "#777777"
TICKS = (0, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 70, 100)
LINEAR = 1.0  # [%]; error axes are linear below it, so that 0 has a place
_SCALE = {"linthresh": LINEAR, "linscale": 0.6}
XLABELS = ("env steps", "samples through the networks backward", "CPU time at one thread [s]")
DPI = 100


class Style(NamedTuple):
    """How an algorithm is drawn in every figure.

    Attributes:
        colour: Colour of lines and points.
        marker: Marker of the mean at its marks.
        line: Matplotlib's line style of the mean.
    """

    colour: str
    marker: str
    line: LineStyleType = "-"


class Mean(NamedTuple):
    """The mean of an algorithm's curves, each (k,).

    Attributes:
        env_steps: Env steps at the marks.
        cpu_seconds: Mean over the seeds that got that far [s].
        error: Mean over all seeds, with guessing after the end of one that diverged [%].
    """

    env_steps: np.ndarray
    cpu_seconds: np.ndarray
    error: np.ndarray


def styles(protocol: Protocol) -> dict[str, Style]:
    """Return each algorithm's style; within a class, and among its controls, all differ.

    Colours repeat after ten algorithms of a class, with other markers.
    """
    found: dict[str, Style] = {}
    counts: dict[tuple[str, bool], int] = {}
    for algorithm in protocol.algorithms.values():
        group = (algorithm.feedback, algorithm.role == "control")
        index = counts.setdefault(group, 0)
        counts[group] += 1
        marker = MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
        style = Style(COLOURS[index % len(COLOURS)], marker)
        if algorithm.role == "control":
            style = Style(GREY, marker, CONTROL_STYLES[index % len(CONTROL_STYLES)])
        found[algorithm.name] = style
    return found


def learning_curves(protocol: Protocol, results: TaskResults) -> Figure:
    """Draw validation errors during training: a row per class, a column per measure of cost.

    Thin lines are seeds, thick ones means; a cross is where a seed diverged.

    Raises:
        ValueError: If there is no result.
    """
    groups, task, look = _by_class(results), results.task, styles(protocol)
    figure = Figure(figsize=(13, 0.5 + 3.7 * len(groups)), dpi=DPI, layout="constrained")
    grid = figure.subplots(
        len(groups), len(XLABELS), squeeze=False, sharey="row", subplot_kw={"xscale": "log"}
    )
    for (letter, rows), panels in zip(groups.items(), grid, strict=True):
        panels[0].set_yscale("symlog", **_SCALE)
        curves = [seed.curve.error for row in rows for seed in row.seeds]
        panels[0].set_ylim(_error_limits(np.concatenate([[task.threshold], *curves]), task))
        for column, axes in enumerate(panels):
            _dress_curves(axes, task)
            _draw_curves(axes, rows, column, look)
            axes.set_xlabel(XLABELS[column])
        _error_ticks(panels[0], "y")
        panels[0].set_ylabel("validation error [%]")
        panels[0].set_title(f"Class {letter}: {CLASSES[letter]}", loc="left", fontsize=11)
        _legend(panels[-1], rows, look)
    figure.suptitle(f"{task.env_id}: thin lines are seeds, thick ones their means")
    return figure


def final_errors(protocol: Protocol, results: TaskResults) -> Figure:
    """Draw every seed's final error, with mean and 95 % t interval, in a panel per class.

    A task with few seeds has points only, without intervals or an order.

    Raises:
        ValueError: If there is no result.
    """
    groups = {letter: _by_role(rows) for letter, rows in _by_class(results).items()}
    task, look = results.task, styles(protocol)
    sizes = [len(rows) + 0.6 for rows in groups.values()]
    figure = Figure(figsize=(8.5, 1.5 + 0.42 * sum(sizes)), dpi=DPI, layout="constrained")
    grid = figure.subplots(
        len(groups), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": sizes}
    )[:, 0]
    for (letter, rows), axes in zip(groups.items(), grid, strict=True):
        for place, row in enumerate(rows):
            _draw_strip(axes, row, place, look[row.algorithm.name])
        axes.set_yticks(range(len(rows)), [_legend_name(row).replace(", ", "\n") for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_title(f"Class {letter}: {CLASSES[letter]}", loc="left", fontsize=11)
        axes.axvline(task.chance_error, color=GREY, linewidth=1, linestyle=":")
    _dress_strips(grid[-1], groups, task)
    figure.suptitle(f"{task.env_id}: final error of every seed")
    return figure


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG of 128 colours, which takes a third of the space."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    picture.quantize(128, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    make_folder(path.parent)
    write_whole(path, buffer.getvalue())


def mean_curve(row: Row) -> Mean:
    """Return the mean over an algorithm's seeds, at the marks of the seed that got farthest.

    Seeds are interpolated to these marks, which changes nothing if they share them. A seed that
    diverged counts as guessing after its end; one that finished keeps its last error.

    Raises:
        ValueError: If there is no seed.
    """
    if not row.seeds:
        raise ValueError(f"row must have a seed, but {row.algorithm.name} has none")
    marks = max(
        (seed.curve.env_steps for seed in row.seeds), key=lambda steps: steps.max(initial=0)
    )
    errors = [_error_at(seed, marks, row.task.chance_error) for seed in row.seeds]
    costs = np.array([_cpu_at(seed, marks) for seed in row.seeds])  # (n, k)
    there = np.isfinite(costs)
    seconds = np.where(there, costs, 0).sum(0) / np.maximum(there.sum(0), 1)
    return Mean(marks, seconds, np.mean(errors, axis=0))


def _by_class(results: TaskResults) -> dict[str, list[Row]]:
    """Return the algorithms that have seeds, by class."""
    rows = [row for row in results.rows if row.seeds]
    if not rows:
        raise ValueError(f"results must hold a seed on {results.task.env_id}, got none")
    groups = {letter: [r for r in rows if r.algorithm.feedback == letter] for letter in CLASSES}
    return {letter: members for letter, members in groups.items() if members}


def _by_role(rows: Sequence[Row]) -> list[Row]:
    """Return rows by role, with controls last."""
    roles = sorted(ROLES, key="control".__eq__)
    return [r for role in roles for r in in_order([r for r in rows if r.algorithm.role == role])]


def _error_at(seed: Seed, marks: np.ndarray, chance_error: float) -> np.ndarray:
    """Return a seed's errors at some env steps: (k,)."""
    steps, errors = seed.curve.env_steps, seed.curve.error
    if not len(steps):
        return np.full(len(marks), chance_error)
    if seed.result.status == "finished":
        return np.interp(marks, steps, errors)
    return np.where(marks > steps[-1], chance_error, np.interp(marks, steps, errors))


def _cpu_at(seed: Seed, marks: np.ndarray) -> np.ndarray:
    """Return a seed's CPU time at some env steps [s], NaN beyond its end: (k,)."""
    steps, seconds = seed.curve.env_steps, seed.curve.cpu_seconds
    if not len(steps):
        return np.full(len(marks), math.nan)
    return np.interp(marks, steps, seconds, right=math.nan)


def _cost(column: int, row: Row, env_steps: np.ndarray, cpu_seconds: np.ndarray) -> np.ndarray:
    """Return a curve's x values in a column: (k,)."""
    return (env_steps, env_steps * row.algorithm.passes, cpu_seconds)[column]


def _draw_curves(axes: Axes, rows: Sequence[Row], column: int, look: dict[str, Style]) -> None:
    """Draw the algorithms of a class: seeds thin, means thick; controls have only a mean."""
    for row in rows:
        style, control = look[row.algorithm.name], row.algorithm.role == "control"
        for seed in () if control else row.seeds:
            curve = seed.curve
            x = _cost(column, row, curve.env_steps, curve.cpu_seconds)
            axes.plot(x, curve.error, color=style.colour, linewidth=0.6, alpha=0.35)
            if seed.result.status == "diverged" and len(x):
                axes.plot(x[-1], curve.error[-1], "x", color=style.colour, markersize=7, zorder=4)
        mean = mean_curve(row)
        axes.plot(
            _cost(column, row, mean.env_steps, mean.cpu_seconds),
            mean.error,
            color=style.colour,
            linestyle=style.line,
            linewidth=1.3 if control else 2,
            marker=None if control else style.marker,
            markersize=4,
            markevery=0.15,
            zorder=2 if control else 3,
        )


def _dress_curves(axes: Axes, task: ComparedTask) -> None:
    """Give a panel of curves its threshold, ticks and grid."""
    axes.axhline(task.threshold, color="black", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", alpha=0.3)
    axes.tick_params(labelsize=9)


def _error_limits(errors: np.ndarray, task: ComparedTask) -> tuple[float, float]:
    """Return the limits of an axis that holds all errors and that of guessing [%]."""
    low, high = float(np.nanmin(errors)), max(task.chance_error, float(np.nanmax(errors)))
    return (low / 1.25 if low > LINEAR else -0.06), high * 1.15


def _error_ticks(axes: Axes, name: str) -> None:
    """Label an axis of errors in plain numbers."""
    axis = axes.yaxis if name == "y" else axes.xaxis
    low, high = axis.get_view_interval()
    axis.set_ticks([tick for tick in TICKS if low <= tick <= high])
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _legend(axes: Axes, rows: Sequence[Row], look: dict[str, Style]) -> None:
    """Name the lines next to a row of panels, the highest first unless seeds are few."""
    few = rows[0].task.seeds <= FEW
    ending = rows if few else sorted(rows, key=lambda row: -row.mean.value)
    handles = [_handle(row, look[row.algorithm.name]) for row in ending]
    threshold = Line2D([], [], color="black", linewidth=0.8, linestyle=(0, (1, 2)))
    threshold.set_label(f"threshold, {rows[0].task.threshold:g} %")
    axes.legend(
        handles=[*handles, threshold],
        loc="center left",
        bbox_to_anchor=(1.02, 0.5),
        frameon=False,
        fontsize=9,
        title=None if few else "by final error",
        title_fontsize=9,
        alignment="left",
    )


def _handle(row: Row, style: Style) -> Line2D:
    """Return an algorithm's line of the legend."""
    control = row.algorithm.role == "control"
    return Line2D(
        [],
        [],
        color=style.colour,
        linestyle=style.line,
        linewidth=1.3 if control else 2,
        marker="" if control else style.marker,
        markersize=5,
        label=_legend_name(row),
    )


def _legend_name(row: Row) -> str:
    missing = "" if row.complete else f", {len(row.seeds)} of {row.task.seeds} seeds"
    marks = {"control": " (control)", "naive": " (naive)"}
    return row.algorithm.name + marks.get(row.algorithm.role, "") + missing


def _draw_strip(axes: Axes, row: Row, place: int, style: Style) -> None:
    """Draw an algorithm's seeds as points, and the mean with its interval above them."""
    offsets = np.linspace(-0.06, 0.3, row.task.seeds)
    for seed, error in zip(row.seeds, row.errors, strict=True):
        ended = seed.result.status == "finished"
        axes.plot(
            error,
            place + (offsets[seed.number] if row.task.seeds > 1 else 0),
            "o" if ended else "x",
            color=style.colour,
            markersize=4.5 if ended else 7,
            markeredgewidth=0 if ended else 2,
            alpha=0.65 if ended else 1,
        )
    value, low, high = row.mean
    if row.task.seeds > FEW:
        axes.plot(value, place - 0.25, "|", color="black", markersize=9, markeredgewidth=2)
    if math.isfinite(low):
        axes.hlines(place - 0.25, max(low, 1e-3), high, color="black", linewidth=1.3)


def _dress_strips(axes: Axes, groups: dict[str, list[Row]], task: ComparedTask) -> None:
    """Give the panels of final errors their common axis; ``axes`` is the lowest."""
    errors = np.concatenate([row.errors for rows in groups.values() for row in rows])
    axes.set_xscale("symlog", **_SCALE)
    axes.set_xlim(_error_limits(errors, task))
    _error_ticks(axes, "x")
    few = task.seeds <= FEW
    text = "final error [%]; cross: diverged, counts as guessing (dotted)"
    axes.set_xlabel(text if few else f"{text}\nbar: mean over seeds, with 95 % t interval")
    for each in axes.figure.axes:
        each.grid(axis="x", which="major", alpha=0.3)
