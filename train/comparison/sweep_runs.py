"""The trainings of a sweep's trial: begun, watched at their marks, given up or finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from agents.runs.commands import DIVERGED
from agents.runs.files import make_folder
from train.comparison.jobs import start_program, wait_or_kill
from train.comparison.sweeps import Sweep, rounded

FINAL_STD = 0.03
"""Of every trial, or its std, if that is lower."""


class Attempt:
    """A trial under way in this process: its trainings, one seed after the other.

    Args:
        program: Words that a training begins with.
        folder: Where the study's trials have their folders.
        sweep: That the trial is of.
        trial: Begun.
        settings: Of the study.

    Attributes:
        state: How the trial ended, or None while it goes on.
        news: A line on that.
    """

    def __init__(
        self,
        program: Sequence[str],
        folder: Path,
        sweep: Sweep,
        trial: optuna.Trial,
        settings: Mapping[str, Any],
    ):
        self._sweep, self._trial, self._settings = sweep, trial, settings
        self._program = program
        self._folder = folder / f"trial_{trial.number:04}"
        self._errors: list[float] = []  # final ones, one a seed
        self._marks = 0  # of the first seed, that the study knows
        self.state: TrialState | None = None
        self.news = ""
        self._start()

    def look(self) -> None:
        """See how the training is getting on, and go on with the next one or end the trial."""
        status = self._process.poll()  # before its metrics, none of which is then missed
        errors = read_errors(self._run_dir)
        if not self._errors and self._tell_marks(errors, status):
            self.terminate()
            wait_or_kill(self._process)
            self._end(
                TrialState.PRUNED, f"pruned at mark {self._marks}, {errors[self._marks - 1]:.2f} %"
            )
        elif status == DIVERGED or (status == 0 and errors):
            self._finish_run(None if status == DIVERGED else errors[-1])
        elif status is not None:
            failure = f"seed {self._seed} ended with status {status}, see {self._output}"
            self._trial.set_user_attr("failure", failure)
            self._end(TrialState.FAIL, f"failed: {failure}")

    def terminate(self) -> None:
        """Ask the training to stop in good order."""
        self._process.terminate()

    def put_back(self) -> None:
        """Wait until the training has stopped, and leave the trial's settings to others."""
        wait_or_kill(self._process)
        self._sweep.put_back(self._trial)

    @property
    def _seed(self) -> int:
        return self._settings["seeds"][len(self._errors)]

    @property
    def _run_dir(self) -> Path:
        return self._folder / f"seed_{self._seed}"

    @property
    def _output(self) -> Path:
        return self._folder / f"seed_{self._seed}.txt"

    def _start(self) -> None:
        make_folder(self._folder)
        words = [*self._program, *make_flags(self._settings, self._trial.params)]
        words += ["--seed", str(self._seed), "--run-dir", str(self._run_dir), "--threads", "1"]
        words += ["--final-split", "none"]
        words += ["--num-validations", str(self._settings["num_validations"])]
        with self._output.open("xb") as output:
            self._process = start_program(words, output)

    def _tell_marks(self, errors: list[float], status: int | None) -> bool:
        """Tell the study of new marks; return whether to give the trial up."""
        several = len(self._settings["seeds"]) > 1
        for mark in range(self._marks + 1, len(errors) + 1):
            self._trial.report(errors[mark - 1], mark)
            self._marks = mark
            under_way = status is None and mark < self._settings["num_validations"]
            if (under_way or (several and status in (None, 0))) and self._trial.should_prune():
                return True
        return False

    def _finish_run(self, error: float | None) -> None:
        """Keep a run's final error, None if it diverged, and begin the next or end the trial."""
        if error is None:
            diverged = self._trial.user_attrs.get("diverged", [])
            self._trial.set_user_attr("diverged", [*diverged, self._seed])
        self._errors.append(self._settings["chance_error"] if error is None else error)
        self._trial.set_user_attr("seed_errors", self._errors)
        if len(self._errors) < len(self._settings["seeds"]):
            self._start()
        else:
            value = sum(self._errors) / len(self._errors)
            self._end(TrialState.COMPLETE, f"finished, {value:.2f} %", value)

    def _end(self, state: TrialState, how: str, value: float | None = None) -> None:
        self._sweep.end(self._trial, state, value)
        self.state = state
        values = ", ".join(f"{k} {v}" for k, v in rounded(self._trial.params).items())
        self.news = f"trial {self._trial.number} {how} ({values})"


def make_flags(settings: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    """Return the flags of a training: a study's, then a trial's."""
    own = {"env_id": settings["env_id"], "total_episodes": settings["total_episodes"]}
    own |= rounded(params)
    own["final_std"] = min(own["std"], FINAL_STD)
    words = list(settings["flags"])
    for name, value in own.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def read_errors(run_dir: Path) -> list[float]:
    """Return the validation errors [%] that a run has come to so far, at one mark after another."""
    path = run_dir / "metrics.csv"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []  # whole ones
    rows = [line.split(",") for line in lines]
    return [float(row[2]) for row in rows if row[1:2] == ["eval/error"]]
