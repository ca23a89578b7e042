"""One writer at a time, told by a lock that ends with its process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagemill.dataset.files import explained, make_folder
from imagemill.errors import LockedError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only writer of a folder, which is made when absent; raises LockedError."""
    path = folder / ".imagemill" / "lock"
    make_folder(path.parent)
    with explained(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not any(_flocked(descriptor, fcntl.LOCK_EX) for _ in range(3)):
            raise LockedError(
                f"`{folder}` is being written by {writer_of(folder) or 'another process'}",
                "wait until it has finished, or stop it",
            )
        with explained(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _flocked(descriptor: int, kind: int) -> bool:
    """Try to take a lock; waits a moment when it is not free, since who asks for the writer holds it that long."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.01)
        return False
    return True


def writer_of(folder: Path) -> str:
    """Who is writing a dataset; empty when nobody is, whatever a killed process left in the lock file."""
    try:
        with (folder / ".imagemill" / "lock").open() as lock:
            owner = json.loads(lock.read())
            return "" if _flocked(lock.fileno(), fcntl.LOCK_SH) else f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError):
        return ""
