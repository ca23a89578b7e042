"""What stands before every route of the web app: host, other sites, the token, sizes, and headers of every answer."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import deque
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from markupsafe import Markup
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagemill.server.guard import Guard, Refused, host_of, is_foreign, is_ours
from imagemill.server.web.pages import coded

_SAFE = {"GET", "HEAD", "OPTIONS"}
_MOST_BYTES = 16 * 2**20
"""Of a request's body; uploads have limits of their own."""
UPLOADS = "/api/uploads"
"""Where they go."""
_MOST_WRONG = 20
_SECONDS = 60.0
"""So many wrong tokens in so long a time, and others are told to wait."""
_GUESSED = 16
"""Bytes: who keeps on trying could find a shorter token, and waits even with the right one."""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_REFUSAL = Markup(
    '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="color-scheme" content="light dark">\n'
    "<title>{} · imagemill</title>\n<h1>{}</h1>\n<p>{}</p>\n</html>\n"
)
"""A page of its own: no style is given to who may not ask for it."""
_LINK = (
    "open the link that the server printed when it started; where it took its token from `IMAGEMILL_TOKEN`, "
    "add `?token=` and that to this address"
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    # Without any, browsers do not say where a form that is sent without script comes from.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer that does not say otherwise."""


class _Refused(Refused):
    """A request that is answered before any route."""

    def __init__(self, status: int, message: str, hint: str) -> None:
        super().__init__(status, message)
        self.hint = hint


class Access(Guard):
    """Stands before every route of the web app; the secret is the token."""

    def __init__(self, app: ASGIApp, secret: str, host: str) -> None:
        """Take the token that browsers and scripts must know, and the host that the server listens on."""
        super().__init__(app, secret, host)
        self._wrong: deque[float] = deque(maxlen=_MOST_WRONG)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._check(scope)
        await (answer or self._app)(scope, self._limited(scope, receive), send)

    def _answer(self, scope: Scope, error: Exception) -> ASGIApp:
        refused = error if isinstance(error, _Refused) else _Refused(500, "the server has a bug", "its log says more")
        return _told(scope, refused.status, str(refused), refused.hint)

    def _headers(self, scope: Scope) -> Mapping[str, str]:
        return {**_HEADERS, "cache-control": "no-cache"} if scope["path"].startswith("/static/") else _HEADERS

    def _check(self, scope: Scope) -> Response | None:
        """Refuse what may not ask; the answer to a link with the token, and to who comes from elsewhere."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = host_of(headers)
        if not is_ours(host, self._host):
            raise _Refused(400, f"this server is not `{host:.80}`", "use the address that it printed when it started")
        if scope["method"] not in _SAFE and is_foreign(headers):
            raise _Refused(403, "a page of another site cannot do this", "open the page of this server")
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, errors="surrogateescape")
        for name, value in query:
            if name == "token" and scope["method"] in _SAFE:
                self._compare(value.encode("utf-8", "surrogateescape"), headers)
                return self._welcome(scope, [pair for pair in query if pair[0] != "token"])
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            self._compare(given.strip(), headers)
        elif not hmac.compare_digest(_cookie(headers, _cookie_name(scope)), self._proof()):
            if headers.get(b"sec-fetch-site") == b"cross-site" and headers.get(b"sec-fetch-mode") == b"navigate":
                # Whoever comes by a link of another site brings no cookie yet, and does when the page loads itself.
                return HTMLResponse(
                    '<!doctype html><title>imagemill</title><meta http-equiv="refresh" content="0">', 401
                )
            known = _cookie(headers, _cookie_name(scope))
            raise _Refused(401, "the token is of an earlier start" if known else "the token is missing", _LINK)
        return None

    def _compare(self, given: bytes, headers: dict[bytes, bytes]) -> None:
        now = time.monotonic()
        limited = len(self._wrong) == _MOST_WRONG and now - self._wrong[0] < _SECONDS
        right = hmac.compare_digest(given, self._secret)
        # Of a token that nobody can guess, the limit would only keep out who knows it.
        if right and not (limited and len(self._secret) < _GUESSED):
            return
        if limited:
            raise _Refused(429, "too many wrong tokens were given", "wait a minute; browsers that are logged in go on")
        # Else any web page could keep others out.
        if headers.get(b"sec-fetch-site") != b"cross-site":
            self._wrong.append(now)
        raise _Refused(401, "the token is wrong", _LINK)

    def _proof(self) -> bytes:
        """What the cookie holds: it tells that the token was known, and not the token."""
        return hmac.new(self._secret, b"imagemill cookie", hashlib.sha256).hexdigest().encode()

    def _welcome(self, scope: Scope, query: list[tuple[str, str]]) -> Response:
        path = scope["path"].replace("\\", "/")
        more = urlencode(query, errors="surrogateescape")
        answer = RedirectResponse("/" + path.strip("/") + (f"?{more}" if more else ""), 303)
        answer.set_cookie(_cookie_name(scope), self._proof().decode(), httponly=True, samesite="strict", path="/")
        return answer

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Take no more of a body than there may be."""
        if scope["path"] == UPLOADS:
            return receive
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > _MOST_BYTES:
            raise _Refused(413, f"the request has {int(length):,} bytes", f"send at most {_MOST_BYTES:,}")
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > _MOST_BYTES:
                raise _Refused(413, f"the request has more than {_MOST_BYTES:,} bytes", "send less")
            return message

        return limited


def _cookie_name(scope: Scope) -> str:
    """Browsers give the cookies of one port to every other."""
    return f"imagemill-{(scope.get('server') or ('', 0))[1]}"


def _cookie(headers: dict[bytes, bytes], name: str) -> bytes:
    # Python's own reader takes seconds for some that nobody has logged in with; ours need no quotes.
    pairs = (pair.strip().partition(b"=") for pair in headers.get(b"cookie", b"").split(b";"))
    return next((value for known, _, value in pairs if known == name.encode()), b"")


def _told(scope: Scope, status: int, message: str, hint: str) -> Response:
    if scope["path"].startswith("/api/"):
        return JSONResponse({"error": message, "hint": hint}, status)
    if b"text/html" in dict(scope["headers"]).get(b"accept", b""):
        title, more = (coded(text[:1].upper() + text[1:]) for text in (message, hint))
        return HTMLResponse(_REFUSAL.format(title.striptags(), title, more), status)
    return PlainTextResponse(f"{message}\n\nhint: {hint}\n", status)
