"""The comparison: finished runs are not run again, failed ones are reported, never left out."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from agents.estimators import ESTIMATORS
from tests.script_helpers import wait_for
from train import baselines, compare, reinforce, sb3, stock_ppo
from train.compare import PROTOCOL, STAGES, Comparison, Config, main, parse
from train.comparison.job import Job
from train.comparison.protocol import Algorithm, Choices, ComparedTask, read_protocol
from train.comparison.report import FILES
from train.comparison.results import Seed, Trial, path_of, read_lines, write_lines
from train.comparison.tuning import best_trials, draw_trials
from train.settings import PRESETS

pytestmark = pytest.mark.usefixtures("own_signals")

SCRIPT = Path(compare.__file__)

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder, seed = Path(words["--run-dir"]), int(words["--seed"])
rate, does = float(words.get("--rate", 0.5)), words.get("--does", "")
steps, marks = int(words["--steps"]), int(words["--marks"])
with Path(__file__).with_name("calls.txt").open("a") as calls:
    calls.write(f"{does or 'works'} {words['--split']} seed {seed} rate {rate}\\n")
folder.mkdir()
facts = {"parameters": 12, "commit": "abc", "command": f"python x {folder} it's"}
facts["sample"] = does == "samples"
(folder / "config.json").write_text(json.dumps(facts))
if does == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
if does == "sleeps":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Path(__file__).with_name("stopped").touch()))
    (folder / "asleep").touch()
    while True:
        time.sleep(0.02)  # briefly: a signal just before a sleep is handled after it
metrics = ["env_steps,tag,value"]
for mark in range(1, marks + 1):
    at = steps * mark // marks
    metrics += [f"{at},eval/error,{50 / mark}", f"{at},eval/error_sampled,{60 / mark}"]
    metrics += [f"{at},eval/most_named,{mark}", f"{at},train/loss,1.0"]
    metrics += [f"{at + 1},train/explained_variance,{mark}"]
    metrics += [f"{at + 1},train/explained_variance,nan"]  # as of returns that are all equal
if does == "overshoots":
    metrics[1] = f"{steps // marks},eval/error,101"
(folder / "metrics.csv").write_text("\\n".join(metrics[: 11 if does == "diverges" else None]))
if does != "forgets":
    (folder / "timing.csv").write_text(f"env_steps,cpu_seconds\\n{steps},10.0\\n")
if does == "diverges":
    print("error: update 3: loss not finite")
    sys.exit(3)
split = "train" if does == "strays" else words["--split"]
end = {"split": split, "wrong": int(100 * abs(rate - 0.3)) + seed % 10, "total": 200}
(folder / "result.json").write_text(json.dumps(end))
print("finished")
"""

HEAD = """
[programs]
ours = "python -S {program} --env-id {env_id} --seed {seed} --run-dir {run_dir} --steps {env_steps} --marks {marks} --split {split}"

[tasks.MNISTGlimpse-v0]
num_glimpses = 7
env_steps = 3000
seeds = 2
trials = 4
chance_error = 90.0
threshold = 10.0

[algorithms.tuned]
program = "ours"
space = { rate = [0.1, 0.9] }
"""  # noqa: E501

ELSEWHERE = """
threshold = 10.0
algorithms = ["seer"]
[tasks.more]
num_glimpses = 7
env_steps = 3000
seeds = 1
trials = 0
chance_error = 90.0
threshold = 10.0
tuned_on = "MNISTGlimpse-v0"
algorithms = ["tuned"]
"""


class Place:
    """A protocol, its program and its folders, in a scratch directory."""

    def __init__(self, folder: Path, more: str = ""):
        self.folder = folder
        (folder / "program.py").write_text(PROGRAM)
        self.write(more)

    def write(self, more: str, head: str = HEAD) -> None:
        text = head.replace("{program}", str(self.folder / "program.py")) + more
        (self.folder / "protocol.toml").write_text(text)

    def config(self, **changes: Any) -> Config:
        folders = {"results": self.folder / "results", "work_dir": self.folder / "work"}
        settings = {"task": "MNISTGlimpse-v0", "parallel": 2, "stages": ("tune", "run")}
        protocol = self.folder / "protocol.toml"
        return Config(protocol=protocol, **{**folders, **settings, **changes})

    def words(self, *more: str) -> list[str]:
        """Return the command line of :meth:`config`."""
        folders = {"results": "results", "work-dir": "work", "protocol": "protocol.toml"}
        flags = ((f"--{name}", str(self.folder / each)) for name, each in folders.items())
        return ["--task", "MNISTGlimpse-v0", *(word for flag in flags for word in flag), *more]

    def calls(self) -> list[str]:
        """Return how the program was called since the last time."""
        path = self.folder / "calls.txt"
        lines = sorted(path.read_text().splitlines()) if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def stored(self, kind: type, task: str = "MNISTGlimpse-v0") -> list[Any]:
        return read_lines(kind, self.folder / "results", task)

    def path(self, kind: type) -> Path:
        return path_of(kind, self.folder / "results", "MNISTGlimpse-v0")

    def seeds(self) -> list[tuple[str, int, str, float]]:
        found = self.stored(Seed)
        return [(s.algorithm, s.number, s.result.status, s.result.error) for s in found]


