"""The label policy: a class is an action, too.

Dimension key:
    N: episodes played in parallel
    K: classes
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample_label(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a class from each row of probabilities: (N, K) to (N,).

    K clocks race: that of class k rings after E_k / p_k, where E_k ~ Exp(1), and is the first with
    probability p_k. ``torch.multinomial`` draws the same classes from the same generator. On a GPU
    it also asserts that no p_k is NaN, and a failure ends the process's use of the GPU. Here a NaN
    is the largest value and wins, so that a diverged run can still be reported.
    """
    clocks = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities.detach() / clocks).argmax(1)
