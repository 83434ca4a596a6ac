"""How long a training run takes, and what it shows on the terminal meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor


class Stopwatch:
    """Measures wall-clock and CPU time [s], on top of what earlier processes took for the run."""

    def __init__(self, wall: float = 0.0, cpu: float = 0.0):
        self._earlier = (wall, cpu)
        self.start()

    def start(self) -> None:
        """Begin to count."""
        self._wall = time.monotonic() - self._earlier[0]
        self._cpu = time.process_time() - self._earlier[1]

    def read(self) -> tuple[float, float]:
        """Return wall-clock time and CPU time [s]."""
        return time.monotonic() - self._wall, time.process_time() - self._cpu

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Return a context whose CPU time does not count."""
        before = time.process_time()
        try:
            yield
        finally:
            self._cpu += time.process_time() - before


class TrainingProgress:
    """Counts updates and shows how training goes.

    On a terminal that can redraw, that is a bar with one line, refreshed every 2 seconds; elsewhere
    it is a plain line every 30 seconds. ``share`` is that of this process's updates that have
    begun.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self.share = 0.0
        self._console, self._clock, self._begun = console, clock, clock()
        self._last_line: tuple[float, int] | None = None  # when, and episodes by then
        columns = (BarColumn(bar_width=16), TextColumn("{task.description}", markup=False))
        self._draws = console.is_terminal and not console.is_dumb_terminal
        off = not self._draws
        self._bar = Progress(*columns, console=console, disable=off, get_time=clock)
        self._task = self._bar.add_task("")

    def updates(self, first: int, total: int) -> Iterator[int]:
        """Count from ``first`` to ``total``, with a bar on a terminal."""
        self._begun = self._clock()
        with self._bar:
            for update in range(first, total):
                self.share = (update + 1 - first) / (total - first)
                self._bar.update(self._task, completed=update, total=total)
                yield update
            self._bar.update(self._task, completed=total)

    def report(self, episodes: int, accuracy: float | Tensor) -> None:
        """Show episodes so far, their rate, the time left and the newest update's accuracy.

        The accuracy is from 0 to 1. A tensor is only read when a line is due, so that a GPU isn't
        waited for.
        """
        now = self._clock()
        then, before = self._last_line = self._last_line or (now, episodes)
        if now - then < (2 if self._draws else 30):
            return
        self._last_line = (now, episodes)
        line = (
            f"{episodes:,} episodes, {(episodes - before) / (now - then):,.0f} per second, "
            f"training accuracy {100 * float(accuracy):.1f} %, {self.time_left}"
        )
        if self._draws:
            self._bar.update(self._task, description=line)
        else:
            self._console.print(line, markup=False)

    @property
    def time_left(self) -> str:
        """Time that the remaining updates take at the mean speed so far, such as 0:12:34 left."""
        if not self.share:
            return "time left unknown"
        seconds = round((self._clock() - self._begun) * (1 / self.share - 1))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
