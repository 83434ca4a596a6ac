"""The pretended GPU refuses and counts what a real one would."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from tests.pretend_gpu import HostWaitError


def test_tensors_of_two_devices_do_not_mix_but_a_number_may_come_from_the_host(pretend_gpu):
    there, here = torch.ones(2, device="pretend"), torch.ones(2)
    refused: Any = (lambda: there + here, lambda: here[there.long()], lambda: here.add_(there))
    for mix in refused:
        with pytest.raises(RuntimeError, match="on the same device"):
            mix()
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
