"""What the programs with TorchRL and Tianshou share: layers, and a choice of column, row, class."""

import torch
from torch import nn
from torch.distributions import Categorical, Distribution

GRID = (9, 9)  # columns and rows


def make_layers(num_inputs: int, num_outputs: int) -> nn.Sequential:
    """Make two hidden layers from inputs to outputs."""
    return nn.Sequential(
        *(nn.Linear(num_inputs, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()),
        nn.Linear(128, num_outputs),
    )


class ThreeChoices(Distribution):
    """Independent choices of a column, a row and a class."""

    def __init__(self, logits):
        self.sizes = (*GRID, logits.shape[-1] - sum(GRID))
        self.parts = [Categorical(logits=part) for part in logits.split(self.sizes, -1)]
        super().__init__(logits.shape[:-1], (3,), validate_args=False)

    def sample(self, sample_shape=()):
        """Draw one action."""
        return torch.stack([part.sample(sample_shape) for part in self.parts], -1)

    def log_prob(self, value):
        """Return the log-probability of an action."""
        choices = zip(self.parts, value.unbind(-1), strict=True)
        return sum(part.log_prob(choice) for part, choice in choices)

    def entropy(self):
        """Return the entropy [nat]."""
        return sum(part.entropy() for part in self.parts)

    @property
    def mode(self):
        """The likeliest action."""
        return torch.stack([part.probs.argmax(-1) for part in self.parts], -1)

    deterministic_sample = mode  # as TorchRL calls it

    @property
    def variance(self):
        """The variance of each chosen number; Tianshou logs its root."""
        numbers = [torch.arange(size, dtype=torch.float32) for size in self.sizes]
        pairs = [(part.probs, n) for part, n in zip(self.parts, numbers, strict=True)]
        variances = [(p * n**2).sum(-1) - (p * n).sum(-1) ** 2 for p, n in pairs]
        return torch.stack(variances, -1).clamp(min=0)
