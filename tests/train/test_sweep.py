"""The sweep meets its total exactly, and no trial is run twice, lost or left out."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import optuna
import pytest
from filelock import FileLock
from optuna.pruners import NopPruner

from agents.runs.files import read_csv, read_json
from tests.script_helpers import wait_for
from train import reinforce, sweep
from train.comparison.search import load, load_study, open_search
from train.sweep import SPACE, Config, main, make_flags, parse

pytestmark = pytest.mark.usefixtures("own_signals")

ENV_ID = "SignpostGlimpse-v0"  # guessing errs in 75 %
DEFAULTS = {name: getattr(reinforce.Config(), name) for name in SPACE}

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

def value(flag):
    return sys.argv[sys.argv.index(flag) + 1]

here, folder = Path(__file__).parent, Path(value("--run-dir"))
trial, seed = int(folder.parent.name.removeprefix("trial_")), int(value("--seed"))
plan = json.loads((here / "plan.json").read_text())
does = plan.get(f"{trial}/{seed}", plan.get(str(trial), {}))

def note(line):
    with (here / "calls.txt").open("a") as calls:
        calls.write(f"{trial}/{seed} {line}\\n")

def stop(number, frame):
    note("stopped")
    sys.exit(128 + number)

signal.signal(signal.SIGTERM, stop)
folder.mkdir()
note(" ".join(sys.argv[1:]))
marks = int(value("--num-validations"))
errors = does.get("errors", [20.0 - mark for mark in range(marks)])
with (folder / "metrics.csv").open("w") as metrics:
    metrics.write("env_steps,tag,value\\n")
    for mark, error in enumerate(errors):
        metrics.write(f"{mark},train/loss,1.0\\n{mark},eval/error,{error}\\n")
if does.get("kills"):
    (here / "plan.json").write_text("{}")
    os.kill(os.getppid(), signal.SIGKILL)  # what waits for it
while does.get("sleeps") and not (here / "wake up").exists():
    time.sleep(0.02)
sys.exit(does.get("status", 0))
"""


