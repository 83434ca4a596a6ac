"""Draw what the dials of the signpost board do: `python docs/signpost.py`.

One panel per dial: each seed's test error, the mean over seeds, and an error that is known exactly;
the optimum errs in 0 % everywhere. `benchmarks/signpost_dials` holds the runs of
`train/signpost_dials.toml`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro
from matplotlib import pyplot

from agents.runs.files import read_csv

FIGURE = Path(__file__).with_suffix(".png")
TABLE = Path(__file__).parents[1] / "benchmarks/signpost_dials/SignpostGlimpse-v0/table.csv"
MARKS = 4  # kinds of marks, the environment's default
RANDOM = "random locations"


def looking_at_random(board_size: int, chain: int) -> float:
    """Return the error [%] of chain + 2 looks at uniform locations of boards with one mark.

    The side of a cell is 8 px, of a glimpse 4, so per axis a glimpse shows part of a cell from
    11 of the board's 8 m pixel corners, and of a cell at the border from 9.5.
    """
    seen = np.full(board_size, 11.0)
    seen[[0, -1]] = 9.5
    missed = 1 - np.outer(seen, seen) / (8 * board_size) ** 2  # by one look, for each cell
    return 100 * (missed ** (chain + 2)).mean() * (1 - 1 / MARKS)


def following(parts: int) -> float:
    """Return the error [%] of following the path and naming the last mark alone."""
    return 100 * (1 - MARKS ** (1 - parts))


PANELS = {  # by dial: the axis, values, the known error and its name
    "board": ("cells per side", (3, 4, 5, 6, 8), lambda m: looking_at_random(m, 1), RANDOM),
    "chain": ("cells to follow", (1, 2, 3, 4), lambda n: looking_at_random(3, n), RANDOM),
    "parts": ("marks to remember", (1, 2, 3), following, "following, without memory"),
}


def main(output: Path = FIGURE) -> None:
    """Draw and write the figure."""
    rows = {row["algorithm"]: row for row in read_csv(TABLE)}
    size = {"figsize": (11, 4.2), "dpi": 130, "layout": "constrained"}
    figure, panels = pyplot.subplots(1, 3, sharey=True, **size)
    for axes, (dial, (label, values, known, name)) in zip(panels, PANELS.items(), strict=True):
        for estimator, colour in (("dense", "C0"), ("outcome", "C3")):
            usual = rows[f"{estimator}_board_3"]  # all dials at their defaults
            settings = [rows.get(f"{estimator}_{dial}_{value}", usual) for value in values]
            means = [float(row["error_mean"]) for row in settings]
            axes.plot(values, means, color=colour, label=estimator)
            for value, row in zip(values, settings, strict=True):
                seeds = [float(row[key]) for key in row if "error_seed" in key and row[key]]
                axes.plot([value] * len(seeds), seeds, ".", color=colour, alpha=0.6)
        axes.plot(values, list(map(known, values)), "k--")
        axes.set(xlabel=label, xticks=values, ylim=(-3, 100), title=f"dashed: {name}")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("test error [%]")
    rows = panels[0].get_legend_handles_labels()
    figure.legend(*rows, loc="outside lower center", ncols=2, title="dots: seeds, lines: means")
    figure.savefig(output)
    print(output)


if __name__ == "__main__":
    tyro.cli(main)
