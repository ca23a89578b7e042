"""What a folder of downloads holds, and how it was verified, so that nothing valid is fetched again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagemill.dataset.files import append_lines, drop_torn, read_lines
from imagemill.dataset.manifest import MARK
from imagemill.errors import UsageError

LINES = ".imagemill-download.jsonl"
"""First what is downloaded, then a line for each file or folder; readers pass over its leading point."""
OWN = ".imagemill"
"""What is on its way; `partial` holds files that are not whole yet."""


class State:
    """The lines of a folder."""

    def __init__(self, folder: Path, source: Mapping[str, Any]) -> None:
        """Raises UsageError when the folder holds something else than `source` says."""
        self.folder = folder
        self._source = dict(source)
        path = folder / LINES
        self._check_place()
        lines = read_lines(path)
        self._new = not lines
        if lines:
            self._check(lines[0])
        elif folder.is_dir() and any(place.name not in {OWN, LINES} for place in folder.iterdir()):
            raise UsageError(f"`{folder}` is not empty and holds no download", "choose another output folder")
        self._entries = {str(line.get("name")): line for line in lines[1:]}

    def begin(self) -> None:
        """Make the folder's lines fit to be continued; raises OutOfSpace."""
        path = self.folder / LINES
        drop_torn(path)
        if self._new:
            append_lines(path, [self._source])
            self._new = False

    def has(self, name: str) -> bool:
        """Whether a file or folder is there as it was when it was verified: by its size and time, else by its hash."""
        entry = self._entries.get(name)
        if entry is None:
            return False
        seen = _seen(self.folder / name)
        if entry == {**entry, **seen}:
            return True
        # Copied, perhaps: that gives another time.
        same = entry["size"] == seen["size"] and "sha256" in entry and (self.folder / name).is_file()
        return same and sha256_of(self.folder / name) == entry["sha256"]

    def has_part(self, name: str) -> bool:
        """Whether a part is there, as a folder or as an archive."""
        return self.has(name) or self.has(f"{name}.zip")

    def add(self, name: str, sha256: str = "") -> None:
        """Keep that a file or folder has been verified; raises OutOfSpace."""
        entry = {"name": name, **_seen(self.folder / name), **({"sha256": sha256} if sha256 else {})}
        append_lines(self.folder / LINES, [entry])
        self._entries[name] = entry

    def forget(self) -> None:
        """Let another download have the folder, while nothing has come of this one."""
        if not self._entries:
            (self.folder / LINES).unlink(missing_ok=True)
            self._new = True

    def _check_place(self) -> None:
        """Raise UsageError for what can hold no download, whatever is in it."""
        hint = "choose another output folder"
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"`{self.folder}` is a file", hint)
        for outer in [self.folder.resolve(), *self.folder.resolve().parents]:
            if outer.is_file():
                raise UsageError(f"`{outer}` is a file", hint)
            if (outer / "job.toml").is_file() and (outer / OWN).is_dir():
                raise UsageError(f"`{self.folder}` is the dataset `{outer}`, or inside of it", hint)
            if (outer / MARK).is_file():
                raise UsageError(f"`{self.folder}` is the export `{outer}`, or inside of it", hint)

    def _check(self, before: Mapping[str, Any]) -> None:
        hint = "choose another output folder, or delete it"
        for key, value in self._source.items():
            there = before.get(key)
            if there == value:
                continue
            if key == "commit":
                hint = f"`--revision {there}` continues it, another output folder begins anew"
                raise UsageError(f"`{self.folder}` was downloaded from commit `{there}`, now it is `{value}`", hint)
            said = f"{'with' if there else 'without'} `{key}`{f' {there}' if there and there is not True else ''}"
            raise UsageError(f"`{self.folder}` was downloaded {said}", hint)


def sha256_of(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seen(path: Path) -> dict[str, Any]:
    """What tells cheaply whether something has changed; empty sizes for what is not there."""
    if path.is_dir():
        with os.scandir(path) as found:
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in found]
        return {"size": sum(sizes), "files": len(sizes)}
    if not path.is_file():
        return {"size": -1}
    stat = path.stat()
    return {"size": stat.st_size, "modified": stat.st_mtime_ns}
