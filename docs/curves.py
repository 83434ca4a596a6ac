"""Draw learning curves: `python docs/curves.py RUN_DIR [RUN_DIR ...] --output docs/curves.png`.

One line a run: the validation error over the training episodes, both axes logarithmic.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter


@dataclass(frozen=True)
class Config:
    """What to draw and where to write it."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Runs of train/reinforce.py; a line is called like its folder."""
    num_glimpses: int = 8
    """T, by which env steps are divided."""
    paper: float | None = None
    """The paper's error [%], drawn as a dashed line."""
    output: Path = Path(__file__).parent / "curves.png"
    """The figure."""


def main(config: Config) -> None:
    """Draw and write the figure."""
    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=130, layout="constrained")
    for run_dir in config.run_dirs:
        with (run_dir / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["tag"] == "eval/error"]
        episodes = [int(row["env_steps"]) / config.num_glimpses for row in rows]
        settings = json.loads((run_dir / "config.json").read_text())["config"]
        label = f"{run_dir.name}, seed {settings['seed']}"
        axes.plot(episodes, [float(row["value"]) for row in rows], marker=".", label=label)
    if config.paper is not None:
        axes.axhline(config.paper, color="grey", linestyle="--", label=f"paper, {config.paper} %")
    axes.set(xscale="log", yscale="log", xlabel="training episodes", ylabel="validation error [%]")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(which="both", alpha=0.25)
    axes.legend()
    figure.savefig(config.output)
    print(config.output)


if __name__ == "__main__":
    main(tyro.cli(Config))
