"""The one table of the queue."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from imagemill.errors import ImagemillError, OutOfSpace, UsageError
from imagemill.server.web.queue.jobs import Job, Progress
from imagemill.server.web.workspace import NotFound

_VERSION = 1
_CREATE = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    title TEXT NOT NULL,
    arguments TEXT NOT NULL,
    output TEXT,
    dataset TEXT NOT NULL,
    source TEXT NOT NULL,
    settings TEXT NOT NULL,
    device TEXT NOT NULL,
    state TEXT NOT NULL,
    wanted TEXT NOT NULL DEFAULT '',
    position INTEGER NOT NULL,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    seconds REAL NOT NULL DEFAULT 0,
    runs INTEGER NOT NULL DEFAULT 0,
    exit_code INTEGER,
    message TEXT NOT NULL DEFAULT '',
    hint TEXT NOT NULL DEFAULT '',
    progress TEXT NOT NULL DEFAULT '{}'
) STRICT
"""
_NAMES = [field.name for field in fields(Job) if field.name != "retried"]
_JSON = {"arguments", "settings", "progress"}
_SELECT = f"SELECT {', '.join(_NAMES)} FROM jobs"  # noqa: S608 - names of our own
_ORDER = (
    "ORDER BY CASE state WHEN 'running' THEN 0 WHEN 'queued' THEN 1 WHEN 'paused' THEN 2 ELSE 3 END, "
    "CASE WHEN state IN ('running', 'queued', 'paused') THEN position ELSE -ended END, id DESC"
)


class Table:
    """Jobs in SQLite: every change is on the disk when its method returns."""

    def __init__(self, path: Path) -> None:
        """Open or make the file."""
        import apsw

        self._lock = threading.RLock()
        with _explained(path):
            self._connection = apsw.Connection(str(path))
            self._connection.set_busy_timeout(5_000)
            # Not every file system can do what a pragma asks for, and SQLite then only says so.
            if self._value("PRAGMA journal_mode = WAL") != "wal":
                self._value("PRAGMA journal_mode = DELETE")
            self._connection.execute("PRAGMA synchronous = FULL")
            version = self._value("PRAGMA user_version")
            if self._value("PRAGMA synchronous") != 2:
                raise ImagemillError(f"`{path}` cannot be written durably", "check the disk")
            if version not in {0, _VERSION}:
                raise UsageError(f"`{path}` is of a later imagemill", "update imagemill, or move the file away")
            self._connection.execute(_CREATE)
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")
        self._path = path

    def add(self, **values: Any) -> Job:
        """Put a job at the end of the queue."""
        with self.change():
            position = self._value("SELECT coalesce(max(position), 0) + 1 FROM jobs")
            values |= {"state": "queued", "position": position, "created": time.time()}
            names = list(values)
            marks = ", ".join("?" * len(names))
            self._connection.execute(
                f"INSERT INTO jobs ({', '.join(names)}) VALUES ({marks})",  # noqa: S608 - names of our own
                [_stored(name, values[name]) for name in names],
            )
            return self.get(self._connection.last_insert_rowid())

    def get(self, job: int) -> Job:
        """A job by its id; raises NotFound."""
        found = self._jobs(f"{_SELECT} WHERE id = ?", [job])
        if not found:
            raise NotFound(f"there is no execution {job}", "it may have been removed: see the list")
        return found[0]

    def all(self) -> list[Job]:
        """All jobs: running ones, those that wait in their order, paused ones, and then the last that ended first."""
        return self._jobs(f"{_SELECT} {_ORDER}")

    def active(self) -> list[Job]:
        """The jobs that run, and then those that wait in their order."""
        return self._jobs(f"{_SELECT} WHERE state IN ('running', 'queued') {_ORDER}")

    def update(self, job: int, **values: Any) -> Job:
        """Change columns of a job."""
        with self.change():
            self._connection.execute(
                f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in values)} WHERE id = ?",  # noqa: S608 - names of our own
                [*(_stored(name, value) for name, value in values.items()), job],
            )
            return self.get(job)

    def to_end(self, job: int) -> None:
        """Put a job behind all others."""
        with self.change():
            self.update(job, position=self._value("SELECT max(position) + 1 FROM jobs"))

    def arrange(self, jobs: Sequence[int]) -> None:
        """Give jobs the order in which they are named, in the places that they have together."""
        with self.change():
            places = sorted(self.get(job).position for job in jobs)
            for job, place in zip(jobs, places, strict=True):
                self.update(job, position=place)

    def remove(self, job: int) -> None:
        """Forget a job."""
        with self.change():
            self._connection.execute("DELETE FROM jobs WHERE id = ?", [job])

    @contextmanager
    def change(self) -> Iterator[None]:
        """One transaction, of one thread at a time."""
        with self._lock, _explained(self._path), self._connection:
            yield

    def _value(self, statement: str) -> Any:
        return self._connection.execute(statement).get

    def _jobs(self, statement: str, values: Sequence[Any] = ()) -> list[Job]:
        with self._lock, _explained(self._path):
            return [_job(row) for row in self._connection.execute(statement, values)]


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    import apsw

    try:
        yield
    except apsw.FullError as error:
        raise OutOfSpace(f"no space left to write `{path}`", "free some space and try again") from error
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise UsageError(f"`{path}` is damaged, or no queue", "move it away; datasets need none of it") from error
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.IOError) as error:
        raise ImagemillError(f"`{path}` cannot be written: {error}", "check the permissions and the disk") from error


def _stored(name: str, value: Any) -> Any:
    if name in _JSON:
        return json.dumps(asdict(value) if isinstance(value, Progress) else value)
    return str(value) if isinstance(value, Path) else value


def _job(row: tuple[Any, ...]) -> Job:
    values = dict(zip(_NAMES, row, strict=True))
    for name in _JSON:
        values[name] = json.loads(values[name])
    progress = values["progress"]
    values["progress"] = Progress(**progress | {"newest": tuple(progress.get("newest", ()))})
    values["output"] = Path(values["output"]) if values["output"] else None
    return Job(**values)
