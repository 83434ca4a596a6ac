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
    dtype: str = ""


class ResultRecord(msgspec.Struct):
    """Form of ``result.json``, which has more entries: ``line`` is the result in words."""

    split: str
    line: str


def read_settings(run_dir: Path) -> dict[str, Any]:
    """Return the settings in a run's ``config.json``."""
    path = run_dir / "config.json"
    if not (settings := read_json(path, RunRecord).config):
        raise ValueError(f"{path} holds no settings under the key 'config'")
    if nested := [name for name, value in settings.items() if isinstance(value, dict | list)]:
        raise ValueError(f"{path}: each setting must be a single value, got more in {nested}")
    return settings


def printable(text: str) -> str:
    """Return a string with control characters escaped: they could command a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def portable(content: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return the content of ``config.json`` or ``result.json`` without the machine's paths.

    In the command, RUN_DIR stands for the run folder; other paths keep their last two parts, there
    and in the settings.
    """

    def shortened(word: Any) -> Any:
        absolute = isinstance(word, str) and Path(word).is_absolute()
        return "/".join(Path(word).parts[-2:]) if absolute else word

    record, words = convert(content, RunRecord), []
    try:
        command = shlex.split(record.command)
    except ValueError:  # an unquoted apostrophe, such as another program may store
        command = record.command.split()
    for before, word in pairwise(["", *command]):
        joined = word.startswith("--") and "=" in word
        flag, value = word.split("=", 1) if joined else (before, word)
        if flag == "--run-dir" or Path(value).resolve() == run_dir.resolve():
            value = "RUN_DIR"
        words.append(f"{flag}={shortened(value)}" if joined else shortened(value))
    changes = {
        "command": shlex.join(words),
        "data": record.data.partition(" from ")[0],  # such as "MNIST test: 10 images from DIR"
        "config": {**{k: shortened(v) for k, v in record.config.items()}, "run_dir": None},
    }
    return {**content, **{name: part for name, part in changes.items() if name in content}}
