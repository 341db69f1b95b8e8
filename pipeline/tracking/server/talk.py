"""One kind of error for whatever can come of talking to a tracking server."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.common.errors import UserError, class_and_first_line

HEALTH_SECONDS = 2.0
"""A server that takes longer to say that it is well is not asked for more."""


class ServerError(UserError):
    """A server does not answer, or not as MLflow's does."""


@contextmanager
def talking_to(uri: str | None) -> Iterator[None]:
    """Makes a `ServerError` of every error in the block that is not about something that the user has to change.

    None is the store on this machine, of which every error stays as it is. Behind an address may be a proxy with a page
    of its own, another program, or half an answer: MLflow's client and the libraries below it then raise almost
    anything, not `OSError` and `MlflowException` alone.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if uri is None:
            raise
        raise ServerError(
            f"tracking.uri={uri}: the MLflow server does not answer as it should: "
            f"{class_and_first_line(error).rstrip('.')}. What was recorded is in output_dir; once the server "
            f"answers, bring it there with python -m pipeline.sync tracking.uri={uri}."
        ) from error


def is_up(uri: str) -> bool:
    """Whether the server can be talked to now."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=HEALTH_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500  # One without this page is well, too.
    except (OSError, ValueError, http.client.HTTPException):  # The last: what answers speaks no HTTP.
        return False
