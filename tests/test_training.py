"""What training scripts share: seeds, gradients, running means."""

import pytest
import torch

from agents.training import clip_gradients, move_mean, spaced, spread_seed


def test_adjacent_run_seeds_share_no_lane():
    lanes = [seed for run in range(20) for seed in spread_seed(run, 64)[0]]
    assert len(set(lanes)) == 20 * 64


def test_a_gradient_that_is_not_finite_stops_the_run_and_is_named():
    last = torch.nn.Linear(2, 1)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), last)
    model(torch.ones(1, 2)).sum().backward()
    assert clip_gradients(model, 0.1, update=3) > 0.1
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert torch.nn.utils.get_total_norm(grads) <= 0.1 + 1e-6
    assert last.bias.grad is not None
    last.bias.grad[0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"update 3: .*\['1.bias'\]"):
        clip_gradients(model, 0.1, update=3)


def test_rollouts_of_one_image_share_its_seed():
    seeds, _ = spread_seed(0, 12, num_rollouts=4)
    assert [seeds.count(seed) for seed in seeds] == [4] * 12
    assert seeds[:4] == seeds[:1] * 4


def test_the_last_update_is_always_among_the_spaced_ones():
    assert spaced(10, 3) == {3, 7, 10}
    assert spaced(2, 5) == {1, 2}


def test_the_mean_of_the_weights_takes_batch_normalisation_along():
    model, mean_model = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(model.weight, 3.0)
    assert model.running_mean is not None
    model.running_mean.fill_(4.0)
    assert model.num_batches_tracked is not None
    model.num_batches_tracked.fill_(7)
    move_mean(mean_model, model, 0.75)
    assert mean_model.weight.tolist() == [1.5, 1.5]  # 0.75 * 1 + 0.25 * 3
    assert mean_model.running_mean is not None
    assert mean_model.running_mean.tolist() == [1.0, 1.0]  # 0.75 * 0 + 0.25 * 4
    assert mean_model.num_batches_tracked is not None
    assert mean_model.num_batches_tracked.item() == 7
