"""Ship a run's best model with the package: `python train/publish.py RUN_DIR NAME`.

Copies what :func:`agents.runs.loading.load_run` reads, the result and the validation errors to
``agents/pretrained/NAME``, without the paths of this machine, and enters their SHA-256 into the
manifest.
"""

from __future__ import annotations

import agents.runs.extras  # noqa: F401 - reports a missing package in one line

# isort: split
import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from agents.runs.commands import run
from agents.runs.files import read_json, to_json, write_whole
from agents.runs.folder_files import portable
from agents.runs.loading import PRETRAINED, load_run

COPIED = ("model.json", "best.safetensors")


@dataclass(frozen=True)
class Config:
    """What to publish."""

    run_dir: tyro.conf.Positional[Path]
    """A finished run of train/reinforce.py."""
    name: tyro.conf.Positional[str]
    """What load_pretrained will call it; replaces what had that name."""

    def __post_init__(self) -> None:
        """Check the name: it becomes a folder's, which is replaced."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", self.name):
            raise ValueError(f"name must be of a-z, 0-9 and -, got {self.name!r}")


def main(config: Config) -> None:
    """Copy the run and enter it into the manifest.

    Raises:
        ValueError: If the run is incomplete, was trained on the sample of digits or is of no
            commit.
    """
    load_run(config.run_dir)  # refuses what could not be read back
    settings = read_json(config.run_dir / "config.json")
    if settings.get("sample") is not False:
        raise ValueError(f"{config.run_dir} was not trained on the full data: not published")
    commit = settings.get("commit") or "none"
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise ValueError(
            f"{config.run_dir} is of commit {commit} (+: with changed files): publish a run of a "
            "commit that others can check out"
        )
    if not (config.run_dir / "result.json").is_file():
        raise ValueError(f"{config.run_dir} has no result.json: publish a finished run")
    result = read_json(config.run_dir / "result.json")
    if result["split"] != "test":
        raise ValueError(f"{config.run_dir} was not judged on the test split: not published")
    settings = portable(settings, config.run_dir)
    result["data"] = result["data"].partition(" from ")[0]

    folder, new = PRETRAINED / config.name, PRETRAINED / f"{config.name}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for name in COPIED:
        shutil.copyfile(config.run_dir / name, new / name)
    for name, content in {"config.json": settings, "result.json": result}.items():
        (new / name).write_text(json.dumps(content, indent=2) + "\n")
    header, *rows = (config.run_dir / "metrics.csv").read_text().splitlines()
    validation = [header, *(row for row in rows if row.split(",")[1] == "eval/error")]
    (new / "validation.csv").write_text("\n".join(validation) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)

    path = PRETRAINED / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {}
    manifest[config.name] = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.iterdir())
    }
    write_whole(path, to_json(dict(sorted(manifest.items()))))
    print(folder)


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line."""
    return tyro.cli(Config, args=arguments, description=(__doc__ or "").splitlines()[0])


if __name__ == "__main__":
    run(main, parse)
