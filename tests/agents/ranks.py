"""What must hold in every one of two ranks; `tests/train/ranks.py` calls it."""

from unittest.mock import Mock

import pytest
import torch

from agents import distributed
from agents.distributed import (
    all_lanes,
    gathered,
    largest,
    mean_over_ranks,
    on_first,
    own_lanes,
)


def check_lanes(rank: int) -> None:
    """Lanes are split in order, and joined to what was split."""
    whole = torch.arange(24.0).reshape(2, 4, 3)  # (T, N, 3)
    lanes = own_lanes(4)
    assert lanes == (range(2), range(2, 4))[rank]
    own = whole[:, lanes.start : lanes.stop]
    assert torch.equal(all_lanes(own, axis=1), whole)
    with pytest.raises(ValueError, match=r"num_envs must be a multiple of 2, .* got 5"):
        own_lanes(5)
    with pytest.raises(ValueError, match=r"multiple of 6, .* in groups of 3; got 8"):
        own_lanes(8, group=3)


def check_agreements(rank: int) -> None:
    """All ranks get the same numbers, results and errors."""
    assert largest(15 * rank) == 15
    assert gathered({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    means = mean_over_ranks({"a": torch.tensor(1.0 + rank), "b": torch.tensor(float("inf") * rank)})
    assert means["a"] == 1.5
    assert not means["b"].isfinite()
    assert on_first(lambda: distributed.rank()) == 0
    for error in (FloatingPointError("update 3: loss not finite"), SystemExit(143)):
        call = Mock(side_effect=error)
        with pytest.raises(type(error)) as raised:
            on_first(call)
        assert raised.value.args == error.args
        assert call.called == (rank == 0)
