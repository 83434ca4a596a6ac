"""The reports of a folder of results: every number, and what they must never compare."""

import dataclasses
import math
import re
from shutil import copytree

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from train.comparison import figures, report
from train.comparison.protocol import Algorithm, Choices, ComparedTask, Program, Protocol
from train.comparison.results import Curve, Result, Seed, Trial, path_of, read_lines, write_lines
from train.comparison.summary import Row, in_order, read_results

SPACE = {"learning-rate": (1e-4, 1e-2), "lanes": Choices((8, 64))}
ALGORITHMS = [
    Algorithm("dense", "ours", sees_label=True, memory="recurrent", space=SPACE),
    Algorithm("sparse", "ours", sees_label=True, memory="recurrent", space=SPACE),
    Algorithm("ppo", "sb3", memory="history", passes=10, space=SPACE),
    Algorithm("a2c", "sb3", memory="history", space=SPACE),
    Algorithm("random", "ours", sees_label=True, role="control"),
    Algorithm("oracle", "ours", sees_label=True, role="control"),
    Algorithm("plain", "sb3", role="naive", chance_error=75.0),
]
ERRORS = {"dense": 3, "sparse": 6, "ppo": 8, "a2c": 12, "random": 20, "oracle": 2, "plain": 60}
LABELLED = {"dense", "sparse", "random", "oracle"}
TASK = ComparedTask("A-v0", 8, 1000, 5, 4, 90.0, 10.0)
CONFIG = {
    "parameters": 289421,
    "command": "python train/x.py --seed 0",
    "commit": "abc123",
    "machine": "a machine",
    "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
    "started": "2026-11-25T10:00:00+00:00",
    "python": "3.11.7",
}


def make_protocol(*tasks):
    tables = {task.name: task for task in tasks or (TASK,)}
    comparisons = (("dense", "sparse"), ("ppo", "a2c"))
    programs = {name: Program("{env_id} {seed} {run_dir}") for name in ("ours", "sb3")}
    return Protocol(programs, tables, {a.name: a for a in ALGORITHMS}, comparisons)


def write(results, task, name, number, error=None, *, config=CONFIG, marks=4, last=None):
    """Write a seed whose error halves from mark to mark; with less than four it diverged."""
    error = ERRORS[name] + number / 10 if error is None else error
    steps = np.linspace(task.env_steps / 4, task.env_steps, 4)[:marks]
    errors = np.minimum(90, error * 2.0 ** np.arange(3, -1, -1))[:marks]
    outcome = ("finished", error, round(100 * error), 10_000)
    if marks < 4:  # its own number is not to be believed
        outcome = ("diverged", 77.0, None, None)
    at_end = int(max(steps, default=0))
    result = Result(*outcome, "test", at_end, 40.0 + number, last=last or {})
    curve = Curve(steps, steps / 10, errors, np.minimum(90, errors + 1))
    change_seeds(results, Seed(name, number, result, curve, config), task=task.name)


def change_seeds(results, *new, without=(), task="A-v0"):
    """Store seeds in place of those of their algorithm and number, and drop some of these."""
    dropped = {*without, *((seed.algorithm, seed.number) for seed in new)}
    stored = read_lines(Seed, results, task)
    kept = [seed for seed in stored if (seed.algorithm, seed.number) not in dropped]
    write_lines(path_of(Seed, results, task), [*kept, *new])


def write_trials(results, *trials):
    write_lines(path_of(Trial, results, "A-v0"), trials)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All seeds of all algorithms on the task, to be copied: each file is synced to the disk."""
    folder = tmp_path_factory.mktemp("whole")
    for algorithm in ALGORITHMS:
        for number in range(TASK.seeds):
            write(folder, TASK, algorithm.name, number)
    return folder


@pytest.fixture
def results(whole, tmp_path):
    """All seeds of all algorithms on the task."""
    return copytree(whole, tmp_path / "results")


def report_on(results, *tasks):
    """Return the report of the last task."""
    protocol, env_id = make_protocol(*tasks), (tasks or (TASK,))[-1].name
    return report.task_report(protocol, read_results(protocol, results)[env_id])


def report_across(results, *tasks):
    protocol = make_protocol(*tasks)
    return report.across_report(protocol, read_results(protocol, results))


def tables_of(text):
    """Return the tables of a Markdown text, each a list of dictionaries."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
        assert {len(line) for line in lines} == {len(lines[0])}
        found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def row_of(text, name, column="seeds"):
    """Return an algorithm's row of the tables that have a column."""
    rows = [row for table in tables_of(text) for row in table if column in row]
    return next(row for row in rows if name in (row.get("algorithm"), row.get("expected better")))


