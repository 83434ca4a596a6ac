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
from stable_baselines3.common.callbacks import BaseCallback

from agents.runs.checkpoints import CheckpointError
from agents.runs.hashed import MAX_BYTES, manifest_path, read_hashed_file, write_hashed_file
from agents.runs.machine import versions

AlgorithmT = TypeVar("AlgorithmT", bound=BaseAlgorithm)


class ManifestCheckpointCallback(BaseCallback):
    """Save the model regularly, and once more when training ends, as ``step_<env steps>.zip``.

    Args:
        folder: Folder for the zips; created if missing.
        save_every: Env steps, of all lanes together, between two checkpoints.
        keep: Number of checkpoints to keep, counted back from the newest of this run.
    """

    def __init__(self, folder: Path, save_every: int, *, keep: int = 3):
        super().__init__()
        if save_every < 1 or keep < 1:
            raise ValueError(f"save_every and keep must be at least 1, got {save_every} and {keep}")
        self.folder, self.save_every, self.keep = Path(folder), save_every, keep

    def _on_training_start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._saved_at = self.num_timesteps

    def _on_step(self) -> bool:
        if self.num_timesteps - self._saved_at >= self.save_every:
            self._save()
        return True

    def _on_training_end(self) -> None:
        if self.num_timesteps > self._saved_at:
            self._save()

    def _save(self) -> None:
        self._saved_at = self.num_timesteps
        path = save_sb3(self.model, self.folder / f"step_{self.num_timesteps:010d}.zip")
        saved = [old for old in sorted(self.folder.glob("step_*.zip")) if old.name <= path.name]
        for old in saved[: -self.keep]:  # zips of later steps belong to another run
            manifest_path(old).unlink(missing_ok=True)
            old.unlink()


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
