"""The files of a folder, of a ZIP archive or of a tar file, read by name and never unpacked."""

from __future__ import annotations

import io
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from imagemill.errors import UsageError
from imagemill.images import MAX_BYTES

Readers = Mapping[str, Callable[[], bytes]]
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError)
"""What reading a member of a ZIP archive raises where it is damaged, encrypted, or packed as nobody knows."""
_LINE = 64 << 20
"""Characters of a line that are read at once."""


class Lazy(Mapping[str, bytes]):
    """Files that are read when they are asked for; that raises KeyError, OSError or ValueError."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> bytes:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


class Tree:
    """Files by name, with `/` between the parts of one; names with a leading point are passed over."""

    def __init__(self, source: Path) -> None:
        """Look what there is; raises UsageError where an archive cannot be read at all."""
        self.source = source
        self.problems: dict[str, str] = {}
        """Members of an archive that are not read, with the reason."""
        self._places: dict[str, tuple[int, int]] = {}
        """Where the members of a tar file lie, and their sizes."""
        self._archive: zipfile.ZipFile | None = None
        if source.is_dir():
            self.names = sorted(_names(source))
        elif source.name.lower().endswith(".zip"):
            self.names = self._zip(source)
        else:
            self.names = self._tar(source)

    def read(self, name: str, most: int = MAX_BYTES) -> bytes:
        """What a file holds; raises KeyError, OSError, and ValueError where it may not be read, or is too large."""
        if name in self.problems:
            raise ValueError(self.problems[name])
        check_name(name)
        if self._archive:
            try:
                with self._archive.open(name) as file:
                    return _limited(file, most)
            except _DAMAGED as error:
                raise ValueError(f"it cannot be read from the archive: {error}") from None
        if self._places:
            start, size = self._places[name]
            with self.source.open("rb") as file:
                file.seek(start)
                data = _limited(file, most, size)
            if len(data) < size:
                raise ValueError("the archive ends before it")
            return data
        return self.file(self.source, name, most)

    @contextmanager
    def lines(self, name: str, newline: str = "\n") -> Iterator[Iterator[str]]:
        """Open a text of a folder or a ZIP archive, to read it line by line; raises as `read` does."""
        if name in self.problems:
            raise ValueError(self.problems[name])
        check_name(name)
        try:
            with self._archive.open(name) if self._archive else (self.source / name).open("rb") as file:
                text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline)
                yield iter(lambda: text.readline(_LINE), "")
        except _DAMAGED as error:
            raise ValueError(f"`{name}` cannot be read from the archive: {error}") from None

    @staticmethod
    def file(folder: Path, name: str, most: int = MAX_BYTES) -> bytes:
        """What a file in a folder holds; raises OSError and ValueError."""
        path = folder / name
        # Reading a pipe would wait for ever.
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")
        with path.open("rb") as file:
            return _limited(file, most)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        if not self._places and not self._archive:
            try:
                check_name(name)
            except ValueError:
                return False
            return (self.source / name).is_file()
        return name in self._places or (self._archive is not None and name in self._archive.NameToInfo)

    def _zip(self, source: Path) -> list[str]:
        try:
            self._archive = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, ValueError) as error:
            raise UsageError(f"`{source}` is no whole ZIP archive: {error}", "download it again") from None
        names: dict[str, None] = {}
        for member in self._archive.infolist():
            if member.is_dir() or _hidden(member.filename):
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            self._add(names, member.filename, "" if kind in {0, stat.S_IFREG} else "it is a link, or no file")
        return sorted(names)

    def _tar(self, source: Path) -> list[str]:
        names: dict[str, None] = {}
        try:
            with tarfile.open(source, "r:") as archive:
                for member in archive:
                    if member.isdir() or _hidden(member.name):
                        continue
                    plain = member.isreg() and not member.issparse()
                    self._add(names, member.name, "" if plain else "it is a link, or no file")
                    self._places[member.name] = member.offset_data, member.size
                if source.stat().st_size <= archive.offset:
                    self.problems[f"the end of {source.name}"] = "the end of the archive is missing"
        except tarfile.TarError as error:
            if not names:
                hint = "unpack it first" if re.search(r"\.(t?gz|bz2|xz|zst)$", source.name) else "download it again"
                raise UsageError(f"`{source}` is no whole tar file: {error}", hint) from None
            self.problems[f"the end of {source.name}"] = f"the archive is damaged: {error}"
        return list(names)

    def _add(self, names: dict[str, None], name: str, problem: str) -> None:
        if name in names:
            problem = "the archive has two members of this name"
        try:
            check_name(name)
        except ValueError as error:
            problem = str(error)
        if problem:
            self.problems[name] = problem
        names[name] = None


def text_column(name: str) -> str:
    """What a column is called whose name says that it names pictures, and which names none."""
    return re.sub(r"file_name(s?)$", r"filename\1", name)


def check_name(name: str) -> None:
    """Raise ValueError for the name of a file that may lie elsewhere, or that is none."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "://" in name or "\\" in name or re.match(r"[A-Za-z]:", name):
        raise ValueError("its name leads elsewhere")
    if not name or "\0" in name:
        raise ValueError("it has no name")


def _names(folder: Path) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise UsageError(f"`{error.filename}` cannot be read: {error.strerror}", "check its permissions") from None

    for place, folders, files in os.walk(folder, onerror=fail, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield Path(place, name).relative_to(folder).as_posix()


def _hidden(name: str) -> bool:
    """Whether readers pass over a member of an archive: what systems put beside files."""
    return any(part.startswith((".", "__MACOSX")) and part not in {".", ".."} for part in PurePosixPath(name).parts)


def _limited(file: IO[bytes], most: int, size: int | None = None) -> bytes:
    """Read at most so many bytes; raises ValueError where there are more."""
    if size is not None:
        if size > most:
            raise ValueError(f"{size:,} bytes are more than {most:,}")
        return file.read(size)
    data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"more than {most:,} bytes")
    return data
