"""Campaigns of faults about data and environments hold; and each would notice if they didn't."""

import contextlib
import dataclasses
import itertools
import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.campaigns.data import datasets
from benchmarks.campaigns.data.datasets import damaged_datasets, racing_downloads
from benchmarks.campaigns.data.made_up import MadeUp
from benchmarks.campaigns.data.openers import Openers, Opening, Outcome
from benchmarks.campaigns.environment import environments
from benchmarks.campaigns.environment.environments import fuzzed_actions, long_run
from benchmarks.campaigns.environment.wild_actions import Rules, draw_action, is_valid
from ram_env import SignpostEnv, actions, episodes
from ram_env.actions import BoxFormat
from ram_env.env import GlimpseEnv
from ram_env.episodes import Episodes

Campaign = Callable[[int, Path], Iterator[tuple[str, str | None]]]


@pytest.mark.parametrize(
    ("campaign", "rounds"),
    [(damaged_datasets, 40), (racing_downloads, 5), (fuzzed_actions, 2_000), (long_run, 10)],
)
def test_no_case_of_a_campaign_fails(campaign: Campaign, rounds: int, tmp_path: Path):
    cases = list(campaign(rounds, tmp_path))
    assert [case for case in cases if case[1]] == []
    assert len({name for name, _ in cases}) == len(cases) == rounds


def assert_reported(campaign: Campaign, rounds: int, folder: Path, problem: str):
    """Assert that a campaign runs to its end and reports a problem."""
    told = [told for _, told in campaign(rounds, folder)]
    assert len(told) == rounds
    assert any(re.search(problem, text, re.DOTALL) for text in told if text), told


# What the campaigns about data would notice


class FakeOpeners(contextlib.nullcontext[None]):
    """In place of `Openers`: opens nothing, and ends as it is told to.

    Args:
        outcome: Of every opening; "{all}" in its message becomes the paths of all files there.
    """

    def __init__(self, outcome: Outcome):
        super().__init__()
        self._outcome = outcome

    def __enter__(self) -> Any:
        return self

    def run(self, openings: Sequence[Opening]) -> list[Outcome]:
        folder = Path(openings[0].environment["XDG_CACHE_HOME"]).parent
        paths = " ".join(map(str, folder.rglob("*")))
        message = self._outcome.message.replace("{all}", paths)
        return [dataclasses.replace(self._outcome, message=message)] * len(openings)


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (Outcome(digest="0"), "as if nothing were wrong"),
        (Outcome(digest="0", is_sample=True), "the sample was used"),
        (Outcome("FileNotFoundError", "{all}: content. Replace it."), "should be a DatasetError"),
        (Outcome("Hanging", "the process had to be ended"), "DatasetError, got Hanging"),
        (Outcome("DatasetError", "/nowhere: content. Replace it."), "does not name /"),
        (Outcome("DatasetError", "{all}. Replace it."), "does not say what is wrong"),
        (Outcome("DatasetError", "{all}: content"), "does not say what to do"),
        (Outcome("DatasetError", "{all}: content. Replace it.", warned=("oh",)), "a warning .*oh"),
        (Outcome("DatasetError", "{all}: content. Replace it.", grown=60), "took 60 MB"),
    ],
)
def test_a_damaged_file_that_is_not_refused_as_promised_is_reported(
    outcome: Outcome, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(datasets, "Openers", lambda: FakeOpeners(outcome))
    assert_reported(damaged_datasets, 1, tmp_path, problem)


@pytest.fixture(scope="module")
def openers() -> Iterator[Openers]:
    with Openers() as started:
        yield started


@pytest.fixture
def sabotage(
    openers: Openers, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, object]], None]:
    """A function that sets something, by dotted name, in the processes of campaigns."""
    tables = MadeUp().tables
    monkeypatch.setattr(datasets, "Openers", lambda: contextlib.nullcontext(openers))
    return lambda settings: monkeypatch.setattr(MadeUp, "tables", {**tables, **settings})


Sabotage = Callable[[dict[str, object]], None]
NOTHING = "".format  # takes anything and returns ""; it pickles


@pytest.mark.parametrize(
    ("name", "value", "rounds", "problem"),
    [
        ("ram_env.dataset_files._exists", NOTHING, 1, "the sample was used"),
        ("ram_env.dataset_files._expect", NOTHING, 1, "should be a DatasetError, got "),
        ("ram_env.dataset_files.max", min, 23, "as if nothing were wrong"),  # the highest label
        ("shutil.rmtree", NOTHING, 2, "MNIST.part was left over"),
    ],
)
def test_a_missing_check_of_files_is_reported(
    name: str, value: object, rounds: int, problem: str, sabotage: Sabotage, tmp_path: Path
):
    sabotage({name: value})
    assert_reported(damaged_datasets, rounds, tmp_path, problem)


