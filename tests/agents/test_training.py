"""What training scripts share: seeds, gradients, running means, checkpoints."""

import copy
import json
from dataclasses import make_dataclass
from typing import Any

import pytest
import torch

from agents.runs.checkpoints import Checkpoint, CheckpointError
from agents.runs.folder import RunLog
from agents.training import (
    ModelT,
    Training,
    Watch,
    check_finite,
    choose_bf16,
    choose_device,
    clip_gradients,
    spread_seed,
    validation_updates,
    warmed_up_decay,
)
from tests.pretend_gpu import GPUS, NAME


def test_rollouts_of_one_image_share_a_seed_and_adjacent_runs_share_none():
    lanes = [seed for run in range(20) for seed in spread_seed(run, 64)[0]]
    assert len(set(lanes)) == 20 * 64
    seeds, _ = spread_seed(0, 12, num_rollouts=4)
    assert [seeds.index(seed) for seed in seeds] == [0] * 4 + [4] * 4 + [8] * 4


def test_a_gradient_that_is_not_finite_stops_the_run_and_is_named():
    last = torch.nn.Linear(2, 1)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), last)
    model(torch.ones(1, 2)).sum().backward()
    assert clip_gradients(model, 0.1, update=3) > 0.1
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert torch.nn.utils.get_total_norm(grads).item() == pytest.approx(0.1)
    before = [grad.clone() for grad in grads]
    clip_gradients(model, 0.2, update=3)  # which is longer
    assert all(map(torch.equal, grads, before))
    assert last.bias.grad is not None
    with pytest.raises(FloatingPointError, match=r"update 3: loss not finite"):
        clip_gradients(model, 0.1, 3, {"loss": torch.tensor(torch.nan)})
    last.bias.grad[0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"update 3: gradient of 1\.bias not finite"):
        clip_gradients(model, 0.1, update=3)


def test_the_last_update_is_always_among_the_spaced_ones():
    assert validation_updates(10, 3) == {3, 7, 10}
    assert validation_updates(2, 5) == {1, 2}


def test_the_mean_of_the_weights_takes_batch_normalisation_along():
    training = make_training(torch.nn.BatchNorm1d(2))
    weights, mean = training.model.state_dict(), training.mean_model.state_dict()
    weights["weight"].fill_(3.0)
    weights["running_mean"].fill_(4.0)
    weights["num_batches_tracked"].fill_(7)
    training.move_mean(0.75)
    assert mean["weight"].tolist() == [1.5, 1.5]  # 0.75 * 1 + 0.25 * 3
    assert mean["running_mean"].tolist() == [1.0, 1.0]  # 0.75 * 0 + 0.25 * 4
    assert mean["num_batches_tracked"].item() == 7
    assert not training.mean_model.training  # or validating would change its statistics


def test_the_mean_follows_closely_at_first():
    decays = [warmed_up_decay(0.9, update) for update in (0, 8, 80, 999)]
    assert decays == pytest.approx([1 / 10, 9 / 18, 0.9, 0.9])


def test_the_best_mean_stays_until_one_is_no_worse_or_the_newest_is_wanted():
    model = torch.nn.Linear(1, 1)
    training = make_training(model)

    def judge(weight: float, error: float, *, always: bool = False) -> bool:
        torch.nn.init.constant_(model.weight, weight)
        training.move_mean(0.0)
        return training.is_best(error, always=always)

    assert judge(1.0, 5.0)
    assert not judge(2.0, 6.0)
    assert (training.best["weight"], training.best_error) == (1.0, 5.0)
    assert judge(3.0, 5.0)  # a tie goes to the newer
    assert training.best["weight"] == 3.0
    assert judge(4.0, 9.0, always=True)
    assert (training.best["weight"], training.best_error) == (4.0, 9.0)


class Counter:
    """An environment whose state is one number."""

    count = 0

    def get_state(self) -> dict[str, Any]:
        return {"count": self.count}

    def set_state(self, state: dict[str, Any]) -> int:
        self.count = int(state["count"])
        return self.count


def make_training(model: ModelT) -> Training[ModelT]:
    return Training(model, torch.optim.Adam(model.parameters()), Counter())


def learn(training: Training[torch.nn.Linear]) -> None:
    """Make an update that depends on everything that a checkpoint should hold."""
    loss = (training.model(torch.randn(2)) * training.env.get_state()["count"]).sum()
    training.optimizer.zero_grad()
    loss.backward()
    training.optimizer.step()
    training.move_mean(0.5)
    training.is_best(loss.item() ** 2)
    training.env.set_state({"count": training.env.get_state()["count"] + 1})


