"""Draw where the published agents look: `python docs/paths.py`.

One row per published run, with the first images of the test split in order, none picked. The
agents look where their policy's mean says: these are the first episodes of
`train/evaluate.py --split test`. Numbers count the glimpses, squares are the finest patch of the
first and the last, and bars are the belief in the true class after each glimpse.

Dimension key:
    n: images per row
    T: glimpses per episode
    K: classes
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.patches import Rectangle

import ram_env
from agents.evaluation import play_split
from agents.runs.files import read_json
from agents.runs.loading import load_pretrained, pretrained_dir, published_names
from train.keywords import make_vector_env

FIGURE = Path(__file__).with_suffix(".png")
PATH = pyplot.get_cmap("plasma")
DIMMED = 0.6  # of the canvas's brightness, so that the path stands out


def main(num_images: int = 5, output: Path = FIGURE) -> None:
    """Play the first images of each run's test split, draw them and write the figure."""
    torch.set_num_threads(1)
    order = list(ram_env.TASKS)  # easy ones first
    runs = {name: read_json(pretrained_dir(name) / "config.json") for name in published_names()}
    names = sorted(runs, key=lambda name: order.index(runs[name]["config"]["env_id"]))
    size = 1.9 * num_images, 2.6 * len(names)
    figure = pyplot.figure(figsize=size, dpi=130, layout="constrained")
    rows: Any = figure.subfigures(len(names), 1, squeeze=False)
    for part, name in zip(rows[:, 0], names, strict=True):
        draw_row(part, name, num_images)
    figure.savefig(output)
    print(output)


def draw_row(part: SubFigure, name: str, num_images: int) -> None:
    """Show a published model the first images and draw its episodes below its name and error."""
    model, settings = load_pretrained(name)
    keywords = {"split": "test", "order": "sequential", "action_format": "dict"}
    env = make_vector_env(settings["env_id"], num_images, **keywords)
    print(f"{name}: {env.data_source}")
    task, result = env.task, read_json(pretrained_dir(name) / "result.json")
    low, high = result["interval"]
    part.suptitle(
        f"{name}: {task.side}x{task.side} px, {task.num_glimpses} glimpses, "
        f"{result['split']} error {result['error']:.2f} % ({low:.2f}-{high:.2f})",
        size=9,
    )
    canvases, _ = ram_env.frozen_canvases(settings["env_id"], "test")
    episodes = play_split(model, env, num_images)
    centres = (episodes.locations[0].numpy() + 1) * (task.side / 2)  # (n, T, 2) [px]
    p = episodes.log_p[0].exp().numpy()  # (n, T, K)
    grid = part.subplots(2, num_images, height_ratios=(5, 1), squeeze=False)
    for n, label in enumerate(episodes.labels.tolist()):
        above, below = grid[:, n]
        draw_path(above, canvases[n], centres[n], task.glimpse_size)
        answer = int(p[n, -1].argmax())
        above.set_title(f"true {label}, says {answer}", size=8, color="br"[answer != label])
        colors = PATH(np.linspace(0.2, 0.95, task.num_glimpses))
        below.bar(range(1, task.num_glimpses + 1), p[n, :, label], color=colors)
        below.set(ylim=(0, 1), xticks=[], yticks=[0, 1] if n == 0 else [])
        below.tick_params(labelsize=7)


def draw_path(axes: Axes, canvas: np.ndarray, centres: np.ndarray, size: int) -> None:
    """Draw a canvas and where the glimpses lie.

    Args:
        axes: Where to draw.
        canvas: Shape (H, W) or (H, W, 3), uint8.
        centres: Glimpse centres, (x, y) [px]. Shape (T, 2).
        size: Side of the finest patch [px].
    """
    side, colors = len(canvas), PATH(np.linspace(0.2, 0.95, len(centres)))
    grey = (canvas * DIMMED).astype(np.uint8)
    axes.imshow(grey, "gray", vmin=0, vmax=255, extent=(0, side, side, 0))
    axes.set(autoscale_on=False, xticks=[], yticks=[])
    for t in (0, -1):
        corner = centres[t] - size / 2
        axes.add_patch(Rectangle(corner, size, size, fill=False, color=colors[t], linewidth=1.4))
    axes.plot(*centres.T, color="white", linewidth=0.8)
    for t, (x, y) in enumerate(centres):
        style = {"boxstyle": "circle,pad=0.15", "facecolor": colors[t], "edgecolor": "none"}
        axes.text(x, y, str(t + 1), size=6, ha="center", va="center", color="white", bbox=style)


if __name__ == "__main__":
    tyro.cli(main)
