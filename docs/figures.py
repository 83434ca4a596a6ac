"""Draw figures of stored results: `python docs/figures.py [NAMES]`, by default all.

Each function draws the figure of its name, ``docs/NAME.png``, and says what it shows.

Dimension key:
    n: images per row
    T: glimpses per episode
    K: classes
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from agents.diagnostics import bits_gained
from agents.evaluation import Beliefs, play_split, score_by_glimpse
from agents.runs.files import read_csv, read_json
from agents.runs.loading import PRETRAINED, load_pretrained, published_names
from ram_env import TASKS, find_task, frozen_canvases
from train.comparison.protocol import read_protocol
from train.comparison.summary import read_results
from train.keywords import make_vector_env

DOCS = Path(__file__).parent
STORED = DOCS.with_name("benchmarks")
CLUTTERED = "ClutteredMNISTGlimpse-v0"
ERROR = "test error [%]"
PATH = pyplot.get_cmap("plasma")
PAGE: dict[str, Any] = {"dpi": 130, "layout": "constrained"}


def curves() -> Figure:
    """Draw the validation error of the published runs over their episodes, a panel per task.

    Lines show the paper's test error [%] (Mnih et al. 2014, NIPS version) and that of the best
    public run, one pass, on such data; RESULTS.md names the sources.
    """
    others = {
        "MNISTGlimpse-v0": (1.07, 0.85),
        "TranslatedMNISTGlimpse-v0": (1.20, 0.94),
        CLUTTERED: (4.04, 2.63),
        "LargeClutteredMNISTGlimpse-v0": (8.11, 5.9),
    }
    figure, grid = pyplot.subplots(2, 2, figsize=(9, 6.4), **PAGE)
    panels = dict(zip(others, grid.flat, strict=True))
    for env_id, (paper, public) in others.items():
        line, best = f"paper, {paper} %", f"best public run of one pass, {public} %"
        panels[env_id].axhline(paper, color="black", linestyle="--", linewidth=1, label=line)
        panels[env_id].axhline(public, color="grey", linestyle=":", linewidth=1.2, label=best)
    for name in published_names():
        settings = read_json(PRETRAINED / name / "config.json")["config"]
        rows = read_csv(PRETRAINED / name / "validation.csv")
        steps, errors = (
            np.array([row[key] for row in rows], float) for key in ("env_steps", "value")
        )
        env_id, line = settings["env_id"], f"{name}, seed {settings['seed']}"
        episodes = steps / find_task(env_id).num_glimpses
        panels[env_id].plot(episodes, errors, marker=".", markersize=3, label=line)
    for env_id, axes in panels.items():
        axes.set(xscale="log", title=env_id, xlabel="training episodes")
        error_axis(axes, (0.5, 1, 2, 5, 10, 20, 50), "validation error [%]")
        axes.set_ylim(0.5, 100)
        axes.grid(which="both", alpha=0.25)
        axes.legend(fontsize=7, loc="upper right")
    return figure


def signpost() -> Figure:
    """Draw what the dials of the signpost board do, in a panel each.

    Dots are seeds, lines their means; dashed is an error that is known exactly. The optimum errs
    in 0 % everywhere.
    """
    marks = 4  # kinds of marks, the environment's default

    def looking_at_random(board_size: int, chain: int) -> float:
        """Return the error [%] of chain + 2 looks at uniform locations of boards with one mark.

        The side of a cell is 8 px, of a glimpse 4, so per axis a glimpse shows part of a cell from
        11 of the board's 8 m pixel corners, and of a cell at the border from 9.5.
        """
        seen = np.full(board_size, 11.0)
        seen[[0, -1]] = 9.5
        missed = 1 - np.outer(seen, seen) / (8 * board_size) ** 2  # by one look, for each cell
        return 100 * (missed ** (chain + 2)).mean() * (1 - 1 / marks)

    def following(parts: int) -> float:
        """Return the error [%] of following the path and naming the last mark alone."""
        return 100 * (1 - marks ** (1 - parts))

    at_random, no_memory = "random locations", "following, without memory"
    dials = {  # the axis, values, the known error and its name
        "board": ("cells per side", (3, 4, 5, 6, 8), lambda m: looking_at_random(m, 1), at_random),
        "chain": ("cells to follow", (1, 2, 3, 4), lambda n: looking_at_random(3, n), at_random),
        "parts": ("marks to remember", (1, 2, 3), following, no_memory),
    }
    protocol = read_protocol(DOCS.with_name("train") / "signpost_dials.toml")
    results = read_results(protocol, STORED / "signpost_dials")["SignpostGlimpse-v0"]
    rows = {row.algorithm.name: row for row in results.rows}
    figure, panels = pyplot.subplots(1, 3, sharey=True, figsize=(11, 4.2), **PAGE)
    for axes, (dial, (label, values, known, name)) in zip(panels, dials.items(), strict=True):
        for estimator, colour in (("dense", "C0"), ("outcome", "C3")):
            usual = rows[f"{estimator}_board_3"]  # all dials at their defaults
            settings = [rows.get(f"{estimator}_{dial}_{value}", usual) for value in values]
            means = [row.mean.value for row in settings]
            axes.plot(values, means, color=colour, label=estimator)
            for value, row in zip(values, settings, strict=True):
                axes.plot([value] * len(row.seeds), row.errors, ".", color=colour, alpha=0.6)
        axes.plot(values, list(map(known, values)), "k--")
        axes.set(xlabel=label, xticks=values, ylim=(-3, 100), title=f"dashed: {name}")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel(ERROR)
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=2, title="dots: seeds, lines: means")
    return figure


def sizes() -> Figure:
    """Draw the error at other sizes than the agents trained on, with 95 % intervals.

    One panel per keyword of the environment, one line per agent.
    """
    panels = {  # by keyword: axis label, the task's value
        "object_scale": ("object scale", 1.0),
        "num_clutter": ("clutter pieces", 4),
        "canvas_size": ("canvas side [px]", 60),
    }
    figure, grid = pyplot.subplots(1, 3, sharey=True, figsize=(11, 3.8), **PAGE)
    evaluations = read_evaluations("sizes")
    for agent in sorted({each["run"] for each in evaluations}):
        own = [each for each in evaluations if each["run"] == agent]
        scores = {part: e["by_glimpse"][-1] for e in own for part in e["env_kwargs"].items()}
        for axes, (keyword, (label, usual)) in zip(grid, panels.items(), strict=True):
            points = {usual: scores["object_scale", 1.0]}  # the task itself
            points |= {value: score for (name, value), score in scores.items() if name == keyword}
            values = sorted(points)
            draw_scores(axes, values, [points[v] for v in values], label=agent, marker=".")
            error_axis(axes, (1, 2, 5, 10, 20, 50, 90))
            axes.set_xlabel(label)
            axes.axvline(usual, color="grey", linewidth=0.8, linestyle=":")
    grid[0].set_ylabel(ERROR)
    grid[1].legend(title="dotted: the task", loc="upper left")
    return figure


def stopping() -> Figure:
    """Draw what stopping saves: the test error over the mean number of glimpses.

    Of agents that learned when to stop, one per price of a glimpse, and of the published agent
    where every episode ends after the same number.
    """
    figure, axes = pyplot.subplots(figsize=(6.5, 4.4), **PAGE)
    evaluations = {each["run"]: each for each in read_evaluations("stopping")}
    fixed = evaluations.pop("cluttered")["by_glimpse"]
    label = "cluttered, always stopped after N"
    draw_scores(axes, range(1, len(fixed) + 1), fixed, marker=".", label=label)
    stops = {price: each["stop"] for price, each in evaluations.items()}
    by_price = dict(sorted(stops.items(), key=lambda item: item[1]["glimpses"]))
    glimpses = [stop["glimpses"] for stop in by_price.values()]
    draw_scores(axes, glimpses, list(by_price.values()), marker="o", label="learned stop")
    for price, stop in by_price.items():
        place = {"xytext": (-6, -12), "textcoords": "offset points", "fontsize": 7, "ha": "right"}
        axes.annotate(price, (stop["glimpses"], stop["error"]), **place)
    axes.set_xlabel("glimpses, mean")
    error_axis(axes, (2, 5, 10, 20, 50), ERROR)
    axes.legend(title="numbers: price of a glimpse")
    return figure


def glimpses() -> Figure:
    """Draw what each glimpse adds, on the test split, for every published agent.

    Left: the error, had the answer been scored after each glimpse. Right: the bits that the
    glimpse added to the true label's probability, on average.
    """
    figure, (errors, gains) = pyplot.subplots(1, 2, figsize=(11, 4.4), **PAGE)
    for name in published_names():
        _, played = play_published(name, "test")
        error = [score.error for score in score_by_glimpse(played)]  # (T,)
        line = {"marker": ".", "linestyle": "--" if "reward-only" in name else "-"}
        errors.plot(range(1, len(error) + 1), error, label=name, **line)
        gains.plot(range(2, len(error) + 1), bits_gained(played).tolist(), label=name, **line)
    error_axis(errors, (1, 2, 5, 10, 20, 50), "test error after this glimpse [%]")
    errors.legend(fontsize=8, title="dashed: no label in the loss", title_fontsize=8)
    gains.set(xlabel="glimpse", ylabel="bits gained about the true label")
    errors.set_xlabel("glimpse")
    gains.set_yscale("symlog", linthresh=0.01)
    gains.set_yticks([-0.01, 0, 0.01, 0.1, 1])
    gains.yaxis.set_major_formatter("{x:g}")
    gains.grid(alpha=0.25)
    return figure


def paths() -> Figure:
    """Draw where the published agents look, in the first images of the test split, none picked.

    A row per agent, which looks where its policy's mean says: these are the first episodes of
    `train/evaluate.py --split test`. Numbers count the glimpses, squares are the finest patch of
    the first and the last, and bars are the belief in the true class after each glimpse.
    """
    count, order = 5, list(TASKS)  # easy ones first
    runs = {name: read_json(PRETRAINED / name / "config.json") for name in published_names()}
    names = sorted(runs, key=lambda name: order.index(runs[name]["config"]["env_id"]))
    figure = pyplot.figure(figsize=(1.9 * count, 2.6 * len(names)), **PAGE)
    rows: Any = figure.subfigures(len(names), 1, squeeze=False)
    for part, name in zip(rows[:, 0], names, strict=True):
        task, played = play_published(name, "test", count)
        result = read_json(PRETRAINED / name / "result.json")
        error = f"{result['error']:.2f} % ({result['interval'][0]:.2f}-{result['interval'][1]:.2f})"
        shape = f"{task.side}x{task.side} px, {task.num_glimpses} glimpses"
        part.suptitle(f"{name}: {shape}, {result['split']} error {error}", size=9)
        canvases, _ = frozen_canvases(runs[name]["config"]["env_id"], "test")
        centres = (played.locations[0].numpy() + 1) * (task.side / 2)  # (n, T, 2) [px]
        p = played.log_p[0].exp().numpy()  # (n, T, K)
        colors = PATH(np.linspace(0.2, 0.95, task.num_glimpses))
        grid = part.subplots(2, count, height_ratios=(5, 1), squeeze=False)
        for n, label in enumerate(played.labels.tolist()):
            above, below = grid[:, n]
            draw_path(above, canvases[n], centres[n], task.glimpse_size)
            answer = int(p[n, -1].argmax())
            above.set_title(f"true {label}, says {answer}", size=8, color="br"[answer != label])
            below.bar(range(1, task.num_glimpses + 1), p[n, :, label], color=colors)
            below.set(ylim=(0, 1), xticks=[], yticks=[0, 1] if n == 0 else [])
            below.tick_params(labelsize=7)
    return figure


def draw_path(axes: Axes, canvas: np.ndarray, centres: np.ndarray, size: int) -> None:
    """Draw a canvas and where the glimpses lie.

    Args:
        axes: Where to draw.
        canvas: Shape (H, W) or (H, W, 3), uint8.
        centres: Glimpse centres, (x, y) [px]. Shape (T, 2).
        size: Side of the finest patch [px].
    """
    side, colors = len(canvas), PATH(np.linspace(0.2, 0.95, len(centres)))
    grey = (canvas * 0.6).astype(np.uint8)  # dimmed, so that the path stands out
    axes.imshow(grey, "gray", vmin=0, vmax=255, extent=(0, side, side, 0))
    axes.set(autoscale_on=False, xticks=[], yticks=[])
    for t in (0, -1):
        corner = centres[t] - size / 2
        axes.add_patch(Rectangle(corner, size, size, fill=False, color=colors[t], linewidth=1.4))
    axes.plot(*centres.T, color="white", linewidth=0.8)
    for t, (x, y) in enumerate(centres):
        style = {"boxstyle": "circle,pad=0.15", "facecolor": colors[t], "edgecolor": "none"}
        axes.text(x, y, str(t + 1), size=6, ha="center", va="center", color="white", bbox=style)


def play_published(name: str, split: str, num_images: int | None = None) -> tuple[Any, Beliefs]:
    """Let a published agent play a split of its task on one thread; return both.

    By default it plays all images, eight times, as train/evaluate.py does.
    """
    torch.set_num_threads(1)
    model, settings = load_pretrained(name)
    keywords = {"split": split, "order": "sequential", "action_format": "dict"}
    env = make_vector_env(settings["env_id"], num_images or 500, **keywords)
    passes = 1 if num_images else 8
    return env.task, play_split(model, env, num_images or env.num_images, num_passes=passes)


def read_evaluations(folder: str) -> list[dict[str, Any]]:
    """Return stored evaluations, each a line with what `train/evaluate.py --json` wrote."""
    lines = (STORED / folder / "evaluations.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def draw_scores(axes: Axes, x: Sequence[float], scores: list[dict], **style: Any) -> None:
    """Draw errors with their intervals."""
    errors = np.array([score["error"] for score in scores])
    low, high = np.transpose([score["interval"] for score in scores])
    axes.errorbar(x, errors, yerr=(errors - low, high - errors), capsize=2, **style)


def error_axis(axes: Axes, ticks: Sequence[float], label: str = "") -> None:
    """Make the vertical axis one of errors [%], logarithmic, with plain numbers and a grid."""
    axes.set(yscale="log", **({"ylabel": label} if label else {}))
    axes.set_yticks(ticks)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.grid(alpha=0.25)


SHOWN = (curves, signpost, sizes, stopping, glimpses, paths)
FIGURES = {each.__name__: each for each in SHOWN}


def main(names: tyro.conf.Positional[tuple[str, ...]] = (*FIGURES,), folder: Path = DOCS) -> None:
    """Draw and write figures."""
    for name in names:
        path = folder / f"{name}.png"
        FIGURES[name]().savefig(path)
        print(path)


if __name__ == "__main__":
    tyro.cli(main)
