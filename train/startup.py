"""Imported first by every script: what must be in place while slow modules load.

A missing optional package ends in one line, Ctrl-C in none, and a character that a terminal's
encoding lacks is escaped.
"""

from __future__ import annotations

import os
import signal
import sys
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType

EXTRAS = {
    **dict.fromkeys(("imageio", "rich", "tyro"), "train"),
    **dict.fromkeys(("matplotlib", "optuna", "scipy"), "compare"),
    **dict.fromkeys(("onnx", "onnxscript"), "train,onnx"),
    "sb3_contrib": "train,sb3",
}
"""Optional packages by import name: the extras of ``pyproject.toml`` that bring them."""


def _report_missing(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Name the extra to install if an import failed for want of it; else print as Python does."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name not in EXTRAS:
        sys.__excepthook__(kind, error, trace)
        return
    command = f'{sys.executable} -m pip install -e ".[{EXTRAS[name]}]"'
    print(f"error: {name} is not installed; in the checkout: {command}", file=sys.stderr)


sys.excepthook = _report_missing
if Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parent:  # in no other program
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as in `cmd &`
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until `run` takes over
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
