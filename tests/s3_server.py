"""A small S3 on this machine: one bucket, objects whole or in parts, conditional writes, listings in pages."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

from .loopback import Answer, Faulty, served

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


def refused(status: int, code: str) -> Answer:
    """As Amazon does, the answer names the key that was used."""
    body = f"<Error><Code>{code}</Code><Message>no</Message><AWSAccessKeyId>{KEY}</AWSAccessKeyId></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


@contextmanager
def s3_server() -> Iterator[Store]:
    """A store while the block runs; what waits is answered at its end."""
    store = Store()
    with served(_Handler, state=store) as store.url:
        try:
            yield store
        finally:
            store.released.set()


class _Handler(Faulty):
    state: Store

    def answer(self, call: str, body: bytes, fault: int | str | None) -> Answer:
        if isinstance(fault, int):
            return refused(fault, "InvalidAccessKeyId" if fault < 500 else "InternalError")
        if f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
            return refused(403, "InvalidAccessKeyId")
        with self.lock:
            self._route(bytes([body[0] ^ 1]) + body[1:] if fault == "spoil" else body)
        return refused(405, "MethodNotAllowed")

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
                self.state.objects.pop(unescape(deleted), None)
            told = "".join(f"<Deleted><Key>{deleted}</Key></Deleted>" for deleted in names)
            raise Answer(200, f"<DeleteResult>{told}</DeleteResult>".encode())
        if self.command == "DELETE" and "uploadId" not in query:
            self.state.objects.pop(name, None)
            raise Answer(204)
        if self.command == "PUT" and "uploadId" not in query:
            if self.headers.get("If-None-Match") == "*" and name in self.state.objects:
                raise refused(412, "PreconditionFailed")
            wanted = self.headers.get("If-Match", "").strip('"')
            if wanted and (name not in self.state.objects or self.state.objects[name].tag != wanted):
                raise refused(412, "PreconditionFailed")
            raise Answer(200, headers={"ETag": f'"{self.state.put(name, body).tag}"'})
        self._in_parts(name, query, body)

    def _in_parts(self, name: str, query: dict[str, str], body: bytes) -> None:
        if self.command == "POST" and "uploads" in query:
            upload = f"upload{len(self.state.calls)}"
            self.state.parts[upload] = {}
            told = f"<Bucket>{BUCKET}</Bucket><Key>{escape(name)}</Key><UploadId>{upload}</UploadId>"
            result = f"<InitiateMultipartUploadResult>{told}</InitiateMultipartUploadResult>"
            raise Answer(200, result.encode())
        upload = query["uploadId"]
        if self.command == "PUT":
            self.state.parts[upload][int(query["partNumber"])] = body
            raise Answer(200, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
        parts = [data for _, data in sorted(self.state.parts.pop(upload).items())]
        if self.command == "POST":
            tag = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
            found = self.state.put(name, b"".join(parts), f"{tag}-{len(parts)}")
            told = f'<Bucket>{BUCKET}</Bucket><Key>{escape(name)}</Key><ETag>"{found.tag}"</ETag>'
            result = f"<CompleteMultipartUploadResult>{told}</CompleteMultipartUploadResult>"
            raise Answer(200, result.encode())
        raise Answer(204)

    def _get(self, name: str) -> None:
        if name not in self.state.objects:
            raise refused(404, "NoSuchKey")
        found = self.state.objects[name]
        headers = {
            "ETag": f'"{found.tag}"',
            "Last-Modified": found.modified.strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "Content-Length": str(len(found.data)),
        }
        raise Answer(200, found.data, headers)

    def _list(self, query: dict[str, str]) -> None:
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
        names = [name for name in sorted(self.state.objects) if name.startswith(prefix) and name > after]
        told = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(found.data)}</Size><ETag>&quot;{found.tag}&quot;</ETag>"
            f"<LastModified>{found.modified.strftime('%Y-%m-%dT%H:%M:%S.000Z')}</LastModified></Contents>"
            for name in names[:_PAGE]
            for found in [self.state.objects[name]]
        )
        more = len(names) > _PAGE
        token = f"<NextContinuationToken>{escape(names[_PAGE - 1])}</NextContinuationToken>" if more else ""
        raise Answer(
            200,
            f"<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>{str(more).lower()}</IsTruncated>{told}{token}"
            "</ListBucketResult>".encode(),
            {"Content-Type": "application/xml"},
        )