def test_an_algorithm_is_tuned_first_and_what_is_there_is_not_run_again(tmp_path, capsys):
    place = Place(tmp_path)
    main(place.config())
    calls, said = place.calls(), capsys.readouterr().out
    announced = re.findall(r"runs to do in (.*): (\d)", said)
    assert announced == [(str(tmp_path / "work"), number) for number in "52"]
    trials = place.stored(Trial)
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4]
    assert trials[0].settings == {}
    rates = [float(trial.settings.get("rate", 0.5)) for trial in trials]
    assert [t.error for t in trials] == [int(100 * abs(rate - 0.3)) / 2 for rate in rates]
    assert sum("validation seed 1000" in call for call in calls) == 5
    best = rates[np.argmin([trial.error for trial in trials])]
    expected = [f"works test seed {seed} rate {best}" for seed in (0, 1)]
    assert [call for call in calls if "test" in call] == expected
    third = "--steps 1000 --marks 1 "  # of the budget
    assert all(third in trial.called_as for trial in trials)
    main(place.config())
    assert place.calls() == []
    assert f"not run again: what is stored in {tmp_path / 'results'}" in capsys.readouterr().out
    write_lines(place.path(Seed), place.stored(Seed)[:1])
    main(place.config())
    assert place.calls() == expected[1:]


def test_a_seed_keeps_what_the_report_needs_and_no_path_of_the_machine(tmp_path, capsys):
    place, folder = Place(tmp_path), tmp_path / "results"
    main(place.config(stages=("report",)))
    assert capsys.readouterr().out == f"{folder} holds no results\n"
    main(place.config(stages=STAGES))
    seed = place.stored(Seed)[1]
    assert shlex.split(seed.config["command"]) == ["python", "x", "RUN_DIR", "it's"]
    assert seed.config["called_as"].endswith("--rate " + seed.config["called_as"].split()[-1])
    np.testing.assert_array_equal(seed.curve.env_steps, 300 * np.arange(1, 11))
    np.testing.assert_array_equal(seed.curve.error_sampled, 60 / np.arange(1, 11))
    np.testing.assert_allclose(seed.curve.cpu_seconds, np.arange(1, 11))  # of 10 s, evenly
    assert (seed.result.split, seed.result.total, seed.result.env_steps) == ("test", 200, 3000)
    assert seed.result.cpu_seconds > 0
    assert seed.result.last == {"eval/most_named": 10.0, "train/explained_variance": 10.0}
    np.testing.assert_array_equal(seed.curve.behaviour["eval/most_named"], np.arange(1, 11))
    explained = seed.curve.behaviour["train/explained_variance"]  # logged after each mark
    np.testing.assert_array_equal(explained, [math.nan, *range(1, 10)])
    assert place.path(Seed).stat().st_size + place.path(Trial).stat().st_size < 20_000
    written = [folder / "MNISTGlimpse-v0" / name for name in FILES] + [folder / "report.md"]
    assert capsys.readouterr().out.splitlines()[-4:] == [str(path) for path in written]
    assert "| tuned |" in written[0].read_text()


def test_one_that_diverges_counts_as_guessing_and_the_exit_status_says_so(tmp_path):
    place = Place(tmp_path, '[algorithms.wild]\nprogram = "ours"\nflags = "--does diverges"\n')
    with pytest.raises(SystemExit, match=r"^3$"):
        main(place.config(algorithms=("wild",)))
    assert place.seeds() == [("wild", 0, "diverged", 90.0), ("wild", 1, "diverged", 90.0)]
    seed = place.stored(Seed)[0]
    assert seed.result.reason == "update 3: loss not finite"
    assert len(seed.curve.error) == 2  # as far as it came
    place.calls()
    with pytest.raises(SystemExit, match=r"^3$"):  # it isn't forgotten the second time
        main(place.config(algorithms=("wild",)))
    assert place.calls() == []


