"""A file that a stranger has written is refused in one plain line; nothing in it is ever run."""

import ast
import hashlib
import json
import os
import pickle
import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.runs.loading import load_run
from tests.faults.conftest import Command, edit_json, spoilt
from tests.faults.damage import MISPLACED
from train import evaluate, reinforce

ROOT = Path(__file__).parents[2]

# No code runs what it reads

RUNNERS = {
    *("builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__", ".load"),
    *(
        "importlib.import_module",
        "importlib.machinery",
        "pickle",
        "dill",
        "cloudpickle",
        "submitit",
        "shelve",
        "marshal",
        "joblib",
        "yaml",
        "copyreg",
    ),
    *(
        "subprocess",
        "multiprocessing",
        "pkgutil",
        "runpy",
        "code",
        "ctypes",
        "pty",
        "importlib.util",
    ),
    *(f"os.{name}" for name in dir(os) if re.match("exec|spawn|posix_spawn|system|popen", name)),
    *("torch.load", "torch.jit", "torch.hub", "torch.package", "torch.ops.load_library"),
    *("numpy.load", "numpy.lib.format", "numpy.fromregex", "pandas.read_pickle"),
    *("torchvision.datasets", "gymnasium.utils.play", "gymnasium.envs.registration"),
}
"""What unpickles, evaluates, imports by name or starts programs, and methods called load."""

ALLOWED = {
    ("ram_env", "torchvision.datasets"): "reads CIFAR-10's batches after comparing their MD5",
    ("ram_env", "importlib.import_module"): "the module of an id that the caller or user names",
    ("ram_env", "gymnasium.envs.registration"): "an entry point that was registered in code",
    ("agents/runs", "subprocess"): "asks git for the commit, with fixed arguments",
    ("agents/sb3", "importlib.import_module"): "its own modules by fixed names, on first use",
    ("agents/sb3", ".load"): "Stable-Baselines3's zips, after comparing them with their manifest",
    ("train/comparison", "submitit"): "pickles jobs into a new folder, for their processes",
    ("train", "subprocess"): "the programs of a comparison's protocol, which is code",
}
"""What may be used below which folder, and what for."""


def find_used(tree: ast.AST) -> Iterator[str]:
    """Find the full names of what a module uses; of a method called load, ".load"."""
    origins: dict[str, str] = {}  # of the names that imports bind
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            above = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                name = alias.asname or (alias.name if above else alias.name.partition(".")[0])
                origins[name] = above + alias.name if above or alias.asname else name
    within = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if id(node) in within:  # a part of a longer name
            continue
        if isinstance(node, ast.Name):
            yield origins.get(node.id, f"builtins.{node.id}")
        elif isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            known = f"{origins[root]}.{rest}" if root in origins else ""
            yield known or (".load" if node.attr in ("load", "loads") else "")


def is_runner(name: str) -> bool:
    return any(re.match(rf"{re.escape(runner)}(\.|$)", name) for runner in RUNNERS)


def is_allowed(path: Path, name: str) -> bool:
    relative = path.relative_to(ROOT).as_posix()
    return any(
        relative.startswith(f"{folder}/") and (name == what or name.startswith(f"{what}."))
        for folder, what in ALLOWED
    )


@pytest.mark.parametrize("package", ["ram_env", "agents", "train"])
def test_nothing_unpickles_evaluates_imports_or_starts_what_it_reads(package: str):
    found = [
        f"{path}: {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in find_used(ast.parse(path.read_text()))
        if is_runner(name) and not is_allowed(path, name)
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        *("import pickle\npickle.loads(b)", "import torch as t\nt.load(p)", "exec(text)"),
        *("from torch import load as read\nread(p)", "eval(text)", "import os\nos.execvp(a, b)"),
        *("import numpy as np\nnp.load(p, allow_pickle=True)", "model.load(path)"),
        *("from importlib import import_module as f\nf(name)", "__import__(name)"),
    ],
)
def test_code_that_would_is_noticed(code: str):
    assert any(is_runner(name) for name in find_used(ast.parse(code)))


# What is refused


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


ENV_IDS = ["evil_module:Evil-v0", "evil_module:MNISTGlimpse-v0", "\x1b]0;title\x07", 3, None, []]


@pytest.mark.parametrize("how", ["load", "resume", "evaluate"])
@pytest.mark.parametrize("env_id", ENV_IDS, ids=str)
def test_a_foreign_module_or_a_strange_id_is_refused(
    env_id: object, how: str, run_dir: Path, command: Command, monkeypatch: pytest.MonkeyPatch
):
    (run_dir.parent / "evil_module.py").write_text("raise SystemError('imported')")
    monkeypatch.syspath_prepend(run_dir.parent)
    edit_json(run_dir / "config.json", lambda content: content["config"].update(env_id=env_id))
    assert open_run(how, run_dir, command)
    assert "evil_module" not in sys.modules


CHANGES = [
    ("config.json", lambda content: content.update(sample="x")),
    ("config.json", lambda content: content["config"].update(locations=["learned"])),
    ("config.json", lambda content: content.update(config=[])),
    ("config.json", lambda content: content["config"].update(locations="everywhere")),
    ("config.json", lambda content: content["config"].update(final_std="\x1b[2J")),
    ("config.json", lambda content: content["config"].update(final_std=-1.0)),
    ("model.json", lambda content: content.update(hidden_size=2**30)),
    ("model.json", lambda content: content.update(glimpse_shape=[1, 2**31, 2**31])),
    ("model.json", lambda content: content.update(core="os.system")),
    ("model.json", lambda content: content.update(command="os.system")),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_a_setting_of_a_wrong_type_is_refused_by_evaluate(
    name: str, change: Callable[[Any], object], run_dir: Path, command: Command
):
    edit_json(run_dir / name, change)
    assert name in open_run("evaluate", run_dir, command)


@pytest.mark.parametrize("name", ["config.json", "model.json"])
def test_a_setting_that_is_missing_or_wrong_is_refused_or_harmless(
    name: str, run_dir: Path, command: Command, fault_round: int
):
    bad = list(spoilt(json.loads((run_dir / name).read_text())))
    rng = np.random.default_rng([fault_round, *hashlib.sha256(name.encode()).digest()])
    for content in rng.choice(np.array(bad, object), 5, replace=False):
        (run_dir / name).write_text(json.dumps(content))
        for how in READ[name].split():
            open_run(how, run_dir, command)  # a traceback would fail here
