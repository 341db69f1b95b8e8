"""Running MLflow servers, for tests; one can be stopped, and what it says replaced by anything."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import HANG_SECONDS
from tests.program.cluster.ports import free_ports

TRACKING_SERVER = shlex.split(
    "server --workers 1 --host 127.0.0.1 --backend-store-uri sqlite:///server.db --artifacts-destination artifacts"
)
PATIENT = ("tests.program.with_limits", f"pipeline.tracking.server.talk.HEALTH_SECONDS={HANG_SECONDS}")
"""Before a command of the program: it takes no server for dead that is only slow, as on a busy machine."""
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(HANG_SECONDS)}
"""Environment of such a command, for MLflow's part in it."""


def free_port() -> int:
    (port,) = free_ports(1)
    return port


def start(*arguments: str, port: int, cwd: Path, **settings: str) -> subprocess.Popen[bytes]:
    """Starts `mlflow ARGUMENTS`, a server, in a session of its own, and waits until it answers."""
    with (cwd / "mlflow.log").open("ab") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("mlflow")), *arguments, "--port", str(port)],
            cwd=cwd,
            env={
                **os.environ,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                # `mlflow models serve` calls uvicorn by its bare name.
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                **settings,
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + HANG_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=HANG_SECONDS):
                return process
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def stop(process: subprocess.Popen[bytes], number: int = signal.SIGINT) -> None:
    """Ends a server with all of its processes."""
    os.killpg(process.pid, number)
    os.killpg(process.pid, signal.SIGCONT)  # Where a test has stopped it.
    process.wait(timeout=HANG_SECONDS)


@contextmanager
def running(*arguments: str, cwd: Path, **settings: str) -> Iterator[str]:
    """URI of a running `mlflow ARGUMENTS`."""
    port = free_port()
    process = start(*arguments, port=port, cwd=cwd, **settings)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


class Relay(socketserver.ThreadingTCPServer):
    """Passes bytes on to a server on another port, or says something of its own in its place.

    Args:
        behind: Port of the server.
    """

    daemon_threads = allow_reuse_address = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.behind, self.open = behind, set[socket.socket]()
        self.says: Callable[[socket.socket], None] | None = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def say(self, what: Callable[[socket.socket], None]) -> None:
        """Does this with every connection in place of the server; those that are open end."""
        self.says = what
        for connection in list(self.open):  # A client would go on asking the server by them.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Connection(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        self.server.open.add(self.request)
        with suppress(OSError):
            if self.server.says is not None:
                self.server.says(self.request)
                return
            with socket.create_connection(("127.0.0.1", self.server.behind)) as server:
                back = threading.Thread(target=_pass_on, args=(server, self.request), daemon=True)
                back.start()
                _pass_on(self.request, server)
                back.join()

    def finish(self) -> None:
        self.server.open.discard(self.request)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while some := source.recv(1 << 16):
            target.sendall(some)
        target.shutdown(socket.SHUT_WR)


def saying(answer: bytes, seconds_a_byte: float = 0) -> Callable[[socket.socket], None]:
    """Gives the same answer to every request; a byte at a time, if that is wanted."""

    def say(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        for byte in answer if seconds_a_byte else ():
            connection.sendall(bytes([byte]))
            time.sleep(seconds_a_byte)
        connection.sendall(b"" if seconds_a_byte else answer)

    return say


def refuse(connection: socket.socket) -> None:
    """Ends a connection as a port does on which nobody listens any more."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
