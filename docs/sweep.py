"""Draw a sweep: `python docs/sweep.py runs/sweep/ENV_ID.csv FIGURE.png`."""

from pathlib import Path

import tyro

from train.comparison.figures import sweep_figure, write_figure


def main(report: tyro.conf.Positional[Path], figure: tyro.conf.Positional[Path]) -> None:
    """Draw the report of a sweep, a CSV file with its JSON file next to it, into a figure."""
    write_figure(figure, sweep_figure(report))


if __name__ == "__main__":
    tyro.cli(main)
