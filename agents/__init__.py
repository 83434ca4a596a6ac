"""Learners of glimpse-based classification: they know spaces and arrays, no environment.

Models and published weights need torch and safetensors; training and evaluation also what
``pip install "ram-env[train]"`` brings.
"""

from agents.loading import load_pretrained, load_run
from agents.ram import RAMConfig, RecurrentAttentionModel

__all__ = ["RAMConfig", "RecurrentAttentionModel", "load_pretrained", "load_run"]
