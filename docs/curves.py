"""Draw learning curves of the published runs: `python docs/curves.py`.

One panel per task, one line per run: the validation error over the training episodes, both axes
logarithmic, with the paper's error and the best public one.
"""

from __future__ import annotations

from pathlib import Path

import tyro
from matplotlib import pyplot
from matplotlib.axes import Axes

from agents.runs.files import read_csv, read_json
from agents.runs.loading import PRETRAINED, published_names
from ram_env import find_task

FIGURE = Path(__file__).with_suffix(".png")
# Test error [%] of the paper (Mnih et al. 2014, NIPS version) and of the best public run, one
# pass, on such data; RESULTS.md names the sources.
OTHERS = {
    "MNISTGlimpse-v0": (1.07, 0.85),
    "TranslatedMNISTGlimpse-v0": (1.20, 0.94),
    "ClutteredMNISTGlimpse-v0": (4.04, 2.63),
    "LargeClutteredMNISTGlimpse-v0": (8.11, 5.9),
}
TICKS = (0.5, 1, 2, 5, 10, 20, 50)


def main(output: Path = FIGURE) -> None:
    """Draw and write the figure."""
    figure, grid = pyplot.subplots(2, 2, figsize=(9, 6.4), dpi=130, layout="constrained")
    panels = dict(zip(OTHERS, grid.flat, strict=True))
    for env_id, (paper, public) in OTHERS.items():
        line, best = f"paper, {paper} %", f"best public run of one pass, {public} %"
        panels[env_id].axhline(paper, color="black", linestyle="--", linewidth=1, label=line)
        panels[env_id].axhline(public, color="grey", linestyle=":", linewidth=1.2, label=best)
    for name in published_names():
        settings = read_json(PRETRAINED / name / "config.json")["config"]
        draw(panels[settings["env_id"]], name, settings["env_id"], settings["seed"])
    for env_id, axes in panels.items():
        dress(axes, env_id)
    figure.savefig(output)
    print(output)


def draw(axes: Axes, name: str, env_id: str, seed: int) -> None:
    """Draw a published run's validation error over its episodes."""
    rows = read_csv(PRETRAINED / name / "validation.csv")
    rows = [row for row in rows if row["tag"] == "eval/error"]
    episodes = [int(row["env_steps"]) / find_task(env_id).num_glimpses for row in rows]
    errors = [float(row["value"]) for row in rows]
    axes.plot(episodes, errors, marker=".", markersize=3, label=f"{name}, seed {seed}")


def dress(axes: Axes, title: str) -> None:
    """Give a panel its scales, labels, grid and legend."""
    axes.set(xscale="log", yscale="log", title=title)
    axes.set(xlabel="training episodes", ylabel="validation error [%]")
    axes.set_yticks(TICKS)
    axes.set_ylim(0.5, 100)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.grid(which="both", alpha=0.25)
    axes.legend(fontsize=7, loc="upper right")


if __name__ == "__main__":
    tyro.cli(main)
