"""Who may ask the API."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING

from imagemill.server.api.files import FILES
from imagemill.server.api.problems import Problem
from imagemill.server.guard import Guard, host_of, is_foreign, is_ours

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class ApiGuard(Guard):
    """Stands before every route of the API; the secret is the key."""

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check(scope)
        await self._app(scope, receive, send)

    def _answer(self, scope: Scope, error: Exception) -> ASGIApp:
        problem = error if isinstance(error, Problem) else Problem(500, "the server has a bug; its log says more")
        return problem.response()

    def _headers(self, scope: Scope) -> Mapping[str, str]:
        return {"x-content-type-options": "nosniff"}

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
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._secret):
            message = "the API key is wrong" if given else "the API key is missing: send `Authorization: Bearer KEY`"
            raise Problem(401, message, "invalid_api_key", headers={"www-authenticate": "Bearer"})
