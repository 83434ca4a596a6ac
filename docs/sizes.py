"""Draw the error at other sizes than the agents trained on: `python docs/sizes.py`.

One panel per keyword of `ClutteredMNISTGlimpse-v0`, one line per agent, with 95 % intervals.
`benchmarks/sizes/AGENT` holds one evaluation per point, which `train/evaluate.py --json` wrote:
RESULTS.md has the command.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tyro
from matplotlib import pyplot

FIGURE = Path(__file__).with_suffix(".png")
STORED = Path(__file__).parents[1] / "benchmarks" / "sizes"
PANELS = {  # by keyword: axis label, the task's value
    "object_scale": ("object scale", 1.0),
    "num_clutter": ("clutter pieces", 4),
    "canvas_size": ("canvas side [px]", 60),
}


def main(output: Path = FIGURE) -> None:
    """Draw and write the figure."""
    size = {"figsize": (11, 3.8), "dpi": 130, "layout": "constrained"}
    figure, panels = pyplot.subplots(1, 3, sharey=True, **size)
    for agent in sorted(path.name for path in STORED.iterdir()):
        points = read_points(STORED / agent)
        for axes, (keyword, (label, usual)) in zip(panels, PANELS.items(), strict=True):
            scores = {usual: points["object_scale", 1.0]}  # the task itself
            scores |= {value: score for (name, value), score in points.items() if name == keyword}
            values = sorted(scores)
            errors = np.array([scores[value]["error"] for value in values])
            low, high = np.transpose([scores[value]["interval"] for value in values])
            bars = {"yerr": (errors - low, high - errors), "capsize": 2, "marker": "."}
            axes.errorbar(values, errors, label=agent, **bars)
            axes.set(xlabel=label, yscale="log", yticks=[1, 2, 5, 10, 20, 50, 90])
            axes.axvline(usual, color="grey", linewidth=0.8, linestyle=":")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
            axes.grid(alpha=0.25)
    panels[0].set_ylabel("test error [%]")
    panels[1].legend(title="dotted: the task", loc="upper left")
    figure.savefig(output)
    print(output)


def read_points(folder: Path) -> dict[tuple[str, float], dict]:
    """Return the scores of an agent by keyword and value."""
    reports = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return {
        keyword: report["by_glimpse"][-1]
        for report in reports
        for keyword in report["env_kwargs"].items()
    }


if __name__ == "__main__":
    tyro.cli(main)
