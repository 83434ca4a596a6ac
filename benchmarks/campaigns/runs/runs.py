"""Short runs of the training scripts, to be disturbed and gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.campaigns.runs.process_faults import Fault
from benchmarks.campaigns.runs.processes import Command, Outcome, Signal, run_forked, run_real
from benchmarks.campaigns.runs.run_ends import End, compare, read_end

UPDATES = 24
VALIDATIONS = (8, 16, 24)
"""Updates after which there is a validation."""
SAVES = (5, 8, 10, 15, 16, 20, 24)
"""Updates after which there is a checkpoint."""

_COMMON = [
    *("--num-envs", "16", "--total-episodes", str(16 * UPDATES), "--threads", "1"),
    *("--num-validations", str(len(VALIDATIONS)), "--log-every", "3"),
    *("--checkpoint-every", "5", "--final-split", "validation"),
]
_AGENT = [
    *("train/reinforce.py", "--env-id", "SignpostGlimpse-v0", *_COMMON),
    *("--hidden-size", "32", "--location-hidden", "16"),
]
_CANVAS = [*("train/baselines.py", "--env-id", "Bars-v0", *_COMMON)]
VARIANTS = {
    "agent": _AGENT,
    "conv": [*_CANVAS, "--model", "conv"],
    "lstm": [*_AGENT, "--core", "lstm"],
    "random locations": [*_AGENT, "--locations", "random"],
    "leave one out": [*_AGENT, "--estimator", "leave_one_out", "--num-rollouts", "4"],
    "bf16": [*_AGENT, "--bf16"],
    "learned std": [*_AGENT, "--learned-std", "--shift", "2"],
}
"""The scripts and their flags, by name."""

sabotage: tuple[Fault, ...] = ()
"""Happens to every disturbed run: set by tests, which see that the campaigns can fail."""


@cache
def undisturbed(variant: str) -> tuple[End, float]:
    """Return what a variant ends with when nothing happens to it, and how long it takes [s]."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        command = (*VARIANTS[variant], "--run-dir", str(folder))
        outcome = run_forked(Command(command, folder))
        assert outcome.status == 0, outcome.errors
        return read_end(folder), outcome.seconds


@dataclass(frozen=True)
class Run:
    """A run that is disturbed.

    Attributes:
        variant: A name from :data:`VARIANTS`.
        folder: Where it is written.
        real: Whether in real processes, or in forked ones.
    """

    variant: str
    folder: Path
    real: bool = False

    def go(self, faults: Sequence[Fault] = (), signals: Sequence[Signal] = ()) -> Outcome:
        """Start the run or go on with it, as a person would, until the process ends."""
        begun = (self.folder / "config.json").exists()
        flags = [self.script, "--resume"] if begun else [*VARIANTS[self.variant], "--run-dir"]
        arguments = (*flags, str(self.folder))
        if self.real:
            return run_real(Command(arguments, self.folder, (), tuple(signals)))
        happening = (*sabotage, *faults)
        return run_forked(Command(arguments, self.folder, happening, tuple(signals)))

    @property
    def script(self) -> str:
        """The script that is run."""
        return VARIANTS[self.variant][0]

    def finish(self) -> str | None:
        """Go on with the run to its end; say how that differs from the undisturbed run's."""
        outcome = self.go()
        if outcome.status != 0:
            return f"it did not go on to its end: {outcome.told}"
        return compare(self.folder, undisturbed(self.variant)[0])
