"""What a report says of a folder of results, and what it must never say."""

import csv
import io
import re
from shutil import copytree

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from train.comparison import report
from train.comparison.figures import (
    final_errors,
    learning_curves,
    mean_curve,
    styles,
    write_figure,
)
from train.comparison.protocol import Algorithm, Choices, ComparedTask, Protocol
from train.comparison.results import (
    Curve,
    Result,
    Seed,
    Trial,
    seed_folder,
    trials_path,
    write_seed,
    write_trials,
)
from train.comparison.summary import Row, in_order, read_results

SPACE = {"learning-rate": (1e-4, 1e-2), "lanes": Choices((8, 64))}
ALGORITHMS = [
    Algorithm("dense", "ours", sees_label=True, memory="recurrent", space=SPACE),
    Algorithm("sparse", "ours", sees_label=True, memory="recurrent", space=SPACE),
    Algorithm("ppo", "sb3", memory="history", passes=10, space=SPACE),
    Algorithm("a2c", "sb3", memory="history", space=SPACE),
    Algorithm("random", "ours", sees_label=True, role="control"),
    Algorithm("oracle", "ours", sees_label=True, role="control"),
    Algorithm("plain", "sb3", role="naive"),
]
WITHOUT_A2C = tuple(a.name for a in ALGORITHMS if a.name != "a2c")
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


def make_protocol(*tasks, comparisons=(("dense", "sparse"), ("ppo", "a2c"))):
    tables = {task.env_id: task for task in tasks or (TASK,)}
    return Protocol({"ours": "", "sb3": ""}, tables, {a.name: a for a in ALGORITHMS}, comparisons)


def write(
    results, task, name, number, error=None, *, status="finished", config=CONFIG, marks=4, last=None
):
    """Write a seed whose validation error halves from mark to mark down to its final one."""
    error = ERRORS[name] + number / 10 if error is None else error
    steps = np.linspace(task.env_steps / 4, task.env_steps, 4)[:marks]
    errors = np.minimum(90, error * 2.0 ** np.arange(3, -1, -1))[:marks]
    ended = status == "finished"
    result = Result(
        status,
        error if ended else 77.0,  # a diverged run's own number is not to be believed
        round(100 * error) if ended else None,
        10_000 if ended else None,
        "test",
        int(steps[-1]) if marks else 0,
        40.0 + number,
        last=last or {},
    )
    curve = Curve(steps, steps / 10, errors, np.minimum(90, errors + 1))
    folder = seed_folder(results, task.env_id, name, number)
    write_seed(folder, Seed(name, number, config, curve, result))


def task_report(protocol, task, results):
    return report.task_report(protocol, read_results(protocol, results)[task.env_id])


def task_table(protocol, task, results):
    return report.task_table(read_results(protocol, results)[task.env_id]).decode()


def across_report(protocol, results):
    return report.across_report(protocol, read_results(protocol, results), resamples=50)


def rows_of(protocol, results):
    return read_results(protocol, results)[TASK.env_id].rows


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


def tables_of(text):
    """Return the tables of a Markdown text, each a list of dictionaries."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
        assert {len(line) for line in lines} == {len(lines[0])}
        found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def row_of(text, name):
    """Return an algorithm's row of the tables of results."""
    rows = [row for table in tables_of(text) for row in table if "seeds" in row]
    return next(row for row in rows if row["algorithm"] == name)


def csv_of(text):
    return {row["algorithm"]: row for row in csv.DictReader(io.StringIO(text))}


# --- what is in which table ---


def test_l_and_r_are_never_in_one_table(results):
    protocol = make_protocol(TASK, replace(TASK, env_id="B-v0"))
    copytree(results / "A-v0", results / "B-v0")
    texts = [task_report(protocol, TASK, results), across_report(protocol, results)]
    for text in texts:
        tables = tables_of(text)
        assert len(tables) > 4
        for table in tables:
            names = {row.get("algorithm") or row["expected better"] for row in table}
            names |= {row["than"] for row in table if "than" in row}
            assert names <= LABELLED or not names & LABELLED, names


