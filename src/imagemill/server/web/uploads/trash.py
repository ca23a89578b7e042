"""What users delete is put aside first, and comes back unless they delete it for good."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imagemill.dataset.files import explained, make_folder, sync_folder, write_file
from imagemill.dataset.folder import is_dataset
from imagemill.dataset.lock import locked
from imagemill.errors import LockedError, UsageError
from imagemill.server.web.workspace import NotFound, Workspace, link_in

Kind = Literal["dataset", "upload"]
_ABOUT = "item.json"
_CONTENT = "content"


@dataclass(frozen=True, slots=True)
class Item:
    """Something that was put aside."""

    id: str
    kind: Kind
    name: str
    """As it was shown."""
    place: str
    """Where it was, in the folder that is served."""
    deleted: float
    told: dict[str, Any]
    """What was known of it: images, rows, bytes."""
    folder: Path

    @property
    def content(self) -> Path:
        """Where it is now."""
        return self.folder / _CONTENT


class Trash:
    """What was put aside in a folder that is served."""

    def __init__(self, workspace: Workspace) -> None:
        """Finish what was being deleted for good when a server ended."""
        self._workspace = workspace
        self.folder = workspace.state / "trash"
        make_folder(self.folder)
        for left in self.folder.glob(".*.gone"):
            _remove(left)

    def list(self) -> list[Item]:
        """All of it, what was deleted last first."""
        found = [self._read(path) for path in self.folder.iterdir() if not path.name.startswith(".")]
        return sorted((item for item in found if item), key=lambda item: item.deleted, reverse=True)

    def find(self, item: str) -> Item:
        """One by its id; raises NotFound."""
        known = len(item) == 16 and set(item) <= set("0123456789abcdef")
        found = self._read(self.folder / item) if known else None
        if not found:
            raise NotFound(f"there is no `{item:.40}` in the trash", "it may be back already: see the list")
        return found

    def put(self, kind: Kind, name: str, folder: Path, told: dict[str, Any]) -> Item:
        """Put a dataset or an upload aside; raises LockedError while another process writes it."""
        item = self.folder / secrets.token_hex(8)
        place = folder.relative_to(self._workspace.folder).as_posix()
        about = {"kind": kind, "name": name, "place": place, "deleted": time.time(), "told": told}
        with _still(kind, folder):
            make_folder(item)
            # Until the rename, it tells of nothing.
            write_file(item / _ABOUT, json.dumps(about).encode())
            _move(folder, item / _CONTENT)
        return self.find(item.name)

    def restore(self, item: str) -> Item:
        """Bring something back to where it was; raises UsageError when its place is taken."""
        found = self.find(item)
        place = self._workspace.folder / found.place
        if os.path.lexists(place):
            raise UsageError(
                f"there is another `{found.name}` now", "delete or rename that one, then bring this one back"
            )
        if not place.parent.resolve().is_relative_to(self._workspace.folder):
            raise UsageError(f"`{found.place}` leads out of the folder that is served", "look at the folder")
        make_folder(place.parent)
        _move(found.content, place)
        shutil.rmtree(found.folder, ignore_errors=True)
        return found

    def remove(self, item: str) -> Item:
        """Delete something for good."""
        found = self.find(item)
        gone = self.folder / f".{found.id}.gone"
        _move(found.folder, gone)
        threading.Thread(target=_remove, args=(gone,), name=f"deleting {found.id}", daemon=True).start()
        return found

    def _read(self, folder: Path) -> Item | None:
        try:
            about = json.loads((folder / _ABOUT).read_bytes())
        except (OSError, ValueError):
            return None
        return Item(id=folder.name, folder=folder, **about) if (folder / _CONTENT).is_dir() else None


@contextmanager
def _still(kind: Kind, folder: Path) -> Iterator[None]:
    """While nobody writes it."""
    if kind == "upload":
        yield
        return
    if not is_dataset(folder):
        raise NotFound(f"there is no dataset `{folder.name}`", "it may have been moved: see the list")
    if link_in(folder):
        # Its lock may be another folder's, and no server or job of ours writes it.
        yield
        return
    try:
        with locked(folder):
            yield
    except LockedError as error:
        raise LockedError(f"`{folder.name}` is being written", error.hint) from None


def _move(source: Path, target: Path) -> None:
    with explained(target):
        os.rename(source, target)  # noqa: PTH104 - never over what is there
    sync_folder(target.parent)
    sync_folder(source.parent)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