def test_l_and_r_are_never_in_one_table(results):
    tasks = (TASK, replace(TASK, name="B-v0"))
    copytree(results / "A-v0", results / "B-v0")
    for text in (report_on(results, *tasks), report_across(results, *tasks)):
        tables = tables_of(text)
        assert len(tables) >= 4
        for table in tables:
            names = {row.get("algorithm") or row["expected better"] for row in table}
            names |= {row["than"] for row in table if "than" in row}
            assert names <= LABELLED or not names & LABELLED, names


def test_rows_go_by_mean_error_with_incomplete_ones_last(results):
    for number in range(3):
        write(results, TASK, "sparse", number, 0.0)
    rows = read_results(make_protocol(), results)["A-v0"].rows
    rows = [row for row in rows if row.algorithm.feedback == "L"]
    names = [row.algorithm.name for row in in_order(rows)]
    assert names == ["oracle", "sparse", "dense", "random"]  # 2.2, (6.3 + 6.4) / 5, 3.2, 20.2
    rows[1] = Row(rows[1].algorithm, TASK, rows[1].seeds[:4])
    assert [row.algorithm.name for row in in_order(rows)] == ["oracle", "dense", "random", "sparse"]


def test_a_row_by_hand(results):
    row = row_of(report_on(results), "ppo")
    assert row == {
        "algorithm": "ppo",
        "memory": "history",
        "parameters": "289,421",
        # 8.0 to 8.4: mean 8.2, s = 0.15811, half width 2.77645 * 0.15811 / sqrt(5) = 0.19632
        "error [%]": "8.20 (8.00 to 8.40)",
        "each seed [%]": "8.00, 8.10, 8.20, 8.30, 8.40",
        "sampled, validation [%]": "9.20",
        "seeds": "5 of 5 seeds",
        "env steps to the threshold": "1,000 (5 of 5)",  # 16 at 750, 8 at 1,000
        "samples backward": "10,000",
        "CPU time [s]": "42",
    }


def test_missing_seeds_are_named_and_few_have_no_interval(results):
    change_seeds(results, without=[("dense", 3), *(("sparse", n) for n in range(3))])
    assert row_of(report_on(results), "dense")["seeds"] == "4 of 5 seeds: incomplete"
    assert row_of(report_on(results), "sparse")["error [%]"] == "6.35"


def test_algorithms_may_have_seeds_of_their_own_and_few_are_not_tested(results):
    names = {algorithm.name: 5 for algorithm in ALGORITHMS} | {"dense": 3, "ppo": 4}
    task = replace(TASK, algorithms=names, curriculum="cluttered-60")
    text = report_on(results, task)
    assert "5 seeds per algorithm (3 for dense, 4 for ppo)" in text
    assert "curriculum `cluttered-60`" in text
    reason = "not tested: dense has 3 of 3 seeds, sparse has 5 of 5 seeds, a test needs 4"
    assert row_of(text, "dense", "than")["difference of means [points]"] == reason
    assert row_of(text, "ppo", "than")["p"] == "0.0159"  # 2 / 126
    assert "With at most 5 seeds per algorithm no p is below 0.0079" in text


def test_a_diverged_seed_counts_as_guessing(results):
    write(results, TASK, "a2c", 4, marks=2)
    text = report_on(results)
    row = row_of(text, "a2c")
    assert "A random label is wrong on 90.00 % of the images, 75.00 % in `plain`." in text
    # mean of 12.0 12.1 12.2 12.3 90; sampled 13.0 ... 13.3 90
    assert row["error [%]"].startswith("27.72 (0.00 to ")  # the interval's end below 0 is cut
    assert row["each seed [%]"] == "12.00, 12.10, 12.20, 12.30, 90.00"
    assert row["sampled, validation [%]"] == "28.52"
    assert row["seeds"] == "5 of 5 seeds, 1 diverged"
    assert row["samples backward"] == "1,000"  # of those that finished
    assert row["CPU time [s]"] == "42"  # median of 40 41 42 43, of those that finished


