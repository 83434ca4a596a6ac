"""Agents for glimpse-based classification, for any environment with the same spaces.

Models, published weights and evaluation need no extra; training needs the extra ``train``. The
scripts that train, evaluate and export are in the repository's ``train/``, not in the wheel.
"""

from agents.ram import RAMConfig, RecurrentAttentionModel
from agents.runs.loading import load_pretrained, load_run

__all__ = ["RAMConfig", "RecurrentAttentionModel", "load_pretrained", "load_run"]