def test_controls_and_the_naive_try_stand_apart(results):
    tables = [t for t in tables_of(task_report(make_protocol(), TASK, results)) if "seeds" in t[0]]
    groups = [{row["algorithm"] for row in table} for table in tables]
    assert groups == [{"dense", "sparse"}, {"ppo", "a2c"}, {"oracle", "random"}, {"plain"}]


def test_rows_go_by_mean_error_with_incomplete_ones_behind(results):
    protocol = make_protocol()
    write(results, TASK, "sparse", 0, 0.0)
    write(results, TASK, "sparse", 1, 0.0)
    write(results, TASK, "sparse", 2, 0.0)
    rows = [row for row in rows_of(protocol, results) if row.algorithm.feedback == "L"]
    names = [row.algorithm.name for row in in_order(rows)]
    assert names == ["oracle", "sparse", "dense", "random"]  # 2.2, (6.3 + 6.4) / 5, 3.2, 20.2
    lost = [Row(row.algorithm, row.task, row.seeds[:4]) if row is rows[1] else row for row in rows]
    assert [row.algorithm.name for row in in_order(lost)] == ["oracle", "dense", "random", "sparse"]


# --- the numbers ---


def test_a_row_by_hand(results):
    row = row_of(task_report(make_protocol(), TASK, results), "ppo")
    assert row["memory"] == "history"
    assert row["parameters"] == "289,421"
    # 8.0 to 8.4: mean 8.2, s = 0.15811, half width 2.77645 * 0.15811 / sqrt(5) = 0.19632
    assert row["error [%]"] == "8.20 (8.00 to 8.40)"
    assert row["IQM [%]"] == "8.20"
    assert row["sampled, validation [%]"] == "9.20"
    assert row["seeds"] == "5 of 5 seeds"
    assert row["env steps to the threshold"] == "1,000 (5 of 5)"  # 16 at 750, 8 at 1,000
    assert row["samples backward"] == "10,000"
    assert row["CPU time [s]"] == "42"


def test_the_csv_lists_every_seed(results):
    rows = csv_of(task_table(make_protocol(), TASK, results))
    assert list(rows) == [algorithm.name for algorithm in ALGORITHMS]
    seeds = [float(rows["a2c"][f"error_seed_{n}"]) for n in range(5)]
    assert seeds == pytest.approx([12, 12.1, 12.2, 12.3, 12.4])
    assert float(rows["a2c"]["error_mean"]) == pytest.approx(12.2)
    assert rows["a2c"]["class"] == "R"
    assert rows["a2c"]["steps_to_threshold"] == "inf"
    assert rows["random"]["role"] == "control"


def test_a_diverged_seed_counts_as_guessing(results):
    write(results, TASK, "a2c", 4, status="diverged", marks=2)
    text = task_report(make_protocol(), TASK, results)
    row, line = row_of(text, "a2c"), csv_of(task_table(make_protocol(), TASK, results))["a2c"]
    # mean of 12.0 12.1 12.2 12.3 90; the IQM drops one at each end; sampled 13.0 ... 13.3 90
    assert row["error [%]"].startswith("27.72 (0.00 to ")  # the interval's end below 0 is cut
    assert row["IQM [%]"] == "12.20"
    assert row["sampled, validation [%]"] == "28.52"
    assert row["seeds"] == "5 of 5 seeds, 1 diverged"
    assert row["samples backward"] == "1,000"  # of those that finished
    assert (line["error_seed_4"], line["seeds_finished"], line["seeds_diverged"]) == (
        "90",
        "4",
        "1",
    )


