"""What can happen to any file: other bytes, or something else in its place."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

Damage = Callable[[Path, np.random.Generator], object]


def rewrite(change: Callable[[bytes, int], bytes]) -> Damage:
    """Return what changes a file's bytes, given a random place in it."""

    def damage(path: Path, rng: np.random.Generator) -> None:
        content = path.read_bytes()
        path.write_bytes(change(content, int(rng.integers(len(content)))))

    return damage


def put(make: Callable[[Path], object]) -> Damage:
    """Return what puts something else in the place of a file."""
    return lambda path, rng: (path.unlink(missing_ok=True), make(path))


def flip_a_bit(content: bytes, i: int) -> bytes:
    i = max(i, 16)  # beyond the header of a .gz, some of whose bits don't count
    return content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :]


CHANGED = {
    "truncated": rewrite(lambda content, i: content[:i]),
    "a bit flipped": rewrite(flip_a_bit),
    "the end lost": rewrite(lambda content, i: content[:i] + bytes(len(content) - i + 1)),
    "more at the end": rewrite(lambda content, i: content + b"\1" + bytes(i % 99)),
    "twice": rewrite(lambda content, i: content + content),
    "empty": rewrite(lambda content, i: b""),
}
MISPLACED = {
    "1 TiB of zeros": put(lambda path: (path.touch(), os.truncate(path, 2**40))),
    "missing": put(lambda path: None),
    "a folder": put(Path.mkdir),
    "a pipe": put(os.mkfifo),
    "a link to nowhere": put(lambda path: path.symlink_to("nowhere")),
    "a link to itself": put(lambda path: path.symlink_to(path.name)),
    "an endless device": put(lambda path: path.symlink_to("/dev/zero")),
    "an unreadable file": put(lambda path: path.symlink_to("/proc/self/mem")),
}
