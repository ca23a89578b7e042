"""The engine of operators that make images: requests → executor → dataset."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, chain, compress, islice
from pathlib import Path
from typing import Any, Self

from imagemill.committing import Committer, Progress, Report
from imagemill.dataset.calls import Calls
from imagemill.dataset.card import scores_of, write_card
from imagemill.dataset.files import make_folder, sync_folder, write_file
from imagemill.dataset.folder import Dataset, failure_line
from imagemill.derived import continued, edit_columns, keep_original
from imagemill.environment import cores
from imagemill.errors import ImagemillError, ModelError
from imagemill.executors.base import Executor, Sink
from imagemill.images import EXTENSIONS, encode, format_of
from imagemill.models.base import Model, Result
from imagemill.output import Output, record_of
from imagemill.plan import PART_SIZE, Plan, batches
from imagemill.records import Batch, Record, Request
from imagemill.remote.model import Remote

_CURRENT = 1.0
"""Seconds that a card may be behind its dataset while images are made."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What comes back from a worker: small rows, never pixels."""

    part: int
    record: Record | None = None
    failure: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """Requests that are to be made, in order; each time that they are gone through they are built anew."""

    parts: Mapping[int, int]
    """How many there are in each part, by its number."""
    turns: int
    """The last turn that any of them may have."""
    pictorial: bool
    """Whether they start from pictures: only then is one an original, or known not to be possible."""
    build: Callable[[], Iterable[Request]]

    @classmethod
    def of(cls, requests: Sequence[Request]) -> Self:
        """Those of a list."""
        turns = max((request.turn for request in requests), default=1)
        return cls(Counter(request.part for request in requests), turns, pictorial=True, build=lambda: requests)

    def __len__(self) -> int:
        return sum(self.parts.values())

    def __iter__(self) -> Iterator[Request]:
        return iter(self.build())

    def first(self, count: int | None) -> Pending:
        """At most so many of them, where those of a part follow each other."""
        if count is None or count >= len(self):
            return self
        before = accumulate(self.parts.values(), initial=0)
        each = zip(self.parts.items(), before, strict=False)
        parts = {number: min(here, count - start) for (number, here), start in each if start < count}
        return replace(self, parts=parts, build=lambda: islice(self, count))


def pending_requests(dataset: Dataset, plan: Plan, change: Callable[[Request], Request] | None = None) -> Pending:
    """Return the requests that have not ended, as `change` makes them; opens or seals parts as that demands.

    Only those of parts that have been begun and are not complete are looked at now.
    """
    failures = dataset.failures()
    again = _possible_now(plan, failures) if plan.pictorial else ()
    ended: defaultdict[int, set[str]] = defaultdict(set)
    for name, failure in failures.items():
        if name not in again:
            ended[failure["part"]].add(name)
    for name, number in dataset.removed.items():
        ended[number].add(name)
    begun = {part.number for part in dataset.parts}
    left: dict[int, bytes | None] = {}
    parts: dict[int, int] = {}
    for number in range(1, plan.parts + 1):
        part, planned = dataset.part(number), min(PART_SIZE, len(plan) - (number - 1) * PART_SIZE)
        if part.sealed and dataset.seals[part.name]["records"] + len(ended[number]) == planned:
            continue
        if number not in begun and not ended[number]:
            left[number], parts[number] = None, planned
        else:
            names = ended[number].union(Path(record["file_name"]).stem for record in part.records())
            marks = bytes(request.name not in names for request in plan.part(number))
            if not any(marks):
                part.seal()
                continue
            left[number], parts[number] = marks, sum(marks)
        part.unseal()

    def build() -> Iterator[Request]:
        for number, marks in left.items():
            requests = plan.part(number)
            chosen = requests if marks is None else compress(requests, marks)
            yield from map(change, chosen) if change else chosen

    return Pending(parts, plan.turns, plan.pictorial, build)


