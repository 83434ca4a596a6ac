"""The sweep is a comparison's tuning, with settings that trainings take."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from agents.runs.files import read_json
from tests.train.test_compare import PROGRAM
from train import reinforce, sweep
from train.comparison.protocol import Choices
from train.comparison.results import Trial, read_lines
from train.sweep import SPACE, Config, command, main, make_protocol, parse

pytestmark = pytest.mark.usefixtures("own_signals")

ENV_ID = "SignpostGlimpse-v0"


def run(folder: Path, *flags: str, **changes: Any) -> list[Trial]:
    """Search in a folder; return the trials that are stored."""
    places: dict[str, Any] = {"results": folder / "results", "work_dir": folder / "work"}
    settings = {"env_id": ENV_ID, "trials": 2, "finalists": 1, "flags": flags, **places, **changes}
    main(Config(**settings))
    return read_lines(Trial, folder / "results", settings["env_id"].rpartition(":")[2])


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a program that searches run in place of trainings."""
    (tmp_path / "program.py").write_text(PROGRAM)
    words = f"python -S {tmp_path / 'program.py'} --seed {{seed}} --run-dir {{run_dir}} "
    words += "--env-id {env_id} --steps {episodes} --marks {marks} --split {split}"
    monkeypatch.setattr(sweep, "START", words)
    return tmp_path


def test_the_defaults_come_first_and_the_best_is_printed_as_a_command(quick, capsys):
    flags = parse(["--", "--estimator", "paper", "--no-bf16"]).flags
    trials = run(quick, *flags, total_episodes=3000)
    assert [(each.phase, each.number) for each in trials[-3:]] == [
        ("trials", number) for number in range(3)
    ]
    assert trials[1].settings == {}
    assert trials[2].settings.keys() == SPACE.keys() - {"discount"}  # which nothing uses
    assert all("--steps 1000 --marks 1 --split validation" in each.called_as for each in trials[1:])
    final, *_ = trials
    assert (final.phase, "--seed 1001 " in final.called_as) == ("finals", True)
    *_, best, words = capsys.readouterr().out.splitlines()
    assert best == f"best: trial {final.number}, {final.error:.2f} %"
    config = reinforce.parse(shlex.split(words)[2:])
    assert (config.env_id, config.total_episodes, config.bf16) == (ENV_ID, 3000, False)
    assert len(run(quick, *flags, total_episodes=3000, trials=4)) >= 6  # it goes on
    with pytest.raises(ValueError, match=r"trial 0 was run as .* another --results"):
        run(quick, total_episodes=3000)


def test_failed_trials_are_counted(quick, capsys):
    (quick / "program.py").write_text("raise SystemExit(1)")
    with pytest.raises(SystemExit, match=r"^1$"):
        run(quick)
    assert "3 trials have failed" in capsys.readouterr().out


def test_an_environment_of_a_users_module_is_searched_on(quick, monkeypatch):
    module = "from dataclasses import replace\nfrom gymnasium import registry, spec\n"
    module += "registry['MyShades-v0'] = replace(spec('SignpostGlimpse-v0'), id='MyShades-v0')\n"
    (quick / "my_shades.py").write_text(module)
    monkeypatch.syspath_prepend(quick)
    trials = run(quick, env_id="my_shades:MyShades-v0", trials=1)
    assert "--env-id my_shades:MyShades-v0" in trials[0].called_as
    assert (quick / "work" / "MyShades-v0").is_dir()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"env_id": "Nothing-v0"}, "Nothing"),
        ({"env_id": "CartPole-v1"}, "env_id must name a glimpse environment"),
        ({"flags": ("--std", "0.01")}, "final_std must be at most"),
        ({"flags": ("--glimpse-cost", "0.01")}, "flags must leave out allow_stop and glimpse_cost"),
    ],
)
def test_bad_settings_are_refused_by_name(changes, named):
    with pytest.raises((ValueError, gymnasium.error.Error), match=named):
        make_protocol(Config(**{"env_id": ENV_ID, **changes}))


@pytest.mark.parametrize("end", [0, -1])
def test_every_value_of_the_space_is_one_that_trainings_take(end):
    ends = {k: (v.choices if isinstance(v, Choices) else v)[end] for k, v in SPACE.items()}
    words = command(Config(env_id=ENV_ID), Trial("x", "trials", 1, ends, 50.0, "finished"))
    config = reinforce.parse(shlex.split(words)[2:])
    assert {name: getattr(config, name) for name in SPACE} == ends


@pytest.mark.slow
def test_it_searches_over_real_trainings(tmp_path):
    run(tmp_path, "--hidden-size", "16", trials=1, total_episodes=3000)
    folder = tmp_path / "work" / ENV_ID / "reinforce"
    config = read_json(folder / "trial_1" / "config.json")["config"]
    assert (config["total_episodes"], config["threads"], config["hidden_size"]) == (1000, 1, 16)
    assert config["final_split"] == "validation"
