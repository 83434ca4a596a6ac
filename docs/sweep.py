"""Draw a sweep: `python docs/sweep.py benchmarks/results/sweeps/ENV_ID.csv --output FIGURE`.

One panel a parameter: each trial's validation error against its value of the parameter. A finished
trial stands at its value, one that was pruned, hollow and grey, at the last error it came to; the
defaults and the best trial are marked. Trials without an error (failed, interrupted, running) are
left out of the panels and counted in the caption. It needs nothing but the CSV and the JSON
beside it, which `train/sweep.py` writes.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import tyro
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from agents.runs.commands import run
from agents.runs.files import read_file, read_json

# Okabe and Ito's colours; shape and filling tell the marks apart without them
FINISHED = {"marker": "o", "s": 30, "color": "#0072B2", "alpha": 0.75, "linewidths": 0}
PRUNED = {"marker": "o", "s": 26, "facecolors": "none", "edgecolors": "#8a8a8a", "linewidths": 1}
DEFAULT = {"marker": "D", "s": 75, "color": "#E69F00", "edgecolors": "black"}
BEST = {"marker": "*", "s": 230, "color": "#D55E00", "edgecolors": "black"}
PRUNED_LABEL = "pruned on the way, at its last error"
TITLES = {"std": "std (of locations, at the start)"}
SCATTER = (-0.12, 0.04, -0.04, 0.12, 0.0)  # of trials with one choice, to the sides
MAX_CSV = 2**24  # [B]


@dataclass(frozen=True)
class Config:
    """What to draw and where to write it."""

    report: tyro.conf.Positional[Path]
    """The CSV of train/sweep.py; the JSON lies beside it."""
    output: Path = Path(__file__).parent / "sweep.png"
    """The figure."""


class Point(NamedTuple):
    """A trial that has an error.

    Attributes:
        number: The trial's.
        finished: Whether it ran whole; else it was pruned.
        params: By name, as text.
        error: Its value, or the last error it came to [%].
    """

    number: int
    finished: bool
    params: dict[str, str]
    error: float


def main(config: Config) -> None:
    """Draw and write the figure."""
    mpl.use("Agg")
    facts = read_json(config.report.with_suffix(".json"))
    space = facts["settings"]["space"]
    points = read_points(config.report, list(space))
    if not points:
        raise ValueError(f"{config.report} holds no trial with an error")
    columns = (len(space) + 2) // 2  # a cell is the legend's
    figure, grid = pyplot.subplots(
        2, columns, figsize=(3.6 * columns, 7), dpi=130, layout="constrained", sharey=True
    )
    for axes, (name, distribution) in zip(grid.flat, space.items(), strict=False):
        draw(axes, name, distribution, points, facts)
    for axes in grid[:, 0]:
        axes.set_ylabel("validation error [%]")
    for axes in grid.flat[len(space) :]:
        axes.set_axis_off()
    explain(grid.flat[len(space)], grid.flat[0], points, facts)
    figure.savefig(config.output)
    pyplot.close(figure)
    print(config.output)


def read_points(path: Path, names: list[str]) -> list[Point]:
    """Return the trials of a report that have an error.

    Raises:
        ValueError: If the file is damaged; the message names it.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_file(path, MAX_CSV).decode())))
        points = [read_point(row, names) for row in rows if row["state"] in ("finished", "pruned")]
    except KeyError as error:
        raise ValueError(f"{path} is no report of a sweep: it has no column {error}") from error
    return points


def read_point(row: dict[str, str], names: list[str]) -> Point:
    """Return a trial that finished or was pruned."""
    marks = [text for name, text in row.items() if name.startswith("mark_") and text]
    finished = row["state"] == "finished"
    error = float(row["value"] if finished else marks[-1])
    return Point(int(row["trial"]), finished, {name: row[name] for name in names}, error)


def draw(
    axes: Axes, name: str, distribution: dict[str, Any], points: list[Point], facts: dict[str, Any]
) -> None:
    """Draw the errors over one parameter."""
    attributes = distribution["attributes"]
    default, best = facts["default_trial"], facts["best_trial"]
    groups = {
        PRUNED_LABEL: (PRUNED, [p for p in points if not p.finished]),
        "finished": (
            FINISHED,
            [p for p in points if p.finished and p.number not in (default, best)],
        ),
        "defaults": (DEFAULT, [p for p in points if p.number == default]),
        "best": (BEST, [p for p in points if p.number == best]),
    }
    for order, (label, (style, group)) in enumerate(groups.items()):
        if group:
            where = [place(point, name, attributes) for point in group]
            axes.scatter(where, [p.error for p in group], label=label, zorder=3 + order, **style)
    dress(axes, name, attributes)


def place(point: Point, name: str, attributes: dict[str, Any]) -> float:
    """Return where a trial stands on the axis of a parameter."""
    value = float(point.params[name])
    if "choices" not in attributes:
        return value
    return attributes["choices"].index(value) + SCATTER[point.number % len(SCATTER)]


def dress(axes: Axes, name: str, attributes: dict[str, Any]) -> None:
    """Give a panel its scales, over the whole space, its names and grid."""
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(TITLES.get(name, name))
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_locator(NullLocator())
    if "choices" in attributes:
        choices = attributes["choices"]
        axes.set_xticks(range(len(choices)), [str(choice) for choice in choices])
        axes.set_xlim(-0.5, len(choices) - 0.5)
    else:
        low, high = attributes["low"], attributes["high"]
        if attributes["log"]:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
            axes.xaxis.set_major_formatter(plain)
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(
            *((low / 1.1, high * 1.1) if attributes["log"] else (low - 0.03, high + 0.03))
        )
    axes.grid(alpha=0.25)


def explain(cell: Axes, panel: Axes, points: list[Point], facts: dict[str, Any]) -> None:
    """Write the legend, and what was run, into a cell of its own."""
    settings, errors = facts["settings"], {point.number: point.error for point in points}
    handles, labels = panel.get_legend_handles_labels()
    told = {"defaults": facts["default_trial"], "best": facts["best_trial"]}
    labels = [
        f"{label}: {errors[told[label]]:.2f} %" if told.get(label) in errors else label
        for label in labels
    ]
    cell.legend(handles[::-1], labels[::-1], loc="upper left", frameon=False, fontsize=10)
    counts = ", ".join(f"{count} {state}" for state, count in facts["counts"].items())
    seeds = len(settings["seeds"])
    lines = [
        settings["env_id"],
        f"{settings['total_episodes']:,} episodes, {seeds} seed{'s' * (seeds > 1)} a trial",
        f"trials: {counts}",
        f"a run that diverged counts as guessing, {settings['chance_error']:g} %",
    ]
    cell.text(0.05, 0.5, "\n".join(lines), transform=cell.transAxes, fontsize=9, va="top")


if __name__ == "__main__":
    run(main, lambda arguments: tyro.cli(Config, args=arguments))
