"""Where results are kept: the MLflow store, on this machine or behind a server, and its experiments."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path

from pipeline.common.errors import UserError, first_line
from pipeline.common.files import atomic_write
from pipeline.tracking.settings import DASHBOARD_PORT, STORE_FILE, Tracking

log = logging.getLogger("pipeline")

DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Packages of modules that SQLAlchemy imports for a database, where they have other names or need more."""


def store_uri(tracking: Tracking, output_path: Path) -> str:
    """The tracking URI: the configured one, or the absolute one of the SQLite store in `output_path`."""
    return tracking.uri or f"sqlite:///{output_path / STORE_FILE}"


def server_address(tracking: Tracking, port: int = DASHBOARD_PORT) -> str:
    """Where a browser finds the dashboard: the tracking server, or the one that `pipeline.dashboard` starts."""
    if tracking.server is not None:
        return tracking.server.rstrip("/")
    return f"http://127.0.0.1:{port}"


def open_store(tracking: Tracking, output_path: Path, create: bool = True) -> None:
    """Points MLflow at the store. Any number of processes may do so at once.

    Args:
        tracking: Which store.
        output_path: Where a local one is.
        create: Make a local store that is not there yet.

    Raises:
        UserError: The server does not answer, or the store cannot be created or read.
        ConfigError: The directory's name cannot be that of a local store's.
    """
    if tracking.uri is None:
        tracking.require_place(output_path)
    if not create:
        tracking.require_results(output_path)
    # A dead server would block the first call for minutes. Three tries of ten seconds tell as well.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")  # A model is data, not code.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # Commands print links of their own.

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It logs the stack trace of what it raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri = store_uri(tracking, output_path)
    _check_database(uri)
    try:
        if tracking.uri is None:
            _create_local_store(output_path)
        mlflow.set_tracking_uri(uri)
        if tracking.is_database:
            _create_tables(uri, output_path)
        mlflow.MlflowClient().search_experiments(max_results=1)
    except Exception as error:  # What is behind an address raises almost anything.
        if "out-of-date database schema" in str(error) or "Can't locate revision" in str(error):
            raise UserError(
                f"tracking.uri={uri}: this store is of another MLflow than {mlflow.__version__}. If that was an older "
                f"one, keep a copy and run mlflow db upgrade {uri}; if a newer one, install it. Or use another "
                "output_dir."
            ) from error
        if re.search(r"error code 40[13]", str(error)):
            raise UserError(
                f"tracking.uri={uri}: the MLflow server does not let you in. Set the environment variables "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user and a password that it knows."
            ) from error
        remedy = "Start the server"
        if isinstance(error, ImportError):
            remedy = f"Install it, for example with pip install {DRIVERS.get(error.name or '', error.name)}"
        raise UserError(
            f"tracking.uri={uri}: the MLflow store does not answer: {first_line(error)}. {remedy}, "
            "or use tracking=local with an output_dir that can be written to."
        ) from error


def _check_database(uri: str) -> None:
    """Raises `UserError` if a SQLite store is there and damaged, or something else in its place.

    MLflow would try to open it ten times in two minutes, or notice the damage in the middle of a run.
    """
    path = _sqlite_file(uri)
    if path is None:
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=60)) as database:
            ((found,),) = database.execute("PRAGMA quick_check(1)")
            problem = found.splitlines()[-1]
            database.execute("BEGIN IMMEDIATE")  # Fails if it cannot be written to.
    except sqlite3.Error as error:
        problem = str(error)
    if problem != "ok":
        raise UserError(
            f"tracking.uri={uri}: this is not a healthy SQLite database that can be written to: {problem}. It was left "
            "as it is. Bring back a copy of it, move it away to begin a new one, or use another output_dir."
        )


