"""The command that a study prints for its dashboard, run as printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_printed_command_serves_the_study(tiny_study: Path) -> None:
    printed = re.search(r"(MLFLOW_\S+ mlflow server .*)", (tiny_study / "stdout.txt").read_text())
    assert printed
    setting, program, *arguments = shlex.split(printed.group(1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key, _, value = setting.partition("=")
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name(program)), *arguments, "--port", str(port)],
        cwd=tiny_study,
        env={**os.environ, key: value},
        start_new_session=True,
    )
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search",
            json.dumps({"experiment_ids": ["1"]}).encode(),
            {"Content-Type": "application/json"},
        )
        runs = json.load(_when_it_answers(request, seconds=90))["runs"]
        assert sorted(run["info"]["run_name"] for run in runs) == [
            "average_pool seed 0",
            "flatten_dense seed 0",
            "global_average_pool seed 0",
        ]
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=30)


def _when_it_answers(request: urllib.request.Request, seconds: float):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(request, timeout=10)
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
