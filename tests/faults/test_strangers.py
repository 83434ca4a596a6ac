"""A file that a stranger has written is refused in one plain line; nothing in it is ever run.

`tool.ruff.lint` in pyproject.toml bans what would run it from our code.
"""

import hashlib
import json
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.runs.loading import load_run
from tests.faults.conftest import Command, spoilt
from tests.faults.damage import MISPLACED
from tests.script_helpers import edit_json
from train import evaluate, reinforce

RUN: list[str] = []
"""What the pickles below append to if they are opened."""


class Hostile:
    """Unpickling it calls a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return mark, ("unpickled",)


def mark(what: str) -> None:
    RUN.append(what)


def tensors(header: object, data: bytes = bytes(4), length: int | None = None) -> bytes:
    """Return a safetensors file whose header may lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one_tensor(shape: list[Any], start: int, end: int, dtype: str = "F32") -> bytes:
    return tensors({"weight": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}})


HOSTILE: dict[str, bytes] = {
    "a pickle": pickle.dumps(Hostile()),
    "a pickle in text": pickle.dumps(Hostile(), protocol=0),
    "deep lists": b'{"config": ' + b"[" * 10**6,
    "deep objects": b'{"config": ' + b'{"a":' * 10**5 + b"1" + b"}" * 10**5 + b"}",
    "a number of a million digits": b'{"config": ' + b"9" * 10**6 + b"}",
    "half a character": '{"config": "\ud800"}'.encode("utf-16", "surrogatepass"),
    "bytes of zero": bytes(1000),
    "nothing": b"",
    "a list": b"[1]",
}
LIES: dict[str, bytes] = {
    "a header past the end": tensors({}, length=2**20),
    "a header of 2^63 bytes": tensors({}, length=2**63),
    "a deep header": tensors(b'{"weight":' + b"[" * 10**6),
    "a negative offset": one_tensor([1], -4, 0),
    "an offset past the end": one_tensor([100], 0, 400),
    "a huge shape": one_tensor([2**62, 2**62], 0, 4),
    "a huge shape of no bytes": one_tensor([0, 2**62, 2**62], 0, 0),
    "an unknown type": one_tensor([1], 0, 4, "PICKLE"),
    "a type of 4 bits": one_tensor([8], 0, 4, "F4"),
}

READ = {
    "config.json": "load resume evaluate",
    "model.json": "load evaluate",
    "best.safetensors": "load evaluate",
    "metrics.csv": "resume",
    "timing.csv": "resume",
    "result.json": "resume",
}
"""The files of a run, and what reads them."""


def open_run(how: str, run_dir: Path, command: Command) -> str:
    """Open a run in one way and return the error, "" if there is none."""
    if how == "resume":
        return command(reinforce, "--resume", run_dir)
    if how == "evaluate":
        return command(evaluate, run_dir, "--num-passes", 1, "--threads", 1, "--device", "cpu")
    try:
        load_run(run_dir)
    except ValueError as error:
        return str(error)
    return ""


def hostile_to(name: str) -> list[str]:
    """Return what a file must not be; a CSV file may be missing, or hold no line."""
    if name.endswith(".csv"):
        return ["a pickle", *(what for what in MISPLACED if what != "missing")]
    changes = [*HOSTILE, *MISPLACED, *(LIES if name == "best.safetensors" else ())]
    return [what for what in changes if (name, what) != ("result.json", "missing")]


@pytest.mark.parametrize(
    ("name", "what"), [(name, what) for name in READ for what in hostile_to(name)]
)
def test_a_hostile_file_is_refused_by_name(name: str, what: str, run_dir: Path, command: Command):
    if what in MISPLACED:
        MISPLACED[what](run_dir / name, np.random.default_rng(0))
    else:
        (run_dir / name).write_bytes({**HOSTILE, **LIES}[what])
    for how in READ[name].split():
        assert name in open_run(how, run_dir, command), how
    assert RUN == []


@pytest.mark.parametrize("name", ["log.txt", "metrics.csv", "run.lock", "checkpoints", "notes"])
def test_nothing_is_written_through_a_link(name: str, run_dir: Path, command: Command):
    path, outside = run_dir / name, run_dir.with_name("outside")
    if path.exists():
        path.rename(outside)
    else:
        outside.touch()
    path.symlink_to(outside)
    paths = [each for each in (outside, *outside.rglob("*")) if each.is_file()]
    before = [each.read_bytes() for each in paths]
    assert name in command(reinforce, "--resume", run_dir)
    assert [each.read_bytes() for each in paths] == before


ENV_IDS = ["evil_module:Evil-v0", "evil_module:MNISTGlimpse-v0", "\x1b]0;title\x07", 3, []]


@pytest.mark.parametrize("how", ["load", "resume", "evaluate"])
@pytest.mark.parametrize("env_id", ENV_IDS, ids=str)
def test_a_foreign_module_or_a_strange_id_is_refused(
    env_id: object, how: str, run_dir: Path, command: Command, monkeypatch: pytest.MonkeyPatch
):
    (run_dir.parent / "evil_module.py").write_text("raise SystemError('imported')")
    monkeypatch.syspath_prepend(run_dir.parent)
    edit_json(run_dir / "config.json", config={"env_id": env_id})
    assert open_run(how, run_dir, command)
    assert "evil_module" not in sys.modules


CHANGES = [
    ("config.json", {"sample": "x"}),
    ("config.json", {"config": {"locations": ["learned"]}}),
    ("config.json", {"config": []}),
    ("config.json", {"config": {"locations": "everywhere"}}),
    ("config.json", {"config": {"final_std": "\x1b[2J"}}),
    ("config.json", {"config": {"final_std": -1.0}}),
    ("model.json", {"glimpse_shape": [1, 2**31, 2**31]}),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_a_setting_of_a_wrong_type_is_refused_by_evaluate(
    name: str, change: dict[str, Any], run_dir: Path, command: Command
):
    edit_json(run_dir / name, **change)
    assert name in open_run("evaluate", run_dir, command)


@pytest.mark.parametrize("name", ["config.json", "model.json"])
def test_a_setting_that_is_missing_or_wrong_never_ends_in_a_traceback(
    name: str, run_dir: Path, command: Command, fault_round: int
):
    bad = list(spoilt(json.loads((run_dir / name).read_text())))
    rng = np.random.default_rng([fault_round, *hashlib.sha256(name.encode()).digest()])
    for content in rng.choice(np.array(bad, object), 5, replace=False):
        (run_dir / name).write_text(json.dumps(content))
        for how in READ[name].split():
            open_run(how, run_dir, command)  # a traceback would fail here
