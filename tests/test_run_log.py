"""The run folder: nothing is overwritten, and what was printed is kept."""

import csv
import json
import subprocess
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file

from agents import run_log
from agents.evaluation import Score
from agents.run_log import RunLog


@dataclass(frozen=True)
class Settings:
    seed: int = 3


@pytest.fixture
def log(tmp_path):
    log = RunLog(tmp_path / "run", Settings(), {"sample": False})
    yield log
    log.close()


def test_the_config_holds_settings_command_versions_and_machine(log):
    stored = json.loads((log.folder / "config.json").read_text())
    assert stored["config"] == {"seed": 3}
    assert stored["sample"] is False
    assert {"command", "commit", "python", "versions", "machine", "threads"} <= set(stored)


def test_a_folder_that_holds_a_run_is_never_touched(log):
    before = (log.folder / "config.json").read_text()
    with pytest.raises(FileExistsError, match="--run-dir"):
        RunLog(log.folder, Settings(seed=4), {"sample": False})
    assert (log.folder / "config.json").read_text() == before


def test_metrics_count_env_steps_and_keep_every_digit(log):
    log.scalars(800, {"eval/error": 0.1 + 0.2})
    rows = list(csv.DictReader((log.folder / "metrics.csv").read_text().splitlines()))
    assert rows == [{"env_steps": "800", "tag": "eval/error", "value": repr(0.1 + 0.2)}]
    assert list(log.folder.glob("events.out.tfevents.*"))


def test_what_is_said_is_printed_and_kept_as_one_line(log, capsys):
    long_line = "data: " + "x" * 300 + " [brackets]"
    log.say(long_line)
    assert capsys.readouterr().out == long_line + "\n"
    assert (log.folder / "log.txt").read_text() == long_line + "\n"


def test_saved_weights_come_back_equal(log):
    weights = {"a": torch.rand(3, 2), "b": torch.rand(4)}
    log.save_weights(weights)
    loaded = load_file(log.folder / "best.safetensors")
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert not list(log.folder.glob("*.new"))


def test_progress_counts_every_update_and_knows_the_time_left(log):
    assert list(log.progress(3)) == [0, 1, 2]
    assert log.time_left == "0:00 left"


def test_the_result_is_stored_and_said(log, capsys):
    log.result("test", Score(761, 10_000), "MNIST test: 10000 images from a folder")
    assert capsys.readouterr().out == (
        "MNIST test: 10000 images from a folder\n"
        "test error 7.61 % (95 % interval 7.11-8.15, 10000 images)\n"
    )
    stored = json.loads((log.folder / "result.json").read_text())
    assert (stored["split"], stored["wrong"], stored["total"]) == ("test", 761, 10_000)


def test_another_projects_commit_is_never_taken_for_ours(tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    git = ["git", "-C", str(project), "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "m"], check=True)
    monkeypatch.setattr(run_log, "__file__", str(project / "run_log.py"))
    assert run_log._commit() is None
