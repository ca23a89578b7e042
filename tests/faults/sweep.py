"""Stop a small run at each of its system calls in turn, continue it, and compare with an undisturbed one.

`python -m tests.faults.sweep kill|ENOSPC|EIO FOLDER` prints the number of places tried. Forking from one process
that has everything imported, because it made the undisturbed dataset, makes a place cost milliseconds.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from imagemill.cli import run
from tests.conftest import contents

ARGUMENTS = ["--model", "fake", "--images-per-prompt", "2", "--seed", "5", "--batch-size", "4", "--quiet"]
CALLS = {
    "kill": ("replace", "write", "pwrite", "fsync", "ftruncate", "unlink"),
    "ENOSPC": ("write", "pwrite"),
    "EIO": ("fsync",),
}
EXPECTED = {"ENOSPC": 6, "EIO": 1}


def generate(table: Path, folder: Path) -> int:
    """Make or continue the dataset."""
    return run(["generate", str(table), "-o", str(folder), *ARGUMENTS])


def check(folder: Path) -> int:
    """Verify a dataset."""
    return run(["verify", str(folder), "--no-reader"])


def undisturbed(*actions: Callable[[], int]) -> None:
    """Run actions in this process, which imports all that they need, and expect them to succeed."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        for action in actions:
            if action() != 0:
                raise SystemExit(f"the undisturbed run failed: {said.getvalue()}")
    if threading.active_count() != 1:
        raise SystemExit("a thread is left, which a fork would lose")


def fork(action: Callable[[], int]) -> int:
    """Run an action in a child process without its output."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            os._exit(action())
        finally:
            # A traceback is no answer: it must not be taken for exit code 1.
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stop_at(place: int, fault: str) -> None:
    """Make the call number `place`, counted over all watched calls, end this process or fail."""
    lock = threading.Lock()
    seen = 0

    def watched(name: str) -> None:
        original = getattr(os, name)

        def call(*arguments: Any) -> Any:
            nonlocal seen
            with lock:
                seen += 1
                here = seen == place
            if here and name == "write":
                # Half of the bytes arrive: what a crash or a full disk leaves behind.
                original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            if here and fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if here:
                code = getattr(errno, fault)
                raise OSError(code, os.strerror(code))
            return original(*arguments)

        setattr(os, name, call)

    for name in CALLS[fault]:
        watched(name)


def sweep(fault: str, folder: Path) -> int:
    """Try every place until a run is not disturbed any more; return how many there were."""
    table = folder / "prompts.csv"
    table.write_text("prompt\n" + "".join(f"picture {number}\n" for number in range(4)) + '"torn\n')
    reference = folder / "reference"
    undisturbed(lambda: generate(table, reference), lambda: check(reference))
    expected = contents(reference)
    for place in range(1, 1000):
        disturbed = folder / f"place-{place}"

        def action(place: int = place, disturbed: Path = disturbed) -> int:
            stop_at(place, fault)
            return generate(table, disturbed)

        status = fork(action)
        if status == 0:
            return place - 1
        wanted = EXPECTED.get(fault, -signal.SIGKILL)
        if status != wanted:
            raise SystemExit(f"place {place}: the run ended with {status}, not {wanted}")
        if fork(lambda disturbed=disturbed: generate(table, disturbed)) != 0:  # type: ignore[misc]
            raise SystemExit(f"place {place}: the run cannot be continued")
        if contents(disturbed) != expected:
            raise SystemExit(f"place {place}: the continued dataset differs")
        leftovers = list(disturbed.rglob(".*.tmp"))
        if leftovers:
            raise SystemExit(f"place {place}: left behind {leftovers}")
        if fork(lambda disturbed=disturbed: check(disturbed)) != 0:  # type: ignore[misc]
            raise SystemExit(f"place {place}: verify finds problems")
    raise SystemExit("the run never ended undisturbed")


if __name__ == "__main__":
    print(sweep(sys.argv[1], Path(sys.argv[2])))
