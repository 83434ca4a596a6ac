"""Content that a file should not have: code that runs when unpickled, lies about sizes, bombs."""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import shlex
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

MODULE = "hostile_marker"
"""Name of a module that makes the marker, too, in the folder of :class:`Payloads`."""


class _Calls:
    """Whoever unpickles it calls a function."""

    def __init__(self, function: Callable[..., Any], *args: Any):
        self._call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


class Payloads:
    """Pickles that make a marker file when they are unpickled.

    Args:
        folder: Where the marker and a module to import are put.

    Attributes:
        marker: The marker file; not there as yet.
        forms: Content of a file, by what it is.
    """

    def __init__(self, folder: Path):
        self.marker = folder / "marker"
        code = f"open({str(self.marker)!r}, 'w').close()"
        (folder / f"{MODULE}.py").write_text(code)
        self.folder = folder
        weights = {"weight": torch.zeros(2), "more": _Calls(exec, code)}
        array = np.array([_Calls(exec, code)], dtype=object)
        self.forms = {
            "a pickle": pickle.dumps(_Calls(exec, code)),
            "a pickle for the shell": pickle.dumps(
                _Calls(os.system, f"touch {shlex.quote(str(self.marker))}")
            ),
            "a pickled import": pickle.dumps(_Calls(importlib.import_module, MODULE)),
            "a pickle in text": pickle.dumps(_Calls(exec, code), protocol=0),
            "a torch file": _written(lambda file: torch.save(weights, file)),
            "an old torch file": _written(
                lambda file: torch.save(weights, file, _use_new_zipfile_serialization=False)
            ),
            "a NumPy file": _written(lambda file: np.save(file, array)),
        }

    def open(self, form: str) -> object:
        """Open a form in the way that runs it."""
        file = io.BytesIO(self.forms[form])
        if "torch" in form:
            return torch.load(file, weights_only=False)
        return np.load(file, allow_pickle=True) if "NumPy" in form else pickle.load(file)


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file.

    Args:
        header: As JSON, or its bytes.
        data: What follows it.
        length: Of the header, as the file tells it; by default the true one.
    """
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(
    dtype: str = "F32", shape: tuple[Any, ...] = (1,), end: int = 4, start: int = 0
) -> dict[str, Any]:
    """Return the entry of a tensor in a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def _of(data: bytes = bytes(4), **facts: Any) -> bytes:
    """Return a file with one tensor."""
    return safetensors({"weight": tensor(**facts)}, data)


_TWO = {"one": tensor(), "two": tensor()}
_PAIR = b'{"weight": %s, "weight": %s}' % ((json.dumps(tensor()).encode(),) * 2)

HEADERS = {
    "no header": b"",
    "a header longer than the file": safetensors({}, length=2**20),
    "a header of 2^63 bytes": safetensors({}, length=2**63),
    "a header of no bytes": safetensors(b""),
    "a header that is no JSON": safetensors(b"\x80\x04cos\nsystem\n"),
    "a header in bad UTF-8": safetensors(b'{"\xff": 1}'),
    "a header that is a list": safetensors([]),
    "a deep header": safetensors(b'{"weight":' + b"[" * 10**6),
    "deep metadata": safetensors(b'{"__metadata__":' + b'{"a":' * 10**6),
    "numbers as metadata": safetensors({"__metadata__": {"a": 1}, "weight": tensor()}, bytes(4)),
}
OFFSETS = {
    "a negative offset": _of(start=-4, end=0),
    "an offset past the end": _of(shape=(100,), end=400),
    "offsets in the wrong order": _of(start=4, end=0),
    "offsets that overlap": safetensors(_TWO, bytes(4)),
    "a hole": _of(bytes(8), start=4, end=8),
    "data without a tensor": _of(bytes(2**16)),
    "one name twice": safetensors(_PAIR.replace(b"[0, 4]", b"[4, 8]", 1), bytes(8)),
    "one name twice in one place": safetensors(_PAIR, bytes(4)),
}
SHAPES = {
    "a huge shape": _of(shape=(2**62, 2**62)),
    "a shape of no bytes that is huge": _of(b"", shape=(0, 2**62, 2**62), end=0),
    "a shape of no bytes past int64": _of(b"", shape=(0, 2**63), end=0),
    "a negative shape": _of(shape=(-1,)),
    "a shape of fractions": _of(shape=(1.5,)),
    "a number of 5000 digits": safetensors(
        json.dumps({"weight": tensor()}).replace("[1]", f"[{'9' * 5000}]").encode(), bytes(4)
    ),
    "100,000 axes": _of(shape=(1,) * 100_000),
}
TYPES = {
    "an unknown type": _of(dtype="PICKLE"),
    "a type of torch's, not of ours": _of(dtype="C64", end=8, data=bytes(8)),
    "a type of 4 bits": _of(dtype="F4", shape=(8,)),
    "a type of 6 bits": _of(dtype="F6_E2M3", shape=(16,), end=12, data=bytes(12)),
    "a type of 8 bits": _of(dtype="F8_E8M0", shape=(4,)),
    "no type": safetensors({"weight": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
}
DEEP = {
    "deep lists": b'{"config": ' + b"[" * 10**6,
    "deep objects": b'{"config": ' + b'{"a":' * 10**6,
    "closed deep lists": b'{"config": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
}
NUMBERS = {
    "NaN": b'{"config": NaN}',
    "infinity": b'{"config": -Infinity}',
    "a float past all": b'{"config": 1e999}',
    "a number of a million digits": b'{"config": ' + b"9" * 10**6 + b"}",
    "no number": b'{"config": 0x10}',
    "bytes of zero": bytes(1000),
}
WIDE = {
    "a wide list": b'{"config": [' + b"[]," * 2**20 + b"[]]}",
    "half a character": '{"config": "\ud800"}'.encode("utf-16", "surrogatepass"),
    "100 MB": b'{"config": "' + b"x" * 10**8 + b'"}',
}
