"""A pretended GPU: the torch device "pretend", which has the CPU's numbers and behaves like CUDA.

What only a GPU shows is checked and counted: tensors of two devices in one operation, NumPy views
of its memory, and lines that copy to it or wait for it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest
import torch
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NAME = "pretend"
GPUS = [pytest.param("cuda", marks=pytest.mark.cuda), NAME]
"""Values of the fixture ``device``: a real GPU, which skips the test if missing, and this one."""

_ROOT = Path(__file__).parents[1]
_PROJECT = tuple(f"{_ROOT}/{folder}/" for folder in ("ram_env", "agents", "train"))
_aten = torch.ops.aten
# Operations whose result the host needs; the first is item() or bool()
_WAITS = {"_local_scalar_dense", "equal", "masked_select", "nonzero", "repeat_interleave"}
_INDEXED = {"index", "index_put_", "_index_put_impl_"}


class HostWaitError(RuntimeError):
    """The host waited for the device where that is forbidden."""


class PretendGPU(TorchDispatchMode):
    """Makes the device work while it is entered; ``torch.cuda`` then captures its graphs.

    Attributes:
        waits: Times that the host waits for the device to catch up, by line.
        uploads: Copies to the device for which the host doesn't wait (``non_blocking``), by line.
        forbid_waits: Whether a wait raises :class:`HostWaitError`. A CUDA graph allows none.
        graphs: The CUDA graphs that were captured, with their replays.
    """

    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # below modes that a test may use, as counters

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports dynamo, which takes seconds

    def __init__(self) -> None:
        super().__init__()
        self.forbid_waits = False
        self.waits, self.uploads = Counter[str](), Counter[str]()
        self.graphs: list[Graph] = []
        self._capturing: Graph | None = None

    def __enter__(self) -> PretendGPU:
        _register()
        with ExitStack() as stack:
            stack.enter_context(patch("torch.Generator", _Generator))
            foreach = "torch.nn.utils.clip_grad._has_foreach_support"  # by types of tensors
            stack.enter_context(patch(foreach, lambda *_: True))
            stack.enter_context(patch.multiple("torch.cuda", **self._cuda()))
            stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
            torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor(device=) comes here
            # A device's backward pass has a thread of its own, which doesn't know this mode
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
            super().__enter__()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors: list[torch.Tensor] = []
        elems, named = (_map(partial(_elem, found=tensors), each) for each in (args, kwargs))
        host = [x for x in tensors if not isinstance(x, OnGPU)]
        asked = kwargs.get("device")
        to_gpu = asked is not None and torch.device(asked).type == NAME
        if len(host) == len(tensors) and not to_gpu:
            return func(*args, **kwargs)
        if func in (_aten._to_copy.default, _aten.copy_.default):
            return self._copy(func, args, kwargs, to_gpu)
        if to_gpu:
            named["device"] = torch.device("cpu")
        generator = kwargs.get("generator")
        if generator is not None and generator._cdata not in _Generator.on_gpu:
            raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
        if func._opname in _INDEXED:
            self._check_index(*args[:3])
        elif any(x.dim() for x in host):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but got {NAME}:0 and cpu in {func}"
            )
        if func._opname in _WAITS:
            self._wait()
        if "fused_" in func._opname and getattr(rate := kwargs.get("lr"), "dtype", None):
            assert rate.dtype == torch.float32, "expected scalar type Float"  # as CUDA reads it
        out = self._run(func, elems, named)
        given = {id(x.elem): x for x in tensors if isinstance(x, OnGPU)}  # written in place

        def wrap(x: Any) -> Any:
            if not isinstance(x, torch.Tensor):
                return x
            return given[id(x)] if id(x) in given else OnGPU(x)

        return _map(wrap, out)

    def _copy(self, func: Any, args: Any, kwargs: dict[str, Any], to_gpu: bool) -> Any:
        """Copy or convert, within the device or from or to the host."""
        in_place = func is _aten.copy_.default
        target, source = args[:2] if in_place else (None, args[0])
        lands = isinstance(target, OnGPU) if in_place else to_gpu or "device" not in kwargs
        crosses = not (lands and isinstance(source, OnGPU))
        if crosses and lands and (kwargs.get("non_blocking") or (in_place and True in args[2:])):
            self.uploads[_line()] += 1
            if self._capturing is not None:
                raise RuntimeError(f"Cannot copy from unpinned memory in a capture, at {_line()}")
        elif crosses:
            self._wait()
        if in_place:
            self._run(func, (_elem(target), _elem(source)), {})
            return target
        kwargs.pop("device", None)
        out = self._run(func, (_elem(source),), kwargs)
        return OnGPU(out) if lands else out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Compute, and in a capture record."""
        if self._capturing is None:
            return func(*args, **kwargs)
        return self._capturing.record(func, args, kwargs)

    def _cuda(self) -> dict[str, Any]:
        """Return what replaces functions of ``torch.cuda``."""

        @contextmanager
        def capture(graph: Graph, stream: Any = None) -> Iterator[None]:
            self._capturing = graph
            try:
                yield
            finally:
                self._capturing = None
                graph.forget_values()

        def graph() -> Graph:
            self.graphs.append(Graph())
            return self.graphs[-1]

        def set_mode(mode: Any) -> None:
            self.forbid_waits = mode == "error"

        return {
            "CUDAGraph": graph,
            "graph": capture,
            "Stream": MagicMock(),
            "synchronize": lambda device: None,
            "stream": lambda stream: nullcontext(),
            "current_stream": MagicMock(),
            "set_sync_debug_mode": set_mode,
            "get_sync_debug_mode": lambda: "error" if self.forbid_waits else "default",
        }

    def _check_index(self, array: Any, index: Any, value: Any = None) -> None:
        """Count what CUDA does for ``array[index]``, or for ``array[index] = value``."""
        index = [part for part in index if part is not None]
        if not isinstance(array, OnGPU):
            raise RuntimeError("indices should be either on cpu or on the same device")
        scalar = value is not None and value.dim() == 0
        if any(part.dtype == torch.bool for part in index):
            if not scalar:  # else it's a masked fill
                self._wait()
        elif scalar or not all(isinstance(part, OnGPU) for part in index):
            self._wait()  # until the number or the index has been copied

    def _wait(self) -> None:
        self.waits[line := _line()] += 1
        if self.forbid_waits or self._capturing is not None:
            raise HostWaitError(f"called a synchronizing CUDA operation, at {line}")


