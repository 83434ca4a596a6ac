"""Jobs: stopped, killed or left alone, a job goes on from its checkpoint and counts once."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from tests.script_helpers import wait_for
from tests.train.comparison.job_programs import Place, one_by_one
from train.comparison.job import TOO_SLOW, Job
from train.comparison.jobs import Ended, JobConfig, _minutes, run_jobs, visible_gpus

if sys.platform == "win32":
    pytest.skip("jobs need POSIX", allow_module_level=True)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def run(place: Place, *jobs: Job, parallel: int = 2) -> list[Ended]:
    config = JobConfig(work_dir=place.folder, parallel=parallel)
    return sorted(run_jobs(one_by_one([*jobs]), config), key=lambda ended: ended.job.name)


def stop_waiting(place: Place, job: Job) -> list[Ended]:
    config = JobConfig(work_dir=place.folder)
    return list(run_jobs(one_by_one([job]), config, give_up=lambda job: place.waits(job.name)))


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
        (ended,) = stop_waiting(place, job)
        assert (ended.status, ended.how) == (None, "was cancelled")
    before = [job.record.cpu_seconds for job in jobs]
    assert min(before) > 0
    assert sorted(place.calls()) == ["a from step 0", "b from step 0"]
    place.go()
    ended = run(place, *jobs)
    assert [each.status for each in ended] == [0, 0]
    assert sorted(place.calls()) == ["a from step 1", "b from step 0"]
    assert ended[0].cpu_seconds > before[0]


@pytest.mark.parametrize(
    ("how", "status", "steps"), [("dies", -9, [0, 1, 1, 1]), ("fails", 1, [0, 1, 0, 1])]
)
def test_a_job_that_gave_up_at_a_checkpoint_starts_over_and_one_that_was_killed_resumes(
    place, how, status, steps
):
    (ended,) = run(place, place.job("a", how))
    assert (ended.status, ended.how) == (status, f"ended with status {status}")
    run(place, place.job("a", how))
    run(place, place.job("a", how))
    (place.folder / "lives").touch()
    (ended,) = run(place, place.job("a", how))
    assert ended.status == 0
    assert [int(line.split()[-1]) for line in place.calls()] == steps


def test_a_job_that_was_stopped_and_fails_later_keeps_its_checkpoint(place):
    job = place.job("a", "waits fails")
    stop_waiting(place, job)
    assert [each.status for each in run(place, job)] == [1]
    place.go()
    (place.folder / "lives").touch()
    assert [each.status for each in run(place, job)] == [0]
    assert [int(line.split()[-1]) for line in place.calls()] == [0, 1, 1]
    for status in [128 + signal.SIGINT, 128 + signal.SIGTERM] * 2:  # it was stopped, not by us
        job._write(replace(job.record, status=status))
        job.reopen()
        assert job.record.command


@pytest.mark.parametrize("text", ["", "{}", '{"command": [], "more": 1}', "[" * 10**5])
def test_a_damaged_record_costs_no_checkpoint(place, text):
    job = place.job("a", "waits")
    stop_waiting(place, job)
    job.beside("json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is not a job's record: move it and .*a away"):
        run(place, job)
    assert (job.folder / "checkpoints" / "step_1").exists()


def test_a_job_is_not_blamed_for_what_it_printed_before_it_was_resumed(place):
    (ended,) = run(place, place.job("a", "complains dies"))
    assert ended.last_words == "error: not this time\nIt may work later."
    (ended,) = run(place, place.job("a", "complains dies"))
    assert (ended.status, ended.last_words) == (-9, "nothing printed")


def test_the_last_words_of_a_job_are_words(place):
    (ended,) = run(place, place.job("a", "frames"))
    assert (ended.status, ended.last_words) == (2, "told")


def kill_a_driver(place: Place) -> None:
    """Kill a process that runs the jobs a and b one after another, while a waits."""
    jobs = [place.job(name, "waits") for name in "ab"]
    driver = get_context("spawn").Process(target=run, args=(place, *jobs), kwargs={"parallel": 1})
    driver.start()
    wait_for(lambda: place.waits("a"))
    driver.kill()
    driver.join()


@pytest.mark.slow
def test_the_jobs_of_a_driver_that_was_killed_are_found_and_not_run_twice(place):
    kill_a_driver(place)
    jobs = [place.job(name, "waits") for name in "ab"]
    assert [job.is_running() for job in jobs] == [True, False]
    assert {path.name for path in place.folder.iterdir()} == {"program.py", "runs", "calls.txt"}
    config = JobConfig(work_dir=place.folder, parallel=1)

    def let_go(job: Job) -> bool:  # called once the job is found
        place.go()
        return False

    ended = run_jobs(one_by_one(jobs), config, give_up=let_go)
    assert [each.status for each in ended] == [0, 0]
    assert sorted(place.calls()) == ["a from step 0", "b from step 0"]
    assert [each.status for each in run(place, *jobs)] == [0, 0]  # they had ended
    assert place.calls() == []
    jobs[0].forget()
    run(place, *jobs)
    assert place.calls() == ["a from step 0"]


def test_a_driver_stops_the_jobs_that_it_found(place):
    kill_a_driver(place)
    (ended,) = stop_waiting(place, place.job("a", "waits"))
    assert ended.how == "was cancelled"
    assert place.calls() == ["a from step 0"]


def test_another_command_in_the_same_folder_starts_over(place):
    stop_waiting(place, place.job("a", "waits"))
    place.go()
    run(place, place.job("a", "waits more"))
    assert place.calls() == ["a from step 0"] * 2


def test_a_job_is_submitted_again_after_its_time_limit_unless_it_makes_no_checkpoint(place):
    jobs = [place.job("b", "late forgets"), place.job("c", "late alarm", resumes=False)]
    ended = run(place, place.job("a", "late alarm"), *jobs)
    assert [each.status for each in ended] == [0, TOO_SLOW, TOO_SLOW]
    calls = [*(f"a from step {step}" for step in range(9)), "b from step 0", "c from step 0"]
    assert sorted(place.calls()) == calls
    assert ended[2].last_words.endswith("raise --timeout-min, it can't resume")
    advice = "error: no new checkpoint within the time limit: raise --timeout-min, or lower "
    assert ended[1].last_words == advice + "--checkpoint-every"


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
        ({"timeout_min": 0}, "timeout_min must be at least 1, got 0"),
        ({"parallel": 0}, "parallel must be at least 1"),
        ({"partition": "long"}, "partition 'long' needs --cluster slurm"),
        ({"cluster": "slurm"}, "there is no sbatch here: .* or choose --cluster local"),
    ],
)
def test_bad_settings_are_refused_by_name(monkeypatch, settings, named):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=named):
        JobConfig(**settings)


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("infinite", float("inf")), ("30:00", 30), ("1:00:00", 60), ("2-03:04:00", 3064)],
)
def test_a_partitions_limit_is_read_as_sinfo_prints_it(limit, minutes):
    assert _minutes(limit) == minutes