def test_the_threshold_is_reached_when_half_of_the_seeds_have_and_never_is_later(tmp_path):
    for number, error in enumerate((1.5, 30, 5, 40)):  # at most 10 at 500, never, at 750, never
        write(tmp_path, TASK, "ppo", number, error)
    write(tmp_path, TASK, "ppo", 4, marks=0)
    row = read_results(make_protocol(), tmp_path)["A-v0"].rows[2]
    assert row.reached == [500, math.inf, 750, math.inf, math.inf]
    assert row.steps_to_threshold == math.inf
    assert Row(row.algorithm, TASK, row.seeds[:4]).steps_to_threshold == 750
    assert Row(row.algorithm, TASK, row.seeds[:3]).steps_to_threshold == 750


def test_an_algorithm_without_a_seed_has_an_empty_row(tmp_path):
    text = report_on(tmp_path)
    row = row_of(text, "dense")
    assert row["seeds"] == "0 of 5 seeds: incomplete"
    assert {row[name] for name in ("error [%]", "each seed [%]", "CPU time [s]", "parameters")} == {
        "-"
    }
    assert "No run has ended yet." in text
    assert "nan" not in text.lower()


def test_named_comparisons_are_corrected_for_all_of_them_even_if_some_are_not_tested(results):
    row = row_of(report_on(results), "dense", "than")
    assert row["difference of means [points]"] == "-3.00"
    assert row["P(lower error)"] == "1.00 (1.00 to 1.00)"
    assert (row["p"], row["p after Holm"]) == ("0.0079", "0.0159")  # 2 / 252, twice that
    change_seeds(results, without=[("a2c", 0)])
    text = report_on(results)
    untested = row_of(text, "ppo", "than")
    reason = "not tested: ppo has 5 of 5 seeds, a2c has 4 of 5 seeds"
    assert untested["difference of means [points]"] == reason
    assert {untested["p"], untested["p after Holm"]} == {"-"}
    assert row_of(text, "dense", "than")["p after Holm"] == "0.0159"
    task = replace(TASK, name="B-v0", algorithms=("dense", "sparse", "ppo"))
    text = report_on(results, TASK, task)
    reason = row_of(text, "ppo", "than")["difference of means [points]"]
    assert reason == "not tested: not run on this task"


def test_with_three_seeds_there_are_intervals_and_no_ranking(results):
    text = report_on(results, replace(TASK, seeds=3))
    assert "Only 3 seeds: nothing is ranked or tested." in text
    assert "Named comparisons" not in text
    # 6.1 -+ t_2(0.975) 0.1 / sqrt(3) = 4.303 * 0.0577
    assert row_of(text, "sparse")["error [%]"] == "6.10 (5.85 to 6.35)"
    assert row_of(text, "sparse")["each seed [%]"] == "6.00, 6.10, 6.20"
    groups = [[row["algorithm"] for row in table] for table in tables_of(text)]
    assert ["random", "oracle"] in groups  # as in the protocol, though the oracle errs less
    more = replace(TASK, seeds=3, algorithms={"dense": 5, "sparse": 5, "random": 3})
    assert row_of(report_on(results, more), "dense", "than")["p after Holm"] == "0.0159"
    one = replace(TASK, seeds=1)
    assert row_of(report_on(results, one), "dense")["error [%]"] == "3.00"


def test_the_policies_behaviour_is_reported_for_those_that_log_it(results):
    assert "What the policies do" not in report_on(results)
    for number in range(3):
        last = {"eval/most_named": 50.0 + 10 * number}
        last |= {"train/explained_variance": -0.25} if number else {}
        write(results, TASK, "ppo", number, last=last)
    (table,) = [table for table in tables_of(report_on(results)) if "value explained" in table[0]]
    assert [list(row.values()) for row in table] == [["ppo", "60.00", "-", "-", "-0.25"]]


