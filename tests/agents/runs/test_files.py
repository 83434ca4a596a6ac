"""Files are written whole or not at all, and read only if they are what a schema describes."""

import errno
import os
from pathlib import Path
from typing import Annotated
from unittest.mock import Mock

import msgspec
import pytest
import torch

from agents.runs import files
from agents.runs.files import read_csv, read_file, read_json, read_toml, to_json, write_whole

MOST = 10**6  # bytes of a file, here
posix = pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")


def test_a_file_is_replaced_whole_though_the_system_takes_a_byte_at_a_time(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:1]))
    write_whole(tmp_path / "file", b"old and longer")
    write_whole(tmp_path / "file", b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"new"]


def test_a_full_disk_is_reported_with_the_file(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "write", Mock(side_effect=full))
    with pytest.raises(OSError, match=r"No space left on device: .*file\.new"):
        write_whole(tmp_path / "file", b"content")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[1]", b'{"a": ', b"\xff\xfe\xff", b"[" * 10**5, b"\0" * (MOST + 1)),
        *(b'{"a": ' + number + b"}" for number in (b"NaN", b"-Infinity", b"1e999", b"9" * 10**5)),
    ],
    ids=lambda content: repr(content[:9]),
)
def test_what_is_not_a_json_object_is_refused(tmp_path, content, monkeypatch):
    monkeypatch.setattr(files, "MAX_TEXT", MOST)
    path = tmp_path / "some.json"
    path.write_bytes(content)
    message = f"has .* bytes, more than {MOST}" if len(content) > MOST else "is not valid"
    with pytest.raises(ValueError, match=rf"some.json {message}"):
        read_json(path)


def test_what_could_not_be_read_back_is_not_written(monkeypatch):
    monkeypatch.setattr(files, "MAX_TEXT", MOST)
    with pytest.raises(ValueError, match="more than the"):
        to_json({"a": "x" * MOST})
    with pytest.raises(ValueError, match="Out of range float"):
        to_json({"a": torch.nan})


@posix
@pytest.mark.parametrize(
    ("put", "message"),
    [
        (lambda path: None, "cannot be read: No such file"),
        (Path.mkdir, "not a regular file"),
        (lambda path: os.mkfifo(path), "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels"),
        (lambda path: path.write_bytes(b"12345"), "has 5 bytes, more than 4"),
    ],
)
def test_what_is_not_a_file_is_refused_without_waiting(tmp_path, put, message):
    put(tmp_path / "file")
    with pytest.raises(ValueError, match=rf"file .*{message}"):
        read_file(tmp_path / "file", 4)


class Row(msgspec.Struct, forbid_unknown_fields=True):
    steps: int
    error: Annotated[float, msgspec.Meta(ge=0, le=100)]
    folder: Path | None = None


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("a.json", '{"steps": 1, "error": 2.5, "folder": "x"}', read_json),
        ("a.toml", 'steps = 1\nerror = 2.5\nfolder = "x"', read_toml),
        ("a.csv", "steps,error,folder\n1,2.5,x\n", lambda *args: read_csv(*args)[0]),
    ],
)
def test_files_are_read_through_a_schema(tmp_path, name, content, read):
    (tmp_path / name).write_text(content)
    assert read(tmp_path / name, Row) == Row(1, 2.5, Path("x"))


@pytest.mark.parametrize(
    ("name", "content", "read", "message"),
    [
        ("a.json", '{"steps": 1.5, "error": 2}', read_json, "steps"),
        ("a.json", '{"steps": 1, "error": 101}', read_json, "error"),
        ("a.json", '{"steps": 1}', read_json, "error"),
        ("a.json", '{"steps": 1, "error": 2, "more": 3}', read_json, "more"),
        ("a.json", '{"steps": 1, "error": 2, "folder": 3}', read_json, "folder"),
        ("a.toml", 'steps = "1"\nerror = 2', read_toml, "steps"),
        ("a.toml", "steps = ", read_toml, "Invalid value"),
        ("a.csv", "steps,error\n1\n", read_csv, "error"),
        ("a.csv", "steps,error\n1,2,3\n", read_csv, "unknown field"),
        ("a.csv", "steps,error\nx,2\n", read_csv, "steps"),
    ],
)
def test_another_form_is_refused_and_file_and_entry_named(tmp_path, name, content, read, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name} is not valid: .*{message}"):
        read(tmp_path / name, Row)
