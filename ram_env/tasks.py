"""The keywords of a task, checked, and the table of registered tasks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from os import PathLike
from typing import Any, Self

import numpy as np

from ram_env.actions import FORMATS
from ram_env.canvas import CanvasStyle, ImageScenes
from ram_env.checks import check_choice, check_flag, check_glimpse, check_int, expect, to_python
from ram_env.data import SPLITS, open_split
from ram_env.scenes import Scenes
from ram_env.signpost import CELL, SignpostScenes

_CHOICES = {
    "split": SPLITS,
    "order": ("random", "sequential"),
    "action_format": FORMATS,
    "reward": ("final", "dense", "log_score"),
}


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Keywords that every task has; the environments' pages describe them.

    Raises:
        ValueError: If a keyword's value is not allowed; the message names it.
    """

    split: str = "train"
    order: str = "random"
    glimpse_size: int
    num_scales: int = 1
    num_glimpses: int
    action_format: str = "box"
    grid_size: tuple[int, int] | None = None
    reward: str = "final"
    allow_stop: bool = False
    glimpse_cost: float = 0.0

    @classmethod
    def from_keywords(cls, **keywords: Any) -> Self:
        """Return the task; numbers and arrays may be NumPy's. ValueError if one is not allowed."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(keywords.keys() - known)
        expect(not unknown, f"unknown keywords {unknown}; allowed: {sorted(known)}")
        for name, value in keywords.items():
            value = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
            several = isinstance(value, (tuple, list))
            keywords[name] = tuple(map(to_python, value)) if several else value
        return cls(**keywords)

    def __post_init__(self) -> None:
        """Check every value."""
        for name, allowed in _CHOICES.items():
            check_choice(name, getattr(self, name), allowed)
        check_flag("allow_stop", self.allow_stop)
        check_int("num_glimpses", self.num_glimpses, 1, 10_000)
        cost, largest = self.glimpse_cost, float(np.finfo(np.float32).max)
        is_number = isinstance(cost, (int, float)) and not isinstance(cost, bool)
        inside = is_number and 0 <= cost <= largest
        expect(inside, f"glimpse_cost must be a finite float32 >= 0, got {cost!r}")
        scored = self.reward != "log_score" or self.action_format == "box"
        wanted = "reward='log_score' scores the class scores of action_format='box'"
        expect(scored, f"{wanted}; action_format={self.action_format!r} has none")
        if (grid := self.grid_size) is not None:
            celled = self.action_format == "multidiscrete"
            expect(celled, "grid_size needs action_format='multidiscrete'")
            is_pair = isinstance(grid, (tuple, list)) and len(grid) == 2
            expect(is_pair, f"grid_size must be (columns, rows), got {grid!r}")
            for name, cells in zip(("columns", "rows"), grid, strict=True):
                check_int(f"grid_size {name}", cells, 1, 1_000)
        check_glimpse("glimpse_size", self.glimpse_size, self.num_scales, self.side)

    @property
    @abstractmethod
    def side(self) -> int:
        """Canvas side [px]."""

    @property
    def grid(self) -> tuple[int, int]:
        """Columns and rows of ``action_format="multidiscrete"``."""
        return self.grid_size or (9, 9)

    @abstractmethod
    def open_scenes(self, device: str | None = None) -> Scenes:
        """Open the data and return the scenes, painted on ``device`` (None: NumPy)."""


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task, CanvasStyle):
    """Find and classify the object of a labelled image on a canvas."""

    glimpse_size: int = 8
    num_glimpses: int = 7
    dataset: str = "MNIST"
    data_dir: str | PathLike[str] | None = None
    canvas_size: int = 28

    def __post_init__(self) -> None:
        """Check every value."""
        CanvasStyle.__post_init__(self)
        is_path = self.data_dir is None or isinstance(self.data_dir, (str, PathLike))
        expect(is_path, f"data_dir must be None or a path, got {self.data_dir!r}")
        super().__post_init__()

    @property
    def side(self) -> int:
        """Canvas side [px]."""
        return self.canvas_size

    def open_scenes(self, device: str | None = None) -> ImageScenes:
        """Open the split; raises what :func:`ram_env.data.load_digits` raises."""
        return ImageScenes(open_split(self.dataset, self.split, self.data_dir), self, device)


@dataclass(frozen=True, kw_only=True)
class SignpostTask(Task):
    """Follow a path of coloured cells and read the marks at its end."""

    glimpse_size: int = 4
    num_glimpses: int = 4
    board_size: int = 3
    chain: int = 1
    parts: int = 1
    num_marks: int = 4

    def __post_init__(self) -> None:
        """Check every value."""
        check_int("board_size", self.board_size, 2, 32)
        check_int("chain", self.chain, 1, self.board_size**2 - 1)
        check_int("num_marks", self.num_marks, 2, 255)
        check_int("parts", self.parts, 1, self.chain + 1)
        got = f"{self.num_marks}**{self.parts}"
        few = self.num_marks**self.parts <= 10_000
        expect(few, f"num_marks**parts, the classes, must be at most 10000, got {got}")
        super().__post_init__()

    @property
    def side(self) -> int:
        """Canvas side [px]."""
        return CELL * self.board_size

    @property
    def grid(self) -> tuple[int, int]:
        """Columns and rows of ``action_format="multidiscrete"``: the board's, unless given."""
        return self.grid_size or (self.board_size, self.board_size)

    def open_scenes(self, device: str | None = None) -> SignpostScenes:
        """Return the split's boards."""
        return SignpostScenes(self.split, self.board_size, self.chain, self.parts, self.num_marks)


_SIDE_60 = {"canvas_size": 60, "translate": True}
_SIDE_60 |= {"glimpse_size": 12, "num_scales": 3, "num_glimpses": 8}
_NO_PERIPHERY = {"glimpse_size": 4, "num_scales": 1, "num_glimpses": 18}
_SIDE_100 = {**_SIDE_60, "canvas_size": 100, "num_scales": 4}

TASKS: dict[str, tuple[type[Task], dict[str, Any]]] = {
    "MNISTGlimpse-v0": (ImageTask, {}),
    "TranslatedMNISTGlimpse-v0": (ImageTask, _SIDE_60),
    "ClutteredMNISTGlimpse-v0": (ImageTask, {**_SIDE_60, "num_clutter": 4}),
    "LargeClutteredMNISTGlimpse-v0": (ImageTask, {**_SIDE_100, "num_clutter": 8}),
    "SearchMNISTGlimpse-v0": (ImageTask, {**_SIDE_60, "num_clutter": 4, **_NO_PERIPHERY}),
    "FashionMNISTGlimpse-v0": (ImageTask, {"dataset": "FashionMNIST"}),
    "KMNISTGlimpse-v0": (ImageTask, {"dataset": "KMNIST"}),
    "CIFAR10Glimpse-v0": (ImageTask, {"dataset": "CIFAR10", "canvas_size": 32, "num_scales": 2}),
    "SignpostGlimpse-v0": (SignpostTask, {}),
}
"""Every registered id, its task's class and the keywords that differ from the defaults."""
