"""The process that reads an upload: `python -m imagemill.server.web.uploads.child table|images` in its folder."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imagemill.errors import ImagemillError, UsageError
from imagemill.server.web.uploads.reading import SECONDS

_MEMORY = 3 * 2**30
"""Bytes of address space."""
_FILE = 256 * 2**20
"""Bytes of a file that it may write."""
_NICE = 10


@contextmanager
def _explained(kind: str) -> Iterator[None]:
    """Say in words what went wrong."""
    try:
        yield
    except MemoryError:
        hint = "make it smaller" if kind == "table" else "leave out the largest pictures"
        _say({"problem": [f"reading it takes more than {_MEMORY // 2**30} GB of memory", hint]})
    except ImagemillError as error:
        _say({"problem": [error.message, error.hint]})


def _say(told: dict[str, Any]) -> None:
    """Tell the server something."""
    print(json.dumps(told), flush=True)


def _limit(kind: str) -> None:
    """Give up what reading does not need, for good."""
    seconds = SECONDS[kind]
    wanted = {
        resource.RLIMIT_AS: (_MEMORY, _MEMORY),
        resource.RLIMIT_CPU: (seconds, seconds + 5),
        resource.RLIMIT_FSIZE: (_FILE, _FILE),
        resource.RLIMIT_CORE: (0, 0),
    }
    for what, (soft, hard) in wanted.items():
        most = resource.getrlimit(what)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)  # noqa: PLW2901
        resource.setrlimit(what, (soft, hard))
    os.nice(_NICE)


def main(kind: str) -> None:
    """Read the upload in the current folder; what it is, is said on stdout."""
    _limit(kind)
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    with _explained(kind):
        if kind == "table":
            from imagemill.server.web.uploads.tables import read

            _say(read(Path()))
        elif kind == "images":
            from imagemill.server.web.uploads.pictures import take_in

            _say(take_in(Path(), lambda count: _say({"looked": count})))
        else:
            raise UsageError(f"there is no kind `{kind}`", "name `table` or `images`")


if __name__ == "__main__":
    main(sys.argv[1])
