"""A script whose optional package is missing says in one line how to install it."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = [
    path
    for path in sorted((Path(__file__).parents[3] / "train").glob("*.py"))
    if '__name__ == "__main__"' in path.read_text()
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_imports_the_report_before_anything_else(script):
    _, _, imports = script.read_text().partition("from __future__ import annotations\n\n")
    assert imports.startswith("import agents.runs.extras  #")


def test_the_line_names_the_package_and_its_extra():
    script = str(SCRIPTS[0].with_name("evaluate.py"))
    code = f"import runpy, sys; sys.modules['tyro'] = None; runpy.run_path({script!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    command = f'{sys.executable} -m pip install -e ".[train]"'
    assert run.returncode == 1
    assert run.stderr == f"error: tyro is not installed; in the checkout: {command}\n"
