"""What has changed, told to every browser that listens."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

KEPT = 1_000
"""Events that a browser can still get which was away."""
_PING = 15.0
"""Seconds of silence after which a connection shows that it is alive."""


class Events:
    """The last events, by number; every listener reads them at its own speed, and only these are kept."""

    def __init__(self) -> None:
        # Numbers begin anew with every server.
        self._epoch = secrets.token_hex(4)
        self._number = 0
        self._kept: deque[tuple[int, str, str]] = deque(maxlen=KEPT)
        self._listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def last(self) -> str:
        """The id of the last event."""
        return f"{self._epoch}-{self._number}"

    @property
    def listeners(self) -> int:
        """How many browsers listen."""
        return len(self._listeners)

    def publish(self, kind: str, data: dict[str, Any]) -> None:
        """Tell all browsers, from any thread."""
        text = json.dumps(data)
        with self._lock:
            self._number += 1
            self._kept.append((self._number, kind, text))
        self._wake()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._wake()

    async def stream(self, last: str) -> AsyncIterator[str]:
        """The events after the one with the id `last`, or from now on, as a browser's `EventSource` reads them.

        A `reset` comes first where some of them are gone: whoever listens must read everything again.
        """
        listener = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._listeners.add(listener)
        try:
            number = self._number_of(last) if last else self._number
            # An id without data is only remembered.
            yield "retry: 1000\n" + (f"id: {self._epoch}-{number}\n\n" if number >= 0 else "\n")
            while not self._closed:
                listener[1].clear()
                number, text = self._since(number)
                if text:
                    yield text
                    continue
                try:
                    await asyncio.wait_for(listener[1].wait(), _PING)
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def _number_of(self, last: str) -> int:
        """The number of an event of this server; -1 for one of another."""
        epoch, _, number = last.partition("-")
        known = epoch == self._epoch and number.isdecimal() and len(number) < 20 and int(number) <= self._number
        return int(number) if known else -1

    def _since(self, number: int) -> tuple[int, str]:
        """The number of the last event, and all after a number as text."""
        with self._lock:
            last, kept = self._number, list(self._kept) if number < self._number else []
        first = kept[0][0] if kept else last + 1
        if number < first - 1:
            return last, f"event: reset\nid: {self._epoch}-{last}\ndata: {{}}\n\n"
        return last, "".join(
            f"event: {kind}\nid: {self._epoch}-{each}\ndata: {data}\n\n" for each, kind, data in kept if each > number
        )

    def _wake(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for loop, event in listeners:
            # A loop that has ended has no listeners any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)
