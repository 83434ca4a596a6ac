"""Facts to publish with a number: command, commit, versions and machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess  # noqa: TID251 - asks git for the commit, with fixed arguments
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from agents.distributed import num_ranks
from agents.torchrun import launched


def describe_machine(commit: str | None) -> dict[str, Any]:
    """Return these facts and the time, ready for JSON; ``commit`` is from :func:`commit`."""
    return {
        "command": command_line(),
        "commit": commit,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": versions(),
        "machine": machine(),
    }


def machine() -> str:
    """Return the processor, its vector instructions, the number of its cores and the system."""
    cpuinfo, processor = Path("/proc/cpuinfo"), platform.processor() or platform.machine()
    lines = cpuinfo.read_text("utf-8", "replace").splitlines() if cpuinfo.exists() else []
    processor = next((line.split(": ")[1] for line in lines if "model name" in line), processor)
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{processor} ({vectors}), {os.cpu_count()} cores, {platform.system()}"


def describe_device(device: torch.device) -> str:
    """Return a device with its model, if it is a GPU; other GPUs are not asked or woken.

    Under torchrun the number of processes, which have one each, belongs to it.
    """
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    ranks = f" in each of {num_ranks()} processes" if num_ranks() > 1 else ""
    return f"{device.type if ranks else device}{name}{ranks}"


def command_line() -> str:
    """Return the command that started this process."""
    return shlex.join(["python", *launcher(), *sys.argv])


def launcher() -> list[str]:
    """Return the words between python and the script that start torchrun, if it started this."""
    if not launched():
        return []
    count = os.environ["LOCAL_WORLD_SIZE"]
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count]


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on."""
    return {name: version(name) for name in ("gymnasium", "numpy", "torch", "torchvision")}


def commit() -> str | None:
    """Return the project's git commit, or None; with "+" if code or published agents changed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}  # git hooks set them

    def git(*arguments: str) -> str:
        run = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
        ended = subprocess.run(run, capture_output=True, text=True, check=True, env=env)
        return ended.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # else another project's folder
        changes = git("status", "--porcelain", "-uno", "--", ":/*.py", ":/*.toml", ":/agents")
        return git("rev-parse", "HEAD") + "+" * bool(changes)
    except (OSError, subprocess.CalledProcessError):
        return None
