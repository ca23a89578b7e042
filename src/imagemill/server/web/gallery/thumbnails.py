"""Small copies of images, made when they are first asked for and kept in one SQLite file, which may be deleted."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from imagemill.dataset.removal import removal_mark
from imagemill.environment import cores
from imagemill.images import MAX_BYTES, upright
from imagemill.server.web.workspace import Workspace

if TYPE_CHECKING:
    from apsw import Connection

SIDE = 256
"""Pixels of the longer side."""
_QUALITY = 78
_EFFORT = 1
"""Of WebP, out of 6: larger by a tenth, and four times as fast."""
_MOST_BYTES = 2 * 2**30
"""Of the file."""
_AT_ONCE = 500
"""Thumbnails that go together, for others or for good."""
_SECONDS = 5.0
"""So often it is looked whether some must go."""
PICTURE_HEADERS = {"content-security-policy": "sandbox; default-src 'none'", "x-content-type-options": "nosniff"}
"""Of every picture that is served: whatever its bytes are, no browser runs them."""
_SCHEMA = """
pragma journal_mode = wal;
pragma synchronous = off;
pragma secure_delete = on;
create table if not exists thumbnails (number integer primary key, key text unique, image blob, dataset text);
create index if not exists thumbnails_dataset on thumbnails (dataset);
create table if not exists datasets (id text primary key, mark text);
"""


class Wanted:
    """A thumbnail that somebody waits for."""

    def __init__(self, dataset: str, path: Path) -> None:
        self.dataset = dataset
        self.path = path
        self.future: Future[bytes] = Future()
        self.waiting = 0


class Thumbnails:
    """Makes thumbnails in threads of its own, those that were asked for last before those that were asked for first."""

    def __init__(self, workspace: Workspace, most_bytes: int = _MOST_BYTES) -> None:
        """Keep them with the server's own things."""
        self._workspace = workspace
        self._path = workspace.state / "thumbnails.db"
        self._most_bytes = most_bytes
        self._database = self._opened()
        self._database_lock = threading.Lock()
        self._wanted: OrderedDict[str, Wanted] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self._closing = threading.Event()
        for number in range(min(2, cores())):
            threading.Thread(target=self._work, name=f"imagemill-thumbnails-{number}", daemon=True).start()

    def start(self) -> None:
        """Have those go that must, now and as long as it is open."""
        threading.Thread(target=self._watch, name="imagemill-thumbnails-watch", daemon=True).start()

    def close(self) -> None:
        """Make no more."""
        self._closing.set()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with self._database_lock:
            self._database.close()

    def kept(self, key: str) -> bytes | None:
        """The thumbnail with a key, if it was made before."""
        import apsw

        with self._database_lock:
            try:
                found = self._database.execute("select image from thumbnails where key = ?", (key,)).fetchone()
            except (apsw.CorruptError, apsw.NotADBError):
                self._database.close()
                self._database = self._opened(anew=True)
                return None
            except apsw.Error:
                return None
        return found[0] if found else None

    def want(self, key: str, dataset: str, path: Path) -> Wanted:
        """Have one made of an image of a dataset, before all that are wanted already; `leave` ends the wait.

        Its future raises ValueError for a file that is no image, and OSError for one that cannot be read.
        """
        with self._changed:
            wanted = self._wanted.setdefault(key, Wanted(dataset, path))
            wanted.waiting += 1
            self._wanted.move_to_end(key)
            self._changed.notify()
        return wanted

    def leave(self, key: str, wanted: Wanted) -> None:
        """Do not wait any longer; what nobody waits for is not made."""
        with self._changed:
            wanted.waiting -= 1
            if not wanted.waiting and self._wanted.get(key) is wanted:
                del self._wanted[key]

    def forget_gone(self) -> None:
        """Leave nothing of datasets that are gone, and of those from which something was removed since."""
        marks = {entry.id: removal_mark(entry.folder) for entry in self._workspace.datasets()}
        with self._database_lock:
            known = list(self._database.execute("select id, mark from datasets"))
        for dataset, mark in known:
            if marks.get(dataset) != mark:
                self._forget(dataset)

    def _forget(self, dataset: str) -> None:
        left = True
        while left:
            # Others are served in between: to write over many takes a while.
            with self._database_lock:
                self._database.execute(
                    "delete from thumbnails where number in (select number from thumbnails where dataset = ? limit ?)",
                    (dataset, _AT_ONCE),
                )
                left = self._database.changes() > 0
                if not left:
                    self._database.execute("delete from datasets where id = ?", (dataset,))
                    self._database.execute("pragma wal_checkpoint(truncate)")

    def _watch(self) -> None:
        import apsw

        while not self._closing.is_set():
            # A damaged file is made anew by who looks for a thumbnail.
            with suppress(apsw.Error):
                self.forget_gone()
            self._closing.wait(_SECONDS)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closed)
                if self._closed:
                    return
                key, wanted = self._wanted.popitem()
            try:
                image = thumbnail(_read(wanted.path))
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                wanted.future.set_exception(error)
            else:
                self._keep(key, wanted, image)
                wanted.future.set_result(image)

    def _keep(self, key: str, wanted: Wanted, image: bytes) -> None:
        import apsw

        # Without a disk to keep it on it is made again.
        with self._database_lock, suppress(apsw.Error):
            # Taken before it is looked whether the image is there, so that a removal after that is noticed.
            mark = removal_mark(wanted.path.parents[2])
            if not wanted.path.exists():
                return
            self._database.execute("insert or ignore into datasets values (?, ?)", (wanted.dataset, mark))
            self._database.execute(
                "insert or ignore into thumbnails (key, image, dataset) values (?, ?, ?)", (key, image, wanted.dataset)
            )
            pages, free, each = (self._database.pragma(name) for name in ("page_count", "freelist_count", "page_size"))
            if (pages - free) * each > self._most_bytes:
                self._database.execute(
                    "delete from thumbnails where number in (select number from thumbnails order by number limit ?)",
                    (_AT_ONCE,),
                )

    def _opened(self, anew: bool = False) -> Connection:
        """The file, which is made anew where it is damaged."""
        import apsw

        if anew:
            for end in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)
        database = apsw.Connection(str(self._path))
        database.set_busy_timeout(1_000)
        try:
            list(database.execute(_SCHEMA))
        except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError):
            database.close()
            if anew:
                raise
            return self._opened(anew=True)
        return database


def thumbnail(data: bytes) -> bytes:
    """A small copy of an image; raises ValueError for what is none."""
    from PIL import Image

    image = upright(data)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=_QUALITY, method=_EFFORT)
    return file.getvalue()


def open_file(path: Path) -> BinaryIO:
    """Open a file, and none that it is a link to; nobody is waited for at the other end of a pipe."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _read(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read(MAX_BYTES + 1)
