"""P10: how much of a server's rate limit a client uses, and how it takes a change of it.

`python -m benchmarks.remote [--before 60] [--after 60]`. The server (`tests.faults.server`, a fresh process for each
contender) answers after 2 s ± 50 %, enforces 20 images/s with a token bucket (429 with Retry-After), fails 2 % of the
calls with 500, and halves its limit after `--before` seconds. Nobody tells imagemill or the OpenAI client of the limit;
the two policies with a bucket of their own are told the first one, and nobody is told of the change.

Each contender gets more prompts than can be done and is stopped by SIGINT at the end, so that nobody is measured while
out of work. Who gives up on so many rows that none are left is measured until its last call. All figures come from the
server's log:

* goodput: images of calls that ended well, counted when the server let the call in, as a share of what the limit
  allowed in that time. At 2 % of 500s, 0.98 is all there is, but for the burst of 10 at the start;
* sustained: the same over the time of full work only: from 10 s after the first call until the halving, and from 5 s
  after the halving until the end, as a share of what the limit allowed in these two spans together;
* 429s: their share of all calls;
* 90 % after: seconds from the first call to the end of the first 2 s in which goodput was at least 0.9;
* settled after: seconds from the halving to the first moment from which, for 10 s, no 3 s have more than 5 % of 429s,
  and goodput over the 10 s is at least 0.9 of the new limit;
* lost: rows that were answered well, more than a second before the stop, and are missing in what the contender saved;
* twice: rows with more than one good answer, which is money for nothing;
* failed: rows that the contender gave up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import machine, parser, show, write

LATENCY, JITTER, ERRORS, BURST = 2.0, 0.5, 0.02, 10.0
CONCURRENCY = 64
TO_START, TO_SETTLE = 10.0, 5.0
"""Seconds from the first call and from the halving that a client has before `sustained` counts."""


@dataclass
class Work:
    """What a contender gets: prompts, a server, a file for what became of each row."""

    url: str
    prompts: int
    rate: float
    """Images a second that the server allows at first; only for those who must be told."""
    folder: Path

    def __post_init__(self) -> None:
        self._answers = (self.folder / "answers.jsonl").open("a", buffering=1)

    def note(self, row: int, good: bool) -> None:
        """Save what became of a row."""
        self._answers.write(json.dumps([row, good]) + "\n")


def body(row: int) -> dict[str, Any]:
    """The same call for all."""
    return {"model": "mock", "prompt": f"picture {row}", "n": 1, "size": "64x64", "response_format": "b64_json"}


def imagemill(work: Work) -> None:
    """The library call with its defaults."""
    import imagemill as library

    prompts = [f"picture {row}" for row in range(work.prompts)]
    options: dict[str, Any] = {"model": "openai:mock", "base_url": f"{work.url}/v1", "own_size": "64x64"}
    library.generate(prompts, work.folder / "dataset", seed=1, **options)


async def gather(work: Work) -> None:
    """The OpenAI client with its defaults, all rows at once behind a semaphore."""
    from openai import AsyncOpenAI, OpenAIError

    client = AsyncOpenAI(base_url=f"{work.url}/v1", api_key="mock", max_retries=2)
    semaphore = asyncio.Semaphore(CONCURRENCY)

    async def one(row: int) -> None:
        async with semaphore:
            try:
                await client.images.generate(**body(row))
            except OpenAIError:
                work.note(row, False)
            else:
                work.note(row, True)

    await asyncio.gather(*(one(row) for row in range(work.prompts)))


class Policy:
    """What the two policies share: a bucket of a minute's calls, a pause for all after a 429, a queue of retries."""

    def __init__(self, work: Work, pause: float, capacity: float) -> None:
        import httpx2

        self.work, self.pause, self.capacity = work, pause, capacity
        self.refilled, self.limited = time.monotonic(), -pause
        self.retries: deque[tuple[int, int]] = deque()
        self.calls: set[asyncio.Task[None]] = set()
        limits = httpx2.Limits(max_connections=None)
        self.client = httpx2.AsyncClient(base_url=work.url, timeout=600, limits=limits)

    def has_capacity(self) -> bool:
        """Refill the bucket, and say whether there is a call in it."""
        now = time.monotonic()
        self.capacity = min(self.capacity + (now - self.refilled) * self.work.rate, 60 * self.work.rate)
        self.refilled = now
        return self.capacity >= 1

    async def cool_down(self) -> None:
        """Wait until the last 429 is long enough ago."""
        remaining = self.limited + self.pause - time.monotonic()
        if remaining > 0:
            await asyncio.sleep(remaining)

    def start(self, row: int, attempts: int) -> None:
        """Start a call; `attempts` are those left with this one."""
        self.capacity -= 1
        call = asyncio.create_task(self._call(row, attempts - 1))
        self.calls.add(call)
        call.add_done_callback(self.calls.discard)

    async def _call(self, row: int, attempts: int) -> None:
        import httpx2

        status = 0
        with suppress(httpx2.HTTPError):
            status = (await self.client.post("/v1/images/generations", json=body(row))).status_code
        if status == 429:
            self.limited = time.monotonic()
        if status == 200 or not attempts:
            self.work.note(row, status == 200)
        else:
            self.retries.append((row, attempts))


