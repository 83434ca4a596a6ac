"""On a real Slurm: whatever it does to jobs, the results are those of an undisturbed local run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.script_helpers import wait_for
from tests.train.comparison.job_programs import Place
from tests.train.comparison.slurm import ask, running_slurm
from train import compare
from train.comparison.job import Job
from train.comparison.jobs import Ended, JobConfig, run_jobs

pytestmark = pytest.mark.slow

PROGRAM = """
import importlib, os, signal, sys
from agents.runs.commands import run
from agents.runs.folder import RunLog

def save_and_wait(log, *arguments, save=RunLog.save_checkpoint):
    save(log, *arguments)
    signal.pause()

script = importlib.import_module(f"train.{sys.argv.pop(1)}")
if "WAIT_FOR_A_SIGNAL" in os.environ and "--seed 0" in " ".join(sys.argv):
    RunLog.save_checkpoint = save_and_wait
run(script.main, script.parse)
"""

PROTOCOL = """
[programs]
reinforce.start = "python {program} reinforce {common} --total-episodes {episodes} --ema 0"
reinforce.resume = "python {program} reinforce --resume {run_dir}"
sb3.start = "python {program} sb3 {common} --total-steps {env_steps}"
sb3.resume = "python {program} sb3 --resume {run_dir}"

[tasks.SignpostGlimpse-v0]
num_glimpses = 4
env_steps = 1280
seeds = 2
trials = 0
chance_error = 75.0
threshold = 10.0

[algorithms.dense]
program = "reinforce"
flags = "--conv-features 0"
sees_label = true

[algorithms.ppo]
program = "sb3"
flags = "--algorithm ppo"
"""
COMMON = """--env-id {env_id} --seed {seed} --run-dir {run_dir} --num-validations {marks}
    --final-split {split} --validation-images 50 --validate-sampled --keep last --threads 1
    --device cpu --num-envs 32 --hidden-size 16 --checkpoint-every 2"""


@pytest.fixture(scope="module", autouse=True)
def _slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with running_slurm(tmp_path_factory.mktemp("slurm")):
        yield


def test_a_comparison_with_a_preemption_and_two_drivers_equals_the_local_one(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    text = PROTOCOL.replace("{program}", str(tmp_path / "program.py"))
    (tmp_path / "protocol.toml").write_text(text.replace("{common}", " ".join(COMMON.split())))

    def start(name: str, *more: str, **variables: str) -> subprocess.Popen[str]:
        words = "--task SignpostGlimpse-v0 --stages run --final-split validation --parallel 2"
        folders = {"protocol": "protocol.toml", "results": name, "work-dir": f"work_{name}"}
        for flag, path in folders.items():
            words += f" --{flag} {tmp_path / path}"
        words = [sys.executable, compare.__file__, *words.split(), *more]
        env = {**os.environ, **variables}
        return subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True)

    with start("local") as local:
        assert local.wait() == 0
    on_slurm = ("--cluster", "slurm", "--partition", "low")
    runs = [
        tmp_path / "work_slurm/SignpostGlimpse-v0" / name / "seed_0" for name in ("dense", "ppo")
    ]
    with start("slurm", *on_slurm, WAIT_FOR_A_SIGNAL="yes") as first:
        wait_for(lambda: all([*(run / "checkpoints").glob("step_*")] for run in runs))
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate()
    assert first.returncode == 128 + signal.SIGINT
    ids = ask("squeue", "--noheader", "--array", "--format=%i").split()
    assert len(ids) == 2  # one array
    assert f"to cancel them: scancel {' '.join(sorted(ids))}" in errors
    with start("slurm", *on_slurm) as second:
        preempt()
        _, errors = second.communicate()
    assert (second.returncode, errors) == (0, "")
    for run in runs:
        log = (run / "log.txt").read_text()
        assert log.count("resuming after update") == 1, log
    assert len(stored_in(tmp_path / "local")) == 4
    assert stored_in(tmp_path / "local") == stored_in(tmp_path / "slurm")
    weights = [
        sorted((tmp_path / f"work_{name}").rglob("best.safetensors")) for name in ("local", "slurm")
    ]
    assert len(weights[0]) == 4
    for mine, theirs in zip(*weights, strict=True):
        assert mine.read_bytes() == theirs.read_bytes()


def preempt() -> None:
    """Run a short job in place of all that run."""
    ask("sbatch", "--partition=high", "--cpus-per-task=2", "--output=/dev/null", "--wrap=true")


def run(place: Place, *jobs: Job, partition: str = "low") -> Iterator[Ended]:
    config = JobConfig("slurm", partition, parallel=3, work_dir=place.folder)
    return run_jobs(jobs, config)


def test_a_job_that_slurm_gives_a_time_of_grace_asks_to_be_requeued(tmp_path):
    place = Place(tmp_path)

    def disturb() -> None:
        wait_for(lambda: place.waits("a"))
        preempt()
        wait_for(lambda: len((tmp_path / "calls.txt").read_text().splitlines()) == 2)
        place.go()

    threading.Thread(target=disturb).start()
    (ended,) = run(place, place.job("a", "waits"), partition="grace")
    assert (ended.status, place.calls()) == (0, ["a from step 0", "a from step 1"])


def test_cancelled_and_lost_jobs_are_named_and_run_again_on_request(tmp_path, monkeypatch):
    monkeypatch.setattr("train.comparison.jobs.LOOK_SECONDS", 0.5)
    place = Place(tmp_path)
    jobs = [place.job("a", "waits"), place.job("b", "waits"), place.job("c")]

    def cancel() -> None:
        wait_for(lambda: place.waits("a", "b"))  # c waits for a core
        numbers = [job.beside("job").read_text() for job in jobs]
        ask("scancel", *numbers)

    threading.Thread(target=cancel).start()
    ended = sorted(run(place, *jobs), key=lambda each: each.job.name)
    assert [each.how for each in ended] == ["was cancelled", "was cancelled", "did not start"]
    (ended,) = run(place, place.job("d", "'is lost' dies"))
    assert ended.how == "was lost"
    place.go()
    (tmp_path / "lives").touch()
    jobs.append(place.job("d", "'is lost' dies"))
    assert [each.status for each in run(place, *jobs)] == [0] * 4
    starts = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("c", 0), ("d", 0), ("d", 1)]
    assert sorted(place.calls()) == [f"{name} from step {step}" for name, step in starts]


def test_a_partition_that_slurm_does_not_have_is_refused(tmp_path):
    place = Place(tmp_path)
    with pytest.raises(ValueError, match=r"sbatch failed: .*invalid partition"):
        next(run(place, place.job("a"), partition="low,no"))


def stored_in(results: Path) -> list[dict[str, Any]]:
    """Return the seeds of a folder of results without what depends on the clock."""
    lines = (results / "SignpostGlimpse-v0" / "seeds.jsonl").read_text().splitlines()
    seeds = [json.loads(line) for line in lines]
    for seed in seeds:
        del seed["config"]["started"], seed["result"]["cpu_seconds"], seed["curve"]["cpu_seconds"]
    return seeds
