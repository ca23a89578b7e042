"""What stands before every route: who may ask, and one answer whatever goes wrong inside."""

from __future__ import annotations

import ipaddress
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        """Take the HTTP status and one sentence."""
        super().__init__(message)
        self.status = status


class Guard(ABC):
    """Stands before an application; kinds of it say who may ask, and how errors are told."""

    def __init__(self, app: ASGIApp, secret: str, host: str) -> None:
        """Take what those who ask must know, and the host that the server listens on."""
        self._app = app
        self._secret = secret.encode("utf-8", "surrogateescape")
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        from starlette.requests import ClientDisconnect

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = False

        async def sent(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                given = {name.lower() for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in self._headers(scope).items()]
                message["headers"] = [*message["headers"], *(each for each in more if each[0] not in given)]
            await send(message)

        try:
            await self._admit(scope, receive, sent)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - a bug must not end the server, and its traceback is not the client's
            if not isinstance(error, Refused):
                said = " ".join(str(error).split())
                where = f"{scope['method']} {scope['path']!a}"
                print(f"error: {where}: {type(error).__name__}: {said}", file=sys.stderr, flush=True)
            if not answered:
                await self._answer(scope, error)(scope, receive, sent)

    @abstractmethod
    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application; raises Refused for one that may not be made."""

    @abstractmethod
    def _answer(self, scope: Scope, error: Exception) -> ASGIApp:
        """The answer to a request that was refused, or in which a bug showed."""

    @abstractmethod
    def _headers(self, scope: Scope) -> Mapping[str, str]:
        """Of every answer that does not say otherwise."""


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
