"""The pretended GPU refuses and counts what a real one would."""

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from tests.pretend_gpu import NAME, HostWaitError


def test_tensors_of_two_devices_do_not_mix_but_a_number_may_come_from_the_host(pretend_gpu):
    there, here = torch.ones(2, device="pretend"), torch.ones(2)
    refused: Any = (lambda: there + here, lambda: here[there.long()], lambda: here.add_(there))
    for mix in refused:
        with pytest.raises(RuntimeError, match="on the same device"):
            mix()
    torch.Generator("pretend")  # is gone; the next one may have its address
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(2, device="pretend", generator=torch.Generator())
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()
    assert (there * torch.tensor(3.0)).tolist() == [3, 3]
    generators = [torch.Generator(name).manual_seed(1) for name in ("pretend", "cpu")]
    noise = [torch.rand(2, device=g.device, generator=g).tolist() for g in generators]
    assert noise[0] == noise[1]
    assert str(there.device) == str(generators[0].device).replace("pretend", "pretend:0")


@pytest.mark.parametrize(
    ("wait", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool((x > 0).all()), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.copy_(torch.zeros(3)), 1),
        (lambda x: torch.zeros(3).to("pretend"), 1),
        (lambda x: torch.zeros(3).to("pretend", non_blocking=True), 0),
        (lambda x: x.masked_fill(x > 0, 1).double() + 1, 0),
    ],
)
def test_it_counts_when_the_host_waits_and_can_forbid_it(pretend_gpu, wait, waits):
    x = torch.zeros(3, device="pretend")
    wait(x)
    assert pretend_gpu.waits.total() == waits
    pretend_gpu.forbid_waits = True
    with pytest.raises(HostWaitError) if waits else nullcontext():
        wait(x)


def test_the_pretended_gpu_captures_without_computing_and_replays_without_python(pretend_gpu):
    number, total = torch.ones((), device="pretend"), torch.zeros(2, device="pretend")
    graph, factor = torch.cuda.CUDAGraph(), 2.0
    with torch.cuda.graph(graph):
        total += factor * number
    assert total.tolist() == [0, 0]
    factor = 5.0  # a number of Python's is what it was at the capture
    number.fill_(10)
    for _ in range(2):
        graph.replay()
    assert total.tolist() == [40, 40]
    with pytest.raises(RuntimeError, match="synchronizing"), torch.cuda.graph(graph):
        total.tolist()
    with pytest.raises(RuntimeError, match="unpinned"), torch.cuda.graph(graph):
        total.copy_(torch.zeros(2), non_blocking=True)


@pytest.mark.parametrize("cell", [torch.nn.GRUCell(5, 7), torch.nn.LSTMCell(5, 7)], ids=str)
@pytest.mark.usefixtures("pretend_gpu")
def test_gated_cells_have_the_cpus_values_and_gradients(cell):
    torch.manual_seed(0)
    inputs = [torch.randn(3, size) for size in (5, 7, 7)]
    found: list[list[torch.Tensor]] = []
    for device in ("cpu", NAME):
        model = copy.deepcopy(cell).to(device)
        x, h, c = (each.to(device).detach().clone().requires_grad_() for each in inputs)
        state = [h] if isinstance(cell, torch.nn.GRUCell) else [h, c]
        out = model(x, state[0] if len(state) == 1 else tuple(state))
        joined = out if len(state) == 1 else torch.cat(out, 1)
        joined.square().sum().backward()
        learned = [each.grad for each in (x, *state, *model.parameters())]
        found.append([joined.detach().cpu(), *(grad.cpu() for grad in learned if grad is not None)])
    for expected, got in zip(*found, strict=True):
        assert torch.equal(got, expected)
