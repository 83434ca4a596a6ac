"""Runs of several processes: they equal those of one, stop together and resume as any number."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.runs.checkpoints import latest_checkpoint
from tests.script_helpers import read_metrics
from tests.train import ranks
from tests.train.ranks import RUNS, SHORT, UPDATES
from train.reinforce import main, parse

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PROGRAM = Path(ranks.__file__)
FLAGS = [word for name, value in SHORT.items() for word in (f"--{name.replace('_', '-')}", value)]
FLAGS.append("--no-bf16")


def torchrun(*words: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a program in several processes, which find each other over a free port."""
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *command, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )


def errors(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what the processes report; check that no traceback but torchrun's own is printed."""
    assert ended.stderr.count("Traceback (most recent call last)") == 1
    return [line for line in ended.stderr.splitlines() if line.startswith("error: ")]


def read_checkpoint(run: Path) -> tuple[int, dict[str, torch.Tensor], dict[str, Any]]:
    """Return the last checkpoint's update, tensors and state."""
    checkpoint = latest_checkpoint(run / "checkpoints", print)
    assert checkpoint is not None
    groups = checkpoint.tensors.items()
    tensors = {f"{group} {k}": part for group, parts in groups for k, part in parts.items()}
    return checkpoint.step, tensors, dict(checkpoint.state)


def assert_same_run(a: Path, b: Path) -> None:
    """Check that two runs end in the same metrics and checkpoints, but for rounding."""
    metrics, others = read_metrics(a), read_metrics(b)
    assert metrics.keys() == others.keys()
    for tag, values in metrics.items():
        assert others[tag] == pytest.approx(values, rel=1e-3, abs=1e-5), tag
    (step, tensors, state), (other_step, others, other_state) = map(read_checkpoint, (a, b))
    assert step == other_step == UPDATES
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(others[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    locations = [each["env"]["env"].pop("location") for each in (state, other_state)]
    np.testing.assert_allclose(*locations, atol=1e-4)
    assert state["env"] == other_state["env"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, trained in two processes, whose ranks end with the same bytes."""
    folder = tmp_path_factory.mktemp("two")
    ended = torchrun(PROGRAM, "play", folder)
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, trained in this process."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ranks.play(folder)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_the_same_as_one(one, two, name):
    assert_same_run(one / name, two / name)
    facts = json.loads((two / name / "config.json").read_text())
    assert facts["device"] == "cpu in each of 2 processes"


def test_a_stop_that_reaches_one_process_ends_all_in_the_same_update_and_any_number_resumes(
    one, tmp_path
):
    run = tmp_path / "run"
    flags = ["--estimator", "outcome", "--replay-steps", 2, "--replay-size", 3, "--see-time"]
    ended = torchrun(PROGRAM, "signalled", *FLAGS, *flags, "--run-dir", run)
    assert ended.returncode != 0
    assert errors(ended) == []
    codes = set(re.findall(r"exitcode  : (-?\d+)", ended.stderr))
    assert codes
    assert codes <= {"143", "-15"}  # torchrun may end a process that has already saved
    assert f"-m torch.distributed.run --standalone --nproc-per-node 2 {PROGRAM} " in ended.stdout
    assert f"--resume {run}" in ended.stdout
    assert read_checkpoint(run)[0] == 3
    assert not (run / "result.json").exists()
    main(parse(["--resume", str(run)]))
    assert_same_run(one / "outcome", run)


def test_a_stop_of_torchrun_itself_saves_and_a_single_processs_run_resumes_in_two(one, tmp_path):
    run = tmp_path / "run"
    flags = ["--locations", "random", "--curriculum", one / "stages.toml"]
    ended = torchrun(PROGRAM, "stopped", *FLAGS, *flags, "--run-dir", run, processes=1)
    assert errors(ended) == []
    assert "SIGTERM: stopping when this update is saved\n" in ended.stderr
    assert read_checkpoint(run)[0] == 3
    assert torchrun(ROOT / "train/reinforce.py", "--resume", run).returncode == 0
    assert_same_run(one / "random", run)


@pytest.mark.parametrize(
    ("mode", "status", "message"),
    [
        ("diverged", 3, "update 2: made to fail"),
        ("killed", -9, "rank 0 waited for a process that has ended: torchrun's lines below"),
        ("flags", 1, r"must have the same flags, got \[\[.*'--seed', '1'"),
        ("plain --core none", 2, None),
    ],
)
def test_what_fails_in_one_process_or_all_ends_all_with_one_reason(tmp_path, mode, status, message):
    ended = torchrun(PROGRAM, *mode.split(), *FLAGS, "--run-dir", tmp_path / "run")
    assert ended.returncode != 0
    reported = errors(ended)
    assert re.search(f"exitcode  : {status} ", ended.stderr)
    if message is None:  # tyro's box
        assert ended.stderr.count("invalid choice") == 1
        return
    assert len(reported) == 1
    assert re.search(message, reported[0])
