"""Who may ask: the host header, and requests that come from other web sites."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def host_of(headers: Mapping[bytes, bytes]) -> str:
    """The host header, in lower case; empty when there is none."""
    return headers.get(b"host", b"").decode("latin-1").lower()


def is_ours(header: str, listening: str) -> bool:
    """Whether a host header names this server, which listens on the host `listening`.

    A web site can give its name our address, and its pages then speak to us as to their own server.
    """
    name = _host_name(header)
    if name in _LOOPBACK or name == listening.lower():
        return bool(name)
    # Who listens on every address has many; and an address is nothing that a web site can take for its name.
    return is_wildcard(listening) and _address(name) is not None


def is_foreign(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser says that a page of another site asks."""
    origin = headers.get(b"origin")
    foreign = origin is not None and _netloc(origin.decode("latin-1")) != host_of(headers)
    return foreign or headers.get(b"sec-fetch-site") == b"cross-site"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    address = _address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def is_wildcard(host: str) -> bool:
    """Whether a host stands for all addresses of this machine."""
    address = _address(host)
    return address is not None and address.is_unspecified


def _address(host: str) -> Any:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _host_name(host: str) -> str:
    """The name in a host header, without port and brackets; empty when there is none."""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^\[\]:@/\s]+)(:\d+)?", host)
    return found[1].strip("[]") if found else ""


def _netloc(url: str) -> str:
    """Host and port of an origin; empty when it has none."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""
