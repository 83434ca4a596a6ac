"""Convert a folder of results that has a folder per seed: `python -m train.comparison.convert DIR`.

Until December 2026, train/compare.py wrote ``<task>/<algorithm>/seed_<n>/`` with three files, and
``<task>/<algorithm>/trials.csv``, ``retries.csv`` and ``finals.csv``. They are removed once the
task's ``seeds.jsonl`` and ``trials.jsonl`` are written.
"""

import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from agents.runs.files import convert, read_csv, read_json
from train.comparison.results import BEHAVIOUR, Curve, Result, Seed, Trial, write_lines


def convert_task(task: Path) -> None:
    """Write the two files of a task, and remove those that they replace."""
    folders = [path.parent for path in task.glob("*/seed_*/result.json")]
    phases = list(task.glob("*/*.csv"))
    if folders:
        write_lines(task / "seeds.jsonl", [*map(_read_seed, folders)])
    if phases:
        write_lines(task / "trials.jsonl", [each for path in phases for each in _read_trials(path)])
    for path in folders:
        shutil.rmtree(path)
    for path in phases:
        path.unlink()
    for path in {path.parent for path in (*folders, *phases)}:
        path.rmdir()


def _read_seed(folder: Path) -> Seed:
    config, result = (read_json(folder / f"{name}.json") for name in ("config", "result"))
    rows = read_csv(folder / "metrics.csv")
    names = rows[0] if rows else Curve.__struct_fields__[:4]
    columns = {name: np.array([row[name] for row in rows], dtype=float) for name in names}
    behaviour = {tag: columns.pop(tag) for tag in BEHAVIOUR if tag in columns}
    number = int(folder.name.removeprefix("seed_"))
    curve = Curve(**columns, behaviour=behaviour)
    return Seed(folder.parent.name, number, convert(result, Result), curve, config)


def _read_trials(path: Path) -> list[Trial]:
    """Return the trials of a phase; where a setting is empty, the program's default was tried."""
    trials = []
    for row in read_csv(path):
        own: dict[str, Any] = {"algorithm": path.parent.name, "phase": path.stem, "settings": {}}
        own |= {name: row.pop(name, "") for name in ("trial", "status", "error", "called_as")}
        for flag, text in row.items():
            for kind in (str, float, int):  # the last that fits
                with suppress(ValueError):
                    own["settings"] |= {flag: kind(text)} if text else {}
        trials.append(convert(own, Trial, strict=False))
    return trials


if __name__ == "__main__":
    for each in Path(sys.argv[1]).iterdir():
        convert_task(each)
