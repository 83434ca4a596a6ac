"""Draw where the published agents look: `python docs/paths.py --output docs/paths.png`.

One row a published run, with the first images of the test split in order, none picked. The
agents look where their policy's mean says: the episodes are the first ones of
`train/evaluate.py --split test`.

Dimension key:
    n: images a row
    T: glimpses an episode
    K: classes
    H: canvas side [px]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from PIL import Image

import ram_env
from agents.evaluation import play_split
from agents.runs.loading import load_pretrained, pretrained_dir, published_names
from ram_env import rendering

# Lengths and font sizes are in points: pixels of a page that shows the figure WIDTH wide.
WIDTH = 900
POINTS_PER_INCH, PIXELS_PER_INCH = 72, 144  # the file has two pixels a point
TOP, BOTTOM, LEFT, RIGHT, GAP = 30, 10, 24, 10, 10  # margins; between canvases
TITLE, ANSWER, CURVE, ROW_GAP = 26, 22, 26, 16  # heights
DISC, LINE, THIN = 11.5, 1.6, 0.8  # diameter; widths
NAME_SIZE, FONT_SIZE, NUMBER_SIZE = 14, 10.5, 8.5
DIMMED = 0.6  # of the canvas's brightness, so that the path stands out

# The colours of the environments' frames.
BACKGROUND, TRACK, TEXT, MUTED, TRUE, FALSE = (
    "#{:02x}{:02x}{:02x}".format(*color)
    for color in (
        rendering.BACKGROUND,
        rendering.TRACK,
        rendering.TEXT,
        rendering.MUTED,
        rendering.RIGHT,
        rendering.WRONG,
    )
)
FIRST_TO_LAST = LinearSegmentedColormap.from_list(  # all light enough for dark numbers
    "first to last", ["#56b4e9", "#b58cf0", "#f472a8", "#ff9f1c", "#fde725"]
)
LEGEND = (
    "Numbers: glimpse centres, first blue, last yellow, set apart where they meet. "
    "Squares: finest patch, first and last. Curves: belief in the true class."
)


@dataclass(frozen=True)
class Config:
    """What to draw and where to write it."""

    num_images: int = 5
    """n, from the first image of the test split on."""
    output: Path = Path(__file__).parent / "paths.png"
    """The figure."""


@dataclass(frozen=True)
class Row:
    """A published run and what it did with its images."""

    name: str
    env_id: str
    task: str
    """A description."""
    glimpse_size: int
    canvases: np.ndarray
    """Shape (n, H, H) or (n, H, H, 3), uint8."""
    labels: np.ndarray
    """Shape (n,)."""
    centres: np.ndarray
    """Of the glimpses, (x, y) [px]. Shape (n, T, 2)."""
    beliefs: np.ndarray
    """Probabilities of the classes. Shape (n, T, K)."""


def main(config: Config) -> None:
    """Play the first images of each run's test split, draw and write the figure."""
    torch.set_num_threads(1)
    rows = [play(name, config.num_images) for name in published_names()]
    rows.sort(key=lambda row: list(ram_env.TASKS).index(row.env_id))  # easy ones first
    side = (WIDTH - LEFT - RIGHT + GAP) / config.num_images - GAP
    step = TITLE + side + ANSWER + CURVE + ROW_GAP
    height = TOP + len(rows) * step - ROW_GAP + BOTTOM
    size = (WIDTH / POINTS_PER_INCH, height / POINTS_PER_INCH)
    figure = pyplot.figure(figsize=size, dpi=PIXELS_PER_INCH, facecolor=BACKGROUND)
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))  # y down
    page.axis("off")
    write(page, LEFT, TOP / 2, LEGEND)
    for number, row in enumerate(rows):
        draw_row(page, TOP + number * step, side, row)
    figure.savefig(config.output)
    picture = Image.open(config.output).convert("RGB")
    picture.quantize(dither=Image.Dither.NONE).save(config.output, optimize=True)  # fewer bytes
    print(config.output)


def play(name: str, num_images: int) -> Row:
    """Show the first images of the test split to a published model."""
    model, settings = load_pretrained(name)
    env_id = settings["env_id"]
    env = gymnasium.make_vec(
        env_id, num_envs=num_images, split="test", order="sequential", action_format="dict"
    )
    assert isinstance(env, ram_env.GlimpseVectorEnv)
    print(f"{name}: {env.data_source}")
    beliefs, task = play_split(model, env, num_images), env.task
    canvases, _ = ram_env.frozen_canvases(env_id, "test")
    return Row(
        name,
        env_id,
        f"{task.side}x{task.side} px, {task.num_glimpses} glimpses of {task.glimpse_size}x"
        f"{task.glimpse_size} at {task.num_scales} scale{'s' if task.num_scales > 1 else ''}",
        task.glimpse_size,
        canvases[:num_images],
        beliefs.labels.numpy(),
        (beliefs.locations[0].numpy() + 1) * (task.side / 2),  # (n, T, 2)
        beliefs.log_p[0].exp().numpy(),  # (n, T, K)
    )


