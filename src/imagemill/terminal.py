"""How imagemill talks: data on stdout, talk and progress on stderr."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagemill.committing import Report

PROGRESS_VARIABLE = "IMAGEMILL_PROGRESS"
"""Names a file that tells, as JSON, how far a command is, and how it ended."""
_LINE_EVERY = 10.0
"""Seconds between lines of progress where there is no terminal."""
_FILE_EVERY = 0.25
"""Seconds between two states of the file."""


class ProgressFile:
    """What programs can read of this process: replaced as a whole, at most a few times a second."""

    def __init__(self) -> None:
        self._path = ""
        self._told: dict[str, Any] = {}
        self._changed = threading.Event()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Begin to tell where the environment asks for it; processes that are started from here do not."""
        self._path = os.environ.pop(PROGRESS_VARIABLE, "")
        if self._path:
            self._write({"pid": os.getpid()})
            threading.Thread(target=self._run, name="imagemill-progress", daemon=True).start()

    def tell(self, total: int, done: int = 0, failed: Mapping[str, int] | None = None, seconds: float = 0.0) -> None:
        """Tell how far a run is."""
        counted = {"total": total, "done": done, "failed": dict(failed or {}), "seconds": round(seconds, 3)}
        with self._lock:
            times = self._told.get("times", -1) + 1
            self._told |= counted | {"times": times, "at": time.time()}
        self._changed.set()

    def close(self, exit_code: int) -> None:
        """Tell the end."""
        if self._path:
            self._write({"exit_code": exit_code})

    def _run(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            self._write({})
            time.sleep(_FILE_EVERY)

    def _write(self, more: dict[str, Any]) -> None:
        new = Path(f"{self._path}.tmp")
        with self._lock, suppress(OSError):
            self._told |= more
            new.write_text(json.dumps(self._told), encoding="utf-8")
            new.replace(self._path)


progress_file = ProgressFile()


class Terminal:
    """One conversation: `quiet` leaves only errors, `as_json` prints data as JSON."""

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json

    def say(self, line: str) -> None:
        """Tell the user something."""
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def warn(self, line: str) -> None:
        """Tell the user what must not be missed, also when quiet."""
        print(line, file=sys.stderr, flush=True)

    def data(self, value: dict[str, Any] | list[Any], text: str) -> None:
        """Print what a program may read: JSON when that was asked for, else the text."""
        print(json.dumps(value, ensure_ascii=False, indent=1) if self.as_json else text, flush=True)


class Meter:
    """Shows the progress of a run: a line that moves on a terminal, plain lines elsewhere."""

    def __init__(self, terminal: Terminal, total: int) -> None:
        self._terminal = terminal
        self._total = total
        self._last = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty() and not terminal.quiet:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                BarColumn(bar_width=24), TextColumn("{task.description}"), console=Console(stderr=True), transient=True
            )

    def __enter__(self) -> Meter:
        if self._bar:
            self._bar.start()
            self._bar.add_task("loading the model", total=self._total)
        progress_file.tell(self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, report: Report) -> None:
        """Show how far a run is."""
        progress_file.tell(report.total, report.done, report.failed, report.seconds)
        line = progress_line(report)
        if self._bar:
            self._bar.update(0, total=report.total, completed=report.done + report.failed.total(), description=line)
        elif time.monotonic() - self._last >= _LINE_EVERY:
            self._last = time.monotonic()
            self._terminal.say(line)


def progress_line(report: Report) -> str:
    """For instance `120/3,264 · 6.2 images/s · 8:27 left · 0 failed`."""
    ended = report.done + report.failed.total()
    rate = ended / report.seconds if report.seconds else 0.0
    left = duration((report.total - ended) / rate) if rate else "?"
    return f"{ended:,}/{report.total:,} · {rate:.1f} images/s · {left} left · {report.failed.total():,} failed"


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes and seconds: `3:40`, `1:02:03`."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: float) -> str:
    """Bytes in a unit that fits: `31 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def number(count: int, noun: str) -> str:
    """A count and its noun: `1 row`, `1,632 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
