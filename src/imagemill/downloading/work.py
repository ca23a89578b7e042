"""A download from start to end: what is wanted, whether it fits, and many files at once."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from imagemill.dataset.files import explained, make_folder, write_file
from imagemill.dataset.lock import locked
from imagemill.downloading.archives import TAIL
from imagemill.downloading.contents import Contents, check_table, read_contents, wanted_parts
from imagemill.downloading.fetching import Fetching
from imagemill.downloading.options import Download
from imagemill.downloading.repository import FetchFailed, RemoteFile, Repository
from imagemill.downloading.state import OWN, State
from imagemill.downloading.subsets import choose, chosen_names, part_numbers, restrict
from imagemill.errors import OutOfSpace, SomeFailed, UsageError
from imagemill.foreign.diffusiondb import OTHER_PICTURES, PART_SIZE, part_name

_SPARE = 2**26
"""Bytes that stay free."""
_ENTRY = 350
"""Bytes that an archive's JSON file has for an image."""
_SUBSET = "subset"
_TICK = 0.5
"""Seconds between two looks at how far it is."""
_PATIENCE = 5.0
"""Seconds that what is under way may take to end."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is."""

    files: int
    files_done: int
    failed: int
    size: int
    """Bytes to fetch in all, as far as is known."""
    received: int
    seconds: float


@dataclass(slots=True)
class Outcome:
    """What a download has brought."""

    fetched: list[str] = field(default_factory=list)
    """Files and part folders by name."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why the others are not there, by name."""
    received: int = 0
    """Bytes that came."""
    notes: list[str] = field(default_factory=list)
    """What a user should know, a sentence each."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A download that has been checked before anything is fetched."""

    repository: Repository
    options: Download
    output: Path
    contents: Contents
    state: State
    files: Sequence[RemoteFile]
    """Tables and card that are wanted and not there."""
    parts: Sequence[int]
    """The parts that are wanted and not there."""
    there: Sequence[str]
    """What is wanted, and there already."""
    absent: Sequence[str]
    """Parts that are wanted, and not in the repository."""
    size: int
    """Bytes to fetch, of a subset about."""
    needed: int
    """Bytes of disk that this takes meanwhile."""
    free: int

    @property
    def done(self) -> bool:
        """Whether everything is there."""
        tables = self.contents.tables if self.options.subset else []
        return not (self.files or self.parts or self.absent) and all(self.state.has(table.path) for table in tables)


@contextmanager
def connected(name: str, options: Download) -> Iterator[Repository]:
    """The repository, while the block runs; raises UsageError."""
    # What can be told without the network is.
    _ = options.chosen, options.ranges
    with Repository(name, options.revision, options.retries) as repository:
        yield repository


