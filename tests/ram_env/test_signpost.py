"""The board's bounds hold, and nothing is on it but what its page says.

Scripted policies see glimpses only. Dimension key: N lanes, T glimpses, m cells a side.
"""

from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from ram_env.draws import draw_words
from ram_env.signpost import SignpostScenes

SPLIT_SIZES = {"train": 2**31, "validation": 5_000, "test": 10_000, "train+validation": 2**31}


def decode(colours: np.ndarray, m: int, num_marks: int) -> tuple[np.ndarray, ...]:
    """Read column, row and mark (-1: none) from red, green and blue in 0..255, (..., 3)."""
    cells = np.rint(colours[..., :2] / 255 * (m - 1)).astype(int)
    mark = np.rint(colours[..., 2] / 255 * num_marks).astype(int) - 1
    return cells[..., 0], cells[..., 1], mark


def follow(t, column, row, mark, memory):
    """Go where the colours point, to the end of the path, and read its marks as digits."""
    task = memory["task"]
    if t <= task.chain + 1:  # the last cell's digit is the lowest; most have none
        label = memory.get("label", 0) * task.num_marks + np.maximum(mark, 0)
        memory |= {"label": label, "cell": (column, row)}
    return *memory["cell"], memory["label"]


def forget(t, column, row, mark, memory):
    """Follow, and name the last mark, part 0."""
    return column, row, np.maximum(mark, 0)


def wander(t, column, row, mark, memory):
    """Look at random cells and name the mark that was seen, if any."""
    task, rng = memory["task"], memory.setdefault("rng", np.random.default_rng(0))
    guess = memory.setdefault("guess", rng.integers(task.num_marks, size=len(mark)))
    seen = memory["guess"] = np.where(mark >= 0, mark, guess)
    return *rng.integers(task.board_size, size=(2, len(mark))), seen


def found(board_size: int, num_marks: int, num_glimpses: int) -> float:
    q = 1 - (1 - 1 / board_size**2) ** (num_glimpses - 1)
    return q + (1 - q) / num_marks


DIALS = ("chain", "parts", "board_size", "num_marks", "num_glimpses")


@pytest.mark.parametrize(
    ("policy", "dials", "expected"),
    [
        *[(follow, dials, 1) for dials in ((1, 1, 3, 4, 4), (1, 1, 2, 3, 2), (1, 2, 3, 4, 2))],
        *[(follow, dials, 1) for dials in ((2, 1, 3, 4, 3), (2, 2, 4, 5, 6), (3, 1, 3, 2, 4))],
        (follow, (3, 4, 2, 3, 4), 1),
        (follow, (2, 1, 3, 4, 2), 1 / 4),  # one glimpse too few
        *[(forget, (2, parts, 3, 4, 3), 4.0 ** -(parts - 1)) for parts in (2, 3)],
        *[(wander, (1, 1, *rest), found(*rest)) for rest in ((3, 4, 4), (2, 3, 6))],
    ],
)
def test_a_policy_reaches_the_accuracy_that_the_page_says(policy, dials, expected):
    num_envs, rounds, right = 500, 20, 0.0
    keywords: Any = dict(zip(DIALS, dials, strict=True))
    envs: Any = gym.make_vec(
        "SignpostGlimpse-v0", num_envs, action_format="multidiscrete", **keywords
    )
    task = envs.unwrapped.task
    obs, _ = envs.reset(seed=0)
    for _ in range(rounds):
        memory: dict[str, Any] = {"task": task}
        for t in range(1, task.num_glimpses + 1):
            seen = decode(obs["glimpse"][:, :3, 1, 1] * 255, task.board_size, task.num_marks)
            obs, reward, terminated, _, _ = envs.step(np.stack(policy(t, *seen, memory), 1))
            assert terminated.all() == terminated.any() == (t == task.num_glimpses)
            right += float(reward.sum())
    n = rounds * num_envs
    assert abs(right / n - expected) <= 4 * np.sqrt(expected * (1 - expected) / n)


def boards(n: int = 400, **dials: int):
    """Return canvases (n, m, m, 3) of one pixel per cell, labels, positions, first locations."""
    scenes = SignpostScenes("train", **dials)
    words = draw_words(np.arange(n).astype(np.uint64), np.zeros(n, int), scenes.num_words)
    canvases = np.zeros((n, 3, scenes.side, scenes.side), np.uint8)
    drawn = scenes.draw(canvases, 0, np.arange(n), np.arange(n), words)
    assert drawn.locations is not None
    cells = canvases[:, :, 4::8, 4::8]
    assert (canvases == cells.repeat(8, 2).repeat(8, 3)).all()  # a cell has one colour
    return cells.transpose(0, 2, 3, 1), drawn.labels, drawn.positions, drawn.locations


