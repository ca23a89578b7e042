"""The ZIP archive of a part: checked, unpacked, or read in pieces from afar; nothing in it is believed."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from imagemill.dataset.files import make_folder, write_file
from imagemill.downloading.repository import FetchFailed
from imagemill.images import MAX_BYTES

_MEMBERS = 10_000
"""Files that a part may have: ten times as many as it should, and what a folder of the hub can hold."""
_GROWTH = 20
"""Times its own size that an archive may unpack to, where that is more than `_SMALL`."""
_SMALL = 2**28
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")
TAIL = 2**17
"""Bytes at the end of an archive of 1,000 images, which hold its directory."""
_HEADER = 2**17
"""Bytes of a member beside its content, at most."""
_GAP = 2**14
"""Bytes between two members for which another request does not pay, or as many as those before take."""
_SPAN = 2**24
"""Bytes of a request, unless a single member has more."""
_WHOLE = 0.5
"""Share of an archive from which on all of it is fetched."""

Members = Mapping[str, zipfile.ZipInfo]
Span = tuple[int, int, list[zipfile.ZipInfo]]


def check_archive(path: Path, part: str) -> None:
    """Read all of an archive: every member's CRC, and whether its JSON file is right; raises FetchFailed."""
    with _explained(), zipfile.ZipFile(path) as archive:
        members = _members(archive, path.stat().st_size)
        _lacking(members, _entries(archive, members, part))
        for member in members.values():
            _content(archive, member)


def unpack(path: Path, part: str, folder: Path, chosen: AbstractSet[str] | None = None) -> None:
    """Write what an archive holds into a folder, or the chosen images alone; raises FetchFailed and OutOfSpace."""
    with _explained(), zipfile.ZipFile(path) as archive:
        members = _members(archive, path.stat().st_size)
        entries = _entries(archive, members, part)
        _lacking(members, entries)
        make_folder(folder)
        if chosen is not None:
            _write_entries(entries, chosen, folder / f"{part}.json")
        for name, member in members.items():
            if (chosen is None or name in chosen) and not _is_there(folder / name, member):
                write_file(folder / name, _content(archive, member), durable_name=False)


def unpack_remote(
    size: int, fetch: Callable[[int, int], bytes], part: str, folder: Path, chosen: AbstractSet[str]
) -> bool:
    """Write the chosen images of an archive afar into a folder; of the archive only their bytes are fetched.

    `fetch` takes where a range starts and ends. False, and nothing written, where the images are so much of the archive
    that all of it should be fetched. Raises FetchFailed, OutOfSpace and what `fetch` raises.
    """
    remote = _Remote(size, fetch)
    remote.bring(max(0, size - TAIL), size)
    with _explained(), zipfile.ZipFile(cast("IO[bytes]", remote)) as archive:
        members = _members(archive, size)
        _lacking(members, chosen)
        left = [members[name] for name in chosen if not _is_there(folder / name, members[name])]
        described = _described(members, part)
        spans = list(_spans(archive, left))
        if sum(end - start for start, end, _ in spans) >= _WHOLE * size:
            return False
        make_folder(folder)
        for start, end, _ in _spans(archive, [described]):
            remote.bring(start, end)
        _write_entries(_entries(archive, members, part), chosen, folder / f"{part}.json")
        for start, end, group in spans:
            remote.forget()
            remote.bring(start, end)
            for member in group:
                write_file(folder / member.filename, _content(archive, member), durable_name=False)
    return True


class _Remote:
    """A file afar, as `zipfile` reads one: of what is not here yet, ranges are fetched."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        self._size = size
        self._fetch = fetch
        self._place = 0
        self._starts: list[int] = []
        self._spans: list[bytes] = []

    def bring(self, start: int, end: int) -> None:
        """Fetch a range, which stays."""
        number = bisect_right(self._starts, start)
        self._spans.insert(number, self._fetch(start, end))
        self._starts.insert(number, start)

    def forget(self) -> None:
        self._starts.clear()
        self._spans.clear()

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, count: int | None = -1) -> bytes:
        end = self._size if count is None or count < 0 else min(self._size, self._place + count)
        parts = []
        while self._place < end:
            number = bisect_right(self._starts, self._place) - 1
            inside = self._place - self._starts[number] if number >= 0 else 0
            if number < 0 or inside >= len(self._spans[number]):
                self.bring(self._place, min(self._size, max(end, self._place + TAIL)))
                continue
            parts.append(self._spans[number][inside : inside + end - self._place])
            self._place += len(parts[-1])
        return b"".join(parts)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what reading an archive can raise into FetchFailed."""
    try:
        yield
    except (
        zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError,
    ) as error:  # fmt: skip
        text = str(error) or type(error).__name__
        raise FetchFailed(f"the archive is broken: {text[:200]}") from None


