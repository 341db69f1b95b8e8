"""MLflow's dashboard on 127.0.0.1, with the links of its prepared views."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from pipeline.common.errors import ConfigError, UserError
from pipeline.tracking.publish import prepared_views
from pipeline.tracking.settings import Tracking
from pipeline.tracking.store import open_store, server_address, store_uri

START_SECONDS = 120
"""After so long without an answer, the server is given up."""
STOP_SECONDS = 10


def serve(output_path: Path, port: int) -> None:
    """Serves until Ctrl-C or SIGTERM.

    Args:
        output_path: The `output_dir` whose results are shown.
        port: On 127.0.0.1.

    Raises:
        ConfigError: There are no results in `output_dir`, or the port is taken.
        UserError: The server ends by itself, or does not answer.
    """
    tracking = Tracking()
    open_store(tracking, output_path, create=False)
    _check_free(port)
    log = output_path / "dashboard.log"
    server = start_server(store_uri(tracking, output_path), port, log)
    try:
        address = server_address(tracking, port)
        _wait_until_it_answers(server, address, log)
        for view in prepared_views():
            print(f"{view.experiment}, {view.name}\n  {view.link(address)}")
        print(f"The dashboard is at {address}; Ctrl-C stops it.", flush=True)
        server.wait()
        raise UserError(f"The MLflow server has ended by itself, code {server.returncode}. {log} says why.")
    except KeyboardInterrupt:
        print("\nStopped.")
    finally:
        stop_server(server)


def start_server(store_uri: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Starts a light `mlflow server`: one worker, no job runner; with both, it has 15 processes and needs 3 GB.

    Args:
        store_uri: Of the store to serve.
        port: On 127.0.0.1.
        log: File for what the server writes.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*command, "--backend-store-uri", store_uri],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in a terminal goes to us alone; we stop the server and its children.
        )


def stop_server(server: subprocess.Popen[bytes]) -> None:
    """Ends a server of `start_server` with all of its processes."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
            return


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                "port", port, f"cannot be used: {error.strerror}", f"Use another, for example port={port + 1}."
            ) from None


def _wait_until_it_answers(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=10):
                return
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
    raise UserError(f"{address}: the MLflow server does not answer. {log} says why.")
