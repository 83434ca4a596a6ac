"""Jobs: programs side by side."""

import torch

from train.comparison.jobs import Job, run_jobs, visible_gpus


def test_programs_that_run_side_by_side_take_the_gpus_in_turn(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-2a")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    say = ("python", "-S", "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
    jobs = [Job(name, say, tmp_path / name) for name in "abc"]
    ended = run_jobs(lambda: jobs.pop(0) if jobs else None, processes=3)
    assert {end.job.name: end.last_line for end in ended} == {"a": "5", "b": "GPU-2a", "c": "5"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]
