"""What a script says while its modules load, and in which characters."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = [
    path
    for path in sorted((Path(__file__).parents[2] / "train").glob("*.py"))
    if '__name__ == "__main__"' in path.read_text()
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_imports_the_report_before_anything_else(script):
    _, _, imports = script.read_text().partition("from __future__ import annotations\n\n")
    assert imports.startswith("from train import startup  #")


def test_the_line_names_the_package_and_its_extra():
    script = str(SCRIPTS[0].with_name("evaluate.py"))
    code = f"import runpy, sys; sys.modules['tyro'] = None; runpy.run_path({script!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    command = f'{sys.executable} -m pip install -e ".[train]"'
    assert run.returncode == 1
    assert run.stderr == f"error: tyro is not installed; in the checkout: {command}\n"


@pytest.mark.parametrize(
    ("handler", "status"),
    [(signal.SIG_DFL, 128 + signal.SIGINT), (signal.SIG_IGN, 3)],  # as in a shell's `cmd &`
)
def test_a_ctrl_c_while_modules_load_ends_in_silence_unless_ignored(tmp_path, handler, status):
    slow = tmp_path / "torch.py"  # is interrupted while it loads
    slow.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(3)")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{SCRIPTS[0].parents[1]}"}
    command = [sys.executable, SCRIPTS[0].with_name("reinforce.py")]
    before = signal.signal(signal.SIGINT, handler)  # the script inherits it
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    signal.signal(signal.SIGINT, before)
    assert (run.returncode, run.stdout, run.stderr) == (status, "", "")


def test_a_character_that_the_terminal_lacks_is_escaped(tmp_path):
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(SCRIPTS[0].parents[1])}
    command = [sys.executable, SCRIPTS[0].with_name("evaluate.py"), tmp_path / "caf\u00e9"]
    run = subprocess.run(command, env=env, capture_output=True)
    assert run.returncode == 1
    assert b"caf\\xe9" in run.stderr
    assert b"Traceback" not in run.stderr
