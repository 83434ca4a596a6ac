"""Classifiers that see the whole canvas at once, to compare glimpses with.

Dimension key:
    N: canvases
    C: colour planes
    H: canvas side [px]
    K: classes
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_KERNEL, _STRIDE, _FILTERS = 10, 5, 8  # of the paper's convolution


class FullImageBaseline(nn.Module):
    """A classifier of whole canvases of shape ``canvas_shape``, (C, H, H), by ``network``."""

    def __init__(self, network: nn.Module, canvas_shape: tuple[int, int, int]):
        super().__init__()
        self.network = network
        self.canvas_shape = canvas_shape

    def forward(self, canvases: Tensor) -> Tensor:
        """Map canvases in [0, 1], (N, C, H, H), to unnormalised log-probabilities, (N, K)."""
        if canvases.shape[1:] != self.canvas_shape:
            got = tuple(canvases.shape)
            raise ValueError(f"canvases must have shape (N, *{self.canvas_shape}), got {got}")
        return self.network(canvases)


def make_baseline(name: str, channels: int, side: int, num_classes: int) -> FullImageBaseline:
    """Make a classifier with new weights; ValueError for an unknown name or too small a side.

    Args:
        name: ``"fc64"`` or ``"fc256"``: two hidden layers of 64 or 256 rectifiers.
            ``"conv"``: 8 filters of 10x10 px at every fifth pixel, then 256 rectifiers.
            ``"resnet18"``: a residual network of 18 layers.
        channels: C.
        side: H [px]; at least 10 for ``"conv"``.
        num_classes: K.

    Source:
        Mnih et al. (2014), arXiv:1406.6247, section 4.1, for the first three. Unless ``side`` -
        10 is a multiple of 5, the convolution leaves out the last rows and columns.
        ResNet-18 is He et al. (2016), arXiv:1512.03385.
    """
    if name not in BASELINES:
        raise ValueError(f"name must be one of {', '.join(BASELINES)}, got {name!r}")
    if name == "conv" and side < _KERNEL:
        raise ValueError(f"side must be at least {_KERNEL}, got {side}")
    return FullImageBaseline(BASELINES[name](channels, side, num_classes), (channels, side, side))


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters that a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def multiply_adds(module: nn.Module, *input_shapes: tuple[int, ...]) -> int:
    """Count the products of weights and inputs in one pass over one example.

    Biases, rectifiers, normalisation and pooling are left out, as is usual. ``input_shapes`` are
    those of ``forward``, without the leading 1.
    """
    device = next(module.parameters()).device
    inputs = [torch.zeros(1, *shape, device=device) for shape in input_shapes]
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(module).eval()(*inputs)
    return counter.get_total_flops() // 2  # a multiplication and an addition each


def _fully_connected(width: int) -> Callable[[int, int, int], nn.Module]:
    """Return a function that makes networks with two hidden layers of ``width`` rectifiers."""
    return lambda channels, side, num_classes: nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * side * side, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, num_classes),
    )


def _convolutional(channels: int, side: int, num_classes: int) -> nn.Module:
    """Return the paper's convolutional network."""
    outputs = (side - _KERNEL) // _STRIDE + 1  # along each axis
    return nn.Sequential(
        nn.Conv2d(channels, _FILTERS, _KERNEL, _STRIDE),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(_FILTERS * outputs * outputs, 256),
        nn.ReLU(),
        nn.Linear(256, num_classes),
    )


def _resnet18(channels: int, side: int, num_classes: int) -> nn.Module:
    """Return torchvision's ResNet-18 on C planes, without pretrained weights.

    It is made for 224 px. Below 56 px the first convolution is 3x3 with stride 1 rather than 7x7
    with stride 2, and no max-pooling follows it, as is common for CIFAR.
    """
    from torchvision.models import resnet18  # a second to import, which the others don't need

    network = resnet18(weights=None, num_classes=num_classes)
    if side < 56:
        network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    else:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network


BASELINES: dict[str, Callable[[int, int, int], nn.Module]] = {
    "fc64": _fully_connected(64),
    "fc256": _fully_connected(256),
    "conv": _convolutional,
    "resnet18": _resnet18,
}
"""Functions from (channels, side, num_classes) to a new network, by name."""
