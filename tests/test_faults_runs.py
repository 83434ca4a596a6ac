"""Runs that are killed, stopped, out of disk or out of numbers: few cases of each campaign."""

import sys

import pytest

pytest.importorskip("resource", reason="needs fork and resource limits")

from benchmarks.campaigns.runs import kills, runs
from benchmarks.campaigns.runs.kills import broken_numbers, full_disks, killed_runs, signalled_runs
from benchmarks.campaigns.runs.process_faults import Fault, hide_errors, skip
from benchmarks.campaigns.runs.processes import Outcome
from benchmarks.campaigns.runs.runs import Run, undisturbed


@pytest.mark.parametrize(
    ("campaign", "rounds"),
    [(killed_runs, 10), (signalled_runs, 6), (full_disks, 6), (broken_numbers, 8)],
)
def test_every_disturbed_run_ends_as_if_nothing_had_happened(campaign, rounds, tmp_path):
    cases = list(campaign(rounds, tmp_path))
    assert len(cases) == rounds
    assert [(case, problem) for case, problem in cases if problem] == []


@pytest.mark.parametrize(
    ("campaign", "broken", "how"),
    [
        (killed_runs, "agents.training.unpack_generators", skip),
        (killed_runs, "agents.training.unpack_optimizer", skip),
        (killed_runs, "agents.run_log.cut_csv", skip),
        (signalled_runs, "agents.commands.Stop.check", skip),
        (signalled_runs, "agents.run_log.save_checkpoint", skip),
        (full_disks, "agents.checkpoints.write_file", hide_errors),
        (broken_numbers, "agents.training.check_finite", skip),
    ],
)
def test_a_campaign_sees_what_is_wrong_with_us(campaign, broken, how, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "sabotage", (Fault(broken, 0, how),))
    assert any(problem for _, problem in campaign(6, tmp_path))


def test_a_real_process_ends_with_the_bytes_of_a_forked_one(tmp_path):
    assert Run("agent", tmp_path / "run", real=True).finish() is None


@pytest.mark.parametrize("campaign", [killed_runs, signalled_runs, full_disks, broken_numbers])
def test_the_first_cases_are_the_same_whatever_the_rounds(campaign, tmp_path, monkeypatch):
    end = undisturbed("agent")[0]
    monkeypatch.setattr(Run, "go", lambda *args, **keywords: Outcome(0, "", "", 0.0))
    for module in (kills, sys.modules[full_disks.__module__]):
        monkeypatch.setattr(module, "undisturbed", lambda variant: (end, 1.0))
    few, many = (list(campaign(rounds, tmp_path)) for rounds in (12, 60))
    assert few == many[:12]
    assert all(problem for _, problem in many)  # nothing was done to these runs
    assert len({case for case, _ in many}) == 60
