"""A job of the queue, and how far it is, as programs and people read it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from imagemill.dataset.folder import is_dataset
from imagemill.terminal import duration

State = Literal["queued", "running", "paused", "done", "failed", "cancelled"]
MAKING = frozenset({"generate", "augment", "edit"})
"""Commands that make images, and leave those that failed to `retry`."""

DISK = "disk"
"""The device of jobs that only read and write files: they wait for no model."""
_LOADING = MAKING | {"caption", "score"}
"""Commands that load a model before they begin."""
_UNUSUAL = 3
"""Times as long as it usually takes until something comes."""
_SHORT = 2.0
"""Seconds in which nobody waits for anything."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is, all its runs together."""

    done: int = 0
    total: int = 0
    """0 where the command does not tell."""
    rate: float = 0.0
    """Images in a second, in this run."""
    seconds_left: float | None = None
    """None where nobody can say."""
    silent: int = 0
    """For how many seconds nothing has come, where that is longer than usual."""
    failed: dict[str, int] = field(default_factory=dict)
    """By reason."""
    said: str = ""
    """The last line of the log."""
    newest: tuple[str, ...] = ()
    """Ids of the images made last, the last one first."""
    mended: int = 0
    """How many of those that are done failed at first, and were made by other jobs."""

    def continued(self, told: Mapping[str, Any], keeps_failed: bool, now: float) -> Progress:
        """This progress of earlier runs and what the run that goes on tells; it only says what is left to it."""
        if "total" not in told:
            return self
        failed = dict(self.failed) if keeps_failed else {}
        for reason, count in told["failed"].items():
            failed[reason] = failed.get(reason, 0) + count
        ended = told["done"] + sum(told["failed"].values())
        left = max(0, told["total"] - ended)
        silent = _silence(told, now) if ended and left else 0
        seconds = told["seconds"] + silent
        rate = ended / seconds if seconds else 0.0
        total = max(self.total, told["total"])
        return Progress(
            done=max(0, total - left - sum(failed.values())),
            total=total,
            rate=rate,
            seconds_left=left / rate if rate and not silent else None,
            silent=silent,
            failed=failed,
        )


def _silence(told: Mapping[str, Any], now: float) -> int:
    """For how many seconds a run has told nothing, where that is longer than it usually takes; else 0."""
    waited = now - told.get("at", now)
    usual = told["seconds"] / max(1, told.get("times", 1))
    return int(waited) if waited > max(_UNUSUAL * usual, _SHORT) else 0


