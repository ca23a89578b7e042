"""A folder as a ZIP file that is written while it is sent: of known length, and in as much memory for any folder.

The same folder gives the same bytes: files in the order of their names, stored as they are, with a fixed time.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagemill.errors import ImagemillError

_CHUNK = 2**18
"""Bytes that are read, and sent, at a time."""
_SMALL = 2**20
"""Bytes of a file that is read once; of larger ones the checksum is taken before."""
_LARGE = 2**32 - 1
"""What does not fit into the fields of the first ZIP files."""
_MANY = 2**16 - 1
_UTF_8 = 0x0800
_TIME, _DATE = 0, 0x0021
"""The beginning of 1980, before which ZIP has no time."""
_UNIX = 3 << 8
_MODE = 0o100644 << 16


@dataclass(frozen=True, slots=True)
class _Member:
    path: Path
    name: bytes
    size: int

    def local(self, checksum: int) -> bytes:
        """What stands before its bytes."""
        large = self.size >= _LARGE
        size = _LARGE if large else self.size
        extra = struct.pack("<HHQQ", 1, 16, self.size, self.size) if large else b""
        fields = (45 if large else 20, _UTF_8, 0, _TIME, _DATE, checksum, size, size, len(self.name), len(extra))
        return struct.pack("<4sHHHHHIIIHH", b"PK\3\4", *fields) + self.name + extra

    def central(self, checksum: int, offset: int) -> bytes:
        """Its line in the list at the end."""
        large, far = self.size >= _LARGE, offset >= _LARGE
        wide = [self.size, self.size] * large + [offset] * far
        extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        version = 45 if wide else 20
        size = _LARGE if large else self.size
        fields = (_UNIX | version, version, _UTF_8, 0, _TIME, _DATE, checksum, size, size, len(self.name), len(extra))
        places = (0, 0, 0, _MODE, _LARGE if far else offset)
        return struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", *fields, *places) + self.name + extra


def zip_length(folder: Path) -> int:
    """How many bytes `zip_stream` will give."""
    offset = listed = count = 0
    for member in _members(folder):
        listed += len(member.central(0, offset))
        offset += len(member.local(0)) + member.size
        count += 1
    return offset + listed + len(_end(count, offset, listed))


def zip_stream(folder: Path) -> Iterator[bytes]:
    """All files of a folder, below its name; raises ImagemillError when one changes meanwhile."""
    with tempfile.TemporaryFile() as listed:
        waiting = bytearray()
        offset = count = 0
        for member in _members(folder):
            for piece in _written(member):
                if piece.checksum is not None:
                    listed.write(member.central(piece.checksum, offset))
                waiting += piece.content
                if len(waiting) >= _CHUNK:
                    yield bytes(waiting)
                    waiting.clear()
            offset += len(member.local(0)) + member.size
            count += 1
        yield bytes(waiting)
        length = listed.tell()
        listed.seek(0)
        while content := listed.read(_CHUNK):
            yield content
        yield _end(count, offset, length)


@dataclass(frozen=True, slots=True)
class _Piece:
    content: bytes
    checksum: int | None = None
    """Of the whole file, with its first piece."""


def _written(member: _Member) -> Iterator[_Piece]:
    with open(member.path, "rb", opener=_no_link) as file:
        if member.size <= _SMALL:
            content = file.read(member.size + 1)
            _check(member, len(content))
            checksum = zlib.crc32(content)
            yield _Piece(member.local(checksum) + content, checksum)
            return
        checksum = 0
        while content := file.read(_CHUNK):
            checksum = zlib.crc32(content, checksum)
        _check(member, file.tell())
        file.seek(0)
        yield _Piece(member.local(checksum), checksum)
        left = member.size
        while content := file.read(min(_CHUNK, left)):
            left -= len(content)
            yield _Piece(content)
        _check(member, member.size - left)


def _check(member: _Member, size: int) -> None:
    if size != member.size:
        raise ImagemillError(f"`{member.path}` has changed while it was read", "download it again")


def _end(count: int, start: int, length: int) -> bytes:
    """What stands after the list."""
    wide = b""
    if count >= _MANY or start >= _LARGE or length >= _LARGE:
        wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, _UNIX | 45, 45, 0, 0, count, count, length, start)
        wide += struct.pack("<4sIQI", b"PK\6\7", 0, start + length, 1)
    told = min(count, _MANY)
    return wide + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, told, told, min(length, _LARGE), min(start, _LARGE), 0)


def _members(folder: Path) -> Iterator[_Member]:
    """Regular files by name; what is reached through links is left out."""
    for path in _walk(folder):
        name = Path(folder.name, path.relative_to(folder)).as_posix().encode()
        yield _Member(path, name, path.stat(follow_symlinks=False).st_size)


def _walk(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
