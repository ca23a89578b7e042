"""Many calls at once to a server that fails, slows down and costs money."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import queue
import random
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Generic, Protocol, TypeVar

from imagemill.errors import LimitReached, ModelError
from imagemill.remote.client import CallFailed, Client
from imagemill.remote.pace import Pace

_HINTS = {
    "auth": "check the key in the environment",
    "model_gone": "check the model's name and `base_url`",
    "no_credit": "add credit with the provider",
    "unreachable": "check `base_url` and the network",
}
_FATAL = _HINTS.keys()
"""Reasons that may hold for every call."""
_FATAL_CALLS = 5
"""So many in a row, and the run stops."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
"""Seconds before the second try at most, doubled for each further one, and the bound of that."""
_MORE_WAITS = 5
"""Times as many tries has a call that is only told to wait."""

Item = TypeVar("Item")
Done = TypeVar("Done")


class Journal(Protocol):
    """Where paid calls are written down before they are made."""

    def opened(self, names: Sequence[str], cost: float | None, batch: str = "") -> None:
        """A call starts now, or calls are handed in as a batch with this token; returns when that is on disk."""

    def closed(self, names: Sequence[str], paid: bool | None) -> None:
        """It has ended without an image."""

    def waiting(self) -> int:
        """Count images that are asked for and neither given up nor stored."""

    def batches(self) -> Mapping[str, Sequence[str]]:
        """Batches whose images have not come, by token."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server is called; nothing of it decides what comes back."""

    concurrency: int
    max_retries: int
    calls_per_second: float | None
    images_per_second: float | None
    max_cost: float | None


Send = Callable[[Client, Sequence[Item]], Awaitable[Sequence[Done | CallFailed]]]
"""Makes one call for items of a kind and returns what came of each; raises CallFailed for all of them."""


@dataclass(slots=True)
class _Call(Generic[Item]):
    items: tuple[Item, ...]
    tries: int = 0


def stream(
    groups: Iterable[Sequence[Item]],
    client: Callable[[], Client],
    send: Send[Item, Done],
    settings: Settings,
    *,
    name_of: Callable[[Item], str],
    kind_of: Callable[[Item], object],
    most: int,
    cost_of: Callable[[Item], float | None],
    refused: Callable[[Item, CallFailed], Done],
    journal: Journal | None,
) -> Generator[Done, None, None]:
    """Call a server for every item and yield what comes of each, in any order.

    Items of one kind that stand together share a call, at most `most` of them. Raises ModelError when a reason holds
    for all calls, and LimitReached when the next one would cost more than allowed: then what has not been yielded is
    as if it had never been asked for. A KeyboardInterrupt, also one thrown in, starts no further call; what is in
    flight is still yielded before it goes on.
    """
    results: queue.Queue[Done | BaseException | None] = queue.Queue()
    source = (
        _Call(tuple(chunk))
        for group in groups
        for _, same in groupby(group, kind_of)
        for chunk in _chunks(list(same), most)
    )
    stop = threading.Event()

    async def main() -> None:
        # Told from here: the end of the loop may wait for the thread that waits for more work.
        try:
            async with client() as opened:
                run = _Run(opened, send, settings, name_of, cost_of, refused, journal, results.put, results.qsize)
                await run.all(source, stop)
            results.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where results are waited for
            results.put(error)

    threading.Thread(target=asyncio.run, args=(main(),), name="imagemill-remote", daemon=True).start()
    try:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result
    except KeyboardInterrupt:
        # What is in flight may be paid for.
        stop.set()
        while (result := results.get()) is not None and not isinstance(result, BaseException):
            yield result
        raise
    finally:
        stop.set()


def total(costs: Iterable[float | None]) -> float | None:
    """The sum; None when one of them is not known."""
    known = 0.0
    for cost in costs:
        if cost is None:
            return None
        known += cost
    return known


def _chunks(items: list[Item], most: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), most):
        yield items[start : start + most]


