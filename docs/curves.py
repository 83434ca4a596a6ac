"""Draw learning curves of the published runs: `python docs/curves.py --output docs/curves.png`.

One panel a task, one line a run: the validation error over the training episodes, both axes
logarithmic, with the paper's error and the best public one.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from agents.runs.files import read_json
from agents.runs.loading import PRETRAINED, published_names
from ram_env import TASKS

# Test error [%] of the paper (Mnih et al. 2014, NIPS version) and of the best public run on
# faithful data; RESULTS.md names the sources.
OTHERS = {
    "MNISTGlimpse-v0": (1.07, 0.85),
    "TranslatedMNISTGlimpse-v0": (1.20, 0.94),
    "ClutteredMNISTGlimpse-v0": (4.04, 2.63),
    "LargeClutteredMNISTGlimpse-v0": (8.11, 5.9),
}
TICKS = (0.5, 1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Config:
    """Where to write the figure, and what else to draw."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Further runs of train/reinforce.py; a line is called like its folder."""
    output: Path = Path(__file__).parent / "curves.png"
    """The figure."""


def main(config: Config) -> None:
    """Draw and write the figure."""
    folders = [*(PRETRAINED / name for name in published_names()), *config.run_dirs]
    tasks = {folder: read_json(folder / "config.json")["config"]["env_id"] for folder in folders}
    shown = [env_id for env_id in OTHERS if env_id in tasks.values()]
    figure, grid = pyplot.subplots(
        (len(shown) + 1) // 2, 2, figsize=(9, 6.4), dpi=130, layout="constrained", squeeze=False
    )
    for env_id, axes in zip(shown, grid.flat, strict=False):
        paper, public = OTHERS[env_id]
        axes.axhline(paper, color="black", linestyle="--", linewidth=1, label=f"paper, {paper} %")
        axes.axhline(
            public, color="grey", linestyle=":", linewidth=1.2, label=f"best public run, {public} %"
        )
        for folder in folders:
            if tasks[folder] == env_id:
                draw(axes, folder, TASKS[env_id][0].from_keywords(TASKS[env_id][1]).num_glimpses)
        dress(axes, env_id)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    figure.savefig(config.output)
    print(config.output)


def draw(axes: Axes, folder: Path, num_glimpses: int) -> None:
    """Draw a run's validation error over its episodes."""
    published = folder.parent == PRETRAINED
    with (folder / ("validation.csv" if published else "metrics.csv")).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["tag"] == "eval/error"]
    episodes = [int(row["env_steps"]) / num_glimpses for row in rows]
    seed = read_json(folder / "config.json")["config"]["seed"]
    label = f"{folder.name}, seed {seed}"
    axes.plot(
        episodes, [float(row["value"]) for row in rows], marker=".", markersize=3, label=label
    )


def dress(axes: Axes, env_id: str) -> None:
    """Give a panel its scales, names and grid."""
    axes.set(xscale="log", yscale="log", title=env_id)
    axes.set(xlabel="training episodes", ylabel="validation error [%]")
    axes.set_yticks(TICKS)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(which="both", alpha=0.25)
    axes.legend(fontsize=8)


if __name__ == "__main__":
    main(tyro.cli(Config))