def prepare(repository: Repository, output: str | Path, options: Download) -> Prepared:
    """Check what there is to fetch and whether it fits on the disk; nothing is written.

    Raises UsageError, and OutOfSpace.
    """
    output = Path(output)
    contents = read_contents(repository, options.large)
    check_table(contents, options)
    source = {"repository": repository.name, "commit": repository.commit, "large": options.large}
    subset = {"subset": options.chosen.name if options.chosen else "", "seed": options.seed}
    state = State(output, {**source, **subset})
    numbers = wanted_parts(contents, options)
    files = [] if options.subset else [*contents.tables, *([contents.card] if contents.card else [])]
    left = [file for file in files if not state.has(file.path)]
    names = {number: part_name(number, options.large) for number in numbers}
    has = state.has if options.unzip else state.has_part
    kept = {number for number in numbers if has(names[number])}
    parts = [number for number in numbers if number not in kept and number in contents.parts]
    absent = [f"{names[number]}.zip" for number in numbers if number not in contents.parts and number not in kept]
    there = [*(file.path for file in files if file not in left), *(names[number] for number in sorted(kept))]
    fetching = Fetching(repository, state)
    archives = [contents.parts[number] for number in parts]
    size = sum(map(fetching.left, [*left, *(file for file in archives if not state.has(file.path))]))
    # What is unpacked stands beside its archive for a while.
    beside = sorted((file.size for file in archives), reverse=True)[: options.workers] if options.unzip else []
    packed = sum(file.size for file in archives if state.has(file.path)) if options.unzip else 0
    needed = size + sum(beside) + packed
    if options.chosen:
        chosen = _chosen(output, contents)
        if all(path.is_file() for path in chosen):
            names = {number: part_name(number, options.large) for number in set(part_numbers(chosen[0]).tolist())}
            there = [name for name in names.values() if state.has(name)]
            parts = sorted(number for number, name in names.items() if not state.has(name))
            share = options.chosen.count * len(parts) / len(names)
        else:
            size = sum(map(fetching.left, contents.tables))
            needed = size + sum(table.size for table in contents.tables)
            share = options.chosen.count
            # Of most of a part, the whole archive is fetched.
            few = options.chosen.random and 2 * share < len(contents.parts) * PART_SIZE
            largest = sorted(map(_size, contents.parts.values()), reverse=True)
            needed += 0 if few else sum(largest[: min(options.workers, -(-share // PART_SIZE))])
        images = _about(contents, options.chosen.random, share)
        size, needed = size + images, needed + images
    free = _free(output)
    prepared = Prepared(
        repository, options, output, contents, state, left, parts, there, absent, size, needed, free
    )  # fmt: skip
    if needed and needed + _SPARE > free:
        raise OutOfSpace(
            f"`{output}` needs {needed + _SPARE:,} bytes of disk, and {free:,} are free",
            "ask for fewer parts, or name an output on another disk",
        )
    return prepared


def execute(prepared: Prepared, progress: Callable[[Progress], None] | None = None) -> Outcome:
    """Fetch what is wanted; the same call after any interruption continues.

    What cannot be had is in the outcome, with its reason, and does not stop the rest. Raises OutOfSpace, LockedError
    when another process writes the same folder, and UsageError.
    """
    outcome = Outcome(failed=dict.fromkeys(prepared.absent, "it is not in the repository"))
    repository, options, state = prepared.repository, prepared.options, prepared.state
    make_folder(prepared.output)
    with locked(prepared.output):
        state.begin()
        fetching = Fetching(repository, state)
        tick = _meter(prepared, outcome, progress)
        if options.subset:
            _fetch_subset(prepared, fetching, outcome, tick)
        else:
            jobs: dict[str, Callable[[], None]] = {file.path: partial(fetching.file, file) for file in prepared.files}
            for number in prepared.parts:
                file = prepared.contents.parts[number]
                name = part_name(number, options.large)
                jobs[name if options.unzip else file.path] = partial(fetching.archive, file, options.unzip)
            _run(jobs, options.workers, repository, outcome, tick)
        outcome.received = repository.received
        if prepared.contents.other_pictures:
            outcome.notes.append(f"`{OTHER_PICTURES}`, pictures beside the images, was not fetched")
        if fetching.without_ranges:
            outcome.notes.append("the server sends whole files only: parts were fetched whole, and unpacked in part")
        if not outcome.failed:
            shutil.rmtree(prepared.output / OWN / "partial", ignore_errors=True)
    return outcome


def download(
    repository: str,
    output: str | Path,
    *,
    progress: Callable[[Progress], None] | None = None,
    **parameters: Any,
) -> Path:
    """Fetch parts, a subset or the table of a dataset in the layout of DiffusionDB, and return its folder.

    `repository` is a dataset of the Hugging Face hub, such as `poloclub/diffusiondb`, and `parameters` are those of
    `Download`. The same call again fetches what is missing. Raises UsageError for anything that cannot be right,
    OutOfSpace before anything is fetched that does not fit, LockedError, and SomeFailed when files could not be had:
    all others are there.
    """
    options = Download.parse(parameters, "download")
    with connected(repository, options) as opened:
        prepared = prepare(opened, output, options)
        if not prepared.done:
            outcome = execute(prepared, progress)
            if outcome.failed:
                listed = "\n".join(f"`{name}`: {reason}" for name, reason in outcome.failed.items())
                raise SomeFailed(f"{len(outcome.failed):,} could not be had\n{listed}", "the same call tries again")
    return prepared.output


def _fetch_subset(prepared: Prepared, fetching: Fetching, outcome: Outcome, tick: Callable[[int], None]) -> None:
    """The rows first, then their images, and at the end the tables of those that are there."""
    import numpy as np

    contents, options, state = prepared.contents, prepared.options, prepared.state
    tables = _chosen_tables(prepared, fetching, outcome, tick)
    if not tables:
        return
    chosen = chosen_names(tables[0])
    names = {number: part_name(number, options.large) for number in chosen}
    jobs = {
        names[number]: partial(fetching.images, contents.parts[number], chosen[number])
        for number in sorted(chosen)
        if not state.has(names[number])
    }
    _run(jobs, options.workers, prepared.repository, outcome, tick)
    complete = all(state.has(table.path) for table in contents.tables)
    if outcome.fetched or not complete:
        whole = [number for number in chosen if names[number] not in outcome.failed]
        mask = np.isin(part_numbers(tables[0]), whole)
        for table in tables:
            restrict(table, mask, prepared.output / table.name)
            if mask.all():
                state.add(table.name)
        write_file(prepared.output / "README.md", _card(prepared, int(mask.sum())).encode())


def _card(prepared: Prepared, images: int) -> str:
    """What tells readers that the rows are in the table, and people what this is."""
    repository, options = prepared.repository, prepared.options
    table = prepared.contents.tables[0].path
    seed = f", drawn with seed {options.seed}" if options.chosen and options.chosen.random else ""
    return f"""---
configs:
- config_name: default
  data_files: {table}
---

# A subset of {repository.name}

{images:,} images (`{options.subset}`{seed}) of commit `{repository.commit}` of the dataset
[{repository.name}]({repository.endpoint}/datasets/{repository.name}).
Its card there tells of its license and how to cite it.

`load_dataset` reads their rows here, from `{table}`. `imagemill import` makes a dataset with the images of it.
"""


def _chosen_tables(prepared: Prepared, fetching: Fetching, outcome: Outcome, tick: Callable[[int], None]) -> list[Path]:
    """The tables with the subset's rows, all of which may not be there yet; none when they cannot be had."""
    contents, options = prepared.contents, prepared.options
    subset = options.chosen
    make_folder(prepared.output / OWN / _SUBSET)
    found = _chosen(prepared.output, contents)
    if subset and not all(path.is_file() for path in found):
        jobs = {table.path: partial(_discard, fetching, table) for table in contents.tables}
        _run(jobs, options.workers, prepared.repository, outcome, tick)
        if outcome.failed:
            return []
        whole = [fetching.whole(table) for table in contents.tables]
        try:
            mask = choose(whole[0], subset, options.seed, set(contents.parts))
        except UsageError:
            prepared.state.forget()
            raise
        # The first one last: where it is, the others are.
        for table, target in reversed(list(zip(whole, found, strict=True))):
            restrict(table, mask, target)
        for table in whole:
            table.unlink()
        outcome.fetched.clear()
    return found


def _chosen(output: Path, contents: Contents) -> list[Path]:
    """Where the tables with the subset's rows are."""
    return [output / OWN / _SUBSET / table.path for table in contents.tables]


def _about(contents: Contents, random: bool, images: float) -> int:
    """Bytes that so many images take, with what tells of them in their archives."""
    parts, total = len(contents.parts), sum(map(_size, contents.parts.values()))
    touched = min(parts, images if random else -(-images // PART_SIZE)) if parts else 0
    beside = min(touched * (TAIL + PART_SIZE * _ENTRY), total * touched / max(1, parts))
    return round(min(images / (max(1, parts) * PART_SIZE) * total + beside, total))


def _size(file: RemoteFile) -> int:
    return file.size


def _discard(fetching: Fetching, file: RemoteFile) -> None:
    fetching.whole(file)


def _run(
    jobs: Mapping[str, Callable[[], None]],
    workers: int,
    repository: Repository,
    outcome: Outcome,
    tick: Callable[[int], None],
) -> None:
    """Do jobs by threads, and note how each ended; what concerns all is raised, and the rest is given up."""
    waiting = iter(jobs.items())
    ended: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()
    lock = threading.Lock()

    def work() -> None:
        while not repository.stop.is_set():
            with lock:
                name, job = next(waiting, ("", None))
            if job is None:
                return
            try:
                job()
            except BaseException as error:  # noqa: BLE001 - the main thread tells of it
                ended.put((name, error))
            else:
                ended.put((name, None))

    # An interrupt must not wait for a server that is silent.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(jobs)))]
    for thread in threads:
        thread.start()
    silent = 0
    try:
        left = set(jobs)
        while left:
            tick(len(left))
            try:
                name, error = ended.get(timeout=_TICK)
            except queue.Empty:
                continue
            left.discard(name)
            if error is None:
                outcome.fetched.append(name)
                silent = 0
            elif isinstance(error, FetchFailed):
                outcome.failed[name] = error.reason
                silent = silent + 1 if error.unreachable else 0
                if silent >= max(2, workers) and left:
                    outcome.failed.update(dict.fromkeys(sorted(left), "not tried: the server cannot be reached"))
                    return
            else:
                raise error
        tick(0)
    except BaseException:
        repository.stop.set()
        raise
    finally:
        if not repository.stop.is_set() and silent >= max(2, workers):
            repository.stop.set()
        until = time.monotonic() + _PATIENCE
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


def _meter(prepared: Prepared, outcome: Outcome, progress: Callable[[Progress], None] | None) -> Callable[[int], None]:
    """What tells how far it is, given how many files are left."""
    start = time.monotonic()

    def tick(left: int) -> None:
        if progress:
            done, failed = len(outcome.fetched), len(outcome.failed)
            received, size = prepared.repository.received, prepared.size
            seconds = time.monotonic() - start
            progress(Progress(done + failed + left, done, failed, max(size, received), received, seconds))

    return tick


def _free(path: Path) -> int:
    """Bytes that are free where a folder is or will be."""
    place = path.resolve()
    while not place.exists():
        place = place.parent
    with explained(path):
        return shutil.disk_usage(place).free