def test_tuning_shows_defaults_best_and_choice_from_the_task_it_was_made_on(results):
    trials = [
        Trial("dense", "trials", 0, {}, 9.0, "finished"),
        Trial("dense", "trials", 1, {"learning-rate": 0.00123456, "lanes": 64}, 5.5, "finished"),
        Trial("dense", "trials", 2, {"learning-rate": 0.01, "lanes": 8}, 90.0, "diverged"),
    ]
    write_trials(results, *trials)
    text = report_on(results)
    assert row_of(text, "dense", "space") == {
        "algorithm": "dense",
        "space": "learning-rate 0.0001 to 0.01; lanes {8, 64}",
        "trials": "2 of 4, 1 diverged",
        "defaults [%]": "9.00",
        "lowest [%]": "5.50",
        "at the whole [%]": "-",
        "chosen": "-",  # trials are missing
    }
    trials += [replace(trials[0], number=number, error=20.0) for number in (3, 4)]
    write_trials(results, *trials)
    row = row_of(report_on(results), "dense", "space")
    assert (row["at the whole [%]"], row["chosen"]) == ("-", "learning-rate 0.00123; lanes 64")
    fewer = row_of(report_on(results, replace(TASK, trials=1)), "dense", "space")
    assert (fewer["trials"], fewer["lowest [%]"]) == ("1 of 1", "5.50")  # the rest is left out
    finals = [replace(trials[n], phase="finals", error=3.0 + n) for n in (0, 1)]
    for count, cells in ((1, ("-", "-")), (2, ("3.00", "defaults"))):
        write_trials(results, *trials, *finals[:count])
        row = row_of(report_on(results, replace(TASK, finalists=2)), "dense", "space")
        assert (row["at the whole [%]"], row["chosen"]) == cells
    assert "## Tuning" not in report_on(results, replace(TASK, trials=0))
    assert row_of(text, "ppo", "space")["trials"] == "none"
    assert row_of(text, "plain", "space")["space"] == "not tuned"
    task = replace(TASK, name="B-v0", tuned_on="A-v0", trials=0)
    write_trials(results, *trials[:1])
    text = report_on(results, TASK, task)
    row = row_of(text, "dense", "space")
    assert (row["trials"], row["chosen"]) == ("0 of 4", "-")
    assert "On `A-v0`: 4 trials" in text


def test_the_report_names_commit_machine_versions_and_days(results):
    lines = report_on(results).splitlines()
    assert {"- commit: abc123", "- started: 2026-11-25"} <= {*lines}
    later = {**CONFIG, "commit": "fff+", "started": "2026-12-01T00:00:00+00:00"}
    write(results, TASK, "ppo", 0, config=later)
    lines = report_on(results).splitlines()
    for line in (
        *("- commit fff+: ppo", "- machine: a machine", "- python: 3.11.7"),
        "- commit abc123: dense, sparse, ppo, a2c, random, oracle, plain",
        *("- versions: numpy 2.4.6, torch 2.13.0", "- started: 2026-11-25 to 2026-12-01"),
        "dense: python train/x.py --seed 0",
    ):
        assert line in lines


def test_seeds_off_the_budget_or_that_the_protocol_does_not_ask_for_are_named(results):
    write(results, TASK, "dense", 5, 50.0)
    text = report_on(results)
    assert row_of(text, "dense")["error [%]"] == "3.20 (3.00 to 3.40)"
    assert "left out: 1 seeds" in text
    assert "off the budget" not in text
    text = report_on(results, replace(TASK, env_steps=1030))
    assert re.search(r"off the budget.*dense seed 0 \(1,000\)", text)


def test_seeds_with_other_settings_are_not_averaged(results):
    settings = {"seed": 1, "run_dir": None, "learning_rate": 0.1, "num_envs": 8, "env_kwargs": ""}
    write(results, TASK, "ppo", 0, config={**CONFIG, "config": {**settings, "seed": 0}})
    write(results, TASK, "ppo", 1, config={**CONFIG, "config": settings})
    report_on(results)  # the other seeds' programs stored no settings
    for name, value in (("learning_rate", 0.2), ("num_envs", 4), ("env_kwargs", "shift = 1")):
        write(results, TASK, "ppo", 2, config={**CONFIG, "config": {**settings, name: value}})
        message = rf"A-v0, ppo, seed 2: \['{name}'\] differ from those of seed 0"
        with pytest.raises(ValueError, match=message):
            report_on(results)


