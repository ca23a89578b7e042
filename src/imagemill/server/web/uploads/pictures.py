"""Uploaded pictures are looked at one by one, fully decoded, and kept under names of ours."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from imagemill.dataset.files import encode_lines, write_file
from imagemill.errors import OutOfSpace, UsageError
from imagemill.foreign.folders import folder_splits, read_folder
from imagemill.images import EXTENSIONS, format_of, open_image, upright
from imagemill.layouts.base import Loaded
from imagemill.records import files_of
from imagemill.server.web.uploads.tables import ROWS
from imagemill.tables.pictures import IMAGE_NAMES
from imagemill.terminal import size

MOST_BYTES = 4_000_000_000
"""Of a set of pictures, as it comes and unpacked."""
MOST_FILES = 20_000
RECEIVED = "received"
"""Where pictures lie that came one by one."""
ARCHIVE = "pictures.zip"
NAMES = "names.json"
"""How their owner calls those that came one by one, by our names."""
PICTURES = "pictures"
"""Where they are kept."""
THUMBNAILS = "thumbnails"
SHOWN = 24
"""Pictures with thumbnails."""
_RATIO = 200
"""How far a file of an archive may unfold; pictures hardly do."""
_SMALL = 2**20
"""Bytes of a file that may unfold further."""
_SIDE = 256
_REJECTS = 200
"""That are shown."""
_EVERY = 50
_RESERVE = 256 * 2**20
"""Bytes that stay free."""
_SAID = 300


def take_in(folder: Path, looked: Callable[[int], None]) -> dict[str, Any]:
    """Keep the pictures of an upload, and tell of them; raises UsageError where there is none that can be used."""
    archive = folder / ARCHIVE
    source = archive if archive.exists() else folder / RECEIVED
    names: dict[str, str] = json.loads((folder / NAMES).read_bytes()) if (folder / NAMES).exists() else {}
    if source == archive:
        _check_archive(archive)
    for kept in (PICTURES, THUMBNAILS):
        shutil.rmtree(folder / kept, ignore_errors=True)
        (folder / kept).mkdir()
    taken, rejects = _Taken(folder), []
    for count, loaded in enumerate(_all(source), 1):
        name = str(loaded.record.get("file_name", ""))
        said = names.get(name, name)
        try:
            taken.add(loaded, said)
        except (KeyError, OSError, TypeError, ValueError, RecursionError) as error:
            reason = "it is absent" if isinstance(error, KeyError) else str(error)
            rejects.append([0, reason[:500], said[:_SAID]])
        if count % _EVERY == 0:
            looked(count)
    if not taken.rows:
        first = f"; the first of {len(rejects)} refused: `{rejects[0][2]}`: {rejects[0][1]}" if rejects else ""
        raise UsageError(f"no picture can be used{first}", "send PNG, JPEG or WebP files, or a ZIP archive of them")
    columns = list(dict.fromkeys(name for row in taken.rows for name in row))
    write_file(
        folder / PICTURES / "metadata.jsonl",
        encode_lines({name: row.get(name, "") for name in columns} for row in taken.rows),
    )
    # Before the archive goes away.
    os.sync()
    write_file(folder / ROWS, json.dumps({"shown": taken.shown, "rejects": rejects[:_REJECTS]}).encode())
    return {
        "rows": len(taken.rows) + len(rejects),
        "accepted": len(taken.rows),
        "rejected": len(rejects),
        "talk": [],
        "doubt": None,
        "columns": [{"name": name, "kind": "text", "role": ""} for name in columns],
        "picture_columns": [name for name in columns if name.endswith(("file_name", "file_names"))],
        "prompt_column": "",
        "bytes": taken.bytes,
        "sizes": [[f"{width}×{height}", number] for (width, height), number in taken.sizes.most_common(3)],
    }


class _Taken:
    """Pictures that are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.shown: list[list[Any]] = []
        self.bytes = 0
        self.sizes: Counter[tuple[int, int]] = Counter()

    def add(self, loaded: Loaded, said: str) -> None:
        """Keep one and the pictures that belong to it; raises ValueError, OSError and KeyError."""
        if loaded.problem:
            raise ValueError(loaded.problem)
        record = dict(loaded.record)
        files = files_of(record)
        data = {name: loaded.files[name] for name in files}
        images = {name: open_image(content) for name, content in data.items()}
        number = len(self.rows) + 1
        own = {
            name: f"{number:06d}{f'_{place}' if place else ''}.{EXTENSIONS[format_of(data[name])]}"
            for place, name in enumerate(files)
        }
        row = {"source_name": said[:_SAID], **_told(record, own)}
        # What no file can hold is found out before this one is kept.
        encode_lines([row])
        first = upright(images[files[0]])
        self.bytes += sum(map(len, data.values()))
        if self.bytes > MOST_BYTES:
            raise UsageError(f"the pictures have more than {size(MOST_BYTES)}", "send them in several uploads")
        for name, content in data.items():
            if shutil.disk_usage(self.folder).free < len(content) + _RESERVE:
                raise OutOfSpace("there is no space left for the pictures", "free some space and send them again")
            (self.folder / PICTURES / own[name]).write_bytes(content)
        self.rows.append(row)
        self.sizes[first.size] += 1
        if number <= SHOWN:
            first.thumbnail((_SIDE, _SIDE))
            buffer = io.BytesIO()
            first.save(buffer, "WEBP", quality=80)
            (self.folder / THUMBNAILS / f"{number}.webp").write_bytes(buffer.getvalue())
            width, height = images[files[0]].size
            self.shown.append([number, said[:_SAID], width, height, str(record.get("caption", ""))[:_SAID]])


def _told(record: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, Any]:
    """What is told of a picture, with our names of files; no other column may name one."""
    told: dict[str, Any] = {}
    for name, value in record.items():
        if name.endswith("file_name"):
            told[name] = own[str(value)]
        elif name.endswith("file_names"):
            told[name] = [own[str(each)] for each in value]
        elif name not in IMAGE_NAMES:
            # Others write NaN for nothing.
            told[name] = None if isinstance(value, float) and not math.isfinite(value) else value
    return told


def _all(source: Path) -> Iterator[Loaded]:
    """The pictures of every split."""
    for split in folder_splits(source):
        yield from read_folder(source, split)


def _check_archive(path: Path) -> None:
    """Raise UsageError for an archive that is to do harm; nothing of it is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise UsageError(f"it is no whole ZIP archive: {error}", "make it again") from None
    if len(members) > 2 * MOST_FILES:
        raise UsageError(f"the archive has {len(members):,} files", f"at most {2 * MOST_FILES:,}: make several")
    total = sum(member.file_size for member in members)
    if total > MOST_BYTES:
        raise UsageError(f"the archive has {size(total)} when it is unpacked", f"at most {size(MOST_BYTES)}")
    for member in members:
        if member.file_size > max(_SMALL, _RATIO * member.compress_size):
            raise UsageError(
                f"`{member.filename:.100}` in the archive unfolds to {size(member.file_size)}, "
                f"{member.file_size // max(1, member.compress_size):,} times its bytes",
                "leave it out: no picture does",
            )
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
            raise UsageError(f"`{member.filename:.100}` in the archive is a link, or no file", "leave it out")
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if ".." in parts or member.filename.startswith(("/", "\\")):
            raise UsageError(f"`{member.filename:.100}` in the archive leads out of it", "give it a plain name")
