"""Jobs of tests: a program that makes a checkpoint a step and can be stopped, and runs of ours."""

import shlex
from pathlib import Path

from train.comparison.harvest import harvest
from train.comparison.job import Job
from train.comparison.jobs import Ended
from train.comparison.results import Seed

_PROGRAM = """
import os, signal, sys, time
from pathlib import Path

folder, does = Path(sys.argv[1]), sys.argv[2:]
here, checkpoints = Path(__file__).parent, folder / "checkpoints"
checkpoints.mkdir(parents=True, exist_ok=True)
step = len(list(checkpoints.iterdir()))
with (here / "calls.txt").open("a") as calls:
    calls.write(f"{folder.name} from step {step}\\n")

def stop(number, frame):
    if "forgets" not in does:
        (checkpoints / f"step_{step + 1}").touch()
    sys.exit(128 + number)

signal.signal(signal.SIGTERM, stop)
if "complains" in does and not step:
    (checkpoints / "step_1").touch()
    sys.exit("error: not this time\\n------")
for step in range(step, 3):
    if step == 1 and not (here / "lives").exists():
        if "fails" in does:
            sys.exit(1)
        for number in [os.getppid()] * ("is lost" in does) + [os.getpid()] * ("dies" in does):
            os.kill(number, signal.SIGKILL)
    (folder / "waits").touch()
    if "late" in does:
        os.kill(os.getppid(), signal.SIGUSR2)  # as Slurm sends
    while "late" in does or ("waits" in does and not (here / "go").exists()):
        time.sleep(0.01)  # briefly: a signal just before a sleep is handled after it
    (checkpoints / f"step_{step + 1}").touch()
print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["OMP_NUM_THREADS"])
"""


class Place:
    """A folder with the program, its calls, and its jobs."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "program.py").write_text(_PROGRAM)

    def job(self, name: str, does: str = "", *, resumes: bool = True) -> Job:
        words = ("python", "-S", str(self.folder / "program.py"), str(self.folder / "runs" / name))
        words += tuple(shlex.split(does))
        return Job(name, words, self.folder / "runs" / name, words if resumes else ())

    def waits(self, *names: str) -> bool:
        """Say whether jobs wait for :meth:`go`."""
        return all((self.folder / "runs" / name / "waits").exists() for name in names)

    def go(self) -> None:
        (self.folder / "go").touch()

    def calls(self) -> list[str]:
        """Return how the program was called since the last time."""
        path = self.folder / "calls.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


def harvest_run(folder: Path) -> Seed:
    """Return what a comparison reads of a run that was evaluated on the test split."""
    ended = Ended(Job("a run", (), folder), 0, 2.0, "", "")
    return harvest(ended, "a row", 0, "test", chance_error=75.0)
