"""Every file of a folder with its size and hash, so that anyone can tell whether it is as it was written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imagemill.dataset.files import sync_folder
from imagemill.errors import UsageError
from imagemill.records import to_json

MANIFEST = ".imagemill-manifest.jsonl"
"""Readers pass over its leading point."""
MARK = ".imagemill-export.json"
"""The file of an export that says what it is an export of, and how."""
_STATE = ".imagemill"
_CARD = "README.md"


def write_manifest(folder: Path) -> None:
    """Write `.imagemill-manifest.jsonl`: a line with `file`, `sha256` and `size` for each file but itself."""
    with (folder / MANIFEST).open("w", encoding="utf-8") as lines:
        for _, paths in _walk(folder):
            for path in paths:
                if path != folder / MANIFEST:
                    lines.write(to_json(_line(path, folder)) + "\n")


def check_manifest(folder: Path, hint: str = "delete the folder and give the command again") -> None:
    """Raise UsageError when a file is absent or has another size; people may edit the card."""
    if not (folder / MANIFEST).is_file():
        raise UsageError(f"`{folder}` has lost its manifest, `{MANIFEST}`", hint)
    with (folder / MANIFEST).open("rb") as lines:
        for line in lines:
            try:
                told = json.loads(line)
                path, size = folder / told["file"], told["size"]
            except (ValueError, RecursionError, KeyError, TypeError):
                raise UsageError(f"`{folder / MANIFEST}` is damaged", hint) from None
            if told["file"] != _CARD and (not path.is_file() or path.stat().st_size != size):
                raise UsageError(f"`{path}` is not as it was written", hint)


def read_mark(folder: Path) -> dict[str, Any] | None:
    """What a folder is an export of; None when it is none."""
    try:
        value = json.loads((folder / MARK).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def sync_files(folder: Path) -> None:
    """Wait until everything in a folder is on disk; what is linked is there already."""
    for place, paths in _walk(folder):
        for path in paths:
            if path.stat().st_nlink == 1:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        sync_folder(place)


def _walk(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """The folders in a folder, each with its files, in order; without our own state."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != _STATE)
        yield Path(place), [Path(place, name) for name in sorted(names)]


def _line(path: Path, folder: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.relative_to(folder).as_posix(), "sha256": sha256, "size": path.stat().st_size}
