"""Executions: what the queue runs, how far it is, and what people want of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from imagemill.server.web.making.forms import label_of
from imagemill.server.web.pages import page
from imagemill.server.web.queue import Job
from imagemill.server.web.queue.jobs import moment
from imagemill.server.web.queue.process import read_log
from imagemill.server.web.state import Shared

router = APIRouter()

JobId = Annotated[int, Path(alias="job", ge=1, lt=2**53)]
_SHOWN = 100
"""Jobs that have ended which the list begins with."""
_CODES = {
    0: "done",
    2: "wrong usage",
    3: "some failed",
    4: "stopped by a limit",
    5: "locked by another process",
    6: "no space left",
    130: "interrupted",
}
_MOST = 65_536
"""Bytes of a log that one answer holds."""


class Move(BaseModel):
    """Where a waiting job goes."""

    model_config = ConfigDict(extra="forbid")

    before: int | None = Field(None, ge=1, lt=2**53)
    after: int | None = Field(None, ge=1, lt=2**53)

    @model_validator(mode="after")
    def _one(self) -> Move:
        if (self.before is None) == (self.after is None):
            raise ValueError("give either `before` or `after`, each the id of a waiting job")
        return self


@router.get("/executions")
def executions(web: Shared, request: Request, everything: Annotated[bool, Query(alias="all")] = False) -> HTMLResponse:
    """The page of the queue."""
    jobs = web.queue.jobs()
    active = [job for job in jobs if not job.over]
    ended = [job for job in jobs if job.over]
    shown = ended if everything else ended[:_SHOWN]
    return page(
        request,
        "executions.html",
        section="Executions",
        jobs=[*active, *shown],
        more=len(ended) - len(shown),
    )


@router.get("/executions/{job}")
def execution(web: Shared, request: Request, job_id: JobId) -> HTMLResponse:
    """The page of one job."""
    job = web.queue.get(job_id)
    text, end = read_log(web.queue.log_of(job_id), None, _MOST)
    return page(
        request,
        "execution.html",
        section="Executions",
        job=job,
        log=text,
        log_end=end,
        facts=_facts(job),
        source=_source(web, job),
        values=_values(job),
    )


@router.get("/api/jobs")
def jobs(web: Shared, active: bool = False, limit: Annotated[int, Query(ge=0, le=10_000)] = _SHOWN) -> dict[str, Any]:
    """All jobs that run, wait in their order, or are paused, and then the last that ended first, up to a limit.

    `active` asks only for those that run or wait.
    """
    found = web.queue.active() if active else web.queue.jobs()
    ended = [job for job in found if job.over][:limit]
    return {"jobs": [job.public() for job in [*(job for job in found if not job.over), *ended]]}


@router.get("/api/jobs/{job}")
def job(web: Shared, job_id: JobId) -> dict[str, Any]:
    """One job, with its command and the values of its form."""
    found = web.queue.get(job_id)
    return found.public() | {"facts": _facts(found), "command": found.command, "settings": found.settings}


@router.get("/api/jobs/{job}/log")
def log(web: Shared, job_id: JobId, start: Annotated[int | None, Query(ge=0, lt=2**53)] = None) -> dict[str, Any]:
    """What a job has printed, from a place on, or the end of it."""
    web.queue.get(job_id)
    text, end = read_log(web.queue.log_of(job_id), start, _MOST)
    return {"text": text, "end": end}


@router.post("/api/jobs/{job}/move")
def move(web: Shared, job_id: JobId, place: Move) -> dict[str, Any]:
    """Put a waiting job before or after another one."""
    return _public(web.queue.move(job_id, before=place.before, after=place.after))


@router.post("/api/jobs/{job}/remove")
def remove(web: Shared, job_id: JobId) -> dict[str, Any]:
    """Take a job off the list; what it has made stays."""
    web.queue.remove(job_id)
    return {"id": job_id, "state": "removed"}


@router.post("/api/jobs/{job}/{action}")
def act(web: Shared, job_id: JobId, action: Literal["pause", "resume", "cancel", "retry"]) -> dict[str, Any]:
    """Pause, resume or cancel a job, or make again what failed; that may be a job of its own."""
    return _public(getattr(web.queue, action)(job_id))


def _public(job: Job) -> dict[str, Any]:
    return job.public()


def _facts(job: Job) -> dict[str, str]:
    """What a page says of a job beside its progress, by the words for it."""
    said = _CODES.get(job.exit_code, "internal error") if job.exit_code is not None else "—"
    return {
        "Device": job.device,
        "Added": moment(job.created),
        "Started": moment(job.started),
        "Ended": moment(job.ended),
        "Starts": f"{job.runs:,}",
        "Exit code": said if job.exit_code is None else f"{job.exit_code}, {said}",
    }


def _source(web: Shared, job: Job) -> tuple[str, str]:
    """Where a job takes from: an address, and its name."""
    if any(entry.id == job.source for entry in web.workspace.datasets()):
        return f"/datasets/{job.source}", web.workspace.entry(job.source).name
    if any(upload.id == job.source for upload in web.uploads.list()):
        return f"/uploads/{job.source}", web.uploads.find(job.source).name
    return "", "—"


def _values(job: Job) -> list[tuple[str, str]]:
    """What the form of a job was filled with."""
    values = job.settings.get("values", {})
    return [(label_of(name), _text(value)) for name, value in values.items() if value not in (None, "", [])]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)
