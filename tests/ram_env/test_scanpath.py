"""Scanpaths: what a file may say, and that the environment replays it."""

import json
from typing import Any

import numpy as np
import pytest

from ram_env import GlimpseEnv, episode_from_json
from tests.script_helpers import note_calls, register_variant

ENV_ID = "Toy-scanpath-v0"


@pytest.fixture
def saved(toy_dataset, monkeypatch) -> dict[str, Any]:
    """A scanpath of image 5, of class 1, answered rightly after the last of 3 glimpses."""
    keywords: dict[str, Any] = {"dataset": toy_dataset, "num_glimpses": 3, "reward": "dense"}
    keywords |= {"action_format": "multidiscrete", "grid_size": (2, 3)}
    keywords["allow_stop"] = True  # a scanpath knows neither a grid nor a stop
    register_variant(monkeypatch, ENV_ID, "MNISTGlimpse-v0", **keywords)
    return {
        "format": "ram-env-scanpath",
        "version": 1,
        "env_id": ENV_ID,
        "split": "validation",
        "index": 5,
        "data_is_sample": False,
        "locations": [[0.1, -0.2], [1, 1], [-0.5, 0.25]],
        "labels": [None, 3, 1],
        "rewards": [0, 0, 1],
    }


def test_a_scanpath_is_replayed_to_the_rewards_that_it_claims(saved, monkeypatch):
    seen = note_calls(monkeypatch, GlimpseEnv, "_observe")
    episode = episode_from_json(json.dumps(saved))
    assert (episode.env_id, episode.split, episode.index) == (ENV_ID, "validation", 5)
    np.testing.assert_array_equal(episode.locations, np.float32(saved["locations"]))
    np.testing.assert_array_equal([call.result["location"] for call in seen[:3]], episode.locations)
    assert episode.locations.dtype == np.float32
    assert episode.labels.tolist() == [-1, 3, 1]
    assert episode.rewards.tolist() == [0, 0, 1]
    wrong = saved | {"labels": [1, 1, 2], "rewards": [0, 0, 0]}
    assert episode_from_json(json.dumps(wrong)).rewards.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [1, 1, 2]}, r"not those of the replay, \[0.0, 0.0, 0.0\]"),
        ({"labels": [1, 1, None]}, "the last of labels must be a class, got null"),
        ({"labels": [4, 1, 1]}, r"label must be in 0\.\.3, got 4"),
        ({"locations": [[0, 0]] * 2}, r"must have 3 entries, one per glimpse .* got \[2, 3, 3\]"),
        ({"locations": [[0, 0], [0, 1.01], [0, 0]]}, "Expected `float` <= 1.0"),
        ({"index": 40}, r"'index'\] must be in 0\.\.39, .*got 40"),
        ({"index": 10**30}, r"not a scanpath|'index'\] must be"),
        ({"split": "train"}, "Invalid enum value 'train'"),
        ({"version": 2}, "Invalid enum value 2"),
        ({"data_is_sample": True}, "data_is_sample must be False, as here, got True"),
        ({"env_id": "antigravity:Toy-v0"}, "must be a registered id without a module"),
        ({"env_id": "Nothing-v0"}, "'Nothing-v0' is not registered"),
        ({"env_id": "CartPole-v1"}, "must name a glimpse environment"),
        ({"seed": 0}, "unknown field `seed`"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_a_reason(saved, change, message):
    with pytest.raises(ValueError, match=message):
        episode_from_json(json.dumps(saved | change))


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 10**5, b"\xff", '{"index": NaN}'])
def test_a_text_that_is_no_scanpath_is_refused(text):
    with pytest.raises(ValueError, match=r"not a scanpath: .*episode_from_json"):
        episode_from_json(text)
