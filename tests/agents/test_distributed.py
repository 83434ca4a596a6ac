"""Several processes agree, and one process is not disturbed."""

import pytest
import torch
import torch.distributed as dist

from agents import distributed
from agents.torchrun import joined, own_gpu


def test_a_process_of_its_own_is_the_only_rank():
    x = torch.randn(3, 4, requires_grad=True)
    with joined(allowed=False):
        assert (distributed.rank(), distributed.num_ranks()) == (0, 1)
    assert distributed.own_lanes(4) == range(4)
    assert distributed.all_lanes(x, axis=1) is x
    assert distributed.mean_over_ranks({"loss": x})["loss"] is x
    assert distributed.largest(15) == 15
    assert distributed.gathered(x) == [x]
    assert own_gpu("cuda:1") == "cuda:1"


def test_lanes_are_shared_out_in_order_or_refused(monkeypatch):
    monkeypatch.setattr(distributed, "num_ranks", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert distributed.own_lanes(4) == range(2, 4)
    with pytest.raises(ValueError, match=r"num_envs must be a multiple of 2, .* got 5"):
        distributed.own_lanes(5)
    with pytest.raises(ValueError, match=r"multiple of 6, .* in groups of 3; got 8"):
        distributed.own_lanes(8, group=3)


def test_every_rank_has_a_gpu_of_its_own_or_is_refused(monkeypatch):
    chosen = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (own_gpu("cuda"), chosen) == ("cuda:1", [1])
    assert own_gpu("cpu") == "cpu"
    with pytest.raises(ValueError, match="must be cpu, cuda or auto under torchrun, got cuda:0"):
        own_gpu("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="found 1 for 2 processes: lower --nproc-per-node, or"):
        own_gpu("cuda")
