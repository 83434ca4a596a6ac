"""Several processes that download one dataset at the same time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.campaigns.data.leftovers import find_leftovers, listing
from benchmarks.campaigns.data.made_up import MadeUp, compress
from benchmarks.campaigns.data.mirrors import Answer, Mirror
from benchmarks.campaigns.data.openers import Openers, Opening, Outcome

_Reply = Callable[[bytes, np.random.Generator], Answer]


@dataclass(frozen=True)
class Kind:
    """What a mirror does.

    Attributes:
        name: In words.
        bad: How it answers a few requests at first, or all without ``good``.
        good: How it answers afterwards.
    """

    name: str
    bad: _Reply | None = None
    good: _Reply | None = None


def _honest(content: bytes, _: np.random.Generator) -> Answer:
    return Answer(200, content)


def _slow(content: bytes, rng: np.random.Generator) -> Answer:
    return Answer(200, content, pause=rng.uniform(0.0, 0.02))


def _truncating(content: bytes, rng: np.random.Generator) -> Answer:
    return Answer(200, content[: rng.integers(len(content))], length=len(content))


def _lying(content: bytes, rng: np.random.Generator) -> Answer:
    return Answer(200, compress(rng.bytes(len(content))))


def _forbidden(_: bytes, __: np.random.Generator) -> Answer:
    return Answer(403, b"Forbidden")


def _unavailable(_: bytes, __: np.random.Generator) -> Answer:
    return Answer(503, b"Try again later")


_SAID = {  # of each bad answer, in an error or in the sample's warning
    _truncating: "is damaged",
    _lying: "is damaged",
    _forbidden: "403",
    _unavailable: "503",
}
KINDS = [
    Kind("honest", good=_honest),
    Kind("truncating", bad=_truncating),
    Kind("unavailable at first", bad=_unavailable, good=_honest),
    Kind("forbidden", bad=_forbidden),
    Kind("slow", good=_slow),
    Kind("lying", bad=_lying),
    Kind("truncating at first, then slow", bad=_truncating, good=_slow),
    Kind("unavailable", bad=_unavailable),
    Kind("lying at first", bad=_lying, good=_honest),
    Kind("forbidden at first, then slow", bad=_forbidden, good=_slow),
]


@dataclass(frozen=True)
class Race:
    """One race.

    Attributes:
        made: The made-up datasets.
        openers: The server of processes.
        dataset: Name of the dataset.
        count: Processes.
        kind: What the mirror does.
        folder: Scratch directory of this race, not yet there.
    """

    made: MadeUp
    openers: Openers
    dataset: str
    count: int
    kind: Kind
    folder: Path

    def run(self, rng: np.random.Generator) -> str | None:
        """Let the processes race, then one more with an honest server; say what went wrong.

        Args:
            rng: Draws the bad answers and, where good ones follow, how many there are: fewer
                than processes, so that one must succeed.
        """
        bad, good = self.kind.bad, self.kind.good
        num_bad = 0 if bad is None else int(rng.integers(1, self.count)) if good else 10**9
        rngs = rng.spawn(100)  # one a request
        self._data.mkdir(parents=True)

        def answer(name: str, before: int) -> Answer:
            reply = bad if before < num_bad else good
            assert reply
            return reply(self._archives[name], rngs[before])

        with Mirror(answer) as mirror:
            outcomes = self.openers.run([self._opening("train", mirror.url)] * self.count)
        problem = self._judge(outcomes, mirror, num_bad) or self._judge_files(outcomes)
        return problem or self._finish()

    @property
    def _archives(self) -> dict[str, bytes]:
        members = self.made.members(self.dataset, archived=True)
        return {Path(path).name: content for path, content in members.items()}

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _cache(self) -> Path:
        return self.folder / "cache" / "ram_env"

    def _opening(self, split: str, url: str) -> Opening:
        environment = {
            "RAM_ENV_DATA": str(self._data),
            "RAM_ENV_MIRROR": url,
            "XDG_CACHE_HOME": str(self._cache.parent),
        }
        return Opening(self.dataset, split, None, environment, self.made.tables)

    def _judge(self, outcomes: list[Outcome], mirror: Mirror, num_bad: int) -> str | None:
        """Say what is wrong with how the processes ended or with what they asked for."""
        failed = [outcome for outcome in outcomes if outcome.error or outcome.is_sample]
        for outcome in outcomes:
            judge = self._judge_failure if outcome in failed else self._judge_success
            if problem := judge(outcome, mirror.url):
                return problem
        allowed = min(num_bad, self.count)
        if len(failed) > allowed or (not self.kind.good and len(failed) < allowed):
            return f"{len(failed)} processes failed after {allowed} bad answers"
        wanted = num_bad + len(self._archives) if self.kind.good else self.count
        if len(mirror.requested) != wanted:
            return f"{wanted} requests were needed, got {len(mirror.requested)}"
        return None

    def _judge_success(self, outcome: Outcome, _: str) -> str | None:
        if outcome.digest != self.made.digest(self.dataset, "train"):
            return "a process opened something else than the dataset"
        return f"there was a warning: {outcome.warned[0]!r}" if outcome.warned else None

    def _judge_failure(self, outcome: Outcome, url: str) -> str | None:
        bad = self.kind.bad
        if bad is None:
            return f"a process failed with an honest server: {outcome.error} {outcome.message!r}"
        damaging = _SAID[bad] == "is damaged"
        if outcome.is_sample:
            if damaging or self.dataset != "MNIST" or len(outcome.warned) != 1:
                return f"the sample was used, with the warnings {outcome.warned}"
            told = outcome.warned[0]
        else:
            told = outcome.message
            if outcome.error != ("DatasetError" if damaging else "FileNotFoundError"):
                return f"a process ended with {outcome.error} {told!r}"
        remedy = "Set RAM_ENV_MIRROR to" if damaging else "set RAM_ENV_DATA or data_dir to"
        parts = (self.dataset, f"{url}/", _SAID[bad], remedy)
        missing = [part for part in parts if part not in told]
        return f"{missing[0]!r} is missing in {told!r}" if missing else None

    def _judge_files(self, outcomes: list[Outcome]) -> str | None:
        """Say what is wrong with what lies in the folder."""
        wanted = self.made.members(self.dataset, archived=False)
        there = [name for name in wanted if (self._cache / name).exists()]
        if any(outcome.digest and not outcome.is_sample for outcome in outcomes):
            if len(there) < len(wanted):
                return f"only {there} are in the cache"
        elif there:
            return f"there is {there[0]} in the cache, though no process succeeded"
        empty = [entry for entry in listing(self.folder) if entry[0] == self._data]
        return find_leftovers(self.made, self.dataset, self.folder, self._cache, empty)

    def _finish(self) -> str | None:
        """Open the other part with an honest server, and say what went wrong."""
        with Mirror(lambda name, _: Answer(200, self._archives[name])) as mirror:
            outcomes = self.openers.run([self._opening("test", mirror.url)])
        if outcomes[0].digest != self.made.digest(self.dataset, "test"):
            told = f"{outcomes[0].error} {outcomes[0].message!r}"
            return f"afterwards a process with an honest server ended with {told}"
        return self._judge_files(outcomes)
