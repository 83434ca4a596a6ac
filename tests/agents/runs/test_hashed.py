"""Hashed files come back only if they are what was written; tests/faults damages folders."""

import os
from pathlib import Path

import pytest

from agents.runs import hashed
from agents.runs.hashed import (
    read_hashed,
    read_hashed_file,
    remove,
    write_hashed,
    write_hashed_file,
)

FILES = {"model.json": b"{}", "best.safetensors": bytes(range(200))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_hashed(tmp_path / "made" / "run", FILES)
    return tmp_path / "made" / "run"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_hashed_file(tmp_path / "best.zip", b"content", {"algorithm": "PPO"})
    return tmp_path / "best.zip"


def test_what_was_written_comes_back_and_a_folder_is_replaced_as_a_whole(folder, file):
    content, facts = read_hashed_file(file)
    assert (content, facts["algorithm"], facts["bytes"]) == (b"content", "PPO", 7)
    (folder / ".DS_Store").touch()  # a hidden file does no harm
    assert read_hashed(folder) == FILES
    write_hashed(folder, {"other": b"1"})
    assert read_hashed(folder) == {"other": b"1"}
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_that_could_not_be_read_back_is_not_written(folder, monkeypatch):
    monkeypatch.setattr(hashed, "MAX_BYTES", 202)
    assert read_hashed(folder) == FILES
    with pytest.raises(ValueError, match=r"run can't hold 203 bytes: more than 202 are not read"):
        write_hashed(folder, {**FILES, "more": b"1"})
    assert read_hashed(folder) == FILES


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
@pytest.mark.parametrize("name", ["best.zip", "best.zip.json"])
@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
        lambda path: path.symlink_to(path.rename(path.with_name("elsewhere"))),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
)
def test_damage_to_a_single_file_is_refused_and_the_file_named(file, name, damage):
    damage(file.with_name(name))
    with pytest.raises(ValueError, match=name):
        read_hashed_file(file)


def test_what_is_too_large_is_refused_unread(folder, file, monkeypatch):
    monkeypatch.setattr(hashed, "MAX_BYTES", 6)
    with pytest.raises(ValueError, match="lists 202 bytes, more than 6"):
        read_hashed(folder)
    with pytest.raises(ValueError, match="has 7 bytes, more than 6"):
        read_hashed_file(file)


def test_a_mount_point_is_emptied_instead_of_removed(tmp_path, monkeypatch):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "log.txt").touch()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "run")
    remove(tmp_path / "run")
    assert [*tmp_path.rglob("*")] == [tmp_path / "run"]
