"""Rewrite the model card of every published agent: `python train/cards.py`.

A card is a ``README.md`` in the format of the Hugging Face Hub: facts as YAML, then text. Upload an
agent's folder as it is.
"""

from __future__ import annotations

from train import startup  # noqa: F401 - before slow imports

# isort: split
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
import tyro

from agents.estimators import ESTIMATORS
from agents.runs.files import convert, parse
from agents.runs.hashed import read_hashed, write_hashed
from agents.runs.loading import PRETRAINED, pretrained_dir, published_names
from agents.runs.records import RunRecord

HUB_DATASETS = {"MNIST": "ylecun/mnist", "FashionMNIST": "zalando-datasets/fashion_mnist"}

CARD = Path(__file__).with_name("card.md")
"""The card's text, with names in braces for what differs."""


class _Settings(msgspec.Struct):
    env_id: str
    seed: int
    estimator: Literal[tuple(ESTIMATORS)]  # pyright: ignore[reportInvalidTypeForm]


class _Result(msgspec.Struct):
    error: float
    interval: tuple[float, float]
    total: int
    glimpses: float | None = None  # where the agent learned to stop


def model_card(name: str, files: Mapping[str, bytes]) -> bytes:
    """Return the card of an agent.

    Args:
        name: Name for ``load_pretrained``.
        files: Its ``config.json`` and ``result.json``.

    Raises:
        ValueError: If a file lacks what a card says.
    """
    folder = PRETRAINED / name
    record = parse(files["config.json"], folder / "config.json", RunRecord)
    result = parse(files["result.json"], folder / "result.json", _Result)
    settings = convert(record.config, _Settings)
    data, n = record.data.partition(" ")[0], result.glimpses
    hub, sees_label = HUB_DATASETS.get(data), ESTIMATORS[settings.estimator].sees_label
    card = CARD.read_text().format(
        name=name,
        record=record,
        settings=settings,
        result=result,
        datasets=f"datasets:\n- {hub}\n" if hub else "",
        dataset=hub or settings.env_id,
        how="mean location" if n is None else f"own stop, {n:.2f} glimpses on average",
        learns=f"the loss {'sees the true label' if sees_label else 'sees the reward, no label'}",
    )
    return card.encode()


def main() -> None:
    """Write all cards and their digests."""
    for name in published_names():
        folder = pretrained_dir(name)
        files = read_hashed(folder)
        write_hashed(folder, {**files, "README.md": model_card(name, files)})


if __name__ == "__main__":
    tyro.cli(main)