async def cookbook(work: Work) -> None:
    """A full bucket at the start, a look every millisecond, retries before new rows."""
    policy = Policy(work, pause=15, capacity=60 * work.rate)
    fresh = iter(range(work.prompts))
    waiting: tuple[int, int] | None = None
    more = True
    while more:
        if waiting is None and policy.retries:
            waiting = policy.retries.popleft()
        elif waiting is None and (row := next(fresh, None)) is not None:
            waiting = row, 5
        if policy.has_capacity() and waiting:
            policy.start(*waiting)
            waiting = None
        more = waiting is not None or bool(policy.calls) or bool(policy.retries)
        await asyncio.sleep(0.001)
        await policy.cool_down()


async def curator(work: Work) -> None:
    """A bucket with one call at the start, a look every 0.1 s, retries only after all rows had their first attempt."""
    policy = Policy(work, pause=10, capacity=1)

    async def start(row: int, attempts: int) -> None:
        while not policy.has_capacity():
            await asyncio.sleep(0.1)
        await policy.cool_down()
        # A pause brings no capacity.
        policy.refilled = time.monotonic()
        policy.start(row, attempts)

    for row in range(work.prompts):
        await start(row, 10)
    while policy.calls or policy.retries:
        if policy.retries:
            await start(*policy.retries.popleft())
        else:
            await asyncio.wait(policy.calls, timeout=0.1)


def running(contender: Callable[[Work], Coroutine[Any, Any, None]]) -> Callable[[Work], None]:
    """Run a coroutine function to its end."""
    return lambda work: asyncio.run(contender(work))


CONTENDERS: dict[str, Callable[[Work], None]] = {
    "imagemill": imagemill,
    "AsyncOpenAI, gather and semaphore": running(gather),
    "policy of openai-cookbook": running(cookbook),
    "policy of curator": running(curator),
}


@dataclass(frozen=True)
class Figures:
    """What came of one contender; None where there was nothing to measure."""

    goodput: float
    sustained: float | None
    goodput_before: float
    goodput_after: float | None
    limited: float
    calls: int
    images: int
    seconds_to_rate: float | None
    seconds_to_settle: float | None
    lost: int
    twice: int
    failed: int
    seconds: float
    """Measured; less than asked for where a contender ran out of rows."""


class Times:
    """Sorted moments, to be counted in windows."""

    def __init__(self, moments: Sequence[float]) -> None:
        self.moments = sorted(moments)

    def within(self, start: float, end: float) -> int:
        """How many lie in [start, end)."""
        return bisect_left(self.moments, end) - bisect_left(self.moments, start)


