"""The run folder: what was run, and what came of it."""

from __future__ import annotations

import csv
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from safetensors.torch import save
from torch.utils.tensorboard import SummaryWriter

from agents.evaluation import Score


class RunLog:
    """A folder for one run, and what a person sees of it while it goes on.

    It holds ``config.json``, ``log.txt`` (every line that was printed), ``metrics.csv`` and
    TensorBoard events (both count env steps), ``model.json`` with ``best.safetensors``, and
    ``result.json``.

    Args:
        folder: Made here; must not hold a run already.
        config: A dataclass of settings, stored as JSON.
        facts: What else belongs in ``config.json``: the device, where the data came from.

    Raises:
        FileExistsError: If the folder exists and is not empty: no run is ever overwritten.
    """

    def __init__(self, folder: Path, config: Any, facts: dict[str, Any] | None = None):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"{folder} holds a run already: name another with --run-dir")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        settings = {"config": asdict(config), **(facts or {}), **_describe_machine()}
        (folder / "config.json").write_text(json.dumps(settings, indent=2, default=str) + "\n")
        self._console = Console(highlight=False, soft_wrap=True)
        self._lines = (folder / "log.txt").open("w")
        self._metrics = (folder / "metrics.csv").open("w", newline="")
        self._csv = csv.writer(self._metrics)
        self._csv.writerow(["env_steps", "tag", "value"])
        self._events = SummaryWriter(str(folder))
        self._started, self._share = time.monotonic(), 1.0

    def say(self, line: str) -> None:
        """Print a line and keep it in ``log.txt``."""
        self._console.print(line, markup=False)
        print(line, file=self._lines, flush=True)

    def progress(self, num_updates: int) -> Iterator[int]:
        """Count updates from 0, with a bar and the time left on a terminal."""
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(
            *columns, console=self._console, disable=not self._console.is_terminal
        ) as bar:
            self._started = time.monotonic()
            for update in bar.track(range(num_updates)):
                self._share = (update + 1) / num_updates
                yield update

    @property
    def time_left(self) -> str:
        """How long the updates to come will take at the mean speed so far, as minutes:seconds."""
        seconds = (time.monotonic() - self._started) * (1 / self._share - 1)
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"

    def scalars(self, env_steps: int, values: dict[str, float]) -> None:
        """Write one line a value, and the same to TensorBoard.

        Args:
            env_steps: Steps so far, of all lanes together.
            values: By tag, such as ``train/policy_loss`` or ``eval/error``.
        """
        for tag, value in values.items():
            self._csv.writerow([env_steps, tag, repr(float(value))])
            self._events.add_scalar(tag, value, env_steps)
        self._metrics.flush()

    def speed(self, env_steps: int) -> None:
        """Tell TensorBoard the mean steps a second so far; ``metrics.csv`` has no clock times."""
        seconds = time.monotonic() - self._started
        self._events.add_scalar("time/fps", env_steps / max(seconds, 1e-9), env_steps)

    def save_model_config(self, config: Any) -> None:
        """Write the model's sizes and choices, a dataclass, to ``model.json``."""
        (self.folder / "model.json").write_text(json.dumps(asdict(config), indent=2) + "\n")

    def save_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Write the best weights so far to ``best.safetensors``, all of them or none."""
        new = self.folder / "best.safetensors.new"
        new.write_bytes(save(weights))
        new.replace(self.folder / "best.safetensors")

    def result(self, split: str, score: Score, data: str) -> None:
        """Write what the run ended with to ``result.json`` and print it as a line of its own.

        Args:
            split: What was judged.
            score: How.
            data: Where the split's images came from; printed before, in a line of its own.
        """
        self.say(data)
        low, high = score.interval
        values = {"split": split, "error": score.error, "interval": [low, high]}
        values |= {**asdict(score), "data": data}
        (self.folder / "result.json").write_text(json.dumps(values, indent=2) + "\n")
        self.say(f"{split} {score}")

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        self._metrics.close()
        self._events.close()


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
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """Return the CPU's name, and the GPU's if there is one."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next((line.split(": ")[1] for line in lines if "model name" in line), name)
    return f"{name} and {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name


def _commit() -> str | None:
    """Return the project's git commit, with "+" where files were changed, or None."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        run = ["git", "-C", str(here), *arguments]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # else another project's folder
        return git("rev-parse", "HEAD") + "+" * bool(git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.CalledProcessError):
        return None
