"""How many calls a server bears: a window of calls in flight, and rates that are declared or learned."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Ending = Literal["ok", "limited", "overloaded", "other"]
"""How a call ended, for its pace: 429 is `limited`; 503, 529, a timeout or a broken connection is `overloaded`."""

_START = 4
"""Calls in flight before the first answer: few enough that a wrong key costs little."""
_NARROWLY, _WIDER = 0.5, 0.02
"""Calls, and share of the window, by which it grows while all of it succeeds."""
_SLOWER = 0.95
"""Of the rate, when a server is asked a little too fast."""
_MUCH_SLOWER = 0.8
"""Of the rate, when it still says so shortly after that."""
_SHORTLY = 3.0
"""Seconds."""
_CUBIC = 2.2e-5
"""Of CUBIC (RFC 9438), on rates: back at the rate of the last 429 after 13 seconds, for a while careful, then bold."""
_SEARCH = 0.25
"""By what share a rate grows in a second while only one 429 is known: it may have been a burst."""
_CATCH_UP = 1.2
"""Times the rate at which a pause is made up for."""
_BELOW = 0.95
"""Of the rate of the last 429: below it another one is a stray, unless the limit has fallen."""
_STRAYS = 3
"""So many in turn, and 429s do not come of the pace."""
_FEW = 0.15
"""Of the last calls: what a fallen limit or a full server would refuse is more."""
_MANY = 0.3
"""Of the last calls: so many are no strays any more."""
_LAST = 20
"""Calls."""
_PARDON = 60.0
"""Seconds for which strays change nothing; twice as long each time."""


@dataclass(slots=True)
class _Bucket:
    """Tokens that come at a rate; a second's worth can be saved."""

    rate: float
    """Tokens per second."""
    tokens: float = 1.0
    at: float = 0.0
    last: float = -math.inf
    """When a token was last taken."""

    def fill(self, now: float) -> None:
        self.tokens = min(max(1.0, self.rate), self.tokens + (now - self.at) * self.rate)
        self.at = now

    def wait(self, now: float) -> float:
        self.fill(now)
        missing = (1 - self.tokens) / self.rate
        return max(0.0, missing, self.last + 1 / (_CATCH_UP * self.rate) - now)

    def take(self, count: float, now: float) -> None:
        self.fill(now)
        # May go below zero: the next call waits for what a large one has taken.
        self.tokens -= count
        self.last = now


class Pace:
    """Says when the next call may start.

    Calls in flight grow by two with every success until a server is overloaded. From then on they grow slowly and
    shrink by half the share of overloads (as DCTCP, RFC 8257); the few that come at any pace change nothing.
    A rate is what the user declared, or is learned from the first 429 on: it falls with 429s that tell something new,
    and grows the faster the longer there is none.
    """

    def __init__(
        self,
        concurrency: int,
        calls_per_second: float | None = None,
        images_per_second: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.in_flight = 0
        self._most = concurrency
        self._window = float(min(_START, concurrency))
        self._growing = True
        self._clock = clock
        self._calls = _Bucket(calls_per_second, at=clock()) if calls_per_second else None
        self._images = _Bucket(images_per_second, at=clock()) if images_per_second else None
        self._learned: _Bucket | None = None
        self._started: deque[float] = deque(maxlen=1000)
        self._not_before = self._narrowed = self._slowed = -math.inf
        self._endings: deque[Ending] = deque(maxlen=_LAST)
        self._held: list[float] = []
        """Until when places of calls that met an overloaded server are not given away."""
        self._strays = 0
        self._pardon, self._pardoned = _PARDON, -math.inf
        self._latency = 0.0
        """Of calls that succeed, in seconds, a moving mean."""
        self._searching = True
        self._ceiling = self._floor = 0.0
        self._at = 0.0

    def wait(self) -> float | None:
        """Seconds until the next call may start; None when one in flight must end first."""
        now = self._clock()
        self._held = [until for until in self._held if until > now]
        free = int(self._window) - self.in_flight
        if free <= len(self._held):
            return sorted(self._held)[-free] - now if free > 0 else None
        self._grow(now)
        waits = [bucket.wait(now) for bucket in (self._calls, self._images, self._learned) if bucket]
        return max(0.0, self._not_before - now, *waits)

    def start(self, images: int) -> float:
        """Count a call that starts now; returns what `end` wants to know of it."""
        now = self._clock()
        for bucket, count in ((self._calls, 1), (self._images, images), (self._learned, 1)):
            if bucket:
                bucket.take(count, now)
        self.in_flight += 1
        self._started.append(now)
        return now

    def end(self, started: float, ending: Ending, retry_after: float = 0.0) -> None:
        """Count the end of a call; `retry_after` is what the server said, in seconds."""
        now = self._clock()
        self.in_flight -= 1
        self._endings.append(ending)
        if ending == "limited":
            if self._slow_down(started, now):
                self._not_before = max(self._not_before, now + retry_after)
        elif ending == "overloaded":
            share = self._share(ending)
            # The place stays taken as long as a call that succeeds would take it, or one too many fails all the time.
            self._held.append(max(now, started + self._latency))
            if share >= _MANY:
                self._not_before = max(self._not_before, now + retry_after)
            # A few come at any pace. And not before the new window could show its effect.
            if share >= _FEW and now - self._narrowed >= self._latency:
                self._window = max(1.0, self._window * (1 - share / 2))
                self._narrowed, self._growing = now, False
        elif ending == "ok":
            self._latency += 0.1 * (now - started - self._latency)
            self._window = min(self._most, self._window + (2 if self._growing else _NARROWLY / self._window + _WIDER))

    def _share(self, ending: Ending) -> float:
        return self._endings.count(ending) / _LAST

    def _slow_down(self, started: float, now: float) -> bool:
        """Learn from a 429; whether it has to do with the pace."""
        few = self._share("limited") < _FEW
        if now < self._pardoned:
            if self._share("limited") < _MANY:
                return False
            self._pardoned = now
        if self._learned is None:
            recent = float(max(1, sum(now - at <= 1 for at in self._started)))
            self._learned, self._searching = _Bucket(recent, tokens=0.0, at=now), True
        elif started < self._slowed:
            return True
        else:
            self._searching = False
            stray = few and self._learned.rate < _BELOW * self._ceiling
            self._strays = self._strays + 1 if stray else 0
            if self._strays == _STRAYS:
                self._learned, self._strays = None, 0
                self._pardoned, self._pardon = now + self._pardon, 2 * self._pardon
                return False
        bucket = self._learned
        bucket.fill(now)
        self._ceiling = bucket.rate
        bucket.rate *= _MUCH_SLOWER if now - self._slowed < _SHORTLY else _SLOWER
        self._floor = bucket.rate
        self._slowed = self._at = now
        return True

    def _grow(self, now: float) -> None:
        bucket = self._learned
        if bucket is None:
            return
        bucket.fill(now)
        if now < self._not_before or bucket.tokens >= max(1.0, bucket.rate / 2):
            # A rate that nobody uses up teaches nothing: the clock stands still.
            self._slowed += now - self._at
        elif self._searching:
            bucket.rate *= 1 + _SEARCH * (now - self._at)
        else:
            knee = ((1 - self._floor / self._ceiling) / _CUBIC) ** (1 / 3)
            bucket.rate = self._ceiling * (1 + _CUBIC * (now - self._slowed - knee) ** 3)
        self._at = now
