"""A whole update as one CUDA graph.

A small network's kernels take a GPU less time than it takes the CPU to launch them. A graph holds
the kernels of one call, and launches all of them at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Carry = tuple[dict[str, Tensor], ...]
"""What one call hands to the next."""

WARM_UP = 3
"""Calls before the capture, for all that happens once: an optimiser's state, constants, handles."""


class Graph:
    """Calls ``function(carry, **inputs) -> (carry, outputs)``, on a GPU as one CUDA graph.

    A replay repeats kernels and runs no line of Python. So the function must consist of operations
    on tensors whose shapes never change, use none of torch's random numbers, never wait for the GPU
    (no ``.item()``, no mask as an index, no copy from the host), and change tensors only in place.
    The inputs are numbers, which it gets as scalars on the device, float64 or int64. The outputs
    carry no gradient; the next call may overwrite them.

    A carry other than the one returned last starts a new warm-up: each stage of a curriculum has
    its own graph. On the CPU the function is just called.

    Args:
        function: What to call.
        device: Where its tensors are.
    """

    def __init__(
        self, function: Callable[..., tuple[Carry, dict[str, Tensor]]], device: torch.device
    ):
        self._function, self._device = function, device
        self._inputs: dict[str, Tensor] = {}
        self._carry: Carry = ()
        self._graph: Any = None
        self._stream: Any = None
        self._calls = 0

    def __call__(self, carry: Carry, **inputs: float) -> tuple[Carry, dict[str, Tensor]]:
        """Call the function.

        Raises:
            TypeError: If an input was an int and is a float now.
            RuntimeError: From the line of the function that makes the host wait for the GPU.
        """
        for name, value in inputs.items():
            if name not in self._inputs:
                dtype = torch.int64 if isinstance(value, int) else torch.float64
                self._inputs[name] = torch.zeros((), dtype=dtype, device=self._device)
            elif isinstance(value, float) and self._inputs[name].dtype is torch.int64:
                raise TypeError(f"{name} must be an int, as in the first call, got {value}")
            self._inputs[name].fill_(value)
        if carry is not self._carry:
            if self._graph is not None:
                torch.cuda.synchronize(self._device)  # it may still be running
            self._calls, self._graph = 0, None
        self._calls += 1
        if self._device.type == "cpu":
            self._carry, outputs = self._function(carry, **self._inputs)
        elif self._calls <= WARM_UP:
            self._carry, outputs = self._warm_up(carry)
        else:
            graph = self._graph or self._capture(carry)
            graph.replay()
            outputs = self._outputs
        return self._carry, outputs

    def _warm_up(self, carry: Carry) -> tuple[Carry, dict[str, Tensor]]:
        """Call the function on a stream of its own, as torch asks for before a capture.

        The last call raises at a line that waits for the GPU, which a capture would not name.
        """
        before, current = torch.cuda.get_sync_debug_mode(), torch.cuda.current_stream(self._device)
        self._stream = self._stream or torch.cuda.Stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream), warnings.catch_warnings():
                for expected in ("capturable=True", "Synchronization debug mode is a prototype"):
                    warnings.filterwarnings("ignore", f".*{expected}")
                if self._calls == WARM_UP:
                    torch.cuda.set_sync_debug_mode("error")
                result = self._function(carry, **self._inputs)
        finally:
            torch.cuda.set_sync_debug_mode(before)
        current.wait_stream(self._stream)
        return result

    def _capture(self, carry: Carry) -> Any:
        """Record the function, which computes nothing yet; the graph reads and writes the carry."""
        self._carry = tuple({k: part.clone() for k, part in group.items()} for group in carry)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream):
            result, self._outputs = self._function(self._carry, **self._inputs)
            for kept, new in zip(self._carry, result, strict=True):
                for name, part in kept.items():
                    part.copy_(new[name])
        return self._graph
