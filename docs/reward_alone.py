"""Draw what the reward alone teaches on cluttered MNIST: `python docs/reward_alone.py`.

Top: the validation error over the env steps of the comparison's runs (`benchmarks/reward_alone`),
without and with the canvas curriculum; means over seeds, thin where there is only one. Bottom left:
with the curriculum, the share of glimpses on the digit's middle. Bottom right: the belief in the
true class of the published agents on the validation images, after each glimpse.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import tyro
from matplotlib import pyplot
from matplotlib.axes import Axes

from agents.evaluation import play_split
from agents.runs.loading import load_pretrained
from train.comparison.figures import COLOURS, mean_curve
from train.comparison.protocol import read_protocol
from train.comparison.summary import CLASSES, read_results
from train.keywords import make_vector_env

FIGURE = Path(__file__).with_suffix(".png")
ROOT = Path(__file__).parents[1]
ENV_ID = "ClutteredMNISTGlimpse-v0"
ROWS = (
    *("dense", "paper", "reward_only", "ppo_history", "ppo_history_full_batch", "recurrent_ppo"),
    *("outcome", "outcome_replay", "outcome_replay_convolutions"),
)
MARKERS = {"L": "o", "R": "s", "R*": "^"}  # of the classes
AGENTS = ("cluttered", "cluttered-paper-rule", "cluttered-reward-only")


def main(output: Path = FIGURE) -> None:
    """Draw and write the figure."""
    torch.set_num_threads(1)
    figure, grid = pyplot.subplots(2, 2, figsize=(10, 9), dpi=130, layout="constrained")
    (alone, staged), (places, beliefs) = grid
    draw_runs(alone, staged, places)
    rows = staged.get_legend_handles_labels()
    named = "; ".join(f"{letter}: {meaning}" for letter, meaning in CLASSES.items())
    figure.legend(*rows, loc="outside lower center", ncols=3, title=f"thin: one seed. {named}")
    alone.set_title(f"{ENV_ID} alone")
    staged.set_title("with the canvas curriculum")
    places.set_title("with the canvas curriculum")
    for axes in (alone, staged):
        axes.set(yscale="log", ylim=(2, 95), ylabel="validation error [%]")
        axes.set_yticks((2, 3, 5, 10, 20, 30, 50, 90))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    places.set_ylabel("glimpses on the digit's middle [%]")
    for axes in (alone, staged, places):
        axes.set(xscale="log", xlim=(2.5e5, 2.4e7), xlabel="env steps")
    for name in AGENTS:
        belief = mean_belief(name)
        beliefs.plot(range(1, len(belief) + 1), belief, marker=".", label=name)
    beliefs.set(xlabel="glimpse", ylabel="mean belief in the true class", ylim=(0, 1))
    beliefs.legend(title="published agents", loc="lower right")
    for axes in grid.flat:
        axes.grid(alpha=0.25)
    figure.savefig(output)
    print(output)


def draw_runs(alone: Axes, staged: Axes, places: Axes) -> None:
    """Draw the mean curves of the rows, a colour each, on every task with the env id."""
    protocol = read_protocol(ROOT / "train" / "reward_alone.toml")
    named: set[str] = set()
    for results in read_results(protocol, ROOT / "benchmarks" / "reward_alone").values():
        if results.task.env_id != ENV_ID:
            continue
        rows = [row for row in results.rows if row.algorithm.name in ROWS and row.seeds]
        for row in sorted(rows, key=lambda row: ROWS.index(row.algorithm.name)):
            name, letter = row.algorithm.name, row.algorithm.feedback
            curve, tag = mean_curve(row), "eval/centre_coverage"
            look = {"color": COLOURS[ROWS.index(name)], "marker": MARKERS[letter], "markersize": 5}
            look["linewidth"] = 1.8 if len(row.seeds) > 1 else 0.7
            if not results.task.curriculum:
                alone.plot(curve.env_steps, curve.error, **look)
                continue
            label = None if name in named else f"{letter}: {name}"
            named.add(name)
            staged.plot(curve.env_steps, curve.error, label=label, **look)
            if whole := [seed.curve for seed in row.finished if tag in seed.curve.behaviour]:
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
