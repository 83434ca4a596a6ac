"""What runs of the scripts end with, and whether one that was disturbed ended just so."""

from __future__ import annotations

import csv
import json
import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.checkpoints import CheckpointError, list_checkpoints, read_checkpoint

KEPT = 3  # checkpoints
_SAME = ("best.safetensors", "metrics.csv", "result.json")
_EXPECTED = re.compile(
    r"config\.json|model\.json|log\.txt|timing\.csv|run\.lock|checkpoints|"
    r"events\.out\.tfevents\.[^/]*|checkpoints/step_\d{8}(/(\w+\.safetensors|\w+\.json))?|"
    + "|".join(re.escape(name) for name in _SAME)
)
Scalar = tuple[str, int, float]  # tag, step, value


@dataclass(frozen=True)
class End:
    """What must not depend on what happened to a run.

    Attributes:
        files: The content of files: weights, metrics, result, all of the last checkpoint.
        scalars: TensorBoard's, but for ``time/``.
        settings: Of config.json, but for where the run lies.
        timed: Env steps of the lines of timing.csv.
    """

    files: dict[str, bytes]
    scalars: list[Scalar]
    settings: dict[str, Any]
    timed: list[int]


def read_end(folder: Path) -> End:
    """Read what a run has ended with."""
    files = {name: (folder / name).read_bytes() for name in _SAME}
    if (folder / "model.json").exists():
        files["model.json"] = (folder / "model.json").read_bytes()
    last = list_checkpoints(folder / "checkpoints")[-1]
    files |= {f"{last.name}/{path.name}": path.read_bytes() for path in last.iterdir()}
    settings = json.loads((folder / "config.json").read_text())
    timing = (folder / "timing.csv").read_text().splitlines()[1:]
    return End(
        files,
        _read_scalars(folder),
        {k: v for k, v in settings["config"].items() if k != "run_dir"}
        | {k: settings[k] for k in ("data", "sample", "device")},
        [int(line.split(",")[0]) for line in timing],
    )


def _read_scalars(folder: Path) -> list[Scalar]:
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every resume
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return sorted(
        (tag, event.step, event.value)
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
        if not tag.startswith("time/")
    )


def compare(folder: Path, whole: End) -> str | None:
    """Say how a finished run differs from the undisturbed one, or what it left over."""
    try:
        end = read_end(folder)
    except (OSError, ValueError, LookupError) as error:
        return f"its end cannot be read: {error!r}"
    for name in sorted(end.files.keys() | whole.files.keys()):
        if end.files.get(name) != whole.files.get(name):
            return f"{name} differs from the undisturbed run's"
    if end.scalars != whole.scalars:
        differing = sorted(set(end.scalars) ^ set(whole.scalars)) or "only in their number"
        return f"TensorBoard's scalars differ: {differing[:3]}"
    if end.settings != whole.settings:
        return f"config.json differs: {end.settings}"
    if end.timed != whole.timed:
        return f"timing.csv has the steps {end.timed}, not {whole.timed}"
    result = json.loads((folder / "result.json").read_text())
    if result["line"] not in (folder / "log.txt").read_text():
        return "log.txt doesn't hold the result"
    return check_checkpoints(folder) or find_leftovers(folder)


def check_checkpoints(folder: Path) -> str | None:
    """Say which checkpoint of a run is damaged, or whether there are too many."""
    paths = list_checkpoints(folder / "checkpoints")
    if len(paths) > KEPT:
        return f"{len(paths)} checkpoints were kept"
    for path in paths:
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            return str(error)
    return None


def newest(folder: Path) -> int:
    """Return the update of a run's newest checkpoint, 0 if there is none."""
    paths = list_checkpoints(folder / "checkpoints")
    return int(paths[-1].name[5:]) if paths else 0


def find_leftovers(folder: Path) -> str | None:
    """Say which file in a finished run's folder should not be there."""
    for path in sorted(folder.rglob("*")):
        if not _EXPECTED.fullmatch(str(path.relative_to(folder))):
            return f"{path} was left over"
    return None


def find_broken_number(folder: Path) -> str | None:
    """Say where in a run folder a number is stored that is none."""
    for path in folder.rglob("*.safetensors"):
        for name, tensor in load(path.read_bytes()).items():
            if not tensor.isfinite().all():
                return f"{path} holds a number that is none in {name}"
    for path in folder.rglob("*.json"):
        if re.search(r"\b(NaN|Infinity)\b", path.read_text()):
            return f"{path} holds a number that is none"
    for path in folder.glob("*.csv"):
        for row in csv.reader(path.read_text().splitlines()[1:]):
            if not math.isfinite(float(row[-1])):
                return f"{path} holds {row}"
    if broken := [scalar for scalar in _read_scalars(folder) if not math.isfinite(scalar[2])]:
        return f"TensorBoard's events hold {broken[0]}"
    return None
