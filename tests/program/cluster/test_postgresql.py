"""Eight processes that record at once in a PostgreSQL database, beside eight in the SQLite file of `output_dir`."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import HANG_SECONDS, start_program
from tests.program.kills import differences, runs_recorded

pytest.importorskip("psycopg", reason="needs pip install 'psycopg[binary]'")
_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0 or not _BINARIES, reason="needs root and Debian's postgresql"),
]
WRITERS = 8
STUDY = [
    *("pipeline.train", "study=heads", "training.epochs=2", "training.deterministic=true", "launch.threads=1"),
    *("size_probe.ways=[]", "size_probe.sizes=[8,12]"),
]


@contextmanager
def _database() -> Iterator[dict[str, str]]:
    """What leads to a server of its own, which has a database `mlflow` and listens at a socket alone."""
    directory = Path(tempfile.mkdtemp(prefix="postgresql-"))  # Of a short path: that of a socket has 107 bytes at most.
    shutil.chown(directory, "postgres")

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [_BINARIES[-1] / program, *arguments],
            user=pwd.getpwnam("postgres").pw_uid,
            cwd=directory,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=HANG_SECONDS,
        )

    run("initdb", "--auth=trust", "--pgdata=data")
    settings = f"-c listen_addresses= -c unix_socket_directories={directory}"
    run("pg_ctl", "--pgdata=data", "--wait", f"--options={settings}", "--log=log", "start")
    try:
        run("createdb", f"--host={directory}", "mlflow")
        yield {"PGHOST": str(directory), "PGUSER": "postgres"}
    finally:
        run("pg_ctl", "--pgdata=data", "--wait", "--mode=immediate", "stop")
        shutil.rmtree(directory)


def _all_write_at_once(directory: Path, *overrides: str) -> None:
    directory.mkdir()
    writers = [
        start_program(*STUDY, f"seed={seed}", *overrides, cwd=directory, stderr=subprocess.STDOUT)
        for seed in range(WRITERS)
    ]
    for writer in writers:
        printed, _ = writer.communicate(timeout=HANG_SECONDS)
        assert writer.returncode == 0, printed
        assert "Traceback" not in printed


def test_eight_writers_record_in_postgresql_what_they_record_in_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _all_write_at_once(tmp_path / "sqlite")
    expected = runs_recorded(MlflowClient(f"sqlite:///{tmp_path / 'sqlite' / 'outputs' / 'mlflow.db'}"))
    assert len(expected) == 3 * WRITERS
    assert {run["status"] for _, run in expected} == {"FINISHED"}
    with _database() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        address = "postgresql:///mlflow"
        _all_write_at_once(tmp_path / "postgresql", f"tracking.uri={address}")
        found = differences(expected, runs_recorded(MlflowClient(address))).splitlines()
        assert [line for line in found if not line.endswith(f"/params/tracking.uri: 'None' became '{address}'")] == []
    assert not (tmp_path / "postgresql" / "outputs" / "mlflow.db").exists()
