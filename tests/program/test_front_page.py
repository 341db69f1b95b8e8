"""The dashboard as a process: its front page, and MLflow behind it."""

from __future__ import annotations

import html
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.conftest import HANG_SECONDS, program_environment, read_until, start_program
from tests.program.servers import free_port


def _get(address: str) -> tuple[str, str]:
    """An answer, and its policy of what a browser may do with it."""
    with urllib.request.urlopen(address, timeout=HANG_SECONDS) as answer:
        return answer.read().decode(), answer.headers.get("Content-Security-Policy", "")


@pytest.mark.slow
@pytest.mark.long
def test_the_front_page_stands_before_mlflow(tiny_study: Path) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = start_program("pipeline.dashboard", f"port={port}", cwd=tiny_study)
    try:
        *_, last = read_until(process, "Ctrl-C stops it").splitlines()
        assert last == f"The dashboard is at {address}; Ctrl-C stops it."
        servers = psutil.Process(process.pid).children(recursive=True)
        assert {server.environ()["MLFLOW_DISABLE_TELEMETRY"] for server in servers} == {"true"}

        assert _get(f"{address}/health")[0] == "OK"
        document, _ = _get(f"{address}/")
        # Which of the two it is, the browser decides: no server hears of what is behind a #.
        assert 'if (!location.hash) location.replace("studies")' in document
        assert '<div id="root" class="mlflow-ui-container">' in document
        page, policy = _get(f"{address}/studies")
        (written,) = (tiny_study / "outputs" / "studies").glob("*/report.html")
        (answer, *_) = written.with_suffix(".md").read_text().strip("*").split("**")
        assert f'<p class="answer">{html.escape(answer)}</p>' in page
        assert policy.startswith("default-src 'none'")
        client = MlflowClient(f"sqlite:///{tiny_study / 'outputs' / 'mlflow.db'}")
        (report,) = client.search_runs(["1"], "tags.report = 'heads'")
        text, policy = _get(f"{address}/studies-report?run={report.info.run_id}")
        # But for where its links lead.
        assert text == written.read_text().replace('href="http://127.0.0.1:5000/#/', 'href="./#/')
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        assert rules["default-src"] == "'none'"
        assert set(rules["sandbox"].split()) == {"allow-popups", "allow-downloads", "allow-scripts"}  # And no origin.
        (trained, *_) = client.search_runs(["1"], "tags.head != ''")
        for query in (f"run={trained.info.run_id}", "run=../x", "call=../x", ""):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                _get(f"{address}/studies-report?{query}")

        experiment = json.loads(_get(f"{address}/ajax-api/2.0/mlflow/experiments/get?experiment_id=1")[0])
        assert experiment["experiment"]["name"] == "digits"
    finally:
        process.terminate()
    assert process.wait(timeout=HANG_SECONDS) == 143
    assert psutil.wait_procs(servers, timeout=HANG_SECONDS)[1] == []


@pytest.mark.slow
def test_mlflow_sends_nothing_home() -> None:
    """Neither from a terminal nor where MLflow takes itself for tested."""
    code = (
        "import pipeline.dashboard, mlflow.telemetry.utils as telemetry; "
        "telemetry._IS_IN_CI_ENV_OR_TESTING = False; print(telemetry.is_telemetry_disabled())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=program_environment(), capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
