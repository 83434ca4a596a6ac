"""Checkpoints come back exactly, old ones are pruned, and others' tensors are refused."""

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from agents.muon import Muon
from agents.runs.checkpoints import (
    Checkpoint,
    CheckpointError,
    latest_checkpoint,
    list_checkpoints,
    pack_generators,
    pack_optimizer,
    read_checkpoint,
    save_checkpoint,
    unpack_generators,
    unpack_optimizer,
)

CPU = torch.device("cpu")
posix = pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


def made_up(step: int, **state: object) -> Checkpoint:
    tensors = {"model": {"weight": torch.full((2, 3), float(step))}, "empty": {}}
    return Checkpoint(step, tensors, {"update": step, **state})


def save_all(folder: Path, steps: list[int], keep: int = 3) -> list[str]:
    """Save these steps and return the names of what is in the folder then."""
    for step in steps:
        save_checkpoint(folder, made_up(step), keep=keep)
    return sorted(path.name for path in folder.iterdir())


# Saved and read back


def test_tensors_come_back_equal_in_shape_type_and_every_bit(tmp_path):
    special = [torch.nan, torch.inf, -torch.inf, -0.0, 1e-45]
    tensors = {str(dtype): (torch.randn(2, 3, 4) * 100).to(dtype) for dtype in TYPES}
    tensors |= {"special": torch.tensor(special), "one": torch.tensor(7), "no": torch.ones(2, 0, 3)}
    path = save_checkpoint(tmp_path, Checkpoint(7, {"group": tensors}, {"update": 7}))
    loaded = read_checkpoint(path).tensors["group"]
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        bits, expected = (each.reshape(-1).view(torch.uint8) for each in (loaded[name], tensor))
        assert torch.equal(bits, expected), name


def test_state_and_groups_come_back_from_the_newest_save_of_a_step(tmp_path):
    state = {"nested": {"list": [1, 0.1 + 0.2, None, True, "é"]}, "big": 2**100}
    save_checkpoint(tmp_path, made_up(12, note="old"))
    loaded = read_checkpoint(save_checkpoint(tmp_path, made_up(12, **state)))
    assert (loaded.step, loaded.state) == (12, {"update": 12, **state})
    assert loaded.tensors.keys() == {"model", "empty"}
    assert loaded.tensors["empty"] == {}
    assert [each.name for each in tmp_path.iterdir()] == ["step_00000012"]


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_state_that_json_cannot_hold_is_refused_and_the_old_one_stays(tmp_path, number):
    save_checkpoint(tmp_path, made_up(1))
    with pytest.raises(ValueError, match="Out of range float"):
        save_checkpoint(tmp_path, made_up(2, loss=number))
    assert save_all(tmp_path, [3]) == ["step_00000001", "step_00000003"]  # and nothing is left


# Which are there, which stay


def test_the_newest_save_stays_even_if_later_steps_are_damaged(tmp_path):
    save_all(tmp_path, [50, 60, 70])
    for path in list_checkpoints(tmp_path):
        (path / "state.json").write_bytes(b"")
    names = save_all(tmp_path, [10, 20, 30, 40])
    assert names == [f"step_000000{step}" for step in (20, 30, 40, 50, 60, 70)]
    assert save_all(tmp_path, [50, 60, 70]) == names[3:]


def test_they_are_listed_by_number_and_nothing_else_is(tmp_path):
    arabic = "step_" + "\N{ARABIC-INDIC DIGIT ONE}" * 8
    for name in ("step_1", "step_0000001x", "step_-0000001", arabic):
        (tmp_path / name).mkdir()
    assert list_checkpoints(tmp_path) == list_checkpoints(tmp_path / "nowhere") == []
    steps = [99_999_999, 100_000_000, 2, 1_000_000_000_000]
    save_all(tmp_path, steps, keep=9)
    assert [int(path.name[5:]) for path in list_checkpoints(tmp_path)] == sorted(steps)
    latest = latest_checkpoint(tmp_path, pytest.fail)
    assert latest is not None
    assert latest.step == 1_000_000_000_000


@posix
@pytest.mark.parametrize(
    "put", [lambda p: p.write_bytes(b"file"), lambda p: p.symlink_to("nowhere"), Path.mkdir]
)
def test_a_file_or_link_with_a_checkpoints_name_is_replaced(tmp_path, put):
    for name in ("step_00000001", "step_00000002", ".step_00000009.new"):
        put(tmp_path / name)
    assert save_all(tmp_path, [2, 3, 4]) == [f"step_0000000{k}" for k in (2, 3, 4)]


# Optimisers and generators


OPTIMIZERS = {
    "Adam": lambda params: torch.optim.Adam(params, lr=0.1),
    "fused AdamW": lambda params: torch.optim.AdamW(params, lr=0.1, fused=True),
    "Muon": lambda params: Muon(
        [{"params": [p], "blocks": int(p.ndim == 2)} for p in params], lr=0.1
    ),
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
}


def make_model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def descend(model: nn.Linear, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_continues_as_if_nothing_had_happened(name):
    model = make_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    descend(model, optimizer, 3)
    packed = {key: part.clone() for key, part in pack_optimizer(optimizer).items()}
    again = make_model()
    other = OPTIMIZERS[name](again.parameters())
    again.load_state_dict(model.state_dict())
    kept = copy.deepcopy(packed)
    unpack_optimizer(other, packed)
    for each in ((model, optimizer), (again, other)):
        descend(*each, 2)
    assert torch.equal(model.weight, again.weight)
    torch.testing.assert_close(pack_optimizer(other), pack_optimizer(optimizer), rtol=0, atol=0)
    torch.testing.assert_close(packed, kept, rtol=0, atol=0)  # not changed by training


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("2.step", torch.zeros(()), "another model: it has '2.step'"),
        ("².step", torch.zeros(()), "another model: it has '².step'"),
        ("step", torch.zeros(()), "another model: it has 'step'"),
        ("0.exp_avg", torch.zeros(3, 2), r"it has '0.exp_avg' with shape \(3, 2\)"),
        ("1.step", torch.tensor(-1.0), r"optimizer.safetensors: 1.step must be at least 0, got -1"),
    ],
)
def test_an_optimiser_refuses_tensors_of_another_model_and_negative_steps(key, tensor, message):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(CheckpointError, match=message):
        unpack_optimizer(optimizer, {key: tensor})
    assert not optimizer.state_dict()["state"]


def test_a_state_that_torch_refuses_is_named():
    broken = {"torch": torch.zeros_like(torch.get_rng_state())}
    with pytest.raises(CheckpointError, match=r"generators.safetensors: torch: Invalid"):
        unpack_generators(broken, CPU)


def test_a_run_on_the_cpu_keeps_no_state_of_a_gpu_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)  # as after naming the machine
    assert pack_generators(CPU).keys() == {"torch"}


def test_a_run_on_the_second_gpu_keeps_the_state_of_that_one(monkeypatch):
    gpu, asked, state = torch.device("cuda", 1), [], torch.zeros(16, dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device) or state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda _, device: asked.append(device))
    unpack_generators(pack_generators(gpu), gpu)
    assert set(asked) == {gpu}
