"""One file after another: fetched under a temporary name, continued after a cut, verified, and only then there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Set as AbstractSet
from pathlib import Path

from imagemill.dataset.files import explained, make_folder, sync_folder
from imagemill.downloading.archives import check_archive, unpack, unpack_remote
from imagemill.downloading.repository import FetchFailed, NoRanges, RemoteFile, Repository
from imagemill.downloading.state import OWN, State, sha256_of

_PROGRESS = 2**20
"""Bytes that must come for a try to count as one that brings something."""


class Fetching:
    """Brings what lies in a repository into a folder. Threads may share it."""

    def __init__(self, repository: Repository, state: State) -> None:
        self._repository = repository
        self._state = state
        self.without_ranges = False
        """Whether the server has sent whole files where ranges were asked for."""

    def file(self, file: RemoteFile) -> None:
        """Fetch a file as it is; raises FetchFailed and OutOfSpace."""
        self._publish(self.whole(file), self._state.folder / file.path)
        self._state.add(file.path, file.sha256)

    def archive(self, file: RemoteFile, unzip: bool) -> None:
        """Fetch a part as an archive or a folder; raises FetchFailed and OutOfSpace."""
        name = file.path.removesuffix(".zip")
        part = Path(name).name
        there = self._state.has(file.path)
        whole = self._state.folder / file.path if there else self.whole(file)
        try:
            if not unzip:
                check_archive(whole, part)
                self._publish(whole, self._state.folder / file.path)
                self._state.add(file.path, file.sha256)
                return
            folder = self._partial(f"{name}.{file.mark[:16]}.folder")
            unpack(whole, part, folder)
        except FetchFailed:
            # What the repository holds is broken, and so is every copy of it.
            whole.unlink(missing_ok=True)
            raise
        self._publish(folder, self._state.folder / name)
        self._state.add(name)
        whole.unlink()

    def images(self, file: RemoteFile, chosen: AbstractSet[str]) -> None:
        """Fetch some images of a part, and no other ones where that is less; raises FetchFailed and OutOfSpace."""
        name = file.path.removesuffix(".zip")
        part = Path(name).name
        folder = self._partial(f"{name}.{file.mark[:16]}.folder")
        done = False
        if not (self.without_ranges or self._partial_of(file).exists()):
            try:
                done = unpack_remote(
                    file.size, lambda start, end: self._repository.read(file, start, end), part, folder, chosen
                )
            except NoRanges:
                self.without_ranges = True
        if not done:
            whole = self.whole(file)
            try:
                unpack(whole, part, folder, chosen)
            except FetchFailed:
                whole.unlink()
                raise
        self._publish(folder, self._state.folder / name)
        self._state.add(name)
        self._partial_of(file).unlink(missing_ok=True)

    def left(self, file: RemoteFile) -> int:
        """How many bytes of a file have not come yet."""
        partial = self._partial_of(file)
        return max(0, file.size - (partial.stat().st_size if partial.is_file() else 0))

    def whole(self, file: RemoteFile) -> Path:
        """A file under its temporary name, whole and with its hash; raises FetchFailed and OutOfSpace."""
        partial = self._partial_of(file)
        make_folder(partial.parent)
        self._bring(file, partial)
        if not _is(partial, file):
            # A crash of the machine may have left bytes that never came.
            with explained(partial):
                os.truncate(partial, 0)
            self._bring(file, partial)
            if not _is(partial, file):
                partial.unlink()
                raise FetchFailed("what came has another hash than the hub says")
        return partial

    def _bring(self, file: RemoteFile, partial: Path) -> None:
        with explained(partial):
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            if size > file.size:
                os.ftruncate(descriptor, 0)
                size = 0

            def write(content: bytes, place: int) -> None:
                nonlocal size
                with explained(partial):
                    if place < size:
                        os.ftruncate(descriptor, place)
                    _write_all(descriptor, content, place)
                size = place + len(content)

            most, tries = size, 0
            while size < file.size:
                try:
                    self._repository.append(file, size, write)
                    failure = FetchFailed(f"it ends after {size:,} of {file.size:,} bytes", again=True)
                except FetchFailed as error:
                    failure = error
                if size == file.size:
                    break
                tries = 1 if size >= most + _PROGRESS else tries + 1
                most = max(most, size)
                if not failure.again or tries > self._repository.retries:
                    raise failure
                self._repository.rest(tries, failure.wait)
            with explained(partial):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _partial(self, name: str) -> Path:
        return self._state.folder / OWN / "partial" / name

    def _partial_of(self, file: RemoteFile) -> Path:
        return self._partial(f"{file.path}.{file.mark[:16]}")

    def _publish(self, new: Path, target: Path) -> None:
        if new == target:
            return
        make_folder(target.parent)
        with explained(target):
            if new.is_dir():
                sync_folder(new)
                if target.is_dir():
                    # What stands there is not as it was verified.
                    shutil.rmtree(target)
            new.replace(target)
        sync_folder(target.parent)


def _is(path: Path, file: RemoteFile) -> bool:
    """Whether a file has the hash that the hub says."""
    if file.sha256:
        return sha256_of(path) == file.sha256
    if not file.blob:
        return True
    digest = hashlib.sha256() if len(file.blob) == 64 else hashlib.sha1()
    digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as content:
        while piece := content.read(_PROGRESS):
            digest.update(piece)
    return digest.hexdigest() == file.blob


def _write_all(descriptor: int, content: bytes, place: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written
