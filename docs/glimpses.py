"""Draw what each glimpse adds: `python docs/glimpses.py`.

Left: the error of every published agent on the test split, had its answer been scored after each
glimpse. Right: the bits that the glimpse added to the true label's probability, on average.

Dimension key:
    n: images
    T: glimpses per episode
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from matplotlib import pyplot

from agents.diagnostics import bits_gained
from agents.evaluation import play_split, score_by_glimpse
from agents.runs.loading import load_pretrained, published_names
from train.keywords import make_vector_env

FIGURE = Path(__file__).with_suffix(".png")


def main(output: Path = FIGURE) -> None:
    """Play the test split with every published agent, draw and write the figure."""
    torch.set_num_threads(1)
    figure, (errors, gains) = pyplot.subplots(
        1, 2, figsize=(11, 4.4), dpi=130, layout="constrained"
    )
    for name in published_names():
        error, gained = look(name)
        line = {"marker": ".", "linestyle": "--" if "reward-only" in name else "-"}
        errors.plot(range(1, len(error) + 1), error, label=name, **line)
        gains.plot(range(2, len(error) + 1), gained, label=name, **line)
    errors.set(xlabel="glimpse", ylabel="test error after this glimpse [%]", yscale="log")
    errors.set_yticks([1, 2, 5, 10, 20, 50])
    errors.yaxis.set_major_formatter("{x:g}")
    errors.yaxis.set_minor_formatter("")
    gains.set(xlabel="glimpse", ylabel="bits gained about the true label", yscale="symlog")
    gains.set_yscale("symlog", linthresh=0.01)
    gains.set_yticks([-0.01, 0, 0.01, 0.1, 1])
    gains.yaxis.set_major_formatter("{x:g}")
    errors.legend(fontsize=8, title="dashed: no label in the loss", title_fontsize=8)
    for axes in (errors, gains):
        axes.grid(alpha=0.25)
    figure.savefig(output)
    print(output)


def look(name: str) -> tuple[list[float], list[float]]:
    """Return an agent's error after each glimpse [%], (T,), and the bits gained, (T - 1,)."""
    model, settings = load_pretrained(name)
    keywords = {"split": "test", "order": "sequential", "action_format": "dict"}
    env = make_vector_env(settings["env_id"], 500, **keywords)
    beliefs = play_split(model, env, env.num_images, num_passes=8)  # as train/evaluate.py
    return [score.error for score in score_by_glimpse(beliefs)], bits_gained(beliefs).tolist()


if __name__ == "__main__":
    tyro.cli(main)
