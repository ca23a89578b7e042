"""Requests that arrive together share a batch: one thread for each model runs it over whatever waits."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from imagemill.errors import ImagemillError, ModelError
from imagemill.models.base import Model, ModelInfo, Result
from imagemill.plan import kind
from imagemill.records import Batch, Request

MAX_WAITING = 256
"""Requests that may wait for one model."""
_COMPANY = 0.008
"""Seconds that the first request of a batch waits for others."""
_LOADING = threading.Lock()
"""Libraries patch each other while they load weights: one model at a time."""


class Full(Exception):
    """Too many requests wait already."""


class Stopped(Exception):
    """The server is about to end."""


@dataclass(frozen=True, slots=True)
class Made:
    """A result and the size of the batch it was made in."""

    result: Result
    batch_size: int


@dataclass(eq=False, slots=True)
class _Job:
    """A request on its way."""

    request: Request
    kind: tuple[Any, ...]
    future: asyncio.Future[Made]
    arrived: float
    batch_size: int = 0

    def settle(self, ending: Made | Exception) -> None:
        """Hand the ending over to the event loop, unless that has ended."""
        with suppress(RuntimeError):
            self.future.get_loop().call_soon_threadsafe(_settle, self.future, ending)


class Batcher:
    """Runs one model over requests in order of arrival; those of one kind that wait together share a batch."""

    def __init__(self, model: Model, info: ModelInfo, batch_size: int | None = None) -> None:
        """Take a model, which is loaded when the first request comes; without a batch size it has its own."""
        self.batch_size = batch_size or info.batch_size
        self._model = model
        self._per_row_guidance = info.per_row_guidance
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._running: dict[int, _Job] = {}
        """By row, which is what a request is known by when its result comes."""
        self._rows = itertools.count()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def submit(self, requests: Sequence[Request]) -> list[asyncio.Future[Made]]:
        """Let requests wait for their batch; a future that is cancelled before is dropped. Raises Full and Stopped."""
        loop, now = asyncio.get_running_loop(), time.monotonic()
        numbered = [replace(request, row=next(self._rows)) for request in requests]
        jobs = [_Job(request, self._kind(request), loop.create_future(), now) for request in numbered]
        with self._changed:
            if self._stopping:
                raise Stopped
            self._drop_gone()
            if len(self._waiting) + len(jobs) > MAX_WAITING:
                raise Full
            self._waiting += jobs
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="imagemill-model", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return [job.future for job in jobs]

    def stop(self) -> None:
        """Take nothing more, and let go what waits; what runs may end."""
        with self._changed:
            self._stopping = True
            jobs, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        _settle_all(jobs, Stopped)

    def finish(self, seconds: float) -> bool:
        """Wait so long for what runs, then let it go too; returns whether the model has ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, seconds)
            jobs, self._running = list(self._running.values()), {}
        _settle_all(jobs, Stopped)
        if self._thread is None:
            return True
        self._thread.join(0 if jobs else seconds)
        return not self._thread.is_alive()

    def _kind(self, request: Request) -> tuple[Any, ...]:
        return kind(request, self._per_row_guidance)

    def _run(self) -> None:
        while self._arrived():
            try:
                with ExitStack() as loading:
                    loading.enter_context(_LOADING)
                    for result in self._model.make(self._batches(loading)):
                        self._deliver(result)
                self._fail(ModelError("the model ended and left the request without a result"), waiting=False)
            except BaseException as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
                self._fail(error, waiting=True)

    def _arrived(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            return not self._stopping

    def _batches(self, loading: ExitStack) -> Iterator[Batch]:
        """Yield what waits, batch by batch; a lone request is quick, for its batch is padded to a power of two."""
        # Whoever asks for work has been loaded.
        loading.close()
        while jobs := self._next():
            size = min(self.batch_size, 1 << (len(jobs) - 1).bit_length())
            for job in jobs:
                job.batch_size = size
            yield Batch(tuple(job.request for job in jobs), size)

    def _next(self) -> list[_Job]:
        """Wait for the oldest request and its company; nothing when the stream shall end."""
        with self._changed:
            while not self._stopping:
                self._drop_gone()
                if self._waiting:
                    first = self._waiting[0]
                    jobs = [job for job in self._waiting if job.kind == first.kind][: self.batch_size]
                    left = first.arrived + _COMPANY - time.monotonic()
                    if left <= 0 or len(jobs) == self.batch_size:
                        for job in jobs:
                            self._waiting.remove(job)
                            self._running[job.request.row] = job
                        return jobs
                    self._changed.wait(left)
                elif self._running and threading.current_thread() is self._thread:
                    # The model keeps results back until it has seen the next batch, as one with a GPU does, and there
                    # is none: end the stream, and they come.
                    return []
                else:
                    self._changed.wait()
            return []

    def _drop_gone(self) -> None:
        """Forget requests for whose result nobody waits any more."""
        if any(job.future.cancelled() for job in self._waiting):
            self._waiting = deque(job for job in self._waiting if not job.future.cancelled())

    def _deliver(self, result: Result) -> None:
        with self._changed:
            job = self._running.pop(result.request.row, None)
            self._changed.notify_all()
        if job:
            job.settle(Made(result, result.batch_size or job.batch_size))

    def _fail(self, error: BaseException, waiting: bool) -> None:
        with self._changed:
            jobs, self._running = list(self._running.values()), {}
            if waiting:
                jobs, self._waiting = [*jobs, *self._waiting], deque()
            self._changed.notify_all()
        if jobs:
            message = error.message if isinstance(error, ImagemillError) else f"{type(error).__name__}: {error}"
            print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
            known = isinstance(error, ImagemillError)
            _settle_all(jobs, lambda: ModelError(message if known else "the model stopped working"))


def _settle_all(jobs: Iterable[_Job], ending: Any) -> None:
    # Each waiter raises an exception of its own.
    for job in jobs:
        job.settle(ending())


def _settle(future: asyncio.Future[Made], ending: Made | Exception) -> None:
    if future.done():
        return
    if isinstance(ending, Exception):
        future.set_exception(ending)
    else:
        future.set_result(ending)