class Place:
    """A program with a plan of what it does in which trial, in a scratch directory."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "program.py").write_text(PROGRAM)
        self.plan({})

    def plan(self, plan: dict[str, Any]) -> None:
        """Say what it does, by TRIAL or TRIAL/SEED."""
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def settings(self, **changes: Any) -> dict[str, Any]:
        return {
            "env_id": ENV_ID,
            "trials": 3,
            "num_validations": 4,
            "parallel": 1,
            "work_dir": self.folder / "work",
            "results": self.folder / "results" / "out.csv",
            "program": shlex.join([sys.executable, "-S", str(self.folder / "program.py")]),
            **changes,
        }

    def run(self, **changes: Any) -> None:
        main(Config(**self.settings(**changes)))

    def start(self, **changes: Any) -> subprocess.Popen[bytes]:
        """Begin a sweep in a process of its own."""
        words = [sys.executable, sweep.__file__]
        for name, value in self.settings(**changes).items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL)

    def calls(self, word: str = "--run-dir") -> list[str]:
        """Return the TRIAL/SEED of every call of the program that holds a word."""
        path = self.folder / "calls.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[0] for line in lines if word in line]

    def rows(self) -> list[dict[str, str]]:
        return read_csv(self.folder / "results" / "out.csv")

    def states(self) -> list[str]:
        return [trial["state"] for trial in read_json(self.path)["trials"]]

    @property
    def path(self) -> Path:
        """The file of the study."""
        return self.folder / "results" / "out.json"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_study_continues_until_its_total_and_the_defaults_come_first(place, capsys):
    place.run(trials=2, parallel=2)
    assert sorted(place.calls()) == ["0/1000", "1/1000"]  # side by side, in either order
    place.run(trials=3)
    place.run(trials=3)
    assert sorted(place.calls()) == ["0/1000", "1/1000", "2/1000"]
    assert "3 of 3: trial 2 finished, 17.00 %" in capsys.readouterr().out
    rows = place.rows()
    for name in SPACE:
        assert float(rows[0][name]) == DEFAULTS[name]
        assert len({row[name] for row in rows}) > 1 or name == "num_envs"


def test_a_training_gets_the_trials_values_and_never_sees_the_test_split(place):
    flags = parse(["--", "--no-bf16", "--max-grad-norm", "5"]).flags
    place.run(trials=2, flags=flags)
    line = (place.folder / "calls.txt").read_text().splitlines()[1]
    config = reinforce.parse(line.split()[1:])
    row = place.rows()[1]
    for name in SPACE:
        assert float(row[name]) == getattr(config, name)
    assert (config.final_split, config.threads, config.seed) == ("none", 1, 1000)
    assert (config.final_std, config.bf16, config.max_grad_norm) == (0.03, False, 5)
    assert (config.total_episodes, config.num_validations) == (550_000, 4)


def test_the_value_is_the_mean_of_the_seeds_final_errors_with_guessing_where_one_diverged(place):
    plan = {"0/1000": {"errors": [50, 8]}, "0/1001": {"errors": [60, 10]}}
    place.plan({**plan, "1/1000": {"errors": [30], "status": 3}})
    place.run(trials=2, seeds=2)
    mean, diverged = place.rows()
    assert (mean["value"], mean["seed_1000"], mean["seed_1001"]) == ("9.0", "8.0", "10.0")
    assert [mean[f"mark_{mark}"] for mark in (1, 2, 3, 4)] == ["50.0", "8.0", "", ""]
    assert (diverged["state"], float(diverged["value"])) == ("finished", (75 + 17) / 2)
    assert (diverged["seed_1000"], diverged["note"]) == ("75.0", "seed 1000 diverged")


def test_a_trial_is_pruned_and_stopped_if_its_first_seed_falls_behind_after_the_warmup(place):
    others = {"0/1001": {"errors": [1] * 4}, "1/1001": {"errors": [1] * 4}}  # prune no trial
    late = {"3/1000": {"errors": [50, 19, 18, 17]}, "3/1001": {"errors": [70] * 4}}
    place.plan({"2": {"errors": [50, 40], "sleeps": True}, **late, **others})
    place.run(trials=4, startup_trials=2, warmup_marks=2, seeds=2)
    assert place.calls("stopped") == ["2/1000"]
    assert place.calls().count("2/1001") == 0  # nor is it run with another seed
    rows = place.rows()
    assert [row["state"] for row in rows] == ["finished", "finished", "pruned", "finished"]
    assert (rows[2]["mark_2"], rows[2]["mark_3"], rows[2]["value"]) == ("40.0", "", "")
    assert float(rows[3]["value"]) == (17 + 70) / 2


def test_a_run_that_fails_is_reported_and_the_study_goes_on(place, capsys):
    place.plan({"0": {"status": 2}, "1": {"errors": []}})
    with pytest.raises(SystemExit, match=r"^1$"):
        place.run()
    log = place.folder / "work" / ENV_ID / "trial_0000" / "seed_1000.txt"
    assert f"seed 1000 ended with status 2, see {log}" in capsys.readouterr().out
    assert place.states() == ["failed", "failed", "finished"]
    assert str(log) in place.rows()[0]["note"]
    place.run()  # they count
    assert len(place.calls()) == 3


def test_a_run_that_is_lost_does_not_count_and_its_trial_is_tried_again(place, capsys):
    place.plan({"0": {"kills": True}})
    with pytest.raises(SystemExit, match=r"^1$"):
        place.run(trials=2)
    log = place.folder / "work" / ENV_ID / "trial_0000" / "seed_1000.txt"
    line = f"trial 0 failed: seed 1000 was lost, see {log}; the same command resumes it"
    assert line in capsys.readouterr().out
    assert place.states() == ["running", "finished"]
    place.run(trials=2)
    assert place.states() == ["finished", "finished"]
    assert sorted(place.calls()) == ["0/1000", "0/1000", "1/1000"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_trials_of_a_sweep_that_a_signal_ends_are_tried_again(place, how):
    place.plan({"0": {"sleeps": True}, "1": {"sleeps": True}})
    killed = how == signal.SIGKILL
    with place.start(parallel=2) as process:
        wait_for(lambda: len(place.calls()) == 2)
        process.send_signal(how)
    assert process.returncode == (-how if killed else 128 + how)
    assert sorted(place.calls("stopped")) == ([] if killed else ["0/1000", "1/1000"])
    assert place.states() == ["running"] * 2
    begun = [trial["params"] for trial in read_json(place.path)["trials"]]
    (place.folder / "wake up").touch()
    place.run()
    assert place.states() == ["finished"] * 3
    assert [trial["params"] for trial in read_json(place.path)["trials"][:2]] == begun
    # A program that a killed sweep has left goes on: it isn't started again
    again = [] if killed else ["0/1000", "1/1000"]
    assert sorted(place.calls()) == sorted(["0/1000", "1/1000", "2/1000", *again])


def test_a_second_sweep_on_a_study_is_refused(place):
    place.path.parent.mkdir()
    lock, message = FileLock(f"{place.path}.lock"), r"another sweep uses .*out\.json: wait until"
    with lock, pytest.raises(ValueError, match=message):
        place.run()
    assert place.calls() == []


def test_what_is_tried_depends_on_the_sampler_seed_and_not_on_interruptions(tmp_path):
    def try_out(name: str, seed: int, *, interrupted: bool = False) -> list[dict[str, Any]]:
        settings = {"defaults": DEFAULTS, "seeds": [1000]}
        arguments = (tmp_path / name, name, SPACE, settings, NopPruner(), seed)
        for total in (4, 7, 12) if interrupted else (12,):
            with open_search(*arguments) as search:
                begun = [trial for trial in search.study.trials if trial.state == "running"]
                while trial := (begun.pop() if begun else search.ask(total)):
                    trial.seed_errors.append(float(trial.params["discount"]))
                    search.end(trial, "finished")
                search.ask(total + 1)  # and leave it: it is interrupted
        return [trial.params for trial in load(tmp_path / name, name).trials[:12]]

    tried = try_out("whole", 1)
    assert len(tried) == 12
    assert try_out("parts", 1, interrupted=True) == tried
    other = try_out("other", 2)
    assert [a == b for a, b in zip(tried, other, strict=True)] == [True] + [False] * 11


def test_what_the_estimator_does_not_use_is_not_searched():
    flags = ("--estimator", "paper")
    settings = sweep.choose_settings(Config(env_id=ENV_ID, flags=flags))
    assert settings["defaults"].keys() == SPACE.keys() - {"discount"}


def test_the_report_is_made_from_the_study_alone(place, capsys):
    place.plan({"1": {"errors": [9, 8, 7, 6.5]}})
    place.run(total_episodes=1234, flags=("--no-bf16",))
    files = [place.path, place.path.with_suffix(".csv")]
    before = [file.read_bytes() for file in files]
    files[1].unlink()
    capsys.readouterr()
    place.run(report=True)
    assert [file.read_bytes() for file in files] == before
    assert len(place.calls()) == 3
    facts = read_json(files[0])
    assert [trial["state"] for trial in facts["trials"]] == ["finished"] * 3
    drawn = load_study(place.path).best_trial
    assert (drawn.number, drawn.value, drawn.intermediate_values[3]) == (1, 6.5, 7)
    (session,) = facts["sessions"]
    assert {"commit", "machine", "versions", "started", "command"} < set(session)
    assert session["optuna"] == optuna.__version__
    *_, line, command = capsys.readouterr().out.splitlines()
    assert line == "best: trial 1, 6.50 % (the defaults: 17.00 %)"
    program = shlex.join([sys.executable, "-S", str(place.folder / "program.py")])
    config = reinforce.parse(command.removeprefix(f"{program} ").split())
    assert (config.learning_rate, config.bf16) == (float(place.rows()[1]["learning_rate"]), False)
    assert (config.env_id, config.total_episodes) == (ENV_ID, 1234)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"warmup_marks": -1}, "warmup_marks must be at least 0"),
        ({"results": Path("all.json")}, "results must end in .csv, got all.json"),
        ({"env_id": "Nothing-v0"}, "Nothing"),
        ({"env_id": "CartPole-v1"}, "env_id must name a glimpse environment"),
        ({"study": "../x"}, "study must be of letters"),
        ({"flags": ("--learning-rate=1",)}, "flags must not hold --learning-rate=1"),
        ({"flags": ("--final_split", "test")}, "flags must not hold --final_split"),
        ({"flags": ("--std", "2")}, "flags must not hold --std"),
        ({"flags": ("--preset", "best-mnist")}, "flags must not hold --preset: the sweep itself"),
        ({"flags": ("--glimpse-cost", "0.01")}, "flags must leave out allow_stop and glimpse_cost"),
        ({"report": True}, "no study 'SignpostGlimpse-v0' to report: .* doesn't exist"),
    ],
)
def test_bad_settings_are_refused_by_name(place, changes, named):
    with pytest.raises((ValueError, gymnasium.error.Error), match=named):
        place.run(**changes)
    assert place.calls() == []


def test_a_study_is_resumed_under_its_own_settings_and_in_its_own_folder(place):
    place.run(trials=1)
    with pytest.raises(ValueError, match=r"total_episodes=550000, not 1000: .* --study"):
        place.run(trials=2, total_episodes=1000)
    place.path.unlink()
    with pytest.raises(ValueError, match=r"holds trials of another study: move it away"):
        place.run(trials=1)
    assert len(place.calls()) == 1


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("no study", "is not valid"),
        ('{"study": "x", "settings": {}, "trials": []}', "the study 'x'"),
    ],
)
def test_a_damaged_study_is_refused_by_name_and_left_as_it_is(place, content, named):
    place.path.parent.mkdir()
    place.path.write_text(content)
    with pytest.raises(ValueError, match=rf"out\.json .*{named}"):
        place.run()
    assert place.path.read_text() == content


def test_an_environment_of_a_users_module_is_searched_on(place, monkeypatch):
    module = "from dataclasses import replace\nfrom gymnasium import registry, spec\n"
    module += "registry['MyShades-v0'] = replace(spec('SignpostGlimpse-v0'), id='MyShades-v0')\n"
    (place.folder / "my_shades.py").write_text(module)
    monkeypatch.syspath_prepend(place.folder)
    place.run(trials=1, env_id="my_shades:MyShades-v0")
    assert "--env-id my_shades:MyShades-v0" in (place.folder / "calls.txt").read_text()
    assert (place.folder / "work" / "MyShades-v0").is_dir()
    assert [row["state"] for row in place.rows()] == ["finished"]


@pytest.mark.parametrize("end", [0, -1])
def test_every_value_of_the_space_is_one_that_trainings_take(end):
    settings = {"env_id": ENV_ID, "total_episodes": 10, "flags": []}
    space: dict[str, Any] = {**SPACE}
    values = {k: getattr(v, "choices", None) or (v.low, v.high) for k, v in space.items()}
    params = {name: each[end] for name, each in values.items()}
    config = reinforce.parse(make_flags(settings, params))
    assert {name: getattr(config, name) for name in SPACE} == params
    assert config.final_std == 0.03


@pytest.mark.slow
def test_it_searches_over_real_trainings(place):
    place.run(trials=1, program=None, total_episodes=1000, num_validations=2)
    for row in place.rows():
        assert row["state"] == "finished"
        assert float(row["value"]) == float(row["mark_2"])
        assert 0 < float(row["value"]) < 90
