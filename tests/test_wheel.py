"""The wheel works away from the checkout, and the sdist holds no results of benchmarks."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="needs hatchling")

ROOT = Path(__file__).parents[1]


def python(*arguments: str | Path, **keywords) -> str:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **keywords).stdout


@pytest.mark.slow
def test_a_user_of_the_wheel_needs_no_checkout(tmp_path):
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    python(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    python(*pip, "install", "--no-deps", "--no-index", "--target", site, wheel)
    script = tmp_path / "wheel_user.py"
    script.write_text((ROOT / "tests" / "wheel_user.py").read_text())
    printed = python(script, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)})
    assert printed.splitlines()[-1] == f"{site / 'ram_env'} {site / 'agents'}"


def test_the_sdist_leaves_out_stored_results(tmp_path):
    python("-m", "hatchling", "build", "--target", "sdist", "--directory", tmp_path, cwd=ROOT)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "train/reinforce.py", "agents/pretrained/mnist/README.md"} <= names
    assert not [name for name in names if re.match(r"benchmarks/(.*/|.*\.csv)|runs/|dist/", name)]
