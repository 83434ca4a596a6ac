"""A Slurm of one node, for tests: its daemons run as root, without systemd."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.script_helpers import wait_for

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthInfo=socket={folder}/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
SlurmdParameters=config_overrides
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=low Nodes=ALL Default=YES MaxTime=60
PartitionName=grace Nodes=ALL MaxTime=60 GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=2
"""
"""A job in the partition high preempts all others, which wait for cred_expire seconds."""


@contextmanager
def running_slurm(folder: Path) -> Iterator[None]:
    """Start Slurm, and end it with all of its jobs; skip the test where that can't be done."""
    names = ("munged", "slurmctld", "slurmd")
    if missing := [name for name in names if shutil.which(name) is None]:
        pytest.skip(f"needs Slurm's {', '.join(missing)}")
    if os.getuid():
        pytest.skip("needs root, to start Slurm")
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in (first, second)]
    values = {"host": socket.gethostname(), "ports": ports, "folder": folder}
    (folder / "slurm.conf").write_text(CONFIG.format(**values))
    (folder / "key-file").write_bytes(os.urandom(64))
    (folder / "key-file").chmod(0o600)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    names = ("socket", "key-file", "pid-file", "log-file", "seed-file")
    munge = [f"--{name}={folder / name}" for name in names]
    with ExitStack() as ending, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))

        def start(*words: str) -> None:
            log = ending.enter_context((folder / f"{words[0]}.txt").open("w"))
            daemon = ending.enter_context(subprocess.Popen(words, stdout=log, stderr=log))
            ending.callback(daemon.terminate)

        start("munged", "--foreground", "--force", *munge)
        wait_for((folder / "socket").exists)
        start("slurmctld", "-D")
        start("slurmd", "-D")
        wait_for(lambda: ask("sinfo", "--noheader", "--format=%T", "--partition=low") == "idle")
        ending.callback(wait_for, lambda: not ask("squeue", "--noheader"))
        ending.callback(ask, "scancel", "--user=root")
        yield


def ask(*words: str) -> str:
    """Return what a command prints."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
