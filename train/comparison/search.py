"""A search for settings: Optuna draws them, and one process asks and is told what they come to.

``train/compare.py`` draws an algorithm's settings at random (:func:`draw_trials`) and keeps the
outcomes in ``trials.csv``. ``train/sweep.py`` keeps a :class:`Search` in Optuna's journal file:

- The process that searches holds the journal's lock. A trial that is RUNNING in a journal that
  nobody holds was interrupted: it is marked FAIL, doesn't count, and its settings wait to be
  tried again, as a trial with a new number, whose user attribute ``continues`` is the first one's.
- A trial whose program failed has the user attribute ``failure`` and counts.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import BaseFileLock
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.pruners import BasePruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from agents.runs.files import make_folder, to_json, write_whole
from train.comparison.jobs import hold
from train.comparison.report import to_csv
from train.comparison.tuning import rounded

COUNTED = ("finished", "pruned", "failed", "running")
"""States of trials that count toward a study's total: see :func:`state_of`."""


class Search:
    """A study in a journal that this process holds: see :func:`open_search`."""

    def __init__(self, study: optuna.Study, space: Mapping[str, BaseDistribution], seed: int):
        self.study, self._space, self._seed = study, dict(space), seed

    def ask(self, total: int) -> optuna.Trial | None:
        """Begin a trial, or return None if the study has its total of :data:`COUNTED` trials.

        The sampler is Optuna's TPE: it draws its first ten trials at random (the defaults are
        one of them), the rest from a model of all settings together. It is seeded anew for each
        trial, with the study's seed and the number of trials that count so far: a study tries
        the same settings, interrupted or not, if trials run one at a time.
        """
        if (count := self.count(*COUNTED)) >= total:
            return None
        seed = np.random.SeedSequence([self._seed, count]).generate_state(1)[0]
        self.study.sampler = optuna.samplers.TPESampler(seed=int(seed))
        return self.study.ask(self._space)

    def count(self, *states: str) -> int:
        """Return the number of trials in one of some states: see :func:`state_of`."""
        return sum(state_of(trial) in states for trial in self.study.get_trials(deepcopy=False))

    def retry_interrupted(self) -> None:
        """Mark running trials as interrupted and queue their settings."""
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
            params = trial.system_attrs.get("fixed_params", trial.params)
            if params.keys() == self._space.keys():  # else it was killed while being drawn
                kept = {k: v for k, v in trial.user_attrs.items() if k in ("defaults", "continues")}
                self.study.enqueue_trial(params, user_attrs={"continues": trial.number, **kept})


@contextmanager
def open_search(
    journal: Path,
    name: str,
    space: Mapping[str, BaseDistribution],
    settings: Mapping[str, Any],
    defaults: Mapping[str, Any],
    pruner: BasePruner,
    seed: int,
) -> Iterator[Search]:
    """Hold a journal, and continue or begin a study in it, with the defaults as its first trial.

    The study keeps ``settings``: all else that makes two trials comparable, ready for JSON. It is
    a ValueError if another process holds the journal, it is damaged, or has other settings.
    """
    make_folder(journal.parent)
    with hold(journal.with_name(f"{journal.name}.lock"), f"another sweep uses {journal}") as lock:
        _drop_cut_line(journal)
        study = optuna.create_study(
            storage=_open_storage(journal, lock),
            study_name=name,
            pruner=pruner,
            direction="minimize",
            load_if_exists=True,
        )
        plain = {name: json.loads(distribution_to_json(each)) for name, each in space.items()}
        _check_settings(study, {**settings, "space": plain, "defaults": dict(defaults)})
        search = Search(study, space, seed)
        search.retry_interrupted()
        tried = [trial for trial in study.trials if state_of(trial) != "interrupted"]
        if not any(trial.user_attrs.get("defaults") for trial in tried):
            study.enqueue_trial(dict(defaults), user_attrs={"defaults": True})
        try:
            yield search
        finally:
            with suppress(OSError):  # of a full disk, say: the next call does it
                _drop_cut_line(journal)
                search.retry_interrupted()


def load_study(journal: Path, name: str) -> optuna.Study:
    """Return a study to read; raise ValueError with the file's name if it is not there."""
    storage = _open_storage(journal) if journal.is_file() else None
    names = [study.study_name for study in storage.get_all_studies()] if storage else []
    if storage is None or name not in names:
        held = f"holds {names}" if storage else "doesn't exist"
        raise ValueError(f"there is no study {name!r} to report: {journal} {held}")
    study = optuna.load_study(study_name=name, storage=storage)
    if "settings" not in study.user_attrs:
        raise ValueError(f"study {name!r} in {journal} is not one of train/sweep.py, or is empty")
    return study