def _members(archive: zipfile.ZipFile, size: int) -> Members:
    """What an archive holds, by name; raises FetchFailed for names, kinds and sizes that no part has."""
    members = archive.infolist()
    if len(members) > _MEMBERS:
        raise FetchFailed(f"the archive holds {len(members):,} files")
    if sum(member.file_size for member in members) > max(_SMALL, _GROWTH * size):
        raise FetchFailed("the archive would unpack to far more than a part holds")
    names = set()
    for member in members:
        shown = repr(member.orig_filename[:100])
        if not _NAME.fullmatch(member.orig_filename):
            raise FetchFailed(f"the archive holds {shown}, which is no name of an image")
        if stat.S_IFMT(member.external_attr >> 16) not in {0, stat.S_IFREG} or member.flag_bits & 1:
            raise FetchFailed(f"the archive holds {shown}, which is no plain file")
        if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise FetchFailed(f"the archive holds {shown}, which is packed in an unusual way")
        if member.file_size > MAX_BYTES or member.compress_size > MAX_BYTES:
            raise FetchFailed(f"the archive holds {shown} of {member.file_size:,} bytes")
        names.add(member.filename.casefold())
    if len(names) < len(members):
        raise FetchFailed("the archive holds one name twice")
    return {member.filename: member for member in members}


def _described(members: Members, part: str) -> zipfile.ZipInfo:
    """The JSON file; raises FetchFailed."""
    if f"{part}.json" not in members:
        raise FetchFailed(f"the archive lacks `{part}.json`")
    return members[f"{part}.json"]


def _entries(archive: zipfile.ZipFile, members: Members, part: str) -> dict[str, Any]:
    """What the JSON file says of images, by name; raises FetchFailed."""
    try:
        entries = json.loads(_content(archive, _described(members, part)))
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise FetchFailed(f"`{part}.json` in the archive is no table of images")
    return entries


def _lacking(members: Members, names: Iterable[str]) -> None:
    """Raise FetchFailed where there are images of these names missing."""
    absent = [name for name in names if name not in members]
    if absent:
        raise FetchFailed(f"the archive lacks {len(absent):,} of its images, such as {absent[0][:100]!r}")


def _write_entries(entries: Mapping[str, Any], chosen: AbstractSet[str], path: Path) -> None:
    some = {name: entry for name, entry in entries.items() if name in chosen}
    if len(some) < len(chosen):
        absent = min(set(chosen) - set(some))
        raise FetchFailed(f"`{path.name}` in the archive says nothing of {absent[:100]!r}")
    write_file(path, json.dumps(some, ensure_ascii=False, indent=2).encode("utf-8", "surrogatepass"))


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """What a member holds, of the size that it says and with its CRC; raises what `zipfile` raises."""
    with archive.open(member) as file:
        # A count bounds what is unpacked, whatever is in there.
        content = file.read(member.file_size) if member.file_size else file.read(1)
    if len(content) != member.file_size:
        raise ValueError(f"{member.filename} has not the size that it says")
    return content


def _is_there(path: Path, member: zipfile.ZipInfo) -> bool:
    """Whether an earlier try has written a member."""
    if not path.is_file() or path.stat().st_size != member.file_size:
        return False
    return zlib.crc32(path.read_bytes()) == member.CRC


def _spans(archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo]) -> Iterator[Span]:
    """The ranges of an archive to fetch for some of its members, which lie in them whole."""
    starts = sorted({*(member.header_offset for member in archive.infolist()), archive.start_dir})
    first, last, group = 0, 0, list[zipfile.ZipInfo]()
    wanted = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        start = member.header_offset
        following = starts[min(bisect_right(starts, start), len(starts) - 1)]
        end = min(max(following, start + 1), start + _HEADER + member.compress_size)
        if group and (start - last > max(_GAP, wanted) or end - first > _SPAN):
            yield first, last, group
            group, wanted = [], 0
        first = first if group else start
        last = end
        wanted += end - start
        group.append(member)
    if group:
        yield first, last, group
