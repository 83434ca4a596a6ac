"""Draw where the published agents look: `python docs/paths.py`.

One row per published run, with the first images of the test split in order, none picked. The
agents look where their policy's mean says: these are the first episodes of
`train/evaluate.py --split test`.

Dimension key:
    n: images per row
    T: glimpses per episode
    K: classes
    H: canvas side [px]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from agents.runs.files import read_json
from agents.runs.loading import load_pretrained, pretrained_dir, published_names
from ram_env import rendering
from train.keywords import make_vector_env

FIGURE = Path(__file__).with_suffix(".png")
# Lengths and font sizes are in points: pixels of a page that shows the figure WIDTH wide.
WIDTH = 900
POINTS_PER_INCH, PIXELS_PER_INCH = 72, 144  # the file has two pixels per point
TOP, BOTTOM, LEFT, RIGHT, GAP = 30, 10, 24, 10, 10  # margins; between canvases
TITLE, ANSWER, CURVE, ROW_GAP = 26, 22, 26, 16  # heights
DISC, LINE, THIN = 11.5, 1.6, 0.8  # diameter; widths
NAME_SIZE, FONT_SIZE, NUMBER_SIZE = 14, 10.5, 8.5
DIMMED = 0.6  # of the canvas's brightness, so that the path stands out

BACKGROUND, TRACK, TEXT, MUTED, CORRECT, WRONG = (  # the colours of the environments' frames
    "#{:02x}{:02x}{:02x}".format(*getattr(rendering, name))
    for name in ("BACKGROUND", "TRACK", "TEXT", "MUTED", "RIGHT", "WRONG")
)
FIRST_TO_LAST = LinearSegmentedColormap.from_list(  # all light enough for dark numbers
    "first to last", ["#56b4e9", "#b58cf0", "#f472a8", "#ff9f1c", "#fde725"]
)
LEGEND = (
    "Numbers: glimpse centres, first blue, last yellow, set apart where they meet. "
    "Squares: finest patch, first and last. Curves: belief in the true class."
)


def main(num_images: int = 5, output: Path = FIGURE) -> None:
    """Play the first images of each run's test split, draw them and write the figure."""
    torch.set_num_threads(1)
    order = list(ram_env.TASKS)  # easy ones first
    names = sorted(published_names(), key=lambda name: order.index(env_id_of(name)))
    side = (WIDTH - LEFT - RIGHT + GAP) / num_images - GAP
    step = TITLE + side + ANSWER + CURVE + ROW_GAP
    height = TOP + len(names) * step - ROW_GAP + BOTTOM
    size = (WIDTH / POINTS_PER_INCH, height / POINTS_PER_INCH)
    figure = pyplot.figure(figsize=size, dpi=PIXELS_PER_INCH, facecolor=BACKGROUND)
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))  # y down
    page.axis("off")
    write(page, LEFT, TOP / 2, LEGEND)
    for number, name in enumerate(names):
        draw_row(page, TOP + number * step, side, name, num_images)
    figure.savefig(output)
    picture = Image.open(output).convert("RGB")
    picture.quantize(dither=Image.Dither.NONE).save(output, optimize=True)  # fewer bytes
    print(output)


def env_id_of(name: str) -> str:
    """Return the environment of a published run."""
    return read_json(pretrained_dir(name) / "config.json")["config"]["env_id"]


def draw_row(page: Axes, y: float, side: float, name: str, num_images: int) -> None:
    """Show a published model the first images and draw its episodes below its name and error."""
    model, settings = load_pretrained(name)
    env_id = settings["env_id"]
    keywords = {"split": "test", "order": "sequential", "action_format": "dict"}
    env = make_vector_env(env_id, num_images, **keywords)
    print(f"{name}: {env.data_source}")
    write(page, LEFT, y + TITLE / 2, name, color=TEXT, size=NAME_SIZE, weight="bold")
    about = f"{env_id}: {describe_task(env)}; {describe_error(name)}"
    write(page, WIDTH - RIGHT, y + TITLE / 2, about, ha="right")
    canvases, _ = ram_env.frozen_canvases(env_id, "test")
    episodes, task = play_split(model, env, num_images), env.task
    centres = (episodes.locations[0].numpy() + 1) * (task.side / 2)  # (n, T, 2) [px]
    probabilities = episodes.log_p[0].exp().numpy()  # (n, T, K)
    for index, label in enumerate(episodes.labels.numpy()):
        x, below, p = LEFT + index * (side + GAP), y + TITLE + side, probabilities[index]
        axes = inset(page, x, y + TITLE, side, side)
        draw_path(axes, canvases[index], centres[index], task.glimpse_size, side)
        write(page, x, below + ANSWER / 2, f"true {label}")
        answer, color = describe_answer(p[-1], label)
        write(page, x + side, below + ANSWER / 2, answer, color=color, ha="right")
        draw_belief(inset(page, x, below + ANSWER, side, CURVE), p[:, label], scale=index == 0)


