"""A study on disk that several processes share, and the report that is made of it.

Optuna's journal keeps every trial. What Optuna leaves open is settled here:

- Trials are begun under a lock, so that their total is met exactly, whoever begins them.
- Who runs a trial holds a lock file of it, which the system frees when the process dies, however
  that happens. A trial that is RUNNING while its lock is free is of a dead process: it is marked
  FAIL, does not count, and its settings wait to be tried again, as a trial with a new number.
- A trial whose program failed has the user attribute ``failure`` and counts.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.pruners import BasePruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from agents.runs.files import make_folder, to_json, write_whole

_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
COUNTED = ("finished", "pruned", "failed", "running")  # toward a study's total


class Sweep:
    """A study that this process works on, perhaps beside others.

    Args:
        journal: Optuna's journal file; made, with its folder, if it isn't there.
        name: Of the study within it.
        space: What is searched.
        settings: All else that makes two trials comparable, ready for JSON. The study keeps them.
        defaults: Values that are tried first, to compare with.
        pruner: When a trial is given up.
        seed: Of the sampler.

    Attributes:
        study: Optuna's.

    Raises:
        ValueError: If the study was begun with other settings or the journal is damaged.
    """

    def __init__(
        self,
        journal: Path,
        name: str,
        space: Mapping[str, BaseDistribution],
        settings: Mapping[str, Any],
        defaults: Mapping[str, Any],
        pruner: BasePruner,
        seed: int,
    ):
        self._space, self._seed = dict(space), seed
        self._folder = journal.with_name(f"{journal.name}.locks")
        make_folder(self._folder)
        self._name, self._held = name, dict[int, FileLock]()
        self._begin = FileLock(self._folder / f"{name}.begin")
        plain = {name: json.loads(distribution_to_json(each)) for name, each in space.items()}
        everything = {**settings, "space": plain, "defaults": dict(defaults)}
        with self._begin:
            self.study = optuna.create_study(
                storage=open_storage(journal),
                study_name=name,
                pruner=pruner,
                direction="minimize",
                load_if_exists=True,
            )
            self._check_settings(json.loads(to_json(everything)))  # as a journal gives them back
            self._fail_dead_trials()
            if not any(
                trial.user_attrs.get("defaults") and state_of(trial) != "interrupted"
                for trial in self.study.trials
            ):
                self.study.enqueue_trial(dict(defaults), user_attrs={"defaults": True})

    def note_session(self, facts: Mapping[str, Any]) -> None:
        """Keep what is worth knowing of a process that works on the study, ready for JSON."""
        with self._begin:
            sessions = self.study.user_attrs.get("sessions", [])
            self.study.set_user_attr("sessions", [*sessions, dict(facts)])

    def begin(self, total: int) -> optuna.Trial | None:
        """Begin a trial, which is then this process's own, or return None if there are enough.

        The sampler is Optuna's TPE: its first ten trials are drawn at random (the defaults are one
        of them), the rest from a model of all parameters together, in which trials under way
        count as bad ones, so that processes don't crowd. It is seeded anew for each trial, with
        the study's seed and how many trials count so far: no two processes draw the same, and a
        study that one process runs at a time tries the same, interrupted or not.

        Args:
            total: Of trials in the study: finished, pruned, failed and under way.
        """
        with self._begin:
            self._fail_dead_trials()
            if (count := self.count(*COUNTED)) >= total:
                return None
            seed = np.random.SeedSequence([self._seed, count]).generate_state(1)[0]
            self.study.sampler = optuna.samplers.TPESampler(seed=int(seed))
            trial = self.study.ask(self._space)
            self._held[trial.number] = FileLock(self._lock_file(trial.number))
            self._held[trial.number].acquire(timeout=0)
            return trial

    def end(self, trial: optuna.Trial, state: TrialState, value: float | None = None) -> None:
        """Say how one of this process's trials ended: COMPLETE with a value, PRUNED or FAIL."""
        with self._begin:  # or another process could take it for a dead one's in between
            self.study.tell(trial, value, state)
            self._release(trial.number)

    def put_back(self, trial: optuna.Trial) -> None:
        """Mark one of this process's trials as interrupted: its settings will be tried again."""
        with self._begin:
            self._fail(self.study.trials[trial.number])
            self._release(trial.number)

    def count(self, *states: str) -> int:
        """Return how many trials are in one of some states, named as :func:`state_of` does."""
        return sum(state_of(trial) in states for trial in self.study.get_trials(deepcopy=False))

    def _check_settings(self, settings: dict[str, Any]) -> None:
        """Give a new study its settings, and hold a known one to those it has."""
        known = self.study.user_attrs.get("settings")
        if known is None:
            self.study.set_user_attr("settings", settings)
        elif known != settings:
            names = [n for n in {**known, **settings} if known.get(n) != settings.get(n)]
            differing = ", ".join(f"{n}={known.get(n)!r}, not {settings.get(n)!r}" for n in names)
            raise ValueError(
                f"study {self._name} was begun with {differing}: its trials could not be compared; "
                "name another with --study"
            )

    def _fail_dead_trials(self) -> None:
        """Mark trials as interrupted whose process is gone."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lock = FileLock(self._lock_file(trial.number))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            self._fail(trial)
            self._held[trial.number] = lock
            self._release(trial.number)

    def _fail(self, trial: FrozenTrial) -> None:
        """Mark a trial as interrupted; queue its settings, if it had got them all."""
        self.study.tell(trial.number, state=TrialState.FAIL)
        params = trial.system_attrs.get("fixed_params", trial.params)
        if params.keys() == self._space.keys():
            role = {k: v for k, v in trial.user_attrs.items() if k == "defaults"}
            self.study.enqueue_trial(params, user_attrs=role)

    def _release(self, number: int) -> None:
        """Let a trial go; only while ``_begin`` is held, as nobody else may lock its file."""
        self._held.pop(number).release()
        self._lock_file(number).unlink(missing_ok=True)

    def _lock_file(self, number: int) -> Path:
        return self._folder / f"{self._name}.{number}"


class _JournalLock(JournalFileOpenLock):
    """Lock of a journal that ends with its process; Optuna's would outlive it by half a minute."""

    def __init__(self, journal: str):
        super().__init__(journal)
        self._file_lock = FileLock(f"{journal}.lock")

    def acquire(self) -> bool:
        self._file_lock.acquire()
        return True

    def release(self) -> None:
        self._file_lock.release()


