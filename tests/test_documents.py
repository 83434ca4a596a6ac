"""What the documents say is what the code does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import ram_env
from agents.runs.loading import PRETRAINED
from ram_env.frozen import FROZEN_SHA256
from train import compare
from train.comparison.protocol import read_protocol
from train.comparison.report import across_report, task_report, task_table
from train.comparison.summary import read_results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PROTOCOL = read_protocol(compare.PROTOCOL)


def test_the_results_list_the_digests_that_the_code_pins():
    rows = re.findall(r"\| `(\S+-v\d+)` \| (\w+) \| `([0-9a-f]{64})` \|", read("RESULTS.md"))
    listed = {(env_id, split): digest for env_id, split, digest in rows}
    pinned = {
        (env_id, split): digest
        for env_id, splits in FROZEN_SHA256.items()
        for split, digest in splits.items()
    }
    assert listed == pinned


def test_the_readme_lists_every_id():
    assert set(re.findall(r"`(\w+Glimpse-v\d+)`", read("README.md"))) == set(ram_env.TASKS)


def test_ci_runs_the_readmes_test_command():
    assert len(re.findall("-m pytest", read("README.md"))) == 1
    assert "grep -m 1 -- '-m pytest' README.md" in read(".ci/run")


@pytest.mark.parametrize("env_id", PROTOCOL.tasks)
def test_the_reports_are_those_of_the_results_in_the_repository(env_id):
    by_task, folder = read_results(PROTOCOL, RESULTS), RESULTS / env_id
    assert task_report(PROTOCOL, by_task[env_id]) == (folder / "report.md").read_text()
    assert task_table(by_task[env_id]) == (folder / "table.csv").read_bytes()
    assert across_report(PROTOCOL, by_task) == (RESULTS / "report.md").read_text()


def test_the_readmes_errors_are_those_of_the_published_runs():
    row = r"^\| .* \| (\d\.\d\d) \((\d\.\d\d)-(\d\.\d\d)\) \| \d"
    told = re.findall(row, read("README.md"), re.MULTILINE)
    results = [json.loads(path.read_text()) for path in PRETRAINED.glob("*/result.json")]
    known = {tuple(f"{x:.2f}" for x in (r["error"], *r["interval"])) for r in results}
    assert len(told) == 4
    assert set(told) <= known


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "RESULTS.md"])
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", read(document)):
        assert (ROOT / target).exists(), target


def read(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.usefixtures("full_mnist")
def test_the_python_of_the_readme_runs_from_top_to_bottom():
    blocks = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    assert len(blocks) > 4
    names: dict[str, Any] = {}
    for block in blocks:
        exec(re.sub(r"learn\([\d_]+\)", "learn(64)", block), names)
    assert 0 < names["correct"] < names["episodes"] == 640  # guesses
    assert names["terminated"]
    assert names["images"].shape == (300, 28, 28)