def test_what_was_packed_goes_on_as_if_nothing_had_happened():
    training = make_training(torch.nn.Linear(2, 1))
    for _ in range(3):
        learn(training)
    tensors, state = copy.deepcopy(training.pack())
    learn(training)
    again = make_training(torch.nn.Linear(2, 1))
    assert again.unpack(Checkpoint(3, tensors, json.loads(json.dumps(state)))) == 3
    learn(again)
    mine, theirs = training.pack(), again.pack()
    assert mine[1] == theirs[1]
    for group, part in mine[0].items():
        assert part.keys() == theirs[0][group].keys()
        assert all(torch.equal(part[name], theirs[0][group][name]) for name in part), group


@pytest.mark.parametrize("group", ["model", "mean_model", "best_model", "optimizer", "generators"])
def test_a_checkpoint_of_another_model_is_refused(group):
    training = make_training(torch.nn.Linear(2, 1))
    learn(training)
    tensors, state = training.pack()
    other = make_training(torch.nn.Linear(3, 1))
    learn_shape = {**tensors[group], "more": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=group):
        training.unpack(Checkpoint(1, {**tensors, group: learn_shape}, state))
    with pytest.raises(CheckpointError, match="another model"):
        other.unpack(Checkpoint(1, tensors, state))


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("best_error", "low", "best_error"),
        ("best_error", -1.0, "best_error"),
        ("env", {"count": "two"}, "environment cannot resume"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused(entry, value, said):
    training = make_training(torch.nn.Linear(2, 1))
    tensors, state = training.pack()
    with pytest.raises(CheckpointError, match=said):
        training.unpack(Checkpoint(0, tensors, {**state, entry: value}))


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    for name in ("cuda:99", "gpu", "meta", "cuda1"):
        with pytest.raises(ValueError, match=f"device must be .*, got {name}"):
            choose_device(name)


@pytest.mark.parametrize("ability", ["avx512_bf16", "amx_bf16", "bf16", None])
@pytest.mark.parametrize("wanted", [True, False])
def test_bfloat16_is_computed_where_it_is_wanted_and_built_in_and_a_resumed_run_keeps_its_type(
    tmp_path, monkeypatch, ability, wanted
):
    config, cpu = make_dataclass("Settings", [])(), torch.device("cpu")
    abilities = {"avx2": True, "avx512_bf16": False, "l2_cache_size": 512}
    for moved in (False, True):  # to a processor with, or without
        abilities[ability or "bf16"] = (ability is not None) != moved
        monkeypatch.setattr(torch.cpu, "get_capabilities", abilities.copy, raising=False)
        with RunLog(tmp_path / "run", config, resume=moved) as log:
            bf16 = choose_bf16(wanted, cpu, log)
            log.save_checkpoint(1, 10, {}, {})
        assert bf16 == (wanted and ability is not None)
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # a torch that can't tell
    with RunLog(tmp_path / "another", config) as log:
        assert not choose_bf16(wanted, cpu, log)


@pytest.mark.parametrize("device", GPUS, indirect=True)
def test_a_gpu_goes_by_its_number(device):
    assert str(choose_device(device)) == str(choose_device(f"{device}:0")) == f"{device}:0"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_stops_the_run_and_is_named(value):
    check_finite(8, {"reward": torch.ones(4), "loss": torch.zeros(())})
    with pytest.raises(FloatingPointError, match="update 8: loss not finite"):
        check_finite(8, {"reward": torch.ones(3), "loss": torch.tensor(value)})


@pytest.mark.parametrize("device", ["cpu", *GPUS], indirect=True)
def test_a_watch_waits_for_no_gpu_until_it_is_asked_for_the_first_broken_update(device, request):
    watch = Watch(torch.zeros((), device=device).device)
    values = [torch.full((2,), value, device=device) for value in (1.0, torch.nan, torch.inf, 1.0)]
    watch.check()
    if device == NAME:
        request.getfixturevalue("pretend_gpu").forbid_waits = True
    for update, value in enumerate(values, 5):
        check_finite(update, {"loss": value}, watch)
    if device == NAME:
        request.getfixturevalue("pretend_gpu").forbid_waits = False
    with pytest.raises(FloatingPointError, match="update 6: an output, loss, gradient or weight"):
        watch.check()
