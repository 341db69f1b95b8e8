"""Right and wrong answers in the form in which a table of runs holds them: a bit each."""

from __future__ import annotations

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