def test_a_run_that_was_killed_or_that_no_report_can_use_is_reported_and_not_kept(tmp_path, capsys):
    named = {
        "dies": "ended with status -9",
        "forgets": r"timing\.csv",
        "overshoots": "seed_0: errors must be from 0 to 100",
        "samples": "seed_0: the run was trained on the sample",
        "strays": r"the split of result\.json must be test, got 'train'",
    }
    row = '[algorithms.{0}]\nprogram = "ours"\nflags = "--does {0}"\n'
    place = Place(tmp_path, "".join(map(row.format, [*named, "works"])))
    with pytest.raises(SystemExit, match=r"^1$"):
        main(place.config(algorithms=(*named, "works"), seeds=1))  # which aren't tuned
    said = capsys.readouterr().err
    assert [
        does for does in named if not re.search(f"error: {does}, seed 0: .*{named[does]}", said)
    ] == []
    assert [name for name, *_ in place.seeds()] == ["works"]


def test_results_of_another_protocol_are_refused(tmp_path):
    more = '[algorithms.fixed]\nprogram = "ours"\n'
    place = Place(tmp_path, more)
    main(place.config())
    for old, new in {"3000": "6000", "--seed": "--more 1 --seed", "0.9]": "0.8]"}.items():
        assert old in HEAD
        place.write(more, HEAD.replace(old, new))
        with pytest.raises(ValueError, match=r"trials.jsonl: .* trial \d was run as .* delete"):
            main(place.config())
        if old != "0.9]":  # that is not this one's
            with pytest.raises(ValueError, match=r"seeds.jsonl: .* seed 0 was run as .* delete"):
                main(place.config(algorithms=("fixed",)))


def test_an_interrupted_run_of_another_protocol_is_refused_and_stays(tmp_path):
    place = Place(tmp_path, '[algorithms.fixed]\nprogram = "ours"\n')
    folder = tmp_path / "work" / "MNISTGlimpse-v0" / "fixed" / "seed_1"
    (folder / "checkpoints" / "step_1").mkdir(parents=True)
    folder.with_suffix(".json").write_text(json.dumps({"command": ["python", "another.py"]}))
    with pytest.raises(ValueError, match="fixed/seed_1 holds a run of another command: move it"):
        main(place.config(algorithms=("fixed",)))
    assert (folder / "checkpoints" / "step_1").exists()
    assert place.calls() == []


def test_seeds_wait_for_the_whole_tuning_and_the_hint_keeps_all_flags(
    tmp_path, capsys, monkeypatch
):
    place = Place(tmp_path, '[algorithms.fixed]\nprogram = "ours"\n')
    config = place.config(stages=("run",), seeds=1, parallel=3)
    words = place.words("--seeds", "1", "--stages", "run", "--parallel", "3")
    monkeypatch.setattr(sys, "argv", ["train/compare.py", *words])
    assert parse(sys.argv[1:]) == config
    with pytest.raises(SystemExit, match=r"^1$"):
        main(config)
    found = re.search(r"error: tuned has 0 of 5 trials .*: python (.*)", capsys.readouterr().err)
    assert found
    script, *words = shlex.split(found[1])
    assert script == "train/compare.py"
    assert parse(words) == replace(config, algorithms=("tuned",), stages=("tune",))
    assert [name for name, *_ in place.seeds()] == ["fixed"]


