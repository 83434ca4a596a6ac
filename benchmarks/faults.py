"""Do to runs, files and environments what goes wrong in the world: `python -m benchmarks.faults`.

Every campaign breaks one kind of thing many times and checks what the project promises for it.
The tests run the same campaigns with fewer rounds. The exit status tells whether all held.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import tyro
from rich.progress import track

from agents.machine import describe_machine
from benchmarks.campaigns.checkpoints.crashes import crashed_saves
from benchmarks.campaigns.checkpoints.damage import damaged_checkpoints
from benchmarks.campaigns.data.datasets import damaged_datasets, racing_downloads
from benchmarks.campaigns.environment.environments import fuzzed_actions, long_run
from benchmarks.campaigns.hostile.malice import hostile_files
from benchmarks.campaigns.runs.kills import broken_numbers, full_disks, killed_runs, signalled_runs


class Campaign(NamedTuple):
    """A kind of fault.

    Attributes:
        run: Takes the number of cases and a scratch folder; yields each case's name, with None
            or what went wrong.
        rounds: Cases in the tests.
        all_rounds: Cases before a release.
    """

    run: Callable[[int, Path], Iterator[tuple[str, str | None]]]
    rounds: int
    all_rounds: int


CAMPAIGNS = {
    "killed_runs": Campaign(killed_runs, 10, 100),
    "signalled_runs": Campaign(signalled_runs, 6, 40),
    "full_disks": Campaign(full_disks, 6, 40),
    "broken_numbers": Campaign(broken_numbers, 8, 40),
    "crashed_saves": Campaign(crashed_saves, 1, 1),  # every system call of a save, always
    "damaged_checkpoints": Campaign(damaged_checkpoints, 60, 400),
    "hostile_files": Campaign(hostile_files, 15, 30),
    "damaged_datasets": Campaign(damaged_datasets, 40, 40),
    "racing_downloads": Campaign(racing_downloads, 5, 20),
    "fuzzed_actions": Campaign(fuzzed_actions, 2_000, 100_000),
    "long_run": Campaign(long_run, 10, 100),  # 10,000 env steps each
}


@dataclass(frozen=True)
class Config:
    """What to run."""

    campaigns: tuple[Literal[tuple(CAMPAIGNS)], ...] = tuple(CAMPAIGNS)  # pyright: ignore[reportInvalidTypeForm]
    """By name; all of them by default."""
    rounds: Literal["all", "test"] = "all"
    """As many cases as before a release, or as in the tests."""


def main(config: Config) -> bool:
    """Run the campaigns, print a Markdown table and the failures; return whether all held."""
    machine = describe_machine(None)
    print(f"{machine['machine']}, torch {machine['versions']['torch']}\n")
    rows, failures = [], []
    for name in config.campaigns:
        campaign = CAMPAIGNS[name]
        rounds = campaign.all_rounds if config.rounds == "all" else campaign.rounds
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            cases = campaign.run(rounds, Path(folder))
            faults = list(track(cases, name, total=rounds, transient=True))
        seconds = time.monotonic() - started
        broken = [f"{name}, {case}: {fault}" for case, fault in faults if fault]
        rows.append(
            f"| `{name}` | {len(faults) - len(broken)} of {len(faults)} | {seconds:.0f} s |"
        )
        failures += broken
    print("\n".join(["| campaign | held | time |", "|---|---:|---:|", *rows, "", *failures]))
    return not failures


if __name__ == "__main__":
    sys.exit(0 if main(tyro.cli(Config, description=(__doc__ or "").splitlines()[0])) else 1)
