"""The queue: which job runs next, what becomes of those that run, and what people want of them."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagemill.dataset.folder import is_dataset
from imagemill.dataset.lock import locked
from imagemill.errors import ImagemillError, LockedError, UsageError
from imagemill.server.web.events import Events
from imagemill.server.web.queue.jobs import MAKING, Job, Progress
from imagemill.server.web.queue.newest import newest_images
from imagemill.server.web.queue.outcomes import INTERRUPTED, failed_in, outcome
from imagemill.server.web.queue.process import Process
from imagemill.server.web.queue.table import Table
from imagemill.server.web.workspace import Workspace

_EVERY = 0.25
"""Seconds between two looks at the jobs that run."""
_NEWEST = 12
"""Images that are shown while a job runs."""
_FILLING = MAKING | {"retry", "demo"}
"""Commands that count the images which they put into their output."""
_AGAIN = "Retry: "


class Queue:
    """Runs jobs in their order, one at a time on each device, each in a process of its own that outlives the server."""

    def __init__(self, workspace: Workspace, events: Events) -> None:
        self._workspace = workspace
        self._events = events
        self._table = Table(workspace.state / "queue.db")
        self._lock = threading.RLock()
        """Held by whoever changes what becomes of a job."""
        self._processes: dict[int, Process] = {}
        self._progress: dict[int, Progress] = {}
        """Of jobs that run, newer than the table."""
        self._asked: set[int] = set()
        """Jobs that have been asked to stop."""
        self._seen: set[int] = set()
        """Jobs whose dataset is there."""
        self._published: dict[int, dict[str, Any]] = {}
        self._held = ExitStack()
        self._woken = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="imagemill-queue", daemon=True)

    def start(self) -> None:
        """Take up the jobs that wait or were under way; raises LockedError when another server has the folder."""
        try:
            self._held.enter_context(locked(self._workspace.state))
        except LockedError as error:
            other = error.message.partition(" by ")[2]
            raise LockedError(
                f"`{self._workspace.folder}` is already served by {other}", "use that server, or stop it first"
            ) from None
        for job in self._table.active():
            if job.state == "running":
                self._take_up(job)
        self._woken.set()
        self._thread.start()

    def close(self) -> None:
        """Look no longer after the jobs; those that run go on, and the next server takes them up."""
        self._ending = True
        self._woken.set()
        if self._thread.ident:
            self._thread.join()
        self._held.close()

    def add(
        self,
        kind: str,
        title: str,
        arguments: Sequence[str],
        *,
        output: Path | None = None,
        source: str = "",
        settings: dict[str, Any] | None = None,
        device: str = "cpu",
    ) -> int:
        """Put a job at the end of the queue; returns its id."""
        with self._lock:
            job = self._table.add(
                kind=kind,
                title=title,
                arguments=list(arguments),
                output=output,
                dataset=self._id_of(output),
                source=source,
                settings=settings or {},
                device=device,
            )
            # Of a table that was moved away, whose numbers begin anew.
            shutil.rmtree(self._folder(job), ignore_errors=True)
            self._changed(job)
        return job.id

    def jobs(self) -> list[Job]:
        """All jobs: running ones, those that wait in their order, paused ones, and then the last that ended first."""
        retried = self._retried()
        return [self._now(job, retried) for job in self._table.all()]

    def active(self) -> list[Job]:
        """The jobs that run, and then those that wait in their order."""
        return [self._now(job) for job in self._table.active()]

    def get(self, job: int) -> Job:
        """A job by its id; raises NotFound."""
        return self._now(self._table.get(job))

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self._processes)

    def ahead_of(self, job: int) -> int:
        """How many jobs a waiting one waits for."""
        active = self._table.active()
        found = next((each for each in active if each.id == job and each.state == "queued"), None)
        if not found:
            return 0
        before = active[: active.index(found)]
        return sum(other.device == found.device or _conflict(found, other) for other in before)

    def users_of(self, dataset: str) -> list[Job]:
        """The jobs that wait or run and read or write a dataset."""
        return [job for job in self._table.active() if dataset in {job.dataset, job.source}]

    def writer_of(self, dataset: str) -> Job | None:
        """The first job that waits or runs and writes a dataset."""
        return next((job for job in self.users_of(dataset) if job.dataset == dataset), None)

    def log_of(self, job: int) -> Path:
        """What the runs of a job have printed."""
        return self._process(self._table.get(job)).log

    def pause(self, job: int) -> Job:
        """Stop a job until it is resumed; what it has made stays, and images under way are made again."""
        return self._stop(job, "paused")

    def cancel(self, job: int) -> Job:
        """Stop a job for good; what it has made stays. A second time ends its process at once."""
        return self._stop(job, "cancelled")

    def resume(self, job: int) -> Job:
        """Let a paused job wait for its turn again; it goes on where it stopped."""
        with self._lock:
            found = self._in(job, "resumed", {"paused"})
            return self._changed(self._table.update(found.id, state="queued", ended=None, message="", hint=""))

    def retry(self, job: int) -> Job:
        """Make what failed again; returns the job that does it, which may be a new one."""
        with self._lock:
            found = self._in(job, "retried", {"failed", "cancelled", "done"})
            if found.state == "done" and not found.progress.failed:
                raise UsageError(f"nothing of “{found.title}” has failed", "see the images that it has made")
            if found.leaves_failed:
                arguments = ["retry", str(found.output)]
                for other in self._table.active():
                    if other.arguments == arguments:
                        return self._now(other)
                title = _AGAIN + found.title.removeprefix(_AGAIN)
                again = self.add(
                    found.kind,
                    title,
                    arguments,
                    output=found.output,
                    source=found.source,
                    settings=found.settings,
                    device=found.device,
                )
                self._publish(self._now(found))
                return self.get(again)
            with self._table.change():
                self._table.to_end(found.id)
                # Those that make images do not try again what failed, but go on with what is left.
                progress = found.progress if found.arguments[0] in MAKING else replace(found.progress, failed={})
                found = self._table.update(
                    found.id, state="queued", ended=None, exit_code=None, message="", hint="", progress=progress
                )
            return self._changed(found)

    def remove(self, job: int) -> None:
        """Take a job off the list; what it has made stays."""
        with self._lock:
            found = self._in(job, "removed", {"queued", "paused", "done", "failed", "cancelled"})
            self._table.remove(found.id)
            self._published.pop(found.id, None)
            shutil.rmtree(self._folder(found), ignore_errors=True)
            self._events.publish("job", {"id": found.id, "state": "removed"})

    def move(self, job: int, *, before: int | None = None, after: int | None = None) -> Job:
        """Put a waiting job before or after another one."""
        with self._lock:
            found = self._in(job, "moved", {"queued"})
            other = self._in(after if before is None else before, "a neighbor", {"queued"})  # type: ignore[arg-type]
            order = [each.id for each in self._table.active() if each.state == "queued" and each.id != found.id]
            if other.id != found.id:
                order.insert(order.index(other.id) + (before is None), found.id)
                self._table.arrange(order)
                for each in order:
                    self._publish(self._table.get(each))
            return self._changed(self._table.get(found.id))

    def _stop(self, job: int, wanted: str) -> Job:
        with self._lock:
            known = {"running", "queued"} | ({"paused"} if wanted == "cancelled" else set())
            found = self._in(job, wanted, known)
            if found.state == "running":
                if found.wanted == wanted == "cancelled":
                    self._asked.discard(found.id)
                return self._changed(self._table.update(found.id, wanted=wanted))
            ended = time.time() if wanted == "cancelled" else None
            return self._changed(self._table.update(found.id, state=wanted, ended=ended))

    def _in(self, job: int, done: str, states: Iterable[str]) -> Job:
        """A job in one of some states; raises UsageError when it is in another."""
        found = self.get(job)
        if found.state not in states:
            raise UsageError(f"“{found.title}” is {found.state} and cannot be {done}", "see its buttons for what can")
        return found

    def _run(self) -> None:
        told = ""
        while not self._ending:
            self._woken.wait(_EVERY if self._processes else None)
            self._woken.clear()
            try:
                with self._lock:
                    if not self._ending:
                        self._look()
                told = ""
            except Exception as error:  # noqa: BLE001 - a full disk must not end the queue
                before, told = told, f"error: queue: {type(error).__name__}: {error}"
                if told != before:
                    print(told, file=sys.stderr, flush=True)
                time.sleep(1)
                self._woken.set()

    def _look(self) -> None:
        """See how far the jobs are that run, and start those whose turn it is."""
        active = self._table.active()
        running = [job for job in active if job.state == "running"]
        before = [job for job in running if not self._watch(job)]
        devices = {job.device for job in before}
        for job in active:
            if job.state == "queued":
                if job.device not in devices and not any(_conflict(job, other) for other in before):
                    self._start(job)
                    devices.add(job.device)
                before.append(job)

    def _take_up(self, job: Job) -> None:
        """Go on with a job that ran when the last server ended."""
        process = self._process(job)
        alive = process.alive
        told = process.told()
        if alive or told.get("exit_code", INTERRUPTED) != INTERRUPTED or job.wanted:
            self._processes[job.id] = process
            if job.output and is_dataset(job.output):
                self._seen.add(job.id)
        else:
            # It ended with the machine, or was stopped along with the server: its command goes on where it stopped.
            self._table.update(job.id, state="queued", progress=_progress(job, told))
            self._woken.set()

    def _start(self, job: Job) -> None:
        job = self._table.update(
            job.id, state="running", runs=job.runs + 1, started=time.time(), ended=None, exit_code=None
        )
        if job.output and is_dataset(job.output):
            self._seen.add(job.id)
        process = self._processes[job.id] = self._process(job)
        try:
            process.start(job.arguments, self._workspace.folder)
        except (OSError, ImagemillError) as error:
            hint = error.hint if isinstance(error, ImagemillError) else "see whether the machine has room for it"
            del self._processes[job.id]
            job = self._table.update(job.id, state="failed", ended=time.time(), message=str(error), hint=hint)
        self._changed(job)

    def _watch(self, job: Job) -> bool:
        """See how far a running job is; whether it has ended."""
        if job.id not in self._processes:
            # Its start went wrong in the middle.
            self._take_up(job)
            return False
        process = self._processes[job.id]
        if job.wanted and job.id not in self._asked and process.stop():
            self._asked.add(job.id)
        # In this order: whatever it told, it told before its end.
        alive = process.alive
        told = process.told()
        before = self._progress.get(job.id, job.progress)
        progress = replace(_progress(job, told), said=process.said(), newest=before.newest)
        if progress.done != before.done:
            if job.output and job.arguments[0] in _FILLING:
                # There may be more by now than have been counted: none is shown before it is.
                progress = replace(progress, newest=newest_images(job.output, min(_NEWEST, progress.done)))
            if job.dataset:
                self._events.publish("dataset", {"id": job.dataset, "images": progress.done})
        if job.output and job.id not in self._seen and is_dataset(job.output):
            self._seen.add(job.id)
            self._events.publish("datasets", {})
        self._progress[job.id] = progress
        if not alive:
            self._settle(job, process, told, progress)
        else:
            self._publish(replace(job, progress=progress))
        return not alive

    def _settle(self, job: Job, process: Process, told: dict[str, Any], progress: Progress) -> None:
        """Write down how a run ended."""
        error = process.error(self._workspace.folder)
        state, message, hint = outcome(job.wanted, told.get("exit_code"), progress, error)
        ended = self._table.update(
            job.id,
            state=state,
            wanted="",
            ended=(now := time.time()),
            seconds=job.seconds + now - (job.started or now),
            exit_code=told.get("exit_code"),
            message=message,
            hint=hint,
            progress=replace(progress, rate=0.0, seconds_left=None, silent=0),
        )
        for known in (self._asked, self._seen):
            known.discard(job.id)
        for kept in (self._processes, self._progress):
            kept.pop(job.id, None)
        self._changed(ended)
        if job.arguments[0] == "retry" and job.output:
            self._mend(job.output)
        if job.dataset:
            self._events.publish("dataset", {"id": job.dataset, "images": progress.done})
        self._events.publish("datasets", {})

    def _mend(self, output: Path) -> None:
        """Count in the jobs that left what failed in a dataset to a retry how much of it has been made since."""
        left = failed_in(output)
        for job in self._table.all():
            if job.output == output and job.leaves_failed:
                self._publish(self._now(self._table.update(job.id, **job.mended(left))))

    def _now(self, job: Job, retried: Collection[str] | None = None) -> Job:
        """A job with what is known of it only here, or from other jobs: the datasets that are `_retried`."""
        if job.state == "running":
            return replace(job, progress=self._progress.get(job.id, job.progress))
        if job.leaves_failed:
            return replace(job, retried=str(job.output) in (self._retried() if retried is None else retried))
        return job

    def _retried(self) -> set[str]:
        """The datasets of which a job that waits or runs makes again what failed."""
        return {str(job.output) for job in self._table.active() if job.arguments[0] == "retry"}

    def _changed(self, job: Job) -> Job:
        job = self._now(job)
        self._publish(job)
        self._woken.set()
        return job

    def _publish(self, job: Job) -> None:
        public = job.public()
        if public != self._published.get(job.id):
            self._published[job.id] = public
            self._events.publish("job", public)

    def _id_of(self, output: Path | None) -> str:
        inside = output is not None and output.is_relative_to(self._workspace.folder)
        return self._workspace.id_of(output) if output is not None and inside else ""

    def _folder(self, job: Job) -> Path:
        return self._workspace.state / "jobs" / str(job.id)

    def _process(self, job: Job) -> Process:
        return self._processes.get(job.id) or Process(self._folder(job), job.runs)


def _progress(job: Job, told: dict[str, Any]) -> Progress:
    """How far a job is, by what its present run tells."""
    # Steps of a job file count anew.
    before = Progress() if job.arguments[0] == "run" else job.progress
    return before.continued(told, job.arguments[0] in MAKING, time.time())


def _conflict(job: Job, other: Job) -> bool:
    """Whether one of two jobs writes what the other one reads or writes."""
    return (
        (job.output is not None and job.output == other.output)
        or bool(job.dataset and job.dataset == other.source)
        or bool(other.dataset and other.dataset == job.source)
    )
