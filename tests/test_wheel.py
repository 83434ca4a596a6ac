"""The wheel works away from the checkout, and the sdist holds no results of benchmarks."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="needs hatchling")

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


@pytest.mark.slow
def test_a_user_of_the_wheel_needs_no_checkout(tmp_path):
    site, script = tmp_path / "site", ROOT / "tests/wheel_user.py"
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT)
    subprocess.run([*PIP, *build], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run(
        [*PIP, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True
    )
    command, env = (
        [sys.executable, shutil.copy(script, tmp_path)],
        {**os.environ, "PYTHONPATH": site},
    )
    printed = subprocess.check_output(command, text=True, cwd=tmp_path, env=env)
    assert printed.splitlines()[-1] == f"{site / 'ram_env'} {site / 'agents'}"


def test_the_sdist_leaves_out_stored_results(tmp_path):
    build = (
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "sdist",
        "--directory",
        tmp_path,
    )
    subprocess.run(build, check=True, cwd=ROOT)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "train/reinforce.py", "agents/pretrained/mnist/README.md"} <= names
    assert not [name for name in names if re.match(r"benchmarks/(.*/|.*\.csv)|runs/|dist/", name)]
