"""Where results are recorded."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

from pipeline.common.errors import require
from pipeline.common.settings import Settings

DATABASES = ("postgresql", "mysql", "mssql", "sqlite")
"""Those that MLflow can keep a store in, as its addresses begin."""
SECRETS = {"user", "username", "password", "passwd", "pwd", "odbc_connect"}
"""What a database's address may hold after its `?`, and must not."""
STORE_FILE = "mlflow.db"
"""Of a local store, in `output_dir`."""
DASHBOARD_PORT = 5000


@dataclass
class Tracking(Settings):
    """Where results are recorded.

    Attributes:
        uri: MLflow tracking URI, of a server or a database; null for a SQLite store in `output_dir`.
        experiment: Name of the MLflow experiment; null for the dataset's name.
        log_model: Record the trained model.
        register_as: Name in MLflow's model registry to add the trained model to, as a new version; null for none.
    """

    uri: str | None = None
    experiment: str | None = None
    log_model: bool = True
    register_as: str | None = None

    group: ClassVar[str] = "tracking"

    def __post_init__(self) -> None:
        try:
            address = urlsplit(self.uri or "")
        except ValueError as error:
            raise self.error("uri", f"is not an address: {error}", example="http://127.0.0.1:5000") from error
        require(
            address.username is None and address.password is None and SECRETS.isdisjoint(parse_qs(address.query)),
            "tracking.uri",
            f"{address.scheme}://***@{address.hostname}",
            "must not hold a user or a password, which would be printed and logged",
            "Set the environment variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead, or for a "
            "database its own, such as PGUSER and PGPASSWORD.",
        )
        self.require(
            "register_as",
            self.register_as is None or (self.log_model and re.fullmatch("[^/:]+", self.register_as) is not None),
            "needs tracking.log_model=true, and a name without / and :",
            example="fashion_heads",
        )
        self.require_short("register_as", "fashion_heads")
        self.require_short("experiment", "fashion_mnist")

    @property
    def is_server(self) -> bool:
        """Whether the store is behind a server, which may not answer."""
        return self.uri is not None and self.uri.startswith(("http://", "https://"))

    @property
    def is_database(self) -> bool:
        """Whether the store is a database that was named, which holds no files."""
        return self.uri is not None and urlsplit(self.uri).scheme.partition("+")[0] in DATABASES

    @property
    def server(self) -> str | None:
        """Address of the server that the store is behind; None where it is on this machine."""
        return self.uri if self.is_server else None

    def require_place(self, output_path: Path) -> None:
        """Raises `ConfigError` if the store that is to be in `output_path` would be elsewhere."""
        require(
            self.recorded.uri is not None or set(str(output_path)).isdisjoint("%?"),
            "output_dir",
            output_path,
            "must have no % and no ? in it: in the address of a store they mean something else",
            "Use another directory.",
        )

    def require_results(self, output_path: Path) -> None:
        """Raises `ConfigError` if results are to be read from `output_path`, and there are none."""
        require(
            self.uri is not None or (output_path / STORE_FILE).is_file(),
            "output_dir",
            output_path,
            f"holds no results: there is no {STORE_FILE}",
            "Run python -m pipeline.train study=heads first, or name the directory that a run wrote to.",
        )

    @property
    def recorded(self) -> Tracking:
        """Where runs are recorded first: with a server, the local store in `output_dir`."""
        return replace(self, uri=None) if self.is_server else self
