"""Benchmarks that are run by hand: that their parts add up."""

import subprocess
import sys
from pathlib import Path


def test_the_parts_of_training_take_no_longer_than_the_whole():
    words = [sys.executable, "-m", "benchmarks.training_speed", "--env-id", "SignpostGlimpse-v0"]
    words += ["--threads", "1", "--total-episodes", "640"]
    run = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.returncode == 0, run.stderr
    rows = [line.split("|")[1:-1] for line in run.stdout.splitlines() if line.endswith(" % |")]
    shares = {part.strip(): int(share.strip(" %")) for part, _, share in rows}
    del shares["bare matrix products alone"]
    assert len(shares) == 5
    assert min(shares.values()) >= 0
    assert 95 <= sum(shares.values()) <= 105
