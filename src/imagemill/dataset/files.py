"""Writing that survives a kill and a power cut: temporary name → fsync → rename; append → fsync."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from imagemill.errors import ImagemillError, OutOfSpace
from imagemill.records import to_json


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the system's errors into ours; a failed fsync is never tried again, what it wrote counts as lost."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise OutOfSpace(
                f"no space left to write `{path}`", "free some space and give the same command again: nothing is lost"
            ) from error
        hint = "check the permissions" if isinstance(error, PermissionError) else "check the disk"
        raise ImagemillError(f"`{path}` cannot be written: {error.strerror or error}", hint) from error


def temporary(path: Path) -> Path:
    """The name a file has until it is whole; readers of datasets pass over a leading point."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")


def write_file(path: Path, content: bytes, durable_name: bool = True) -> None:
    """Make a file appear whole under its name.

    With `durable_name=False` the caller syncs the folder later, once for many files.
    """
    new = temporary(path)
    with explained(path):
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                _write_all(descriptor, content)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(new, path)  # noqa: PTH105 - the tests of crashes stop at each of these calls
        except OSError:
            with suppress(OSError):
                new.unlink()
            raise
    if durable_name:
        sync_folder(path.parent)


def append_lines(path: Path, lines: Iterable[Any]) -> None:
    """Append JSON lines in one write and wait until they are on disk."""
    content = "".join(to_json(line) + "\n" for line in lines).encode()
    with explained(path):
        new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, content)
                os.fsync(descriptor)
            except OSError:
                # Half a line must not stay, or the next one would grow onto it.
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
    if new:
        sync_folder(path.parent)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def make_folder(path: Path) -> None:
    """Create a folder and the ones above it."""
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk."""
    with explained(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_lines(path: Path) -> list[Any]:
    """Return the JSON values of the whole lines of a file, none where it is absent.

    A last line without its end is still being written, or was cut by a crash; a line that is no JSON is damage.
    Both are left out here; `verify` reports the damage.
    """
    return [value for value, _ in parse_lines(path) if value is not None]


def parse_lines(path: Path) -> list[tuple[Any, bytes]]:
    """Return each whole line with its JSON value, None where it is no JSON object."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    parsed: list[tuple[Any, bytes]] = []
    for line in content.split(b"\n")[:-1]:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        parsed.append((value if isinstance(value, dict) else None, line))
    return parsed


def drop_torn(path: Path) -> None:
    """Rewrite a file of lines that a crash has cut, or that holds what is no line; else leave it as it is."""
    whole = b"".join(line + b"\n" for value, line in parse_lines(path) if value is not None)
    if path.exists() and path.read_bytes() != whole:
        write_file(path, whole)


def encode_lines(values: Iterable[Any]) -> bytes:
    """JSON lines as bytes."""
    return "".join(to_json(value) + "\n" for value in values).encode()
