"""A published run comes back equal and checked, and reveals nothing of the machine's folders."""

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import gymnasium
import pytest
import torch

import agents.runs.loading
import train.publish
from agents.evaluation import evaluate
from agents.runs.loading import load_pretrained, load_run
from train.reinforce import Config, main

COMMIT = "0123456789" * 4  # of a clean tree, whatever the state of this one


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "signpost"
    main(
        Config(
            env_id="SignpostGlimpse-v0",
            total_episodes=256,
            threads=1,
            device="cpu",
            num_validations=1,
            run_dir=folder,
        )
    )
    set_commit(folder, COMMIT)
    return folder


def set_commit(folder, commit):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "commit": commit}))


@pytest.fixture
def published(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(agents.runs.loading, "PRETRAINED", tmp_path)
    train.publish.main(train.publish.Config(run_dir, "board"))
    return tmp_path / "board"


def test_a_published_model_is_the_runs(run_dir, published):
    model, settings = load_pretrained("board")
    original, _ = load_run(run_dir)
    assert settings["env_id"] == "SignpostGlimpse-v0"
    for name, weight in original.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


def test_the_validation_errors_on_the_way_are_published(run_dir, published):
    rows = (published / "validation.csv").read_text().splitlines()
    assert rows[0] == "env_steps,tag,value"
    assert rows[1:] == [
        row for row in (run_dir / "metrics.csv").read_text().splitlines() if "eval/error" in row
    ]
    assert len(rows) == 2


def test_no_path_of_the_machine_is_published(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(agents.runs.loading, "PRETRAINED", tmp_path)
    copied = tmp_path / "copied"
    shutil.copytree(run_dir, copied)
    for file in ("config.json", "result.json"):
        content = json.loads((copied / file).read_text())
        content["data"] = f"MNIST train: 55000 images from {run_dir.parent} (unpacked)"
        script = run_dir.parent / "train" / "reinforce.py"
        if file == "config.json":
            content["command"] = f"python {script} --run-dir {copied} --threads 1"
        (copied / file).write_text(json.dumps(content))
    train.publish.main(train.publish.Config(copied, "board"))
    published = tmp_path / "board"
    assert json.loads((published / "config.json").read_text())["data"] == (
        "MNIST train: 55000 images"
    )
    assert json.loads((published / "config.json").read_text())["command"] == (
        "python train/reinforce.py --run-dir RUN_DIR --threads 1"
    )
    for file in ("config.json", "result.json", "model.json"):
        assert str(run_dir.parent) not in (published / file).read_text()
    assert json.loads((published / "config.json").read_text())["commit"] == COMMIT


def test_publishing_again_replaces_and_keeps_the_others(run_dir, published):
    train.publish.main(train.publish.Config(run_dir, "other"))
    train.publish.main(train.publish.Config(run_dir, "board"))
    load_pretrained("other")
    load_pretrained("board")


@pytest.mark.parametrize(
    "file", ["best.safetensors", "model.json", "config.json", "result.json", "validation.csv"]
)
def test_a_file_that_is_not_the_published_one_is_named(published, file):
    content = (published / file).read_bytes()
    (published / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{file} was changed.*install the package again"):
        load_pretrained("board")


def test_an_unknown_name_lists_the_known_ones(published):
    with pytest.raises(ValueError, match="one of board, got 'boat'"):
        load_pretrained("boat")


@pytest.mark.parametrize("name", ["/tmp/elsewhere", ".", "..", "a/b", "", "A"])
def test_a_name_that_is_no_plain_folder_is_refused(run_dir, name):
    with pytest.raises(ValueError, match="name must consist"):
        train.publish.Config(run_dir, name)


REFUSED = {
    "no result yet": ("result.json", None, "has no result.json: publish a finished run"),
    "no validation yet": ("best.safetensors", None, "wait for the run's first validation"),
    "another script": ("model.json", None, "expected a run of train/reinforce.py"),
    "sample of digits": ("config.json", {"sample": True}, "not trained on the full data"),
    "no commit": ("config.json", {"commit": None}, "commit that others can check out"),
    "changed files": ("config.json", {"commit": f"{COMMIT}+"}, "commit that others can check out"),
    "data that is no string": ("config.json", {"data": 5}, r"config.json is not valid.*data"),
    "not on test": ("result.json", {"split": "none"}, "not evaluated on the test split"),
    "split that is no string": ("result.json", {"split": []}, r"result.json is not valid.*split"),
    "no metrics": ("metrics.csv", None, r"metrics.csv cannot be read"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_an_unfit_run_is_refused_and_what_was_published_stays(run_dir, published, tmp_path, reason):
    file, changes, message = REFUSED[reason]
    path = tmp_path / "copied" / file
    shutil.copytree(run_dir, path.parent)
    if changes is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        train.publish.main(train.publish.Config(path.parent, "board"))
    load_pretrained("board")


class Died(BaseException):
    """Stands for the death of the process."""


CALLS = ("open", "write", "fsync", "mkdir", "replace", "unlink", "rmdir")


def die_at_call(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process die before a file operation, counted from 0."""
    left = [number]

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def die_or_call(*args: Any, **keywords: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Died
            return call(*args, **keywords)

        return die_or_call

    for name in CALLS:
        monkeypatch.setattr(os, name, dying(getattr(os, name)))


@pytest.mark.parametrize("replaced", [True, False])
def test_a_crash_at_any_file_operation_leaves_a_whole_run_or_none(
    run_dir, published, tmp_path, monkeypatch, replaced
):
    older = json.loads((published / "config.json").read_text())["commit"]
    newer = tmp_path / "newer"
    shutil.copytree(run_dir, newer)
    set_commit(newer, "f" * 40)
    expected = {(), (older,), ("f" * 40,)} - ({()} if replaced else {(older,)})
    seen = []
    for number in count():
        root = tmp_path / f"crash{number}"
        shutil.copytree(published.parent / "board", root / "board") if replaced else root.mkdir()
        monkeypatch.setattr(agents.runs.loading, "PRETRAINED", root)
        with monkeypatch.context() as patch, suppress(Died):
            die_at_call(number, patch)
            train.publish.main(train.publish.Config(newer, "board"))
            break
        commits = []
        for name in agents.runs.loading.published_names():
            load_pretrained(name)
            facts = (agents.runs.loading.pretrained_dir(name) / "config.json").read_text()
            commits.append(json.loads(facts)["commit"])
        seen.append(tuple(commits))
        train.publish.main(train.publish.Config(newer, "board"))  # a second try succeeds
        load_pretrained("board")
        assert [path.name for path in root.iterdir()] == ["board"]
    assert set(seen) == expected


@pytest.mark.parametrize("name", sorted(agents.runs.loading.published_names()))
def test_every_published_model_loads_and_names_its_data_and_commit(name):
    model, settings = load_pretrained(name)
    facts = json.loads((agents.runs.loading.PRETRAINED / name / "config.json").read_text())
    assert settings["env_id"]
    assert model.config.num_classes == 10
    assert facts["sample"] is False
    assert re.fullmatch("[0-9a-f]{40}", facts["commit"])  # of a clean tree


@pytest.mark.parametrize("name", sorted(agents.runs.loading.published_names()))
def test_every_published_model_errs_about_as_rarely_as_its_result_says(name, full_mnist):
    model, settings = load_pretrained(name)
    env = gymnasium.make_vec(
        settings["env_id"],
        num_envs=500,
        split="validation",
        order="sequential",
        action_format="dict",
        data_dir=str(full_mnist),
    )
    expected = json.loads((agents.runs.loading.PRETRAINED / name / "result.json").read_text())[
        "error"
    ]
    assert evaluate(model, env, 1000).error < 2 * expected + 1  # [%], of 1,000 other images
