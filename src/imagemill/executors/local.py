"""Work in this process, or in several on this machine."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any

from pydantic import Field

from imagemill.errors import ImagemillError, ModelError
from imagemill.executors.base import Executor, Sink, Task

_END = None
"""Ends the stream of work of one worker."""


class Local(Executor):
    """Runs in this process with one worker, in one process each with more."""

    workers: int = Field(1, ge=1, le=256)
    """Processes that make images, each with a model of its own."""

    def run(self, task: Task, work: Iterable[Any], sink: Sink) -> None:
        """Run the task."""
        if self.workers == 1:
            task(work, sink)
        else:
            self._run_processes(task, work, sink)

    def _run_processes(self, task: Task, work: Iterable[Any], sink: Sink) -> None:
        context = multiprocessing.get_context("spawn")
        # Two batches wait for each worker: enough to keep it busy, and little to lose.
        waiting = context.Queue(2 * self.workers)
        finished = context.SimpleQueue()
        stop = threading.Event()
        processes = [
            context.Process(target=_work, args=(task, waiting, finished), daemon=True) for _ in range(self.workers)
        ]
        feeder = threading.Thread(target=_feed, args=(work, waiting, self.workers, stop, finished), daemon=True)
        try:
            for process in processes:
                process.start()
            feeder.start()
            self._collect(processes, finished, sink)
        finally:
            stop.set()
            for process in processes:
                process.terminate()
            waiting.cancel_join_thread()

    @staticmethod
    def _collect(processes: list[Any], finished: Any, sink: Sink) -> None:
        running = {process.sentinel: process for process in processes}
        ended = 0
        while ended < len(processes):
            ready = wait([finished._reader, *running])
            while not finished.empty():
                kind, value = finished.get()
                if kind == "result":
                    sink(value)
                elif kind == "error":
                    raise value
                else:
                    ended += 1
            for sentinel in ready:
                process = running.get(sentinel)
                if process is not None:
                    process.join()
                    del running[process.sentinel]
                    if process.exitcode:
                        raise ModelError(
                            f"a worker process ended with code {process.exitcode}",
                            "was the machine out of memory? try fewer `--workers`; the same command continues",
                        )


def _feed(work: Iterable[Any], waiting: Any, workers: int, stop: threading.Event, finished: Any) -> None:
    try:
        for item in _with_ends(work, workers, stop):
            while not stop.is_set():
                try:
                    waiting.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
    except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
        finished.put(("error", error))


def _with_ends(work: Iterable[Any], workers: int, stop: threading.Event) -> Iterator[Any]:
    for item in work:
        if stop.is_set():
            return
        yield item
    for _ in range(workers):
        yield _END


def _work(task: Task, waiting: Any, finished: Any) -> None:
    """Run in a worker process."""
    import signal

    threading.Thread(target=_end_with_parent, daemon=True).start()
    # An interrupt on the terminal reaches every process; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        task(iter(waiting.get, _END), lambda value: finished.put(("result", value)))
        finished.put(("end", None))
    except ImagemillError as error:
        finished.put(("error", error))
    except Exception as error:  # noqa: BLE001 - handed to the process that waits
        finished.put(("error", ModelError(f"a worker stopped: {type(error).__name__}: {error}")))


def _end_with_parent() -> None:
    """Stop at once when the parent is gone: whoever takes its place must be the only writer."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
