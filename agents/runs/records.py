"""What is read back from a run folder's ``config.json`` and ``result.json``."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from agents.runs.files import convert, read_json


class RunRecord(msgspec.Struct):
    """Form of ``config.json``, which has more entries: ``config`` holds the script's settings."""

    config: dict[str, Any] = {}
    command: str = ""
    commit: str | None = None
    sample: bool | None = None
    data: str = ""


class ResultRecord(msgspec.Struct):
    """Form of ``result.json``, which has more entries: ``line`` is the result in words."""

    split: str
    data: str
    line: str


def read_settings(run_dir: Path) -> dict[str, Any]:
    """Return the settings in a run's ``config.json``; ValueError unless each is a single value."""
    path = run_dir / "config.json"
    settings = read_json(path, RunRecord).config
    if not settings:
        raise ValueError(f"{path} holds no settings under the key 'config'")
    for name, value in settings.items():
        if isinstance(value, (dict, list)):
            raise ValueError(f"{path}: setting {name!r} must be a single value, got {value!r:.80}")
    return settings


def finished_line(run_dir: Path) -> str | None:
    """Return the last line of a finished run, or None if the run has not finished."""
    path = run_dir / "result.json"
    return printable(read_json(path, ResultRecord).line) if path.exists() else None


def printable(text: str) -> str:
    """Return a string with control characters escaped: they could command a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def portable(content: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return the content of a run's ``config.json`` without the paths of its machine."""
    record = convert(content, RunRecord)
    content = {**content, "command": _portable_command(record.command, run_dir)}
    if record.data:
        content["data"] = without_folder(record.data)
    if record.config:
        content["config"] = {**record.config, "run_dir": None}
    return content


def without_folder(data: str) -> str:
    """Return a data source such as "MNIST test: 10000 images from DIR" without its folder."""
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
