"""Learners of glimpse-based classification: they know spaces and arrays, no environment.

Models and published weights need torch and safetensors; training and evaluation also what
``pip install "ram-env[train]"`` brings.
"""

from agents.ram import RAMConfig, RecurrentAttentionModel
from agents.runs.loading import load_pretrained, load_run

__all__ = ["RAMConfig", "RecurrentAttentionModel", "load_pretrained", "load_run"]
