"""A published run comes back equal and checked, and reveals nothing of the machine's folders."""

import json
import re
import shutil
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

import train.evaluate
import train.publish
from agents.evaluation import evaluate
from agents.runs import loading
from agents.runs.hashed import read_hashed
from agents.runs.loading import load_pretrained, load_run
from tests.faults.system_calls import Killed, die, handled_by
from tests.script_helpers import SMALL_RUN, edit_json
from train.keywords import make_vector_env
from train.publish import model_card
from train.reinforce import Config, main

COMMIT = "0123456789" * 4  # of a clean tree, whatever the state of this one


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "signpost"
    main(Config(run_dir=folder, **{**SMALL_RUN, "total_episodes": 256, "final_split": "test"}))
    edit_json(folder / "config.json", commit=COMMIT)
    return folder


@pytest.fixture
def copied(run_dir, tmp_path):
    return Path(shutil.copytree(run_dir, tmp_path / "copied"))


@pytest.fixture
def published(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "PRETRAINED", tmp_path / "pretrained")
    publish(run_dir)
    return tmp_path / "pretrained" / "board"


def publish(run_dir: Path) -> None:
    train.publish.main(train.publish.Config(run_dir, "board"))


def test_a_published_model_is_the_runs_with_its_validation_errors(run_dir, published):
    model, settings = load_pretrained("board")
    original, _ = load_run(run_dir)
    assert settings["env_id"] == "SignpostGlimpse-v0"
    for name, weight in original.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])
    header, *rows = (run_dir / "metrics.csv").read_text().splitlines()
    errors = [row for row in rows if "eval/error" in row]
    assert (published / "validation.csv").read_text().splitlines() == [header, *errors]
    assert len(errors) == 1


@pytest.mark.usefixtures("published")
def test_a_published_run_is_evaluated_by_its_name(run_dir, capsys):
    printed: list[list[str]] = []
    choices: tuple[dict[str, Any], ...] = ({"run_dir": run_dir}, {"pretrained": "board"})
    for which in choices:
        config = train.evaluate.Config(num_passes=1, threads=1, device="cpu", **which)
        train.evaluate.main(config)
        printed.append(capsys.readouterr().out.splitlines()[1:])  # all but the run's name
    assert printed[0] == printed[1]


def test_no_path_of_the_machine_is_published(copied, published):
    data, script = f"MNIST train: 55000 images from {copied.parent} (unpacked)", copied.parent / "x"
    edit_json(copied / "result.json", data=data)
    other = copied.parent / "runs" / "other"
    command = f"python {script}/train/reinforce.py --run-dir {copied} --threads 1 --other={other}"
    settings = json.loads((copied / "config.json").read_text())["config"]
    edit_json(copied / "config.json", data=data, command=command, config={"other": str(other)})
    publish(copied)
    content = json.loads((published / "config.json").read_text())
    assert content["data"] == "MNIST train: 55000 images"
    command = "python train/reinforce.py --run-dir RUN_DIR --threads 1 --other=runs/other"
    assert content["command"] == command
    assert content["config"] == {**settings, "other": "runs/other", "run_dir": None}
    for file in ("config.json", "result.json", "model.json"):
        assert str(copied.parent) not in (published / file).read_text()