def _possible_now(plan: Plan, failures: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The requests that failed for a picture that was absent or damaged and is there now, or is to be made again."""
    again: set[str] = set()
    for request in chain.from_iterable(map(plan.part, sorted({failure["part"] for failure in failures.values()}))):
        failure = failures.get(request.name)
        if failure is None or not request.images or request.problem:
            continue
        if request.turn > 1:
            possible = failure["reason"] == "no_source" and replace(request, image=request.image - 1).name in again
        else:
            possible = not failure["request"].get("source_sha256")
        if possible:
            again.add(request.name)
    return again


def produce(
    dataset: Dataset,
    requests: Pending,
    model: Model | None,
    output: Output,
    executor: Executor | None,
    progress: Progress | None = None,
) -> Report:
    """Make the images of `requests` and commit them to the dataset, whose lock the caller holds.

    Without model and executor only what needs none is committed: originals, and requests that cannot be made.
    Raises OutOfSpace, ModelError and KeyboardInterrupt; whatever was finished until then is committed.
    """
    write_card(dataset)
    report = Report(len(requests))
    left = Counter(requests.parts)
    try:
        # Each edit of a conversation starts from what the one before has made.
        for turn in range(1, requests.turns + 1):
            wave: Pending | list[Request] = requests
            if requests.turns > 1:
                wave = [request for request in requests if request.turn == turn]
            if turn > 1 and wave:
                wave = continued(dataset, wave)
            if wave:
                _produce_turn(
                    wave, requests.pictorial, model, output, executor, _Committer(dataset, left, report, progress)
                )
    except BaseException:
        with suppress(ImagemillError):
            write_card(dataset)
        raise
    write_card(dataset)
    dataset.settle()
    unanswered = report.total - report.done - report.failed.total()
    if unanswered:
        raise ModelError(
            f"the model ended and left {unanswered:,} of {report.total:,} requests without a result",
            "the same command continues; every request must have one result",
        )
    return report


def _produce_turn(
    requests: Iterable[Request],
    pictorial: bool,
    model: Model | None,
    output: Output,
    executor: Executor | None,
    committer: _Committer,
) -> None:
    with committer:
        for request in requests if pictorial else ():
            if request.problem:
                committer.put(_Outcome(request.part, failure=failure_line(request, *request.problem)))
            elif request.original:
                committer.put(_Outcome(request.part, record=keep_original(output, request)))
        asked = (request for request in requests if not (request.problem or request.original))
        first = next(asked, None)
        if first and model and executor:
            cut = batches(chain([first], asked), output.batch_sizes, output.per_row_guidance)
            executor.run(partial(_make_images, model, output), committer.until_failure(cut), committer.put)


def _make_images(model: Model, output: Output, work: Iterable[Batch], sink: Sink) -> None:
    """Run the model over batches; encode and write its images on other threads. This is what a worker does."""
    threads = min(8, cores())
    # Images wait here when the disk is slower than the model: enough to level out, bounded in memory.
    slots = threading.Semaphore(4 * threads)
    errors: list[BaseException] = []

    def stored(future: Future[_Outcome]) -> None:
        slots.release()
        error = future.exception()
        if error:
            errors.append(error)
        else:
            outcome = future.result()
            sink(outcome)
            if outcome.record:
                calls.stored(Path(outcome.record["file_name"]).stem)

    calls = Calls(output.folder)
    results = model.make(work, calls) if isinstance(model, Remote) else model.make(work)
    with ThreadPoolExecutor(threads, "imagemill-encode") as pool:

        def store(result: Result) -> None:
            slots.acquire()
            pool.submit(_store, output, result).add_done_callback(stored)

        try:
            for result in results:
                if errors:
                    break
                store(result)
        except KeyboardInterrupt as interrupt:
            # What a server is being paid for is kept; a second interrupt has its usual effect.
            for result in _rest(results, interrupt):
                store(result)
    if errors:
        raise errors[0]


def _rest(results: Iterator[Result], interrupt: KeyboardInterrupt) -> Iterator[Result]:
    """What a model still yields after it has been told to stop; raises the interrupt in the end."""
    if isinstance(results, Generator):
        yield results.throw(interrupt)
        yield from results
    raise interrupt


def _store(output: Output, result: Result) -> _Outcome:
    request = result.request
    recipe = output.recipe(result)
    if result.data is not None:
        data, image_format = result.data, format_of(result.data)
    elif result.pixels is not None:
        image_format = output.image_format
        composite = bool(request.images)
        data = encode(result.pixels, image_format, recipe if output.metadata else None, output.mark, composite)
    else:
        return _Outcome(request.part, failure=failure_line(request, result.reason or "model_error", result.message))
    name = f"{request.name}.{EXTENSIONS[image_format]}"
    folder = output.part(request.part)
    make_folder(folder)
    write_file(folder / name, data, durable_name=False)
    added = edit_columns(output, result, name, data) if output.operator == "edit" else {}
    if output.operator == "augment":
        added = {"original": False}
    record = {
        **record_of(name, recipe, hashlib.sha256(data).hexdigest()),
        **added,
        **result.columns,
        **request.columns,
        **output.later_columns,
    }
    return _Outcome(request.part, record=record)


class _Committer(Committer[_Outcome]):
    """Appends records and seals parts."""

    def __init__(self, dataset: Dataset, left: Counter[int], report: Report, progress: Progress | None) -> None:
        """`left` counts by part what is still to end, over all turns: only then a part is sealed."""
        super().__init__(report, progress)
        self._dataset = dataset
        self._left = left
        self._typed = bool(scores_of(dataset.job))
        self._next = 0.0

    def commit(self, finished: list[_Outcome]) -> None:
        """Records and failures, in one write each, and what is complete by them."""
        failures = [outcome.failure for outcome in finished if outcome.failure is not None]
        if failures:
            self._dataset.append_failures(failures)
            self.report.failed.update(failure["reason"] for failure in failures)
        for number in dict.fromkeys(outcome.part for outcome in finished):
            part = self._dataset.part(number)
            records = [o.record for o in finished if o.part == number and o.record is not None]
            if records:
                if not part.metadata.exists():
                    sync_folder(part.folder.parent)
                    sync_folder(self._dataset.folder)
                sync_folder(part.folder)
                part.append(records)
                self.report.done += len(records)
                self._tell()
            self._left[number] -= sum(outcome.part == number for outcome in finished)
            if self._left[number] == 0:
                # A retry ends before what an interrupted run has left in the part.
                if part.complete:
                    part.seal()
                write_card(self._dataset)

    def _tell(self) -> None:
        """Where the card declares types it says which state of the dataset this is: keep it current, at little cost."""
        before = time.monotonic()
        if self._typed and before >= self._next:
            write_card(self._dataset)
            self._next = before + max(_CURRENT, 20 * (time.monotonic() - before))