def state_of(trial: FrozenTrial) -> str:
    """Return a trial's state: finished, pruned, failed, interrupted, running or waiting."""
    if "failure" in trial.user_attrs:
        return "failed"
    state = trial.state.name.lower()
    return {"complete": "finished", "fail": "interrupted"}.get(state, state)


def best_and_default(study: optuna.Study) -> tuple[FrozenTrial | None, FrozenTrial | None]:
    """Return the best finished trial, diverged ones last, and that of the defaults, or None."""
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    best = min(finished, key=lambda t: ("diverged" in t.user_attrs, t.value), default=None)
    return best, next((t for t in finished if t.user_attrs.get("defaults")), None)


def write_report(study: optuna.Study, path: Path, best_command: str | None) -> None:
    """Write a study's trials as CSV and, next to it as JSON, what is needed to read them.

    A row has the trial's number, state, value (if it finished), settings, the final error per
    seed, the first seed's error at each mark, and a note. Trials that wait are left out.
    ``best_command`` trains with the best settings.
    """
    settings = study.user_attrs["settings"]
    trials = [trial for trial in study.trials if trial.state != TrialState.WAITING]
    head = ["trial", "state", "value", *settings["space"]]
    head += [f"seed_{seed}" for seed in settings["seeds"]]
    head += [*(f"mark_{mark}" for mark in range(1, settings["num_validations"] + 1)), "note"]
    best, default = best_and_default(study)
    begun = min((t.datetime_start for t in trials if t.datetime_start), default=None)
    ended = max((t.datetime_complete for t in trials if t.datetime_complete), default=None)
    facts = {
        "study": study.study_name,
        "settings": settings,
        "counts": dict(Counter(map(state_of, trials))),
        "default_trial": default.number if default else None,
        "best_trial": best.number if best else None,
        "best_command": best_command,
        "begun": begun.astimezone().isoformat(timespec="seconds") if begun else None,
        "ended": ended.astimezone().isoformat(timespec="seconds") if ended else None,
        "sessions": study.user_attrs.get("sessions", []),
    }
    make_folder(path.parent)
    write_whole(path.with_suffix(".json"), to_json(facts))
    write_whole(path, to_csv([head, *(_row(trial, settings) for trial in trials)]))


def _row(trial: FrozenTrial, settings: dict[str, Any]) -> list[Any]:
    """Return a trial's line of the CSV."""
    params, attrs = rounded(trial), trial.user_attrs
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


def _check_settings(study: optuna.Study, settings: dict[str, Any]) -> None:
    """Give a new study its settings, and hold a known one to those that it has."""
    settings = json.loads(to_json(settings))  # as a journal returns them
    known = study.user_attrs.get("settings")
    if known is None:
        study.set_user_attr("settings", settings)
    elif known != settings:
        names = [n for n in {**known, **settings} if known.get(n) != settings.get(n)]
        differing = ", ".join(f"{n}={known.get(n)!r}, not {settings.get(n)!r}" for n in names)
        raise ValueError(
            f"study {study.study_name} was begun with {differing}: its trials could not be "
            "compared; name another with --study"
        )


def _open_storage(journal: Path, lock: BaseFileLock | None = None) -> JournalStorage:
    """Open a journal to read, or with its lock to write; raise ValueError if it is damaged."""
    try:
        # Optuna's own lock outlives a killed process by half a minute; this one doesn't.
        backend = JournalFileBackend(str(journal.absolute()), lock)  # pyright: ignore[reportArgumentType]
        return JournalStorage(backend)
    except (ValueError, KeyError, TypeError, AssertionError, AttributeError) as error:
        raise ValueError(f"{journal} is damaged, not a journal of Optuna: {error!r}") from error


def _drop_cut_line(journal: Path) -> None:
    """Drop a journal's last line if a crash cut it short, or what is appended would join it."""
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    for number, line in enumerate(lines, 1):
        with suppress(ValueError):
            if line.endswith(b"\n") and isinstance(json.loads(line), dict):
                continue
        if number < len(lines) or (number == 1 and not line.startswith(b"{")):
            raise ValueError(f"{journal} is damaged at line {number}: it is not a record of Optuna")
        os.truncate(journal, journal.stat().st_size - len(line))
        print(f"{journal}: dropped line {number}, which was cut short", file=sys.stderr)
