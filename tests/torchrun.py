"""Starts programs under torchrun, as a person would."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def torchrun(*words: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a program in several processes, which find each other over a free port."""
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *command, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )


def errors(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what the processes report; check that no traceback but torchrun's own is printed."""
    assert ended.stderr.count("Traceback (most recent call last)") == 1
    return [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