class Graph:
    """Operations to repeat on the same memory, as a ``torch.cuda.CUDAGraph`` has them.

    Attributes:
        replays: How often they were repeated.
    """

    def __init__(self) -> None:
        self.replays = 0
        self._operations: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def record(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Compute, since shapes may depend on it; a capture computes nothing."""
        names = [part.name for part in func._schema.arguments]
        written = {part.name for part in func._schema.arguments if _is_written(part)}
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        for part in tree_leaves([given.get(name) for name in written]):
            if isinstance(part, torch.Tensor):
                storage = torch.tensor([], dtype=torch.uint8).set_(part.untyped_storage())
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        out = func(*args, **kwargs)
        if not _is_view(func):
            new = [] if written else [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
            self._operations.append((func, args, kwargs, new))
        return out

    def forget_values(self) -> None:
        """Undo what computing has changed."""
        for memory, before in self._before.values():
            memory.copy_(before)

    def replay(self) -> None:
        """Repeat the operations, without a line of the Python that they came from."""
        self.replays += 1
        for func, args, kwargs, outs in self._operations:
            result = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, torch.Tensor)]
            for out, new in zip(outs, result, strict=False):
                out.copy_(new)


def _is_written(part: Any) -> bool:
    return part.alias_info is not None and part.alias_info.is_write


class OnGPU(torch.Tensor):
    """A tensor on the device, around one on the CPU, ``elem``."""

    elem: torch.Tensor
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem: torch.Tensor) -> OnGPU:
        self: Any = torch.Tensor._make_wrapper_subclass(
            cls,
            elem.shape,
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            layout=elem.layout,
            device=torch.device(NAME, 0),
        )
        self.elem = elem
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        raise RuntimeError(f"{func} on the pretended GPU after its test")

    def __repr__(self, **_: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"OnGPU({self.elem!r})"  # parametrised tests show what they got

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.elem.untyped_storage()  # by which safetensors knows tensors apart


class _Generator(torch.Generator):
    """A CPU's generator that says it is on the device for which it was made."""

    on_gpu: set[int] = set()  # noqa: RUF012 - addresses of those made there
    _cdata: int
    _where: torch.device

    def __new__(cls, device: Any = "cpu") -> _Generator:
        self = super().__new__(cls)
        self._where = torch.device(device)
        (cls.on_gpu.add if self._where.type == NAME else cls.on_gpu.discard)(self._cdata)
        return self

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._where


@cache
def _register() -> tuple[torch.library.Library, ...]:
    """Register the device, once a process; it lasts as long as the result.

    Autocast changes nothing on it. A GPU has fused kernels for gated cells; the cells here add
    in the CPU's order.
    """
    from torch.utils import backend_registration

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())
    others, aten = (torch.library.Library(space, "IMPL") for space in ("_", "aten"))
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    aten.impl("gru_cell", _gru_cell, "AutogradPrivateUse1")
    aten.impl("lstm_cell", _lstm_cell, "AutogradPrivateUse1")
    return others, aten


def _gru_cell(x: Any, h: Any, of_x: Any, of_h: Any, bias_x: Any = None, bias_h: Any = None) -> Any:
    gates_x, gates_h = linear(x, of_x, bias_x), linear(h, of_h, bias_h)
    (rx, zx, nx), (rh, zh, nh) = gates_x.chunk(3, 1), gates_h.chunk(3, 1)
    r, z = (rh + rx).sigmoid(), (zh + zx).sigmoid()
    n = (nx + nh * r).tanh()
    return (h - n) * z + n


def _lstm_cell(
    x: Any, hc: Any, of_x: Any, of_h: Any, bias_x: Any = None, bias_h: Any = None
) -> Any:
    i, f, g, o = (linear(hc[0], of_h, bias_h) + linear(x, of_x, bias_x)).chunk(4, 1)
    c = f.sigmoid() * hc[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _elem(x: Any, found: list[torch.Tensor] | None = None) -> Any:
    """Return what the device has of a tensor, or anything else as it is; note tensors."""
    if found is not None and isinstance(x, torch.Tensor):
        found.append(x)
    return x.elem if isinstance(x, OnGPU) else x


def _map(function: Any, x: Any) -> Any:
    """Do as ``tree_map``, which knows more types than operations take and return, in less time."""
    if isinstance(x, dict):
        return {key: _map(function, part) for key, part in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x)([_map(function, part) for part in x])
    return function(x)


@cache
def _is_view(func: Any) -> bool:
    """Return whether an operation computes nothing: its result is a view of an argument."""
    return any(part.alias_info and not _is_written(part) for part in func._schema.returns)


def _line() -> str:
    """Return the innermost line of the project that is running, as ``agents/ram.py:7``."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_PROJECT) and not name.endswith("ram_env/arrays.py"):
            return f"{name[len(str(_ROOT)) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
