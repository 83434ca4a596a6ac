"""The location policy: sample, detach and log-probability in one place.

Dimension key:
    N: episodes played in parallel
"""

from __future__ import annotations

import math

from torch import Tensor


def sample_location(mean: Tensor, std: float | Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw l_t ~ N(mean, std^2 I) and return it with its log-probability.

    The sample is a constant: no gradient flows through it, only through its log-probability. It
    is not clipped: clipping belongs to the environment, and the log-probability is the sample's.

    Args:
        mean: Shape (N, 2).
        std: Standard deviation, > 0: a scalar, or one each for x and y, shape (2,).
        noise: Standard normal. Shape (N, 2).

    Returns:
        The location, detached, shape (N, 2), and log pi(l_t | h_t), summed over x and y,
        shape (N,).

    Raises:
        ValueError: If a float ``std`` is not positive (a tensor is not read), or the noise has
            another shape than the mean.
    """
    if not isinstance(std, Tensor) and not std > 0:
        raise ValueError(f"std must be positive, got {std}")
    if noise.shape != mean.shape:
        wanted, got = tuple(mean.shape), tuple(noise.shape)
        raise ValueError(f"noise must have mean's shape, {wanted}, got {got}")
    location = (mean + std * noise).detach()  # (N, 2)
    return location, gaussian_log_prob(location, mean, std)


def gaussian_log_prob(location: Tensor, mean: Tensor, std: float | Tensor) -> Tensor:
    """Return log N(location; mean, diag(std^2)), summed over the last axis (x and y)."""
    squares = ((location - mean) / std).square().sum(-1)
    log_std = std.log().mean() if isinstance(std, Tensor) else math.log(std)  # of x and y
    return -0.5 * squares - location.shape[-1] * (log_std + 0.5 * math.log(2 * math.pi))