def sustained(good: Times, rate: float, change: float, end: float) -> float | None:
    """Goodput without the time to start and the time to settle after the change."""
    spans = ((rate, TO_START, change), (rate / 2, change + TO_SETTLE, end))
    worked = [(limit, start, until) for limit, start, until in spans if start < until]
    allowed = sum(limit * (until - start) for limit, start, until in worked)
    return sum(good.within(start, until) for _, start, until in worked) / allowed if worked else None


def seconds_to_rate(good: Times, rate: float, end: float) -> float | None:
    """When 90 % of the rate was first held for 2 s."""
    ends = (tenth / 10 for tenth in range(20, int(end * 10)))
    return next((at for at in ends if good.within(at - 2, at) >= 0.9 * rate * 2), None)


def seconds_to_settle(calls: Times, limited: Times, good: Times, rate: float, start: float, end: float) -> float | None:
    """How long after `start` a contender has found the new rate."""

    def quiet(at: float) -> bool:
        return limited.within(at, at + 3) <= 0.05 * calls.within(at, at + 3)

    for tenth in range(int((end - start - 10) * 10)):
        at = start + tenth / 10
        if good.within(at, at + 10) >= 0.9 * rate * 10 and all(quiet(at + later / 10) for later in range(71)):
            return round(at - start, 1)
    return None


def measured(log: dict[str, Any], halved: float | None, end: float, rate: float, work: Work, stopped: float) -> Figures:
    """The figures of a contender; times are of the wall clock."""
    first = log["calls"][0]["time"]
    calls = [call for call in log["calls"] if call["time"] < end]
    answered = [call for call in log["calls"] if call["images"]]
    good = Times([call["time"] - first for call in calls if call["images"]])
    limited = Times([call["time"] - first for call in calls if call["status"] == 429])
    every = Times([call["time"] - first for call in calls])
    end -= first
    change = end if halved is None else halved - first
    allowed_before, allowed_after = rate * change, rate / 2 * (end - change)
    saved, failed = outcome(work)
    early = {call["prompt"] for call in answered if call["time"] + call["seconds"] < stopped - 1}
    return Figures(
        goodput=good.within(0, end) / (allowed_before + allowed_after),
        sustained=sustained(good, rate, change, end),
        goodput_before=good.within(0, change) / allowed_before,
        goodput_after=good.within(change, end) / allowed_after if allowed_after else None,
        limited=limited.within(0, end) / len(calls),
        calls=len(calls),
        images=good.within(0, end),
        seconds_to_rate=seconds_to_rate(good, rate, end),
        seconds_to_settle=seconds_to_settle(every, limited, good, rate / 2, change, end),
        lost=len(early - saved),
        twice=sum(count > 1 for count in Counter(call["prompt"] for call in answered).values()),
        failed=failed,
        seconds=round(end, 1),
    )


def outcome(work: Work) -> tuple[set[str], int]:
    """The prompts whose images a contender has saved, and how many rows it gave up."""
    dataset = work.folder / "dataset"
    if dataset.is_dir():
        from imagemill.dataset import Dataset

        records = Counter(record["prompt"] for record in Dataset(dataset))
        command = [sys.executable, "-m", "imagemill", "status", "--json", str(dataset)]
        counts = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        failed = sum(counts["failed"].values())
        kept = counts["done"] + failed + counts["pending"]
        if max(records.values(), default=0) > 1 or kept != work.prompts or counts["done"] != len(records):
            raise SystemExit(f"the dataset does not add up: {counts}, {len(records)} prompts")
        return set(records), failed
    lines = [json.loads(line) for line in (work.folder / "answers.jsonl").read_text().splitlines()]
    return {f"picture {row}" for row, good in lines if good}, sum(not good for _, good in lines)


