"""Every action is a checked decision or a ValueError, in each of the three formats."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ram_env.actions import FORMATS, ActionFormat, Decision

K = 4  # classes


def make(name: str, allow_stop: bool = False) -> ActionFormat:
    return ActionFormat(name, K, allow_stop, (3, 2))


def assert_decides(decision: Decision, location: Any, label: Any, stop: Any = None) -> None:
    assert (decision.location.dtype, decision.label.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(decision.location, np.float32(location).reshape(-1, 2))
    np.testing.assert_array_equal(decision.label, np.reshape(label, -1))
    np.testing.assert_array_equal(decision.stop, None if stop is None else np.reshape(stop, -1))


def test_spaces_are_those_of_the_page():
    location = spaces.Box(-1, 1, (2,), np.float32)
    for stops, more in ((False, []), (True, [2])):
        assert make("box", stops).space == spaces.Box(-1, 1, (2 + K + stops,), np.float32)
        parts: dict[str, spaces.Space] = {"location": location, "label": spaces.Discrete(K)}
        parts |= {"stop": spaces.Discrete(2)} if stops else {}
        assert make("dict", stops).space == spaces.Dict(parts)
        assert make("multidiscrete", stops).space == spaces.MultiDiscrete([3, 2, K, *more])


# What is accepted


BOX = np.array([0.5, -0.25, 0, 3, 1, 2], np.float32)


@pytest.mark.parametrize(
    "action",
    [
        BOX.tolist(),
        *(BOX.astype(kind) for kind in ("f2", "f8", ">f4", "g")),
        BOX[::-1].copy()[::-1],
        *(torch.tensor(BOX, requires_grad=True), torch.tensor(BOX, dtype=torch.bfloat16)),
        [np.float32(0.5), torch.tensor(-0.25), 0, np.int8(3), 1, 2],
    ],
    ids=lambda action: f"{type(action).__name__} {getattr(action, 'dtype', '')}",
)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_box_accepts_array_likes(action, device):
    decision = make("box").parse(action, device=device)
    assert decision.location.tolist() == [[0.5, -0.25]]
    assert decision.label.tolist() == [1]
    assert decision.scores is not None
    assert decision.scores.tolist() == [[0, 3, 1, 2]]


@pytest.mark.parametrize("label", [2, np.uint8(2), np.array(2), torch.tensor(2)])
def test_dict_and_multidiscrete_accept_array_likes(label):
    for location in ((0.5, 1), np.array([0.5, 1]), torch.tensor([0.5, 1])):
        assert_decides(make("dict").parse({"label": label, "location": location}), (0.5, 1), 2)
    for action in ([2, 0, label], np.array([2, 0, int(label)], np.uint8)):
        assert_decides(make("multidiscrete").parse(action), (2 / 3, -0.5), 2)


def test_centres_of_grid_cells_by_hand():
    # Columns of 3: (2 j + 1) / 3 - 1 = -2/3, 0, 2/3; rows of 2: (2 i + 1) / 2 - 1 = -1/2, 1/2.
    for column, x in enumerate((-2 / 3, 0, 2 / 3)):
        for row, y in enumerate((-0.5, 0.5)):
            assert_decides(make("multidiscrete").parse([column, row, 1]), (x, y), 1)


@pytest.mark.parametrize(
    ("scores", "label"),
    [
        *[([1, 1, 1, 1], 0), ([0, 2, 2, 1], 1), ([-1, -3, -1, -1], 0), ([0, -0.0, 0, 0], 0)],
        *[([0, 0, 0, 9], 3), ([-3e38, 3e38, 0.0, 1e30], 1)],  # any finite size
    ],
)
def test_the_first_of_equal_scores_wins(scores, label):
    assert_decides(make("box").parse([1, -1, *scores]), (1, -1), label)


@pytest.mark.parametrize("beyond", [1.0001, 2, 1e30])
def test_locations_are_clipped_but_scores_are_not(beyond):
    decision: Any = make("box").parse([beyond, -beyond, beyond, 0, -beyond, 0])
    assert_decides(decision, (1, -1), 0)
    assert decision.scores[0].tolist() == [np.float32(beyond), 0, np.float32(-beyond), 0]
    decision = make("dict").parse({"location": (-beyond, 0.5), "label": 0})
    assert_decides(decision, (-1, 0.5), 0)


@pytest.mark.parametrize("stop", [0, 1])
def test_stop_is_above_0_or_1(stop):
    for number in (stop, 9.5 * (2 * stop - 1)):
        decision = make("box", True).parse([0, 0, 1, 0, 0, 0, number])
        assert_decides(decision, (0, 0), 0, stop == 1)  # the stop is not a class score
    for flag in (stop, bool(stop), np.bool_(stop)):  # all are in Discrete(2)
        action = {"location": (0, 0), "label": 3, "stop": flag}
        assert_decides(make("dict", True).parse(action), (0, 0), 3, stop == 1)
    assert_decides(make("multidiscrete", True).parse([1, 0, 2, stop]), (0, -0.5), 2, stop == 1)


# What is refused; tests/faults/test_environments.py tries anything else


JUNK = [
    *[None, "abc", object(), 0, [], [0] * 4, [0] * 5, [0] * 7, [[0] * 6], [0, [1], 0, 0, 0, 0]],
    *[[True] * 6, [0j] * 6, ["0"] * 6, [10**400] * 6, np.zeros(6, "datetime64[s]")],
    *[torch.zeros(6, dtype=torch.bool), torch.zeros(6).to_sparse()],
]


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: re.sub(" at 0x.*", "", str(junk))[:30])
@pytest.mark.parametrize("name", FORMATS)
def test_junk_is_refused(name, junk):
    with pytest.raises(
        ValueError, match="action must be a dict of" if name == "dict" else "action"
    ):
        make(name).parse(junk)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e300])  # 1e300 is inf in float32
def test_box_refuses_what_is_not_finite(value):
    message = r"action: all numbers must be finite in float32, got \[.*\]"
    for action in np.where(np.eye(3 + K), value, 0):  # in each place
        with pytest.raises(ValueError, match=f"{message}$"):
            make("box", True).parse(action)
        with pytest.raises(ValueError, match=f"{message} in lane 1$"):
            make("box", True).parse([np.zeros(3 + K), action], (2,))


GOOD: dict[str, dict[str, Any]] = {
    "dict": {"location": (0, 0), "label": 0, "stop": 0},
    "multidiscrete": {"column": 0, "row": 0, "label": 0, "stop": 0},
}
BAD: dict[tuple[str, str, str], list[Any]] = {  # values of a part, by format, part and message
    ("dict", "location", "finite"): [(0, np.nan), (1e39, 0)],
    ("dict", "location", "real numbers"): [(0, 0, 0), 0, (True, False), ("0", "0"), None],
    ("dict", "location", ""): [[0, [0]]],
    ("dict", "label", r"in 0\.\.3"): [-1, K, np.uint64(2**63), np.uint64(2**64 - 1)],
    ("dict", "label", "integers"): [2**64, 1.0, None, torch.tensor(1.0), [1]],
    ("dict", "stop", r"in 0\.\.1"): [-1, 2],
    ("dict", "stop", "integers"): [0.0, [0]],
    ("multidiscrete", "column", r"must be in 0\.\.2, got (3|-1)"): [3, -1],
    ("multidiscrete", "row", r"in 0\.\.1"): [2, -1],
    ("multidiscrete", "label", r"in 0\.\.3"): [-1, K],
    ("multidiscrete", "stop", r"in 0\.\.1"): [-1, 2],
    ("multidiscrete", "", "integers"): [0.0],
}


@pytest.mark.parametrize(
    ("name", "part", "message", "value"),
    [(*key, value) for key, values in BAD.items() for value in values],
)
def test_each_wrong_part_is_refused_by_name(name, part, message, value):
    def parse(action: dict[str, Any]) -> None:
        make(name, True).parse(action if name == "dict" else np.array([*action.values()]))

    parse(GOOD[name])
    with pytest.raises(ValueError, match=f"action.*{part}.*{message}"):
        parse({**GOOD[name], part or "label": value})


@pytest.mark.parametrize("change", [*GOOD["dict"], "speed", 0])
def test_dict_refuses_missing_and_unknown_parts(change):
    action = dict.fromkeys({*GOOD["dict"]} ^ {change}, 0)
    with pytest.raises(ValueError, match=r"dict of \['label', 'location', 'stop'\], got"):
        make("dict", True).parse(action)
