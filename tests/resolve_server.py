"""The hub's listing and resolve API on this machine: one dataset repository, its large files elsewhere, and faults."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = 1_000
"""Bytes from which on a file lies elsewhere, under its SHA-256."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    elsewhere: bool
    """Whether it went to the host of large files."""
    path: str
    """Of a file: its own."""
    range: str
    token: str


@dataclass
class Hub:
    """What the server has, does and has seen."""

    files: dict[str, bytes]
    name: str = "someone/pictures"
    commit: str = COMMIT
    token: str = ""
    """Without it nothing is told, if there is one."""
    gated: bool = False
    ranges: bool = True
    page: int = 1_000
    """Entries of a listing in an answer."""
    sizes: dict[str, int] = field(default_factory=dict)
    """What the listing says instead of the size."""
    marks: dict[str, str] = field(default_factory=dict)
    """What the listing says instead of the hash."""
    faults: dict[str, list[str]] = field(default_factory=dict)
    """What happens to requests of a file, one after the other: a status, `cut`, `short`, `corrupt`, `range`,
    `stall`, `long`, `packed`.

    One that ends with `*` happens always.
    """
    pause: float = 0.0
    """Seconds between two pieces of 16 KiB."""
    asked: list[Asked] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes of a file that were sent."""
    url: str = ""
    elsewhere: str = ""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set at the end."""
    hashes: dict[str, str] = field(default_factory=dict)
    """The files by their SHA-256."""

    def __post_init__(self) -> None:
        for name in self.files:
            self.put(name, self.files[name])

    def put(self, name: str, content: bytes) -> None:
        """Give a file another content."""
        self.files[name] = content
        self.hashes[hashlib.sha256(content).hexdigest()] = name

    def fault(self, path: str) -> str:
        """The next fault of a file."""
        planned = self.faults.get(path, [])
        if not planned:
            return ""
        return planned[0].removesuffix("*") if planned[0].endswith("*") else planned.pop(0)

    def content_requests(self, path: str = "") -> list[Asked]:
        """What was asked of files, not of the API."""
        return [asked for asked in self.asked if asked.path in self.files and path in {"", asked.path}]

    def forget(self) -> None:
        """Begin to count anew."""
        self.asked.clear()
        self.sent.clear()


@contextmanager
def serving(files: Mapping[str, bytes], **options: Any) -> Iterator[Hub]:
    """Serve files while the block runs."""
    hub = Hub(dict(files), **options)
    servers = [_Server(hub, False), _Server(hub, True)]
    hub.url, hub.elsewhere = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.gone.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub, elsewhere: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.elsewhere = elsewhere

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may leave at any time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server.hub
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        resolve = re.fullmatch(rf"/datasets/{hub.name}/resolve/([^/]+)/(.+)", path)
        name = hub.hashes.get(path.rpartition("/")[2], "") if self.server.elsewhere else resolve[2] if resolve else path
        token = self.headers.get("Authorization", "")
        hub.asked.append(Asked(self.server.elsewhere, name, self.headers.get("Range", ""), token))
        if self.server.elsewhere:
            self._content(name, hub.files[name])
        elif hub.token and token != f"Bearer {hub.token}":
            self._answer(401, b"{}", {"X-Error-Code": "GatedRepo" if hub.gated else "RepoNotFound"})
        elif path.startswith(f"/api/datasets/{hub.name}/revision/"):
            revision = path.rpartition("/")[2]
            known = revision in {"main", hub.commit}
            self._json(200 if known else 404, {"id": hub.name, "sha": hub.commit} if known else {"error": "Revision"})
        elif path.startswith(f"/api/datasets/{hub.name}/tree/{hub.commit}"):
            self._tree(path.removeprefix(f"/api/datasets/{hub.name}/tree/{hub.commit}").strip("/"), query)
        elif resolve and resolve[1] == hub.commit and name in hub.files:
            content = hub.files[name]
            if len(content) < _LARGE:
                self._content(name, content)
            else:
                sha256 = hashlib.sha256(content).hexdigest()
                place = f"{hub.elsewhere}/cdn/{sha256}?signature=secret-{len(hub.asked)}"
                told = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{sha256}"', "X-Repo-Commit": hub.commit}
                self._answer(302, b"", {"Location": place, **told})
        else:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound" if resolve else "RepoNotFound"})

    def _tree(self, folder: str, query: Mapping[str, list[str]]) -> None:
        hub = self.server.hub
        inside = [name for name in hub.files if name.startswith(f"{folder}/" if folder else "")]
        entries: dict[str, dict[str, Any]] = {}
        for name in sorted(inside):
            rest = name[len(folder) + 1 if folder else 0 :]
            top, slash, _ = rest.partition("/")
            path = f"{folder}/{top}" if folder else top
            if slash:
                entries[path] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
                continue
            content = hub.files[name]
            size = hub.sizes.get(name, len(content))
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entries[path] = {"type": "file", "oid": blob, "size": size, "path": path}
            if len(content) >= _LARGE:
                oid = hub.marks.get(path, hashlib.sha256(content).hexdigest())
                entries[path] |= {"oid": "1" * 40, "lfs": {"oid": oid, "size": size, "pointerSize": 135}}
        if not entries:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        first = int(query.get("cursor", ["0"])[0])
        more = {}
        if first + hub.page < len(entries):
            # As a mirror does that passes on what the hub itself says.
            more = {"Link": f'<https://hub.invalid/api/tree?cursor={first + hub.page}>; rel="next"'}
        self._json(200, list(entries.values())[first : first + hub.page], more)

    def _content(self, name: str, content: bytes) -> None:
        hub = self.server.hub
        fault = hub.fault(name)
        if fault in {"429", "503", "500", "403", "404"}:
            self._answer(int(fault), b"", {"Retry-After": "1"} if fault == "429" else {})
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status, headers = 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        body = content
        if asked and hub.ranges:
            start = int(asked[1])
            end = min(len(content), int(asked[2] or len(content)) + 1)
            if start >= len(content):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            shown = start + 1 if fault == "range" else start
            status, body = 206, content[start:end]
            headers["Content-Range"] = f"bytes {shown}-{end - 1}/{len(content)}"
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "short":
            body = body[: len(body) // 2]
        if fault == "long":
            body += body
        if fault == "packed":
            headers["Content-Encoding"] = "gzip"
        self._answer(status, body, headers, name, fault)

    def _json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._answer(status, json.dumps(value).encode(), headers or {})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str], name: str = "", fault: str = "") -> None:
        hub = self.server.hub
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if fault != "long":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        ends = fault in {"cut", "stall"}
        whole = len(body) // 2 if ends else len(body)
        step = 2**14 if hub.pause else max(1, whole)
        for first in range(0, whole, step):
            piece = body[first : min(whole, first + step)]
            self.wfile.write(piece)
            if name:
                hub.sent[name] = hub.sent.get(name, 0) + len(piece)
            time.sleep(hub.pause)
        if fault == "stall":
            hub.gone.wait(20)
        self.close_connection = ends or fault == "long"
