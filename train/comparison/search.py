"""A search for settings with Optuna, kept in one JSON file.

The file holds what all trials share and every trial. It is written whole when a trial begins or
ends. One that began and did not end was interrupted: it is run again under its number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from msgspec import Struct, to_builtins
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.pruners import BasePruner
from optuna.trial import TrialState, create_trial

from agents.runs.files import make_folder, read_json, to_json, write_whole
from train.comparison.jobs import hold
from train.comparison.report import to_csv
from train.comparison.tuning import rounded

STATES = {
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
"""States of a trial that has ended, as Optuna has them."""


class Trial(Struct):
    """Settings that were tried.

    Attributes:
        number: From 0, which has the defaults.
        params: Settings by name, as Optuna drew them.
        state: ``"running"`` until it has ended, too if it was interrupted.
        seed_errors: Final errors of the seeds that ended [%].
        marks: Errors of the first seed at its marks [%].
        diverged: Seeds that diverged.
        failure: Why it failed.
        ended: When it ended, ISO 8601.
    """

    number: int
    params: dict[str, int | float | str]
    state: Literal["running", "finished", "pruned", "failed"] = "running"
    seed_errors: list[float] = []
    marks: list[float] = []
    diverged: list[int] = []
    failure: str = ""
    ended: str = ""

    @property
    def value(self) -> float:
        """Mean final error of the seeds that ended [%]."""
        return sum(self.seed_errors) / len(self.seed_errors)


class Study(Struct):
    """The content of the file.

    ``settings`` is all that makes two trials comparable, among it the space and the defaults.
    ``sessions`` describes each call.
    """

    study: str
    settings: dict[str, Any]
    trials: list[Trial]
    sessions: list[dict[str, Any]] = []

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """What the settings are drawn from, by name."""
        plain = self.settings["space"]
        return {name: json_to_distribution(json.dumps(each)) for name, each in plain.items()}

    def values(self, trial: Trial) -> dict[str, Any]:
        """Return a trial's settings as trainings get them."""
        return rounded(trial.params, self.space)

    def best(self) -> Trial | None:
        """Return the best finished trial, diverged ones last."""
        finished = [each for each in self.trials if each.state == "finished"]
        return min(finished, key=lambda t: (len(t.diverged) > 0, t.value), default=None)

    def save(self, path: Path) -> None:
        """Write the file; a crash leaves the old content or the new."""
        write_whole(path, to_json(to_builtins(self)))


class Search:
    """A study that this process holds: see :func:`open_search`."""

    def __init__(self, path: Path, study: Study, pruner: BasePruner, seed: int):
        self.path, self.study, self._seed = path, study, seed
        self._optuna, self._running = _to_optuna(study, pruner)

    def ask(self, total: int) -> Trial | None:
        """Begin a trial, the defaults first, or return None if the study has its total.

        The sampler is Optuna's TPE: it draws its first ten trials at random (the defaults are
        one of them), the rest from a model of all settings together. It is seeded anew for each
        trial, with the study's seed and the number of trials so far: a study tries the same
        settings, interrupted or not, if trials run one at a time.
        """
        if (number := len(self.study.trials)) >= total:
            return None
        seed = np.random.SeedSequence([self._seed, number]).generate_state(1)[0]
        self._optuna.sampler = optuna.samplers.TPESampler(seed=int(seed))
        if not number:
            self._optuna.enqueue_trial(self.study.settings["defaults"])
        self._running[number] = self._optuna.ask(self.study.space)
        trial = Trial(number, dict(self._running[number].params))
        self.study.trials.append(trial)
        self.study.save(self.path)
        return trial

    def falls_behind(self, trial: Trial, error: float) -> bool:
        """Add the error at a trial's next mark [%]; return whether the trial should be pruned."""
        trial.marks.append(error)
        self._running[trial.number].report(error, len(trial.marks))
        return self._running[trial.number].should_prune()

    def end(self, trial: Trial, state: Literal["finished", "pruned", "failed"]) -> None:
        """Note that a trial has ended."""
        trial.state, trial.ended = state, datetime.now(UTC).isoformat(timespec="seconds")
        value = trial.value if state == "finished" else None
        self._optuna.tell(self._running.pop(trial.number), value, STATES[state])
        self.study.save(self.path)


