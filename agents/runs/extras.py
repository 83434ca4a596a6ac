"""Imported first by every script: a missing optional package ends in one line, not a traceback."""

from __future__ import annotations

import sys
from types import TracebackType

EXTRAS = {
    **dict.fromkeys(("imageio", "rich", "tyro"), "train"),
    **dict.fromkeys(("matplotlib", "optuna", "scipy", "submitit"), "compare"),
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
