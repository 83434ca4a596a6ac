"""Publish a run's best model with the package: `python train/publish.py RUN_DIR NAME`.

Writes what :func:`agents.runs.loading.load_run` reads, the result, the validation errors and a
model card to ``agents/pretrained/NAME`` with a manifest of their SHA-256, without the paths of this
machine. The card is a ``README.md`` in the format of the Hugging Face Hub: upload the folder as it
is. After a change of ``card.md``, call :func:`rewrite_cards`.
"""

from __future__ import annotations

from train import startup  # noqa: F401 - before slow imports

# isort: split
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from msgspec import Struct

from agents.estimators import ESTIMATORS
from agents.runs import loading
from agents.runs.commands import parse_flags, run
from agents.runs.files import parse, read_csv, read_file, read_json, to_json
from agents.runs.hashed import MAX_BYTES, read_hashed, write_hashed
from agents.runs.records import ResultRecord, RunRecord, portable
from ram_env import TASKS

CARD = Path(__file__).with_name("card.md")
"""The card's text, with names in braces for what differs."""
HUB_DATASETS = {"MNIST": "ylecun/mnist", "FashionMNIST": "zalando-datasets/fashion_mnist"}


class _Metric(Struct):
    """A line of a run's ``metrics.csv``, as it is written."""

    env_steps: str
    tag: str
    value: str


@dataclass(frozen=True)
class Config:
    """What to publish."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of a finished run of train/reinforce.py."""
    name: tyro.conf.Positional[str]
    """Name for load_pretrained; replaces a published run of that name."""

    def __post_init__(self) -> None:
        """Check the name, which becomes that of a folder."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", self.name):
            raise ValueError(f"name must consist of a-z, 0-9 and -, got {self.name!r}")


def main(config: Config) -> None:
    """Check the run and publish it; a crash leaves the old published run or the new one."""
    run_dir = config.run_dir
    record = read_json(run_dir / "config.json", RunRecord)
    settings, commit = record.config, record.commit or ""
    env_id, rule = str(settings.get("env_id")), settings.get("locations", "learned")
    initial, curriculum = (settings.get(name) or "" for name in ("initial", "curriculum"))
    env_kwargs, known = settings.get("env_kwargs"), ("", *loading.published_names())
    reasons = {
        f"was trained on {env_id}, which others lack": env_id.removeprefix("ram_env:") in TASKS,
        "was not trained on the full data": record.sample is False,
        f"is of commit {commit} (+: changed files): publish a run of a commit that others can "
        "check out": re.fullmatch("[0-9a-f]{40}", commit),
        f"was trained with {env_kwargs}, which is no id's task": not env_kwargs,
        f"looked where the rule {rule!r} says: publish a learned policy": rule == "learned",
        f"began with {initial}, which others lack: publish that first": initial in known,
        f"used {curriculum}: add it to train/curricula": not curriculum.endswith(".toml"),
        "has no result.json: publish a finished run": (run_dir / "result.json").exists(),
    }
    if unfit := [reason for reason, fits in reasons.items() if not fits]:
        raise ValueError(f"{run_dir} {unfit[0]}")
    loading.load_run(run_dir)  # refuses whatever it could not read back
    if read_json(run_dir / "result.json", ResultRecord).split != "test":
        raise ValueError(f"{run_dir} was not evaluated on the test split")
    rows = read_csv(run_dir / "metrics.csv", _Metric)
    errors = [f"{row.env_steps},{row.tag},{row.value}" for row in rows if row.tag == "eval/error"]
    files = {
        "model.json": read_file(run_dir / "model.json", MAX_BYTES),
        "best.safetensors": read_file(run_dir / "best.safetensors", MAX_BYTES),
        "config.json": to_json(portable(read_json(run_dir / "config.json"), run_dir)),
        "result.json": to_json(portable(read_json(run_dir / "result.json"), run_dir)),
        "validation.csv": "\n".join(["env_steps,tag,value", *errors, ""]).encode(),
    }
    files["README.md"] = model_card(config.name, files)
    write_hashed(loading.PRETRAINED / config.name, files)
    print(loading.PRETRAINED / config.name)


def model_card(name: str, files: Mapping[str, bytes]) -> bytes:
    """Return the card of an agent, given its name and its ``config.json`` and ``result.json``."""
    folder = loading.PRETRAINED / name
    record = parse(files["config.json"], folder / "config.json", RunRecord)
    result = parse(files["result.json"], folder / "result.json", dict[str, Any])
    data, n = record.data.partition(" ")[0], result.get("glimpses")
    sees_label = ESTIMATORS[record.config["estimator"]].sees_label
    hub = HUB_DATASETS.get(data)
    card = CARD.read_text().format(
        name=name,
        record=record,
        settings=record.config,
        result=result,
        datasets=f"datasets:\n- {hub}\n" if hub else "",
        dataset=hub or record.config["env_id"],
        how="mean location" if n is None else f"own stop, {n:.2f} glimpses on average",
        learns=f"the loss {'sees the true label' if sees_label else 'sees the reward, no label'}",
    )
    return card.encode()


def rewrite_cards() -> None:
    """Rewrite the card of every published agent, and the digests."""
    for name in loading.published_names():
        folder = loading.pretrained_dir(name)
        files = read_hashed(folder)
        write_hashed(folder, {**files, "README.md": model_card(name, files)})


if __name__ == "__main__":
    run(main, partial(parse_flags, Config))
