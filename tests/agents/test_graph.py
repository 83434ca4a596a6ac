"""A graph replays what a function of tensors does, and says which line it can't hold."""

from typing import Any

import pytest
import torch
from torch import Tensor

from agents.graph import WARM_UP, Graph
from tests.pretend_gpu import GPUS


@pytest.mark.parametrize("device", ["cpu", *GPUS], indirect=True)
def test_every_call_counts_once_whether_it_warms_up_captures_or_replays(device):
    total, called = torch.zeros(2, device=device), 0

    def function(carry: Any, number: Tensor, share: Tensor) -> Any:
        nonlocal called
        called += 1
        x = carry[0]["x"] * share + number
        total.add_(x)  # in place, as an optimiser changes weights
        return ({"x": x},), {"total": total + 0}

    graph, numbers = Graph(function, total.device), [3, 1, 4, 1, 5, 9, 2, 6]
    x, expected = torch.tensor([1.0, 2.0]), torch.zeros(2)
    carry: Any = ({"x": x.to(device)},)
    for number in numbers:
        carry, outputs = graph(carry, number=number, share=1 / (1 + number))
        x = x * (1 / (1 + number)) + number
        expected += x
        torch.testing.assert_close(outputs["total"].cpu(), expected)
    assert called == (len(numbers) if device == "cpu" else WARM_UP + 1)
    with pytest.raises(TypeError, match=r"number must be an int, as in the first call, got 0\.5"):
        graph(carry, number=0.5, share=1.0)


@pytest.mark.parametrize("device", GPUS, indirect=True)
def test_a_carry_from_elsewhere_has_a_graph_of_its_own(device):
    sizes: list[int] = []

    def function(carry: Any) -> Any:
        sizes.append(len(carry[0]["x"]))
        return ({"x": carry[0]["x"] + 1},), {"sum": carry[0]["x"].sum()}

    graph = Graph(function, torch.zeros((), device=device).device)
    for size in (2, 3):  # as another stage of a curriculum may have other shapes
        carry: Any = ({"x": torch.zeros(size, device=device)},)
        for call in range(WARM_UP + 3):
            carry, outputs = graph(carry)
            assert outputs["sum"].item() == size * call
    assert sizes == [2] * (WARM_UP + 1) + [3] * (WARM_UP + 1)


@pytest.mark.parametrize("device", GPUS, indirect=True)
def test_a_line_that_waits_for_the_gpu_is_refused_there(device):
    def function(carry: Any) -> Any:
        return carry, {"x": carry[0]["x"] * carry[0]["x"].item()}

    line = function.__code__.co_firstlineno + 1
    graph = Graph(function, torch.zeros((), device=device).device)
    carry: Any = ({"x": torch.ones((), device=device)},)
    for _ in range(WARM_UP - 1):
        carry, _ = graph(carry)
    with pytest.raises(RuntimeError, match="synchronizing CUDA operation") as error:
        graph(carry)
    assert line in [frame.lineno + 1 for frame in error.traceback]
    assert carry[0]["x"].item() == 1  # which may wait again
