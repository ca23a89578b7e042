"""How many calls a server gets, in a time of our own."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest

from imagemill.remote.pace import Ending, Pace


@dataclass
class Server:
    """A server in a time of its own, whose clock the pace reads."""

    rate: float | None = None
    """Calls a second, with ten at once."""
    capacity: int | None = None
    """Calls at work; more are refused with 503."""
    random_429: float = 0.0
    random_503: float = 0.0
    latency: float = 2.0
    now: float = 0.0
    good: list[float] = field(default_factory=list)
    """When calls that succeeded began."""
    limited: list[float] = field(default_factory=list)
    calls: int = 0
    tokens: float = 10.0
    filled: float = 0.0
    working: int = 0
    ends: list[tuple[float, int, Ending, float]] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def run(self, pace: Pace, until: float) -> None:
        while self.now < until:
            wait = pace.wait()
            if wait is not None and wait < 1e-9:
                self.calls += 1
                heapq.heappush(self.ends, (*self.answer(), pace.start(1)))
                continue
            soonest = self.ends[0][0] if self.ends else until
            self.now = min(soonest, self.now + wait if wait is not None else soonest)
            while self.ends and self.ends[0][0] <= self.now:
                _, _, ending, started = heapq.heappop(self.ends)
                pace.end(started, ending, 0.05 if ending == "limited" else 0.0)
                if ending == "ok":
                    self.working -= 1
                    self.good.append(started)

    def answer(self) -> tuple[float, int, Ending]:
        """When the call that starts now ends, and how."""
        ending: Ending = "ok"
        if self.rate:
            self.tokens = min(10.0, self.tokens + (self.now - self.filled) * self.rate)
            self.filled = self.now
            ending = "ok" if self.tokens >= 1 else "limited"
            self.tokens -= ending == "ok"
        if (self.capacity and self.working >= self.capacity) or self.chance.random() < self.random_503:
            ending = "overloaded"
        if self.chance.random() < self.random_429:
            ending = "limited"
        if ending == "limited":
            self.limited.append(self.now)
        self.working += ending == "ok"
        seconds = self.latency * self.chance.uniform(0.5, 1.5) if ending == "ok" else 0.01
        return self.now + seconds, self.calls, ending

    def per_second(self, start: float, end: float) -> float:
        return sum(start <= moment < end for moment in self.good) / (end - start)


def pace_for(server: Server, **options: float) -> Pace:
    return Pace(64, clock=lambda: server.now, **options)


def test_a_declared_rate_is_used_up_and_never_exceeded() -> None:
    server = Server(rate=5.0)
    server.run(pace_for(server, calls_per_second=5.0), until=60)
    assert server.limited == []
    assert server.per_second(5, 55) == pytest.approx(5.0, rel=0.03)


def test_a_rate_nobody_has_declared_is_learned_and_followed_when_it_changes() -> None:
    server = Server(rate=20.0)
    pace = pace_for(server)
    server.run(pace, until=60)
    assert server.per_second(10, 58) > 0.95 * 20
    server.rate = 10.0
    server.run(pace, until=120)
    assert server.per_second(65, 118) > 0.95 * 10
    assert len(server.limited) < 0.02 * server.calls
    server.rate = 40.0
    server.run(pace, until=300)
    assert server.per_second(240, 298) > 0.7 * 31


def test_a_few_429s_that_come_at_any_pace_slow_nothing_down() -> None:
    server = Server(random_429=0.05, latency=0.2)
    server.run(pace_for(server), until=60)
    assert server.per_second(20, 58) > 0.35 * 64 / 0.2


def test_a_server_that_bears_few_calls_gets_few() -> None:
    server = Server(capacity=8)
    server.run(pace_for(server), until=120)
    assert server.per_second(20, 115) > 0.85 * 8 / 2
    wasted = server.calls - len(server.good)
    assert wasted < 0.25 * server.calls


def test_some_503s_that_come_at_any_pace_slow_little_down() -> None:
    server = Server(random_503=0.03)
    server.run(pace_for(server), until=120)
    assert server.per_second(20, 115) > 0.5 * 64 / 2


def test_before_the_first_answer_only_a_few_calls_are_made() -> None:
    server = Server(latency=100)
    server.run(pace_for(server), until=10)
    assert server.calls == 4


def test_a_server_is_left_alone_as_long_as_it_says() -> None:
    now = [0.0]
    pace = Pace(64, clock=lambda: now[0])
    pace.end(pace.start(1), "limited", retry_after=7.0)
    assert pace.wait() == pytest.approx(7.0, abs=0.1)
    now[0] = 7.1
    assert pace.wait() == 0
