"""Which names and addresses mean this machine alone."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether an address, or all that a name stands for, is of this machine's loopback.

    Raises:
        OSError: there is no such name.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return all(ipaddress.ip_address(str(each[4][0]).split("%")[0]).is_loopback for each in found)


def is_local_name(authority: str) -> bool:
    """Whether a Host header names this machine's loopback. No name is looked up: a page's own may point there."""
    try:
        name = (urlsplit(f"//{authority}").hostname or "").rstrip(".")
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
