"""What a run folder's ``config.json`` and ``result.json`` hold, and how to show it safely."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from agents.runs.files import read_json


class RunRecord(msgspec.Struct):
    """The entries of ``config.json`` that are read back; there are more.

    Attributes:
        config: The training script's settings.
        command: Command line that started the run.
        commit: Git commit of the code, with "+" if files were changed.
        sample: Whether the data were the sample of digits.
        data: Where the images came from.
    """

    config: dict[str, Any]
    command: str = ""
    commit: str | None = None
    sample: bool | None = None
    data: str = ""


class ResultRecord(msgspec.Struct):
    """The entries of ``result.json`` that are read back.

    Attributes:
        split: Split that was evaluated, or "none".
        data: Where its images came from.
        line: The result in words.
    """

    split: str
    data: str
    line: str


def read_settings(run_dir: Path) -> dict[str, Any]:
    """Return a run's settings, from its ``config.json``.

    Raises:
        ValueError: If the file is missing or damaged, or a setting is a list or an object.
    """
    path = run_dir / "config.json"
    settings = read_json(path, RunRecord).config
    for name, value in settings.items():
        if isinstance(value, (dict, list)):
            raise ValueError(f"{path}: setting {name!r} must be a single value, got {value!r:.80}")
    return settings


def finished_line(run_dir: Path) -> str | None:
    """Return the last line of a finished run, or None if the run has not finished.

    Raises:
        ValueError: If ``result.json`` is damaged.
    """
    path = run_dir / "result.json"
    return printable(read_json(path, ResultRecord).line) if path.exists() else None


def printable(text: str) -> str:
    """Return a string with its control characters escaped, which could command a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def portable_config(run_dir: Path) -> dict[str, Any]:
    """Return the content of a run's ``config.json`` without the paths of its machine.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    path = run_dir / "config.json"
    record, content = read_json(path, RunRecord), read_json(path)
    content["command"] = _portable_command(record.command, run_dir)
    content["config"]["run_dir"] = None
    if record.data:  # keep the number of images, not their folder
        content["data"] = portable_source(record.data)
    return content


def portable_source(data: str) -> str:
    """Return a description of images, such as "MNIST test: 10000 images", without their folder."""
    return data.partition(" from ")[0]


def _portable_command(command: str, run_dir: Path) -> str:
    """Return a command with RUN_DIR for the run folder and the last two parts of other paths."""
    words = []
    for before, word in pairwise(["", *shlex.split(command)]):
        path = Path(word)
        if before == "--run-dir" or path.resolve() == run_dir.resolve():
            word = "RUN_DIR"
        elif word.startswith("--run-dir="):
            word = "--run-dir=RUN_DIR"
        elif path.is_absolute():
            word = "/".join(path.parts[-2:])
        words.append(word)
    return shlex.join(words)
