"""Who may ask: the host header, other web sites, the key; and an answer whatever goes wrong inside."""

from __future__ import annotations

import hmac
import ipaddress
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from imagemill.server.files import FILES
from imagemill.server.problems import Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Guard:
    """Stands before every route."""

    def __init__(self, app: ASGIApp, key: str, host: str) -> None:
        """Take the key that clients must know and the host that the server listens on."""
        self._app = app
        self._key = key.encode("utf-8", "surrogateescape")
        self._host = host.lower()

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
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, sent)
        except ClientDisconnect:
            return
        except Problem as problem:
            await problem.response()(scope, receive, sent)
        except Exception as error:  # noqa: BLE001 - a bug must not end the server, and its traceback is not the client's
            said = " ".join(str(error).split())
            where = f"{scope['method']} {scope['path']!a}"
            print(f"error: {where}: {type(error).__name__}: {said}", file=sys.stderr, flush=True)
            if not answered:
                await Problem(500, "the server has a bug; its log says more").response()(scope, receive, sent)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        # A web site can give its name our address, and its pages then speak to us as to their own server.
        if not self._is_ours(_host_name(host)):
            raise Problem(400, f"this server is not `{host:.80}`", "invalid_host")
        # The name of a file cannot be guessed: whoever knows it was given it, and shows it where they like.
        if scope["path"].startswith(FILES):
            return
        origin = headers.get(b"origin")
        foreign = origin is not None and _netloc(origin.decode("latin-1")) != host
        if foreign or headers.get(b"sec-fetch-site") == b"cross-site":
            raise Problem(403, "a web page of another site cannot use this server", "cross_site")
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
            message = "the API key is wrong" if given else "the API key is missing: send `Authorization: Bearer KEY`"
            raise Problem(401, message, "invalid_api_key", headers={"www-authenticate": "Bearer"})

    def _is_ours(self, name: str) -> bool:
        if name in _LOOPBACK or name == self._host:
            return bool(name)
        # Who listens on every address has many; and an address is nothing that a web site can take for its name.
        return is_wildcard(self._host) and _address(name) is not None


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
    try:
        parts = urlsplit(f"//{host}")
        return (parts.hostname or "") if parts.netloc == host and "@" not in host else ""
    except ValueError:
        return ""


def _netloc(url: str) -> str:
    """Host and port of an origin; empty when it has none."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""
