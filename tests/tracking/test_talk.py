"""What is behind an address and is no MLflow server: nothing is lost, and one line says so."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest

from pipeline.common.errors import UserError
from pipeline.tracking.server.replicate import Replicator, replicate_all
from pipeline.tracking.server.talk import ServerError, is_up, talking_to
from pipeline.tracking.settings import Tracking
from pipeline.tracking.store import experiment_id, open_store


def _http(status: str, body: str, kind: str = "application/json", header: str = "", missing: int = 0) -> bytes:
    length = f"Content-Length: {len(body) + missing}\r\n"
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{length}{header}Connection: close\r\n\r\n{body}".encode()


ANSWERS = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"",
    "noise": bytes(range(256)),
    "half an answer": _http("200 OK", '{"experi', missing=1000),
    "a page": _http("200 OK", "<html>Log in</html>", "text/html"),
    "a list": _http("200 OK", "[]"),
    "a number": _http("200 OK", "7"),
    "another form": _http("200 OK", '{"experiment": 7, "experiments": 7, "runs": "x", "health": {}}'),
    "nothing that is asked for": _http("200 OK", "{}"),
    "elsewhere": _http("302 Found", "", header="Location: /health\r\n"),
    "no password": _http("401 Unauthorized", "{}"),
    "a bug": _http("500 Internal Server Error", "<html>Oops</html>", "text/html"),
    "too busy": _http("503 Service Unavailable", ""),
    "a full disk": _http("507 Insufficient Storage", '{"error_code": 7, "message": ["x"]}'),
}


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The address of a server that says the same to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    try:
                        connection.recv(1 << 16)
                        connection.sendall(answer)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def run_id(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A finished run of a store in a temporary directory; what is behind an address is asked once."""
    tmp_path = tmp_path_factory.mktemp("store")
    open_store(Tracking(), tmp_path)
    client = mlflow.MlflowClient()
    run = client.create_run(experiment_id(client, "digits", (tmp_path / "artifacts").as_uri()), run_name="a run")
    client.log_metric(run.info.run_id, "test/accuracy", 0.5)
    client.set_terminated(run.info.run_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield run.info.run_id


@pytest.mark.long
@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_no_mlflow_server_costs_no_run(
    answer: str, run_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is asked, whatever it says of its health.
    monkeypatch.setattr("pipeline.tracking.server.replicate.is_up", lambda uri: True)
    raised: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr("threading.excepthook", raised.append)
    with answering(ANSWERS[answer]) as uri, caplog.at_level(logging.WARNING, "pipeline"):
        run = mlflow.get_run(run_id)
        assert replicate_all(uri, [run], tmp_path) == {}
        (said,) = (record.getMessage() for record in caplog.records if record.name == "pipeline")
        assert said.startswith(f"  a run was not copied to {uri}: ")
        assert len(said.splitlines()) == 1
        replicator = Replicator(uri, run_id)
        replicator.finish(20)
        assert (replicator.is_alive(), raised) == (False, [])
        assert "does not answer; going on, recorded in output_dir" in caplog.text
    assert mlflow.get_run(run_id).data.metrics == {"test/accuracy": 0.5}


@pytest.mark.parametrize(("answer", "up"), [("no HTTP", False), ("noise", False), ("a bug", False), ("a page", True)])
def test_what_speaks_no_http_is_not_up(answer: str, up: bool) -> None:
    with answering(ANSWERS[answer]) as uri:
        assert is_up(uri) is up


def test_there_is_one_kind_of_error() -> None:
    beginning = "^tracking.uri=http://h: the MLflow server does not answer as it should: "
    for error in (KeyError("runs"), ValueError("no JSON\nhere"), ConnectionResetError("gone")):
        with pytest.raises(ServerError, match=beginning), talking_to("http://h"):
            raise error
        with pytest.raises(type(error)), talking_to(None):
            raise error
    with pytest.raises(UserError, match=r"^mine$"), talking_to("http://h"):
        raise UserError("mine")
