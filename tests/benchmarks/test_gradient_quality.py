"""Gradient quality: estimates that noise does not bias, and biases that show."""

import csv
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.estimators import ESTIMATORS, Estimator
from agents.losses import exact_dense_returns
from agents.ram import RAMConfig, RecurrentAttentionModel
from benchmarks import gradient_quality as benchmark
from benchmarks.gradient_quality import (
    GROUPS,
    MEASURED,
    REFERENCES,
    Learner,
    Stored,
    collect,
    groups_of,
    quality,
    standard_errors,
)
from tests.script_helpers import write_run

ENV_ID = "SignpostGlimpse-v0"
MODEL = RAMConfig((3, 4, 4), 4, what_size=8, where_size=8, hidden_size=8)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    small = {"FIT_EPISODES": 512, "NUM_ENVS": 64, "STD": 0.5, "NUM_BATCHES": 3}
    for name, value in {**small, "REFERENCE_EPISODES": 1}.items():
        monkeypatch.setattr(benchmark, name, value)


@pytest.fixture
def stored() -> Stored:
    """A model that has learned nothing but is sure of itself: its weights are large."""
    torch.manual_seed(0)
    model = RecurrentAttentionModel(MODEL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3
    return model, {"env_id": ENV_ID}


def products(g: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return g @ g.T, g @ r.T, r @ r.T


def noisy(seed: int, noise: float = 0.4) -> tuple[Tensor, Tensor]:
    """Draw 40 batches around (1, 0, ...) and 20 blocks around (0.6, 0.8, 0, ...)."""
    generator = torch.Generator().manual_seed(seed)
    g, r = (noise * torch.randn(n, 500, generator=generator, dtype=torch.float64) for n in (40, 20))
    g[:, 0] += 1
    r[:, 0] += 0.6
    r[:, 1] += 0.8
    return g, r


def test_the_cosine_is_right_where_the_plain_one_of_noisy_means_would_not_be():
    # |mean of g|^2 is 1 + 0.16 * 500 / 40 = 3, that of r 1 + 0.16 * 500 / 20 = 5:
    # the plain cosine is about 0.6 / sqrt(3 * 5) = 0.15
    draws = [noisy(seed) for seed in range(20)]
    found = [quality(*products(g, r))[1].item() for g, r in draws]
    assert sum(found) / 20 == pytest.approx(0.6, abs=0.1)


def test_numbers_with_noise_by_hand():
    g = torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    r = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    # products of different batches: 1 - 1 = 0, 1, 1, so |G|^2 = 2 / 3;
    # variance ((1 + 1 + 0) / 2) / (2 / 3) = 1.5; a batch: (2 / sqrt(2) + 1) / 3
    expected = [(math.sqrt(2) + 1) / 3, 1 / math.sqrt(2 / 3), 1.5]
    assert quality(*products(g, r)).tolist() == pytest.approx(expected)
    g = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert quality(*products(g, r))[1].isnan()  # can't be distinguished from zero


def test_standard_errors_equal_the_scatter_over_repetitions():
    draws = [products(*noisy(seed, noise=0.2)) for seed in range(60)]
    scatter = torch.stack([quality(*draw) for draw in draws]).std(0)
    estimated = torch.stack([standard_errors(*draw) for draw in draws[:20]]).mean(0)
    assert (estimated / scatter).tolist() == pytest.approx([1, 1, 1], abs=0.35)


def test_each_reference_matches_its_estimators():
    assert set(REFERENCES) == {each.objective for each in ESTIMATORS.values()}
    for estimator in ESTIMATORS.values():
        reference = REFERENCES[estimator.objective]
        assert reference.location_reaches_core
        assert reference.objective == estimator.objective
        if not estimator.binary_reward:  # which learns from any answers
            assert reference.samples_label == estimator.samples_label


def test_the_reference_of_the_last_glimpse_is_exact_with_all_weight_there(stored, monkeypatch):
    ours = Learner(stored, REFERENCES["log-likelihood, last glimpse"], seed=0).gradient()
    monkeypatch.setattr("agents.estimators._even", lambda rollout: [0.0] * 3 + [1.0])
    exact = Learner(stored, ESTIMATORS["dense_exact"], seed=0).gradient()
    torch.testing.assert_close(ours, exact)


def test_the_exact_estimator_agrees_with_the_reference_and_a_detached_core_does_not(stored):
    def in_core(estimator: Estimator, seed: int, *counts: int) -> Tensor:
        learner = Learner(stored, estimator, seed)
        return collect({"": learner}, *counts)[0][""][:, groups_of(stored[0])["core"]].double()

    exact = ESTIMATORS["dense_exact"]
    r = in_core(REFERENCES["log-likelihood"], 0, 20, 8)
    estimators = exact, replace(exact, location_reaches_core=False)
    (cosine, error), (detached, its_error) = (
        (quality(*core)[1], standard_errors(*core)[1])
        for core in (products(in_core(estimator, 1, 60), r) for estimator in estimators)
    )
    assert error < 0.05
    assert abs(cosine - 1) < 4 * error
    assert detached < 1 - 4 * its_error


def test_neighbours_play_one_image_where_rollouts_are_needed(stored):
    rollout, _ = next(Learner(stored, ESTIMATORS["leave_one_out"], seed=0).batches)
    first, last = (rollout.label_log_prob[t].unflatten(0, (16, 4)) for t in (0, -1))
    torch.testing.assert_close(first, first[:, :1].expand_as(first))
    assert (last != last[:, :1]).any()  # their locations are their own


def test_the_baseline_is_fitted_to_the_returns(stored):
    rollout, _ = next(Learner(stored, ESTIMATORS["dense_exact"], seed=0).batches)
    steps = len(rollout.reward)
    returns = exact_dense_returns(rollout.label_log_prob, [1 / steps] * steps)
    rest = returns - rollout.baseline[:-1]
    assert rest.square().mean() < 0.9 * returns.square().mean()
    assert abs(rest.mean()) < 4 * rest.std() / math.sqrt(rest.numel())


@pytest.mark.slow
def test_the_command_writes_a_row_per_run_estimator_and_group(stored, tmp_path):
    stoppable = {"env_id": ENV_ID, "env_kwargs": "allow_stop = true"}  # played to the end
    run_dir, path = write_run(tmp_path, stored[0], **stoppable), tmp_path / "numbers.csv"
    benchmark.main((run_dir, run_dir), path)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(MEASURED) * len(GROUPS)
    assert all(float(row["CPU ms an episode"]) > 0 for row in rows)


@pytest.mark.parametrize(
    "settings",
    [
        {"locations": "random"},
        {"env_kwargs": "reward = 'dense'"},
        {"env_kwargs": "glimpse_cost = 1"},
    ],
)
def test_a_run_that_learned_no_locations_or_from_another_reward_is_refused(
    tmp_path, stored, settings: dict[str, Any]
):
    write_run(tmp_path, stored[0], env_id=ENV_ID, **settings)
    with pytest.raises(ValueError, match="must be a run of train/reinforce"):
        benchmark.load(tmp_path)
