"""Two measurements of benchmarks/first_gpu.sh: ``waits FLAGS``, ``time_to_error FLAGS``.

Flags are those of train/reinforce.py.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from agents.runs.files import read_csv
from train import reinforce

ERROR = 4.04
"""The paper's test error on cluttered MNIST [%]."""


def waits(config: reinforce.Config) -> None:
    """Train, plain and with a graph, and print the lines that made the host wait for the GPU."""
    for graph in (False, True):
        with warnings.catch_warnings(record=True) as seen, tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("always")
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("warn")
            try:
                reinforce.main(replace(config, graph=graph, run_dir=Path(folder) / "run"))
            finally:
                if torch.cuda.is_available():
                    torch.cuda.set_sync_debug_mode("default")
        waited = [each for each in seen if "a synchronizing CUDA operation" in str(each.message)]
        lines = Counter(f"{each.filename}:{each.lineno}" for each in waited)
        updates = f"{config.num_updates} updates and their validation"
        print(f"{'--graph' if graph else 'plain'}: {lines.total()} waits in {updates}")
        for line, count in lines.most_common(20):
            print(f"  {count} {line}")


def time_to_error(config: reinforce.Config) -> None:
    """Train with a graph and print when the validation error first was as low as the paper's."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        reinforce.main(replace(config, graph=True, run_dir=run_dir))
        files = (run_dir / name for name in ("metrics.csv", "timing.csv"))
        metrics, timing = (read_csv(path) for path in files)
    for row in metrics:
        if row["tag"] == "eval/error" and float(row["value"]) <= ERROR:
            steps = int(row["env_steps"])
            took = [float(each["seconds"]) for each in timing if int(each["env_steps"]) >= steps]
            print(
                f"validation error {row['value']} % after {took[0]:.0f} s, validations "
                f"included, and {steps} env steps"
            )
            return
    print(f"no validation error was as low as {ERROR} %")


if __name__ == "__main__":
    {"waits": waits, "time_to_error": time_to_error}[sys.argv[1]](reinforce.parse(sys.argv[2:]))