def _sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for another store, and for one that is not there."""
    path = Path(uri.removeprefix("sqlite:///"))
    return path if uri.startswith("sqlite:///") and path.exists() else None


def _create_local_store(output_path: Path) -> None:
    store = output_path / STORE_FILE
    output_path.mkdir(parents=True, exist_ok=True)
    # Two processes that both create the tables break the database for good.
    with FileLock(output_path / f"{STORE_FILE}.lock"):
        if store.exists() and store.stat().st_size > 0:
            _keep_older(store)
            return
        # MLflow makes the tables in a hundred steps, each of which SQLite would bring to the disk, for seconds.
        with atomic_write(store) as beside, _not_to_disk():
            mlflow.MlflowClient(tracking_uri=f"sqlite:///{beside}").search_experiments(max_results=1)


@contextmanager
def _not_to_disk() -> Iterator[None]:
    """Has SQLite leave it to the system, within the block, when what it writes comes to the disk."""
    from sqlalchemy import event  # MLflow is about to load it.
    from sqlalchemy.engine import Engine

    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", connected)
    try:
        yield
    finally:
        event.remove(Engine, "connect", connected)


def _create_tables(uri: str, output_path: Path) -> None:
    """Has MLflow create the tables that a database lacks; of several processes at once, all but one would fail."""
    from sqlalchemy import NullPool, create_engine  # MLflow is about to load it.

    # What cannot be reached, MLflow would try for a hundred seconds.
    create_engine(uri, poolclass=NullPool).connect().close()
    output_path.mkdir(parents=True, exist_ok=True)
    with FileLock(output_path / f"{STORE_FILE}.lock"):
        path = _sqlite_file(uri)
        if path is not None and path.stat().st_size > 0:
            _keep_older(path)
        try:
            mlflow.MlflowClient().search_experiments(max_results=1)
        except Exception as error:  # Of SQLAlchemy, or of the driver.
            # By another machine, which has no such lock.
            if re.search("already exists|duplicate", str(error), re.IGNORECASE) is None:
                raise


def _keep_older(store: Path) -> None:
    """Keeps a copy, beside it, of a store which lacks tables: MLflow is about to bring it up to date, for good."""
    import mlflow.store.db.utils  # It tells Base of all tables; MLflow itself is about to load it.
    from mlflow.store.db.base_sql_model import Base

    with closing(sqlite3.connect(store)) as database:
        there = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        kept = store.with_name(f"{store.name}.before-mlflow-{mlflow.__version__}")
        if set(Base.metadata.tables) <= there or kept.exists():
            return
        with atomic_write(kept) as beside, closing(sqlite3.connect(beside)) as copy:
            database.backup(copy)
    log.info("%s is of an older MLflow and is brought up to date; as it was, it is kept as %s", store, kept.name)


def _artifacts(output_path: Path, experiment: str) -> Path:
    """Where the files of an experiment go: never outside of the output directory, whatever its name."""
    return output_path / "artifacts" / re.sub(r"[/\\\0]|^\.+", "-", experiment)[:100]


def experiment_for(name: str, tracking: Tracking, output_path: Path) -> str:
    """The id of the experiment of that name, where runs are recorded first.

    Raises:
        UserError: The experiment was deleted, or is one of a database whose files are in another `output_dir`.
    """
    # A database has no place for files, for which MLflow would take the working directory.
    is_ours = tracking.recorded.uri is None or tracking.is_database
    artifacts = _artifacts(output_path, name) if is_ours else None
    client = mlflow.MlflowClient()
    found = experiment_id(client, name, artifacts.as_uri() if artifacts else None)
    if artifacts and tracking.is_database:
        # What keeps processes from one another are locks in `output_dir`, too.
        location = client.get_experiment(found).artifact_location
        if Path(local_file_uri_to_path(location or "")).resolve() != artifacts.resolve():
            raise UserError(
                f"output_dir={output_path}: the experiment {name} in tracking.uri={tracking.uri} keeps its files in "
                f"{location}, which is not in this output_dir. Use the output_dir that it is in, or another experiment "
                "with tracking.experiment=NAME."
            )
    return found


def experiment_id(client: MlflowClient, name: str, artifact_location: str | None = None) -> str:
    """The id of the experiment of that name, which is created if need be.

    Args:
        client: Of the store that has it.
        name: Of the experiment.
        artifact_location: Where a new one keeps its files; null leaves it to the store, as a server wants it.

    Raises:
        UserError: The experiment was deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=artifact_location)
        except MlflowException:  # Another process created it meanwhile.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"tracking.experiment={name}: this MLflow experiment was deleted. Bring it back with mlflow experiments "
            f"restore --experiment-id {experiment.experiment_id}, or use another name with tracking.experiment=NAME."
        )
    return experiment.experiment_id


def tried_twice(write: Callable[[], None]) -> None:
    """Calls what writes to MLflow, and once more if that fails.

    Of two processes that are the first to log a dataset in an experiment, or to set a tag of it, MLflow fails one,
    which finds it then.
    """
    try:
        write()
    except MlflowException:
        write()
