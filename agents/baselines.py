"""Classifiers that see the whole canvas at once: what glimpses are compared with.

Dimension key:
    N: canvases
    C: colour planes
    H: canvas side [px]
    K: classes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_KERNEL, _STRIDE, _FILTERS = 10, 5, 8  # of the paper's convolution
_LARGE = 56  # side from which ResNet-18 as it is made still has two pixels a side at its end


class FullImageBaseline(nn.Module):
    """A classifier of whole canvases.

    Args:
        network: Maps canvases (N, C, H, H) to logits (N, K).
        canvas_shape: (C, H, H), of the canvases it takes.
    """

    def __init__(self, network: nn.Module, canvas_shape: tuple[int, int, int]):
        super().__init__()
        self.network = network
        self.canvas_shape = canvas_shape

    def forward(self, canvases: Tensor) -> Tensor:
        """Name canvases.

        Args:
            canvases: Pixels over 255, in [0, 1]. Shape (N, C, H, H), float32.

        Returns:
            Unnormalised log-probabilities of the classes. Shape (N, K).

        Raises:
            ValueError: If the shape is wrong.
        """
        if canvases.shape != (len(canvases), *self.canvas_shape):
            expected = ", ".join(map(str, self.canvas_shape))
            raise ValueError(
                f"canvases must have shape (N, {expected}), got {tuple(canvases.shape)}"
            )
        return self.network(canvases)


def make_baseline(name: str, channels: int, side: int, num_classes: int) -> FullImageBaseline:
    """Make a classifier with fresh weights, drawn from torch's own generator.

    Args:
        name: ``"fc64"`` or ``"fc256"``: two hidden layers of so many rectifiers.
            ``"conv"``: 8 filters of 10x10 px at every fifth pixel, then 256 rectifiers.
            ``"resnet18"``: a residual network of 18 layers.
        channels: C.
        side: H [px]; at least 10 for ``"conv"``.
        num_classes: K.

    Raises:
        ValueError: If the name is unknown or a number too small.

    Source:
        Mnih et al. (2014), arXiv:1406.6247, section 4.1, for the first three: at 60x60
        ``"fc256"`` has 990,218 parameters and ``"conv"`` 251,442. Where ``side`` - 10 is no
        multiple of 5 the convolution leaves out the last rows and columns (3 at 28 px).
        He et al. (2016), arXiv:1512.03385, for the last, which isn't the paper's.
    """
    if name not in BASELINES:
        raise ValueError(f"name must be one of {', '.join(BASELINES)}, got {name!r}")
    smallest = {"channels": 1, "side": _KERNEL if name == "conv" else 1, "num_classes": 1}
    given = {"channels": channels, "side": side, "num_classes": num_classes}
    for argument, low in smallest.items():
        if given[argument] < low:
            raise ValueError(f"{argument} must be at least {low}, got {given[argument]}")
    return FullImageBaseline(BASELINES[name](channels, side, num_classes), (channels, side, side))


def count_parameters(module: nn.Module) -> int:
    """Return how many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(module: nn.Module, *input_shapes: tuple[int, ...]) -> int:
    """Count the multiplications of weights with inputs in one pass over one example.

    Each goes with an addition. Biases, rectifiers, normalisation and pooling are left out,
    as is usual.

    Args:
        module: Its weights lie in Linear and Conv2d layers; left as it was.
        input_shapes: Of each input of ``forward``, without the leading 1.

    Returns:
        Multiply-adds; a layer that is used twice counts twice.

    Raises:
        ValueError: If other layers hold weight matrices: their work would be missing.
    """
    for name, layer in module.named_modules():
        matrices = any(parameter.ndim > 1 for parameter in layer.parameters(recurse=False))
        if matrices and not isinstance(layer, (nn.Linear, nn.Conv2d)):
            raise ValueError(f"only Linear and Conv2d are counted; {name!r} is another layer")
    total = 0

    def add(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        total += output.numel() * layer.weight[0].numel()  # weights that one output takes

    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    handles = [layer.register_forward_hook(add) for layer in layers]
    modes = {layer: layer.training for layer in module.modules()}
    device = next(module.parameters()).device
    try:
        with torch.no_grad():
            module.eval()(*(torch.zeros(1, *shape, device=device) for shape in input_shapes))
    finally:
        for handle in handles:
            handle.remove()
        for layer, training in modes.items():
            layer.training = training
    return total


def _fully_connected(width: int) -> Callable[[int, int, int], nn.Module]:
    """Return a maker of networks with two hidden layers of ``width`` rectifiers."""
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
    places = (side - _KERNEL) // _STRIDE + 1  # along a side
    return nn.Sequential(
        nn.Conv2d(channels, _FILTERS, _KERNEL, _STRIDE),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(_FILTERS * places * places, 256),
        nn.ReLU(),
        nn.Linear(256, num_classes),
    )


def _resnet18(channels: int, side: int, num_classes: int) -> nn.Module:
    """Return torchvision's ResNet-18 on C planes, without pretrained weights.

    As made for 224 px it would shrink canvases below 56 px to a single pixel before the end. For
    them the first convolution is 3x3 with stride 1 in place of 7x7 with stride 2, and there is
    no max-pooling after it: the form that is common for CIFAR.
    """
    from torchvision.models import resnet18  # a second to import, which the others don't need

    network = resnet18(weights=None, num_classes=num_classes)
    if side < _LARGE:
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
"""By name, a function from (channels, side, num_classes) to a fresh network."""
