"""Draw a sweep: `python docs/sweep.py benchmarks/results/sweeps/ENV_ID.csv --output FIGURE`.

There is a panel per setting, with each trial's validation error over its value. A finished trial
stands at its value; a pruned one, hollow and grey, at its last error. Trials without an error are
only counted in the caption. The CSV and the JSON next to it are what `train/sweep.py` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from agents.runs.commands import run
from agents.runs.files import read_csv, read_json
from train.comparison.figures import plain_ticks, write_figure

# Okabe and Ito's colours; shape and filling tell the marks apart without them
STYLES: dict[str, dict[str, Any]] = {
    "pruned, at its last error": {"s": 26, "facecolors": "none", "edgecolors": "#8a8a8a"},
    "finished": {"s": 30, "color": "#0072B2", "alpha": 0.75, "linewidths": 0},
    "defaults": {"marker": "D", "s": 75, "color": "#E69F00", "edgecolors": "black"},
    "best": {"marker": "*", "s": 230, "color": "#D55E00", "edgecolors": "black"},
}
TITLES = {"std": "std (of locations, at the start)"}
SCATTER = (-0.12, 0.04, -0.04, 0.12, 0.0)  # sideways, of trials with the same choice


@dataclass(frozen=True)
class Config:
    """What to draw and where to write it."""

    report: tyro.conf.Positional[Path]
    """CSV file of train/sweep.py; its JSON lies next to it."""
    output: Path = Path(__file__).parent / "sweep.png"
    """Figure to write."""


def main(config: Config) -> None:
    """Draw and write the figure."""
    facts = read_json(config.report.with_suffix(".json"))
    try:
        groups, space = group(read_csv(config.report), facts), facts["settings"]["space"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{config.report} is not a report of a sweep: {error!r}") from error
    if not any(groups.values()):
        raise ValueError(f"{config.report} holds no trial with an error")
    columns = (len(space) + 2) // 2  # one cell is for the legend
    figure = Figure(figsize=(3.6 * columns, 7), dpi=130, layout="constrained")
    cells = figure.subplots(2, columns, sharey="row").ravel()
    for axes, (name, distribution) in zip(cells, space.items(), strict=False):
        draw(axes, name, distribution["attributes"], groups)
    for axes in cells[::columns]:
        axes.set_ylabel("validation error [%]")
    for axes in cells[len(space) :]:
        axes.set_axis_off()
    explain(cells[len(space)], cells[0], groups, facts)
    write_figure(config.output, figure)
    print(config.output)


def group(rows: Sequence[dict[str, str]], facts: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the trials that have an error, by how they are drawn, each with that ``error``."""
    groups: dict[str, list[dict[str, Any]]] = {label: [] for label in STYLES}
    special = {str(facts["default_trial"]): "defaults", str(facts["best_trial"]): "best"}
    for row in rows:
        marks = [text for name, text in row.items() if name.startswith("mark_") and text]
        if row["state"] == "finished":
            label = special.get(row["trial"], "finished")
            groups[label].append({**row, "error": float(row["value"])})
        elif row["state"] == "pruned":
            groups["pruned, at its last error"].append({**row, "error": float(marks[-1])})
    return groups


def draw(axes: Axes, name: str, attributes: dict[str, Any], groups: dict[str, Any]) -> None:
    """Draw the errors over one setting, on axes that span the whole space."""
    choices = attributes.get("choices")
    for order, (label, trials) in enumerate(groups.items()):
        x = [float(trial[name]) for trial in trials]
        if choices:
            spread = [SCATTER[int(trial["trial"]) % len(SCATTER)] for trial in trials]
            x = [choices.index(value) + aside for value, aside in zip(x, spread, strict=True)]
        errors = [trial["error"] for trial in trials]
        axes.scatter(x, errors, label=label, zorder=3 + order, **STYLES[label])
    axes.set_xlabel(TITLES.get(name, name))
    axes.set_yscale("log")
    plain_ticks(axes.yaxis, LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axes.grid(alpha=0.25)
    if choices:
        axes.set_xticks(range(len(choices)), [str(choice) for choice in choices])
        axes.set_xlim(-0.5, len(choices) - 0.5)
    elif attributes["log"]:
        axes.set_xscale("log")
        plain_ticks(axes.xaxis, LogLocator(subs=(1, 2, 5), numticks=20))
        axes.set_xlim(attributes["low"] / 1.1, attributes["high"] * 1.1)
    else:
        axes.set_xlim(attributes["low"] - 0.03, attributes["high"] + 0.03)


def explain(cell: Axes, panel: Axes, groups: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write the legend, and what was run, into a cell of its own."""
    settings, (handles, labels) = facts["settings"], panel.get_legend_handles_labels()
    for index, label in enumerate(labels):
        if label in ("defaults", "best") and groups[label]:
            labels[index] = f"{label}: {groups[label][0]['error']:.2f} %"
    cell.legend(handles[::-1], labels[::-1], loc="upper left", frameon=False, fontsize=10)
    counts = ", ".join(f"{count} {state}" for state, count in facts["counts"].items())
    lines = [
        settings["env_id"],
        f"{settings['total_episodes']:,} episodes; seeds per trial: {len(settings['seeds'])}",
        f"trials: {counts}",
        f"a run that diverged counts as guessing, {settings['chance_error']:g} %",
    ]
    cell.text(0.05, 0.5, "\n".join(lines), transform=cell.transAxes, fontsize=9, va="top")


if __name__ == "__main__":
    run(main, lambda arguments: tyro.cli(Config, args=arguments, description=__doc__))