def contest(name: str, chosen: argparse.Namespace) -> Figures:
    """Run one contender against a server of its own."""
    import httpx2

    from tests.faults.server import program

    server = ["--faults", str(ERRORS), "--kinds", "500", "--latency", str(LATENCY), "--jitter", str(JITTER)]
    server += ["--rate-limit", str(chosen.rate), "--burst", str(BURST)]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        url = stack.enter_context(program(*server))
        client = stack.enter_context(httpx2.Client(base_url=url, timeout=60))
        output = stack.enter_context(Path(folder, "output").open("w"))
        work = Work(url, chosen.prompts, chosen.rate, Path(folder))
        command = [sys.executable, "-m", "benchmarks.remote", "--be", name, "--url", url, "--folder", folder]
        command += ["--prompts", str(chosen.prompts), "--rate", str(chosen.rate)]
        environment = {**os.environ, "OPENAI_API_KEY": "mock"}
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

        def wait(until: float) -> bool:
            """Whether the contender still works at that time."""
            while time.time() < until and process.poll() is None:
                time.sleep(0.02)
            return process.poll() is None

        try:
            while not (calls := client.get("/log").json()["calls"]) and wait(time.time() + 0.05):
                pass
            if not calls:
                raise SystemExit(f"{name} made no call:\n{Path(folder, 'output').read_text()}")
            halved = None
            end = calls[0]["time"] + chosen.before + chosen.after
            if wait(calls[0]["time"] + chosen.before):
                client.put("/rate_limit", json=chosen.rate / 2)
                halved = time.time()
            # What was let in until the end shall have its answer.
            working = wait(end + LATENCY * (1 + JITTER) + 1)
            found, stopped = client.get("/log").json(), time.time()
            process.send_signal(signal.SIGINT)
            process.wait(60)
        finally:
            process.kill()
        if not working:
            end = min(end, found["calls"][-1]["time"])
        return measured(found, halved, end, chosen.rate, work, stopped)


def be(name: str, chosen: argparse.Namespace) -> None:
    """Work as a contender, in the process made for it."""
    # A shell that starts the benchmark in the background has it ignore SIGINT, and who ignores it hands that down.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        CONTENDERS[name](Work(chosen.url, chosen.prompts, chosen.rate, Path(chosen.folder)))


def shown(value: float | None, digits: int = 2) -> str:
    """A figure of the table."""
    return "never" if value is None else f"{value:.{digits}f}"


def main() -> None:
    """Run the contenders in turn."""
    options = parser(__doc__)
    options.add_argument("--before", type=float, default=60, help="seconds at the first limit")
    options.add_argument("--after", type=float, default=60, help="seconds at half of it")
    options.add_argument("--rate", type=float, default=20, help="images a second")
    options.add_argument("--prompts", type=int, default=40_000)
    options.add_argument("--only", action="append", choices=CONTENDERS)
    for internal in ("--be", "--url", "--folder"):
        options.add_argument(internal, help=argparse.SUPPRESS)
    options.set_defaults(runs=1)
    chosen = options.parse_args()
    if chosen.be:
        return be(chosen.be, chosen)
    results: dict[str, list[Figures]] = {name: [] for name in chosen.only or CONTENDERS}
    for _ in range(chosen.runs):
        for name, figures in results.items():
            figures.append(contest(name, chosen))
            print(name, figures[-1], file=sys.stderr)
    rows = [
        (
            name, shown(run.goodput), shown(run.sustained, 3), shown(run.goodput_before), shown(run.goodput_after),
            f"{run.limited:.1%}", shown(run.seconds_to_rate, 1), shown(run.seconds_to_settle, 1),
            run.lost, run.twice, run.failed, shown(run.seconds, 0),
        )
        for name, runs in results.items()
        for run in runs
    ]  # fmt: skip
    header = ("contender", "goodput", "sustained", "before", "after", "429s", "90 % after (s)", "settled after (s)")
    title = f"{chosen.rate:g} images/s for {chosen.before:g} s, then half for {chosen.after:g} s, {machine()}"
    show(title, (*header, "lost", "twice", "failed", "seconds"), rows)
    said = {name: [asdict(run) for run in runs] for name, runs in results.items()}
    asked = {"before": chosen.before, "after": chosen.after, "rate": chosen.rate, "prompts": chosen.prompts}
    write(chosen.output, {**asked, "contenders": said})
    return None


if __name__ == "__main__":
    main()
