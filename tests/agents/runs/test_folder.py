"""The run folder: nothing is overwritten, and what was printed is kept."""

import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from agents.evaluation import Score
from agents.runs import folder as run_log
from agents.runs import machine
from agents.runs.commands import Stop
from agents.runs.folder import RunLog, run_in_folder
from agents.runs.progress import Stopwatch
from tests.script_helpers import read_events


@dataclass(frozen=True)
class Settings:
    seed: int = 3


@dataclass(frozen=True)
class Placed(Settings):
    env_id: str = "mine:Mine-v0"
    run_dir: Path | None = None
    resume: Path | None = None


@pytest.fixture
def log(tmp_path):
    with RunLog(tmp_path / "run", Settings()) as log:
        yield log


def test_facts_join_settings_command_versions_and_machine_and_a_change_is_reported(log, capsys):
    log.note_facts({"data": "here", "sample": False})
    log.note_facts({"data": "there", "sample": False})  # a resumed run, on another machine
    stored = json.loads((log.folder / "config.json").read_text())
    assert (stored["config"], stored["data"], stored["sample"]) == ({"seed": 3}, "here", False)
    assert {"command", "commit", "python", "versions", "machine"} <= set(stored)
    assert "'here' and is 'there'" in capsys.readouterr().out


def test_only_a_gpu_that_was_used_is_asked_for_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"card {device}")
    assert "card" not in str(machine.describe_machine(None))
    names = [machine.describe_device(torch.device(name)) for name in ("cpu", "cuda:1")]
    assert names == ["cpu", "cuda:1 (card cuda:1)"]


def test_a_line_is_printed_and_kept_with_its_control_characters_escaped(log, capsys):
    log.say("data: " + "x" * 300 + " [brackets] \x1b[2J")
    line = "data: " + "x" * 300 + " [brackets] \\x1b[2J\n"
    assert capsys.readouterr().out == line
    assert (log.folder / "log.txt").read_text() == line


def test_training_is_announced_at_once_and_status_lines_are_not_kept(log, capsys):
    log._training._clock = iter(range(0, 1000, 40)).__next__
    updates = log.progress(3)
    assert next(updates) == 0
    announcement = "training: 3 updates; validations: 1\n"
    assert capsys.readouterr().out == announcement
    log.status(100, 0.5)
    log.status(200, 0.75)
    assert "200 episodes" in capsys.readouterr().out
    assert (log.folder / "log.txt").read_text() == announcement


def test_cpu_time_is_that_of_updates_and_a_checkpoint_holds_it(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "process_time", lambda: 2 * clock[0])  # of two threads
    with RunLog(tmp_path / "run", Settings()) as log:
        clock[0] = 100  # of the setup
        for update in log.progress(2):
            clock[0] += 10
            log.save_checkpoint(update + 1, 5 * (update + 1), {}, {})
            with log.judging():
                clock[0] += 50
    rows = (tmp_path / "run" / "timing.csv").read_text().splitlines()[1:]
    times = [row.split(",")[:3] for row in rows]  # the seconds include the validation
    assert times == [["5", "10.000", "20.000"], ["10", "70.000", "40.000"]]


def test_the_result_is_stored_and_printed(log, capsys):
    log.result("test", Score(761, 10_000), "MNIST test: 10000 images from a folder")
    line = "test error 7.61 % (95 % interval 7.11-8.15, 10000 images)"
    assert capsys.readouterr().out == f"{line}\n"
    stored = json.loads((log.folder / "result.json").read_text())
    assert stored | {"split": "test", "wrong": 761, "total": 10_000, "line": line} == stored


def test_a_run_without_a_folder_gets_one_under_runs_and_is_resumed_with_its_module(
    tmp_path, monkeypatch, capsys
):
    def train(config: Placed, log: RunLog, stop: Stop) -> None:
        for _ in zip(range(1), log.progress(5), strict=False):
            pass
        raise OSError("no room")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="no room"):
        run_in_folder(Placed(), "mine:Mine-v0", train)
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch(rf"mine_Mine-v0_seed3_\d{{8}}-\d{{6}}_{os.getpid()}", folder.name)
    advice = capsys.readouterr().out.splitlines()[-1]
    assert advice.endswith(f"--resume {folder} --env-id mine:Mine-v0")


@pytest.mark.parametrize("name", ["thesis.tex", "log.txt"])
def test_a_folder_of_other_files_is_never_written_to(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match="is not empty: choose another with --run-dir"):
        RunLog(tmp_path, Settings())
    with pytest.raises(FileExistsError, match=rf"{name} is a file: expected a folder"):
        RunLog(tmp_path / name / "run", Settings())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunLog(tmp_path / "run", Settings(seed=math.inf))  # pyright: ignore[reportArgumentType]
    assert not list(tmp_path.iterdir())


def test_two_processes_never_write_to_one_folder(log):
    with pytest.raises(ValueError, match="in use"):
        RunLog(log.folder, Settings(), resume=True)


def write_some(folder: Path, until: int) -> None:
    """Log every step, save after step 2."""
    with RunLog(folder, Settings()) as log:
        log._stopwatch = Stopwatch(200.0, 9e4)
        for step in range(1, until + 1):
            log.scalars(10 * step, {"train/loss": 0.1 * step, "train/grad_norm": 1.0})
            log.speed(10 * step)
            if step == 2:
                log.save_checkpoint(2, 20, {}, {"best_error": None})
                log.scalars(20, {"eval/error": 5.0})


