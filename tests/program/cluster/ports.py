"""Ports on 127.0.0.1 for the processes of a cluster."""

from __future__ import annotations

import socket


def free_ports(count: int) -> list[int]:
    """So many ports in a row that nobody listens on."""
    for first in range(17000, 60000, 10):
        ports = list(range(first, first + count))
        if all(_is_free(port) for port in ports):
            return ports
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
