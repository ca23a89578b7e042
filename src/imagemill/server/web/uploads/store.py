"""What users send: prompt tables and sets of pictures, kept under names of ours and read within limits."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from imagemill.dataset.files import explained, make_folder, sync_folder, write_file
from imagemill.errors import OutOfSpace, UsageError
from imagemill.server.web.uploads.pictures import ARCHIVE, NAMES, PICTURES, RECEIVED, THUMBNAILS
from imagemill.server.web.uploads.reading import read_upload
from imagemill.server.web.uploads.tables import ROWS
from imagemill.server.web.workspace import NotFound, Workspace

Kind = Literal["table", "images"]
_TABLES = ("csv", "tsv", "jsonl", "ndjson", "json", "txt", "parquet")
_PICTURES = ("png", "jpg", "jpeg", "webp")
_PACKED = ("", ".gz", ".zst")
_SUFFIXES = {
    **{f".{name}{packed}": "table" for name in _TABLES for packed in _PACKED},
    **{f".{name}": "picture" for name in _PICTURES},
    ".zip": "archive",
}
ACCEPTED = ",".join(sorted({f".{suffix.rpartition('.')[2]}" for suffix in _SUFFIXES}))
"""For the field of a form."""
_ABOUT = "upload.json"
_PREVIEW = "preview.json"
_RESERVE = 256 * 2**20
"""Bytes that stay free."""
_NAME = 200
_AT_ONCE = 100
"""Uploads that one form may become: each is read in a process of its own."""


@dataclass(frozen=True, slots=True)
class Received:
    """A file that has come."""

    name: str
    """As its owner calls it; it is only ever shown."""
    path: Path
    bytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """A prompt table or a set of pictures that somebody has sent."""

    id: str
    name: str
    kind: Kind
    path: Path
    """What a command takes as its input: the table, or the folder of pictures."""
    created: float
    bytes: int
    preview: dict[str, Any] = field(default_factory=dict)
    """What was found in it; empty until it has been read."""

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self.path.parent

    @property
    def state(self) -> Literal["reading", "ready", "refused"]:
        """Whether it can be used."""
        if not self.preview:
            return "reading"
        return "refused" if "problem" in self.preview else "ready"

    @property
    def rows(self) -> int:
        """Rows of the table, or pictures, that can be read."""
        doubtful = self.preview.get("doubt")
        return int(self.preview.get("rows" if doubtful else "accepted", 0))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table, or of what is told of the pictures."""
        return tuple(column["name"] for column in self.preview.get("columns", ()))

    @property
    def picture_columns(self) -> tuple[str, ...]:
        """The columns that name pictures, all of them ours."""
        return tuple(self.preview.get("picture_columns", ()))

    @property
    def prompt_column(self) -> str:
        """The column that `generate` finds by itself; empty for none."""
        return str(self.preview.get("prompt_column", ""))

    @property
    def details(self) -> dict[str, Any]:
        """The first rows, and those that cannot be used."""
        path = self.folder / ROWS
        found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
        return found

    def thumbnail(self, number: int) -> Path:
        """A small picture; raises NotFound."""
        path = self.folder / THUMBNAILS / f"{number}.webp"
        if not path.exists():
            raise NotFound(f"there is no thumbnail {number}", "reload the page")
        return path


