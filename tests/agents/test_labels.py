"""The label policy draws from its probabilities; NaN there doesn't crash a GPU."""

import pytest
import torch

from agents.labels import choose_label, sample_label
from tests.pretend_gpu import GPUS


def test_labels_have_the_frequencies_of_their_probabilities():
    p = torch.tensor([0.6, 0.3, 0.0999, 1e-4, 0.0])
    n = 100_000
    clocks = torch.empty(n, 5).exponential_(generator=torch.Generator().manual_seed(0))
    counts = sample_label(p.expand(n, 5), clocks).bincount(minlength=5)
    assert counts[4] == 0
    chi_square = ((counts - n * p)[:4].square() / (n * p[:4])).sum()
    assert chi_square < 16.3  # 3 degrees of freedom: above it with probability 0.001


@pytest.mark.parametrize("device", ["cpu", *GPUS], indirect=True)
def test_labels_from_nan_are_labels(device):
    nan = torch.full((4, 3), torch.nan, device=device)
    label = sample_label(nan, torch.ones_like(nan))
    assert ((label >= 0) & (label < 3)).all()


def test_labels_are_sampled_at_their_temperature_and_at_0_the_likeliest_is_taken():
    logits = torch.tensor([3.0, 1.0]).log().repeat(100_000, 1)  # p^2 is 9 to 1
    clocks = torch.empty_like(logits).exponential_(generator=torch.Generator().manual_seed(0))
    label = choose_label(logits, clocks, 0.5)
    assert float((label == 0).float().mean()) == pytest.approx(9 / 10, abs=0.005)
    assert not choose_label(logits, clocks, 0.0).any()
