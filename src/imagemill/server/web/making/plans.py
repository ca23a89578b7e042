"""Plans of jobs: dry runs of the very commands that would be queued, in a child process that stays warm."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, Any, cast

from imagemill.errors import ImagemillError

_SECONDS = 20.0
"""A dry run may take; starting takes some of them."""
_IDLE = 600.0
"""Seconds after which the child is let go."""
_MOST_WAITING = 8
_MOST_FORMS = 64
"""Of which it is known whether something newer was asked."""


class NoPlan(ImagemillError):
    """There is no plan: it takes too long, another one was asked for meanwhile, or the child has died."""


class Overtaken(NoPlan):
    """Another plan of the same form was asked for; of two that come together the older may seem the newer one."""


class Plans:
    """Answers what a command would do, one question after the other, and of one form only the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting = 0
        self._last: dict[str, int] = {}
        self._idle: threading.Timer | None = None
        self._closed = False
        self.devices: tuple[str, ...] = ()
        """Where models can run here, the best first; empty while nobody knows."""

    def ask(self, arguments: Sequence[str], operator: str = "", model: str = "", form: str = "") -> dict[str, Any]:
        """The dry run of a command: `data`, or `error` and `hint`, with what was `said`; raises NoPlan.

        With it come the `devices` of this machine and what the model takes by itself, `own`. No arguments, no dry run.
        """
        with self._counting:
            self._waiting += 1
            number = self._last[form] = self._last.pop(form, 0) + 1
            while len(self._last) > _MOST_FORMS:
                del self._last[next(iter(self._last))]
        try:
            if self._waiting > _MOST_WAITING or not self._lock.acquire(timeout=_SECONDS):
                raise NoPlan("others are being planned", "wait a moment")
            try:
                if form and self._last.get(form) != number:
                    raise Overtaken("another plan was asked for meanwhile")
                return self._answer({"arguments": list(arguments), "operator": operator, "model": model})
            finally:
                self._lock.release()
        finally:
            with self._counting:
                self._waiting -= 1

    def warm(self) -> None:
        """Start the child, so that the first plan is quick."""
        if self._process is None and not self._closed:
            threading.Thread(target=self._warm, daemon=True).start()

    def close(self) -> None:
        """End the child."""
        self._closed = True
        if process := self._process:
            # Whoever waits for its answer need not.
            process.kill()
        with self._lock:
            self._end()

    def _warm(self) -> None:
        try:
            self.ask([], "generate", "shapes")
        except NoPlan:
            # Whoever asks for a plan is told.
            return

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        if self._closed:
            raise NoPlan("the server stops")
        line = json.dumps(question).encode() + b"\n"
        answered = self._exchange(line)
        if not answered:
            # It may have made place for a fresh one.
            answered = self._exchange(line)
        if not answered:
            raise NoPlan("the process that makes plans has died", "it may be too much for this machine's memory")
        answer: dict[str, Any] = json.loads(answered)
        self.devices = tuple(answer["devices"])
        if self._idle:
            self._idle.cancel()
        self._idle = threading.Timer(_IDLE, self._let_go)
        self._idle.daemon = True
        self._idle.start()
        return answer

    def _exchange(self, line: bytes) -> bytes:
        """The answer to a line; empty when the child has died. Raises NoPlan when it takes too long."""
        questions, answers = self._started()
        end = time.monotonic() + _SECONDS
        answer = b""
        try:
            questions.write(line)
            questions.flush()
            while not answer.endswith(b"\n"):
                left = end - time.monotonic()
                if left <= 0 or not select.select([answers], [], [], left)[0]:
                    self._end()
                    raise NoPlan("this takes too long to work out", "it can be queued nevertheless")
                read = os.read(answers.fileno(), 2**16)
                if not read:
                    break
                answer += read
        except BrokenPipeError:
            answer = b""
        if not answer.endswith(b"\n"):
            self._end()
            return b""
        return answer

    def _started(self) -> tuple[IO[bytes], IO[bytes]]:
        """Where questions go and answers come from."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "imagemill.commands.dry_runs"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)

    def _let_go(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._idle:
            self._idle.cancel()
            self._idle = None
        process, self._process = self._process, None
        if process:
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()
            process.wait()
