"""Uploads are read in a process of their own, within limits, so that no file takes the server with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = {"table": 60, "images": 900}
"""Of computing."""
_WAIT = 5
"""Times as long it may take by the clock."""
_MOST_SAID = 4 * 2**20
"""Bytes of a line that it may say."""
_QUIET = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""Threads would take address space, each for itself."""
_PRIVATE = ("TOKEN", "KEY", "SECRET", "PASSWORD")


def read_upload(kind: str, folder: Path, looked: Callable[[int], None]) -> dict[str, Any]:
    """Read what lies in the folder of an upload, as a table or as pictures; `looked` is told how far it is.

    Returns what is told of it; with `problem`, the message and the hint, where it cannot be used.
    """
    environment = {
        name: value for name, value in os.environ.items() if not any(word in name.upper() for word in _PRIVATE)
    }
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "imagemill.server.web.uploads.child", kind],
        cwd=folder,
        env=environment | _QUIET,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    watch = threading.Timer(_WAIT * SECONDS[kind], child.kill)
    watch.daemon = True
    watch.start()
    said: dict[str, Any] = {}
    try:
        with child:
            while line := child.stdout.readline(_MOST_SAID) if child.stdout else b"":
                told = json.loads(line)
                if "looked" in told:
                    looked(told["looked"])
                else:
                    said = told
    except ValueError:
        child.kill()
        child.wait()
        said = {}
    finally:
        watch.cancel()
    return said or {"problem": _ended(child.returncode, kind)}


def _ended(code: int, kind: str) -> list[str]:
    """Why the process said nothing."""
    if code in {-signal.SIGXCPU, -signal.SIGKILL}:
        return [f"reading it takes longer than {SECONDS[kind]} seconds", "make it smaller"]
    return ["it cannot be read: the process that reads it ended", "is the file complete, and what its name says?"]
