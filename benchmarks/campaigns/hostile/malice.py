"""A campaign that plants hostile files wherever something is loaded: none may run any code.

What is planted where is listed in :mod:`benchmarks.campaigns.hostile.malice_cases`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.campaigns.hostile.hostile_content import Payloads
from benchmarks.campaigns.hostile.malice_cases import Case, Grounds, make_cases
from benchmarks.campaigns.hostile.watched import Outcome, watch

_MEMORY = 500.0  # [MB] that a process may take to find out
_REFUSALS = {"ValueError", "OSError", "DatasetError"}


def hostile_files(rounds: int, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Plant hostile files and open them as a person would, watched by an audit hook.

    Each must be refused in words that name it, or left alone: no code runs, nothing outside the
    folder is changed, memory and time are bounded. A case is one kind of content in one kind of
    place, in all its variants.

    Args:
        rounds: Cases to run; after the last kind they begin again.
        folder: Scratch directory.

    Yields:
        A case's name, and None or what went wrong.
    """
    folder = folder.resolve()
    payloads, grounds = Payloads(folder), Grounds(folder)
    cases = make_cases(payloads, grounds)
    unfit = _check_grounds(grounds) or _check_payloads(payloads)
    for number in range(rounds):
        case = cases[number % len(cases)]
        yield f"{number}: {case.name}", unfit or _run(case, payloads, grounds)


def _check_grounds(grounds: Grounds) -> str | None:
    """Say so if sound files can't be opened."""
    try:
        grounds.open_all()
    except Exception as error:
        return f"sound files cannot be opened: {error!r}"
    return None


def _check_payloads(payloads: Payloads) -> str | None:
    """Say what is wrong with a payload, or with the hook: opened, it runs, and that is seen."""
    for form in payloads.forms:
        outcome = _watch(lambda _, form=form: payloads.open(form), payloads, payloads.folder)
        if not payloads.marker.exists():
            return f"{form} does nothing even if it is opened: {outcome}"
        payloads.marker.unlink()
        if not outcome.events:
            return f"the audit hook did not see {form} being opened"
    return None


def _run(case: Case, payloads: Payloads, grounds: Grounds) -> str | None:
    """Run all variants of a case; say what is wrong with the first that fails."""
    usual = _watch(case.open, payloads, grounds.here).events  # of sound files
    for plant in case.plants:
        grounds.restore("run")
        grounds.restore(plant.place)
        plant.put(grounds.here)
        outcome = _watch(case.open, payloads, grounds.here)
        problem = _judge(case, outcome, usual) or grounds.find_harm()
        if payloads.marker.exists():
            payloads.marker.unlink()
            problem = f"its code was run: {outcome}"
        grounds.restore(plant.place)
        if problem:
            return f"{plant.what} as {plant.place}: {problem}"
    return None


def _watch(opener: Callable[[Path], object], payloads: Payloads, folder: Path) -> Outcome:
    """Open something where a hostile module could be imported."""

    def action() -> None:
        sys.path.insert(0, str(payloads.folder))
        opener(folder)

    return watch(action, folder)


def _judge(case: Case, outcome: Outcome, usual: tuple[str, ...]) -> str | None:
    """Say what is wrong with how a hostile file was received."""
    if events := {*outcome.events} - {*usual}:
        return f"it should not come to {', '.join(events)}"
    if "root:" in outcome.message or "frame #0" in outcome.message:
        return f"the message tells too much: {outcome.message}"
    if outcome.grown > _MEMORY:
        return f"it took {outcome.grown:.0f} MB of memory"
    if case.said is None:
        return f"what is sound was refused: {outcome}" if outcome.error else None
    if not outcome.error:
        return "it was opened as if nothing were wrong"
    if not _REFUSALS & {*outcome.error}:
        return f"{outcome.error[0]} is no refusal: {outcome.message}"
    if not re.search(case.said, outcome.message, re.DOTALL):
        return f"the message does not say {case.said!r}: {outcome.message}"
    return None
