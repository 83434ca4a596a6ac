"""Gradient quality: estimates that noise does not bias, and biases that show."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.estimators import ESTIMATORS, Estimator, Terms
from agents.losses import exact_dense_returns
from agents.ram import RAMConfig, RecurrentAttentionModel
from benchmarks import gradient_quality as benchmark
from benchmarks.gradient_quality import (
    GROUPS,
    MEASURED,
    REFERENCES,
    Config,
    Learner,
    Stored,
    collect,
    groups_of,
    quality,
    squared_norm,
    standard_errors,
)
from tests.script_helpers import note_calls, write_run

ENV_ID = "SignpostGlimpse-v0"
MODEL = RAMConfig((3, 4, 4), 4, what_size=8, where_size=8, hidden_size=8)


@pytest.fixture(autouse=True)
def _quick_fits(monkeypatch):
    monkeypatch.setattr(benchmark, "FIT_EPISODES", 512)


def make_config(*run_dirs: Path, **changes: Any) -> Config:
    settings = {"num_envs": 64, "std": 0.5, "num_batches": 3, "reference_episodes": 1}
    return Config(run_dirs or (Path("run"),), **{**settings, **changes})


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


def test_a_gradient_that_cannot_be_distinguished_from_zero_has_no_cosine():
    g = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert squared_norm(g @ g.T).isnan()
    assert quality(*products(g, g + 1))[1].isnan()


def test_standard_errors_equal_the_scatter_over_repetitions():
    draws = [products(*noisy(seed, noise=0.2)) for seed in range(60)]
    scatter = torch.stack([quality(*draw) for draw in draws]).std(0)
    estimated = torch.stack([standard_errors(*draw) for draw in draws[:20]]).mean(0)
    assert (estimated / scatter).tolist() == pytest.approx([1, 1, 1], abs=0.35)


def test_groups_partition_all_parameters(stored):
    flat = torch.cat([parameter.flatten() for parameter in stored[0].parameters()])
    covered = torch.zeros_like(flat)
    for name, part in groups_of(stored[0]).items():
        own = torch.cat([p.flatten() for p in getattr(stored[0], name).parameters()])
        assert torch.equal(flat[part], own)
        covered[part] += 1
    assert (covered == 1).all()
    assert {*GROUPS, "baseline_network"} == set(groups_of(stored[0]))


def test_each_reference_matches_its_estimators():
    assert set(REFERENCES) == {each.objective for each in ESTIMATORS.values()}
    for estimator in ESTIMATORS.values():
        reference = REFERENCES[estimator.objective]
        assert reference.location_reaches_core
        assert reference.objective == estimator.objective
        if not estimator.binary_reward:  # which learns from any answers
            assert reference.samples_label == estimator.samples_label
        coef = make_config(policy_coef=0.25).weights(estimator).policy_coef
        assert coef == (1.0 if estimator.objective == "sampled reward" else 0.25)


def test_the_papers_objective_teaches_the_core_about_locations_and_the_paper_does_not(stored):
    parts, paper = groups_of(stored[0]), ESTIMATORS["paper"]
    location, core = parts["location_network"], parts["core"]
    configs = [make_config(policy_coef=weight) for weight in (0.25, 1.0)]
    for estimator, reached in ((paper, False), (REFERENCES[paper.objective], True)):
        light, heavy = (Learner(stored, estimator, each, seed=0).gradient() for each in configs)
        torch.testing.assert_close(4 * light[location], heavy[location])
        assert torch.equal(light[core], heavy[core]) != reached


def test_the_reference_of_the_last_glimpse_is_exact_with_all_weight_there(stored, monkeypatch):
    last = REFERENCES["log-likelihood, last glimpse"]
    ours = Learner(stored, last, make_config(), seed=0).gradient()
    monkeypatch.setattr("agents.estimators._even", lambda rollout: [0.0] * 3 + [1.0])
    exact = Learner(stored, ESTIMATORS["dense_exact"], make_config(), seed=0).gradient()
    torch.testing.assert_close(ours, exact)


def test_the_exact_estimator_agrees_with_the_reference_and_a_detached_core_does_not(stored):
    def in_core(estimator: Estimator, seed: int, *counts: int) -> Tensor:
        learner = Learner(stored, estimator, make_config(), seed)
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
    learner = Learner(stored, ESTIMATORS["leave_one_out"], make_config(num_rollouts=4), seed=0)
    rollout, _ = next(learner.batches)
    first, last = (rollout.label_log_prob[t].unflatten(0, (16, 4)) for t in (0, -1))
    torch.testing.assert_close(first, first[:, :1].expand_as(first))
    assert first.detach().std(0).min() > 0
    assert (last != last[:, :1]).any()  # their locations are their own


def test_the_baseline_is_fitted_to_the_returns_whatever_its_term_is_called(stored):
    def loss(_: Estimator, *words: Any) -> Terms:
        groups = ESTIMATORS["dense_exact"].terms(*words)
        return Terms(*({f"my_{name}": term for name, term in group.items()} for group in groups))

    exact = replace(ESTIMATORS["dense_exact"], loss=loss)
    rollout, _ = next(Learner(stored, exact, make_config(), seed=0).batches)
    steps = len(rollout.reward)
    returns = exact_dense_returns(rollout.label_log_prob, [1 / steps] * steps)
    rest = returns - rollout.baseline[:-1]
    assert rest.square().mean() < 0.9 * returns.square().mean()
    assert abs(rest.mean()) < 4 * rest.std() / math.sqrt(rest.numel())


@pytest.mark.slow
def test_the_command_reports_every_estimator_and_group(stored, tmp_path, capsys, monkeypatch):
    run_dir = write_run(tmp_path, stored[0], env_id=ENV_ID)
    path = tmp_path / "numbers.csv"
    spread = note_calls(monkeypatch, benchmark, "spread_seed")
    benchmark.main(make_config(run_dir, run_dir, csv=path))
    seeds = [call.args[0] for call in spread]
    assert len(set(seeds)) == 2
    assert min(seeds) >= 10**6  # no episodes that a run was trained on
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(MEASURED) * len(GROUPS)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == len(rows) + 2 * 2  # two tables, each with a head of two lines
    assert len({line.count("|") for line in lines}) == 1
    assert all(float(row["CPU ms an episode"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"reference_episodes": 0}, "reference_episodes must be at least 1, got 0"),
        ({"num_batches": 2}, "num_batches must be at least 3"),
        ({"num_rollouts": 3}, "num_rollouts must divide num_envs"),
        ({"std": 0.0}, "std must be positive"),
        ({"csv": Path("nowhere/numbers.csv")}, "no folder for .*numbers.csv"),
        ({"run_dirs": ()}, "at least one run folder"),
    ],
)
def test_a_setting_that_would_fail_late_is_refused_at_once(setting, message):
    with pytest.raises(ValueError, match=message):
        replace(make_config(), **setting)


LEARNED, FINAL = r"a run of .* with learned locations", "have reward='final' and no glimpse_cost"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_id": ENV_ID, "locations": "random"}, LEARNED),
        ({"seed": 0}, LEARNED),
        ({"env_id": ENV_ID, "env_kwargs": "reward = 'dense'"}, FINAL),
        ({"env_id": ENV_ID, "env_kwargs": "glimpse_cost = 0.5"}, FINAL),
    ],
)
def test_a_run_that_learned_no_locations_or_from_another_reward_is_refused(
    tmp_path, stored, settings, message
):
    write_run(tmp_path, stored[0], **settings)
    with pytest.raises(ValueError, match=f"must (be )?{message}"):
        benchmark.load(tmp_path)


def test_a_run_that_can_stop_plays_its_episodes_to_their_end(stored):
    stored[1]["env_kwargs"] = {"allow_stop": True}
    learner = Learner(stored, ESTIMATORS["paper"], make_config(), seed=0)
    assert learner.gradient().isfinite().all()
