"""A curriculum: easier stages of a task to train on first, then the task itself.

A TOML file lists the stages, each a change of the task's keywords, and when it ends::

    [[stages]]
    until = 0.06  # share of the training budget
    success = 0.8  # optional: ends the stage earlier, at this success rate
    env = { canvas_size = 28, num_clutter = 0 }

After the last stage the agent trains on the task. Every env step counts towards the budget, and
validation is always on the task. A curriculum uses its designer's knowledge of the task: don't rank
runs with one against runs without.

Source:
    Bengio et al. (2009), "Curriculum learning".
"""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec

from agents.runs.files import read_toml
from ram_env.tasks import Task

FOLDER = Path(__file__).parent / "curricula"
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An easier version of the task.

    Attributes:
        until: Share of the training budget at which the stage ends.
        env: Keywords of the environment that differ from the task's.
        success: Success rate at which it ends earlier: the share of episodes whose last reward is
            positive. None: only ``until`` ends it.
    """

    until: Share
    env: dict[str, Any]
    success: Share | None = None


def read_curriculum(name: str, task: Task) -> tuple[Stage, ...]:
    """Return the stages of a file, or of ``train/curricula/<name>.toml``, for a task.

    Raises:
        ValueError: If the file can't be read, the shares don't rise, or a stage has an unknown
            keyword, changes more than the scene, or follows success where no last reward is
            positive. The message names the file, and the stage if one is at fault.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if path.parent == FOLDER and not path.exists():
        known = sorted(each.stem for each in FOLDER.glob("*.toml"))
        raise ValueError(f"curriculum must be a .toml file or among {known}, got {name!r}")
    stages = read_toml(path, dict[str, tuple[Stage, ...]])
    if stages.keys() != {"stages"} or not stages["stages"]:
        raise ValueError(f"{path} must hold [[stages]] and nothing else, got {sorted(stages)}")
    scene = {field.name for field in fields(task)} - {field.name for field in fields(Task)}
    scene -= {"dataset", "data_dir"}
    for number, stage in enumerate(stages["stages"], 1):
        where = f"{path}, stage {number}: env"
        if others := sorted(stage.env.keys() - scene):
            raise ValueError(
                f"{where} may only change the scene ({sorted(scene)}), not what the agent sees, "
                f"does, is paid or names: got {others}"
            )
        try:
            replace(task, **stage.env)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    last_reward = 1 / task.num_glimpses if task.reward == "dense" else 1
    pays = task.reward != "log_score" and last_reward > task.glimpse_cost
    if not pays and any(stage.success for stage in stages["stages"]):
        raise ValueError(
            f"{path}: success counts last rewards above 0, but reward={task.reward!r} with "
            f"glimpse_cost={task.glimpse_cost} has none: give until alone"
        )
    for before, after in pairwise(stages["stages"]):
        if before.until >= after.until:
            shares = [stage.until for stage in stages["stages"]]
            raise ValueError(f"{path}: until must rise from stage to stage, got {shares}")
    return stages["stages"]
