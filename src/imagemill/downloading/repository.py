"""A dataset repository of the Hugging Face hub: its files, read by ranges, in spite of a network's faults."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from imagemill.environment import package_version
from imagemill.errors import ImagemillError, MissingExtra, UsageError
from imagemill.remote.client import retry_after

if TYPE_CHECKING:
    import httpx2

_Found = TypeVar("_Found")
_NAME = re.compile(r"(?:hf://)?(?:datasets/)?([\w-][\w.-]*/[\w-][\w.-]*)", re.ASCII)
_ENDPOINT = "https://huggingface.co"
_CONNECT = 10.0
"""Seconds."""
_SILENCE = 30.0
"""Seconds without a byte, unless `HF_HUB_DOWNLOAD_TIMEOUT` says another number."""
_SLOW = 30.0
"""Seconds in which a body must bring `_LEAST` bytes."""
_LEAST = 30_000
_REDIRECTS = 5
_LONGEST_REST = 300.0
"""Seconds that a server's wish to wait counts: the hub's own window."""
_PAUSE = 0.5
"""Seconds before the second try; twice as many before each further one."""
_LISTING = 2**26
"""Bytes that an answer of the API may have."""


class FetchFailed(Exception):
    """Something that could not be fetched, and why."""

    def __init__(self, reason: str, *, again: bool = False, wait: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again
        """Whether another try may help."""
        self.wait = wait
        """Seconds that the server asks for before it."""
        self.unreachable = unreachable
        """Whether there was no answer at all."""


class NoRanges(Exception):
    """The server sends whole files only."""


class Stopped(Exception):
    """The work was told to stop."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository, as its listing says."""

    path: str
    size: int
    sha256: str
    """Empty where the hub does not say it, which it does for large files."""
    blob: str
    """Git's name for the content; of a large file, for its pointer."""

    @property
    def mark(self) -> str:
        """What tells it from another content under the same name."""
        return self.sha256 or self.blob


