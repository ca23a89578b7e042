"""Work in this process, or in several on this machine."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

from pydantic import Field

from imagemill.errors import ImagemillError, ModelError
from imagemill.executors.base import Executor, Sink, Task

_END = None
"""Ends the stream of work of one worker."""


class Local(Executor):
    """Runs in this process with one worker, in one process each with more."""

    workers: int = Field(1, ge=1, le=256)
    """Processes that make images, each with a model of its own."""
    devices: tuple[str, ...] = ()
    """CUDA devices by number, one for each worker, which sees no other."""

    def run(self, task: Task, work: Iterable[Any], sink: Sink) -> None:
        """Run the task."""
        if self.workers == 1 and not self.devices:
            task(work, sink)
        else:
            self._run_processes(task, work, sink)

    def _run_processes(self, task: Task, work: Iterable[Any], sink: Sink) -> None:
        context = multiprocessing.get_context("spawn")
        # Two batches wait for each worker: enough to keep it busy, and little to lose.
        waiting = context.Queue(2 * self.workers)
        started, stop = threading.Event(), threading.Event()
        errors: list[BaseException] = []
        workers: dict[Connection, BaseProcess] = {}

        def start() -> None:
            # Not before a process can ignore an interrupt from the terminal may it get one.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                while len(workers) < self.workers and not stop.is_set():
                    # Each has a pipe of its own, which ends with it: one killed in mid-message blocks nobody.
                    finished, sender = context.Pipe(duplex=False)
                    device = self.devices[len(workers)] if self.devices else None
                    process = context.Process(target=_work, args=(task, waiting, sender, device), daemon=True)
                    process.start()
                    sender.close()
                    workers[finished] = process
            except OSError as error:
                errors.append(ModelError(f"no worker process can be started: {error}", "try fewer `--workers`"))
            finally:
                started.set()

        # In a thread of its own, for an interrupt is raised in the main one and would leave a process half started.
        starter = threading.Thread(target=start)
        feeder = threading.Thread(target=_feed, args=(work, waiting, self.workers, stop, errors), daemon=True)
        try:
            starter.start()
            # Not `join`: Python 3.11 takes a thread for ended when an interrupt has ended the waiting for it.
            started.wait()
            if not errors:
                feeder.start()
                _collect(dict(workers), sink)
        finally:
            stop.set()
            started.wait()
            for process in workers.values():
                process.kill()
            # Whoever writes the dataset next must be the only one.
            for process in workers.values():
                process.join()
            waiting.cancel_join_thread()
        if errors:
            raise errors[0]


def _collect(workers: dict[Connection, BaseProcess], sink: Sink) -> None:
    while workers:
        for finished in cast("list[Connection]", wait(list(workers))):
            try:
                kind, value = finished.recv()
            except (EOFError, OSError):
                process = workers[finished]
                process.join()
                raise ModelError(
                    f"a worker process ended with code {process.exitcode}",
                    "was the machine out of memory? try fewer `--workers`; the same command continues. "
                    "A script of your own needs `if __name__ == '__main__':`",
                ) from None
            if kind == "result":
                sink(value)
            elif kind == "error":
                raise value
            else:
                del workers[finished]


def _feed(work: Iterable[Any], waiting: Any, workers: int, stop: threading.Event, errors: list[BaseException]) -> None:
    for item in _with_ends(work, workers, stop, errors):
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
                break
            except queue.Full:
                continue


def _with_ends(work: Iterable[Any], workers: int, stop: threading.Event, errors: list[BaseException]) -> Iterator[Any]:
    try:
        for item in work:
            if stop.is_set():
                return
            yield item
    except BaseException as error:  # noqa: BLE001 - raised again where the workers are waited for
        errors.append(error)
    for _ in range(workers):
        yield _END


def _work(task: Task, waiting: Any, sender: Connection, device: str | None) -> None:
    """Run in a worker process."""
    if device is not None:
        # Numbers count what is visible here, as when a cluster has lent devices 2 and 3.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(device)] if visible else device
    # An interrupt on the terminal reaches every process; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(kind: str, value: Any) -> None:
        with lock:
            sender.send((kind, value))

    try:
        task(iter(waiting.get, _END), lambda value: send("result", value))
        send("end", None)
    except ImagemillError as error:
        send("error", error)
    except Exception as error:  # noqa: BLE001 - handed to the process that waits
        send("error", ModelError(f"a worker stopped: {type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    """Stop at once when the parent is gone: whoever takes its place must be the only writer."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
