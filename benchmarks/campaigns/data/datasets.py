"""Campaigns about the files of datasets: damaged ones, and downloads that race.

Each case runs in fresh processes on made-up datasets (:mod:`benchmarks.campaigns.data.made_up`), so
that the full data is not needed, and nothing but what a case did can be seen in its folder.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.campaigns.data.file_damage import Fault, Target, choose, target_of
from benchmarks.campaigns.data.leftovers import find_leftovers, listing
from benchmarks.campaigns.data.made_up import MadeUp, write
from benchmarks.campaigns.data.openers import Openers, Opening, Outcome
from benchmarks.campaigns.data.races import KINDS, Race

_NO_MIRROR = "http://127.0.0.1:9/"  # the discard port: refused
_MEMORY = 50.0  # [MB] that a refusal may take; torch's first arrays are 11, a bomb is 200
_DEADLINE = 20.0  # [s] after which a process hangs; a refusal takes a fraction of one
_RACED = ("MNIST", "FashionMNIST", "CIFAR10")
_PLACES = ("data_dir", "RAM_ENV_DATA", "the cache")
_SPLITS = ("train", "validation", "test", "train+validation")


# Damaged files


def damaged_datasets(rounds: int, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Damage one file of a dataset; it must be named and explained, never replaced.

    The error must say what is wrong and what to do, soon and without much memory, and nothing
    may have changed or be left but whole valid files in the cache.

    Args:
        rounds: Cases to run.
        folder: Scratch directory.

    Yields:
        A case's name, and None or what went wrong.
    """
    made = MadeUp()
    with Openers() as openers:
        for number in range(rounds):
            fault, form, rng = choose(number)
            split, place = str(rng.choice(_SPLITS)), str(rng.choice(_PLACES))
            here = folder / f"damaged-{number}"
            cache = here / "cache" / "ram_env"
            data = cache if place == "the cache" else here / "data"
            target = target_of(made, form, split, data, rng)
            write(data, made.members(target.dataset, form in ("gz", "tar")))
            blamed = fault.damage(target, rng) or target.path
            before = listing(here)
            opening = Opening(
                target.dataset,
                split,
                data_dir=str(data) if place == "data_dir" else None,
                environment={
                    "RAM_ENV_MIRROR": _NO_MIRROR,
                    "XDG_CACHE_HOME": str(here / "cache"),
                    **({"RAM_ENV_DATA": str(data)} if place == "RAM_ENV_DATA" else {}),
                },
                settings=made.tables,
                deadline=_DEADLINE,
            )
            outcome = openers.run([opening])[0]
            name = f"{number}: {fault.name}, {target.name} in {place}, {split}"
            problem = _judge_refusal(outcome, fault, target, blamed)
            yield name, problem or find_leftovers(made, target.dataset, here, cache, before)


def _judge_refusal(outcome: Outcome, fault: Fault, target: Target, blamed: Path) -> str | None:
    """Say what is wrong with how a damaged file was received."""
    told = f"{outcome.error} {outcome.message!r}"
    if outcome.is_sample:
        return "the sample was used in its place"
    if not outcome.error:
        return "it was opened as if nothing were wrong"
    if outcome.error != "DatasetError":
        return f"it should be a DatasetError, got {told}"
    counterpart = target.path if "swapped" not in fault.name else target.path.parent
    if not any(str(path) in outcome.message for path in (blamed, counterpart)):
        return f"the message does not name {blamed}: {told}"
    if not re.search(fault.reason, outcome.message, re.DOTALL):
        return f"the message does not say what is wrong ({fault.reason}): {told}"
    if not re.search("[Rr]eplace it", outcome.message):
        return f"the message does not say what to do: {told}"
    if outcome.warned:
        return f"there was a warning as well: {outcome.warned[0]!r}"
    if outcome.grown > _MEMORY:
        return f"it took {outcome.grown:.0f} MB of memory"
    return None


# Racing downloads


def racing_downloads(rounds: int, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Let 2 or 8 processes download a dataset at once, from a server that may be bad.

    With an honest answer all processes must get it and one valid copy must remain; without,
    each must say so clearly or, of MNIST, use the sample with a warning, as documented.
    Afterwards one more process, with an honest server, must be able to finish the job.

    Args:
        rounds: Cases to run.
        folder: Scratch directory.

    Yields:
        A case's name, and None or what went wrong.
    """
    made = MadeUp()
    with Openers() as openers:
        for number in range(rounds):
            rng = np.random.default_rng(number)
            turn, which = divmod(number, len(KINDS))
            count = (8, 2)[(which + turn) % 2]  # every kind meets both
            dataset = _RACED[number % len(_RACED)]
            race = Race(made, openers, dataset, count, KINDS[which], folder / f"race-{number}")
            name = f"{number}: {count} processes, {dataset}, server {race.kind.name}"
            yield name, race.run(rng)
