"""Resumed runs end as if nothing had happened, and no run is overwritten."""

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from agents.runs.folder import RunLog
from agents.runs.progress import TrainingProgress
from tests.pretend_gpu import GPUS
from tests.script_helpers import SMALL_RUN
from train.reinforce import Config, main, parse

pytestmark = pytest.mark.usefixtures("one_commit")
UPDATES = 8
SHORT = {**SMALL_RUN, "num_envs": 4, "total_episodes": 4 * UPDATES, "checkpoint_every": 2}


@pytest.fixture(autouse=True)
def _no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out TensorBoard, for whose next file a resumed run waits up to a second."""
    monkeypatch.setattr("agents.runs.folder.SummaryWriter", Mock())


def train(folder: Path, **changes: Any) -> None:
    main(Config(run_dir=folder, **{**SHORT, **changes}))


def resume(folder: Path) -> None:
    main(parse(["--resume", str(folder)]))


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Return the time of the last change and the content of all that is in a folder."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
    }


def results(folder: Path) -> dict[Path, bytes]:
    """Return what must not depend on what happened to a run on its way."""
    names = ("best.safetensors", "metrics.csv", "result.json", "model.json", "checkpoints/*/*")
    paths = [path for name in names for path in folder.glob(name)]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, one_commit: None) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    return folder


def train_and_fail(folder: Path, number: int, **changes: Any) -> None:
    """Begin a run and let it fail in an update, counted from 1, before it is saved."""
    effects = [None] * (number - 1) + [FloatingPointError("made to fail")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingProgress, "report", Mock(side_effect=effects))
        with pytest.raises(FloatingPointError):
            train(folder, **changes)


def test_a_finished_run_says_its_result_again_and_stays_as_it_is(whole, capsys):
    before = contents(whole)
    capsys.readouterr()
    resume(whole)
    assert capsys.readouterr().out == "finished; no final split was evaluated\n"
    assert contents(whole) == before


STAGES = """stages = [
    { until = 0.2, success = 0.001, env = { chain = 2, board_size = 4 } },
    { until = 0.5, env = { board_size = 2 } },
]"""
STAGED = {"curriculum": "stages.toml"}
REPLAY = {"estimator": "outcome", "replay_steps": 2, "replay_size": 3}
REPLAY |= {"optimizer": "adamw"}  # Muon takes many steps on a pretended GPU
FAILURES = [
    ({}, 2),  # before the first checkpoint
    ({}, 6),
    *((STAGED, update) for update in (4, 5, 6)),  # before, at and after a stage's end
    ({**STAGED, "locations": "oracle"}, 8),
    *((REPLAY, update) for update in (3, 7)),  # while it fills, and full
]


@pytest.mark.parametrize(("changes", "failed_at"), FAILURES)
def test_a_resumed_run_ends_as_if_nothing_had_happened_wherever_it_lies(
    tmp_path, monkeypatch, capsys, changes, failed_at
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stages.toml").write_text(STAGES)
    train(tmp_path / "whole", **changes)
    train_and_fail(tmp_path / "run", failed_at, **changes)
    resume((tmp_path / "run").rename(tmp_path / "moved"))
    said = "resuming after update" if failed_at > 2 else "no checkpoint yet, starting over"
    assert said in capsys.readouterr().out
    assert results(tmp_path / "moved") == results(tmp_path / "whole")


@pytest.mark.parametrize("device", GPUS, indirect=True)
def test_so_does_one_on_a_gpu(tmp_path, device):
    train(tmp_path / "whole", device=device, **REPLAY)
    train_and_fail(tmp_path / "run", 7, device=device, **REPLAY)
    resume(tmp_path / "run")
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_an_existing_run_is_never_written_over(whole, tmp_path):
    train_and_fail(tmp_path / "run", 2)
    for folder in (whole, tmp_path / "run"):
        before = contents(folder)
        with pytest.raises(FileExistsError, match=f"or resume it with --resume {folder}"):
            train(folder, seed=1)
        assert contents(folder) == before


def test_nothing_that_is_saved_depends_on_the_time_the_machine_or_the_place(whole, tmp_path):
    train(tmp_path / "elsewhere")  # at another time
    assert results(tmp_path / "elsewhere") == results(whole)
    for path in whole.glob("checkpoints/*/state.json"):
        state = json.loads(path.read_text())
        entries = {"update", "env_steps", "metrics", "config", "commit", "versions"}
        assert set(state) == entries | {"best_error", "env"}
        assert not {"run_dir", "resume"} & set(state["config"])
        values = re.findall(r'"([^"]*)"(?!:)', path.read_text())
        assert not [value for value in values if re.search(r"/|\d\d-\d\d|\d\d:\d\d", value)]


def test_a_run_only_counts_as_finished_when_its_metrics_are_on_the_disk(tmp_path, monkeypatch):
    sync, when = RunLog._sync, []

    def note(log: RunLog) -> None:
        sync(log)
        when.append(
            ((log.folder / "result.json").exists(), (log.folder / "metrics.csv").read_text())
        )

    monkeypatch.setattr(RunLog, "_sync", note)
    train(tmp_path / "run")
    assert when[-1] == (False, (tmp_path / "run" / "metrics.csv").read_text())