class Repository:
    """One revision of a dataset repository; used as a context manager. Threads may share it."""

    def __init__(self, name: str, revision: str, retries: int) -> None:
        """Raises UsageError for a name that can be none."""
        found = _NAME.fullmatch(name.strip().rstrip("/"))
        if not found:
            raise UsageError(f"`{name:.200}` is no dataset of the hub", "such as poloclub/diffusiondb")
        self.name = found[1]
        self.revision = revision
        self.endpoint = _endpoint()
        self.commit = ""
        """Known once it is used as a context manager."""
        self.received = 0
        """Bytes of files that have come so far."""
        self.stop = threading.Event()
        """Set to end everything that is under way."""
        self._retries = retries
        self._lock = threading.Lock()
        self._rest_until = 0.0
        self._places: dict[str, str] = {}
        """Where the hub has sent us to, by path."""
        self._token = ""
        self._stack = ExitStack()

    def __enter__(self) -> Repository:
        """Raises UsageError when the repository is not there, or the hub may not be asked."""
        if any(
            os.environ.get(name, "").upper() in {"1", "TRUE", "YES", "ON"}
            for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
        ):
            raise UsageError("nothing is downloaded while `HF_HUB_OFFLINE` is set", "unset it, or set it to 0")
        try:
            import httpx2
            from huggingface_hub import get_token
        except ImportError as error:
            raise MissingExtra(str(error.name), "imagemill[remote]") from None
        except ValueError as error:
            # The package reads numbers from its variables when it is imported.
            raise UsageError(
                f"a variable `HF_…` is not what it must be: {error}", "`HF_HUB_…_TIMEOUT` are seconds"
            ) from None
        self._token = get_token() or ""
        client = httpx2.Client(
            timeout=httpx2.Timeout(_seconds("HF_HUB_DOWNLOAD_TIMEOUT", _SILENCE), connect=_CONNECT, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            headers={"Accept-Encoding": "identity", "User-Agent": f"imagemill/{package_version('imagemill')}"},
            follow_redirects=False,
        )
        self._client = self._stack.enter_context(client)
        try:
            found, _ = self._asked(f"{self._api}/revision/{quote(self.revision, safe='')}?expand=sha")
            commit = found.get("sha") if isinstance(found, dict) else None
            if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
                raise ImagemillError(f"`{self.endpoint}` does not say the commit of `{self.name}`", "is it a hub?")
        except BaseException:
            self._stack.close()
            raise
        self.commit = commit
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._stack.close()

    def files(self, folder: str = "") -> dict[str, RemoteFile | None]:
        """What lies in a folder, by path; None for a folder, and nothing where there is no such folder."""
        url = f"{self._api}/tree/{self.commit}{f'/{quote(folder)}' if folder else ''}"
        found: dict[str, RemoteFile | None] = {}
        query = ""
        while True:
            try:
                entries, following = self._asked(url + query)
            except _Absent:
                return found
            try:
                for entry in entries:
                    found[str(entry["path"])] = _file(entry) if entry["type"] == "file" else None
            except (AttributeError, KeyError, TypeError, ValueError):
                raise ImagemillError(
                    f"`{self.endpoint}` does not list the files of `{self.name}` as a hub does", "is it a hub?"
                ) from None
            # A mirror may pass on addresses of the hub that it mirrors.
            if not (following and (query := f"?{urlsplit(following).query}")):
                return found

    def read(self, file: RemoteFile, start: int, end: int) -> bytes:
        """The bytes of a file from `start` to before `end`; raises FetchFailed, and NoRanges."""

        def once() -> bytes:
            parts: list[bytes] = []
            with self._opened(file, start, end) as response:
                if response.status_code != 206:
                    raise NoRanges
                size = 0
                for part in self._body(response):
                    size += len(part)
                    if size > end - start:
                        break
                    parts.append(part)
            if size != end - start:
                raise FetchFailed(f"a range has {size:,} bytes instead of {end - start:,}", again=True)
            return b"".join(parts)

        return self._tried(once)

    def append(self, file: RemoteFile, start: int, write: Callable[[bytes, int], None]) -> None:
        """Read a file from `start` on; `write` takes what comes and where it stands.

        A server without ranges begins again at 0. Raises FetchFailed after a single try.
        """
        with self._opened(file, start, file.size) as response:
            place = start if response.status_code == 206 else 0
            for part in self._body(response):
                if place + len(part) > file.size:
                    raise FetchFailed(f"it has more than the {file.size:,} bytes that the hub says", again=True)
                write(part, place)
                place += len(part)

    def rest(self, tries: int, wait: float) -> None:
        """Wait before another try; raises Stopped."""
        self._wait(max(_PAUSE * 2 ** (tries - 1), wait) if tries < 10 else _LONGEST_REST)

    @property
    def retries(self) -> int:
        """How often what brings nothing is tried again."""
        return self._retries

    @property
    def _api(self) -> str:
        return f"{self.endpoint}/api/datasets/{self.name}"

    def _tried(self, once: Callable[[], _Found]) -> _Found:
        tries = 0
        while True:
            try:
                return once()
            except FetchFailed as error:
                tries += 1
                if not error.again or tries > self._retries:
                    raise
                self.rest(tries, error.wait)

    def _asked(self, url: str) -> tuple[Any, str]:
        """An answer of the API, and where the next page is; raises UsageError and ImagemillError."""

        def once() -> tuple[Any, str]:
            with self._sent(url, {}) as response:
                content = bytearray()
                for part in self._body(response, counted=False):
                    content += part
                    if len(content) > _LISTING:
                        raise FetchFailed(f"the answer has more than {_LISTING:,} bytes")
                try:
                    return json.loads(bytes(content)), response.links.get("next", {}).get("url", "")
                except (ValueError, RecursionError):
                    raise FetchFailed("the answer is no JSON", again=True) from None

        try:
            return self._tried(once)
        except _Absent:
            if "/tree/" in url:
                raise
            raise UsageError(
                f"`{self.name}` is no dataset of {self.endpoint}, or has no revision `{self.revision}`",
                "check both; a private one needs `HF_TOKEN`",
            ) from None
        except FetchFailed as error:
            raise ImagemillError(
                f"{self.endpoint} cannot be asked for `{self.name}`: {error.reason}", "check the network"
            ) from None

    @contextmanager
    def _opened(self, file: RemoteFile, start: int, end: int) -> Iterator[httpx2.Response]:
        """The answer with some bytes of a file, or all where the server knows no ranges; raises FetchFailed."""
        home = f"{self.endpoint}/datasets/{self.name}/resolve/{self.commit}/{quote(file.path)}"
        # A range of all is one too; a server answers it with 200 only if it knows none.
        with self._sent(home, {"Range": f"bytes={start}-{end - 1}"}, file.path) as response:
            if response.status_code == 206:
                said = response.headers.get("Content-Range", "")
                if said.replace(" ", "") not in {f"bytes{start}-{end - 1}/{file.size}", f"bytes{start}-{end - 1}/*"}:
                    raise FetchFailed(f"the server sent another range than it was asked for: {said:.80}", again=True)
            else:
                length = response.headers.get("Content-Length", "")
                if length and length != str(file.size):
                    raise FetchFailed(f"it has {length:.20} bytes instead of {file.size:,}", again=True)
            yield response

    @contextmanager
    def _sent(self, url: str, headers: Mapping[str, str], path: str = "") -> Iterator[httpx2.Response]:
        """A good answer, after redirects, which are remembered for a path; raises FetchFailed and UsageError."""
        import httpx2

        self._wait(self._rest_until - time.monotonic())
        url = self._places.get(path, url)
        response = None
        try:
            for _ in range(_REDIRECTS + 1):
                home = _origin(url) == _origin(self.endpoint)
                # Another host never learns the token.
                token = {"Authorization": f"Bearer {self._token}"} if self._token and home else {}
                response = self._client.send(
                    self._client.build_request("GET", url, headers={**headers, **token}), stream=True
                )
                if not response.is_redirect:
                    break
                response.close()
                url = _followed(url, response.headers.get("Location", ""))
            else:
                raise FetchFailed(f"it is redirected more than {_REDIRECTS} times")
            if not response.is_success:
                # Addresses elsewhere are signed, and end.
                moved = self._places.pop(path, "") if path else ""
                raise self._told(response, home or not path, bool(moved))
            if path and not home:
                self._places[path] = url
            yield response
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise FetchFailed(
                f"the connection broke: {self._redacted(text)}",
                again=True,
                unreachable=isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout),
            ) from None
        finally:
            if response:
                response.close()

    def _told(self, response: httpx2.Response, home: bool, moved: bool) -> Exception:
        """What a status means that tells of no success."""
        status, code = response.status_code, response.headers.get("X-Error-Code", "")
        if status in {401, 403, 404, 410} and moved:
            return FetchFailed(f"status {status}", again=True)
        if home and (status in {401, 403} or code == "GatedRepo"):
            why = "is gated: its page says who may read it" if code == "GatedRepo" else "is not there, or not for you"
            return UsageError(f"`{self.name}` {why} (status {status})", "check the name, and `HF_TOKEN`")
        if status in {404, 410}:
            return _Absent("it is missing: status 404")
        if status in {408, 425, 429} or status >= 500:
            wait = min(_LONGEST_REST, max(retry_after(response.headers), _reset(response.headers)))
            if status == 429:
                # One for all: they share an address.
                with self._lock:
                    self._rest_until = max(self._rest_until, time.monotonic() + wait)
            return FetchFailed(f"status {status}", again=True, wait=wait)
        return FetchFailed(f"status {status}", again=status == 416)

    def _body(self, response: httpx2.Response, counted: bool = True) -> Iterator[bytes]:
        """A body as it comes; raises FetchFailed when that is too slow, and Stopped."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise FetchFailed("the answer is compressed, which was not asked for", again=True)
        since, size = time.monotonic(), 0
        for part in response.iter_raw():
            if self.stop.is_set():
                raise Stopped
            if counted:
                with self._lock:
                    self.received += len(part)
            yield part
            size += len(part)
            now = time.monotonic()
            if now - since > _SLOW:
                if size < _LEAST:
                    raise FetchFailed("it comes too slowly", again=True)
                since, size = now, 0

    def _wait(self, seconds: float) -> None:
        if self.stop.wait(max(0.0, seconds)):
            raise Stopped

    def _redacted(self, text: str) -> str:
        return (text.replace(self._token, "***") if self._token else text)[:200]


class _Absent(FetchFailed):
    """There is nothing of that name."""


def _endpoint() -> str:
    """The hub's address; raises UsageError."""
    url = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or _ENDPOINT
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise UsageError("`HF_ENDPOINT` is no http or https address", f"such as {_ENDPOINT}")
    return url


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _followed(url: str, location: str) -> str:
    """Where a redirect leads; raises FetchFailed where it must not."""
    try:
        target = urljoin(url, location)
        allowed = {"https"} if url.startswith("https:") else {"http", "https"}
        if location and urlsplit(target).scheme in allowed and _origin(target)[1]:
            return target
    except ValueError:
        pass
    raise FetchFailed("it is redirected to no address, or to one without https")


def _file(entry: Mapping[str, Any]) -> RemoteFile:
    """A file of a listing; raises ValueError and others for what is none."""
    large = entry.get("lfs") or {}
    sha256, blob = str(large.get("oid", "")).removeprefix("sha256:"), str(entry.get("oid", ""))
    size = int(large.get("size", entry.get("size")) or 0)
    # They become parts of names on this disk.
    if size < 0 or not all(re.fullmatch(r"([0-9a-f]{40,64})?", mark) for mark in (sha256, blob)):
        raise ValueError("no size, or no hash")
    return RemoteFile(str(entry["path"]), size, sha256, blob)


def _reset(headers: Mapping[str, str]) -> float:
    """Seconds until a server that counts requests begins anew (IETF draft `ratelimit-headers`)."""
    found = re.search(r"\bt=(\d{1,6})\b", headers.get("RateLimit", ""))
    return float(found[1]) if found else 0.0


def _seconds(name: str, usual: float) -> float:
    with suppress(ValueError):
        return max(1.0, float(os.environ.get(name, "")))
    return usual
