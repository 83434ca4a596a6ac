"""Figures of a comparison: learning curves, and the final error of every seed.

Each class has panels of its own. An algorithm has the same colour and marker in all figures
of a protocol; controls are grey. Figures are drawn without pyplot, which would keep them alive.

Dimension key:
    n: seeds of an algorithm
    k: marks of a run
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType
from PIL import Image

from agents.runs.files import make_folder, write_whole
from train.comparison.protocol import Protocol
from train.comparison.results import Curve, Seed
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
XLABELS = ("env steps", "samples through the networks backward", "CPU time at one thread [s]")
_SCALE = {"linthresh": LINEAR, "linscale": 0.6}
_PANEL = {"dpi": 100, "layout": "constrained"}
_DOTTED: Any = {"color": "black", "linewidth": 0.8, "linestyle": (0, (1, 2))}


def styles(protocol: Protocol) -> dict[str, dict[str, Any]]:
    """Return how means are drawn, by algorithm; within a class, and its controls, all differ.

    Colours repeat after ten algorithms of a class, with other markers.
    """
    found: dict[str, dict[str, Any]] = {}
    counts: Counter[tuple[str, bool]] = Counter()
    for each in protocol.algorithms.values():
        group = each.feedback, each.role == "control"
        index = counts[group]
        counts[group] += 1
        if each.role == "control":
            line = CONTROL_STYLES[index % len(CONTROL_STYLES)]
            found[each.name] = {"color": GREY, "marker": "", "linestyle": line, "linewidth": 1.3}
        else:
            turn, colour = divmod(index, len(COLOURS))
            style = {"color": COLOURS[colour], "marker": MARKERS[(index + turn) % len(MARKERS)]}
            found[each.name] = {**style, "linestyle": "-", "linewidth": 2}
    return found


def learning_curves(protocol: Protocol, results: TaskResults) -> Figure:
    """Draw validation errors during training: a row per class, a column per measure of cost.

    Thin lines are seeds, thick ones means; a cross is where a seed diverged.
    """
    groups, look, threshold = _by_class(results), styles(protocol), results.task.threshold
    heights = [max(3.7, 0.22 * (len(rows) + 3)) for rows in groups.values()]  # [in]; the legend's
    figure = Figure(figsize=(13, 0.5 + sum(heights)), **_PANEL)
    options: Any = {"subplot_kw": {"xscale": "log"}, "gridspec_kw": {"height_ratios": heights}}
    grid = figure.subplots(len(groups), len(XLABELS), squeeze=False, sharey="row", **options)
    for (letter, rows), panels in zip(groups.items(), grid, strict=True):
        panels[0].set_yscale("symlog", **_SCALE)
        curves = [seed.curve.error for row in rows for seed in row.seeds]
        errors = np.concatenate([[threshold], *curves])
        panels[0].set_ylim(_error_limits(errors, results.task.chance_error))
        for column, axes in enumerate(panels):
            _draw_curves(axes, rows, column, look)
            axes.axhline(threshold, **_DOTTED, zorder=1)
            axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
            axes.xaxis.set_minor_formatter(ticker.NullFormatter())
            axes.grid(which="major", alpha=0.3)
            axes.tick_params(labelsize=9)
            axes.set_xlabel(XLABELS[column])
        _error_ticks(panels[0].yaxis)
        panels[0].set_ylabel("validation error [%]")
        panels[0].set_title(f"Class {letter}: {CLASSES[letter]}", loc="left", fontsize=11)
        _draw_legend(panels[-1], rows, look)
    figure.suptitle(f"{results.task.name}: thin lines are seeds, thick ones their means")
    return figure


def final_errors(protocol: Protocol, results: TaskResults) -> Figure:
    """Draw every seed's final error, with mean and 95 % t interval, in a panel per class.

    An algorithm with one or two seeds has points only; a task with few keeps the protocol's order.
    """
    roles = sorted(ROLES, key="control".__eq__)  # last
    groups = {
        letter: sorted(in_order(rows), key=lambda row: roles.index(row.algorithm.role))
        for letter, rows in _by_class(results).items()
    }
    chance_error, look = results.task.chance_error, styles(protocol)
    sizes = [len(rows) + 0.6 for rows in groups.values()]
    figure = Figure(figsize=(8.5, 1.5 + 0.42 * sum(sizes)), **_PANEL)
    options: Any = {"sharex": True, "gridspec_kw": {"height_ratios": sizes}}
    panels = figure.subplots(len(groups), 1, squeeze=False, **options)[:, 0]
    for (letter, rows), axes in zip(groups.items(), panels, strict=True):
        for place, row in enumerate(rows):
            _draw_strip(axes, row, place, look[row.algorithm.name]["color"])
        axes.set_yticks(range(len(rows)), [_label(row).replace(", ", "\n") for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_title(f"Class {letter}: {CLASSES[letter]}", loc="left", fontsize=11)
        axes.axvline(chance_error, color=GREY, linewidth=1, linestyle=":")
        axes.grid(axis="x", which="major", alpha=0.3)
    errors = np.concatenate([row.errors for row in results.rows])
    panels[-1].set_xscale("symlog", **_SCALE)
    panels[-1].set_xlim(_error_limits(errors, chance_error))
    _error_ticks(panels[-1].xaxis)
    text = "final error [%]; cross: diverged, counts as guessing (dotted)"
    if any(math.isfinite(row.mean.low) for row in results.rows):
        text += "\nbar: mean over seeds, with 95 % t interval"
    panels[-1].set_xlabel(text)
    figure.suptitle(f"{results.task.name}: final error of every seed")
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


def mean_curve(row: Row) -> Curve:
    """Return the mean over an algorithm's seeds, at the marks of the seed that got farthest.

    Seeds are interpolated to these marks, which changes nothing if they share them. A seed that
    diverged counts as guessing after its end; one that finished keeps its last error. CPU time
    is the mean over the seeds that got that far.
    """
    marks = max((s.curve.env_steps for s in row.seeds), key=lambda steps: steps.max(initial=0))
    curves = [_at_marks(seed, marks, row.task.chance_error) for seed in row.seeds]
    seconds, errors = (np.array(columns) for columns in zip(*curves, strict=True))  # (n, k) each
    return Curve(marks, np.nanmean(seconds, 0), errors.mean(0), np.full(len(marks), math.nan))


def _at_marks(seed: Seed, marks: np.ndarray, chance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a seed's CPU time [s], NaN beyond its end, and error [%] at some marks: (k,) each."""
    curve = seed.curve
    if not len(curve.env_steps):
        return np.full(len(marks), math.nan), np.full(len(marks), chance)
    after = chance if seed.result.status == "diverged" else curve.error[-1]
    seconds = np.interp(marks, curve.env_steps, curve.cpu_seconds, right=math.nan)
    return seconds, np.interp(marks, curve.env_steps, curve.error, right=after)


