"""HTTP within limits: one pool of connections, bounded bodies, and no way into the private network."""

from __future__ import annotations

import asyncio
import email.utils
import ipaddress
import json
import math
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from imagemill.environment import package_version
from imagemill.errors import MissingExtra, UsageError
from imagemill.images import MAX_BYTES
from imagemill.remote.pace import Ending

if TYPE_CHECKING:
    import httpx2

    from imagemill.records import FailureReason

_CONNECT = 5.0
"""Seconds."""
_SLOW = 30.0
"""Seconds in which a body must bring `_LEAST` bytes."""
_LEAST = 30_000
_REDIRECTS = 3
_SECRET = 8
"""Characters that a secret has at least."""
_FETCHES = 4
"""Tries to fetch an image that is made already."""
_LONGEST_REST = 3600.0
"""Seconds that a server's word counts; one that wants more is asked again after these."""
_UNSURE = {408, 502, 504, *range(520, 525)}
"""A gateway's answers: what is behind it may have done the work."""
_BLOCKED = {"moderation_blocked", "content_policy_violation", "content_filter", "safety_violation"}
"""What servers call a prompt or a picture that they refuse."""
_NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "insufficient_credits"}


class CallFailed(Exception):
    """A call that brought no image: why, and what follows."""

    def __init__(
        self,
        reason: FailureReason,
        message: str,
        *,
        again: bool = False,
        paid: bool | None = False,
        ending: Ending = "other",
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.reason: FailureReason = reason
        self.message = message
        self.again = again
        """Whether another try may help."""
        self.paid = paid
        """Whether the server charges for it; None when nobody knows."""
        self.ending = ending
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server sent back when all went well."""

    body: bytes
    content_type: str

    def json(self) -> Any:
        """Parse the body; raises CallFailed."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            shown = self.body[:80].decode("utf-8", "replace")
            raise CallFailed("server_error", f"the answer is no JSON: {shown!r}", again=True, paid=None) from None


class Client:
    """Calls one server and fetches the images it names; used as an async context manager."""

    def __init__(self, base_url: str, headers: Mapping[str, str], timeout: float, secret: str) -> None:
        """`secret` is cut out of everything a server says."""
        self.base_url = base_url
        self._headers = {"Accept-Encoding": "identity", "User-Agent": f"imagemill/{package_version('imagemill')}"}
        self._own = {**headers}
        self._timeout = timeout
        self._secret = secret
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Client:
        try:
            import httpx2
        except ImportError:
            raise MissingExtra("httpx2", "imagemill[remote]") from None
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(None, connect=_CONNECT), limits=limits, headers=self._headers, follow_redirects=False
        )
        self._client = await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def call(
        self,
        method: str,
        url: str,
        most: int = MAX_BYTES,
        more_headers: Mapping[str, str] | None = None,
        **content: Any,
    ) -> Answer:
        """Call the server; `content` is httpx2's `json`, `data` or `files`; raises CallFailed.

        `most` is how many bytes the answer may have.
        """
        import httpx2

        # Where a body was on its way or may have been read, the server may have done the work.
        try:
            async with asyncio.timeout(self._timeout):
                request = self._client.build_request(
                    method, url, headers={**self._own, **(more_headers or {})}, **content
                )
                return await self._read(await self._client.send(request, stream=True), most)
        except TimeoutError:
            raise CallFailed(
                "timeout", f"no answer in {self._timeout:g} s", again=True, paid=None, ending="overloaded"
            ) from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise CallFailed("unreachable", f"no connection: {error}", again=True, ending="overloaded") from None
        except (httpx2.HTTPError, OSError) as error:
            text = f"the connection broke: {type(error).__name__}: {error}"
            raise CallFailed("server_error", text, again=True, paid=None, ending="overloaded") from None

    async def fetch(self, url: str) -> bytes:
        """Fetch an image that the server has named; raises CallFailed.

        From the server's own host, or over https from a public address; every redirect is looked at again. What passes
        is tried again here: the image is paid for, and must not be asked for anew.
        """
        for attempt in range(_FETCHES):
            try:
                return await self._fetched(url)
            except CallFailed as error:
                if not error.again or attempt + 1 == _FETCHES:
                    raise CallFailed("bad_image", f"its URL: {error.message}", paid=True) from None
                await asyncio.sleep(max(error.retry_after, 0.5 * 2**attempt))
        raise AssertionError

    async def _fetched(self, url: str) -> bytes:
        import httpx2

        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(_REDIRECTS + 1):
                    host, address = await _checked_address(url, self.base_url)
                    parts = urlsplit(url)
                    # To the address that was checked, under the name that was asked for.
                    target = parts._replace(netloc=_netloc(address, parts.port)).geturl() if address else url
                    request = self._client.build_request(
                        "GET", target, headers={"Host": parts.netloc}, extensions={"sni_hostname": host}
                    )
                    response = await self._client.send(request, stream=True)
                    if not response.is_redirect:
                        return (await self._read(response, MAX_BYTES)).body
                    await response.aclose()
                    url = urljoin(url, response.headers.get("Location", ""))
        except TimeoutError:
            raise CallFailed("timeout", f"nothing in {self._timeout:g} s", again=True) from None
        except (httpx2.HTTPError, OSError) as error:
            raise CallFailed("server_error", f"{type(error).__name__}: {error}", again=True) from None
        except (httpx2.InvalidURL, ValueError) as error:
            raise CallFailed("bad_image", str(error)) from None
        raise CallFailed("bad_image", f"it is redirected more than {_REDIRECTS} times")

    def redacted(self, text: str) -> str:
        """A server's text without the key, and not too long."""
        # A key of a few letters is nobody's secret, and stands in every word.
        return (text.replace(self._secret, "***") if len(self._secret) >= _SECRET else text)[:500]

    async def _read(self, response: httpx2.Response, most: int) -> Answer:
        good = response.is_success
        try:
            body = await _body(response, most)
        except CallFailed:
            if good:
                raise
            # The status says enough.
            body = b""
        finally:
            await response.aclose()
        if good:
            return Answer(body, response.headers.get("Content-Type", "").partition(";")[0].strip().lower())
        raise told(response.status_code, response.headers, body)

    async def download(self, url: str, path: Path, most: int) -> None:
        """Write what a URL of the server holds into a file, at most `most` bytes; raises CallFailed."""
        import httpx2

        try:
            # A large file may take long; silence may not.
            timeout = httpx2.Timeout(self._timeout, connect=_CONNECT)
            request = self._client.build_request("GET", url, headers=self._own, timeout=timeout)
            response = await self._client.send(request, stream=True)
            try:
                if response.status_code != 200:
                    raise told(response.status_code, response.headers, await _body(response, 100_000))
                with path.open("wb") as file:
                    size = 0
                    async for part in _parts(response):
                        size += len(part)
                        if size > most:
                            raise CallFailed("server_error", f"the file has more than {most:,} bytes")
                        file.write(part)
            finally:
                await response.aclose()
        except (httpx2.HTTPError, OSError) as error:
            raise CallFailed(
                "server_error", f"the download broke: {type(error).__name__}: {error}", again=True
            ) from None