def test_a_task_and_an_ablation_take_the_settings_that_were_tuned_elsewhere(tmp_path, capsys):
    place = Place(tmp_path)
    more = '[algorithms.changed]\nprogram = "ours"\nflags = "--does more"\ntuned_as = "tuned"\n'
    more += "[tasks.Other-v0]\nnum_glimpses = 4\nenv_steps = 900\nseeds = 1\ntrials = 0\n"
    more += "algorithms = { tuned = 1, changed = 2 }\n"
    place.write(more + 'chance_error = 75.0\nthreshold = 10.0\ntuned_on = "MNISTGlimpse-v0"\n')
    main(place.config(stages=("tune",), algorithms=("changed",)))
    assert place.calls() == []  # it has no trials of its own
    main(place.config(stages=("tune",)))
    assert {call.split()[0] for call in place.calls()} == {"works"}
    path, trials = place.path(Trial), place.stored(Trial)
    for count in (0, 4):  # some trials are not all
        write_lines(path, trials[:count])
        with pytest.raises(SystemExit):
            main(place.config(task="Other-v0"))
        assert f"tuned has {count} of 5 trials on MNISTGlimpse-v0" in capsys.readouterr().err
    write_lines(path, trials)
    assert place.calls() == []
    write_lines(path, trials[:-1])
    main(place.config(stages=("tune",), seeds=9))  # as the hint has the other task's number
    assert len(place.calls()) == 1
    main(place.config(task="Other-v0"))
    rate = min(trials, key=lambda trial: trial.error).settings.get("rate", 0.5)
    seeds = ("more test seed 0", "more test seed 1", "works test seed 0")
    assert place.calls() == [f"{seed} rate {rate}" for seed in seeds]


def test_a_trial_that_diverged_is_not_chosen_where_another_is_there():
    wild = Trial("x", "trials", 1, {}, 75.0, "diverged")
    late = Trial("x", "trials", 2, {}, 75.3, "finished")
    assert best_trials([wild, late]) == [late, wild]


@pytest.mark.slow
def test_a_signal_stops_the_programs_in_one_line_and_the_next_call_resumes(tmp_path):
    slow = '[algorithms.slow]\nprogram = "ours"\nflags = "--does sleeps"\n'
    place = Place(tmp_path, f'[algorithms.fast]\nprogram = "ours"\n{slow}')
    rows = ("--algorithms", "fast", "slow", "--seeds", "1")
    words = [sys.executable, str(SCRIPT), *place.words("--parallel", "1", *rows)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stderr=pipe, text=True, start_new_session=True) as process:
        wait_for((tmp_path / "work/MNISTGlimpse-v0/slow/seed_0/asleep").exists)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert errors == "stopping the programs; the same command resumes\n"
    assert (tmp_path / "stopped").exists()
    assert [name for name, *_ in place.seeds()] == ["fast"]
    place.calls()
    main(place.config(algorithms=("fast",)))
    assert [call.split(" rate")[0] for call in place.calls()] == ["works test seed 1"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": "Nothing-v0"}, "task must be among .*MNISTGlimpse-v0.* got 'Nothing-v0'"),
        ({"algorithms": ("nobody",)}, r"algorithms must be among .*tuned.* got \['nobody'\]"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({}, r"results/\.MNISTGlimpse-v0\.lock' could not be acquired"),
    ],
)
def test_what_is_not_in_the_protocol_and_a_second_comparison_are_refused(tmp_path, changes, named):
    place = Place(tmp_path)
    (tmp_path / "results").mkdir()
    lock = FileLock(tmp_path / "results" / ".MNISTGlimpse-v0.lock")
    with lock, pytest.raises((ValueError, TimeoutError), match=named):
        main(place.config(**changes))
    assert place.calls() == []


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("seeds = 2", "seeds = 0", r"tasks\.MNISTGlimpse-v0: Expected `int` >= 1 - at `\$\.seeds`"),
        ("seeds = 2", 'seeds = 2\ntuned_on = "Nothing-v0"', r"tasks\.MNISTGlimpse-v0\.tuned_on"),
        ("seeds = 2", "seeds = 2\nlanes = 3", "tasks.MNISTGlimpse-v0: .* unknown field `lanes`"),
        ("{seed}", "0", r"programs\.ours must use .*seed"),
        ("{split}", "{spilt}", r"programs\.ours: braces may only hold .*env_id"),
        ("{split}", "'{split}", r"programs\.ours: .*quotes must be closed"),
        ("ours =", "ours.resume = 'x'\nours.start =", r"programs\.ours\.resume must use {run_dir}"),
        ("space =", "flags = '--x {}'\nspace =", r"algorithms\.tuned\.flags: braces"),
        ("space =", 'tuned_as = "tuned"\nspace =', "either a space or tuned_as"),
        ('program = "ours"', 'program = "theirs"', r"algorithms\.tuned\.program must be among"),
        ("[tasks.MNISTGlimpse-v0]", "[tasks.'../MNIST']", r"\.\./MNIST: Expected `str` matching"),
        ("threshold = 10.0\n", ELSEWHERE, r"are tuned on MNISTGlimpse-v0 .*got \['tuned'\]"),
        ("[0.1, 0.9]", "[0.9, 0.1]", r"space\.rate must be \[low, high\]"),
        ("[0.1, 0.9]", "{ choices = [] }", r"algorithms\.tuned: .* at `\$\.space\[...\]\.choices"),
        ("space = { rate = [0.1, 0.9] }", 'tuned_as = "tuned"', r"tuned\.tuned_as must be among"),
        ("[programs]", 'comparisons = [["tuned", "seer"]]\n[programs]', "algorithms of one class"),
        ("[programs]", "programs", "is not valid"),
    ],
)
def test_a_bad_protocol_is_refused_by_file_and_entry(tmp_path, old, new, named):
    assert old in HEAD
    place = Place(tmp_path)
    place.write('[algorithms.seer]\nprogram = "ours"\nsees_label = true\n', HEAD.replace(old, new))
    with pytest.raises(ValueError, match=rf"protocol\.toml.*{named}"):
        read_protocol(tmp_path / "protocol.toml")


