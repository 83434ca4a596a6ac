"""Jobs: stopped, killed or left alone, a job goes on from its checkpoint and counts once."""

from __future__ import annotations

import subprocess
import sys
import threading
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from tests.script_helpers import wait_for
from tests.train.comparison.job_programs import Place
from train.comparison.job import TOO_SLOW, Job
from train.comparison.jobs import Ended, JobConfig, run_jobs, visible_gpus

if sys.platform == "win32":
    pytest.skip("jobs need POSIX", allow_module_level=True)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def run(place: Place, *jobs: Job, parallel: int = 2) -> list[Ended]:
    config = JobConfig(work_dir=place.folder, parallel=parallel)
    return sorted(run_jobs(jobs, config), key=lambda ended: ended.job.name)


def stop_waiting(place: Place, job: Job) -> None:
    """Start or find a job, and stop it when it waits."""

    def poll(cluster: object) -> float:
        if place.waits(job.name):
            raise KeyboardInterrupt
        return 0.02

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.comparison.jobs._Local.poll_seconds", property(poll))
        with pytest.raises(KeyboardInterrupt):
            list(run_jobs([job], JobConfig(work_dir=place.folder)))
    assert (job.record.status, job.record.stopped) == (None, True)


def test_jobs_side_by_side_take_the_gpus_in_turn(place, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-2a")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    ended = run(place, *map(place.job, "abc"), parallel=3)
    assert [each.last_words for each in ended] == ["5 1", "GPU-2a 1", "5 1"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]


def test_a_job_that_was_stopped_resumes_if_it_can_and_counts_all_its_time(place):
    jobs = [place.job("a", "waits"), place.job("b", "waits", resumes=False)]
    for job in jobs:
        stop_waiting(place, job)
    before = [job.record.cpu_seconds for job in jobs]
    assert min(before) > 0
    assert sorted(place.calls()) == ["a from step 0", "b from step 0"]
    place.go()
    ended = run(place, *jobs)
    assert [each.status for each in ended] == [0, 0]
    assert sorted(place.calls()) == ["a from step 1", "b from step 0"]
    assert ended[0].cpu_seconds > before[0]


@pytest.mark.parametrize(("how", "status"), [("dies", -9), ("fails", 1)])
def test_a_job_that_was_killed_or_failed_resumes_from_its_checkpoint(place, how, status):
    (ended,) = run(place, place.job("a", how))
    assert (ended.status, ended.how) == (status, f"ended with status {status}")
    run(place, place.job("a", how))
    (place.folder / "lives").touch()
    (ended,) = run(place, place.job("a", how))
    assert ended.status == 0
    assert place.calls() == [f"a from step {step}" for step in (0, 1, 1)]


@pytest.mark.parametrize("text", ["", "{}", '{"command": [], "more": 1}', "[" * 10**5])
def test_a_damaged_record_or_that_of_another_command_costs_no_checkpoint(place, text):
    job = place.job("a", "waits")
    stop_waiting(place, job)
    with pytest.raises(ValueError, match="a holds a run of another command: move it away"):
        run(place, place.job("a", "waits more"))
    job.beside("json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is not a job's record: move it and .*a away"):
        run(place, job)
    assert (job.folder / "checkpoints" / "step_1").exists()


def test_a_job_is_not_blamed_for_what_it_printed_before_it_was_resumed(place):
    (ended,) = run(place, place.job("a", "complains dies"))
    assert ended.last_words == "error: not this time"
    (ended,) = run(place, place.job("a", "complains dies"))
    assert (ended.status, ended.last_words) == (-9, "nothing printed")


def kill_a_driver(place: Place) -> list[Job]:
    """Kill a process that runs the jobs a and b one after another, while a waits."""
    jobs = [place.job(name, "waits") for name in "ab"]
    driver = get_context("spawn").Process(target=run, args=(place, *jobs), kwargs={"parallel": 1})
    driver.start()
    wait_for(lambda: place.waits("a"))
    driver.kill()
    driver.join()
    return jobs


@pytest.mark.slow
def test_the_jobs_of_a_driver_that_was_killed_are_found_and_not_run_twice(place):
    jobs = kill_a_driver(place)
    assert [job.is_running() for job in jobs] == [True, False]
    assert {path.name for path in place.folder.iterdir()} == {"program.py", "runs", "calls.txt"}
    threading.Timer(1, place.go).start()  # once the job is found
    assert [each.status for each in run(place, *jobs)] == [0, 0]
    assert sorted(place.calls()) == ["a from step 0", "b from step 0"]
    assert [each.status for each in run(place, *jobs)] == [0, 0]  # they had ended
    assert place.calls() == []
    jobs[0].forget()
    run(place, *jobs)
    assert place.calls() == ["a from step 0"]


def test_a_driver_stops_the_jobs_that_it_found(place):
    stop_waiting(place, kill_a_driver(place)[0])
    assert place.calls() == ["a from step 0"]


def test_a_time_limit_stops_a_job_and_fails_one_that_makes_no_checkpoint(place):
    jobs = [place.job("b", "late forgets"), place.job("c", "late", resumes=False)]
    ended = run(place, place.job("a", "late"), *jobs)
    assert [each.status for each in ended] == [None, TOO_SLOW, TOO_SLOW]
    assert ended[0].how == "was cancelled"
    advice = "error: no new checkpoint within the time limit: raise --timeout-min, "
    assert ended[1].last_words == advice + "or lower --checkpoint-every"
    assert ended[2].last_words == advice + "it can't resume"


def test_a_command_that_is_not_there_is_a_job_that_failed(place):
    (ended,) = run(place, Job("a", ("no-such-program",), place.folder / "runs" / "a"))
    assert ended.status == 127
    assert "No such file or directory: 'no-such-program'" in ended.last_words


def test_the_process_of_a_job_imports_nothing_slow():
    slow = "{'torch', 'numpy', 'gymnasium', 'agents'}"
    code = f"import sys, train.comparison.job; assert not {slow} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"parallel": 0}, "parallel must be at least 1"),
        ({"partition": "long"}, "partition 'long' needs --cluster slurm"),
        ({"timeout_min": 5}, "timeout_min 5 needs --cluster slurm"),
        ({"cluster": "slurm"}, "there is no squeue here: .* or choose --cluster local"),
    ],
)
def test_bad_settings_are_refused_by_name(tmp_path, monkeypatch, settings, named):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=named):
        list(run_jobs([], JobConfig(work_dir=tmp_path, **settings)))
