"""Digests of texts and arrays."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np


def digest_of(*parts: str | np.ndarray) -> str:
    """The first 32 hexadecimal digits of the SHA-256 of texts and arrays."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:32]


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