def test_a_process_that_waits_for_a_pipe_is_ended_and_reported(
    sabotage: Sabotage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(datasets, "_DEADLINE", 3.0)
    sabotage({"ram_env.dataset_files.stat.S_ISREG": bool})  # any file will do
    assert_reported(damaged_datasets, 14, tmp_path, "got Hanging")


@pytest.mark.parametrize(
    ("name", "value", "rounds", "problem"),
    [
        ("filelock.FileLock", contextlib.nullcontext, 1, "failed|requests|left over"),
        ("ram_env.dataset_files.DatasetError", ConnectionError, 2, "ended with FileNotFoundError"),
        ("shutil.rmtree", NOTHING, 1, "MNIST.part was left over"),
    ],
)
def test_a_missing_care_in_downloads_is_reported(
    name: str, value: object, rounds: int, problem: str, sabotage: Sabotage, tmp_path: Path
):
    sabotage({name: value, "ram_env.data._load_sample": NOTHING})  # which takes seconds
    assert_reported(racing_downloads, rounds, tmp_path, problem)


def test_the_first_cases_are_the_same_whatever_the_rounds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def damaged(rounds: int, folder: Path) -> list[tuple[str, bytes]]:
        """Return the cases' names and all bytes of their folders."""
        found = []
        for number, (name, _) in enumerate(damaged_datasets(rounds, folder)):
            files = sorted(path for path in folder.glob(f"*-{number}/**/*") if path.is_file())
            found.append((name, b"".join(path.read_bytes()[:100_000] for path in files)))
        return found

    monkeypatch.setattr(datasets, "Openers", lambda: FakeOpeners(Outcome()))
    assert damaged(10, tmp_path / "many")[:4] == damaged(4, tmp_path / "few")


# What the campaigns about environments would notice


def spoil_step(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any], None]):
    """Let a refused action change something in the single environment."""
    step = GlimpseEnv.step

    def spoilt(self: Any, action: Any):
        try:
            return step(self, action)
        except ValueError:
            spoil(self._episodes)
            raise

    monkeypatch.setattr(SignpostEnv, "step", spoilt)


def all_lanes(value: bool) -> Callable[..., np.ndarray]:
    return lambda self, parts: np.full(len(parts["action"]), value)


@pytest.mark.parametrize(
    ("owner", "name", "replacement", "problem"),
    [
        (BoxFormat, "_in_range", all_lanes(True), "an invalid action was accepted"),
        (BoxFormat, "_in_range", all_lanes(False), "a valid action was refused"),
        (BoxFormat, "_explain", lambda *_: int("x"), "does not name the action"),
        (actions, "_check", lambda *_: None, "instead of a ValueError there was"),
    ],
)
def test_a_missing_check_of_actions_is_reported(
    owner: Any,
    name: str,
    replacement: Any,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    monkeypatch.setattr(owner, name, replacement)
    assert_reported(fuzzed_actions, 600, tmp_path, problem)


@pytest.mark.parametrize(
    ("part", "value", "problem"),
    [
        ("_location", 0.5, "an invalid action changed the state"),
        ("_canvases", 99, "the next step was not the twin's"),  # no state tells of it
    ],
)
def test_a_refusal_that_changes_something_is_reported(
    part: str, value: float, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    spoil_step(monkeypatch, lambda played: getattr(played, part).fill(value))
    assert_reported(fuzzed_actions, 200, tmp_path, problem)


@pytest.mark.parametrize("action_format", ["box", "dict", "multidiscrete"])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_of_the_drawn_actions_many_are_valid_and_many_are_not(action_format, batch):
    rules = Rules(action_format, True, batch)
    drawn = [draw_action(rules, np.random.default_rng(seed)) for seed in range(300)]
    again = [draw_action(rules, np.random.default_rng(seed)) for seed in range(300)]
    assert list(map(repr, drawn[:50])) == list(map(repr, again[:50]))
    assert 75 < sum(is_valid(action, rules) for action in drawn) < 225


LEAKED: list[mmap.mmap] = []
COUNT = itertools.count()


def changed(method: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda *args, **keywords: change(method(*args, **keywords))


def with_another_label(info: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**info, "label": info["label"] + next(COUNT)}


def leak(obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    pages = mmap.mmap(-1, 2**16)  # not from the heap, which may have room left by other tests
    pages.write(b"x" * len(pages))
    LEAKED.append(pages)
    return obs


@pytest.mark.parametrize(
    ("owner", "name", "change", "problem"),
    [
        (episodes, "sense", lambda glimpse: np.roll(glimpse, 1, -1), "not that of its canvas"),
        (episodes, "sense", lambda glimpse: glimpse - 1, "glimpse reaches from -1.0"),
        (Episodes, "_score", lambda reward: reward + 0.25, "the reward of lane 0 should be"),
        (Episodes, "step", lambda out: (*out[:2], out[2] & False), "terminated should be"),
        (Episodes, "describe", with_another_label, "label changed from"),
        (Episodes, "observe", lambda obs: {**obs, "location": -obs["location"]}, "location should"),
        (Episodes, "observe", lambda obs: {**obs, "time": obs["time"] / 2}, "time should be"),
        (Episodes, "observe", leak, "memory grew by"),
    ],
)
@pytest.mark.parametrize("lanes", [50, None])
def test_a_wrong_step_is_reported(
    lanes: int | None,
    owner: Any,
    name: str,
    change: Callable[[Any], Any],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    monkeypatch.setattr(owner, name, changed(getattr(owner, name), change))
    monkeypatch.setattr(environments, "_STEPS", 5_000 if lanes else 300)
    monkeypatch.setattr(environments, "_LONG_RUNS", [("SignpostGlimpse-v0", lanes, {})])
    assert_reported(long_run, 3, tmp_path, problem)
    LEAKED.clear()
