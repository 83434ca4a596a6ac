"""Draw figures of stored results: `python docs/figures.py [NAMES]`, by default all.

Each function draws the figure of its name, ``docs/NAME.png``, and says what it shows.
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

from agents.diagnostics import bits_gained
from agents.estimators import ESTIMATORS
from agents.evaluation import Beliefs, play_split, score_by_glimpse
from agents.runs.files import read_csv, read_json
from agents.runs.loading import PRETRAINED, load_pretrained, published_names
from ram_env import find_task
from train.comparison.figures import COLOURS, mean_curve
from train.comparison.protocol import read_protocol
from train.comparison.results import Seed, read_lines
from train.comparison.summary import CLASSES, TaskResults, read_results
from train.keywords import make_vector_env

DOCS = Path(__file__).parent
STORED = DOCS.with_name("benchmarks")
CLUTTERED = "ClutteredMNISTGlimpse-v0"
ERROR = "test error [%]"
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


def reward_alone() -> Figure:
    """Draw what the reward alone teaches on cluttered MNIST.

    Top: the validation error over the env steps of the comparison's runs, without and with the
    canvas curriculum; means over seeds, thin where there is only one. Bottom left: with it, the
    share of glimpses on the digit's middle. Bottom right: the belief in the true class of the
    published agents on the validation images, after each glimpse.
    """
    figure, grid = pyplot.subplots(2, 2, figsize=(10, 9), **PAGE)
    (alone, staged), (places, beliefs) = grid
    protocol = read_protocol(DOCS.with_name("train") / "reward_alone.toml")
    for results in read_results(protocol, STORED / "reward_alone").values():
        if results.task.env_id == CLUTTERED:
            draw_rows(results, staged if results.task.curriculum else alone, places)
    named = "; ".join(f"{letter}: {meaning}" for letter, meaning in CLASSES.items())
    legend = dict(zip(*reversed(staged.get_legend_handles_labels()), strict=True))
    rows = list(legend.values()), list(legend)
    figure.legend(*rows, loc="outside lower center", ncols=3, title=f"thin: one seed. {named}")
    for axes, title in ((alone, f"{CLUTTERED} alone"), (staged, "with the canvas curriculum")):
        axes.set_title(title)
        error_axis(axes, (2, 3, 5, 10, 20, 30, 50, 90), "validation error [%]")
        axes.set_ylim(2, 95)
    places.set(title="with the canvas curriculum", ylabel="glimpses on the digit's middle [%]")
    for axes in (alone, staged, places):
        axes.set(xscale="log", xlim=(2.5e5, 2.4e7), xlabel="env steps")
    for name in ("cluttered", "cluttered-paper-rule", "cluttered-reward-only"):
        played = play_published(name, "validation")
        label = played.labels[None, :, None, None].expand(*played.log_p.shape[:3], 1)
        belief = played.log_p.gather(3, label).exp().mean((0, 1, 3)).numpy()  # (T,)
        beliefs.plot(range(1, len(belief) + 1), belief, marker=".", label=name)
    beliefs.set(xlabel="glimpse", ylabel="mean belief in the true class", ylim=(0, 1))
    beliefs.legend(title="published agents", loc="lower right")
    for axes in (places, beliefs):
        axes.grid(alpha=0.25)
    return figure


def draw_rows(results: TaskResults, axes: Axes, places: Axes) -> None:
    """Draw the mean curves of a task, a colour per algorithm and a marker per class.

    With a curriculum, draw also the share of glimpses on the digit's middle.
    """
    shown = ("dense", "paper", "reward_only", "ppo_history", "ppo_history_full_batch")
    shown += ("recurrent_ppo", "outcome", "outcome_replay", "outcome_replay_convolutions")
    rows = {row.algorithm.name: row for row in results.rows if row.seeds}
    for name in filter(rows.__contains__, shown):
        row, tag = rows[name], "eval/centre_coverage"
        letter = row.algorithm.feedback
        marker = {"L": "o", "R": "s", "R*": "^"}[letter]
        look: dict[str, Any] = {"color": COLOURS[shown.index(name)], "marker": marker}
        look |= {"markersize": 5, "linewidth": 1.8 if len(row.seeds) > 1 else 0.7}
        curve = mean_curve(row)
        axes.plot(curve.env_steps, curve.error, label=f"{letter}: {name}", **look)
        whole = [seed.curve for seed in row.finished if tag in seed.curve.behaviour]
        if results.task.curriculum and whole:
            covered = np.mean([each.behaviour[tag] for each in whole], 0)
            places.plot(whole[0].env_steps, covered, **look)


def play_published(name: str, split: str, **options: Any) -> Beliefs:
    """Play a split of a published agent's task with it, on one thread."""
    torch.set_num_threads(1)
    model, settings = load_pretrained(name)
    keywords = {"split": split, "order": "sequential", "action_format": "dict"}
    env = make_vector_env(settings["env_id"], 500, **keywords)
    return play_split(model, env, env.num_images, **options)


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


def estimators() -> Figure:
    """Draw how the estimators learn: the comparison's validation error over env steps, by task.

    Thick lines are means over the seeds, which are thin.
    """
    figure, panels = pyplot.subplots(1, 3, figsize=(13, 4.4), **PAGE)
    floor = 0.1  # of an error [%], on a logarithmic axis
    tasks = ("SignpostGlimpse-v0", "MNISTGlimpse-v0", CLUTTERED)
    for axes, env_id in zip(panels, tasks, strict=True):
        seeds = read_lines(Seed, STORED / "comparison", env_id)
        for number, (name, estimator) in enumerate(ESTIMATORS.items()):
            curves = [seed.curve for seed in seeds if seed.algorithm == name]
            if not curves:
                continue
            look = {"color": f"C{number}", "linestyle": "-" if estimator.sees_label else "--"}
            errors = np.maximum([curve.error for curve in curves], floor)  # (seeds, marks)
            axes.plot(curves[0].env_steps, errors.T, linewidth=0.5, alpha=0.35, **look)
            axes.plot(curves[0].env_steps, errors.mean(0), label=name, **look)
        count = sum(seed.algorithm == "dense" for seed in seeds)
        axes.set(yscale="log", title=f"{env_id}, {count} seeds", xlabel="env steps")
        low = axes.get_ylim()[0]
        error_axis(axes, (floor, 0.5, 1, 2, 5, 10, 20, 50, 90), "validation error [%]")
        axes.set_ylim(low, 100)
        axes.yaxis.set_major_formatter(lambda x, _: f"{x:g}" if x > floor else f"0 to {floor:g}")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k")
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=6, title="dashed: no label in the loss")
    return figure


def glimpses() -> Figure:
    """Draw what each glimpse adds, on the test split, for every published agent.

    Left: the error, had the answer been scored after each glimpse. Right: the bits that the
    glimpse added to the true label's probability, on average.
    """
    figure, (errors, gains) = pyplot.subplots(1, 2, figsize=(11, 4.4), **PAGE)
    for name in published_names():
        played = play_published(name, "test", num_passes=8)  # as train/evaluate.py
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


SHOWN = (curves, reward_alone, signpost, sizes, stopping, estimators, glimpses)
FIGURES = {each.__name__: each for each in SHOWN}


def main(names: tyro.conf.Positional[tuple[str, ...]] = (*FIGURES,), folder: Path = DOCS) -> None:
    """Draw and write figures."""
    for name in names:
        path = folder / f"{name}.png"
        FIGURES[name]().savefig(path)
        print(path)


if __name__ == "__main__":
    tyro.cli(main)
