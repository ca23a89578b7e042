"""The first page: datasets, uploads and the trash."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel

from imagemill.errors import LockedError, UsageError
from imagemill.server.web.pages import page
from imagemill.server.web.routes.uploads import Gone
from imagemill.server.web.state import DatasetId, Shared, Web
from imagemill.server.web.summaries import Summary, bytes_of, summary_of, uses
from imagemill.server.web.uploads import ACCEPTED

router = APIRouter()
ItemId = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
Order = Literal["changed", "name", "images"]
_ORDERS = {"changed": "last changed", "name": "name", "images": "images"}


class Datasets(BaseModel):
    """The datasets of the folder."""

    datasets: list[Summary]


class Back(BaseModel):
    """What came back from the trash."""

    kind: Literal["dataset", "upload"]
    id: str
    name: str


class Queued(BaseModel):
    """A job that was queued."""

    job: int


@router.get("/datasets", include_in_schema=False)
def show(
    request: Request,
    web: Shared,
    search: Annotated[str, Query(max_length=200)] = "",
    by: Order = "changed",
) -> Response:
    """Everything there is."""
    found = _listed(web)
    shown = [each for each in found if search.casefold() in each.name.casefold()]
    shown.sort(key=lambda each: each.name.casefold())
    if by == "changed":
        shown.sort(key=lambda each: each.changed, reverse=True)
    elif by == "images":
        shown.sort(key=lambda each: each.images, reverse=True)
    return page(
        request,
        "datasets.html",
        section="Datasets",
        datasets=shown,
        count=len(found),
        uploads=web.uploads.list(),
        trash=web.trash.list(),
        search=search,
        by=by,
        orders=_ORDERS,
        accepted=ACCEPTED,
    )


@router.get("/datasets/{dataset}/card", include_in_schema=False)
def card(request: Request, dataset: DatasetId, web: Shared) -> Response:
    """One dataset of the list, as it is now."""
    found = summary_of(web.workspace.entry(dataset), web.queue.jobs())
    return page(request, "_dataset.html", section="", dataset=found)


@router.get("/datasets/{dataset}/size", include_in_schema=False)
def size(request: Request, dataset: DatasetId, web: Shared) -> Response:
    """How many bytes it has; that takes a moment where there are many files."""
    return page(request, "_size.html", section="", bytes=bytes_of(web.workspace.entry(dataset).folder))


@router.get("/api/datasets")
def datasets(web: Shared) -> Datasets:
    """The datasets of the folder, by name."""
    return Datasets(datasets=_listed(web))


@router.post("/api/datasets/{dataset}/delete")
def delete(dataset: DatasetId, web: Shared) -> Gone:
    """Put a dataset into the trash; not while a job or another process writes it."""
    entry = web.workspace.entry(dataset)
    if any(uses(job, entry) for job in web.queue.jobs()):
        raise LockedError(f"a job uses `{entry.name}`", "cancel the job, or wait until it has ended")
    found = summary_of(entry, ())
    told = {"images": None if found.state == "unreadable" else found.images, "bytes": found.bytes}
    item = web.trash.put("dataset", entry.name, entry.folder, told)
    web.workspace.forget(dataset)
    _changed(web)
    return Gone(item=item.id, name=entry.name)


@router.post("/api/trash/{item}/restore")
def restore(item: ItemId, web: Shared) -> Back:
    """Bring something back to where it was."""
    found = web.trash.restore(item)
    _changed(web)
    place = web.workspace.folder / found.place
    known = web.workspace.id_of(place) if found.kind == "dataset" else place.name
    return Back(kind=found.kind, id=known, name=found.name)


@router.post("/api/trash/{item}/delete")
def remove(item: ItemId, web: Shared) -> Gone:
    """Delete something for good."""
    found = web.trash.remove(item)
    _changed(web)
    return Gone(item=found.id, name=found.name)


@router.post("/api/demo")
def demo(web: Shared) -> Queued:
    """Queue a job that makes 24 images with the built-in model."""
    names = ["demo", *(f"demo-{number}" for number in range(2, 1_000))]
    with web.queueing:
        promised = web.promised()
        folders = (web.workspace.folder / name for name in names)
        folder = next((each for each in folders if each not in promised and not each.exists()), None)
        if folder is None:
            raise UsageError("there are many demos", "delete some")
        job = web.queue.add("demo", f"{folder.name}: 24 images", ["demo", f"--output={folder}"], output=folder)
    return Queued(job=job)


def _listed(web: Web) -> list[Summary]:
    jobs = web.queue.jobs()
    return [summary_of(entry, jobs) for entry in web.workspace.datasets()]


def _changed(web: Web) -> None:
    web.events.publish("datasets", {})