def test_the_report_across_tasks_has_a_column_per_task_and_names_missing_seeds(results):
    seeds = [s for s in read_lines(Seed, results, "A-v0") if s.algorithm in ("dense", "ppo")]
    change_seeds(results, *seeds, task="B-v0")
    change_seeds(results, without=[("ppo", 4)], task="B-v0")
    tables = tables_of(report_across(results, TASK, replace(TASK, name="B-v0")))
    rows = {row["algorithm"]: row for table in tables for row in table}
    alone = row_of(report_on(results), "dense")["error [%]"]
    assert rows["dense"] == {"algorithm": "dense", "`A-v0`": alone, "`B-v0`": alone}
    assert rows["ppo"]["`B-v0`"].endswith(", 4 of 5 seeds")
    assert rows["a2c"]["`B-v0`"] == "-"


def test_the_mean_curve_counts_a_diverged_seed_as_guessing_after_its_end(tmp_path):
    write(tmp_path, TASK, "ppo", 0, 10.0)  # 80 40 20 10
    write(tmp_path, TASK, "ppo", 1, 10.0, marks=2)  # 80 40, then 90 90
    row = next(r for r in read_results(make_protocol(), tmp_path)["A-v0"].rows if r.seeds)
    mean = figures.mean_curve(row)
    assert mean.env_steps.tolist() == [250, 500, 750, 1000]
    assert mean.error == pytest.approx([80, 40, 55, 50])
    assert mean.cpu_seconds == pytest.approx([25, 50, 75, 100])  # of the seed that got so far


def test_figures_have_a_panel_per_class_and_draw_every_seed(results, tmp_path):
    protocol = make_protocol()
    found = read_results(protocol, results)["A-v0"]
    figure = figures.final_errors(protocol, found)
    labels = [[t.get_text() for t in axes.get_yticklabels()] for axes in figure.axes]
    assert labels == [
        ["dense", "sparse", "oracle (control)", "random (control)"],
        ["ppo", "a2c", "plain (naive)"],
    ]
    drawn = [float(x) for line in figure.axes[0].lines for x in np.atleast_1d(line.get_xdata())]
    assert {3.0, 3.1, 3.2, 3.3, 3.4} <= {round(x, 6) for x in drawn}
    assert len(figures.learning_curves(protocol, found).axes) == 6  # two classes, three costs
    look = figures.styles(protocol)
    for names in ({"dense", "sparse"}, {"ppo", "a2c", "plain"}, {"random", "oracle"}):
        assert len({str(look[name]) for name in names}) == len(names)
    figures.write_figure(tmp_path / "figures" / "final.png", figure)
    with Image.open(tmp_path / "figures" / "final.png") as picture:
        assert picture.size == (850, picture.height)


def test_a_legend_of_many_algorithms_leaves_room_for_the_curves(results, tmp_path):
    protocol = make_protocol()
    found = read_results(protocol, results)["A-v0"]
    many = dataclasses.replace(found, rows=found.rows * 8)
    figures.write_figure(tmp_path / "figure.png", figures.learning_curves(protocol, many))
    # Matplotlib warns, which is an error here, where a legend is higher than its panels


def test_figures_take_one_seed_a_run_without_a_mark_and_an_error_of_zero(tmp_path):
    protocol = make_protocol(replace(TASK, seeds=1))
    write(tmp_path, TASK, "ppo", 0, marks=0)
    write(tmp_path, TASK, "dense", 0, 0.0)
    found = read_results(protocol, tmp_path)["A-v0"]
    strip, curves = figures.final_errors(protocol, found), figures.learning_curves(protocol, found)
    for figure in (strip, curves):
        figures.write_figure(tmp_path / "figure.png", figure)
    assert strip.axes[0].get_xlim()[0] < 0
    for axes in curves.axes[:3]:
        assert axes.get_ylim()[0] < min(np.min(line.get_ydata()) for line in axes.lines)
