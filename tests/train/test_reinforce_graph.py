"""With --graph a run learns what it learns without, and an update waits for nothing."""

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.graph import WARM_UP, Graph
from agents.runs.checkpoints import latest_checkpoint
from agents.training import Training
from tests.pretend_gpu import GPUS, NAME
from tests.script_helpers import SMALL_RUN, read_metrics, register_variant
from tests.train.test_resume import results, train_and_fail
from train.reinforce import Config, main, parse

pytestmark = pytest.mark.usefixtures("one_commit")
UPDATES = WARM_UP + 3
SMALL = {**SMALL_RUN, "num_envs": 8, "total_episodes": 8 * UPDATES, "optimizer": "adamw"}
SMALL |= {"core": "rnn", "bf16": False}  # whose arithmetic is the same on the pretended GPU

RUNS: dict[str, dict[str, Any]] = {  # by estimator, what else can differ
    "paper": {"learned_std": True, "location_rate": 0.5, "state_cap": 20.0, "max_grad_norm": 2.0},
    "leave_one_out": {"num_rollouts": 4, "shift": 2, "validate_sampled": True},
    "dense": {"locations": "raster", "see_time": True, "core": "lstm", "glimpse_cost": 0.1},
    "dense_log_odds": {"core": "gru", "bf16": True},
    "dense_exact": {"locations": "oracle", "optimizer": "muon", "weight_decay": 0.1},
    "reward_only": {"optimizer": "sgd", "final_std": None, "num_rollouts": 4},
    "reward_only_no_baseline": {"env_id": "Toy-v0", "validation_images": 40},
    "outcome_completed": {"replay_steps": 2, "replay_size": 3, "label_temperature": 2.0},
    "outcome_normalised": {"locations": "random", "conv_features": 0},
}

assert_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)  # losses are sums near 0


def train(folder: Path, **changes: Any) -> dict[str, dict[int, float]]:
    """Train; return the metrics by tag and env steps."""
    main(Config(run_dir=folder, **{**SMALL, **changes}))
    return read_metrics(folder)


@pytest.mark.parametrize("device", GPUS, indirect=True)
@pytest.mark.parametrize("estimator", RUNS)
def test_it_learns_what_the_plain_loop_learns(
    tmp_path, monkeypatch, device, estimator, toy_dataset
):
    keywords = {"dataset": toy_dataset, "canvas_size": 36, "translate": True, "num_clutter": 2}
    register_variant(monkeypatch, "Toy-v0", "MNISTGlimpse-v0", **keywords)
    changes = {"estimator": estimator, **RUNS[estimator]}
    rounds_as_the_cpu = device == NAME and "bf16" not in changes
    plain = train(tmp_path / "plain", device="cpu" if rounds_as_the_cpu else device, **changes)
    assert_close(train(tmp_path / "graph", graph=True, device=device, **changes), plain)


@pytest.mark.parametrize("changes", [{}, {"estimator": "outcome", "replay_steps": 2}], ids=str)
def test_no_update_waits_for_a_gpu_or_copies_to_it_and_all_but_the_first_are_replayed(
    tmp_path, monkeypatch, pretend_gpu, changes
):
    call, costs = Graph.__call__, []

    def count(graph: Graph, *words: Any, **inputs: Any) -> Any:
        for counted in (pretend_gpu.waits, pretend_gpu.uploads):
            counted.clear()
        result = call(graph, *words, **inputs)
        costs.append((pretend_gpu.waits.total(), pretend_gpu.uploads.total()))
        return result

    monkeypatch.setattr(Graph, "__call__", count)
    train(tmp_path / "run", graph=True, device=NAME, **changes)
    assert costs[1:] == [(0, 0)] * (UPDATES - 1)  # the first one may copy constants
    assert [graph.replays for graph in pretend_gpu.graphs] == [UPDATES - WARM_UP]


@pytest.mark.parametrize("device", GPUS, indirect=True)
@pytest.mark.parametrize("success", ["", "success = 0.001,", "success = 0.99,"])
def test_each_stage_of_a_curriculum_begins_as_without_a_graph(tmp_path, device, success):
    path = tmp_path / "stages.toml"
    path.write_text(f"stages = [{{ until = 0.5, {success} env = {{ board_size = 2 }} }}]")
    flags = {"curriculum": str(path), "device": device, "total_episodes": 16 * UPDATES}
    plain = train(tmp_path / "plain", **flags)
    assert_close(train(tmp_path / "graph", graph=True, **flags), plain)
    said = [(tmp_path / name / "log.txt").read_text() for name in ("plain", "graph")]
    begun = [re.findall(r"(\d+) episodes: stage (\d) of 2", text) for text in said]
    assert begun[0] == begun[1] != []


@pytest.mark.parametrize("device", GPUS, indirect=True)
@pytest.mark.parametrize("failed_at", [3, WARM_UP + 3])
def test_a_resumed_run_ends_in_the_same_bytes_and_its_state_is_the_plain_environments(
    tmp_path, device, failed_at
):
    flags = {"estimator": "outcome", "replay_steps": 1, "replay_size": 3, "locations": "raster"}
    flags |= {**SMALL, **flags, "device": device, "checkpoint_every": 1}
    train(tmp_path / "whole", graph=True, **flags)
    train_and_fail(tmp_path / "run", failed_at, graph=True, **flags)
    main(parse(["--resume", str(tmp_path / "run")]))
    assert results(tmp_path / "run") == results(tmp_path / "whole")
    train(tmp_path / "plain", **flags)
    folders = (tmp_path / name / "checkpoints" for name in ("whole", "plain"))
    newest = [latest_checkpoint(folder, print) for folder in folders]
    envs = [each.state["env"] for each in newest if each is not None]
    assert envs[0] == envs[1]


@pytest.mark.parametrize("device", GPUS, indirect=True)
@pytest.mark.parametrize("estimator", ["dense", "reward_only"])
@pytest.mark.parametrize("every", ["log_every", "checkpoint_every"])
def test_divergence_is_found_before_a_log_line_or_a_checkpoint_and_names_its_update(
    tmp_path, monkeypatch, device, estimator, every
):
    move, moved = Training.move_mean, []

    def break_weights(training: Training, decay: Any) -> None:
        move(training, decay)
        moved.append(1)
        if len(moved) == 2:
            with torch.no_grad():
                training.model.action_network.weight.mul_(math.nan)

    monkeypatch.setattr(Training, "move_mean", break_weights)
    flags = {"log_every": 99, "checkpoint_every": 99, every: 4}
    message = "update 2: an output, loss, gradient or weight is not finite; the learning rate"
    with pytest.raises(FloatingPointError, match=message):
        train(tmp_path / "run", graph=True, estimator=estimator, device=device, **flags)
    assert len(moved) <= WARM_UP + 1
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_on_the_cpu_it_says_in_one_line_that_there_is_no_graph_and_learns_the_same(
    tmp_path, capsys
):
    learned = []
    for graph in (False, True):
        learned.append(train(tmp_path / str(graph), graph=graph))
        assert ("a GPU would run each update as one graph" in capsys.readouterr().out) == graph
    assert_close(*learned)