def draw_row(page: Axes, y: float, side: float, row: Row) -> None:
    """Draw the episodes of a run side by side, under its error on the whole split."""
    result = json.loads((pretrained_dir(row.name) / "result.json").read_text())
    low, high = result["interval"]
    error = f"{result['split']} error {result['error']:.2f} % ({low:.2f}-{high:.2f})"
    write(page, LEFT, y + TITLE / 2, row.name, color=TEXT, size=NAME_SIZE, weight="bold")
    about = f"{row.env_id}: {row.task}; {error}"
    write(page, WIDTH - RIGHT, y + TITLE / 2, about, ha="right")
    for index in range(len(row.labels)):
        x, below = LEFT + index * (side + GAP), y + TITLE + side
        draw_path(inset(page, x, y + TITLE, side, side), row, index, side)
        draw_answer(page, x, below + ANSWER / 2, side, row, index)
        axes = inset(page, x, below + ANSWER, side, CURVE)
        draw_belief(axes, row.beliefs[index, :, row.labels[index]], with_scale=index == 0)


def draw_path(axes: Axes, row: Row, index: int, side: float) -> None:
    """Draw a canvas and the glimpses; squares are cut off at its edge, beyond which all is 0."""
    canvas, centres = row.canvases[index], row.centres[index]
    canvas_side, colors = len(canvas), path_colors(len(centres))
    grey = (canvas * DIMMED).astype(np.uint8)
    axes.imshow(grey, "gray", vmin=0, vmax=255, extent=(0, canvas_side, canvas_side, 0))
    axes.set_autoscale_on(False)
    axes.axis("off")
    size = row.glimpse_size
    for t in (0, -1):
        corner = centres[t] - size / 2
        axes.add_patch(Rectangle(corner, size, size, fill=False, color=colors[t], linewidth=LINE))
    places = spread(centres, DISC * canvas_side / side, canvas_side)
    steps = np.stack([centres[:-1], centres[1:]], 1)  # (T - 1, 2 ends, 2)
    pointers = np.stack([centres, places], 1)  # (T, 2 ends, 2)
    for ends, color, width in ((steps, colors[1:], LINE), (pointers, colors, THIN)):
        lines = LineCollection(list(ends), colors=color, linewidths=width, clip_on=False)
        axes.add_collection(lines)
    for t, (x, y) in enumerate(places):
        axes.plot(x, y, "o", ms=DISC, mfc=colors[t], mec=BACKGROUND, clip_on=False)
        write(axes, x, y, f"{t + 1}", color=BACKGROUND, size=NUMBER_SIZE, ha="center")


def spread(centres: np.ndarray, distance: float, canvas_side: int) -> np.ndarray:
    """Move points (T, 2) apart until they lie ``distance`` from each other, on the canvas."""
    angle = np.arange(len(centres))
    places = centres + 1e-3 * np.stack([np.cos(angle), np.sin(angle)], 1)  # none coincide
    for _ in range(300):
        away = places[:, None] - places  # (T, T, 2)
        length = np.linalg.norm(away, axis=2, keepdims=True) + 1e-9
        push = np.maximum(distance - length, 0) * away / length
        places = (places + push.sum(1) / 4).clip(0, canvas_side)
    return places


def draw_answer(page: Axes, x: float, y: float, side: float, row: Row, index: int) -> None:
    """Write the true class on the left, the last belief on the right."""
    label, belief = row.labels[index], row.beliefs[index, -1]
    answer = belief.argmax()
    right = answer == label
    sure = "> 99.9" if belief.max() > 0.999 else f"{100 * belief.max():.1f}"
    write(page, x, y, f"true {label}")
    said = f"says {answer}, {sure} % {'✓' if right else '✗'}"
    write(page, x + side, y, said, color=TRUE if right else FALSE, ha="right")


def draw_belief(axes: Axes, belief: np.ndarray, *, with_scale: bool) -> None:
    """Draw the belief in the true class after each glimpse, shape (T,), between 0 and 1."""
    glimpses = np.arange(len(belief))
    axes.plot(glimpses, belief, color=MUTED, linewidth=LINE)
    axes.scatter(glimpses, belief, c=path_colors(len(belief)), s=DISC * 2, zorder=3, clip_on=False)
    axes.set(xticks=[], yticks=[0, 1], ylim=(0, 1), facecolor=BACKGROUND)
    axes.tick_params(length=0, labelsize=FONT_SIZE, labelcolor=MUTED, labelleft=with_scale)
    axes.grid(axis="y", color=TRACK)
    axes.spines[:].set_visible(False)


def path_colors(num_glimpses: int) -> np.ndarray:
    """Return a colour for each glimpse, RGBA, shape (T, 4)."""
    return FIRST_TO_LAST(np.linspace(0, 1, num_glimpses))


def inset(page: Axes, x: float, y: float, width: float, height: float) -> Axes:
    """Add axes whose top left corner lies at (x, y) of the page."""
    bottom = page.get_ylim()[0]
    return page.inset_axes((x / WIDTH, 1 - (y + height) / bottom, width / WIDTH, height / bottom))


def write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write a line whose middle lies at the height y."""
    usual = {"color": MUTED, "size": FONT_SIZE, "va": "center_baseline"}
    axes.text(x, y, text, **usual | style)


if __name__ == "__main__":
    main(tyro.cli(Config))
