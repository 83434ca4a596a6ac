"""A small run of train/reinforce.py to damage, and its commands in this process."""

import multiprocessing
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.runs.commands import run
from tests.script_helpers import SMALL_RUN
from train import reinforce

if sys.platform == "linux":  # import once what the forked processes need
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.faults.test_runs"])

Command = Callable[..., str]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs a script and returns its line of error, or "" if it succeeds."""

    def start(script: Any, *arguments: object) -> str:
        monkeypatch.setattr(threading, "excepthook", threading.excepthook)
        monkeypatch.setattr(sys, "argv", [str(script.__file__), *map(str, arguments)])
        capsys.readouterr()
        try:
            run(script.main, script.parse)
        except SystemExit as end:
            line = end.code if isinstance(end.code, str) else capsys.readouterr().err.rstrip("\n")
            assert line.startswith("error: ")
            assert line.isprintable()
            return line
        return ""

    return start


@pytest.fixture(scope="session")
def whole_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished runs "run" and "other", which has another seed and size."""
    folder = tmp_path_factory.mktemp("whole")
    for name, changes in (("run", {}), ("other", {"seed": 1, "hidden_size": 9})):
        more = {"num_envs": 4, "total_episodes": 16, "checkpoint_every": 1, **changes}
        reinforce.main(reinforce.Config(run_dir=folder / name, **{**SMALL_RUN, **more}))
    return folder


@pytest.fixture
def run_dir(whole_runs: Path, tmp_path: Path) -> Path:
    """The folder of a run that was cut off after its last checkpoint; "other" lies next to it."""
    shutil.copytree(whole_runs, tmp_path / "runs")
    (tmp_path / "runs" / "run" / "result.json").unlink()
    return tmp_path / "runs" / "run"


WRONG = ("x", "\x1b]0;title\x07", -1, 2.5, 10**30, None, [], {}, [[]], {"x": "x"})
"""Values that are of a wrong type or size in most places."""


def spoilt(content: Any) -> Iterator[Any]:
    """Return copies of a JSON value in which one entry, at any depth, is gone or wrong."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield {name: part for name, part in content.items() if name != key}
            yield from ({**content, key: bad} for bad in (*WRONG, *spoilt(value)) if bad != value)
    elif isinstance(content, list):
        for i, value in list(enumerate(content))[:2]:
            bads = (bad for bad in (*WRONG, *spoilt(value)) if bad != value)
            yield from ([*content[:i], bad, *content[i + 1 :]] for bad in bads)