@dataclass(frozen=True, slots=True)
class Job:
    """One command that the queue runs."""

    id: int
    kind: str
    """The operator, as forms call it."""
    title: str
    arguments: list[str]
    """What follows `python -m imagemill`."""
    output: Path | None
    """The dataset that it writes."""
    dataset: str
    """The id of that one; empty without."""
    source: str
    """The id of the dataset or the upload that it reads."""
    settings: dict[str, Any]
    """Values of the form that it came from."""
    device: str
    state: State
    wanted: str
    """What a running job is to become: `paused` or `cancelled`; empty when it may go on."""
    position: int
    created: float
    started: float | None
    """When its last run began."""
    ended: float | None
    seconds: float
    """How long all its runs took that have ended."""
    runs: int
    """How often its command was started."""
    exit_code: int | None
    message: str
    """What stopped it."""
    hint: str
    progress: Progress
    retried: bool = False
    """Whether a job waits or runs that makes again what failed."""

    @property
    def command(self) -> str:
        """The command line that does the same."""
        return shlex.join(["imagemill", *self.arguments])

    @property
    def over(self) -> bool:
        """Whether it is over, and can only be tried again or removed."""
        return self.state in {"done", "failed", "cancelled"}

    def public(self) -> dict[str, Any]:
        """What pages and scripts are told of it."""
        values = asdict(self)
        for name in ("arguments", "output", "settings", "progress", "runs", "retried"):
            del values[name]
        progress = self.progress
        return values | {
            "there": self.there,
            "when": self.when,
            "again": self.again,
            "chip": self.chip,
            "color": self.color,
            "done": progress.done,
            "total": progress.total,
            "rate": round(progress.rate, 2),
            "seconds_left": progress.seconds_left,
            "failed": progress.failed,
            "newest": list(progress.newest),
            "line": self.line,
            "failed_line": self.failed_line,
        }

    @property
    def there(self) -> bool:
        """Whether its dataset can be opened."""
        return bool(self.dataset) and self.output is not None and is_dataset(self.output)

    @property
    def leaves_failed(self) -> bool:
        """Whether its command has ended and leaves what failed to another one, `retry`."""
        return self.exit_code == 3 and self.arguments[0] in MAKING | {"retry"} and bool(self.progress.failed)

    def mended(self, left: Mapping[str, int] | None) -> dict[str, Any]:
        """What changes of it when of what failed only so much is `left`, by reason; None where nobody knows."""
        progress = self.progress
        if left is None or (made := sum(progress.failed.values()) - sum(left.values())) <= 0:
            return {"state": self.state}
        progress = replace(progress, done=progress.done + made, failed=dict(left), mended=progress.mended + made)
        return {"state": "done", "message": "", "hint": "", "progress": progress}

    @property
    def again(self) -> bool:
        """Whether there is something to try again."""
        if self.retried:
            return False
        return self.state in {"failed", "cancelled"} or (
            self.state == "done" and bool(self.progress.failed) and self.there
        )

    @property
    def chip(self) -> str:
        """Its state in a few words: `running`, or `done, 3 failed`."""
        failed = sum(self.progress.failed.values())
        if self.state == "done" and failed:
            return f"done, {failed:,} failed"
        return {"paused": "pausing", "cancelled": "cancelling"}.get(self.wanted, self.state)

    @property
    def color(self) -> str:
        """Which of the colors that mean something its state has."""
        colors = {"running": "accent", "paused": "warn", "done": "good", "failed": "bad"}
        return "warn" if self.state == "done" and self.progress.failed else colors.get(self.state, "")

    @property
    def when(self) -> str:
        """For instance `started 14:05`."""
        if self.state == "running":
            return f"started {moment(self.started)}"
        if self.state == "queued" or self.ended is None:
            return f"added {moment(self.created)}"
        return f"{'paused' if self.state == 'paused' else 'ended'} {moment(self.ended)}"

    @property
    def failed_line(self) -> str:
        """For instance `3 failed: model_error 2, timeout 1`; empty when nothing has."""
        failed = self.progress.failed
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(failed.items()))
        return f"{sum(failed.values()):,} failed: {reasons}" if failed else ""

    @property
    def _beginning(self) -> str:
        """What a run does before the first image."""
        if self.device == "remote":
            return "waiting for the first answer"
        return "loading the model" if self.arguments[0] in _LOADING else "starting"

    @property
    def line(self) -> str:
        """For instance `60 of 120 · 6.2 images/s · 0:09 left`."""
        progress = self.progress
        counted = [f"{progress.done:,} of {progress.total:,}"] if progress.total else []
        if self.state == "queued":
            return counted[0] if progress.done else ""
        if self.state == "running":
            if not counted:
                return progress.said or "starting"
            if not progress.rate:
                return f"{counted[0]} · {self._beginning}"
            silent = f"nothing new for {duration(progress.silent)}"
            left = silent if progress.seconds_left is None else f"{duration(progress.seconds_left)} left"
            rate = f"{progress.rate:.1f} images/s" if progress.rate >= 0.1 else f"{60 * progress.rate:.1f} images/min"
            return f"{counted[0]} · {rate} · {left}"
        took = f"took {duration(self.seconds)}" if self.seconds >= 1 else ""
        mended = f"{progress.mended:,} of them failed at first, and were made since" if progress.mended else ""
        return " · ".join(filter(None, [*counted, took, mended]))


def moment(seconds: float | None) -> str:
    """A time of today, or a day and a time."""
    if seconds is None:
        return "—"
    then, now = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)