def test_a_result_that_contradicts_itself_is_refused_by_file(tmp_path):
    place = Place(tmp_path, '[algorithms.fixed]\nprogram = "ours"\n')
    main(place.config(algorithms=("fixed",)))
    whole = place.path(Seed).read_text()
    first, second = map(json.loads, whole.splitlines())
    for part, changes in (
        ("result", {"error": -5}),
        ("result", {"error": first["result"]["error"] + 1}),
        ("result", {"wrong": 201}),
        ("result", {"env_steps": 1}),
        ("result", {"status": "lost"}),
        ("curve", {"env_steps": []}),
        ("curve", {"error_sampled": [None] * 10}),
        ("curve", {"behaviour": {"eval/most_liked": [1.0] * 10}}),
        ("curve", {"cpu_seconds": ["x"] * 10}),
        ("curve", {"env_steps": [300.0] * 10}),
    ):
        changed = {**first, part: {**first[part], **changes}}
        place.path(Seed).write_text(f"{json.dumps(changed)}\n{json.dumps(second)}\n")
        with pytest.raises(ValueError, match=r"seeds\.jsonl is not valid"):
            place.seeds()
    place.path(Seed).write_text(whole + json.dumps(second))
    with pytest.raises(ValueError, match=r"seeds\.jsonl has several lines of .*fixed"):
        place.seeds()


PHASED = HEAD[HEAD.index("[tasks.") : HEAD.index("[algorithms.")]
PHASED = PHASED.replace("[tasks.MNISTGlimpse-v0]", '[tasks.Phased]\nenv_id = "MNISTGlimpse-v0"')
PHASED += """
finalists = 2
retry_above = 50.0
algorithms = { tuned = 3 }
"""


