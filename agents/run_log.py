"""The run folder: what was run, and what came of it."""

from __future__ import annotations

import csv
import json
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """A folder with ``config.json``, ``metrics.csv`` and TensorBoard events.

    Both count env steps. Use it in a ``with`` statement: files are closed at its end.

    Args:
        folder: Made here; must not hold a run already.
        config: A dataclass of settings, stored as JSON.
        facts: Further facts for ``config.json``, such as where the data came from.

    Raises:
        FileExistsError: If the folder exists and is not empty: no run is ever overwritten.
    """

    def __init__(self, folder: Path, config: Any, facts: dict[str, Any]):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"{folder} holds a run already: name another with --run-dir")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        settings = {"config": asdict(config), **facts, **_describe_machine()}
        (folder / "config.json").write_text(json.dumps(settings, indent=2, default=str) + "\n")
        self._file = (folder / "metrics.csv").open("w", newline="")
        self._csv = csv.writer(self._file)
        self._csv.writerow(["env_steps", "tag", "value"])
        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> RunLog:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        self._file.close()
        self._writer.close()

    def scalars(self, env_steps: int, values: dict[str, float]) -> None:
        """Write one line a value, and the same to TensorBoard.

        Args:
            env_steps: Steps so far, of all lanes together.
            values: By tag, such as ``train/policy_loss`` or ``eval/error``.
        """
        for tag, value in values.items():
            self._csv.writerow([env_steps, tag, repr(float(value))])
            self._writer.add_scalar(tag, value, env_steps)
        self._file.flush()

    def result(self, values: dict[str, Any]) -> None:
        """Write what the run ended with to ``result.json``."""
        (self.folder / "result.json").write_text(json.dumps(values, indent=2) + "\n")


def default_run_dir(env_id: str, seed: int) -> Path:
    """Return a folder of its own below ``runs/`` for a run that starts now."""
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{env_id.replace(':', '_')}_seed{seed}_{now}"


def _describe_machine() -> dict[str, Any]:
    """Return what a published number needs beside it: command, commit, versions, machine."""
    packages = ("gymnasium", "numpy", "torch", "torchvision")
    return {
        "command": shlex.join(["python", *sys.argv]),
        "commit": _commit(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "machine": f"{platform.machine()} {platform.system()}",
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """Return the project's git commit, with "+" where files were changed, or None."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        run = ["git", "-C", str(here), *arguments]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + "+" * bool(git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.CalledProcessError):
        return None