def open_storage(journal: Path) -> JournalStorage:
    """Open a journal, or make one.

    Raises:
        ValueError: If it is damaged; the message names it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = str(journal.absolute())
    try:
        return JournalStorage(JournalFileBackend(path, _JournalLock(path)))
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{journal} is damaged, it is no journal of Optuna: {error!r}") from error


def load_study(journal: Path, name: str) -> optuna.Study:
    """Return a study to read.

    Raises:
        ValueError: If there is none.
    """
    names = []
    if journal.is_file():
        storage = open_storage(journal)
        names = [study.study_name for study in storage.get_all_studies()]
        if name in names:
            return optuna.load_study(study_name=name, storage=storage)
    raise ValueError(f"study must be of {names}, which {journal} holds, got {name!r}")


def rounded(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with three digits: what a table shows is what was run."""
    return {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in params.items()}


def state_of(trial: FrozenTrial) -> str:
    """Return how a trial ended: finished, pruned, failed, interrupted; or running, waiting."""
    if trial.state == TrialState.FAIL:
        return "failed" if "failure" in trial.user_attrs else "interrupted"
    return _STATES[trial.state]


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the finished trial with the lowest value, the first of several, or None.

    One with a run that diverged is only returned where all have one.
    """
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    return min(
        finished,
        key=lambda trial: ("diverged" in trial.user_attrs, trial.value, trial.number),
        default=None,
    )


def default_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the trial of the defaults, if it has finished."""
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    return next((trial for trial in finished if trial.user_attrs.get("defaults")), None)


def write_report(study: optuna.Study, path: Path, best_command: str | None) -> None:
    """Write a study's trials as CSV and, beside it as JSON, what is needed to read them.

    A row has the trial's number, state, value (only if it finished), parameters, the final error
    of each seed, the first seed's error at each mark, and a note. Trials that wait are left out.

    Args:
        study: Of a :class:`Sweep`.
        path: Of the CSV; the JSON has its name with the suffix ``.json``.
        best_command: That trains with the best settings.
    """
    settings = study.user_attrs["settings"]
    trials = [trial for trial in study.trials if trial.state != TrialState.WAITING]
    seeds, marks = settings["seeds"], range(1, settings["num_validations"] + 1)
    head = ["trial", "state", "value", *settings["space"]]
    head += [*(f"seed_{seed}" for seed in seeds), *(f"mark_{mark}" for mark in marks), "note"]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([head, *(_row(t, settings) for t in trials)])
    make_folder(path.parent)
    write_whole(path.with_suffix(".json"), to_json(_summary(study, trials, best_command)))
    write_whole(path, buffer.getvalue().encode())


def _row(trial: FrozenTrial, settings: dict[str, Any]) -> list[Any]:
    """Return a trial's line of the CSV."""
    params, attrs = rounded(trial.params), trial.user_attrs
    errors = attrs.get("seed_errors", [])
    row = [trial.number, state_of(trial), trial.value if state_of(trial) == "finished" else ""]
    row += [params.get(name, "") for name in settings["space"]]
    row += [*errors, *[""] * (len(settings["seeds"]) - len(errors))]
    marks = range(1, settings["num_validations"] + 1)
    row += [trial.intermediate_values.get(mark, "") for mark in marks]
    notes = ["defaults"] if attrs.get("defaults") else []
    notes += [f"seed {seed} diverged" for seed in attrs.get("diverged", [])]
    notes += [attrs["failure"]] if "failure" in attrs else []
    return [*row, "; ".join(notes)]


def _summary(
    study: optuna.Study, trials: list[FrozenTrial], best_command: str | None
) -> dict[str, Any]:
    """Return what a reader needs beside the CSV."""
    best, default = best_trial(study), default_trial(study)
    begun = [trial.datetime_start for trial in trials if trial.datetime_start]
    ended = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    return {
        "study": study.study_name,
        "settings": study.user_attrs["settings"],
        "counts": dict(Counter(state_of(trial) for trial in trials)),
        "default_trial": default.number if default else None,
        "best_trial": best.number if best else None,
        "best_command": best_command,
        "begun": min(begun).astimezone().isoformat(timespec="seconds") if begun else None,
        "ended": max(ended).astimezone().isoformat(timespec="seconds") if ended else None,
        "sessions": study.user_attrs.get("sessions", []),
    }
