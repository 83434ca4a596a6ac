"""Stable-Baselines3's zip files, each with a manifest next to it.

Loading a zip executes code that it holds. The manifest detects a damaged or exchanged file. It is
not a signature: load zips only from sources whose programs you would run. A run cannot resume from
a zip as exactly as it can from :mod:`agents.runs.checkpoints`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm

from agents.runs.checkpoints import CheckpointError
from agents.runs.hashed import read_hashed_file, write_hashed_file
from agents.runs.machine import versions

AlgorithmT = TypeVar("AlgorithmT", bound=BaseAlgorithm)


def save_sb3(model: BaseAlgorithm, path: str | Path) -> Path:
    """Write ``model`` to ``path``, a zip of Stable-Baselines3, and its manifest next to it."""
    path = Path(path)
    content = io.BytesIO()
    model.save(content)
    facts = {"algorithm": type(model).__name__, "env_steps": model.num_timesteps}
    write_hashed_file(path, content.getvalue(), {**facts, "versions": versions()})
    return path


def load_sb3(
    algorithm: type[AlgorithmT], path: str | Path, *, trust: bool = False, **keywords: Any
) -> AlgorithmT:
    """Load a zip of Stable-Baselines3 after checking it against its manifest.

    Args:
        algorithm: Class of the algorithm, such as ``PPO``.
        path: The zip.
        trust: Skip the check, and so execute whatever the zip contains.
        **keywords: Arguments of ``algorithm.load``, such as ``env`` and ``device``.

    Raises:
        CheckpointError: If the zip or its manifest is missing, they don't match, or the zip holds
            another algorithm.
    """
    if trust:
        return algorithm.load(path, **keywords)
    try:
        content, facts = read_hashed_file(Path(path))
        if facts.get("algorithm") != algorithm.__name__:
            raise ValueError(f"{path} holds {facts.get('algorithm')!r}, not {algorithm.__name__}")
    except ValueError as error:
        advice = "loading a zip executes its code: pass trust=True only if you know its origin"
        raise CheckpointError(f"{error}; {advice}") from error
    return algorithm.load(io.BytesIO(content), **keywords)