def describe_task(env: ram_env.GlimpseVectorEnv) -> str:
    """Return the sizes of a task."""
    task, size = env.task, env.task.glimpse_size
    scales = f"{task.num_scales} scale{'s' if task.num_scales > 1 else ''}"
    return f"{task.side}x{task.side} px, {task.num_glimpses} glimpses of {size}x{size} at {scales}"


def describe_error(name: str) -> str:
    """Return the error of a published run on the whole split."""
    result = read_json(pretrained_dir(name) / "result.json")
    low, high = result["interval"]
    return f"{result['split']} error {result['error']:.2f} % ({low:.2f}-{high:.2f})"


def draw_path(axes: Axes, canvas: np.ndarray, centres: np.ndarray, size: int, side: float) -> None:
    """Draw a canvas and the glimpses; its edge cuts off the squares.

    Args:
        axes: Where to draw, ``side`` points wide and high.
        canvas: Shape (H, H) or (H, H, 3), uint8.
        centres: Glimpse centres, (x, y) [px]. Shape (T, 2).
        size: Side of the finest patch [px].
        side: Side of the axes [points].
    """
    canvas_side, colors = len(canvas), path_colors(len(centres))
    grey = (canvas * DIMMED).astype(np.uint8)
    axes.imshow(grey, "gray", vmin=0, vmax=255, extent=(0, canvas_side, canvas_side, 0))
    axes.set_autoscale_on(False)
    axes.axis("off")
    for t in (0, -1):
        corner = centres[t] - size / 2
        axes.add_patch(Rectangle(corner, size, size, fill=False, color=colors[t], linewidth=LINE))
    discs = spread(centres, DISC * canvas_side / side, canvas_side)
    steps = np.stack([centres[:-1], centres[1:]], 1)  # (T - 1, 2 ends, 2)
    pointers = np.stack([centres, discs], 1)  # (T, 2 ends, 2)
    for ends, color, width in ((steps, colors[1:], LINE), (pointers, colors, THIN)):
        lines = LineCollection(list(ends), colors=color, linewidths=width, clip_on=False)
        axes.add_collection(lines)
    for t, (x, y) in enumerate(discs):
        axes.plot(x, y, "o", ms=DISC, mfc=colors[t], mec=BACKGROUND, clip_on=False)
        write(axes, x, y, f"{t + 1}", color=BACKGROUND, size=NUMBER_SIZE, ha="center")


def spread(centres: np.ndarray, distance: float, canvas_side: int) -> np.ndarray:
    """Move points (T, 2) apart until they lie ``distance`` from each other, on the canvas."""
    angle = np.arange(len(centres))
    points = centres + 1e-3 * np.stack([np.cos(angle), np.sin(angle)], 1)  # no two coincide
    for _ in range(300):
        away = points[:, None] - points  # (T, T, 2)
        length = np.linalg.norm(away, axis=2, keepdims=True) + 1e-9
        push = np.maximum(distance - length, 0) * away / length
        points = (points + push.sum(1) / 4).clip(0, canvas_side)
    return points


def describe_answer(p: np.ndarray, label: int) -> tuple[str, str]:
    """Return the likeliest class with its probability, and a colour; ``p`` has shape (K,)."""
    percent = "> 99.9" if p.max() > 0.999 else f"{100 * p.max():.1f}"
    mark, color = ("✓", CORRECT) if p.argmax() == label else ("✗", WRONG)
    return f"says {p.argmax()}, {percent} % {mark}", color


def draw_belief(axes: Axes, belief: np.ndarray, *, scale: bool) -> None:
    """Draw the probability of the true class after each glimpse, shape (T,)."""
    glimpses = np.arange(len(belief))
    axes.plot(glimpses, belief, color=MUTED, linewidth=LINE)
    axes.scatter(glimpses, belief, c=path_colors(len(belief)), s=DISC * 2, zorder=3, clip_on=False)
    axes.set(xticks=[], yticks=[0, 1], ylim=(0, 1), facecolor=BACKGROUND)
    axes.tick_params(length=0, labelsize=FONT_SIZE, labelcolor=MUTED, labelleft=scale)
    axes.grid(axis="y", color=TRACK)
    axes.spines[:].set_visible(False)


def path_colors(num_glimpses: int) -> np.ndarray:
    """Return one RGBA colour per glimpse, shape (T, 4)."""
    return FIRST_TO_LAST(np.linspace(0, 1, num_glimpses))


def inset(page: Axes, x: float, y: float, width: float, height: float) -> Axes:
    """Add axes whose top left corner lies at (x, y) of the page."""
    bottom = page.get_ylim()[0]
    return page.inset_axes((x / WIDTH, 1 - (y + height) / bottom, width / WIDTH, height / bottom))


def write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write a line of text centred vertically on y."""
    usual = {"color": MUTED, "size": FONT_SIZE, "va": "center_baseline"}
    axes.text(x, y, text, **usual | style)


if __name__ == "__main__":
    tyro.cli(main)