def test_missing_seeds_are_said(results):
    (seed_folder(results, "A-v0", "dense", 3) / "result.json").unlink()
    text = task_report(make_protocol(), TASK, results)
    line = csv_of(task_table(make_protocol(), TASK, results))["dense"]
    assert row_of(text, "dense")["seeds"] == "4 of 5 seeds: incomplete"
    assert (line["seeds_wanted"], line["seeds_finished"], line["error_seed_3"]) == ("5", "4", "")


def test_an_algorithm_without_a_seed_has_a_row_of_nothing(tmp_path):
    text = task_report(make_protocol(), TASK, tmp_path)
    row = row_of(text, "dense")
    assert row["seeds"] == "0 of 5 seeds: incomplete"
    assert {row[name] for name in ("error [%]", "IQM [%]", "CPU time [s]", "parameters")} == {"-"}
    assert "No run has ended yet." in text
    assert "nan" not in (text + task_table(make_protocol(), TASK, tmp_path)).lower()


def test_seeds_that_the_protocol_does_not_want_are_left_out_and_said(results):
    write(results, TASK, "dense", 5, 50.0)
    text = task_report(make_protocol(), TASK, results)
    assert row_of(text, "dense")["error [%]"] == "3.20 (3.00 to 3.40)"
    assert "left out: 1 seeds" in text


# --- tests ---


def comparison_of(text, first):
    rows = [row for table in tables_of(text) for row in table if "expected better" in row]
    return next(row for row in rows if row["expected better"] == first)


def test_named_comparisons_are_tested_and_corrected_for_all(results):
    row = comparison_of(task_report(make_protocol(), TASK, results), "dense")
    assert row["difference of means [points]"] == "-3.00"
    assert row["P(less error)"] == "1.00 (1.00 to 1.00)"
    assert (row["p"], row["p after Holm"]) == ("0.0079", "0.0159")  # 2 / 252, twice that


def test_an_incomplete_comparison_is_not_tested_but_counts(results):
    (seed_folder(results, "A-v0", "a2c", 0) / "result.json").unlink()
    text = task_report(make_protocol(), TASK, results)
    untested = comparison_of(text, "ppo")
    assert untested["difference of means [points]"] == (
        "not tested: ppo has 5 of 5 seeds, a2c has 4 of 5 seeds"
    )
    assert {untested["p"], untested["p after Holm"]} == {"-"}
    assert comparison_of(text, "dense")["p after Holm"] == "0.0159"


def test_who_does_not_take_part_is_not_tested(results):
    task = replace(TASK, env_id="B-v0", algorithms=WITHOUT_A2C)
    text = task_report(make_protocol(TASK, task), task, results)
    assert "does not take part" in comparison_of(text, "ppo")["difference of means [points]"]


def test_with_three_seeds_there_are_points_and_no_ranking(results):
    task = replace(TASK, seeds=3)
    text = task_report(make_protocol(task), task, results)
    assert "Only 3 seeds: points, without ranking, intervals or tests." in text
    assert "Named comparisons" not in text
    assert row_of(text, "sparse")["error [%]"] == "6.10 (each: 6.00, 6.10, 6.20)"
    assert " to " not in row_of(text, "dense")["error [%]"]
    groups = [[row["algorithm"] for row in table] for table in tables_of(text)]
    assert ["random", "oracle"] in groups  # as in the protocol, though the oracle errs less


def test_one_seed_has_no_interval(results):
    task = replace(TASK, seeds=1)
    assert row_of(task_report(make_protocol(task), task, results), "dense")["error [%]"] == (
        "3.00 (each: 3.00)"
    )
    line = csv_of(task_table(make_protocol(task), task, results))["dense"]
    assert (line["error_mean"], line["error_low"], line["error_high"]) == ("3", "", "")


def test_what_the_policies_do_is_told_of_those_that_tell_it(results):
    assert "What the policies do" not in task_report(make_protocol(), TASK, results)
    for number in range(3):
        last = {"eval/most_named": 50.0 + 10 * number}
        last |= {"train/explained_variance": -0.25} if number else {}
        write(results, TASK, "ppo", number, last=last)
    text = task_report(make_protocol(), TASK, results)
    rows = [row for table in tables_of(text) for row in table if "value explained" in row]
    assert rows == [
        {
            "algorithm": "ppo",
            "commonest answer [%]": "60.00",
            "on the object's middle [%]": "-",
            "spread of locations": "-",
            "value explained": "-0.25",
        }
    ]


