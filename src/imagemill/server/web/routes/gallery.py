"""Views of datasets, and their pictures."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from imagemill.dataset.index.figures import Histogram
from imagemill.errors import UsageError
from imagemill.images import format_of
from imagemill.server.web.gallery.likeness import Likeness
from imagemill.server.web.gallery.snapshots import Place
from imagemill.server.web.gallery.thumbnails import PICTURE_HEADERS, open_file
from imagemill.server.web.gallery.views import VERSION, Asked, View
from imagemill.server.web.image import locate
from imagemill.server.web.state import DatasetId, Shared, Web
from imagemill.server.web.workspace import IMAGE_ID, NotFound

router = APIRouter()

ViewId = Annotated[str, InPath(pattern=r"^[0-9a-f]{16}$")]
ImageId = Annotated[str, InPath(pattern=IMAGE_ID)]
Start = Annotated[int, Query(ge=0, le=2**32)]
_KEPT = "private, max-age=31536000, immutable"
_CHECKED = "private, no-cache"
_GROUP = 50
"""Images of a group of duplicates that are told."""


class NoPicture(UsageError):
    """A file that is not what a browser may be given."""

    status = 415


@router.get("/api/datasets/{dataset}/view")
def open_view(web: Shared, dataset: DatasetId, asked: Annotated[Asked, Query()]) -> Response:
    """Open a view, whose order does not change from then on."""
    view = web.views.open(dataset, asked)
    if view is None:
        return _building(web, dataset)
    return JSONResponse(
        {
            "view": view.id,
            "total": len(view.rows),
            "matching": len(view.members),
            "images": len(view.snapshot),
            "newer": 0,
            "revision": view.revision,
            "stack": asked.stack,
        }
    )


@router.get("/api/datasets/{dataset}/columns")
def columns(web: Shared, dataset: DatasetId) -> Response:
    """The columns of a dataset, and what can be done with each."""
    snapshot = web.views.snapshots.latest(dataset, 0.5)
    return JSONResponse(web.views.columns(dataset, snapshot)) if snapshot else _building(web, dataset)


@router.get("/api/views/{view}/slice")
def slice_of(
    web: Shared, view: ViewId, start: Start = 0, count: Annotated[int, Query(ge=1, le=1_000)] = 200
) -> Response:
    """Some images of a view, from any place on."""
    return JSONResponse({"rows": web.views.slice(web.views.find(view), start, count)})


@router.get("/api/views/{view}/ids")
def ids(
    web: Shared, view: ViewId, start: Start = 0, count: Annotated[int, Query(ge=1, le=100_000)] = 1_000
) -> Response:
    """The ids of some images of a view, and of stacks how many images each has."""
    found: View = web.views.find(view)
    told: dict[str, Any] = {"ids": found.snapshot.ids(found.rows[start : start + count])}
    if found.stacks:
        told["stacked"] = found.stacks.sizes[start : start + count].tolist()
    return JSONResponse(told)


@router.get("/api/views/{view}/newer")
def newer(web: Shared, view: ViewId) -> dict[str, int]:
    """How many images have come since."""
    return {"newer": web.views.newer(web.views.find(view))}


@router.get("/api/views/{view}/place")
def place(web: Shared, view: ViewId, image: Annotated[str, Query(pattern=IMAGE_ID)]) -> dict[str, Any]:
    """Where an image stands in a view."""
    found: dict[str, Any] = web.views.place(web.views.find(view), image)
    return found


@router.get("/api/views/{view}/histogram")
def histogram(
    web: Shared,
    view: ViewId,
    column: Annotated[str, Query(max_length=200)],
    bins: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """How the values of a column are spread over a view."""
    found: Histogram = web.views.histogram(web.views.find(view), column, bins)
    missing = {"missing": found.nulls, "others": found.others}
    if found.values or not found.bins:
        values = [{"value": each.value, "count": each.count} for each in found.values]
        return {"kind": "text", "values": values, **missing}
    edges = [*(each.low for each in found.bins), found.bins[-1].high]
    return {"kind": "number", "edges": edges, "counts": [each.count for each in found.bins], **missing}


@router.get("/api/views/{view}/facets")
def facets(web: Shared, view: ViewId) -> dict[str, Any]:
    """What people have decided of the images of a view."""
    found: dict[str, Any] = web.views.facets(web.views.find(view))
    return found


@router.get("/api/datasets/{dataset}/similar/{image}")
def similar(
    web: Shared, dataset: DatasetId, image: ImageId, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> Response:
    """The images that look most like one, itself first."""
    snapshot = web.views.snapshots.latest(dataset, 0.5)
    if snapshot is None:
        return _building(web, dataset)
    likeness = Likeness(snapshot)
    rows, distances = likeness.similar(image, limit)
    tiles = web.views.tiles(dataset, snapshot, rows)
    return JSONResponse(
        {
            "measure": likeness.measure,
            "rows": [{**tile, "distance": far} for tile, far in zip(tiles, distances, strict=True)],
        }
    )


@router.get("/api/datasets/{dataset}/duplicates")
def duplicates(
    web: Shared,
    dataset: DatasetId,
    threshold: Annotated[int, Query(ge=0, le=16)] = 4,
    start: Start = 0,
    count: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Groups of images that look alike, the largest first; of each its first images, nearest first."""
    snapshot = web.views.snapshots.latest(dataset, 0.5)
    if snapshot is None:
        return _building(web, dataset)
    groups = Likeness(snapshot).groups(threshold)
    told = []
    for group in groups[start : start + count]:
        tiles = web.views.tiles(dataset, snapshot, group.rows[:_GROUP])
        told.append(
            [{**tile, "distance": int(far)} for tile, far in zip(tiles, group.distances.tolist(), strict=False)]
        )
    sizes = [len(group.rows) for group in groups[start : start + count]]
    return JSONResponse(
        {"total_groups": len(groups), "images": sum(len(each.rows) for each in groups), "sizes": sizes, "groups": told}
    )


