"""Learning, on tasks whose bounds are known: what the agent needs, and that it is needed."""

import pytest
import torch

from agents.ram import RecurrentAttentionModel
from tests.script_helpers import register_variant
from train.reinforce import Config, main

TWO_PARTS = "TwoPartSignpostGlimpse-v0"  # the label needs the marks of two cells
SOLVING = {"estimator": "dense", "location": "absolute", "location_hidden": 0}
SOLVING |= {"core": "rnn", "total_episodes": 90_000}
NEEDS_MEMORY = 38
"""Error [%] between runs with and without memory: seeds 0 to 7 ended at 33 or less with it, seeds 0
to 4 at 44 or more without. Chance is 75, following the path without memory 50. Each kind of
processor rounds in its own way, which is like another seed."""


@pytest.fixture(autouse=True)
def _two_parts(monkeypatch):
    register_variant(monkeypatch, TWO_PARTS, "SignpostGlimpse-v0", parts=2, num_marks=2)


def error_after(tmp_path, capsys, **changes) -> float:
    """Train; return the validation error [%] of the last line."""
    settings = {"threads": 1, "device": "cpu", "std": 0.4, "final_std": 0.1, "num_validations": 1}
    settings |= {"hidden_size": 64, "conv_features": 0, "num_envs": 128, "learning_rate": 3e-3}
    main(Config(run_dir=tmp_path / "run", final_split="validation", **settings, **changes))
    return float(capsys.readouterr().out.splitlines()[-1].split()[2])


def test_the_signpost_task_is_solved(tmp_path, capsys):
    settings = {"env_id": "SignpostGlimpse-v0", "total_episodes": 60_000}
    assert error_after(tmp_path, capsys, **settings) < 5  # chance: 75


def test_two_parts_are_solved_with_memory(tmp_path, capsys):
    assert error_after(tmp_path, capsys, env_id=TWO_PARTS, **SOLVING) < NEEDS_MEMORY


def test_two_parts_are_not_solved_without_memory(tmp_path, capsys, monkeypatch):
    remember = RecurrentAttentionModel.forward

    def forget(self, glimpse, location, state):
        return remember(self, glimpse, location, torch.zeros_like(state))

    monkeypatch.setattr(RecurrentAttentionModel, "forward", forget)
    # following the path and naming the last mark is right once in 2; one that looks between cells
    # may see two at once, or let its place remember a mark, so the test leaves it a little
    assert error_after(tmp_path, capsys, env_id=TWO_PARTS, **SOLVING) > NEEDS_MEMORY
