"""From an id to its task: shipped ids, a user's own, and what is not a task."""

import json
import sys
from dataclasses import asdict, replace

import gymnasium
import pytest

import train.baselines
import train.reinforce
import train.sb3
from agents.runs.commands import read_resumed
from ram_env import TASKS, find_task

MODULE = """
import gymnasium

gymnasium.register(
    "MyDigits-v0",
    entry_point="ram_env.env:GlimpseEnv",
    vector_entry_point="ram_env.vector_env:GlimpseVectorEnv",
    kwargs={"dataset": "toy", "num_glimpses": 3, "render_mode": None},
)
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """The name of a module that registers an environment, not yet imported."""
    (tmp_path / "my_digits.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_digits"
    sys.modules.pop("my_digits", None)
    gymnasium.registry.pop("MyDigits-v0", None)


def test_an_ids_task_is_its_environments_and_a_users_module_is_imported(own_module):
    for env_id, (kind, keywords) in TASKS.items():
        assert find_task(env_id) == find_task(f"ram_env:{env_id}") == kind(**keywords)
    task = find_task(f"{own_module}:MyDigits-v0")
    assert (task.num_glimpses, task.glimpse_size) == (3, 8)


@pytest.mark.parametrize("config", [train.reinforce.Config, train.sb3.Config])
@pytest.mark.parametrize(
    ("env_id", "error", "message"),
    [
        ("CartPole-v1", ValueError, r"must name a glimpse .*'CartPole-v1'"),
        ("no_such_module:MyDigits-v0", ValueError, "cannot import 'no_such_module'"),
        (":MyDigits-v0", ValueError, "env_id ':MyDigits-v0': cannot import ''"),
        (".x:MyDigits-v0", ValueError, "env_id '.x:MyDigits-v0': cannot import '.x'"),
        ("Glympse-v0", gymnasium.error.NameNotFound, "Glympse"),
        ("MNISTGlimpse-v9", gymnasium.error.VersionNotFound, "`v9`"),
    ],
)
def test_training_accepts_glimpse_environments_only(own_module, config, env_id, error, message):
    assert config(env_id=f"{own_module}:MyDigits-v0").env_id == "my_digits:MyDigits-v0"
    assert config(env_id="ram_env:MNISTGlimpse-v0")
    with pytest.raises(error, match=message):
        config(env_id=env_id)


def test_an_id_without_a_vector_entry_point_is_told_how_to_register_it(monkeypatch):
    spec = replace(gymnasium.spec("MNISTGlimpse-v0"), id="Own-v0", vector_entry_point=None)
    monkeypatch.setitem(gymnasium.registry, "Own-v0", spec)
    with pytest.raises(ValueError, match="got 'Own-v0'; register it with vector_entry"):
        find_task("Own-v0")


def test_a_task_is_the_same_after_its_keywords_went_through_json():
    task = find_task("MNISTGlimpse-v0", object_scale=(0.5, 1.5), canvas_size=60)
    again = find_task("MNISTGlimpse-v0", **json.loads(json.dumps(asdict(task))))
    assert again == task
    assert hash(again) == hash(task)


@pytest.mark.usefixtures("toy_dataset")
def test_a_run_resumes_once_the_user_allows_the_import(own_module, tmp_path, capsys):
    env_id = f"{own_module}:MyDigits-v0"
    flags = ["--env-id", env_id, "--run-dir", str(tmp_path / "run"), "--total-episodes", "256"]
    train.reinforce.main(train.reinforce.parse([*flags, "--threads", "1", "--device", "cpu"]))
    line = capsys.readouterr().out.splitlines()[-1]
    del sys.modules[own_module], gymnasium.registry["MyDigits-v0"]
    resume = ["--resume", str(tmp_path / "run")]
    with pytest.raises(ValueError, match=f"if you trust it, say --env-id {env_id}, or"):
        train.reinforce.parse(resume)
    with pytest.raises(ValueError, match="is a run on 'my_digits:MyDigits-v0', got --env-id Other"):
        read_resumed(train.reinforce.Config, [*resume, "--env-id", "Other-v0"])
    assert own_module not in sys.modules
    train.reinforce.main(train.reinforce.parse([*resume, f"--env-id={env_id}"]))
    assert capsys.readouterr().out.splitlines() == [line]
