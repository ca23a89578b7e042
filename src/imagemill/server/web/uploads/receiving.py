"""A form with files, written to disk while it comes: nothing of it is held in memory, and nothing may be too large."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from itertools import groupby
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from imagemill.dataset.files import explained
from imagemill.errors import UsageError
from imagemill.images import MAX_BYTES
from imagemill.server.web.uploads.pictures import MOST_BYTES, MOST_FILES
from imagemill.server.web.uploads.store import Received, Uploads, shown_name, suffix_of
from imagemill.server.web.uploads.tables import MOST_BYTES as MOST_TABLE_BYTES
from imagemill.terminal import size

logging.getLogger("python_multipart").setLevel(logging.ERROR)
MOST = {"table": MOST_TABLE_BYTES, "archive": MOST_BYTES, "picture": MAX_BYTES}
"""Bytes of a file of each kind."""
_OVERHEAD = 16 * 2**20
"""Bytes that a form has beside its files."""
_BLOCK = 2**20
_FIELD = 2**16
"""Bytes of a field that is no file."""


class TooLarge(UsageError):
    """There is more than may be sent."""

    status = 413


class NoForm(UsageError):
    """What was sent is no form with files."""

    status = 415


async def receive(
    stream: AsyncIterator[bytes], content_type: str, length: int | None, uploads: Uploads, folder: Path
) -> list[Received]:
    """Write the files of a form into a folder; raises UsageError, TooLarge, NoForm and OutOfSpace."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise NoForm("an upload is a form with files", "send `multipart/form-data`")
    if length is not None:
        if length > MOST_BYTES + _OVERHEAD:
            raise TooLarge(f"the upload has {size(length)}", f"at most {size(MOST_BYTES)} at once")
        uploads.check_space(length)
    form = _Form(uploads, folder)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.headers_end,
                "on_part_data": form.data,
                "on_part_end": form.end,
                "on_end": form.finish,
            },
        )
        async for piece in stream:
            parser.write(piece)
            if form.waiting >= _BLOCK:
                await run_in_threadpool(form.write)
        parser.finalize()
        await run_in_threadpool(form.write)
    except FormParserError as error:
        raise NoForm(f"the form cannot be read: {error}", "send it again") from None
    if not form.finished:
        raise NoForm("the form ends too early", "send it again")
    if not form.received:
        raise NoForm("the form has no file", "choose a table or pictures")
    return form.received


class _Form:
    """The parts of a form as they come."""

    def __init__(self, uploads: Uploads, folder: Path) -> None:
        self._uploads = uploads
        self._folder = folder
        self._header = b"", b""
        self._disposition = b""
        self._todo: list[tuple[Path, bytes]] = []
        self._path: Path | None = None
        self._name = ""
        self._most = _FIELD
        self._taken = self._total = 0
        self.waiting = 0
        """Bytes that are not written yet."""
        self.received: list[Received] = []
        self.finished = False

    def begin(self) -> None:
        self._path, self._name, self._disposition = None, "", b""
        self._most, self._taken = _FIELD, 0

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = self._header[0] + data[start:end], b""

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = self._header[0], self._header[1] + data[start:end]

    def header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = b"", b""

    def headers_end(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"filename")
        # A form without a chosen file sends one without a name.
        if name:
            self._name = shown_name(name.decode("utf-8", "replace"))
            suffix, kind = suffix_of(self._name)
            if len(self.received) >= MOST_FILES:
                raise TooLarge(f"more than {MOST_FILES:,} files", "send them as a ZIP archive, or in several uploads")
            self._most = MOST[kind]
            self._path = self._folder / f"{len(self.received):06d}{suffix}"
            # An empty file is one as well.
            self._todo.append((self._path, b""))

    def data(self, data: bytes, start: int, end: int) -> None:
        self._taken += end - start
        self._total += end - start
        if self._taken > self._most:
            said = f"`{self._name}` has more than {size(self._most)}" if self._name else "a field of the form is long"
            raise TooLarge(said, "split it, or send it packed as .gz or .zst")
        if self._total > MOST_BYTES:
            raise TooLarge(f"the upload has more than {size(MOST_BYTES)}", "send it in several parts")
        if self._path:
            self._todo.append((self._path, data[start:end]))
            self.waiting += end - start

    def end(self) -> None:
        if self._path:
            self.received.append(Received(self._name, self._path, self._taken))

    def finish(self) -> None:
        self.finished = True

    def write(self) -> None:
        """Write what has come; no file stays open, as there may be many."""
        self._uploads.check_space(self.waiting)
        with explained(self._folder):
            for path, pieces in groupby(self._todo, key=lambda each: each[0]):
                with path.open("ab") as file:
                    file.writelines(piece for _, piece in pieces)
        self._todo, self.waiting = [], 0
