"""Ports on 127.0.0.1 for the processes of a cluster."""

from __future__ import annotations

import itertools
import os
import socket

FIRST, LAST = 20_000, 32_000
"""Below those from 32768 on that Linux gives to connections, of which one may have the port by the time it is used."""
BLOCK = 10
"""Ports a call takes at most."""
_calls = itertools.count()


def free_ports(count: int) -> list[int]:
    """So many ports in a row that nobody listens on, others at each call and in each process of the tests."""
    blocks = (LAST - FIRST) // BLOCK
    for _ in range(blocks):
        first = FIRST + (os.getpid() * 7919 + next(_calls)) % blocks * BLOCK  # 7919: neighbours are far apart.
        ports = list(range(first, first + count))
        if all(_is_free(port) for port in ports):
            return ports
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
