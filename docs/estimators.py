"""Draw how the estimators learn: `python docs/estimators.py`.

One panel per task of the comparison (`benchmarks/comparison`), one line per estimator: the
validation error over the env steps, mean over the seeds, with every seed in the background.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import cycle
from pathlib import Path

import numpy as np
import tyro
from matplotlib import pyplot
from matplotlib.axes import Axes

from agents.estimators import ESTIMATORS
from train.comparison.results import Curve, Seed, read_lines

FIGURE = Path(__file__).with_suffix(".png")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "comparison"
TASKS = ("SignpostGlimpse-v0", "MNISTGlimpse-v0", "ClutteredMNISTGlimpse-v0")
FLOOR = 0.1  # of an error [%], on a logarithmic axis
COLOURS = dict(zip(ESTIMATORS, cycle(pyplot.colormaps["tab10"].colors)))  # pyright: ignore


def main(output: Path = FIGURE) -> None:
    """Draw and write the figure."""
    figure, panels = pyplot.subplots(1, 3, figsize=(13, 4.4), dpi=130, layout="constrained")
    for axes, task in zip(panels, TASKS, strict=True):
        curves = defaultdict[str, list[Curve]](list)
        for seed in read_lines(Seed, RESULTS, task):
            if seed.algorithm in ESTIMATORS:
                curves[seed.algorithm].append(seed.curve)
        for name in sorted(curves, key=list(ESTIMATORS).index):
            draw(axes, name, curves[name])
        dress(axes, f"{task}, {len(curves['dense'])} seeds")
    rows = panels[0].get_legend_handles_labels()
    figure.legend(*rows, loc="outside lower center", ncols=6, title="dashed: no label in the loss")
    figure.savefig(output)
    print(output)


def draw(axes: Axes, name: str, curves: list[Curve]) -> None:
    """Draw an estimator's mean error, dashed if it doesn't see the label, and its seeds."""
    style = "-" if ESTIMATORS[name].sees_label else "--"
    errors = np.maximum([curve.error for curve in curves], FLOOR)  # (seeds, marks)
    steps = curves[0].env_steps
    axes.plot(steps, errors.T, color=COLOURS[name], linestyle=style, linewidth=0.5, alpha=0.35)
    axes.plot(steps, errors.mean(0), color=COLOURS[name], linestyle=style, label=name)


def dress(axes: Axes, title: str) -> None:
    """Give a panel its scales, labels, grid and legend."""
    axes.set(yscale="log", title=title, xlabel="env steps", ylabel="validation error [%]")
    low = axes.get_ylim()[0]
    axes.set_yticks([FLOOR, 0.5, 1, 2, 5, 10, 20, 50, 90])
    axes.set_ylim(low, 100)
    axes.yaxis.set_major_formatter(lambda x, _: f"{x:g}" if x > FLOOR else f"0 to {FLOOR:g}")
    axes.yaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k")
    axes.grid(alpha=0.25)


if __name__ == "__main__":
    tyro.cli(main)
