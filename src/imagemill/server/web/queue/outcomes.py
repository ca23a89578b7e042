"""What becomes of a job whose process has ended."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from imagemill.dataset import Dataset
from imagemill.errors import ImagemillError
from imagemill.server.web.queue.jobs import Progress, State

INTERRUPTED = 130
"""The exit code of a command that was asked to stop."""
_GOES_ON = "it goes on where it stopped"


def outcome(wanted: str, exit_code: int | None, progress: Progress, error: tuple[str, str]) -> tuple[State, str, str]:
    """The state of a job after a run, what stopped it, and what helps.

    `exit_code` is None where the process could not tell one, `error` has its last words.
    """
    if exit_code == 0:
        return "done", "", ""
    if exit_code == 3 and (progress.done or not progress.failed):
        return "done", "" if progress.failed else "not everything could be done", "its log says more"
    if wanted == "cancelled" or (wanted and exit_code in {None, INTERRUPTED}):
        return cast("State", wanted), "", ""
    if exit_code is None:
        return "failed", "its process was killed, perhaps for want of memory", f"retry: {_GOES_ON}"
    if exit_code == INTERRUPTED:
        return "paused", "interrupted by another program", f"resume: {_GOES_ON}"
    return ("paused" if exit_code == 4 else "failed"), *error


def failed_in(output: Path) -> dict[str, int] | None:
    """What a retry could make in a dataset, by the reason for which it failed; None where the dataset is gone."""
    try:
        failed = Dataset(output).counts().failed
    except ImagemillError:
        return None
    # Those were made, and nothing draws them again.
    return {reason: count for reason, count in failed.items() if reason != "not_accepted"}
