"""Stable-Baselines3's zip files, each with a manifest next to it.

The zips contain pickled objects, and loading one executes code that it holds. The manifest detects
a damaged or exchanged file. It is not a signature: load zips only from sources whose programs you
would run. A zip holds neither the environment's state nor those of the random number generators, so
a run cannot resume exactly from one, as it can from :mod:`agents.runs.checkpoints`.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm

from agents.runs.checkpoints import CheckpointError
from agents.runs.hashed import MAX_BYTES, read_hashed_file, write_hashed_file
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
        CheckpointError: If the zip or its manifest is missing, they don't match, the zip holds
            another algorithm, or it has more than 4 GiB, packed or unpacked.
    """
    if trust:
        return algorithm.load(path, **keywords)
    advice = (
        "loading a zip executes code that it holds: pass trust=True only if you know its origin"
    )
    try:
        content, facts = read_hashed_file(Path(path))
        if facts.get("algorithm") != algorithm.__name__:
            raise ValueError(f"{path} holds {facts.get('algorithm')!r}, not {algorithm.__name__}")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise ValueError(f"{path} would unpack to {size} bytes, more than {MAX_BYTES}")
    except (ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{error}; {advice}") from error
    return algorithm.load(io.BytesIO(content), **keywords)
