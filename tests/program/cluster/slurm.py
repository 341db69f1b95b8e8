"""A Slurm cluster on this machine, as root and with Debian's slurm-wlm: a controller and two nodes of one core each.

python -m tests.program.cluster.slurm         # until Ctrl-C; it prints what to set to use it
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.conftest import HANG_SECONDS
from tests.program.cluster.ports import free_ports

NODES = 2
# No accounting: submitit then knows a job's end by the file that the job writes.
CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={port}
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
SlurmdSpoolDir={directory}/%n
StateSaveLocation={directory}/state
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
NodeName=node[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def installed() -> bool:
    """Whether a cluster can be started here."""
    return os.geteuid() == 0 and all(shutil.which(program) for program in ("slurmctld", "slurmd", "munged"))


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Starts the cluster and stops it in the end.

    Yields:
        The environment variables with which Slurm's commands, and submitit, find it.
    """
    directory = Path(tempfile.mkdtemp(prefix="slurm-"))
    port, *of_nodes = free_ports(1 + NODES)
    settings = {
        "host": socket.gethostname(),
        "port": port,
        "first": of_nodes[0],
        "last": of_nodes[-1],
        "nodes": NODES,
    }
    (directory / "slurm.conf").write_text(CONF.format(directory=directory, **settings))
    (directory / "munge.key").write_bytes(os.urandom(128))
    (directory / "munge.key").chmod(0o400)
    environment = {"SLURM_CONF": str(directory / "slurm.conf")}
    names = [f"node{number + 1}" for number in range(NODES)]
    daemons = [
        [
            *("munged", "--foreground", "--force", "--key-file", f"{directory}/munge.key"),
            *("--socket", f"{directory}/munge.socket", "--pid-file", f"{directory}/munge.pid"),
            *("--log-file", f"{directory}/munge.log", "--seed-file", f"{directory}/munge.seed"),
        ],
        ["slurmctld", "-D", "-i"],
        *(["slurmd", "-D", "-N", name] for name in names),
    ]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        for number, command in enumerate(daemons):
            log = stack.enter_context((directory / f"{number}-{command[0]}.out").open("w"))
            process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            time.sleep(1)
            while command[0] == "munged" and process.poll() is None and not (directory / "munge.socket").exists():
                time.sleep(1)  # The others end without it.
        _wait_until_idle(environment, directory)
        yield environment


def _wait_until_idle(environment: dict[str, str], directory: Path) -> None:
    states = ""
    for _ in range(HANG_SECONDS):
        result = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format", "%T"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        states = result.stdout + result.stderr
        if result.stdout.split() == ["idle"] * NODES:
            return
        time.sleep(1)
    logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(directory.glob("*.out")))
    raise RuntimeError(f"the Slurm cluster does not come up: {states}\n{logs}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), cluster() as variables:
        print("\n".join(f"export {name}={value}" for name, value in variables.items()), flush=True)
        signal.pause()
