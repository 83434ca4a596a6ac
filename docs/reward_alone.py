"""Draw what the reward alone teaches on cluttered MNIST: `python docs/reward_alone.py`.

Left and middle, over the env steps of the comparison's runs (`benchmarks/reward_alone`, means over
seeds, thin where there is only one): the validation error, and the share of glimpses on the digit's
middle where locations are learned. Right: the belief in the true class of the published agents on
the validation images, after each glimpse.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import tyro
from matplotlib import pyplot
from matplotlib.axes import Axes

from agents.evaluation import play_split
from agents.runs.loading import load_pretrained
from train.comparison.figures import MARKERS, mean_curve
from train.comparison.protocol import read_protocol
from train.comparison.summary import CLASSES, read_results
from train.keywords import make_vector_env

FIGURE = Path(__file__).with_suffix(".png")
ROOT = Path(__file__).parents[1]
ENV_ID = "ClutteredMNISTGlimpse-v0"
COLOURS = {"L": "#0072B2", "R": "#D55E00", "R*": "#009E73"}  # of the classes
AGENTS = {"cluttered": "L", "cluttered-paper-rule": "L", "cluttered-reward-only": "R*"}


def main(output: Path = FIGURE) -> None:
    """Draw and write the figure."""
    torch.set_num_threads(1)
    figure, (errors, places, beliefs) = pyplot.subplots(
        1, 3, figsize=(14, 6), dpi=130, layout="constrained"
    )
    draw_runs(errors, places)
    rows = errors.get_legend_handles_labels()
    figure.legend(*rows, loc="outside lower center", ncols=5, fontsize=8)
    for axes, label in ((errors, "validation error [%]"), (places, "on the digit's middle [%]")):
        axes.set(xscale="log", xlim=(1e5, 3e7), xlabel="env steps", ylabel=label)
    errors.set_yscale("log")
    errors.set_yticks((2, 3, 5, 10, 20, 30, 50, 90))
    errors.yaxis.set_major_formatter("{x:g}")
    errors.yaxis.set_minor_formatter("")
    for name, letter in AGENTS.items():
        belief = mean_belief(name)
        line = {"color": COLOURS[letter], "linestyle": ":" if "paper" in name else "-"}
        beliefs.plot(range(1, len(belief) + 1), belief, marker=".", label=name, **line)
    beliefs.set(xlabel="glimpse", ylabel="mean belief in the true class", ylim=(0, 1))
    beliefs.legend(fontsize=8, title="published agents", loc="lower right")
    for axes in (errors, places, beliefs):
        axes.grid(alpha=0.25)
    named = [f"{letter}: {meaning}" for letter, meaning in CLASSES.items()]
    figure.suptitle(
        f"{ENV_ID}. Dashed: with the canvas curriculum. Thin: one seed. {'; '.join(named)}",
        fontsize=10,
    )
    figure.savefig(output)
    print(output)


def draw_runs(errors: Axes, places: Axes) -> None:
    """Draw the mean curves of every algorithm on every task with the env id."""
    protocol = read_protocol(ROOT / "train" / "reward_alone.toml")
    seen = defaultdict[str, list[str]](list)
    for results in read_results(protocol, ROOT / "benchmarks" / "reward_alone").values():
        for row in results.rows:
            if results.task.env_id != ENV_ID or not row.seeds:
                continue
            name, letter = row.algorithm.name, row.algorithm.feedback
            known = seen[letter]
            label = None if name in known else f"{letter}: {name}"
            known.extend([] if name in known else [name])
            look = {
                "color": COLOURS[letter],
                "marker": MARKERS[known.index(name) % len(MARKERS)],
                "linestyle": "--" if results.task.curriculum else "-",
                "markersize": 4,
                "linewidth": 1.6 if len(row.seeds) > 1 else 0.6,
            }
            curve, tag = mean_curve(row), "eval/centre_coverage"
            errors.plot(curve.env_steps, curve.error, label=label, **look)
            learned = "--locations" not in row.algorithm.flags
            whole = [s.curve for s in row.finished if tag in s.curve.behaviour]
            if whole and learned:
                covered = np.mean([each.behaviour[tag] for each in whole], 0)
                places.plot(whole[0].env_steps, covered, **look)


def mean_belief(name: str) -> np.ndarray:
    """Return a published agent's mean probability of the true class after each glimpse, (T,)."""
    model, _ = load_pretrained(name)
    keywords = {"split": "validation", "order": "sequential", "action_format": "dict"}
    env = make_vector_env(ENV_ID, 500, **keywords)
    beliefs = play_split(model, env, env.num_images)
    label = beliefs.labels[None, :, None, None].expand(*beliefs.log_p.shape[:3], 1)
    return beliefs.log_p.gather(3, label).exp().mean((0, 1, 3)).numpy()


if __name__ == "__main__":
    tyro.cli(main)
