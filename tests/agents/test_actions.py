"""Actions are drawn from their distributions; NaN there doesn't crash a GPU."""

import pytest
import torch

from agents.actions import choose_label, sample_label, sample_location
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


@pytest.mark.parametrize("learned", [False, True])
def test_a_sampled_location_is_a_constant_that_teaches_by_its_log_prob_alone(learned):
    log_std = torch.full((2,), 0.5).log().requires_grad_()
    mean = torch.zeros(100, 2, requires_grad=True)
    noise = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    location, log_prob = sample_location(mean, log_std.exp() if learned else 0.5, noise)
    torch.testing.assert_close(location, noise / 2)
    assert not location.requires_grad
    expected = torch.distributions.Normal(mean, 0.5).log_prob(location).sum(1)
    torch.testing.assert_close(log_prob, expected)
    log_prob.sum().backward()
    # d log N / d mean = (l - mean) / s^2, d log N / d log s = (l - mean)^2 / s^2 - 1
    torch.testing.assert_close(mean.grad, location / 0.25)
    expected = (location.square() / 0.25 - 1).sum(0) if learned else None
    torch.testing.assert_close(log_std.grad, expected)


def test_a_std_of_0_and_noise_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="std must be positive"):
        sample_location(torch.zeros(1, 2), 0.0, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="noise must have mean's shape"):
        sample_location(torch.zeros(3, 2), 0.1, torch.zeros(3))
