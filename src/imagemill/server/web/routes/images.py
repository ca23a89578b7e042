"""The page of one image, and what its file carries."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from imagemill.images import MAX_BYTES, format_of
from imagemill.server.web.gallery import PICTURE_HEADERS, is_unsafe, open_file
from imagemill.server.web.image import carried, decided, locate, picture_url, pictures_of, recipe_of, shown
from imagemill.server.web.pages import page
from imagemill.server.web.state import Shared
from imagemill.server.web.workspace import NotFound

router = APIRouter(include_in_schema=False)


@router.get("/datasets/{dataset}/images/{image}")
def image_page(request: Request, web: Shared, dataset: str, image: str) -> HTMLResponse:
    """One image, with everything that is known of it; the query is that of the view it is one of."""
    entry = web.workspace.find(dataset)
    located = locate(web.workspace.open(dataset), image)
    edited = web.edits(dataset).of(located.id)
    return page(
        request,
        "image.html",
        section="Datasets",
        entry=entry,
        image=located.id,
        name=located.file_name,
        record=located.record,
        shown=shown(located, edited, entry.name),
        picture=picture_url(entry.id, located),
        sources=[f"/images/{entry.id}/{located.id}/source/{place}" for place in range(len(pictures_of(located)))],
        unsafe=is_unsafe(located.record),
        edited=edited,
        data={
            "dataset": entry.id,
            "image": located.id,
            "edited": decided(located, edited),
            "recipe": recipe_of(located.record),
            "prompt": located.record["prompt"],
        },
    )


@router.get("/datasets/{dataset}/images/{image}/file")
def file(request: Request, web: Shared, dataset: str, image: str) -> HTMLResponse:
    """What the file of an image carries, as a piece of its page."""
    located = locate(web.workspace.open(dataset), image)
    try:
        found = carried(located)
    except (OSError, ValueError) as error:
        return page(request, "_file.html", carried=None, problem=str(getattr(error, "strerror", "") or error))
    return page(request, "_file.html", carried=found, recipe=json.dumps(found.recipe, ensure_ascii=False, indent=2))


@router.get("/images/{dataset}/{image}/source/{place}")
def source(web: Shared, dataset: str, image: str, place: int) -> Response:
    """One of the pictures that an image was made from."""
    located = locate(web.workspace.open(dataset), image)
    names = pictures_of(located)
    if not 0 <= place < len(names):
        raise NotFound(f"the image {located.id} was made from {len(names)} pictures", "reload the page")
    try:
        with open_file(located.part.path(names[place])) as file:
            data = file.read(MAX_BYTES)
        kind = format_of(data)
    except (OSError, ValueError):
        raise NotFound("this picture cannot be shown", "`imagemill verify` tells what is wrong") from None
    return Response(
        data, media_type=f"image/{kind}", headers={**PICTURE_HEADERS, "cache-control": "private, max-age=600"}
    )
