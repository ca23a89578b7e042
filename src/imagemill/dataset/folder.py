"""A dataset is a folder of parts: open, lock, recover, append, seal, update."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from imagemill.dataset.calls import Calls, Unknown
from imagemill.dataset.card import write_card
from imagemill.dataset.files import (
    append_lines,
    drop_torn,
    encode_lines,
    parse_lines,
    read_lines,
    write_file,
)
from imagemill.dataset.lock import locked, writer_of
from imagemill.dataset.manifest import MARK
from imagemill.dataset.removal import REMOVED, count_removed, finish_removal, removed_images, removed_rows
from imagemill.dataset.shape import wrong_in
from imagemill.dataset.sources import Sources
from imagemill.errors import UsageError
from imagemill.plan import PART_SIZE
from imagemill.records import Record, Reject, Request, files_of, order_of, safe_column

if TYPE_CHECKING:
    from PIL import Image

FORMAT = 1
"""Of the folder, written in `job.toml`."""

_OURS = re.compile(r"prompt_\d+_image_\d+(_input_\d+|_mask)?\.(png|jpg|webp)|\..*\.tmp")
"""Files in a part that we made, and may remove when no record names them."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Where every request and every row of the table stands: `requests = done + failed + removed + pending`."""

    requests: int
    done: int
    failed: dict[str, int]
    """By reason."""
    rows_read: int
    rows_accepted: int
    rows_rejected: int
    removed: int = 0
    """Images and failures that were taken down; they are not made again."""

    @property
    def pending(self) -> int:
        """Requests that have not ended."""
        return self.requests - self.done - sum(self.failed.values()) - self.removed


class Part:
    """At most 1,000 images and their `metadata.jsonl`."""

    def __init__(self, dataset: Dataset, number: int) -> None:
        self.dataset = dataset
        self.number = number
        self.name = f"part-{number:06d}"

    @cached_property
    def folder(self) -> Path:
        """Where its files are."""
        return self.dataset.folder / "images" / self.name

    @property
    def metadata(self) -> Path:
        """The file with its records."""
        return self.folder / "metadata.jsonl"

    def path(self, name: str) -> Path:
        """A file of the part; raises UsageError for a name that leads elsewhere, as none of ours does."""
        if name in {"", ".", ".."} or "/" in name:
            raise UsageError(f"`{self.metadata}` names the file `{name}`, which is not beside it", "do not trust it")
        return self.folder / name

    def records(self) -> list[Record]:
        """Return the records committed so far."""
        return read_lines(self.metadata)

    @property
    def sealed(self) -> bool:
        """Whether all requests of the part have ended and its lines are in plan order."""
        return self.name in self.dataset.seals

    @property
    def complete(self) -> bool:
        """Whether all requests planned for the part have ended, so that it may be sealed."""
        planned: int = min(PART_SIZE, self.dataset.job["plan"]["requests"] - (self.number - 1) * PART_SIZE)
        return len(self.dataset.ended(self, self.dataset.failures())) == planned

    @property
    def empty_columns(self) -> list[str]:
        """The columns that hold nothing but null, so that nobody can tell their type from this part."""
        if self.sealed:
            return list(self.dataset.seals[self.name].get("empty", ()))
        return empty_columns(self.records())

    def append(self, records: Iterable[Record]) -> None:
        """Commit records whose images are in place."""
        self.unseal()
        append_lines(self.metadata, records)

    def seal(self) -> None:
        """Sort the lines into plan order and mark the part as complete."""
        records = sorted(self.records(), key=lambda record: order_of(record["file_name"]))
        content = encode_lines(records)
        if records and self.metadata.read_bytes() != content:
            write_file(self.metadata, content)
        self._mark(seal_of(records, content))

    def unseal(self) -> None:
        """Open the part for changes again."""
        if self.sealed:
            self._mark(None)

    def update(self, change: Callable[[Record], Mapping[str, Any]]) -> None:
        """Set columns of every record of the part, atomically.

        `change` returns the new values of one record. Raises ValueError when it does not name the same columns for
        all of them, gives one column several types, or names what made the image; UsageError without the lock.
        """
        if not self.dataset.locked:
            raise UsageError(f"`{self.dataset.folder}` is not locked", "write `with dataset.lock():` around the update")
        records = []
        for record in self.records():
            changed = change(record)
            wrong = [name for name in changed if safe_column(name) != name]
            if wrong:
                raise ValueError(f"`{wrong[0]}` says how the image was made, or misleads readers: it cannot be set")
            records.append({**record, **changed})
        if not records:
            return
        if any(record.keys() != records[0].keys() for record in records):
            raise ValueError("every record must get the same columns")
        # The columns of a whole dataset have one type, that of its first record.
        types = {name: type(value) for name, value in next(iter(self.dataset)).items() if value is not None}
        for record in records:
            for name, value in record.items():
                # A score that there is none of is null.
                if value is not None and type(value) is not types.setdefault(name, type(value)):
                    raise ValueError(f"`{name}` is a {type(value).__name__}, elsewhere a {types[name].__name__}")
        was_sealed = self.sealed
        self.unseal()
        write_file(self.metadata, encode_lines(records))
        if was_sealed:
            self.seal()

    def remove(self, file_names: Iterable[str]) -> None:
        """Take images out of the part, first their records, then their files."""
        gone = set(file_names)
        self.unseal()
        records = self.records()
        write_file(self.metadata, encode_lines(record for record in records if record["file_name"] not in gone))
        for record in records:
            if record["file_name"] in gone:
                for name in files_of(record):
                    self.path(name).unlink(missing_ok=True)

    def recover(self) -> None:
        """Make an unsealed part consistent: drop torn lines, doubles, records without a file, files without one."""
        if not self.folder.is_dir():
            return
        kept: dict[str, bytes] = {}
        named: set[str] = set()
        for record, line in parse_lines(self.metadata):
            name = record.get("file_name") if record else None
            files = files_of(record) if record else []
            if isinstance(name, str) and all((self.folder / file).is_file() for file in files):
                kept.setdefault(name, line)
                named.update(files)
        content = b"".join(line + b"\n" for line in kept.values())
        if self.metadata.exists() and self.metadata.read_bytes() != content:
            write_file(self.metadata, content)
        for path in self.folder.iterdir():
            if path.name not in named and _OURS.fullmatch(path.name):
                path.unlink()

    def _mark(self, seal: dict[str, Any] | None) -> None:
        append_lines(self.dataset.seals_file, [{"part": self.name, "sealed": seal is not None, **(seal or {})}])
        if seal is None:
            self.dataset.seals.pop(self.name, None)
        else:
            self.dataset.seals[self.name] = seal


