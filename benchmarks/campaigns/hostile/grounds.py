"""Where hostile files are planted: sound files of every kind that is loaded, and their openers."""

from __future__ import annotations

import hashlib
import json
import os
import pkgutil
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import save_file

from agents import loading
from agents.checkpoints import read_checkpoint
from agents.ram import RAMConfig, RecurrentAttentionModel
from agents.run_files import finished_line
from benchmarks.campaigns.checkpoints.small_runs import STEPS, checkpoint_path, make_run, resume
from benchmarks.campaigns.data.made_up import MadeUp, write

CHECKPOINT = "run/checkpoints/step_00000003"
DATA = {"idx": ("MNIST", False), "gz": ("MNIST", True), "batches": ("CIFAR10", False)}
DATA |= {"tar": ("CIFAR10", True)}
"""Folders of datasets: which it is, and whether it is packed."""

_MODEL = RAMConfig((1, 2, 2), 2, what_size=2, where_size=2, hidden_size=2)
_made = MadeUp()


class Grounds:
    """A folder of sound files, and a copy in which hostile ones are planted.

    Args:
        folder: Scratch directory.

    Attributes:
        sound: A run that can be resumed and loaded, a preset, a published run, datasets.
        here: Its copy.
        outside: A folder of files that must stay as they are.
    """

    def __init__(self, folder: Path):
        self.sound, self.here, self.outside = (folder / n for n in ("sound", "here", "outside"))
        make_run(self.sound / "run")
        make_run(self.outside / "run")
        for step in STEPS[:-1]:
            shutil.rmtree(checkpoint_path(self.sound / "run", step))  # nothing older to go on from
        torch.manual_seed(0)
        save_file(
            RecurrentAttentionModel(_MODEL).state_dict(), self.sound / "run" / "best.safetensors"
        )
        (self.sound / "run" / "model.json").write_text(json.dumps(asdict(_MODEL)))
        self._publish()
        for name, (dataset, packed) in DATA.items():
            write(self.sound / name, _made.members(dataset, packed))
        (self.sound / "presets").mkdir()
        (self.sound / "presets" / "some.toml").write_text("num_envs = 16\n")
        self._before = _digest(self.outside)

    def open_all(self) -> None:
        """Open all sound files, so that nothing is left to be imported."""
        shutil.copytree(self.sound, self.here)
        for opener in (go_on, load, load_published, read_preset):
            opener(self.here)
        for module in ("platformdirs", "filelock", "torchvision.datasets", "ram_env.data"):
            pkgutil.resolve_name(module)
        for encoding in ("utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be", "utf-32-le"):
            "".encode(encoding)  # JSON may be in one of them

    def restore(self, place: str) -> None:
        """Let the part of ``here`` that holds a place be as it was: run, presets or data."""
        part = Path(place).parts[0]
        for folder in (part, "cache"):
            shutil.rmtree(self.here / folder, ignore_errors=True)
        shutil.copytree(self.sound / part, self.here / part)

    def find_harm(self) -> str | None:
        """Say so if a file outside was changed."""
        return None if _digest(self.outside) == self._before else "a file outside was changed"

    def _publish(self) -> None:
        """Ship the run as the package ships its own."""
        published = self.sound / "published" / "some"
        published.mkdir(parents=True)
        names = ("config.json", "model.json", "best.safetensors")
        for name in names:
            shutil.copyfile(self.sound / "run" / name, published / name)
        digests = {n: hashlib.sha256((published / n).read_bytes()).hexdigest() for n in names}
        (published.parent / "manifest.json").write_text(json.dumps({"some": digests}))


def go_on(folder: Path) -> None:
    """Go on with the run, as ``--resume`` does."""
    finished_line(folder / "run")
    resumed = resume(folder / "run", then=1)
    if resumed.error is not None:
        raise resumed.error
    log = (folder / "run" / "log.txt").read_text()
    assert log.replace("\n", "").isprintable(), f"the log would disturb a terminal: {log!r}"


def go_on_from_checkpoint(folder: Path) -> None:
    """Go on with the run; say at once what is wrong with its checkpoint."""
    read_checkpoint(folder / CHECKPOINT)
    go_on(folder)


def load_and_go_on(folder: Path) -> None:
    """Load the run's best model, then go on with the run."""
    load(folder)
    go_on_from_checkpoint(folder)


def load(folder: Path) -> None:
    """Load the run's best model."""
    loading.load_run(folder / "run")


def load_published(folder: Path) -> None:
    """Load a published model."""
    with patch.object(loading, "PRETRAINED", folder / "published"):
        loading.load_pretrained("some")


def read_preset(folder: Path) -> None:
    """Read settings of the training script."""
    from train import reinforce

    presets = {"PRESET_FOLDER": folder / "presets", "PRESETS": ("some",)}
    with patch.multiple(reinforce, **presets):
        reinforce.read_preset("some")


def open_data(name: str, dataset: str | None = None) -> Callable[[Path], None]:
    """Return what opens the dataset of a folder in :data:`DATA`."""

    def opener(folder: Path) -> None:
        from ram_env.data import open_split

        os.environ["RAM_ENV_MIRROR"] = "http://127.0.0.1:9/"  # the discard port: refused
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        os.environ.pop("RAM_ENV_DATA", None)
        for attribute, value in _made.tables.items():
            owner, _, last = attribute.rpartition(".")
            setattr(pkgutil.resolve_name(owner), last, value)
        open_split(dataset or DATA[name][0], "train", folder / name)

    return opener


def _digest(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