@pytest.mark.parametrize("retried", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_trials_that_all_fail_are_run_again_and_the_best_compete_at_the_whole_budget(
    tmp_path, retried
):
    task = PHASED.replace("50.0", "0.001") if retried else PHASED
    place = Place(tmp_path, task)
    main(place.config(task="Phased"))
    read: dict[str, list[Trial]] = {}
    for trial in place.stored(Trial, "Phased"):
        read.setdefault(trial.phase, []).append(trial)
    assert [*read] == (["finals", "retries", "trials"] if retried else ["finals", "trials"])
    for phase, trials in read.items():
        assert len(trials) == (2 if phase == "finals" else 5)
        steps, seed = (1000, 1000) if phase == "trials" else (3000, 1000)
        seed += phase == "finals"
        assert all(f"--steps {steps} " in f"{t.called_as} " for t in trials)
        assert all(f"--seed {seed} " in f"{t.called_as} " for t in trials)
    source = read["retries" if retried else "trials"]
    best = {trial.number for trial in best_trials(source)[:2]}
    assert {trial.number for trial in read["finals"]} == best
    chosen = best_trials(read["finals"])[0].settings
    seeds = place.stored(Seed, "Phased")
    assert [seed.number for seed in seeds] == [0, 1, 2]  # the table's three, not two
    for flag, value in chosen.items():
        assert all(f"--{flag} {value}" in seed.config["called_as"] for seed in seeds)
    place.calls()
    main(place.config(task="Phased"))
    assert place.calls() == []
    more = HEAD.replace("trials = 4", "trials = 9")
    place.write(task.replace("trials = 4", "trials = 9"), more)
    main(place.config(task="Phased", stages=("tune",)))  # new finalists beside the old
    finals = [each for each in place.stored(Trial, "Phased") if each.phase == "finals"]
    assert {each.number for each in read["finals"]} < {each.number for each in finals}


def test_the_help_warns_of_programs_and_describes_what_they_must_leave(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "use one only if you trust it" in text
    for name in ("config.json", "metrics.csv", "timing.csv", "result.json"):
        assert f"- {name}" in text


PROTOCOLS = {path.stem: read_protocol(path) for path in sorted(PROTOCOL.parent.glob("*.toml"))}
PUBLISHED, REWARD_ALONE = PROTOCOLS["comparison"], PROTOCOLS["reward_alone"]
TASKS = [(protocol, name) for protocol in PROTOCOLS.values() for name in protocol.tasks]
SCRIPTS = (reinforce, sb3, stock_ppo, baselines)
PARSERS = {f"{each.__name__.replace('.', '/')}.py": each.parse for each in SCRIPTS}


@cache
def parsed(words: tuple[str, ...]) -> Any:
    """Return the settings that a command of one of our scripts has."""
    return PARSERS[words[1]](words[2:])


@pytest.mark.parametrize(("protocol", "name"), TASKS, ids=[name for _, name in TASKS])
def test_the_published_protocols_call_our_scripts_with_flags_that_they_have(protocol, name):
    task = protocol.tasks[name]
    configs, stock, comparison = [], [], Comparison(Config(task=name), protocol)
    for algorithm in protocol.on(task):
        for settings in draw_trials(algorithm, 2) or [{}]:
            job = comparison.plan(task, algorithm, 3, settings).job
            words, same = job.command, ("--resume", str(job.folder), "--env-id", task.env_id)
            config = parsed(words)
            is_stock = isinstance(config, stock_ppo.Config)
            assert job.resume == (() if is_stock else (*words[:2], *same))
            (stock if is_stock else configs).append(config)
    assert {config.env_id for config in [*configs, *stock]} == {task.env_id}
    assert {config.seed for config in [*configs, *stock]} == {3}
    assert {config.env_steps for config in stock} <= {task.env_steps}
    if not configs or protocol not in (PUBLISHED, REWARD_ALONE):
        return
    assert {config.keep for config in configs} == {"last"}
    assert {config.curriculum for config in configs} == {task.curriculum or None}
    assert {(config.validate_sampled, config.validation_images) for config in configs} == {
        (True, 2000)
    }
    tuned = any(each.space or each.tuned_as for each in protocol.on(task))
    untuned = ("sac", "crossq")
    configs = [each for each in configs if getattr(each, "algorithm", "") not in untuned]
    if not configs:
        return
    assert not tuned or len({config.learning_rate for config in configs}) > 2
    assert {config.final_std for config in configs} == {0.05}
    if protocol is REWARD_ALONE:
        ours = [config for config in configs if isinstance(config, reinforce.Config)]
        assert {config.see_time for config in ours} == {True}
        assert min(config.std for config in configs) >= 0.1


def jobs_of(name: str) -> Iterator[tuple[ComparedTask, Algorithm, Job]]:
    """Yield a seed's job of each algorithm on each task of a protocol."""
    protocol = PROTOCOLS[name]
    for task in protocol.tasks.values():
        comparison = Comparison(Config(task=task.name), protocol)
        for algorithm in protocol.on(task):
            yield task, algorithm, comparison.plan(task, algorithm, 3, {}).job


@cache
def settings_of(name: str) -> dict[str, tuple[ComparedTask, dict[str, Any]]]:
    """Return each reinforce.py row of a protocol on its first task, without what is of a run."""
    own = ("run_dir", "seed", "env_id", "final_split", "threads", "device")
    found: dict[str, tuple[ComparedTask, dict[str, Any]]] = {}
    for task, algorithm, job in jobs_of(name):
        if job.command[1] == "train/reinforce.py" and algorithm.name not in found:
            settings = asdict(parsed(job.command))
            found[algorithm.name] = task, {k: settings[k] for k in settings if k not in own}
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_class_of_the_published_rows_is_that_of_their_estimators(protocol):
    settings = settings_of(protocol)
    for name, algorithm in PROTOCOLS[protocol].algorithms.items():
        of_row = settings[name][1]["estimator"] if name in settings else None
        estimator = ESTIMATORS[of_row] if of_row else None
        supervised = algorithm.program == "baselines"
        assert algorithm.sees_label == (supervised or bool(estimator and estimator.sees_label))
        assert algorithm.binary_reward == (estimator is not None and estimator.binary_reward)


def test_a_row_of_the_ladder_differs_in_one_thing_from_the_papers_rule_or_from_dense():
    settings = {name: each for name, (_, each) in settings_of("ladder").items()}

    def differing(row: str, base: str) -> set[str]:
        return {k for k, value in settings[row].items() if value != settings[base][k]}

    steps = [differing(n, "dense" if n.startswith("dense") else "paper") for n in settings]
    # a batch and a rate belong to an optimizer, and a size to a core
    wide = [{"optimizer", "num_envs", "learning_rate"}, {"core", "hidden_size"}]
    assert all(len(step) == 1 or step in wide for step in steps if step)
    assert steps.count(set()) == 2
    # the estimators have different defaults of where the location's gradient stops
    beside = {"location_gradient", "locations"}
    assert set.union(*steps) == differing("paper", "dense") | beside


def test_stored_results_and_searches_do_not_change_with_the_trainers_defaults():
    pinned = {"--estimator", "--optimizer", "--num-envs", "--learning-rate", "--no-bf16"}
    for name in ("comparison", "reward_alone", "paper_rule", "signpost_dials"):
        for _, _, job in jobs_of(name):
            assert job.command[1] != "train/reinforce.py" or pinned <= set(job.command)


def test_the_protocols_know_the_results_that_are_stored_for_them():
    known = 0
    for name, protocol in PROTOCOLS.items():
        path = PROTOCOL.with_stem(name)
        for task in protocol.tasks.values():
            comparison = Comparison(Config(task=task.name, protocol=path), protocol)
            comparison.results = PROTOCOL.parents[1] / comparison.results
            stored = read_lines(Seed, comparison.results, task.name)
            for algorithm in protocol.on(task):
                tuned_on = protocol.tuning_task(task)
                comparison.read_tuning(tuned_on, algorithm)  # refuses other trials
                seeds = [s for s in stored if s.algorithm == algorithm.name]
                settings = comparison.tuned_settings(algorithm) if seeds else {}
                for seed in seeds:
                    job = comparison.plan(task, algorithm, seed.number, settings).job
                    assert job.was_called(seed.config["called_as"])
                    commits = r"[0-9a-f]{40}(; then [0-9a-f]{40})*"
                    assert re.fullmatch(commits, seed.config["commit"])
                    known += 1
    assert known > 300


def test_the_published_rows_are_the_presets_at_their_own_budgets():
    settings = settings_of("published")
    changed = {"every-size", "long", "wide", "paper-translated", "paper-large-cluttered"}
    presets = {path.stem for path in PRESETS.glob("[!r]*.toml")}  # not those of the reward alone
    assert set(settings) == presets | changed
    for name in presets:
        task, row = settings[name]
        preset = asdict(reinforce.parse(["--preset", name]))
        assert {k for k in row if row[k] != preset[k]} == {"validate_sampled"}
        assert task.env_id == preset["env_id"]
        assert task.env_steps == preset["total_episodes"] * task.num_glimpses


def test_the_papers_tables_train_the_presets_with_the_tasks_number_of_glimpses():
    for task, algorithm, job in jobs_of("paper_tables"):
        if job.command[1] == "train/reinforce.py":
            config = parsed(job.command)
            preset = parsed(("python", "train/reinforce.py", "--preset", str(config.preset)))
            assert config.total_episodes == preset.total_episodes
            assert (config.env_id, config.num_envs) == (preset.env_id, preset.num_envs)
            assert config.task.num_glimpses == task.num_glimpses
        else:
            assert parsed(job.command).model == algorithm.name
            assert task.num_glimpses == 1  # an env step is a canvas


def test_a_tuning_tries_choices_as_they_are_and_stays_within_spans():
    space = {"gamma": Choices((0.9995, "1e3")), "std": (0.123456, 0.123499)}
    drawn = draw_trials(Algorithm("x", "ours", space=space), 12)[1:]
    assert draw_trials(Algorithm("y", "ours", space=space), 12)[1:] == drawn  # whatever the name
    assert {trial["gamma"] for trial in drawn} == {0.9995, "1e3"}
    assert all(0.123456 <= trial["std"] <= 0.123499 for trial in drawn)