class Dataset:
    """A folder of parts, loadable by `datasets.load_dataset(folder)` at any moment.

    Iterating yields the records. Reading needs no lock; writing happens inside `with dataset.lock()`.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a dataset; raises UsageError when the folder holds none."""
        self.folder = Path(folder)
        self.job_file = self.folder / "job.toml"
        self._state = self.folder / ".imagemill"
        self.seals_file = self._state / "seals.jsonl"
        self.rejects_file = self._state / "rejects.jsonl"
        self.failures_file = self._state / "failures.jsonl"
        self.events_file = self._state / "events.jsonl"
        self.environment_file = self._state / "environment.json"
        self.locked = False
        """Whether this object holds the lock."""
        if not self.job_file.is_file():
            members = sorted(str(path.parent) for path in self.folder.glob("*/job.toml"))
            hint = "name the folder given with `-o`"
            if members:
                hint = f"it is a folder of datasets: name {' or '.join(f'`{name}`' for name in members)}"
            elif (self.folder / MARK).is_file():
                hint = f"it is an export: `imagemill import {self.folder} -o FOLDER` makes a dataset of it"
            raise UsageError(f"`{self.folder}` holds no dataset: it has no job.toml", hint)

    @classmethod
    @contextmanager
    def create(cls, folder: str | Path) -> Iterator[Path]:
        """Lock a folder in which a dataset may or may not exist yet; yields it for `write_job`.

        Raises LockedError when another process writes it and UsageError when it holds something else.
        """
        folder = Path(folder)
        Dataset.check_folder(folder)
        with locked(folder):
            yield folder

    @staticmethod
    def check_folder(folder: Path) -> None:
        """Raise UsageError for a folder that holds something else than a dataset."""
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"`{folder}` is a file", "choose another output folder")
        for outer in folder.resolve().parents:
            if is_dataset(outer):
                raise UsageError(f"`{folder}` is inside of the dataset `{outer}`", "choose another output folder")
        occupied = folder.is_dir() and any(folder.iterdir())
        # Asked second, since another process may be creating the dataset right now.
        known = (folder / "job.toml").is_file()
        if occupied and not known and not (folder / ".imagemill").is_dir():
            raise UsageError(f"`{folder}` is not empty and holds no dataset", "choose another output folder")
        if (folder / "images").is_dir() and not known:
            raise UsageError(f"`{folder}` holds images and no job.toml that tells how they were made", "bring it back")

    @staticmethod
    def write_job(folder: Path, job: Mapping[str, Any]) -> None:
        """Write `job.toml` unless it says the same already."""
        content = tomli_w.dumps(job, multiline_strings=False).encode()
        path = folder / "job.toml"
        if not path.exists() or path.read_bytes() != content:
            write_file(path, content)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer; raises LockedError when another process is."""
        with locked(self.folder), self.lock_held():
            yield

    @contextmanager
    def lock_held(self) -> Iterator[None]:
        """The same where `Dataset.create` holds the lock."""
        self.__dict__.pop("seals", None)
        self.locked = True
        try:
            finish_removal(self)
            if (self._state / "applying.json").exists():
                from imagemill.dataset.applying import finish_applying

                finish_applying(self)
            yield
        finally:
            self.locked = False

    @property
    def job(self) -> dict[str, Any]:
        """What made the dataset: every parameter, the concrete seed, the model's revision."""
        whole = "put a copy of it back; `imagemill verify` then tells whether the rest is whole"
        try:
            job = tomllib.loads(self.job_file.read_bytes().decode())
        except PermissionError as error:
            raise UsageError(f"`{self.job_file}` cannot be read: {error.strerror}", "check the permissions") from None
        except ValueError as error:
            raise UsageError(f"`{self.job_file}` is damaged: {error}", whole) from None
        if job.get("format", FORMAT) != FORMAT:
            raise UsageError(
                f"`{self.job_file}` has format {job['format']!r}, this imagemill knows {FORMAT}",
                "install a newer imagemill",
            )
        if wrong := wrong_in(job):
            raise UsageError(f"`{self.job_file}` is damaged: {wrong}", whole)
        return job

    @cached_property
    def seals(self) -> dict[str, dict[str, Any]]:
        """The seal of every complete part: `records`, the `sha256` of its metadata, columns with nothing but null."""
        seals: dict[str, dict[str, Any]] = {}
        for line in read_lines(self.seals_file):
            seals.pop(line["part"], None)
            if line["sealed"]:
                seals[line["part"]] = {name: line[name] for name in ("records", "sha256", "empty") if name in line}
        return seals

    @property
    def writer(self) -> str:
        """The process that is writing the dataset; empty when none is."""
        return writer_of(self.folder)

    @property
    def parts(self) -> list[Part]:
        """The parts that exist, in order."""
        images = self.folder / "images"
        # The listing itself says what is a folder: to ask for each of thousands takes long.
        names = (entry.name for entry in os.scandir(images) if entry.is_dir()) if images.is_dir() else ()
        return [self.part(int(name[5:])) for name in sorted(names) if re.fullmatch(r"part-\d{6,}", name)]

    def part(self, number: int) -> Part:
        """One part by its number, from 1, whether or not it exists yet."""
        return Part(self, number)

    def __iter__(self) -> Iterator[Record]:
        for part in self.parts:
            yield from part.records()

    def __len__(self) -> int:
        return sum(len(part.records()) for part in self.parts)

    def find(self, name: str) -> tuple[Part, Record]:
        """Return the record of an image by its file name, with or without extension; raises UsageError for none."""
        name = Path(name).name
        for part in self.parts:
            for record in part.records():
                if name in {record.get("file_name"), Path(str(record.get("file_name"))).stem}:
                    return part, record
        raise UsageError(f"`{self.folder}` has no image `{name}`", "names look like `prompt_0_image_0.png`")

    def image(self, name: str) -> Image.Image:
        """Return one image, decoded."""
        from imagemill.images import open_image

        part, record = self.find(name)
        return open_image((part.folder / record["file_name"]).read_bytes())

    def failures(self) -> dict[str, dict[str, Any]]:
        """Return the requests that ended without an image, by image name: reason, message, attempts, request."""
        failures = {line["name"]: line for line in read_lines(self.failures_file)}
        if failures:
            removed, requests = Counter(self.removed.values()), self.job["plan"]["requests"]
            for number, failed in Counter(line["part"] for line in failures.values()).items():
                part, planned = self.part(number), min(PART_SIZE, requests - (number - 1) * PART_SIZE)
                # Where all of a part are counted once, none of them was made after all.
                if part.sealed and self.seals[part.name]["records"] + failed + removed[number] == planned:
                    continue
                for record in part.records():
                    failures.pop(Path(record["file_name"]).stem, None)
        return failures

    @property
    def removed(self) -> dict[str, int]:
        """The names of requests whose image or failure was taken down, each with its part: never to be made again."""
        return removed_images(self)

    @property
    def removed_rows(self) -> set[int]:
        """The positions of rows that were taken down as a whole: of them nothing is made any more."""
        return removed_rows(self)

    def rejects(self) -> list[dict[str, Any]]:
        """Return the table's rows that could not be used."""
        return read_lines(self.rejects_file)

    def counts(self) -> Counts:
        """Count where every request and every row stands."""
        plan = self.job["plan"]
        done = sum(self.seals[part.name]["records"] if part.sealed else len(part.records()) for part in self.parts)
        failures = self.failures()
        return Counts(
            requests=plan["requests"],
            done=done,
            removed=count_removed(self, failures),
            failed=dict(Counter(failure["reason"] for failure in failures.values())),
            rows_read=plan["rows_read"],
            rows_accepted=plan["rows_accepted"],
            rows_rejected=plan["rows_read"] - plan["rows_accepted"],
        )

    def unknown_outcome(self) -> Unknown:
        """Count the calls to a server that may have been charged without an image to show."""
        calls = Calls(self.folder)
        return calls.unknown(self._made_names()) if calls.path.exists() else Unknown()

    def request(self, record: Mapping[str, Any], part: int, attempt: int = 1) -> Request:
        """What made an image, from its record."""
        request = Request.from_record(record, part, attempt)
        sources = Sources(self.folder)
        images = tuple(str(sources.path(sha256)) for sha256 in record.get("source_sha256", ()))
        mask = str(sources.path(record["mask_sha256"])) if images and "mask_sha256" in record else ""
        return replace(request, images=images, mask=mask)

    def failed_request(self, failure: Mapping[str, Any]) -> Request:
        """The request of a line of `failures.jsonl`, one attempt later."""
        record = {"file_name": failure["name"], **failure["request"]}
        request = self.request(record, failure["part"], failure["attempts"] + 1)
        return replace(request, turn=failure["turn"], strength=failure["strength"])

    def ended(self, part: Part, failures: Mapping[str, Any]) -> set[str]:
        """Return the names of the requests of a part that ended, with or without an image, or were removed."""
        names = {Path(record["file_name"]).stem for record in part.records()}
        names |= {name for name, failure in failures.items() if failure["part"] == part.number}
        return names | {name for name, number in self.removed.items() if number == part.number}

    @staticmethod
    def write_rejects(folder: Path, rejects: Iterable[Reject]) -> None:
        """Write which rows of the table could not be used; what was removed of them does not come back."""
        path = folder / ".imagemill" / "rejects.jsonl"
        removed = {line["line"]: line for line in read_lines(path) if line["reason"] == REMOVED}
        lines = (reject.to_table() for reject in rejects)
        write_file(path, encode_lines(removed.get(line["line"], line) for line in lines))

    def append_failures(self, failures: Iterable[Mapping[str, Any]]) -> None:
        """Commit requests that ended without an image."""
        append_lines(self.failures_file, failures)

    def update(self, change: Callable[[Record], Mapping[str, Any]]) -> None:
        """Set columns of every record, part by part, each part atomically; see `Part.update`."""
        for part in self.parts:
            part.update(change)
        write_card(self)

    def recover(self) -> None:
        """Make the folder consistent after a crash; what is sealed is left as it is."""
        for folder in (self.folder, self._state):
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink()
        for path in (self.seals_file, self.failures_file, self.events_file):
            drop_torn(path)
        finish_removal(self)
        for part in self.parts:
            if not part.sealed:
                part.recover()
        self.settle()

    def settle(self) -> None:
        """Keep of the journal of paid calls only those whose outcome is unknown, when none is in flight."""
        calls = Calls(self.folder)
        if calls.path.exists():
            calls.settle(self._made_names())

    def _made_names(self) -> set[str]:
        return {Path(record["file_name"]).stem for record in self}


def is_dataset(folder: Path) -> bool:
    """Whether a folder is one; a `job.toml` alone may also be a job file."""
    return (folder / "job.toml").is_file() and (folder / ".imagemill").is_dir()


def seal_of(records: Sequence[Record], content: bytes) -> dict[str, Any]:
    """What seals a part: of its records, and of the bytes that hold them."""
    seal: dict[str, Any] = {"records": len(records), "sha256": hashlib.sha256(content).hexdigest()}
    if nothing := empty_columns(records):
        seal["empty"] = nothing
    return seal


def empty_columns(records: Sequence[Record]) -> list[str]:
    """The columns of records that hold nothing but null."""
    names = [name for name, value in records[0].items() if value is None] if records else []
    return [name for name in names if all(record.get(name) is None for record in records)]


def failure_line(request: Request, reason: str, message: str) -> dict[str, Any]:
    """One line of `failures.jsonl`; it holds the whole request, so that a retry needs nothing else."""
    return {
        "id": request.id,
        "name": request.name,
        "part": request.part,
        "reason": reason,
        "message": message,
        "attempts": request.attempt,
        "turn": request.turn,
        "strength": float(request.strength),
        "request": {**request.recipe, **request.source_recipe, **request.columns},
    }
