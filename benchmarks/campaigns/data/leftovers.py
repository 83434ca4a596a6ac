"""What a process has left in a folder."""

import os
import stat
from collections.abc import Collection
from pathlib import Path

from benchmarks.campaigns.data.made_up import MadeUp

Entry = tuple[Path, int, int]  # path, mode and size


def listing(folder: Path) -> list[Entry]:
    """Return all that lies under a folder; a folder's own size counts as 0."""
    found = []
    for above, folders, files in os.walk(folder):
        for path in (Path(above) / name for name in (*folders, *files)):
            facts = path.lstat()
            size = 0 if stat.S_ISDIR(facts.st_mode) else facts.st_size
            found.append((path, facts.st_mode, size))
    return found


def find_leftovers(
    made: MadeUp, dataset: str, folder: Path, cache: Path, before: Collection[Entry] = ()
) -> str | None:
    """Say what was left or changed that should not have been.

    The cache may hold locks and the dataset's extracted files, each whole and valid.

    Args:
        made: The made-up datasets.
        dataset: Name of the dataset.
        folder: The folder to look at.
        cache: The cache folder, somewhere under it.
        before: `listing` of the folder as it was.
    """
    now = listing(folder)
    if lost := [path for path, *facts in before if (path, *facts) not in now]:
        return f"{lost[0]} was changed or removed"
    valid = {cache / name: content for name, content in made.members(dataset, False).items()}
    folders = {above for path in valid for above in path.parents}
    for path, mode, _ in sorted({*now} - {*before}):
        if path.suffix == ".lock" or (path in folders and stat.S_ISDIR(mode)):
            continue
        if path not in valid or path.read_bytes() != valid[path]:
            return f"{path} was left over"
    return None
