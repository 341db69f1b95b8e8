"""MLflow's dashboard on 127.0.0.1, with a front page and the links of its prepared views."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path

from pipeline.common.errors import ConfigError, UserError
from pipeline.tracking.publish import prepared_views
from pipeline.tracking.server.front import APP
from pipeline.tracking.settings import Tracking
from pipeline.tracking.store import open_store, server_address, store_uri

START_SECONDS = 120
"""After so long without an answer, the server is given up."""
STOP_SECONDS = 10


def serve(tracking: Tracking, output_path: Path, port: int, open_browser: bool | None) -> None:
    """Serves until Ctrl-C or SIGTERM.

    Args:
        tracking: The store whose results are shown.
        output_path: The `output_dir`, with the store if that is a local one.
        port: On 127.0.0.1.
        open_browser: Show it in a browser; None for where there is one and a person.

    Raises:
        ConfigError: There are no results in `output_dir`, or the port is taken.
        UserError: The server ends by itself, or does not answer.
    """
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
        if a_person_is_there() if open_browser is None else open_browser:
            webbrowser.open(address)
        server.wait()
        raise UserError(f"The MLflow server has ended by itself, code {server.returncode}. {log} says why.")
    except KeyboardInterrupt:
        print("\nStopped.")
    finally:
        stop_server(server)


def a_person_is_there() -> bool:
    """Whether this runs in a terminal of a desktop, where a browser can open, and not in a service that builds it."""
    has_display = sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return sys.stdout.isatty() and has_display and not os.environ.get("CI")


def start_server(store_uri: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Starts a light `mlflow server`: one worker, no job runner; with both, it has 15 processes and needs 3 GB.

    Args:
        store_uri: Of the store to serve.
        port: On 127.0.0.1.
        log: File for what the server writes.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    # Where the program is not installed, as from a copy of its files, MLflow does not know of its front page.
    front = ["--app-name", APP] if entry_points(group="mlflow.app", name=APP) else []
    with log.open("wb") as output:
        return subprocess.Popen(
            [*command, "--backend-store-uri", store_uri, *front],
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
