"""Training in several processes (ranks), which torchrun starts: each plays a share of the lanes.

Every rank holds the whole model. Means over lanes are taken over all ranks, so a run depends on
their number only through rounding. A process that torchrun did not start is the only rank.

Dimension key:
    N: lanes (parallel episodes) of all ranks
    W: ranks
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def rank() -> int:
    """Return the number of this rank; rank 0 prints, writes and validates."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """Return W."""
    return dist.get_world_size() if dist.is_initialized() else 1


def on_first(call: Callable[[], T]) -> T:
    """Call in rank 0; return the result, or raise the error, in every rank."""
    if num_ranks() == 1:
        return call()
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = call()
        except (Exception, SystemExit) as error:
            answer[1] = error
    dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def gathered(value: T) -> list[T]:
    """Return the values of all ranks, in their order."""
    values: list[Any] = [value] * num_ranks()
    if num_ranks() > 1:
        dist.all_gather_object(values, value)
    return values


def largest(number: int) -> int:
    """Return the largest of the ranks' numbers."""
    if num_ranks() == 1:
        return number
    tensor = torch.tensor(number)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def own_lanes(num_lanes: int, group: int = 1) -> range:
    """Return this rank's share of N lanes, N / W neighbours.

    Raises:
        ValueError: If ranks can't have equal shares of whole groups of ``group`` lanes.
    """
    if num_lanes % (num_ranks() * group):
        groups = f", each in groups of {group}" if group > 1 else ""
        raise ValueError(
            f"num_envs must be a multiple of {num_ranks() * group}, since {num_ranks()} processes "
            f"share the lanes equally{groups}; got {num_lanes}"
        )
    share = num_lanes // num_ranks()
    return range(rank() * share, (rank() + 1) * share)


def all_lanes(part: Tensor, axis: int) -> Tensor:
    """Join the parts of all ranks along the axis of lanes, in the order of lanes: N / W to N."""
    if num_ranks() == 1:
        return part
    parts = [
        torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(num_ranks())
    ]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts, axis)


def mean_over_ranks(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the means over ranks of scalars, by name; over several ranks without gradient."""
    if num_ranks() == 1:
        return dict(values)
    mean = torch.stack([value.detach() for value in values.values()]) / num_ranks()
    dist.all_reduce(mean)
    return dict(zip(values, mean.unbind(), strict=True))


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over ranks. All have gradients of the same parameters."""
    if num_ranks() > 1:
        grads = [each.grad for each in model.parameters() if each.grad is not None]
        mean = torch.cat([grad.flatten() for grad in grads]) / num_ranks()
        dist.all_reduce(mean)
        for grad, part in zip(grads, mean.split([*map(Tensor.numel, grads)]), strict=True):
            grad.copy_(part.view_as(grad))
