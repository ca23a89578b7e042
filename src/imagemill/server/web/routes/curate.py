"""Curating: many images at once, find and replace, new datasets, exports and downloads."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from imagemill.component import component_names
from imagemill.dataset.edits import NotLast, editable_columns
from imagemill.errors import ImagemillError
from imagemill.server.web.curating import jobs
from imagemill.server.web.curating.downloads import zip_length, zip_stream
from imagemill.server.web.curating.replacing import Replacement, check_column, differences, texts_of
from imagemill.server.web.gallery import Selection
from imagemill.server.web.routes.edits import publish
from imagemill.server.web.state import DatasetId, Shared

router = APIRouter()
_PREVIEWED = 20
"""Texts that a preview shows."""
_MOST_TAGS = 1_000
"""That are offered for completion."""


class Changed(ImagemillError):
    """Texts were edited after the preview that somebody has agreed to."""

    status = 409


class Body(BaseModel):
    """What a request says; nothing else."""

    model_config = ConfigDict(extra="forbid")


class Bulk(Body):
    """The same for many images."""

    selection: Selection
    decision: Literal["", "keep", "reject"] | None = None
    rating: int | None = Field(None, ge=0, le=5)
    add_tags: list[Annotated[str, Field(max_length=64)]] = Field([], max_length=50)
    remove_tags: list[Annotated[str, Field(max_length=64)]] = Field([], max_length=50)


class Replace(Body):
    """Another text in a column of many images."""

    selection: Selection
    column: str = Field(min_length=1, max_length=200)
    replacement: Replacement
    revision: int | None = None
    """That of the preview."""


class SaveAs(Body):
    """A new dataset of some images, or of all."""

    name: str = Field(max_length=200)
    selection: Selection | None = None
    keep_rejected: bool = False
    """Else rejected images stay out, whether that was applied or not."""


class Export(SaveAs):
    """The same in a layout."""

    layout: str = Field(max_length=40)
    caption_column: Literal["", "prompt", "caption"] = ""
    """The text of each image, where the layout has one; empty for what the layout takes by itself."""


class Chosen(Body):
    """Some images, or all."""

    selection: Selection | None = None


class Apply(Body):
    """Write what people decided into the dataset, or take it out again."""

    undo: bool = False


@router.get("/api/datasets/{dataset}/curation")
def curation(web: Shared, dataset: DatasetId) -> dict[str, Any]:
    """What curating offers: columns, layouts, tags that are in use, and what is not applied yet."""
    entry = web.workspace.find(dataset)
    edits = web.edits(dataset)
    state = edits.state()
    tags = state.tags.most_common(_MOST_TAGS)
    return {
        "columns": editable_columns(web.workspace.open(dataset)),
        "layouts": component_names("layouts"),
        "captioned": jobs.captioned_layouts() if jobs.has_captions(web, entry) else [],
        "tags": [{"tag": tag, "images": images} for tag, images in tags],
        "pending": state.counts,
        "applied": len(edits.applied()),
        "suggested": jobs.free_name(web, entry),
    }


@router.post("/api/datasets/{dataset}/bulk")
def bulk(web: Shared, dataset: DatasetId, body: Bulk) -> dict[str, Any]:
    """Decide the same of many images, in one event."""
    selected = web.views.resolve(dataset, body.selection)
    edits = web.edits(dataset)
    event = edits.change(selected.ids, **body.model_dump(exclude={"selection"}))
    return _changed(web, dataset, edits, event)


@router.post("/api/datasets/{dataset}/replace")
def replace(
    web: Shared, dataset: DatasetId, body: Replace, preview: Annotated[bool, Query()] = False
) -> dict[str, Any]:
    """Find and replace in a column of texts, in one event; with `preview`, only show what would change."""
    selected = web.views.resolve(dataset, body.selection)
    edits = web.edits(dataset)
    state = edits.state()
    if not preview and body.revision not in {None, state.revision}:
        raise Changed("something was edited after this preview", "look at the preview again")
    check_column(web.workspace.open(dataset), body.column)
    before = texts_of(selected.index, selected.rows, selected.ids, body.column, state.pending)
    after = body.replacement.of(before)
    changed = [place for place, text in enumerate(after) if text != before[place]]
    if preview:
        shown = [
            {"id": selected.ids[place], "pieces": differences(before[place], after[place])}
            for place in changed[:_PREVIEWED]
        ]
        return {"images": len(changed), "looked": len(before), "revision": state.revision, "shown": shown}
    texts = {selected.ids[place]: after[place] for place in changed}
    try:
        event = edits.change_texts(body.column, texts, expected=state.revision)
    except NotLast:
        raise Changed("something was edited meanwhile", "look at the preview again") from None
    return _changed(web, dataset, edits, event)


@router.post("/api/datasets/{dataset}/save-as")
def save_as(web: Shared, dataset: DatasetId, body: SaveAs) -> dict[str, Any]:
    """Queue a new dataset with what people decided; this one stays as it is."""
    entry = web.workspace.find(dataset)
    images = web.views.resolve(dataset, body.selection).ids if body.selection else None
    job, folder = jobs.save_as(web, entry, body.name, images, body.keep_rejected)
    return {
        "job": job,
        "name": folder.name,
        "dataset": web.workspace.id_of(folder),
        "ahead": web.queue.ahead_of(job),
    }


@router.post("/api/datasets/{dataset}/rejected")
def rejected(web: Shared, dataset: DatasetId, body: Chosen) -> dict[str, int]:
    """How many of some images are rejected."""
    entry = web.workspace.find(dataset)
    images = web.views.resolve(dataset, body.selection).ids if body.selection else None
    return {"rejected": jobs.rejected_of(web, entry, images)}


@router.post("/api/datasets/{dataset}/export")
def export(web: Shared, dataset: DatasetId, body: Export) -> dict[str, Any]:
    """Queue an export."""
    entry = web.workspace.find(dataset)
    images = web.views.resolve(dataset, body.selection).ids if body.selection else None
    made = jobs.export(web, entry, body.name, body.layout, images, body.keep_rejected, body.caption_column)
    return {"job": made[-1], "jobs": made, "ahead": web.queue.ahead_of(made[0])}


@router.get("/api/datasets/{dataset}/exports")
def exports(web: Shared, dataset: DatasetId) -> list[dict[str, Any]]:
    """The exports of a dataset, the last first."""
    return jobs.exported(web, web.workspace.find(dataset))


@router.post("/api/datasets/{dataset}/apply")
def apply(web: Shared, dataset: DatasetId, body: Apply) -> dict[str, Any]:
    """Queue that what people decided is written into the dataset, or taken out of it."""
    job = jobs.apply(web, web.workspace.find(dataset), body.undo)
    return {"job": job, "ahead": web.queue.ahead_of(job)}


@router.get("/downloads/{job}")
def download(web: Shared, job: Annotated[int, Path(ge=1, lt=2**31)]) -> StreamingResponse:
    """A finished export as a ZIP file."""
    folder = jobs.finished_export(web, job)
    headers = {
        "content-length": str(zip_length(folder)),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(folder.name, safe='')}.zip",
    }
    return StreamingResponse(zip_stream(folder), headers=headers, media_type="application/zip")


def _changed(web: Shared, dataset: str, edits: Any, event: Any) -> dict[str, Any]:
    revision = edits.revision
    if event.images:
        publish(web, dataset)
    return {"images": event.images, "revision": revision, "event": asdict(event)}
