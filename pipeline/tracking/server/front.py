"""The dashboard's front page, on the address of MLflow's own server: `mlflow server --app-name fcn-heads`.

MLflow's pages are one document whose address goes on behind a `#`, which no server hears of. So that document says in
the browser where to go: to the front page if nothing is behind, and else it is MLflow as ever.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.names import File, Tag
from pipeline.tracking.settings import STORE_FILE

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

APP = "fcn-heads"
"""Name under which pyproject.toml makes this known to MLflow, in its group `mlflow.app`."""
PAGE = "studies"
"""Address of the front page, beside that of MLflow's document."""
SCRIPT = f"""<script>
try {{
  // So MLflow takes it that its assistant has opened by itself before: it does so once, over a quarter of the width.
  localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
}} catch {{}}
if (!location.hash) location.replace("{PAGE}");
</script>"""
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)
REPORT_POLICY = (
    "sandbox allow-popups allow-downloads allow-scripts; "
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
"""A report may be of anybody who can write to the store: what it runs belongs to no origin, and can ask nobody."""


def create_app() -> FastAPI:
    """MLflow's server with the front page before it; `mlflow server` calls this in each of its workers."""
    import mlflow
    from mlflow.server import app as flask_app
    from mlflow.server.constants import BACKEND_STORE_URI_ENV_VAR
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import STATIC_PREFIX_ENV_VAR
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    from pipeline.tracking.overview import Store
    from pipeline.tracking.server.front_page import front_page

    uri = os.environ[BACKEND_STORE_URI_ENV_VAR]
    mlflow.set_tracking_uri(uri)
    store = Store(_output_path(uri))
    index = Path(flask_app.static_folder) / "index.html"
    document = index.read_text().replace("<head>", f"<head>{SCRIPT}", 1)

    def show_document(request: Request) -> Response:
        return HTMLResponse(document, headers={"Cache-Control": "no-cache"})

    def show_front_page(request: Request) -> Response:
        return _page(front_page(store.overview()), PAGE_POLICY)

    def show_report(request: Request) -> Response:
        page = _recorded_report(request.query_params) or store.report_page(request.query_params.get("call", ""))
        if page is None:
            return HTMLResponse("There is no such report.", status_code=404)
        # Its links to runs are of the address that the dashboard had when it was made.
        return _page(re.sub(r'href="https?://[^/"]+/#/', 'href="./#/', page), REPORT_POLICY)

    prefix = os.environ.get(STATIC_PREFIX_ENV_VAR, "").rstrip("/")
    # Before MLflow's own, the last of which takes every address.
    app.router.routes[:0] = [
        Route(f"{prefix}/", show_document),
        Route(f"{prefix}/{PAGE}", show_front_page),
        Route(f"{prefix}/{PAGE}-report", show_report),
    ]
    return app


def _page(text: str, policy: str) -> Response:
    from starlette.responses import HTMLResponse

    return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})


def _output_path(uri: str) -> Path | None:
    """The `output_dir` that a local store lies in; None if the store is another."""
    path = Path(uri.removeprefix("sqlite:///"))
    return path.parent if uri.startswith("sqlite:///") and path.name == STORE_FILE else None


def _recorded_report(query: Mapping[str, str]) -> str | None:
    """The report that a run has recorded, as HTML; None if the query names no run that is a report."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    run_id = query.get("run", "")
    if not re.fullmatch("[0-9a-f]{32}", run_id):
        return None
    try:
        if Tag.REPORT not in MlflowClient().get_run(run_id).data.tags:
            return None
        return Path(download_artifacts(run_id=run_id, artifact_path=File.REPORT_PAGE)).read_text()
    except (MlflowException, OSError):
        return None
