"""Muon: momentum whose matrices are made orthogonal before each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_MOMENTUM = 0.95
_NUM_ROUNDS = 5  # map singular values in [0.002, 1] to [0.68, 1.21]
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x^3 and x^5
_THINNEST = 16  # outputs and coordinates have no more rows or columns


class Muon(torch.optim.AdamW):
    """Steps along orthogonal matrices, so that no direction of a layer learns faster than others.

    Arguments are AdamW's; betas and eps concern what AdamW moves. Each group may have a number of
    ``blocks``: the matrices, one below the other, in each of its parameters, such as 4 in the
    weights of an LSTM. In a convolution's weights, each kernel is a row. AdamW moves groups with 0,
    the default. One learning rate suits both, since Muon's steps are about as long as Adam's. This
    one computes in float32; torch's uses bfloat16, which is slow on most CPUs.

    Source:
        Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks",
        kellerjordan.github.io/posts/muon; the scale is that of Liu et al. (2025),
        "Muon is scalable for LLM training", arXiv:2502.16982, section 2.2.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters."""
        super().add_param_group({"blocks": 0, **param_group})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move all parameters that have a gradient; those of Muon's matrices become None."""
        assert closure is None, "closures are not supported"
        for group in self.param_groups:
            for matrix in group["params"] if group["blocks"] else ():
                if matrix.grad is not None:
                    self._move(matrix, matrix.grad, group)
                    matrix.grad = None  # nothing is left for AdamW
        super().step()

    def _move(self, matrix: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[matrix]
        if not state:
            state["exp_avg"] = torch.zeros_like(matrix)
            state["step"] = torch.zeros(())  # AdamW asks every state that it loads for one
        momentum = state["exp_avg"].lerp_(grad, 1 - _MOMENTUM)
        ahead = grad.lerp(momentum, _MOMENTUM).flatten(1)  # Nesterov's
        blocks = ahead.unflatten(0, (group["blocks"], -1))
        scale = 0.2 * max(blocks.shape[1:]) ** 0.5
        rate = group["lr"]
        matrix.mul_(1 - rate * group["weight_decay"])
        matrix.sub_(orthogonal(blocks).reshape(matrix.shape) * (rate * scale))


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices (B, R, C) with the same singular vectors and singular values of about 1.

    Newton and Schulz's iteration needs products alone: an odd polynomial of a matrix is that
    polynomial of its singular values.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    a, b, c = _COEFFICIENTS
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_NUM_ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def is_matrix(parameter: Tensor) -> bool:
    """Return whether Muon should move a parameter: a convolution's kernels or a thick matrix."""
    return parameter.ndim == 4 or (parameter.ndim == 2 and min(parameter.shape) > _THINNEST)