@router.get("/images/{dataset}/{image}/thumbnail")
async def thumbnail(request: Request, web: Shared, dataset: DatasetId, image: ImageId, v: str = "") -> Response:
    """A small copy of an image."""
    picture, content = await run_in_threadpool(_small, web, dataset, image)
    headers = picture.headers(v)
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    if content is None:
        wanted = web.thumbnails.want(picture.key, dataset, picture.path)
        try:
            content = await _unless_left(request, asyncio.wrap_future(wanted.future))
        except (ValueError, OSError) as error:
            raise _unshown(image, error) from None
        finally:
            web.thumbnails.leave(picture.key, wanted)
    if content is None:
        return Response(status_code=499)
    return Response(content, media_type="image/webp", headers=headers)


@router.get("/images/{dataset}/{image}/full")
def full(request: Request, web: Shared, dataset: DatasetId, image: ImageId, v: str = "") -> Response:
    """An image as it lies in the dataset."""
    picture = _found(web, dataset, image)
    headers = picture.headers(v)
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    try:
        with open_file(picture.path) as file:
            kind, state = format_of(file.read(16)), os.fstat(file.fileno())
    except (ValueError, OSError) as error:
        raise _unshown(image, error) from None
    return FileResponse(
        picture.path,
        media_type=f"image/{kind}",
        headers=headers,
        filename=picture.path.name,
        content_disposition_type="inline",
        stat_result=state,
    )


@dataclass(frozen=True, slots=True)
class _Picture:
    """The file of an image, which is one and lies in the dataset."""

    path: Path
    key: str
    """Another one for another content: the file's own, since records may say anything, and what its record says."""
    sha256: str

    def headers(self, asked: str) -> dict[str, str]:
        """Who asks by the hash of the picture gets that one for good."""
        known = len(asked) == VERSION and self.sha256.startswith(asked)
        return {"etag": f'"{self.key}"', "cache-control": _KEPT if known else _CHECKED, **PICTURE_HEADERS}


def _found(web: Web, dataset: str, image: str) -> _Picture:
    """The picture of an image; raises NotFound."""
    place = _place(web, dataset, image)
    with suppress(OSError):
        state = place.path.lstat()
        if stat.S_ISREG(state.st_mode) and place.path.parent.resolve() == place.path.parent:
            own = f"{state.st_dev} {state.st_ino} {state.st_size} {state.st_mtime_ns} {place.sha256}"
            return _Picture(place.path, hashlib.sha256(own.encode()).hexdigest()[:32], place.sha256)
    raise _gone(image)


def _place(web: Web, dataset: str, image: str) -> Place:
    """Where an image lies; raises NotFound."""
    if not web.views.snapshots.has(dataset):
        # The list of datasets shows some images of each, and must not wait for an index of each.
        with suppress(NotFound):
            located = locate(web.workspace.open(dataset), image)
            return Place(located.part.path(located.file_name), str(located.record.get("sha256") or ""))
    place: Place = web.views.snapshots.place(dataset, image)
    return place


def _small(web: Web, dataset: str, image: str) -> tuple[_Picture, bytes | None]:
    """The picture of an image, and its thumbnail where that was made before; raises NotFound."""
    picture = _found(web, dataset, image)
    return picture, web.thumbnails.kept(picture.key)


def _gone(image: str) -> NotFound:
    return NotFound(f"the image {image} is not there any more", "reload the page")


def _unshown(image: str, error: Exception) -> UsageError:
    """What is told of a file that could not be read: it may have gone since it was found."""
    if isinstance(error, FileNotFoundError):
        return _gone(image)
    return NoPicture("this file cannot be shown as a picture", "`imagemill verify` tells what is wrong")


def _building(web: Web, dataset: str) -> JSONResponse:
    done, total = web.views.snapshots.read(dataset) or (0, None)
    return JSONResponse({"building": True, "done": done, "total": total}, 202)


async def _unless_left(request: Request, making: asyncio.Future[bytes]) -> bytes | None:
    """What is being made, or None when the browser does not want it any more."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.ensure_future(left())
    # Others may wait for the same, so that it is not cancelled; and nobody may be left to hear of its failure.
    making.add_done_callback(lambda made: made.cancelled() or made.exception())
    both: set[asyncio.Future[Any]] = {leaving, making}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return making.result() if making.done() else None
    finally:
        leaving.cancel()
