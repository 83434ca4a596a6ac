"""The kernels that torch has for gated cells on a GPU alone, for the pretended one.

Dimension key:
    N, D: rows, units
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def gru(gates_x: Tensor, gates_h: Tensor, h: Tensor, *biases: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next state (N, D) and what :func:`gru_backward` needs, of gates (N, 3 D)."""
    (rx, zx, nx), (rh, zh, nh) = (
        (gates + bias).chunk(3, 1) for gates, bias in zip((gates_x, gates_h), biases, strict=True)
    )
    r, z = (rx + rh).sigmoid(), (zx + zh).sigmoid()
    n = (nx + r * nh).tanh()
    return n + z * (h - n), torch.cat((r, z, n, h, nh), 1)


def gru_backward(grad: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor, ...]:
    """Return the gradients of the gates (of x and of h), the state and the biases."""
    r, z, n, h, nh = workspace.chunk(5, 1)
    dn = grad * (1 - z) * (1 - n * n)
    dr, dz = dn * nh * r * (1 - r), grad * (h - n) * z * (1 - z)
    of_x, of_h = torch.cat((dr, dz, dn), 1), torch.cat((dr, dz, dn * r), 1)
    return of_x, of_h, grad * z, of_x.sum(0), of_h.sum(0)


def lstm(gates_x: Tensor, gates_h: Tensor, c: Tensor, *biases: Tensor) -> tuple[Tensor, ...]:
    """Return h and c (N, D), and what :func:`lstm_backward` needs, of gates (N, 4 D)."""
    i, f, g, o = (gates_x + gates_h + sum(biases)).chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = f * c + i * g
    return o * c.tanh(), c, torch.cat((i, f, g, o), 1)


def lstm_backward(
    grad_h: Tensor | None, grad_c: Tensor | None, c: Tensor, new: Tensor, workspace: Tensor, *_: Any
) -> tuple[Tensor, ...]:
    """Return the gradients of the gates, the cell state before and the bias."""
    i, f, g, o = workspace.chunk(4, 1)
    grad_h, grad_c = (torch.zeros_like(c) if x is None else x for x in (grad_h, grad_c))
    dc = grad_c + grad_h * o * (1 - new.tanh() ** 2)
    parts = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g)
    gates = torch.cat((*parts, grad_h * new.tanh() * o * (1 - o)), 1)
    return gates, dc * f, gates.sum(0)


KERNELS = {
    "_thnn_fused_gru_cell": gru,
    "_thnn_fused_gru_cell_backward": gru_backward,
    "_thnn_fused_lstm_cell": lstm,
    "_thnn_fused_lstm_cell_backward_impl": lstm_backward,
}
