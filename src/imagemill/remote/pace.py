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
_LAST = 30
"""Calls that tell how overloaded a server is."""
_WIDER = 0.02
"""Of the window, by which it grows while all of it succeeds, beside one call."""
_SLOWER = 0.95
"""Of the rate, when a server is asked a little too fast."""
_MUCH_SLOWER = 0.75
"""Of the rate, when it still says so shortly after that."""
_SHORTLY = 3.0
"""Seconds."""
_CUBIC = 1.8e-5
"""Of CUBIC (RFC 9438), on rates: back at the rate of the last 429 after 14 seconds, for a while careful, then bold."""
_SEARCH = 0.25
"""By what share a rate grows in a second while only one 429 is known: it may have been a burst."""
_CATCH_UP = 1.2
"""Times the rate at which a pause is made up for."""
_MUCH = 0.4
"""To this share of the best pace of late; what still fails then, and is few, does not fail because of the pace."""
_FEW = 0.3
"""Of the last calls."""
_PARDON = 60.0
"""Seconds for which such failures change nothing; twice as long each time."""


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


class _Blame:
    """Tells failures that slowing down helps against from those that come at any pace."""

    def __init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=20)
        self._best = 0.0
        self._at = self._until = -math.inf
        self._pardon = _PARDON

    def saw(self, failed: bool) -> None:
        self._recent.append(failed)

    def is_ours(self, pace: float, now: float) -> bool:
        """Whether to slow down from `pace`, a rate or a window."""
        few = sum(self._recent) <= _FEW * len(self._recent)
        if now < self._until:
            if few:
                return False
            self._until = now
            self._best = 0.0
        if self._best:
            self._best *= 0.5 ** ((now - self._at) / _PARDON)
        self._best, self._at = max(self._best, pace), now
        if few and len(self._recent) == self._recent.maxlen and pace < _MUCH * self._best:
            self._until, self._pardon = now + self._pardon, 2 * self._pardon
            return False
        return True


class Pace:
    """Says when the next call may start.

    Calls in flight grow by two with every success until a server is first overloaded; from then on by one for each
    window of successes, and they shrink by half the share of overloads (as DCTCP, RFC 8257), so that the few which come
    at any pace cost little. A rate is what the user declared, or is learned from the first 429 on: it falls with 429s
    that tell something new, and grows the faster the longer there is none.
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
        self._blame = _Blame()
        self._overloads: deque[bool] = deque(maxlen=_LAST)
        self._latency = 0.0
        """Of calls that succeed, in seconds, a moving mean."""
        self._searching = True
        self._ceiling = self._floor = 0.0
        self._at = 0.0

    def wait(self) -> float | None:
        """Seconds until the next call may start; None when one in flight must end first."""
        if self.in_flight >= int(self._window):
            return None
        now = self._clock()
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
        self._blame.saw(ending == "limited")
        self._overloads.append(ending == "overloaded")
        if ending == "limited":
            if self._slow_down(started, now):
                self._not_before = max(self._not_before, now + retry_after)
        elif ending == "overloaded":
            share = sum(self._overloads) / len(self._overloads)
            if share > _FEW:
                self._not_before = max(self._not_before, now + retry_after)
            # Not before the new window could show its effect.
            if now - self._narrowed >= self._latency:
                self._window = max(1.0, self._window * (1 - share / 2))
                self._narrowed, self._growing = now, False
        elif ending == "ok":
            self._latency += 0.1 * (now - started - self._latency)
            self._window = min(self._most, self._window + (2 if self._growing else 1 / self._window + _WIDER))

    def _slow_down(self, started: float, now: float) -> bool:
        """Learn from a 429; whether it has to do with the pace."""
        recent = float(max(1, sum(now - at <= 1 for at in self._started)))
        if not self._blame.is_ours(self._learned.rate if self._learned else recent, now):
            self._learned = None
            return False
        if self._learned is None:
            self._learned, self._searching = _Bucket(recent, tokens=0.0, at=now), True
        elif started < self._slowed:
            return True
        else:
            self._searching = False
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
        if bucket.tokens >= max(1.0, bucket.rate / 2) and now > self._not_before:
            # A rate that nobody uses up teaches nothing: the clock stands still.
            self._slowed += now - self._at
        elif self._searching:
            bucket.rate *= 1 + _SEARCH * (now - self._at)
        else:
            knee = ((1 - self._floor / self._ceiling) / _CUBIC) ** (1 / 3)
            bucket.rate = self._ceiling * (1 + _CUBIC * (now - self._slowed - knee) ** 3)
        self._at = now
