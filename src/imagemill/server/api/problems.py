"""What the server answers when it cannot do what was asked: OpenAI's error object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imagemill.server.guard import Refused

if TYPE_CHECKING:
    from starlette.responses import Response

    from imagemill.models.base import Result

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_THE_CLIENTS = {
    "bad_request": "bad_request",
    "blocked": "moderation_blocked",
    "moderation_blocked": "moderation_blocked",
}
"""Failure reasons that lie in the request, with their codes."""


class Problem(Refused):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take the HTTP status, one sentence, OpenAI's code and the parameter that is wrong."""
        super().__init__(status, message)
        self.code = code
        self.param = param
        self.headers = headers

    def to_table(self) -> dict[str, Any]:
        """As every client of the API knows it."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """As the answer to a request."""
        return json_response(self.to_table(), self.status, self.headers)


def wrong(message: str, param: str | None = None, code: str = "invalid_value") -> Problem:
    """A request that cannot be right."""
    return Problem(400, message, code, param)


def failed_request(result: Result) -> Problem:
    """A request that ended without an image."""
    reason = result.reason or "model_error"
    status = 400 if reason in _THE_CLIENTS else 500
    return Problem(status, result.message or f"the request ended with {reason}", _THE_CLIENTS.get(reason, reason))


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON in ASCII, which carries any text that came in."""
    from starlette.responses import Response

    return Response(json.dumps(value), status, headers, "application/json")
