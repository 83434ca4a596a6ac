"""Short runs of the training scripts, each in a process of its own that can be disturbed.

A fork server that has imported everything once starts the processes quickly, without threads.
"""

import contextlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import gymnasium
import numpy as np
import torch
import torch._dynamo  # the first optimiser imports it, which takes a second

from agents.runs.checkpoints import list_checkpoints, read_checkpoint
from agents.runs.commands import run
from ram_env import register_dataset
from tests.faults.system_calls import Handler, handled_by
from tests.script_helpers import read_events
from train import baselines, reinforce

DEADLINE = 600.0  # [s] after which a process counts as hanging; none comes near it
CALLS = 265  # system calls of an undisturbed run, about; a test checks it
_COMMON = "--num-envs 8 --total-episodes 96 --threads 1 --device cpu --num-validations 2 "
_COMMON += "--log-every 2 --checkpoint-every 3 --final-split validation "
_AGENT = f"{_COMMON} --env-id SignpostGlimpse-v0 --validation-images 200 "
_AGENT += "--hidden-size 16 --location-hidden 8 --conv-features 2 "
VARIANTS: dict[str, tuple[ModuleType, str]] = {
    "agent": (reinforce, _AGENT),
    "lstm": (reinforce, f"{_AGENT} --core lstm --learned-std --shift 1"),
    "rollouts": (reinforce, f"{_AGENT} --estimator leave_one_out --num-rollouts 4 --no-bf16"),
    "random": (reinforce, f"{_AGENT} --locations random"),
    "conv": (baselines, f"{_COMMON} --env-id Noise-v0 --model conv"),
}
"""The scripts and their flags: 12 updates with checkpoints, validations and a final split."""

Fault = Callable[[], object]
"""Called in the process before the script; made of module-level functions, to be sent there."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended: exit status (minus the signal's number if killed) and output."""

    status: int
    output: str
    errors: str


def start(variant: str, folder: Path, fault: Fault | None = None) -> Outcome:
    """Begin or resume a run, as a person would, and wait for its end."""
    begun = (folder / "config.json").exists()
    arguments = ["--resume"] if begun else [*VARIANTS[variant][1].split(), "--run-dir"]
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    process = context.Process(
        target=_run_script,
        args=(VARIANTS[variant][0].__name__, [*arguments, str(folder)], fault, there),
    )
    process.start()
    there.close()
    hung = not here.poll(DEADLINE)
    if hung:
        process.kill()
    try:
        printed = here.recv()
    except EOFError:  # it was killed
        printed = ("", "")
    process.join(DEADLINE)
    here.close()
    assert not hung, f"the run hung for {DEADLINE} s"
    assert process.exitcode is not None
    return Outcome(process.exitcode, *printed)


def _run_script(name: str, arguments: list[str], fault: Fault | None, output: Connection) -> None:
    """Run a training script as its command line does, and send what it prints."""
    _make_quick()
    script: Any = sys.modules[name]
    sys.argv = [str(script.__file__), *arguments]
    status: object = 0
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        try:
            if fault is not None:
                fault()
            run(script.main, script.parse)
        except SystemExit as end:
            status = end.code
        except BaseException:
            status = traceback.format_exc()
    if isinstance(status, str):  # as Python prints it
        errors.write(f"{status}\n")
        status = 1
    output.send((out.getvalue(), errors.getvalue()))
    sys.exit(status)


def _make_quick() -> None:
    """Leave out git and fsync; let a second pass sooner, as resumed runs wait for a new one."""
    subprocess.run = Mock(side_effect=FileNotFoundError)
    os.fsync = lambda fd: None
    real_time = time.time
    time.time = lambda: 100 * real_time()
    torch.set_num_threads(1)


if "Noise-v0" not in gymnasium.registry:
    _images = np.random.default_rng(0).integers(0, 256, (1000, 12, 12), np.uint8)
    _split = (_images, np.arange(1000) % 4)
    register_dataset("noise", lambda: dict.fromkeys(("train", "validation", "test"), _split))
    gymnasium.register(
        "Noise-v0",
        entry_point="ram_env:GlimpseEnv",
        vector_entry_point="ram_env:GlimpseVectorEnv",
        kwargs={"dataset": "noise", "canvas_size": 16, "translate": True},
    )

# Faults from within

_handling = contextlib.ExitStack()  # never closed


def handle(handler: Handler) -> None:
    """Pass the system calls of this process to a handler, to its end."""
    _handling.enter_context(handled_by(handler))


def at_call(owner: object, name: str, number: int, act: Callable[..., Any]) -> None:
    """Let ``act`` take the place of the n-th call of a function, from 1; it gets the original."""
    original, made = getattr(owner, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal made
        made += 1
        return (partial(act, original) if made == number else original)(*args, **kwargs)

    setattr(owner, name, wrapped)


# The end of a run


def read_end(folder: Path) -> tuple[dict[str, Any], list[int]]:
    """Return what must not depend on what happened to a run, by name, and its timed env steps.

    That is the bytes of weights, metrics, result and the last checkpoint, TensorBoard's scalars but
    for times, and the settings. A stop or a resume may add rows to timing.csv. It also checks that
    the checkpoints are valid and nothing is left over.
    """
    paths = list_checkpoints(folder / "checkpoints")
    assert 1 <= len([read_checkpoint(path) for path in paths]) <= 3
    assert [path for path in folder.rglob("*") if path.suffix in (".new", ".old", ".tmp")] == []
    files = [folder / name for name in ("best.safetensors", "metrics.csv", "result.json")]
    files += paths[-1].iterdir()
    settings = json.loads((folder / "config.json").read_text())
    parts: dict[str, Any] = {path.name: path.read_bytes() for path in files}
    parts["scalars"] = read_events(folder)
    parts["settings"] = {**settings["config"], "run_dir": None, "data": settings["data"]}
    rows = (folder / "timing.csv").read_text().splitlines()[1:]
    return parts, [int(row.split(",")[0]) for row in rows]


def assert_same_end(folder: Path, variant: str) -> None:
    """Check that a finished run equals the undisturbed one."""
    (end, timed), (whole, whole_timed) = read_end(folder), undisturbed(variant)
    for name in end.keys() | whole.keys():
        assert end.get(name) == whole.get(name), name
    assert timed == sorted(timed)
    assert set(timed) >= set(whole_timed)


@cache
def undisturbed(variant: str) -> tuple[dict[str, Any], list[int]]:
    """Return how a run ends when nothing happens to it."""
    with TemporaryDirectory() as scratch:
        outcome = start(variant, Path(scratch) / "run")
        assert outcome.status == 0, outcome.errors
        return read_end(Path(scratch) / "run")