# --- tuning and provenance ---


def test_tuning_shows_defaults_best_and_choice(results):
    trials = [
        Trial(0, {}, 9.0, "finished", "x"),
        Trial(1, {"learning-rate": 0.00123456, "lanes": 64}, 5.5, "finished", "x"),
        Trial(2, {"learning-rate": 0.01, "lanes": 8}, 90.0, "diverged", "x"),
    ]
    write_trials(trials_path(results, "A-v0", "dense"), trials)
    text = task_report(make_protocol(), TASK, results)
    rows = {r["algorithm"]: r for t in tables_of(text) for r in t if "space" in r}
    assert rows["dense"] == {
        "algorithm": "dense",
        "space": "learning-rate 0.0001 to 0.01; lanes {8, 64}",
        "trials": "2 of 4, 1 diverged",
        "defaults [%]": "9.00",
        "best [%]": "5.50",
        "chosen": "learning-rate 0.00123; lanes 64",
    }
    assert rows["ppo"]["trials"] == "none"
    assert rows["plain"]["space"] == "not tuned"


def test_settings_tuned_on_another_task_are_read_there(results):
    task = replace(TASK, env_id="B-v0", tuned_on="A-v0", trials=0)
    write_trials(trials_path(results, "A-v0", "dense"), [Trial(0, {}, 9.0, "finished", "x")])
    text = task_report(make_protocol(TASK, task), task, results)
    rows = {r["algorithm"]: r for t in tables_of(text) for r in t if "space" in r}
    assert (rows["dense"]["trials"], rows["dense"]["chosen"]) == ("0 of 4", "defaults")
    assert "On `A-v0`: 4 trials" in text


def test_how_it_was_run_names_commit_machine_versions_and_days(results):
    text = task_report(make_protocol(), TASK, results)
    for line in (
        *("- commit: abc123", "- machine: a machine", "- python: 3.11.7"),
        *("- versions: numpy 2.4.6, torch 2.13.0", "- started: 2026-11-25"),
        "dense: python train/x.py --seed 0",
    ):
        assert line in text.splitlines()
    later = {**CONFIG, "commit": "fff+", "started": "2026-12-01T00:00:00+00:00"}
    write(results, TASK, "ppo", 0, config=later)
    lines = task_report(make_protocol(), TASK, results).splitlines()
    assert "- commit fff+: ppo" in lines
    assert "- commit abc123: dense, sparse, ppo, a2c, random, oracle, plain" in lines
    assert "- started: 2026-11-25 to 2026-12-01" in lines


def test_a_run_off_the_budget_is_named(results):
    short = replace(TASK, env_steps=2000)
    text = task_report(make_protocol(short), short, results)
    assert "off the budget" in text
    assert "dense seed 0 (1,000)" in text
    assert "off the budget" not in task_report(make_protocol(), TASK, results)


# --- across tasks ---


def test_scores_are_normalised_by_what_guessing_errs_in(results):
    task = replace(TASK, env_id="B-v0", chance_error=75.0, algorithms=("dense", "sparse"))
    for name in task.algorithms:
        copytree(results / "A-v0" / name, results / "B-v0" / name)
    text = across_report(make_protocol(TASK, task), results)
    assert "- `A-v0`, 5 seeds: guessing errs in 90.00 %" in text
    assert "- `B-v0`, 5 seeds: guessing errs in 75.00 %" in text
    row = next(row for row in tables_of(text)[0] if row["algorithm"] == "sparse")
    errors = np.arange(6, 6.41, 0.1)  # the middle 6 of 10 scores, but for two at each end
    scores = np.sort(np.concatenate([1 - errors / 90, 1 - errors / 75]))
    assert row["IQM"].split()[0] == f"{scores[2:-2].mean():.2f}"


