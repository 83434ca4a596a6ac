"""Checkpoints under faults: crashes, damage and malice do no harm, and each campaign can fail."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from agents import checkpoints, files, loading, run_log
from agents.checkpoints import Checkpoint
from agents.run_log import RunLog
from benchmarks.campaigns.checkpoints import saves
from benchmarks.campaigns.checkpoints.crashes import crashed_save, crashed_saves
from benchmarks.campaigns.checkpoints.damage import damaged_checkpoints
from benchmarks.campaigns.checkpoints.saves import SAVES
from benchmarks.campaigns.checkpoints.small_runs import Settings
from benchmarks.campaigns.hostile.hostile_content import Payloads
from benchmarks.campaigns.hostile.malice import hostile_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc and fork()")

Cases = Iterator[tuple[str, str | None]]

save_checkpoint = checkpoints.save_checkpoint  # as it is where the tests replace it


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: nothing here needs a disk, and disks are slow."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


def run(cases: Cases) -> list[str]:
    """Run all cases, none of which may fail, and return their names."""
    done = list(cases)
    assert [(name, problem) for name, problem in done if problem] == []
    return [name for name, _ in done]


def first_problem(cases: Cases) -> str:
    return next((problem for _, problem in cases if problem), "")


# They hold


def test_a_crash_at_any_system_call_of_a_save_leaves_a_valid_checkpoint(scratch):
    names = run(crashed_saves(1, scratch))
    kinds = ("killed before", "killed in", "ENOSPC", "EROFS", "EIO", "half written", "power cut")
    counts = {kind: sum(f", {kind}" in name for name in names) for kind in kinds}
    assert counts["killed before"] == counts["ENOSPC"] == counts["EROFS"] == counts["EIO"] > 150
    assert counts["killed in"] == counts["half written"] > 15
    assert counts["power cut"] > 60
    assert sum(counts.values()) + len(SAVES) == len(names)  # and once each after the last call


def test_a_damaged_checkpoint_is_named_and_an_older_one_used(scratch):
    assert len(run(damaged_checkpoints(60, scratch))) == 60


def test_a_hostile_file_is_refused_and_runs_no_code(scratch):
    assert len(run(hostile_files(15, scratch))) == 15


def test_a_case_is_the_same_however_many_there_are(scratch):
    few, more = (list(damaged_checkpoints(n, scratch / str(n))) for n in (2, 4))
    assert few == more[:2]


def test_a_strange_name_among_the_events_is_no_obstacle(tmp_path):
    (tmp_path / "run").mkdir()
    with RunLog(tmp_path / "run", Settings()):
        pass
    (tmp_path / "run" / "events.out.tfevents.").write_bytes(b"")
    (tmp_path / "run" / "events.out.tfevents.soon.host").write_bytes(b"")
    RunLog(tmp_path / "run", Settings(), resume=True).close()


# They can fail


def save_under_the_final_name(folder: Path, checkpoint: Checkpoint, *, keep: int = 3) -> None:
    with TemporaryDirectory() as aside:
        made = save_checkpoint(Path(aside), checkpoint)
        contents = {path.name: path.read_bytes() for path in made.iterdir()}
    final = folder / made.name
    final.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        files.write_file(final / name, content)
    files.sync_folder(final)
    files.sync_folder(folder)
    checkpoints.prune_checkpoints(folder, checkpoint.step, keep=keep)


def save_and_hide_errors(folder: Path, checkpoint: Checkpoint, *, keep: int = 3) -> None:
    with suppress(OSError):
        save_checkpoint(folder, checkpoint, keep=keep)


def write_without_waiting(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    finally:
        os.close(descriptor)


CRASHES = {
    "a save under the final name": (
        *("a save that prunes", saves, "save_checkpoint", save_under_the_final_name),
        "step_00000004 is damaged",
    ),
    "a save that hides errors": (
        *("a save that prunes", saves, "save_checkpoint", save_and_hide_errors),
        "the save had returned, and checkpoint 4 is not there",
    ),
    "a file written in place": (
        *("a save of best.safetensors", run_log, "write_whole", files.write_file),
        "holds neither its old content nor the new",
    ),
    "a file not synchronised": (
        *("a save of best.safetensors", files, "write_file", write_without_waiting),
        "holds neither its old content nor the new",
    ),
    "folders not synchronised": (
        *("a save that prunes", checkpoints, "sync_folder", lambda folder: None),
        "step_00000004 is damaged",
    ),
    "metrics not synchronised": (
        *("a save of a run", RunLog, "_sync", lambda log: None),
        "metrics.csv does not hold all lines",
    ),
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_save_that_a_crash_can_spoil_is_noticed(scratch, monkeypatch, name):
    which, owner, attribute, sabotage, said = CRASHES[name]
    monkeypatch.setattr(owner, attribute, sabotage)
    save = next(save for save in SAVES if save.name == which)
    assert said in first_problem(crashed_save(save, scratch))


def test_a_checkpoint_that_is_not_checked_is_noticed(scratch, monkeypatch):
    def read(path: Path, name: str, facts: object) -> bytes:
        return (path / name).read_bytes()

    monkeypatch.setattr(checkpoints, "_read", read)
    assert "warnings" in first_problem(damaged_checkpoints(20, scratch))


def load_anything(file: Path | bytes) -> dict[str, torch.Tensor]:
    content = file if isinstance(file, bytes) else file.read_bytes()
    try:
        return load(content)
    except SafetensorError:
        return torch.load(io.BytesIO(content), weights_only=False)


@pytest.mark.parametrize(("module", "function"), [(checkpoints, "load"), (loading, "load_file")])
def test_a_file_that_is_unpickled_is_noticed(scratch, monkeypatch, module, function):
    monkeypatch.setattr(module, function, load_anything)
    problem = first_problem(hostile_files(2, scratch))
    assert "its code was run" in problem
    assert "pickle.find_class" in problem


def test_a_payload_that_does_nothing_is_noticed(scratch, monkeypatch):
    monkeypatch.setattr(Payloads, "open", lambda payloads, form: None)
    assert "does nothing" in first_problem(hostile_files(1, scratch))
