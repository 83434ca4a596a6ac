"""Draw a sweep: `python docs/sweep.py benchmarks/results/sweeps/ENV_ID.csv FIGURE.png`."""

import sys
from pathlib import Path

from train.comparison.figures import sweep_figure, write_figure

if __name__ == "__main__":
    write_figure(Path(sys.argv[2]), sweep_figure(Path(sys.argv[1])))