class _Run(Generic[Item, Done]):
    """One run: what waits, what is in flight, what has come."""

    def __init__(
        self,
        client: Client,
        send: Send[Item, Done],
        settings: Settings,
        name_of: Callable[[Item], str],
        cost_of: Callable[[Item], float | None],
        refused: Callable[[Item, CallFailed], Done],
        journal: Journal | None,
        put: Callable[[Done], None],
        crowd: Callable[[], int],
    ) -> None:
        """`crowd` counts the results that wait to be taken."""
        self._client, self._send, self._settings = client, send, settings
        self._name_of, self._cost_of, self._refused = name_of, cost_of, refused
        self._journal, self._put, self._crowd = journal, put, crowd
        self._pace = Pace(settings.concurrency, settings.calls_per_second, settings.images_per_second)
        self._fresh: _Call[Item] | None = None
        self._again: list[tuple[float, int, _Call[Item]]] = []
        """A heap by the time of the next try."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        """Of the program itself."""
        self._fatal: list[tuple[_Call[Item], CallFailed]] = []
        """Calls in a row that failed for a reason that may hold for all."""
        self._worked = self._ending = False
        self._committed = 0.0
        """Dollars: what is spent, may be spent, or is in flight."""
        self._count = itertools.count()
        self._changed = asyncio.Event()

    async def all(self, source: Iterator[_Call[Item]], stop: threading.Event) -> None:
        """Start calls as the pace allows until everything has ended, mixing new ones with those to be tried again."""
        taking: asyncio.Future[_Call[Item] | None] | None = None
        ended = False
        while True:
            self._changed.clear()
            if self._errors:
                raise self._errors[0]
            if taking and taking.done():
                self._fresh, taking = taking.result(), None
                ended = self._fresh is None
            stopping = stop.is_set() or len(self._fatal) >= _FATAL_CALLS
            idle = not (self._tasks or taking or self._fresh or self._again)
            if (stopping and not self._tasks) or (ended and idle):
                break
            if not (ended or taking or self._fresh or stopping):
                # Where work comes from may be slow, and must not hold up what is in flight.
                taking = asyncio.get_running_loop().run_in_executor(None, next, source, None)
                taking.add_done_callback(lambda _: self._changed.set())
            wait = 0.5 if stopping else self._start_next()
            if wait > 0:
                try:
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
                except TimeoutError:
                    if taking and not (self._tasks or self._fresh or self._again):
                        # More work may never come, as behind a server of ours: those who wait are told now.
                        self._acquit()
        self._end()

    def _start_next(self) -> float:
        """Start the next call if it may start now; returns the seconds after which to look again."""
        now = time.monotonic()
        due = bool(self._again) and self._again[0][0] <= now
        call = self._again[0][2] if due else self._fresh
        if call is None:
            return max(0.001, min(0.5, self._again[0][0] - now)) if self._again else 0.5
        # After a refusal that may hold for all, a few calls find out.
        careful = bool(self._fatal) and len(self._tasks) >= _FATAL_CALLS - len(self._fatal)
        # What is paid for and not yet on disk counts as in flight.
        waiting = max(self._crowd(), self._journal.waiting() if self._journal else 0)
        crowded = waiting > (self._settings.concurrency - 1) * len(call.items)
        cost = self._cost(call)
        over = self._is_too_much(cost)
        delay = self._pace.wait()
        if careful or crowded or over or delay is None:
            return 0.05 if crowded else 0.5
        if delay > 0:
            return min(0.5, delay)
        if due:
            heapq.heappop(self._again)
        else:
            self._fresh = None
        # Counted before the task runs: another call may be looked at before that.
        self._committed += cost or 0.0
        task = asyncio.get_running_loop().create_task(self._make(call, cost, self._pace.start(len(call.items))))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return 0

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._errors.append(error)
        self._changed.set()

    def _cost(self, call: _Call[Item]) -> float | None:
        return total(self._cost_of(item) for item in call.items)

    def _is_too_much(self, cost: float | None) -> bool:
        """Whether the budget does not bear a call; raises LimitReached when nothing in flight can change that."""
        most = self._settings.max_cost
        # Sums of cents are not exact.
        if most is None or (cost is not None and self._committed + cost <= most + 1e-9):
            return False
        if self._tasks:
            return True
        if cost is None:
            raise LimitReached("`max_cost`: nobody knows what the next call costs", "say it with `--price`")
        raise LimitReached(
            f"the next call would exceed `max_cost`: ${self._committed:.2f} of ${most:.2f} are spent",
            "everything made is kept; the same command goes on",
        )

    async def _make(self, call: _Call[Item], cost: float | None, started: float) -> None:
        """Make one call, hand on what came, and put the rest where it belongs."""
        call.tries += 1
        journal = self._journal if cost != 0 else None
        outcomes: Sequence[Done | CallFailed]
        try:
            if journal:
                await asyncio.to_thread(journal.opened, [self._name_of(item) for item in call.items], cost)
            outcomes = await self._send(self._client, call.items)
            self._pace.end(started, "ok")
            self._worked = True
            self._acquit()
        except CallFailed as error:
            outcomes = [error] * len(call.items)
            self._pace.end(started, error.ending, error.retry_after)
            if error.paid is False:
                self._committed -= cost or 0.0
        failed: dict[CallFailed, list[Item]] = {}
        for item, outcome in zip(call.items, outcomes, strict=True):
            if isinstance(outcome, CallFailed):
                outcome.message = self._client.redacted(outcome.message)
                failed.setdefault(outcome, []).append(item)
            else:
                self._put(outcome)
        for failure, items in failed.items():
            if journal:
                await asyncio.to_thread(journal.closed, [self._name_of(item) for item in items], failure.paid)
            self._decide(_Call(tuple(items), call.tries), failure)

    def _decide(self, call: _Call[Item], failure: CallFailed) -> None:
        """Whether a failed call is made again, given up, or a sign that none will succeed."""
        more = _MORE_WAITS if failure.reason == "rate_limited" else 1
        if failure.again and call.tries <= more * self._settings.max_retries:
            # Full jitter, so that calls which failed together do not come back together.
            longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (call.tries - 1))
            wait = failure.retry_after + random.uniform(0, longest)  # noqa: S311 - no secret
            heapq.heappush(self._again, (time.monotonic() + wait, next(self._count), call))
        elif failure.reason in _FATAL or (failure.reason == "bad_request" and not self._worked):
            self._fatal.append((call, failure))
            if len(self._fatal) >= _FATAL_CALLS and not self._is_hopeless():
                self._acquit()
        else:
            if failure.reason == "moderation_blocked":
                self._worked = True
                self._acquit()
            self._give_up(call, failure)

    def _is_hopeless(self) -> bool:
        """Whether what the server refused it refuses always: for a reason beyond the calls, or all alike."""
        reasons = {failure.reason for _, failure in self._fatal}
        messages = {failure.message for _, failure in self._fatal}
        return reasons <= _FATAL or (reasons == {"bad_request"} and len(messages) == 1)

    def _give_up(self, call: _Call[Item], failure: CallFailed) -> None:
        for item in call.items:
            self._put(self._refused(item, failure))

    def _acquit(self) -> None:
        """The server works: what it refused before, it refused for one call and not for all."""
        for call, failure in self._fatal:
            if failure.reason == "unreachable" and self._worked and not self._ending:
                # It is back.
                heapq.heappush(self._again, (time.monotonic(), next(self._count), _Call(call.items)))
            else:
                self._give_up(call, failure)
        self._fatal.clear()

    def _end(self) -> None:
        """Raise ModelError when the server refused all.

        Those calls count as never made; but one that is no good in itself would be made again for ever.
        """
        self._ending = True
        last = self._fatal[-1][1] if self._fatal else None
        many = len(self._fatal) >= _FATAL_CALLS
        if last is None or not (many or (self._is_hopeless() and not self._worked)):
            self._acquit()
            return
        if last.reason == "bad_request":
            self._acquit()
            if not many:
                return
            hint = "those calls have failed; the same command goes on with the next, so change what all have in common"
            raise ModelError(f"the server refuses every call alike: {last.message}", hint)
        raise ModelError(
            f"the server refuses every call, the last with {last.reason}: {last.message}",
            f"{_HINTS[last.reason]}; the same command continues",
        )


def run_once(client: Callable[[], Client], ask: Callable[[Client], Awaitable[Done]]) -> Done:
    """Ask a server one thing outside a run; raises CallFailed."""

    async def main() -> Done:
        async with client() as opened:
            try:
                return await ask(opened)
            except CallFailed as error:
                error.message = opened.redacted(error.message)
                raise

    # In a thread, for a notebook has a loop of its own.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, main()).result()