def test_a_resumed_run_has_every_metric_once_and_warns_of_other_versions(
    tmp_path, monkeypatch, capsys
):
    write_some(tmp_path / "whole", until=4)
    write_some(tmp_path / "run", until=3)
    with (tmp_path / "run" / "metrics.csv").open("a") as file:
        file.write("40,train/lo")  # cut off by a kill
    monkeypatch.setattr(run_log, "versions", lambda: {"torch": "0.1"})
    with RunLog(tmp_path / "run", Settings(), resume=True) as log:
        assert "warning: versions was" in capsys.readouterr().out
        assert list(log.progress(4)) == [2, 3]
        log.scalars(20, {"eval/error": 5.0})
        for step in (3, 4):
            log.scalars(10 * step, {"train/loss": 0.1 * step, "train/grad_norm": 1.0})
            log.speed(10 * step)
    whole = (tmp_path / "whole" / "metrics.csv").read_text()
    assert (tmp_path / "run" / "metrics.csv").read_text() == whole
    assert read_events(tmp_path / "run") == read_events(tmp_path / "whole")
    timing = (tmp_path / "run" / "timing.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in timing] == ["env_steps", "10", "20", "30", "40"]
    for column, before in ((1, 200.0), (2, 9e4)):  # of earlier processes
        seconds = [before, *(float(line.split(",")[column]) for line in timing[1:])]
        assert seconds == sorted(seconds)


def move(monkeypatch, place: str) -> None:
    """Let this process name another machine, commit and torch, and wait for no file of events."""
    monkeypatch.setattr(run_log, "SummaryWriter", Mock())
    monkeypatch.setattr(machine, "machine", lambda: place)
    monkeypatch.setattr(machine, "versions", lambda: {"torch": place})
    monkeypatch.setattr(run_log, "commit", lambda: place)


def test_a_run_that_moved_names_each_machine_commit_and_version_once(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    move(monkeypatch, "here")
    write_some(folder, until=2)
    for place in ("here", "there", "there", "here"):
        move(monkeypatch, place)
        RunLog(folder, Settings(), resume=True).__exit__(None, None, None)
    stored = json.loads((folder / "config.json").read_text())
    for fact in (stored["machine"], stored["commit"], stored["versions"]["torch"]):
        assert fact == "here; then there; then here"


def test_a_run_that_starts_over_is_described_anew(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    for place in ("here", "there"):
        move(monkeypatch, place)
        with RunLog(folder, Settings(), resume=folder.exists()) as log:
            log.note_facts({"data": place, "sample": place == "there"})
    stored = json.loads((folder / "config.json").read_text())
    assert stored["versions"] == {"torch": "there"}
    assert {stored[name] for name in ("machine", "commit", "data")} == {"there"}
    assert stored["sample"]


def fail(folder: Path, error: Exception, updates: int, *, resume: bool = False) -> None:
    """Fail after some updates of a run."""

    def train() -> None:
        with RunLog(folder, Placed(), resume=resume) as log:
            for _ in zip(range(updates), log.progress(5), strict=False):
                pass
            raise error

    with pytest.raises(type(error)):
        train()


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError("no room"), "the run ended early; resume with: "),
        (FloatingPointError("update 3: loss not finite"), "the run diverged"),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc] closed"),
            "another process ended; if the run didn't diverge, resume with",
        ),
    ],
)
def test_a_run_that_fails_says_what_can_be_done_and_keeps_the_traceback(
    tmp_path, capsys, monkeypatch, error, advice
):
    monkeypatch.setenv("PYTHONPATH", "my code")  # where the id's module is found
    fail(tmp_path / "run", error, updates=1)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(advice)
    resumes = f"env 'PYTHONPATH=my code' {sys.executable} .* --resume {tmp_path / 'run'} --env-id"
    assert bool(re.search(resumes, last)) == ("resume with" in advice)
    assert "Traceback" in (tmp_path / "run" / "log.txt").read_text()


def test_a_run_that_fails_before_its_first_update_leaves_nothing_unless_resumed(tmp_path, capsys):
    fail(tmp_path / "run", ValueError("no such data"), updates=0)
    assert "nothing was trained" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    fail(tmp_path / "run", ValueError("a bug"), updates=1)
    fail(tmp_path / "run", OSError("no room"), updates=0, resume=True)
    assert "resume with" in capsys.readouterr().out.splitlines()[-1]
    fail(tmp_path / "run", ValueError("no such data"), updates=0, resume=True)
    assert capsys.readouterr().out.splitlines()[-1] == "the run was not resumed"
    assert (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("name", "row"),
    [("timing.csv", "10,x,1,1"), ("timing.csv", "10,1"), ("metrics.csv", "x,train/loss,1")],
)
def test_damaged_rows_are_refused_and_the_file_named(tmp_path, name, row):
    write_some(tmp_path / "run", until=3)
    with (tmp_path / "run" / name).open("a") as file:
        file.write(f"{row}\n")
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        RunLog(tmp_path / "run", Settings(), resume=True)


def test_a_commit_is_ours_and_says_that_code_or_a_published_agent_was_changed_not_a_result(
    tmp_path, monkeypatch
):
    def git(*words: str) -> None:  # whatever the user's settings are
        mine = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *mine, *words], check=True)

    marks = {"agents/machine.py": "+", "train/x.toml": "+", "agents/pretrained/a/model.json": "+"}
    marks |= {"benchmarks/result.json": "", "README.md": ""}
    git("init", "--quiet")
    for name in marks:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    git("add", ".")
    git("commit", "--quiet", "-m", "m")
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "agents" / "machine.py"))
    clean = machine.commit()
    assert clean is not None
    assert len(clean) == 40
    for name, mark in marks.items():
        (tmp_path / name).write_text("changed")
        assert machine.commit() == clean + mark
        git("checkout", "--quiet", ".")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "of a hook"))
    assert machine.commit() == clean
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))  # another project's
    assert machine.commit() is None
