"""Checkpoints of Stable-Baselines3 runs: its own zip files, each beside a manifest.

A zip of Stable-Baselines3 holds pickled objects, and loading one runs what they say. The
manifest tells a damaged or exchanged file from the one that was saved; it is no signature, so
open zips only from where you would run programs from. And a zip holds neither the
environment's state nor that of the random number generators nor a rollout that was under way:
a run that goes on from one is a good run, but not the same run. Our own trainer's checkpoints
(:mod:`agents.runs.checkpoints`) have neither limit.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from agents.runs.checkpoints import CheckpointError
from agents.runs.files import read_json, replace, to_json, write_whole
from agents.runs.machine import versions

SCHEMA = 1
"""Version of the manifest; another one is refused."""

MAX_BYTES = 4 * 2**30
"""A zip that would unpack to more than this is refused."""

AlgorithmT = TypeVar("AlgorithmT", bound=BaseAlgorithm)


class ManifestCheckpointCallback(BaseCallback):
    """Save the model every so often through ``model.save``, with a manifest.

    Writes ``step_<env steps>.zip`` and ``step_<env steps>.zip.json`` into the folder, all of a
    file or none, and keeps the newest up to that one; a last one is saved when training ends.

    Args:
        folder: Where to; made if it isn't there.
        save_every: Env steps, of all lanes together, between two checkpoints.
        keep: So many of the newest stay.
        verbose: As Stable-Baselines3's.
    """

    def __init__(self, folder: Path, save_every: int, *, keep: int = 3, verbose: int = 0):
        super().__init__(verbose)
        if save_every < 1 or keep < 1:
            raise ValueError(f"save_every and keep must be at least 1, got {save_every} and {keep}")
        self.folder, self.save_every, self.keep = Path(folder), save_every, keep
        self._saved_at = 0

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
        if self.verbose:
            print(f"saved {path}")
        saved = [old for old in sorted(self.folder.glob("step_*.zip")) if old.name <= path.name]
        for old in saved[: -self.keep]:  # later ones are another run's
            manifest_path(old).unlink(missing_ok=True)
            old.unlink()


def save_sb3(model: BaseAlgorithm, path: Path) -> Path:
    """Write ``model`` to ``path``, a zip of Stable-Baselines3, and its manifest beside it."""
    new = path.with_name(f".{path.name}.new.zip")
    model.save(new)
    content = new.read_bytes()
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    manifest = {
        "schema": SCHEMA,
        "algorithm": type(model).__name__,
        "env_steps": model.num_timesteps,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "versions": versions(),
    }
    write_whole(manifest_path(path), to_json(manifest))
    replace(new, path)
    return path


def manifest_path(path: Path) -> Path:
    """Return where the manifest of a zip lies: ``model.zip.json`` beside ``model.zip``."""
    return path.with_name(f"{path.name}.json")


def load_sb3(
    algorithm: type[AlgorithmT], path: Path, *, trust: bool = False, **keywords: Any
) -> AlgorithmT:
    """Load a zip of Stable-Baselines3 once it is the one that its manifest describes.

    Args:
        algorithm: Such as ``PPO``.
        path: The zip.
        trust: Load it without a manifest or against it. Loading runs what the zip says.
        keywords: For ``algorithm.load``: ``env``, ``device``, ...

    Raises:
        CheckpointError: If the manifest is missing, of another schema or algorithm, or does not
            match, or the zip would unpack to more than 4 GiB.
    """
    path = Path(path)
    if not trust:
        _check(algorithm.__name__, path)
    return algorithm.load(path, **keywords)


def _check(algorithm: str, path: Path) -> None:
    """Compare a zip with its manifest, and its unpacked size with what is sensible."""
    advice = "loading a zip runs what it says: pass trust only if you know where it is from"
    try:
        manifest = read_json(manifest_path(path))
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be checked: {error}; {advice}") from error
    expected = {
        "schema": SCHEMA,
        "algorithm": algorithm,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    for name, value in expected.items():
        if manifest.get(name) != value:
            raise CheckpointError(
                f"{path} does not match its manifest: {name} should be "
                f"{manifest.get(name)!r}, got {value!r}; {advice}"
            )
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is no zip: {error}") from error
    if size > MAX_BYTES:
        raise CheckpointError(f"{path} would unpack to {size} bytes, more than {MAX_BYTES}")
