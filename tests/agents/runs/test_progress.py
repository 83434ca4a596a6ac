"""The status line: due every 2 seconds on a terminal, else every 30, and read only then."""

from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from agents.runs.progress import TrainingProgress

UNREAD: Any = object()  # in an accuracy's place while no line is due: float() would raise


def make(
    *, terminal: bool, kind: str = "xterm"
) -> tuple[TrainingProgress, SimpleNamespace, StringIO]:
    clock, out, environ = SimpleNamespace(now=100.0), StringIO(), {"TERM": kind}
    console = Console(
        file=out, force_terminal=terminal, width=120, highlight=False, _environ=environ
    )
    return TrainingProgress(console, lambda: clock.now), clock, out


def test_updates_are_counted_and_the_time_left_is_at_the_mean_speed():
    progress, clock, _ = make(terminal=False)
    assert progress.time_left == "time left unknown"
    counted = []
    for update in progress.updates(2, 6):
        clock.now += 3600
        counted.append((update, progress.time_left))
    left = [f"{hours}:00:00 left" for hours in (3, 2, 1, 0)]
    assert counted == list(zip([2, 3, 4, 5], left, strict=True))
    assert progress._bar.finished


def test_the_time_left_has_no_bound():
    progress, clock, _ = make(terminal=False)
    next(progress.updates(0, 2**60))
    clock.now += 3600
    assert progress.time_left == f"{2**60}:00:00 left"


@pytest.mark.parametrize(
    ("terminal", "kind", "seconds"),
    [(True, "xterm", 2), (True, "dumb", 30), (False, "xterm", 30)],
)
def test_a_line_appears_when_it_is_due_and_not_before(terminal, kind, seconds):
    progress, clock, out = make(terminal=terminal, kind=kind)
    updates = progress.updates(0, 4)
    next(updates)
    progress.report(1_000, UNREAD)
    next(updates)
    clock.now += seconds - 0.5
    progress.report(2_000, UNREAD)
    clock.now += 0.5
    progress.report(1_000 + 500 * seconds, torch.tensor(0.875))
    clock.now += 1
    progress.report(9_000, UNREAD)
    assert len(list(updates)) == 2  # ends the refreshed line
    line = (
        f"{1_000 + 500 * seconds:,} episodes, 500 per second, training accuracy 87.5 %, "
        f"0:00:{seconds:02d} left"  # 2 of 4 updates
    )
    assert line in out.getvalue()
    assert seconds == 2 or out.getvalue() == f"{line}\n"