class Uploads:
    """The uploads of a folder that is served."""

    def __init__(self, workspace: Workspace) -> None:
        """Look at what there is; what was being sent when a server ended is dropped."""
        self.folder = workspace.state / "uploads"
        make_folder(self.folder)
        for left in self.folder.glob(".*.part"):
            shutil.rmtree(left, ignore_errors=True)
        self._looked: dict[str, int] = {}
        self._lock = threading.Lock()
        self._turns = {"table": threading.Semaphore(), "images": threading.Semaphore()}

    def list(self) -> list[Upload]:
        """All uploads, the newest first."""
        found = [self._read(path) for path in self.folder.iterdir() if not path.name.startswith(".")]
        return sorted((upload for upload in found if upload), key=lambda upload: upload.created, reverse=True)

    def find(self, upload: str) -> Upload:
        """An upload by its id; raises NotFound. One that nobody has read yet will be."""
        known = len(upload) == 16 and set(upload) <= set("0123456789abcdef")
        found = self._read(self.folder / upload) if known else None
        if not found:
            raise NotFound(f"there is no upload `{upload:.40}`", "it may have been deleted: see the list")
        if not found.preview:
            self._start(found)
        return found

    def looked(self, upload: str) -> int:
        """How many pictures of an upload have been looked at, while it is read."""
        return self._looked.get(upload, 0)

    def receiving(self) -> Path:
        """A new folder for what is coming; it is dropped unless `add` takes what is in it."""
        folder = self.folder / f".{secrets.token_hex(8)}.part"
        make_folder(folder)
        return folder

    def check_space(self, coming: int) -> None:
        """Raise OutOfSpace where so many bytes do not fit."""
        if shutil.disk_usage(self.folder).free < coming + _RESERVE:
            raise OutOfSpace("there is no space left for the upload", "free some space and send it again")

    def add(self, received: Sequence[Received]) -> Sequence[Upload]:
        """Keep files that have come: each table and each archive for itself, and all pictures as one set.

        Raises UsageError for more than can be looked at.
        """
        pictures = [one for one in received if suffix_of(one.name)[1] == "picture"]
        stems = {_stem(one.name) for one in pictures}
        captions = dict.fromkeys(
            one for one in received if _stem(one.name) in stems and suffix_of(one.name)[0] == ".txt"
        )
        others = len(received) - len(pictures) - len(captions)
        if others > _AT_ONCE:
            raise UsageError(f"{others:,} tables and archives at once are too many", f"send at most {_AT_ONCE}")
        added = []
        for one in received:
            suffix, kind = suffix_of(one.name)
            if kind == "table" and one not in captions:
                added.append(self._keep(one.name, "table", f"table{suffix}", {f"table{suffix}": one}))
            elif kind == "archive":
                added.append(self._keep(one.name, "images", PICTURES, {ARCHIVE: one}))
        if pictures:
            name = pictures[0].name if len(pictures) == 1 else f"{len(pictures):,} pictures"
            added.append(self._keep(name, "images", PICTURES, _named([*pictures, *captions])))
        return added

    def add_text(self, name: str, content: bytes) -> Upload:
        """Keep a table that was typed."""
        folder = self.receiving()
        path = folder / "typed"
        write_file(path, content)
        (upload,) = self.add([Received(shown_name(name), path, len(content))])
        shutil.rmtree(folder, ignore_errors=True)
        return upload

    def wait(self, upload: str, seconds: float = 60.0) -> Upload:
        """An upload when it has been read, or as far as it is after so long."""
        end = time.monotonic() + seconds
        while (found := self.find(upload)).state == "reading" and time.monotonic() < end:
            time.sleep(0.02)
        return found

    def _keep(self, name: str, kind: Kind, file: str, files: dict[str, Received]) -> Upload:
        upload = secrets.token_hex(8)
        new = self.folder / f".{upload}.part"
        with explained(new):
            for target, one in files.items():
                make_folder((new / target).parent)
                one.path.rename(new / target)
            # Once for all, however many there are.
            os.sync()
        if len(files) > 1:
            write_file(new / NAMES, json.dumps({Path(target).name: one.name for target, one in files.items()}).encode())
        elif kind == "images" and ARCHIVE not in files:
            write_file(new / NAMES, json.dumps({Path(next(iter(files))).name: name}).encode())
        about = {
            "name": name,
            "kind": kind,
            "file": file,
            "created": time.time(),
            "bytes": sum(one.bytes for one in files.values()),
        }
        write_file(new / _ABOUT, json.dumps(about).encode())
        with explained(new):
            os.replace(new, self.folder / upload)  # noqa: PTH105
        sync_folder(self.folder)
        return self.find(upload)

    def _read(self, folder: Path) -> Upload | None:
        try:
            about = json.loads((folder / _ABOUT).read_bytes())
        except (OSError, ValueError):
            return None
        try:
            preview = json.loads((folder / _PREVIEW).read_bytes())
        except (OSError, ValueError):
            preview = {}
        path = folder / about["file"]
        return Upload(folder.name, about["name"], about["kind"], path, about["created"], about["bytes"], preview)

    def _start(self, upload: Upload) -> None:
        with self._lock:
            # What is over since the upload was looked up must not begin again.
            if upload.id in self._looked or (upload.folder / _PREVIEW).exists():
                return
            self._looked[upload.id] = 0
        threading.Thread(target=self._look, args=(upload,), name=f"reading {upload.id}", daemon=True).start()

    def _look(self, upload: Upload) -> None:
        try:
            # One after the other: each may take a lot of memory.
            with self._turns[upload.kind]:
                found = read_upload(upload.kind, upload.folder, lambda count: self._looked.update({upload.id: count}))
            if "problem" in found:
                found["problem"] = [_in_their_words(text, upload) for text in found["problem"]]
            if not upload.folder.is_dir():
                return
            write_file(upload.folder / _PREVIEW, json.dumps(found).encode())
            if "problem" not in found:
                # Only now: who reads it once more begins with these.
                (upload.folder / ARCHIVE).unlink(missing_ok=True)
                shutil.rmtree(upload.folder / RECEIVED, ignore_errors=True)
        finally:
            with self._lock:
                self._looked.pop(upload.id, None)


def suffix_of(name: str) -> tuple[str, str]:
    """The suffix by which a file is kept, and what it is; raises UsageError for what cannot be used."""
    lower = name.lower()
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if lower.endswith(suffix):
            return suffix, _SUFFIXES[suffix]
    what = "SVG pictures can hold scripts" if lower.endswith((".svg", ".svgz")) else "files of its kind are not read"
    if lower.endswith((".xlsx", ".xls", ".ods", ".numbers")):
        raise UsageError(f"`{name:.100}` cannot be uploaded: {what}", "save the spreadsheet as CSV, and send that")
    raise UsageError(
        f"`{name:.100}` cannot be uploaded: {what}",
        f"tables: {', '.join(_TABLES)}, also as .gz or .zst; pictures: {', '.join(_PICTURES)}, also in a .zip",
    )


def shown_name(name: str) -> str:
    """The name of a file as it may be shown: without folders, and without what moves the text around it."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(each if each.isprintable() else "�" for each in last)[-_NAME:] or "unnamed"


def _stem(name: str) -> str:
    return name.rpartition(".")[0].lower()


def _named(received: Sequence[Received]) -> dict[str, Received]:
    """Names of ours for pictures and their captions, which keep one stem."""
    numbers: defaultdict[str, int] = defaultdict(lambda: len(numbers) + 1)
    named: dict[str, Received] = {}
    for one in received:
        target = f"{RECEIVED}/{numbers[_stem(one.name)]:06d}{suffix_of(one.name)[0]}"
        if target in named:
            target = f"{RECEIVED}/{numbers[f'{one.name}/{len(named)}']:06d}{suffix_of(one.name)[0]}"
        named[target] = one
    return named


def _in_their_words(text: str, upload: Upload) -> str:
    """A message about a file by the name that its owner knows."""
    return text.replace(f"`{upload.path.name}`", f"`{upload.name}`").replace(f"`{ARCHIVE}`", f"`{upload.name}`")
