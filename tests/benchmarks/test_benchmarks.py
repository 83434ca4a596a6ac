"""Benchmarks that are run by hand."""

import pytest

from benchmarks.training_speed import VARIANTS, time_reinforce
from tests.pretend_gpu import GPUS


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", *GPUS], indirect=True)
def test_updates_are_timed_with_and_without_a_graph_for_each_number_of_lanes(capsys, device):
    time_reinforce("SignpostGlimpse-v0", (16, 24), device, updates=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert head == ["lanes", *VARIANTS]
    assert [row[0] for row in rows] == ["16", "24"]
    assert all(int(cell.replace(",", "")) > 0 for row in rows for cell in row)
