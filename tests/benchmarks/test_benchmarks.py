"""Benchmarks that are run by hand: that their parts add up."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import training_speed
from benchmarks.training_speed import VARIANTS, Config, main
from tests.pretend_gpu import GPUS

ROOT = Path(__file__).parents[2]


def test_the_parts_of_training_take_no_longer_than_the_whole(capsys):
    main(Config(env_id="SignpostGlimpse-v0", threads=1, total_episodes=640))
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.endswith(" % |")]
    shares = {part.strip(): int(share.strip(" %")) for part, _, share in rows}
    del shares["bare matrix products alone"]
    assert len(shares) == 5
    assert min(shares.values()) >= 0
    assert shares.pop("everything else") < 100


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", *GPUS], indirect=True)
def test_whole_updates_are_timed_with_and_without_a_graph_for_each_number_of_lanes(
    capsys, monkeypatch, device
):
    monkeypatch.setattr(training_speed, "WARM_UP", 1)
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)  # a second between two looks
    monkeypatch.setattr(training_speed, "time", clock)
    lanes = (3, 5) if device == "cpu" else (3,)
    sizes = {"lanes": lanes, "updates": 2, "threads": 1, "env_id": "SignpostGlimpse-v0"}
    main(Config(device=device, **sizes))
    head, _, *rows = [line for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    assert head == f"| lanes | {' | '.join(VARIANTS)} |"
    cells = [[int(cell.replace(",", "")) for cell in row.strip("|").split("|")] for row in rows]
    assert cells == [[n, *[2 * n] * len(VARIANTS)] for n in lanes]


def test_parts_are_not_timed_on_a_gpu_where_they_run_after_the_call():
    with pytest.raises(ValueError, match=r"device must be cpu to time parts, got cuda: .* --lanes"):
        Config(device="cuda")
    with pytest.raises(ValueError, match="updates and lanes must be at least 1"):
        Config(lanes=(0,))


@pytest.mark.slow
def test_the_report_on_a_gpu_has_every_section_and_says_what_failed(tmp_path):
    small = "--env-id SignpostGlimpse-v0 --threads 1"
    flags = {"TESTS": "tests/none.py", "SPEED": f"{small} --lanes 2 --updates 1", "DEVICE": "cpu"}
    small += " --total-episodes 256 --hidden-size 8 --conv-features 2"
    small += " --validation-images 500"
    flags |= {"SHORT": f"{small} --num-validations 1"}
    flags |= {"TRAINING": f"{small} --num-validations 2 --final-split none"}
    environment = {**os.environ, **flags, "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = ["bash", "benchmarks/first_gpu.sh", str(tmp_path / "report.md")]
    run = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment)
    report = (tmp_path / "report.md").read_text()
    assert re.findall("## (.*)", report) == [
        *("Machine", "Tests", "Lines that make the host wait", "Images per second"),
        "Time to the error of the paper",
    ]
    assert re.findall(r"Exit status (\d)", report) == list("04000"), report
    assert (run.returncode, "a section failed" in run.stderr) == (1, True)
    for said in ("--graph: 0 waits", "no validation error was as low as 4.04 %", "| 2 | "):
        assert said in report
