"""Right and wrong answers in the form in which a table of runs holds them, a bit each; and what was right."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np


def pack(right: np.ndarray) -> bytes:
    """Answers, bool (images,), as their number in four bytes and then a bit each."""
    return len(right).to_bytes(4, "big") + np.packbits(right).tobytes()


def unpack(packed: bytes) -> np.ndarray:
    """The inverse of `pack`; raises `ValueError` for what it did not make."""
    count = int.from_bytes(packed[:4], "big")
    if len(packed) != 4 + -(-count // 8):
        raise ValueError(f"these are not the answers to {count} images: {len(packed)} bytes")
    return np.unpackbits(np.frombuffer(packed[4:], np.uint8), count=count).astype(bool)


def pack_labels(labels: np.ndarray, names: Sequence[str]) -> bytes:
    """Labels of images, int (N,), in two bytes each, behind a line of JSON with the names of the classes."""
    return json.dumps(list(names)).encode() + b"\n" + labels.astype(">u2").tobytes()


def unpack_labels(packed: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    """The inverse of `pack_labels`; raises `ValueError` for what it did not make."""
    line, _, content = packed.partition(b"\n")
    names = json.loads(line)
    labels = np.frombuffer(content, ">u2").astype(np.int64)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("these are no names of classes")
    if len(labels) == 0 or labels.max() >= len(names):
        raise ValueError("these are no labels of named classes")
    return labels, tuple(names)
