"""Learners of glimpse-based classification: they know spaces and arrays, no environment."""

from agents.loading import load_pretrained, load_run
from agents.ram import RAMConfig, RecurrentAttentionModel

__all__ = ["RAMConfig", "RecurrentAttentionModel", "load_pretrained", "load_run"]