def told(status: int, headers: Mapping[str, str], body: bytes) -> CallFailed:
    """What a status means that tells of no success."""
    code, text = _error_of(body)
    message = f"{status}: {text}" if text else f"status {status}"
    if code in _NO_CREDIT or status == 402:
        return CallFailed("no_credit", message)
    if status in {401, 403}:
        return CallFailed("auth", message)
    if status in {404, 405, 410}:
        return CallFailed("model_gone", message)
    if 300 <= status < 400:
        return CallFailed("model_gone", f"{status}: it is elsewhere: {headers.get('Location', '')[:200]}")
    wait = retry_after(headers)
    paid = None if status in _UNSURE else False
    if status == 429:
        return CallFailed("rate_limited", message, again=True, ending="limited", retry_after=wait)
    if status == 408:
        return CallFailed("timeout", message, again=True, paid=paid, ending="overloaded", retry_after=wait)
    if status == 409 or status >= 500:
        ending: Ending = "overloaded" if status in {503, 504, 529} else "other"
        return CallFailed("server_error", message, again=True, paid=paid, ending=ending, retry_after=wait)
    if code in _BLOCKED or "safety system" in text or "content policy" in text:
        return CallFailed("moderation_blocked", message)
    return CallFailed("bad_request", message)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date (RFC 9110)."""
    milliseconds, text = headers.get("retry-after-ms", ""), headers.get("Retry-After", "")
    try:
        wait = float(milliseconds) / 1000 if milliseconds else float(text or 0)
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            wait = 0.0
    return min(_LONGEST_REST, max(0.0, wait)) if math.isfinite(wait) else 0.0


def checked_base_url(url: str) -> str:
    """A server's address as it is written down; raises UsageError for one that holds a secret or is none."""
    parts = urlsplit(url.strip().rstrip("/"))
    try:
        parts.port  # noqa: B018 - it raises for a port that is none
    except ValueError as error:
        raise UsageError(f"`base_url`: {error}, got: `{url:.200}`", "such as http://127.0.0.1:7860/v1") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"`base_url` is no http or https address: `{url:.200}`", "such as http://127.0.0.1:7860/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError("`base_url` is written down and must hold no key", "the key comes from the environment alone")
    return parts.geturl()


async def _body(response: httpx2.Response, most: int) -> bytes:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise CallFailed("server_error", "the answer is compressed, which was not asked for", again=True, paid=None)
    parts: list[bytes] = []
    size = 0
    async for part in _parts(response):
        parts.append(part)
        size += len(part)
        if size > most:
            raise CallFailed("bad_image", f"the answer has more than {most:,} bytes", again=True, paid=None)
    return b"".join(parts)


async def _parts(response: httpx2.Response) -> AsyncIterator[bytes]:
    """A body as it comes; raises CallFailed when that is too slow."""
    # A window's start, and what has come since.
    since, size = time.monotonic(), 0
    async for part in response.aiter_raw():
        yield part
        size += len(part)
        now = time.monotonic()
        if now - since > _SLOW:
            if size < _LEAST:
                raise CallFailed("timeout", "the answer comes too slowly", again=True, paid=None, ending="overloaded")
            since, size = now, 0


async def _checked_address(url: str, base_url: str) -> tuple[str, str]:
    """The host of an image's URL, and the address to connect to; raises ValueError where it must not lead."""
    parts, base = urlsplit(url), urlsplit(base_url)
    host = parts.hostname or ""
    if (parts.scheme, parts.netloc) == (base.scheme, base.netloc):
        return host, ""
    if parts.scheme != "https" or not host or parts.username or parts.password:
        raise ValueError("it is not on the server itself, and no plain https address")
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, parts.port or 443, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(_is_public(address) for address in addresses):
        raise ValueError("its host has an address that is not public")
    return host, addresses[0]


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_global and not parsed.is_multicast


def _netloc(address: str, port: int | None) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{port}" if port else host


def _error_of(body: bytes) -> tuple[str, str]:
    """The code and the text of a server's error object, of OpenAI's kind or Hugging Face's."""
    try:
        error = json.loads(body)
        error = error.get("error", error.get("detail", error)) if isinstance(error, dict) else error
        if isinstance(error, dict):
            return str(error.get("code") or error.get("type") or ""), str(error.get("message", ""))
        return "", str(error)
    except (ValueError, RecursionError):
        return "", body[:200].decode("utf-8", "replace")
