"""The process of a job, which outlives the server: what tells that it runs is a lock that it holds."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagemill.dataset.files import explained, make_folder
from imagemill.terminal import PROGRESS_VARIABLE

_NICE = 10
"""Pages come first on a busy machine."""
_KEPT_BACK = ("IMAGEMILL_TOKEN",)
"""Variables of the server that are no business of a job."""
_LAST = 16_384
"""Bytes at the end of the log in which an error is looked for."""


class Process:
    """One run of a job's command, by whichever server it was started."""

    def __init__(self, folder: Path, run: int) -> None:
        """Take the folder of the job's own files, and which of its runs is meant, counted from 1."""
        self._folder = folder
        self._progress = folder / f"progress-{run}.json"
        self._child = 0

    @property
    def log(self) -> Path:
        """What all runs have printed."""
        return self._folder / "log"

    def start(self, arguments: Sequence[str], directory: Path) -> None:
        """Start the command; it goes on whatever becomes of this process."""
        make_folder(self._folder)
        environment = {name: value for name, value in os.environ.items() if name not in _KEPT_BACK}
        environment |= {PROGRESS_VARIABLE: str(self._progress), "PYTHONUNBUFFERED": "1"}
        with explained(self.log), self.log.open("ab", buffering=0) as log:
            log.write(time.strftime("[%Y-%m-%d %H:%M:%S] started\n").encode())
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # `-P`: what lies in the served folder is not to be imported.
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "imagemill", *arguments],
                    cwd=directory,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock,),
                    start_new_session=True,
                )
            finally:
                os.close(lock)
        self._child = process.pid
        # It is waited for below, and not by this object.
        process.returncode = 0
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)

    @property
    def alive(self) -> bool:
        """Whether it runs: the system takes the lock from it at its end, whatever that is."""
        if self._child:
            with suppress(ChildProcessError):
                os.waitpid(self._child, os.WNOHANG)
        try:
            lock = os.open(self._folder / "lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def told(self) -> dict[str, Any]:
        """What it tells of itself: `pid`, how far it is, and at the end its `exit_code`."""
        try:
            told: dict[str, Any] = json.loads(self._progress.read_bytes())
        except (OSError, ValueError):
            return {}
        return told

    def stop(self) -> bool:
        """Ask it to end in good order; asked a second time it ends at once. False when it cannot be asked yet."""
        pid = self.told().get("pid")
        if not pid or not self.alive:
            return False
        # Not SIGINT: what a shell starts in the background ignores that, and so would all that it starts.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        return True

    def said(self) -> str:
        """The last line of its log."""
        lines = _tail(self.log, 2_000).strip().splitlines()
        return lines[-1].strip() if lines and not lines[-1].endswith("] started") else ""

    def error(self, folder: Path) -> tuple[str, str]:
        """What stopped its last run, and what helps; where a folder lies on this machine is nobody's business."""
        text = _tail(self.log, _LAST).replace(f"{folder}/", "")
        text = text[text.rfind("] started\n") + 1 :]
        _, found, error = text.rpartition("\nerror: ")
        if found:
            message, _, hint = error.strip().partition("\n\nhint: ")
            return message, hint
        lines = text.strip().splitlines()[1:]
        return (lines[-1].strip() if lines else ""), "its log says more"


def read_log(path: Path, start: int | None, most: int) -> tuple[str, int]:
    """A piece of a log from a place on, or its end, and the place behind it."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            start = max(0, size - most) if start is None else min(max(start, size - most), size)
            log.seek(start)
            content = log.read(most)
    except OSError:
        return "", 0
    # A character may have been written by half, or cut.
    end = max(content.rfind(b"\n") + 1, 0) if start + len(content) == size else len(content)
    whole = content[: end or len(content)]
    return whole.decode(errors="replace"), start + len(whole)


def _tail(path: Path, most: int) -> str:
    return read_log(path, None, most)[0]
