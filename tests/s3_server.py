"""A small S3 on this machine: one bucket, objects whole or in parts, conditional writes, listings in pages."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

from .loopback import served

BUCKET = "bucket"
KEY = "AKIA" + "CANARYCANARY0000"
SECRET = "canarySecretKeyThatMustNeverLeave0000000"
_PAGE = 20
"""Objects of a page of a listing."""


@dataclass
class Object:
    data: bytes
    tag: str
    modified: datetime


@dataclass
class Store:
    """What the server holds, and how it misbehaves."""

    url: str = ""
    objects: dict[str, Object] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    """Of uploads that have not ended."""
    calls: list[str] = field(default_factory=list)
    fault: Callable[[int, str], int | str | None] = lambda number, call: None
    """By number and text of a call: a status to answer, `close` to hang up, `wait` for ever, `spoil` the body."""
    hashes: bool = True
    """Whether the tags of objects are hashes."""
    released: threading.Event = field(default_factory=threading.Event)

    def writes(self) -> list[str]:
        return [call for call in self.calls if not call.startswith(("GET", "HEAD"))]

    def names(self) -> set[str]:
        return set(self.objects)

    def put(self, name: str, data: bytes, tag: str = "") -> Object:
        tag = tag or hashlib.md5(data).hexdigest()
        if not self.hashes:
            tag = f"{len(self.calls):x}-version"
        self.objects[name] = Object(data, tag, datetime.now(UTC))
        return self.objects[name]


class Answer(Exception):
    """What a request ends with."""

    def __init__(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.body = body
        self.headers = headers or {}


def refused(status: int, code: str) -> Answer:
    """As Amazon does, the answer names the key that was used."""
    body = f"<Error><Code>{code}</Code><Message>no</Message><AWSAccessKeyId>{KEY}</AWSAccessKeyId></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


@contextmanager
def s3_server() -> Iterator[Store]:
    """A store while the block runs; what waits is answered at its end."""
    store = Store()
    with served(_Handler, store=store) as store.url:
        try:
            yield store
        finally:
            store.released.set()


class _Handler(BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"
    lock = threading.RLock()

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = f"{self.command} {self.path}"
        with self.lock:
            self.store.calls.append(call)
            fault = self.store.fault(len(self.store.calls), call)
        if fault == "close":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "wait":
            self.store.released.wait(30)
            self.close_connection = True
            return
        if fault == "spoil":
            body = bytes([body[0] ^ 1]) + body[1:]
        try:
            if isinstance(fault, int):
                raise refused(fault, "InvalidAccessKeyId" if fault < 500 else "InternalError")
            if f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
                raise refused(403, "InvalidAccessKeyId")
            with self.lock:
                self._route(body)
            raise refused(405, "MethodNotAllowed")
        except Answer as answer:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _route(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        bucket, _, name = unquote(parts.path).removeprefix("/").partition("/")
        if bucket != BUCKET:
            raise refused(404, "NoSuchBucket")
        if self.command == "GET" and not name:
            self._list(query)
        if self.command in {"GET", "HEAD"}:
            self._get(name)
        if self.command == "POST" and "delete" in query:
            names = re.findall(r"<Key>([^<]*)</Key>", body.decode())
            for deleted in names:
                self.store.objects.pop(unescape(deleted), None)
            told = "".join(f"<Deleted><Key>{deleted}</Key></Deleted>" for deleted in names)
            raise Answer(200, f"<DeleteResult>{told}</DeleteResult>".encode())
        if self.command == "DELETE" and "uploadId" not in query:
            self.store.objects.pop(name, None)
            raise Answer(204)
        if self.command == "PUT" and "uploadId" not in query:
            if self.headers.get("If-None-Match") == "*" and name in self.store.objects:
                raise refused(412, "PreconditionFailed")
            wanted = self.headers.get("If-Match", "").strip('"')
            if wanted and (name not in self.store.objects or self.store.objects[name].tag != wanted):
                raise refused(412, "PreconditionFailed")
            raise Answer(200, headers={"ETag": f'"{self.store.put(name, body).tag}"'})
        self._in_parts(name, query, body)

    def _in_parts(self, name: str, query: dict[str, str], body: bytes) -> None:
        if self.command == "POST" and "uploads" in query:
            upload = f"upload{len(self.store.calls)}"
            self.store.parts[upload] = {}
            told = f"<Bucket>{BUCKET}</Bucket><Key>{escape(name)}</Key><UploadId>{upload}</UploadId>"
            result = f"<InitiateMultipartUploadResult>{told}</InitiateMultipartUploadResult>"
            raise Answer(200, result.encode())
        upload = query["uploadId"]
        if self.command == "PUT":
            self.store.parts[upload][int(query["partNumber"])] = body
            raise Answer(200, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
        parts = [data for _, data in sorted(self.store.parts.pop(upload).items())]
        if self.command == "POST":
            tag = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
            found = self.store.put(name, b"".join(parts), f"{tag}-{len(parts)}")
            told = f'<Bucket>{BUCKET}</Bucket><Key>{escape(name)}</Key><ETag>"{found.tag}"</ETag>'
            result = f"<CompleteMultipartUploadResult>{told}</CompleteMultipartUploadResult>"
            raise Answer(200, result.encode())
        raise Answer(204)

    def _get(self, name: str) -> None:
        if name not in self.store.objects:
            raise refused(404, "NoSuchKey")
        found = self.store.objects[name]
        headers = {
            "ETag": f'"{found.tag}"',
            "Last-Modified": found.modified.strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "Content-Length": str(len(found.data)),
        }
        raise Answer(200, found.data, headers)

    def _list(self, query: dict[str, str]) -> None:
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
        names = [name for name in sorted(self.store.objects) if name.startswith(prefix) and name > after]
        told = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(found.data)}</Size><ETag>&quot;{found.tag}&quot;</ETag>"
            f"<LastModified>{found.modified.strftime('%Y-%m-%dT%H:%M:%S.000Z')}</LastModified></Contents>"
            for name in names[:_PAGE]
            for found in [self.store.objects[name]]
        )
        more = len(names) > _PAGE
        token = f"<NextContinuationToken>{escape(names[_PAGE - 1])}</NextContinuationToken>" if more else ""
        raise Answer(
            200,
            f"<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>{str(more).lower()}</IsTruncated>{told}{token}"
            "</ListBucketResult>".encode(),
            {"Content-Type": "application/xml"},
        )