def _by_class(results: TaskResults) -> dict[str, list[Row]]:
    """Return the algorithms that have seeds, by class."""
    rows = [row for row in results.rows if row.seeds]
    groups = {letter: [r for r in rows if r.algorithm.feedback == letter] for letter in CLASSES}
    return {letter: members for letter, members in groups.items() if members}


def _draw_curves(axes: Axes, rows: Sequence[Row], column: int, look: dict[str, Any]) -> None:
    """Draw the algorithms of a class: seeds thin, means thick; controls have only a mean."""
    for row in rows:
        style, control = look[row.algorithm.name], row.algorithm.role == "control"

        def cost(curve: Curve, passes: float = row.algorithm.passes) -> np.ndarray:
            return (curve.env_steps, curve.env_steps * passes, curve.cpu_seconds)[column]

        for seed in () if control else row.seeds:
            x, error = cost(seed.curve), seed.curve.error
            axes.plot(x, error, color=style["color"], linewidth=0.6, alpha=0.35)
            if seed.result.status == "diverged" and len(x):
                axes.plot(x[-1], error[-1], "x", color=style["color"], markersize=7, zorder=4)
        mean = mean_curve(row)
        axes.plot(cost(mean), mean.error, **style, markersize=4, markevery=0.15, zorder=3 - control)


def _draw_legend(axes: Axes, rows: Sequence[Row], look: dict[str, Any]) -> None:
    """Name the lines next to a row of panels, the highest first unless seeds are few or missing."""
    ranked = all(row.complete and row.task.seeds > FEW for row in rows)
    handles = [
        Line2D([], [], markersize=5, label=_label(row), **look[row.algorithm.name])
        for row in (in_order(rows)[::-1] if ranked else rows)
    ]
    handles.append(Line2D([], [], label=f"threshold, {rows[0].task.threshold:g} %", **_DOTTED))
    place: Any = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "alignment": "left"}
    title = "by final error" if ranked else None
    axes.legend(handles=handles, title=title, frameon=False, fontsize=9, title_fontsize=9, **place)


def _label(row: Row) -> str:
    """Return an algorithm's name, with its role if it is special and its seeds if some lack."""
    roles = {"control": " (control)", "naive": " (naive)"}
    return row.algorithm.name + roles.get(row.algorithm.role, "") + row.missing


def _draw_strip(axes: Axes, row: Row, place: int, colour: str) -> None:
    """Draw an algorithm's seeds as points, and the mean with its interval above them."""
    offsets = np.linspace(-0.06, 0.3, row.task.seeds) if row.task.seeds > 1 else [0]
    finished: Any = {"marker": "o", "markersize": 4.5, "markeredgewidth": 0, "alpha": 0.65}
    diverged: Any = {"marker": "x", "markersize": 7, "markeredgewidth": 2}
    for seed, error in zip(row.seeds, row.errors, strict=True):
        look = finished if seed.result.status == "finished" else diverged
        axes.plot(error, place + offsets[seed.number], color=colour, **look)
    value, low, high = row.mean
    if math.isfinite(low):
        axes.plot(value, place - 0.25, "|", color="black", markersize=9, markeredgewidth=2)
        axes.hlines(place - 0.25, max(low, 1e-3), high, color="black", linewidth=1.3)


def _error_limits(errors: np.ndarray, chance_error: float) -> tuple[float, float]:
    """Return the limits of an axis that holds all errors and that of guessing [%]."""
    low, high = float(np.nanmin(errors)), max(chance_error, float(np.nanmax(errors)))
    return (low / 1.25 if low > LINEAR else -0.06), high * 1.15


def _error_ticks(axis: Axis) -> None:
    low, high = axis.get_view_interval()
    axis.set_ticks([tick for tick in TICKS if low <= tick <= high])
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(ticker.NullLocator())
