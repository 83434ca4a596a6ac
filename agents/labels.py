"""The label policy: a class is an action, too.

Dimension key:
    N: episodes played in parallel
    K: classes
"""

from __future__ import annotations

from torch import Tensor


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
    ``torch.multinomial`` works alike. On a GPU it also asserts that no p_k is NaN, and a failure
    ends the process's use of the GPU. Here a NaN is the largest value and wins, so that a diverged
    run can still be reported.

    Args:
        probabilities: p_k. Shape (N, K).
        clocks: E_k, exponential of mean 1. Shape (N, K).
    """
    return (probabilities.detach() / clocks).argmax(1)
