"""The pages of the gallery: all images of a dataset, and two to four of them side by side."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from imagemill.server.web.gallery import is_unsafe
from imagemill.server.web.image import decided, locate, picture_url
from imagemill.server.web.pages import page
from imagemill.server.web.state import Shared

router = APIRouter(include_in_schema=False)

Compared = Annotated[str, Query(pattern=r"^\d{1,10}-\d{1,10}(,\d{1,10}-\d{1,10}){1,3}$")]


@router.get("/datasets/{dataset}")
def gallery(request: Request, web: Shared, dataset: str) -> HTMLResponse:
    """All images of a dataset in a windowed grid; the query is that of `/api/datasets/{dataset}/view`."""
    entry = web.workspace.find(dataset)
    return page(request, "gallery.html", section="Datasets", name=entry.name, data={"dataset": entry.id})


@router.get("/datasets/{dataset}/compare")
def compare(request: Request, web: Shared, dataset: str, images: Compared) -> HTMLResponse:
    """Two to four images side by side."""
    entry = web.workspace.find(dataset)
    opened, edits = web.workspace.open(dataset), web.edits(dataset)
    compared = []
    for image in dict.fromkeys(images.split(",")):
        located = locate(opened, image)
        told = decided(located, edits.of(located.id))
        picture = picture_url(entry.id, located)
        compared.append({**told, "record": located.record, "unsafe": is_unsafe(located.record), "picture": picture})
    data = {"dataset": entry.id, "images": compared}
    return page(request, "compare.html", section="Datasets", name=entry.name, dataset=entry.id, data=data)
