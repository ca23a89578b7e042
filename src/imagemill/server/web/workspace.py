"""The folder that is served: its datasets by opaque id, and where the server keeps its own things."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.dataset import Dataset
from imagemill.dataset.files import make_folder
from imagemill.dataset.folder import is_dataset
from imagemill.errors import UsageError

if TYPE_CHECKING:
    from imagemill.dataset.index import Index

STATE = ".imagemill-server"
"""The folder of the server's own things: the queue, uploads, thumbnails, the trash. Datasets need none of it."""
_DEPTH = 3
"""How deep datasets are looked for."""
_NAME = re.compile(r"[^\W_][\w .-]{0,79}")
_BYTES = 200
"""Of a name; file systems take 255, and some of what is written needs a longer one."""
_STAMPED = ("job.toml", ".imagemill", "images")
IMAGE_ID = r"^(0|[1-9][0-9]{0,9})-(0|[1-9][0-9]{0,9})$"
"""Row and number of an image, as in the name of its file."""

_Stamp = tuple[tuple[int, int, int], ...]


class NotFound(UsageError):
    """What was asked for by an id is not there."""

    status = 404
    """Of the answer."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A dataset of the folder."""

    id: str
    name: str
    """Its path in the folder, as it is shown."""
    folder: Path


class Workspace:
    """A folder of datasets; whoever asks names them by ids, never by paths."""

    def __init__(self, folder: str | Path) -> None:
        """Take a folder; it is made when it does not exist."""
        self.folder = Path(folder).resolve()
        self.state = self.folder / STATE
        make_folder(self.state)
        self._entries: dict[str, Entry] = {}
        self._checked: dict[str, _Stamp] = {}
        """How datasets were when nothing kept them from being opened."""
        self._indexes: dict[str, Index] = {}
        self._lock = threading.Lock()

    def id_of(self, folder: Path) -> str:
        """The id of a dataset, which stays while it is not moved."""
        return blake2b(os.fsencode(folder.relative_to(self.folder)), digest_size=6).hexdigest()

    def datasets(self) -> list[Entry]:
        """The datasets that are there now, by name; none that is reached through a link, or whose name is no text."""
        found = [Entry(self.id_of(path), str(path.relative_to(self.folder)), path) for path in self._walk(self.folder)]
        self._entries = {entry.id: entry for entry in found}
        return sorted(found, key=lambda entry: entry.name.casefold())

    def find(self, dataset: str) -> Entry:
        """A dataset by its id, which may be opened; raises NotFound, and UsageError for one that may not."""
        entry = self.entry(dataset)
        stamp = _stamp(entry.folder)
        if self._checked.get(entry.id) != stamp:
            check(entry.folder)
            self._checked[entry.id] = stamp
        return entry

    def entry(self, dataset: str) -> Entry:
        """A dataset by its id, whatever its state; raises NotFound."""
        entry = self._entries.get(dataset)
        if not entry or not is_dataset(entry.folder):
            self.datasets()
            entry = self._entries.get(dataset)
        if not entry:
            raise NotFound(f"there is no dataset `{dataset:.40}`", "it may have been moved or deleted: see the list")
        return entry

    def open(self, dataset: str) -> Dataset:
        """Open a dataset; raises NotFound."""
        return Dataset(self.find(dataset).folder)

    def index(self, dataset: str) -> Index:
        """The index of a dataset as it was when it was last brought up to date."""
        entry = self.find(dataset)
        with self._lock:
            index = self._indexes.get(entry.id)
        return index or self.fresh_index(dataset)

    def fresh_index(self, dataset: str, progress: Callable[[int, int], None] | None = None) -> Index:
        """The index of a dataset as it is now; `progress` is told of rows that are read for the first one."""
        from imagemill.dataset.index import Index

        entry = self.find(dataset)
        with self._lock:
            before = self._indexes.get(entry.id)
        index = before.refreshed() if before else Index(entry.folder, progress=progress)
        with self._lock:
            self._indexes[entry.id] = index
        return index

    def forget(self, dataset: str) -> None:
        """Let go of what is kept of a dataset, which is moved away or has come back."""
        with self._lock:
            self._indexes.pop(dataset, None)
        self._entries.pop(dataset, None)
        self._checked.pop(dataset, None)

    def new_folder(self, name: str) -> Path:
        """Where a new dataset of this name is put; raises UsageError for a name that is taken or cannot be used."""
        name = name.strip()
        if not _NAME.fullmatch(name) or name.endswith(".") or len(name.encode()) > _BYTES:
            raise UsageError(
                f"`{name:.80}` cannot be the name of a dataset",
                "use letters, digits, spaces, dots, `-` and `_`; begin with a letter or digit; "
                f"at most 80 characters and {_BYTES} bytes",
            )
        folder = self.folder / name
        if os.path.lexists(folder):
            raise UsageError(f"there is something called `{name}` already", "choose another name")
        return folder

    def _walk(self, folder: Path, depth: int = 0) -> Iterator[Path]:
        try:
            inner = [entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
            found = depth > 0 and is_dataset(folder)
        except OSError:
            return
        if found:
            yield folder
            return
        if depth < _DEPTH:
            for entry in inner:
                if not entry.name.startswith(".") and _is_text(entry.name):
                    yield from self._walk(Path(entry.path), depth + 1)


def check(folder: Path) -> None:
    """Raise UsageError for a dataset that cannot be opened: its `job.toml` is damaged, or a link leads out of it."""
    if link := link_in(folder):
        raise UsageError(
            f"`{folder / link}` is a link, which may lead out of the folder that is served",
            "put what it leads to in its place",
        )
    _ = Dataset(folder).job


def link_in(folder: Path) -> str:
    """The first link among the files and folders that make a dataset; pictures are looked at when they are opened."""
    return next((str(path.relative_to(folder)) for path in _own_files(folder) if path.is_symlink()), "")


def _own_files(folder: Path) -> Iterator[Path]:
    """What of a dataset is read as it is, each folder before what lies in it."""
    yield from (folder / name for name in _STAMPED)
    with suppress(FileNotFoundError):
        for part in (folder / "images").iterdir():
            yield from (part, part / "metadata.jsonl")
    for place, folders, files in os.walk(folder / ".imagemill"):
        # There may be as many as images, and no page opens them.
        folders[:] = [name for name in folders if name != "sources"]
        yield from (Path(place, name) for name in (*folders, *files))


def _stamp(folder: Path) -> _Stamp:
    """What changes when a dataset has other files."""
    states = []
    for name in _STAMPED:
        with suppress(FileNotFoundError):
            states.append(os.lstat(folder / name))
    return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)


def _is_text(name: str) -> bool:
    """Whether a page, and the list of jobs, can hold the name of a folder; its bytes may be anything."""
    return name == name.encode(errors="replace").decode()
