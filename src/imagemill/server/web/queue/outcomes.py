"""What becomes of a job whose process has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from imagemill.server.web.queue.jobs import Progress, State

INTERRUPTED = 130
"""The exit code of a command that was asked to stop."""
_GOES_ON = "it goes on where it stopped"


def outcome(
    wanted: str, exit_code: int | None, progress: Progress, error: Callable[[], tuple[str, str]]
) -> tuple[State, str, str]:
    """The state of a job after a run, what stopped it, and what helps.

    `exit_code` is None where the process could not tell one, `error` reads its last words.
    """
    if exit_code == 0:
        return "done", "", ""
    if exit_code == 3 and (progress.done or not progress.failed):
        return "done", "" if progress.failed else "not everything could be done", "retry, or see the log"
    if wanted == "cancelled" or (wanted and exit_code in {None, INTERRUPTED}):
        return cast("State", wanted), "", ""
    if exit_code is None:
        return "failed", "its process was killed, perhaps for want of memory", f"retry: {_GOES_ON}"
    if exit_code == INTERRUPTED:
        return "paused", "interrupted by another program", f"resume: {_GOES_ON}"
    message, hint = error()
    return ("paused" if exit_code == 4 else "failed"), message, hint
