"""The programs of the page "Other libraries" run."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CLIENTS = Path(__file__).parents[2] / "docs" / "clients"
PROGRAMS = {  # the library that each needs, and a few updates' env steps
    "ppo_single_file": ("torch", 1800),
    "with_sb3": ("torch", 1800),
    "with_torchrl": ("torchrl", 3600),
    "with_tianshou": ("tianshou", 1000),
}


def test_every_program_is_tested():
    assert {path.stem for path in CLIENTS.glob("*.py")} == {*PROGRAMS}


@pytest.mark.slow
@pytest.mark.usefixtures("full_mnist")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_trains_and_reports_a_score(name):
    library, env_steps = PROGRAMS[name]
    if not find_spec(library):
        pytest.skip(f"needs the extra clients: {library} is not installed")
    command = [sys.executable, str(CLIENTS / f"{name}.py"), str(env_steps)]
    output = subprocess.check_output(command, text=True, cwd=CLIENTS.parents[1])
    last = output.splitlines()[-1]
    score = re.search(r"(?:mean reward\D*|error )(\d+\.\d+)", last)
    assert score, last
    assert 0 <= float(score[1]) <= 100