@contextmanager
def open_search(
    path: Path,
    name: str,
    space: Mapping[str, BaseDistribution],
    settings: Mapping[str, Any],
    pruner: BasePruner,
    seed: int,
) -> Iterator[Search]:
    """Hold the file of a study, and continue it or begin it with ``settings`` and a space.

    It is a ValueError if another process holds it, it is damaged, or has other settings.
    """
    make_folder(path.parent)
    with hold(path.with_name(f"{path.name}.lock"), f"another sweep uses {path}"):
        plain = {key: json.loads(distribution_to_json(each)) for key, each in space.items()}
        wanted = json.loads(to_json({**settings, "space": plain}))  # as a file returns them
        study = load(path, name) if path.exists() else Study(name, wanted, [])
        known = study.settings
        if names := [n for n in {**known, **wanted} if known.get(n) != wanted.get(n)]:
            differing = ", ".join(f"{n}={known.get(n)!r}, not {wanted.get(n)!r}" for n in names)
            raise ValueError(
                f"study {name!r} was begun with {differing}: its trials could not be compared; "
                "name another with --study or --results"
            )
        for each in study.trials:
            if each.state == "running":
                each.seed_errors, each.marks, each.diverged = [], [], []
        yield Search(path, study, pruner, seed)


def load(path: Path, name: str) -> Study:
    """Read the file of a study; a ValueError says why it can't be that of a name."""
    if not path.is_file():
        raise ValueError(f"there is no study {name!r} to report: {path} doesn't exist")
    study = read_json(path, Study)
    if study.study != name:
        raise ValueError(f"{path} holds the study {study.study!r}, not {name!r}")
    return study


def load_study(path: Path) -> optuna.Study:
    """Return the study in a file as Optuna has it, to draw it."""
    return _to_optuna(read_json(path, Study))[0]


def write_report(study: Study, path: Path) -> None:
    """Write a study's trials as CSV.

    A row has the trial's number, state, value (if it finished), settings, the final error per
    seed, the first seed's error at each mark, and a note.
    """
    seeds, marks, space = (study.settings[k] for k in ("seeds", "num_validations", "space"))
    head = ["trial", "state", "value", *space, *(f"seed_{seed}" for seed in seeds)]
    rows = [[*head, *(f"mark_{mark}" for mark in range(1, marks + 1)), "note"]]
    for each in study.trials:
        notes = ["defaults"] if each.number == 0 else []
        notes += [f"seed {seed} diverged" for seed in each.diverged]
        notes += [each.failure] if each.failure else []
        row = [each.number, each.state, each.value if each.state == "finished" else ""]
        row += [*study.values(each).values()]
        row += [*each.seed_errors, *[""] * (len(seeds) - len(each.seed_errors))]
        rows.append([*row, *each.marks, *[""] * (marks - len(each.marks)), "; ".join(notes)])
    write_whole(path, to_csv(rows))


def _to_optuna(
    study: Study, pruner: BasePruner | None = None
) -> tuple[optuna.Study, dict[int, optuna.Trial]]:
    """Return a study as Optuna has it, and its running trials by number."""
    made, running = optuna.create_study(study_name=study.study, pruner=pruner), {}
    for each in study.trials:
        if each.state == "running":
            made.enqueue_trial(each.params)
            running[each.number] = made.ask(study.space)
            continue
        made.add_trial(
            create_trial(
                state=STATES[each.state],
                value=each.value if each.state == "finished" else None,
                params=each.params,
                distributions=study.space,
                intermediate_values=dict(enumerate(each.marks, 1)),
            )
        )
    return made, running
