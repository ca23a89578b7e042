"""What stands before the API: who may ask, and an answer whatever goes wrong inside."""

from __future__ import annotations

import hmac
import sys
from typing import TYPE_CHECKING

from imagemill.server.api.files import FILES
from imagemill.server.api.problems import Problem
from imagemill.server.guard import host_of, is_foreign, is_ours

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Guard:
    """Stands before every route."""

    def __init__(self, app: ASGIApp, key: str, host: str) -> None:
        """Take the key that clients must know and the host that the server listens on."""
        self._app = app
        self._key = key.encode("utf-8", "surrogateescape")
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
        host = host_of(headers)
        if not is_ours(host, self._host):
            raise Problem(400, f"this server is not `{host:.80}`", "invalid_host")
        # The name of a file cannot be guessed: whoever knows it was given it, and shows it where they like.
        if scope["path"].startswith(FILES):
            return
        if is_foreign(headers):
            raise Problem(403, "a web page of another site cannot use this server", "cross_site")
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
            message = "the API key is wrong" if given else "the API key is missing: send `Authorization: Bearer KEY`"
            raise Problem(401, message, "invalid_api_key", headers={"www-authenticate": "Bearer"})
