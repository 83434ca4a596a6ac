"""Processes that torchrun starts: how they find each other, and who reports an error."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from agents.distributed import gathered

_PATIENCE = timedelta(hours=6)
"""How long ranks wait for each other: a validation is rank 0's alone."""

_reports = True


def launched() -> bool:
    """Return whether torchrun started this process."""
    return dist.is_torchelastic_launched()


def reports() -> bool:
    """Return whether this rank reports errors: only the first that failed does."""
    return _reports


@contextmanager
def joined(*, allowed: bool = True) -> Iterator[None]:
    """Join the ranks that torchrun started; a process of its own joins nothing.

    An error in one rank ends all: those that wait for its messages raise ConnectionError.

    Raises:
        ValueError: If ranks have different flags, or torchrun is not ``allowed``.
    """
    global _reports
    if not launched():
        yield
        return
    if not allowed:
        _reports = os.environ["RANK"] == "0"
        raise ValueError(f"{sys.argv[0]} doesn't run under torchrun: start it with python")
    store, me, size = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=me, world_size=size, timeout=_PATIENCE)
    try:
        _check_same_flags()
        yield
    except BaseException as error:
        # When one rank ends, torchrun ends the others; none may be cut off before it has reported
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # Before this rank's connections close, so that what the others then meet isn't the first
        _reports = store.compare_set("reports", "", str(me)) == str(me).encode()
        if lost_connection(error):
            raise ConnectionError(
                f"rank {me} waited for a process that has ended: torchrun's lines below name the "
                "rank that failed first and its exit code; find out why, then resume the run"
            ) from error
        raise
    finally:
        dist.destroy_process_group()


def lost_connection(error: BaseException) -> bool:
    """Return whether an error says that another rank has ended."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def _check_same_flags() -> None:
    first, *others = gathered(sys.argv[1:])
    if any(flags != first for flags in others):
        raise ValueError(f"all processes of a run must have the same flags, got {[first, *others]}")


def own_gpu(name: str) -> str:
    """Return the GPU of this rank, for the device "cuda"; other devices are returned as they are.

    Raises:
        ValueError: If a GPU is named that all ranks would share, or there are fewer than ranks.
    """
    if not dist.is_initialized() or not name.startswith("cuda"):
        return name
    if name != "cuda":
        raise ValueError(f"device must be cpu, cuda or auto under torchrun, got {name}")
    here, wanted = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if here < wanted:
        raise ValueError(
            f"device cuda needs a GPU per process, found {here} for {wanted} processes: lower "
            "--nproc-per-node, or choose --device cpu"
        )
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return f"cuda:{os.environ['LOCAL_RANK']}"
