"""Draw what stopping saves: `python docs/stopping.py`.

The test error over the mean number of glimpses: of agents that learned when to stop, one per price
of a glimpse, and of the published agent where every episode ends after the same number.

`benchmarks/stopping` holds the evaluations, which `train/evaluate.py --json` wrote: RESULTS.md has
the commands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib import pyplot

FIGURE = Path(__file__).with_suffix(".png")
STORED = Path(__file__).parents[1] / "benchmarks" / "stopping"


def main(output: Path = FIGURE) -> None:
    """Draw and write the figure."""
    figure, axes = pyplot.subplots(figsize=(6.5, 4.4), dpi=130, layout="constrained")
    fixed = json.loads((STORED / "cluttered.json").read_text())["by_glimpse"]
    numbers, label = range(1, len(fixed) + 1), "cluttered, always stopped after N"
    draw(axes, numbers, fixed, marker=".", label=label)
    stops = {path.stem: json.loads(path.read_text())["stop"] for path in STORED.glob("0*.json")}
    by_price = sorted(stops.items(), key=lambda item: item[1]["glimpses"])
    scores = [stop for _, stop in by_price]
    draw(axes, [stop["glimpses"] for stop in scores], scores, marker="o", label="learned stop")
    for price, stop in by_price:
        place = {"xytext": (-6, -12), "textcoords": "offset points", "fontsize": 7, "ha": "right"}
        axes.annotate(price, (stop["glimpses"], stop["error"]), **place)
    axes.set(xlabel="glimpses, mean", ylabel="test error [%]", yscale="log")
    axes.set_yticks([2, 5, 10, 20, 50])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.legend(title="numbers: price of a glimpse")
    axes.grid(alpha=0.25)
    figure.savefig(output)
    print(output)


def draw(axes: Any, glimpses: Any, scores: list[dict[str, Any]], **style: Any) -> None:
    """Draw errors with their intervals."""
    errors = np.array([score["error"] for score in scores])
    low, high = np.transpose([score["interval"] for score in scores])
    axes.errorbar(glimpses, errors, yerr=(errors - low, high - errors), capsize=2, **style)


if __name__ == "__main__":
    tyro.cli(main)