@pytest.mark.parametrize(
    ("board_size", "chain", "parts", "num_marks"),
    [(3, 1, 1, 4), (3, 2, 2, 4), (3, 8, 3, 5), (2, 3, 4, 3), (5, 3, 1, 255)],
)
def test_the_colours_spell_the_path_the_marks_and_the_label(board_size, chain, parts, num_marks):
    m, dials = board_size, {"chain": chain, "parts": parts, "num_marks": num_marks}
    for board, label, position, location in zip(*boards(board_size=m, **dials), strict=True):
        first = np.rint((location + 1) * m / 2 - 0.5).astype(int)
        assert (location == np.float32((2 * first + 1) / m - 1)).all()  # a cell's centre
        column, row = first
        path, marks = [(column, row)], []
        for _ in range(chain):
            column, row, mark = (int(v) for v in decode(board[row, column], m, num_marks))
            marks.append(mark)
            path.append((column, row))
        marks.append(int(decode(board[row, column], m, num_marks)[2]))
        assert len(set(path)) == chain + 1  # no cell comes twice
        assert (position == 8 * np.array(path[-1])).all()
        assert marks[:-parts] == [-1] * (chain + 1 - parts)
        last_first = marks[::-1][:parts]
        assert label == sum(v * num_marks**k for k, v in enumerate(last_first))
        on_path = np.zeros((m, m), bool)
        on_path[tuple(np.array(path[-parts:])[:, ::-1].T)] = True
        assert ((board[..., 2] > 0) == on_path).all()  # blue nowhere else


def test_levels_are_rounded_down():
    canvases, *_ = boards(board_size=5)
    # 255 c / 4 = 0, 63.75, 127.5, 191.25, 255; 255 (v + 1) / 4 the same without 0.
    for colour in range(3):
        assert np.unique(canvases[..., colour]).tolist() == [0, 63, 127, 191, 255]


def chi_square(counts: np.ndarray) -> float:
    """Pearson's statistic against equal counts, in standard deviations above its mean."""
    df = counts.size - 1
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    return (statistic - df) / np.sqrt(2 * df)


def test_starts_ends_marks_and_other_cells_are_uniform():
    canvases, labels, positions, locations = boards(8000, parts=2)
    start = np.rint((locations + 1) * 1.5 - 0.5).astype(int) @ [1, 3]
    end = positions // 8 @ [1, 3]
    assert chi_square(np.bincount(start, minlength=9)) < 5
    assert chi_square(np.bincount(end, minlength=9)) < 5
    pairs = np.bincount(start * 9 + end, minlength=81).reshape(9, 9)
    assert chi_square(pairs[~np.eye(9, dtype=bool)]) < 5  # all paths alike
    assert chi_square(np.bincount(labels, minlength=16)) < 5
    column, row, _ = decode(canvases, 3, 4)
    assert chi_square(np.bincount((column + 3 * row).ravel(), minlength=9)) < 5


@pytest.mark.parametrize("split", SPLIT_SIZES)
def test_board_k_depends_on_the_split_and_k_alone(split):
    orders = ("random", "sequential")
    envs: list[Any] = [gym.make("SignpostGlimpse-v0", split=split, order=order) for order in orders]
    for index in (0, 17, SPLIT_SIZES[split] - 1):
        shown = set()
        for env, seed in product(envs, (0, 1, None)):
            obs, info = env.reset(seed=seed, options={"index": index})
            assert info["index"] == index
            canvas = env.unwrapped._episodes.canvas(0)
            shown.add((canvas.tobytes(), obs["location"].tobytes(), info["label"]))
        assert len(shown) == 1
    with pytest.raises(ValueError, match=f"0..{SPLIT_SIZES[split] - 1}"):
        envs[0].reset(options={"index": SPLIT_SIZES[split]})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("board_size", [1, 33, 3.0]),
        ("chain", [0, 9]),  # 9 cells, 8 steps
        ("parts", [0, 3]),  # two cells on the path
        ("num_marks", [1, 256, True]),
    ],
)
def test_dials_out_of_range_are_refused(name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"{name} must be a Python int in .*, got {value}"):
            gym.make("SignpostGlimpse-v0", **{name: value})
    with pytest.raises(ValueError, match=r"num_marks\*\*parts"):
        gym.make("SignpostGlimpse-v0", num_marks=101, parts=2)


@pytest.mark.parametrize(
    ("dials", "num_classes"),
    [
        ({"board_size": 2, "chain": 3, "parts": 4, "num_marks": 10}, 10_000),
        ({"board_size": 32, "num_marks": 255}, 255),
    ],
)
def test_dials_at_their_limits_work(dials, num_classes):
    env: Any = gym.make("SignpostGlimpse-v0", **dials).unwrapped
    _, info = env.reset(seed=0)
    assert 0 <= info["label"] < env.num_classes == num_classes
