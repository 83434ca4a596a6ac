"""The files that a run appends to, cut back to its checkpoint when it resumes, and its clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from agents.runs.files import read_file, write_whole

_MAX_CSV = 2**30  # [B]


def cut_csv(path: Path, header: str, before: int) -> list[str]:
    """Cut a CSV file back to the rows before a number of env steps; create it if missing.

    Returns:
        The values of the last row that is left; empty if there is none.
    """
    try:
        text = read_file(path, _MAX_CSV).decode() if path.exists() else ""
        lines = text.splitlines(keepends=True)[1:]
        whole = [line for line in lines if line.endswith("\n")]  # a crash may cut off the last
        kept = [line for line in whole if int(line.split(",", 1)[0]) < before]
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    write_whole(path, "".join([header + "\n", *kept]).encode())
    return kept[-1].rstrip().split(",") if kept else []


class Stopwatch:
    """Measures how long a run takes, in this process and in those that it resumes."""

    def __init__(self) -> None:
        self._earlier = (0.0, 0.0)
        self.start()

    def start(self) -> None:
        """Begin to count."""
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def add_earlier(self, row: Sequence[str], path: Path) -> None:
        """Add the time of earlier processes, from the last row of ``timing.csv``, if any."""
        try:
            _, seconds, cpu_seconds, _ = map(float, row or (0, 0, 0, 0))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: its last row is {row}") from error
        self._earlier = (seconds, cpu_seconds)

    def read(self) -> tuple[float, float]:
        """Return wall-clock time and CPU time [s]."""
        wall, cpu = time.monotonic() - self._wall, time.process_time() - self._cpu
        return self._earlier[0] + wall, self._earlier[1] + cpu

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Return a context whose CPU time does not count."""
        before = time.process_time()
        try:
            yield
        finally:
            self._cpu += time.process_time() - before


def open_events(folder: Path, purge_step: int | None) -> SummaryWriter:
    """Open a new file of TensorBoard events; readers drop older ones from ``purge_step`` on."""
    words = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
    stamps = [int(word) for word in words if word.isdecimal()]
    while int(time.time()) == max(stamps, default=0):  # files are read in the order of seconds
        time.sleep(0.05)
    return SummaryWriter(str(folder), purge_step=purge_step)
