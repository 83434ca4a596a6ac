"""What must hold in every one of two ranks: `torchrun --nproc-per-node 2 tests/agents/ranks.py`."""

import pytest
import torch
from torch import nn

from agents import distributed
from agents.distributed import (
    all_lanes,
    average_gradients,
    gathered,
    joined,
    largest,
    mean_over_ranks,
    on_first,
    own_lanes,
)
from agents.losses import normalise


def check_lanes(rank: int) -> None:
    """Lanes are split in order, and joined to what was split."""
    whole = torch.arange(24.0).reshape(2, 4, 3)  # (T, N, 3)
    lanes = own_lanes(4)
    assert lanes == (range(2), range(2, 4))[rank]
    own = whole[:, lanes.start : lanes.stop]
    assert torch.equal(all_lanes(own, axis=1), whole)
    assert torch.equal(all_lanes(own.transpose(0, 1), axis=0), whole.transpose(0, 1))
    with pytest.raises(ValueError, match=r"num_envs must be a multiple of 2, .* got 5"):
        own_lanes(5)
    with pytest.raises(ValueError, match=r"multiple of 6, .* in groups of 3; got 8"):
        own_lanes(8, group=3)
    advantage = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    own = normalise(advantage.chunk(2, 1)[rank])
    everywhere = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    assert torch.equal(own, everywhere.chunk(2, 1)[rank])


def check_agreements(rank: int) -> None:
    """All ranks get the same numbers, results and errors."""
    assert largest(15 * rank) == 15
    assert gathered({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    means = mean_over_ranks({"a": torch.tensor(1.0 + rank), "b": torch.tensor(float("inf") * rank)})
    assert means["a"] == 1.5
    assert not means["b"].isfinite()
    assert on_first(lambda: distributed.rank()) == 0
    for error in (FloatingPointError("update 3: loss not finite"), SystemExit(143)):

        def fail(error: BaseException = error) -> None:
            assert rank == 0
            raise error

        with pytest.raises(type(error)) as raised:
            on_first(fail)
        assert raised.value.args == error.args


def check_gradients(rank: int) -> None:
    """Gradients are those of the mean over all lanes, and None where no lane has any."""
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("core", "location", "label")})
    std = nn.ParameterList([nn.Parameter(torch.ones(3))])
    model["std"] = std  # used by losses alone
    outputs = {
        ("core", "location", "label", "std"): lambda x: (
            core(x) + model["location"](core(x)) / std[0] + model["label"](x)
        ),
        ("core", "label"): lambda x: model["label"](core(core(x))),  # several calls
    }
    core, parameters = model["core"], [*model.parameters()]
    x = torch.randn(6, 3)  # the same in both ranks
    for _ in range(2):  # one alternates with the other, as with a replay
        for used, output in outputs.items():
            whole = torch.autograd.grad(output(x).square().mean(), parameters, allow_unused=True)
            model.zero_grad()
            output(x.chunk(2)[rank]).square().mean().backward()
            average_gradients(model)
            for (name, parameter), expected in zip(model.named_parameters(), whole, strict=True):
                assert (parameter.grad is not None) == (name.split(".")[0] in used)
                torch.testing.assert_close(parameter.grad, expected)


if __name__ == "__main__":
    with joined():
        for check in (check_lanes, check_agreements, check_gradients):
            check(distributed.rank())
