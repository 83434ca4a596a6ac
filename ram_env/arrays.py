"""The few operations that NumPy and torch spell differently; modules import this one as ``xp``.

Everything else in this package is written once and runs on either: NumPy by default, torch
tensors where a device was asked for.

Dimension key:
    M: images in the array read from or written to
    n: patches
    C: colour planes
    H, W: image height and width [px]
    h, w: patch height and width [px]
"""

import sys
import warnings
from typing import Any

import numpy as np

Array = Any  # np.ndarray or torch.Tensor: the package must not import torch to name it


def is_tensor(array: Array) -> bool:
    """Return whether ``array`` is a torch tensor, without importing torch."""
    if isinstance(array, np.ndarray):  # by far the quicker check
        return False
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def library(array: Array) -> Any:
    """Return the module, ``numpy`` or ``torch``, whose functions take ``array``."""
    return sys.modules["torch"] if is_tensor(array) else np


def to_device(array: np.ndarray, device: str | None) -> Array:
    """Return ``array`` itself (no device) or a tensor of the same bytes on ``device``."""
    if device is None:
        return array
    import torch

    with warnings.catch_warnings():  # read-only arrays: we never write to the tensor either
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.as_tensor(array)
    # Not waiting is safe: CUDA has taken a copy of unpinned memory when the call returns
    return tensor.to(device, non_blocking=True)


def to_array(name: str, value: Any, device: str | None = None) -> tuple[Array, str]:
    """Read an array-like, ``name`` in errors, as an array on ``device`` (None: NumPy).

    Returns:
        The array and the kind of its dtype, a code of ``np.dtype.kind``.

    Raises:
        ValueError: If it can't be read as one array.
    """
    if is_tensor(value) and device is not None:
        return value.detach().to(device), dtype_name(value).replace("bfloat", "float")[0]
    try:
        if is_tensor(value):
            is_bfloat = "bfloat" in dtype_name(value)  # which NumPy lacks
            value = to_host(value.detach().float() if is_bfloat else value.detach())
        array = np.asarray(value)
    except Exception as error:
        raise ValueError(f"{name} can't be read as an array: {error}") from error
    kind = array.dtype.kind
    if device is None or kind not in "fiub":
        return array, kind
    array = cast(array, "float32" if kind == "f" else "int64")  # torch knows fewer dtypes
    return to_device(np.asarray(array, order="C"), device), kind  # and no negative strides


def device_of(array: Array) -> str | None:
    """Return the device of a tensor, None for NumPy."""
    return str(array.device) if is_tensor(array) else None


def dtype_name(array: Array) -> str:
    """Return the dtype's name, spelled alike in both libraries."""
    return str(array.dtype).rpartition(".")[2]


def to_host(array: Array) -> np.ndarray:
    """Return ``array`` as NumPy, whichever it was."""
    return array.cpu().numpy() if is_tensor(array) else array


def copy(array: Array) -> Array:
    """Return fresh memory with the same content."""
    return array.clone() if is_tensor(array) else array.copy()


def new_empty(array: Array, shape: tuple[int, ...], dtype: str) -> Array:
    """Return uninitialised memory of the library and on the device of ``array``."""
    xp = library(array)
    return xp.empty(shape, dtype=getattr(xp, dtype), device=array.device)


def like(array: Array, value: Any) -> Any:
    """Return a float beside a tensor as a float32 scalar there, whatever torch's default dtype."""
    if is_tensor(array) and isinstance(value, float):
        return array.new_full((), value, dtype=library(array).float32)
    return value


def arange(array: Array, start: int, stop: int) -> Array:
    """Return the integers from ``start`` to before ``stop``, with ``array``'s dtype and device."""
    return library(array).arange(start, stop, dtype=array.dtype, device=array.device)


def cast(array: Array, dtype: str) -> Array:
    """Convert the values to ``dtype``; what float32 can't hold becomes infinite."""
    if is_tensor(array):
        return array.to(getattr(library(array), dtype))
    if dtype != "float32" or array.dtype == np.float32:
        return array.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def log_softmax(scores: Array) -> Array:
    """Return log-probabilities over the last axis, (n, K), float64."""
    if is_tensor(scores):
        return scores.double().log_softmax(1)
    scores = scores.astype(np.float64, order="C")  # the order of the sum follows the memory's
    shifted = scores - scores.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def read_patches(
    images: Array, index: Array, rows: Array, columns: Array, height: int, width: int
) -> Array:
    """Copy patches, (n, C, h, w), out of images, (M, C, H, W), into fresh memory.

    ``index`` is each patch's image, ``rows`` and ``columns`` its top left pixel, 0 to H - h and
    0 to W - w, all of shape (n,), integers.
    """
    if is_tensor(images):
        windows = images.unfold(2, height, 1).unfold(3, width, 1)  # (M, C, H-h+1, W-w+1, h, w)
        return windows[index, :, rows, columns].contiguous()
    return _windows(images, height, width)[index, :, rows, columns]


def write_patches(images: Array, index: Array, rows: Array, columns: Array, patches: Array) -> None:
    """Write patches, (n, C, h, w), into different images: :func:`read_patches` the other way."""
    height, width = patches.shape[2:]
    if not is_tensor(images):
        _windows(images, height, width)[index, :, rows, columns] = patches
        return
    import torch  # which refuses to write through overlapping windows, so index single pixels

    y = torch.arange(height, device=images.device)[:, None]
    x = torch.arange(width, device=images.device)
    flat = (rows[:, None, None] + y) * images.shape[3] + columns[:, None, None] + x  # (n, h, w)
    images.view(*images.shape[:2], -1)[index[:, None, None], :, flat] = patches.movedim(1, -1)


def _windows(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """View all windows, (M, C, H-h+1, W-w+1, h, w)."""
    m, c, h, w = images.shape
    shape = (m, c, h - height + 1, w - width + 1, height, width)
    strides = images.strides + images.strides[2:]
    if images.flags.c_contiguous:  # without as_strided's overhead
        return np.ndarray(shape, images.dtype, images, 0, strides)
    return np.lib.stride_tricks.as_strided(images, shape, strides)
