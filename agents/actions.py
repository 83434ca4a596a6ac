"""The action: a location from a Gaussian and a label from the class probabilities.

Dimension key:
    N: episodes played in parallel
    K: classes
"""

from __future__ import annotations

import math

from torch import Tensor


def sample_location(mean: Tensor, std: float | Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw l_t ~ N(mean, std^2 I) and return it with its log-probability.

    The sample is a constant: a gradient flows only through its log-probability. Clipping belongs
    to the environment.

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
    squares = ((location - mean) / std).square().sum(-1)  # (N,)
    log_std = std.log().mean() if isinstance(std, Tensor) else math.log(std)  # of x and y
    return location, -0.5 * squares - 2 * (log_std + 0.5 * math.log(2 * math.pi))


def choose_label(logits: Tensor, clocks: Tensor, temperature: float) -> Tensor:
    """Draw a class from each row of softmax(logits / temperature), (N, K) to (N,).

    Args:
        logits: Shape (N, K).
        clocks: See :func:`sample_label`. Shape (N, K).
        temperature: 0 chooses the likeliest class.
    """
    if not temperature:
        return logits.argmax(1)
    return sample_label((logits / temperature).softmax(1), clocks)


def sample_label(probabilities: Tensor, clocks: Tensor) -> Tensor:
    """Draw a class from each row of probabilities: (N, K) to (N,).

    K clocks race: that of class k rings after E_k / p_k, and is the first with probability p_k.
    ``torch.multinomial`` works alike, but a NaN ends the process's use of a GPU. Here it wins, so
    that a diverged run can still be reported.

    Args:
        probabilities: p_k. Shape (N, K).
        clocks: E_k, exponential of mean 1. Shape (N, K).
    """
    return (probabilities.detach() / clocks).argmax(1)