def test_only_complete_algorithms_of_the_same_tasks_are_aggregated(results):
    task = replace(TASK, env_id="B-v0")
    protocol = make_protocol(TASK, task)
    for name in ("dense", "sparse", "ppo"):
        copytree(results / "A-v0" / name, results / "B-v0" / name)
    (results / "B-v0" / "sparse" / "seed_4" / "result.json").unlink()
    tables = tables_of(across_report(protocol, results))
    assert [[row["algorithm"] for row in table] for table in tables] == [["dense"], ["ppo"]]


def test_one_task_is_no_comparison_across_tasks(results):
    assert "two tasks" in across_report(make_protocol(), results)
    assert not tables_of(across_report(make_protocol(), results))


# --- figures ---


def test_the_mean_curve_counts_a_diverged_seed_as_guessing_after_its_end(tmp_path):
    write(tmp_path, TASK, "ppo", 0, 10.0)  # 80 40 20 10
    write(tmp_path, TASK, "ppo", 1, 10.0, status="diverged", marks=2)  # 80 40, then 90 90
    row = next(r for r in rows_of(make_protocol(), tmp_path) if r.seeds)
    mean = mean_curve(row)
    assert mean.env_steps.tolist() == [250, 500, 750, 1000]
    assert mean.error == pytest.approx([80, 40, 55, 50])
    assert mean.cpu_seconds == pytest.approx([25, 50, 75, 100])  # of the seed that got so far


def test_figures_draw_a_class_a_panel_and_every_seed(results, tmp_path):
    protocol = make_protocol()
    figure = final_errors(protocol, TASK, results)
    labels = [[t.get_text() for t in axes.get_yticklabels()] for axes in figure.axes]
    assert labels == [
        ["dense", "sparse", "oracle (control)", "random (control)"],
        ["ppo", "a2c", "plain (naive)"],
    ]
    drawn = [float(x) for line in figure.axes[0].lines for x in np.atleast_1d(line.get_xdata())]
    assert {3.0, 3.1, 3.2, 3.3, 3.4} <= {round(x, 6) for x in drawn}
    curves = learning_curves(protocol, TASK, results)
    assert len(curves.axes) == 6  # two classes, three costs
    write_figure(tmp_path / "figures" / "final.png", figure)
    with Image.open(tmp_path / "figures" / "final.png") as picture:
        assert picture.size == (850, picture.height)


def test_figures_take_one_seed_and_a_run_without_a_mark(tmp_path):
    task = replace(TASK, seeds=1)
    write(tmp_path, task, "ppo", 0, status="diverged", marks=0)
    write(tmp_path, task, "dense", 0)
    for draw in (final_errors, learning_curves):
        write_figure(tmp_path / "figure.png", draw(make_protocol(task), task, tmp_path))
    with pytest.raises(ValueError, match="results must hold a seed on B-v0"):
        final_errors(make_protocol(), replace(TASK, env_id="B-v0"), tmp_path)


def test_algorithms_of_a_class_look_different():
    look = styles(make_protocol())
    for names in ({"dense", "sparse"}, {"ppo", "a2c", "plain"}, {"random", "oracle"}):
        assert len({look[name] for name in names}) == len(names)


def test_an_error_of_zero_has_a_place_in_the_figures(tmp_path):
    for number in range(2):
        write(tmp_path, TASK, "dense", number, 0.0)
    protocol = make_protocol()
    (strip,) = final_errors(protocol, TASK, tmp_path).axes
    assert strip.get_xlim()[0] < 0
    for axes in learning_curves(protocol, TASK, tmp_path).axes:
        drawn = [line.get_ydata() for line in axes.lines]
        low = min(np.min(values) for values in drawn)
        assert axes.get_ylim()[0] < low
