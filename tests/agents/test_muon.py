"""Muon steps along orthogonal matrices, and leaves the rest to AdamW."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from agents.learner import make_optimizer
from agents.muon import Muon, is_matrix, orthogonal
from agents.ram import CORES, RecurrentAttentionModel
from train.reinforce import Config


@pytest.mark.parametrize("shape", [(20, 20), (20, 50), (50, 20)])
def test_orthogonal_keeps_the_singular_vectors_and_makes_the_values_about_one(shape):
    values = torch.logspace(-2, 0, 20).repeat(3, 1) * torch.tensor([[1e-6], [1.0], [1e6]])
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    left = u.mT @ orthogonal(u * values[:, None] @ v) @ v.mT  # diagonal
    diagonal = left.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(left, torch.diag_embed(diagonal), rtol=0, atol=1e-2)
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3


def test_orthogonal_of_nothing_is_nothing():
    assert not orthogonal(torch.zeros(2, 20, 30)).any()


def descend(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    torch.manual_seed(1)
    for _ in range(4):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


def test_its_steps_are_those_of_torchs_in_bfloat16():
    starts = [torch.ones(40, 64), torch.ones(64, 40)]
    ours, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    flags: Any = {"lr": 0.1, "weight_decay": 0.5}
    descend(Muon([{"params": ours, "blocks": 1}], **flags), ours)
    descend(torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **flags), theirs)
    for start, one, other in zip(starts, ours, theirs, strict=True):
        assert (one - other).norm() < 0.05 * (one - start * 0.95**4).norm()


def test_blocks_move_as_if_each_were_a_matrix_of_its_own():
    whole = nn.Parameter(torch.zeros(60, 20))
    parts = [nn.Parameter(torch.zeros(20, 20)) for _ in range(3)]
    grads = torch.randn(60, 20)
    whole.grad = grads.clone()
    for part, grad in zip(parts, grads.split(20), strict=True):
        part.grad = grad.clone()
    Muon([{"params": [whole], "blocks": 3}], lr=0.1).step()
    Muon([{"params": parts, "blocks": 1}], lr=0.1).step()
    for moved, part in zip(whole.split(20), parts, strict=True):
        torch.testing.assert_close(moved, part, rtol=1e-4, atol=1e-5)


def test_the_kernels_of_a_convolution_are_the_rows_of_a_matrix():
    start, grad = torch.randn(2, 20, 3, 3, 3).unbind()
    whole, rows = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    whole.grad, rows.grad = grad.clone(), grad.flatten(1)
    Muon([{"params": [whole, rows], "blocks": 1}], lr=0.1).step()
    assert torch.equal(whole.flatten(1), rows)
    assert not torch.equal(whole, start)


def test_adamw_moves_the_groups_without_blocks():
    ours, theirs = ([nn.Parameter(torch.ones(30, 20))] for _ in range(2))
    matrix = nn.Parameter(torch.zeros(20, 20))
    optimizer = Muon([{"params": [matrix], "blocks": 1}, {"params": ours}], weight_decay=0.1)
    descend(optimizer, ours)
    descend(torch.optim.AdamW(theirs, weight_decay=0.1), theirs)
    assert torch.equal(ours[0], theirs[0])
    assert not matrix.any()  # it had no gradient


@pytest.mark.parametrize("core", CORES)
def test_the_trainer_gives_it_all_thick_matrices_but_the_outputs_and_the_cores_gates_apart(core):
    flags: Any = {"env_id": "SignpostGlimpse-v0", "optimizer": "muon", "learned_std": True}
    config = Config(core=core, hidden_size=48, **flags)
    model = RecurrentAttentionModel(config.sizes((3, 12, 12), 10))
    model.action_network = nn.Linear(48, 100)  # of more classes
    groups = make_optimizer(config, model).param_groups
    blocks = {id(p): group["blocks"] for group in groups for p in group["params"]}
    multiples = {id(p): group["multiple"] for group in groups for p in group["params"]}
    assert len(blocks) == sum(len(group["params"]) for group in groups)
    for name, parameter in model.named_parameters():
        thin = parameter.ndim < 2 or min(parameter.shape) in (1, 2)
        left = thin or name.startswith("action_network.")
        gates = len(parameter) // 48 if name.startswith("core.") else 1
        assert blocks[id(parameter)] == (0 if left else gates), name
        assert multiples[id(parameter)] == (1.0 if left else config.muon_rate), name
        assert is_matrix(parameter) == (not thin), name
    assert [is_matrix(torch.zeros(rows, 48)) for rows in (16, 17)] == [False, True]