@pytest.mark.parametrize("file", ["best.safetensors", "README.md"])
def test_a_file_that_is_not_the_published_one_is_named(published, file):
    content = (published / file).read_bytes()
    (published / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{file} was changed.*install the package again"):
        load_pretrained("board")
    with pytest.raises(ValueError, match="one of board, got 'boat'"):
        load_pretrained("boat")


@pytest.mark.parametrize("name", loading.published_names())
def test_a_stored_card_is_what_the_code_writes_and_says_how_the_agent_learned(name):
    files = read_hashed(loading.pretrained_dir(name))
    card = files["README.md"].decode()
    assert card == model_card(name, files).decode(), "call train.publish.rewrite_cards"
    assert ("no label" in card) == ("reward-only" in name)
    error = json.loads(files["result.json"])["error"]
    assert f"\n      value: {error:.2f}\n" in card.split("---")[1]
    assert "| test error, mean location |" in card
    stops = json.loads(files["result.json"]) | {"glimpses": 3.2}
    card = model_card(name, {**files, "result.json": json.dumps(stops).encode()}).decode()
    assert "| test error, own stop, 3.20 glimpses on average |" in card


@pytest.mark.parametrize("name", ["/tmp/elsewhere", ".", "..", "a/b", "", "A"])
def test_a_name_that_is_no_plain_folder_is_refused(run_dir, name):
    with pytest.raises(ValueError, match="name must consist"):
        train.publish.Config(run_dir, name)


UNFIT = [
    ("env_id", "my_module:Mine-v0", "trained on my_module:Mine-v0, which others lack"),
    ("env_kwargs", "board_size = 4", "trained with board_size = 4, which is no id's task"),
    ("locations", "oracle", "looked where the rule 'oracle' says: publish a learned policy"),
    ("initial", "runs/mine", "began with runs/mine, which others lack"),
    ("curriculum", "mine/mine.toml", "used mine/mine.toml: add it to train/curricula"),
]
REFUSED: list[tuple[str, dict[str, Any] | str | None, str]] = [
    *(("config.json", {"config": {name: value}}, message) for name, value, message in UNFIT),
    ("result.json", None, "has no result.json: publish a finished run"),
    ("best.safetensors", None, "wait for the run's first validation"),
    ("config.json", {"sample": True}, "not trained on the full data"),
    ("config.json", {"commit": None}, "commit that others can check out"),
    ("config.json", {"commit": f"{COMMIT}+"}, "commit that others can check out"),
    ("config.json", {"data": 5}, r"config.json is not valid.*data"),
    ("result.json", {"split": "none"}, "not evaluated on the test split"),
    ("result.json", {"split": []}, r"result.json is not valid.*split"),
    ("metrics.csv", None, r"metrics.csv cannot be read"),
    ("metrics.csv", "env_steps,tag\n256,eval/error\n", r"metrics.csv is not valid.*value"),
]


@pytest.mark.parametrize(("file", "changes", "message"), REFUSED, ids=[each[2] for each in REFUSED])
def test_an_unfit_run_is_refused_and_what_was_published_stays(
    copied, published, file, changes, message
):
    if changes is None:
        (copied / file).unlink()
    elif isinstance(changes, str):
        (copied / file).write_text(changes)
    else:
        edit_json(copied / file, **changes)
    with pytest.raises(ValueError, match=message):
        publish(copied)
    load_pretrained("board")


def published_commits() -> tuple[str, ...]:
    """Return the commits of all published runs, after checking their files."""
    folders = map(loading.pretrained_dir, loading.published_names())
    return tuple(json.loads((path / "config.json").read_text())["commit"] for path in folders)


@pytest.mark.parametrize("old", [(COMMIT,), ()])
def test_a_crash_at_any_file_operation_leaves_one_whole_run(copied, published, old):
    new = ("f" * 40,)
    edit_json(copied / "config.json", commit=new[0])
    kept, seen = Path(shutil.copytree(published, copied.with_name("kept"))), set()
    for number in count():
        shutil.rmtree(published)
        if old:
            shutil.copytree(kept, published)
        with suppress(Killed), handled_by(partial(die, number, False)):
            publish(copied)
            break
        seen.add(published_commits())
        publish(copied)  # a second try succeeds and leaves nothing else
        assert published_commits() == new
        assert list(published.parent.glob("*board*")) == [published]
    assert seen == {old, new}


@pytest.mark.parametrize("name", loading.published_names())
def test_every_published_model_errs_about_as_rarely_as_its_result_says(name, full_mnist):
    model, settings = load_pretrained(name)
    facts, result = (
        json.loads((loading.PRETRAINED / name / f"{file}.json").read_text())
        for file in ("config", "result")
    )
    assert facts["sample"] is False
    assert re.fullmatch("[0-9a-f]{40}", facts["commit"])  # of a clean tree
    how = {"split": "validation", "order": "sequential", "action_format": "dict"}
    env = make_vector_env(settings["env_id"], 500, **how, data_dir=str(full_mnist))
    assert evaluate(model, env, 1000).error < 2 * result["error"] + 1  # [%], of 1,000 other images
