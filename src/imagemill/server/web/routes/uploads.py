"""Tables and pictures come in, are looked at, and go to the trash."""

from __future__ import annotations

import shutil
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from imagemill.errors import ImagemillError, LockedError
from imagemill.server.web.pages import page
from imagemill.server.web.state import Shared, Web
from imagemill.server.web.uploads import Upload, receive

router = APIRouter()
UploadId = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            }
        },
    }
}


class Told(BaseModel):
    """An upload, as scripts see it."""

    id: str
    name: str
    kind: str
    state: str
    rows: int
    rejected: int
    bytes: int
    created: float
    columns: list[str]
    prompt_column: str
    problem: str
    url: str


class Sent(BaseModel):
    """What has come."""

    uploads: list[Told]


class Gone(BaseModel):
    """What was put into the trash; `item` brings it back."""

    item: str
    name: str


@router.get("/api/uploads")
def uploads(web: Shared) -> Sent:
    """All uploads, the newest first."""
    return Sent(uploads=[_told(upload) for upload in web.uploads.list()])


@router.post("/api/uploads", status_code=201, response_model=Sent, openapi_extra=_FORM)
async def send(request: Request, web: Shared) -> Response:
    """Take the files of a form: each table and each archive for itself, all pictures as one set."""
    folder = web.uploads.receiving()
    length = request.headers.get("content-length", "")
    try:
        received = await receive(
            request.stream(),
            request.headers.get("content-type", ""),
            int(length) if length.isdigit() else None,
            web.uploads,
            folder,
        )
        added = await run_in_threadpool(web.uploads.add, received)
    except ImagemillError as error:
        if not _is_browser(request):
            raise
        return page(
            request,
            "problem.html",
            status=getattr(error, "status", 400),
            section="",
            message=error.message,
            hint=error.hint,
        )
    except ClientDisconnect:
        return Response(status_code=499)
    finally:
        await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)
    web.events.publish("datasets", {})
    if _is_browser(request):
        return RedirectResponse(f"/uploads/{added[0].id}" if len(added) == 1 else "/datasets", 303)
    return JSONResponse(Sent(uploads=[_told(upload) for upload in added]).model_dump(), 201)


@router.get("/api/uploads/{upload}")
def told(upload: UploadId, web: Shared) -> Told:
    """One upload."""
    return _told(web.uploads.find(upload))


@router.delete("/api/uploads/{upload}")
def remove(upload: UploadId, web: Shared) -> Gone:
    """Put an upload into the trash."""
    found = web.uploads.find(upload)
    if any(job.source == found.id and not job.over for job in web.queue.jobs()):
        raise LockedError(f"a job uses `{found.name}`", "cancel the job, or wait until it has ended")
    item = web.trash.put("upload", found.name, found.folder, {"rows": found.rows, "bytes": found.bytes})
    web.events.publish("datasets", {})
    return Gone(item=item.id, name=found.name)


@router.get("/uploads/{upload}", include_in_schema=False)
def show(request: Request, upload: UploadId, web: Shared) -> Response:
    """What an upload holds."""
    return page(request, "upload.html", section="Datasets", **_context(web, upload))


@router.get("/uploads/{upload}/preview", include_in_schema=False)
def preview(request: Request, upload: UploadId, web: Shared) -> Response:
    """The same without the frame; asked again until the upload has been read."""
    return page(request, "_upload.html", section="Datasets", **_context(web, upload))


@router.get("/uploads/{upload}/line", include_in_schema=False)
def line(request: Request, upload: UploadId, web: Shared) -> Response:
    """Its line in the list of uploads."""
    return page(request, "_upload_line.html", section="", upload=web.uploads.find(upload))


@router.get("/uploads/{upload}/thumbnails/{number}")
def thumbnail(upload: UploadId, number: Annotated[int, Path(ge=1, le=10_000)], web: Shared) -> FileResponse:
    """One of its first pictures, small."""
    path = web.uploads.find(upload).thumbnail(number)
    headers = {"cache-control": "private, max-age=86400", "content-security-policy": "sandbox; default-src 'none'"}
    return FileResponse(path, media_type="image/webp", headers=headers)


def _context(web: Web, upload: str) -> dict[str, Any]:
    found = web.uploads.find(upload)
    return {"upload": found, "details": found.details, "looked": web.uploads.looked(upload)}


def _is_browser(request: Request) -> bool:
    """Whether a form was sent by a browser that runs no script."""
    return "text/html" in request.headers.get("accept", "")


def _told(upload: Upload) -> Told:
    return Told(
        id=upload.id,
        name=upload.name,
        kind=upload.kind,
        state=upload.state,
        rows=upload.rows,
        rejected=int(upload.preview.get("rejected", 0)),
        bytes=upload.bytes,
        created=upload.created,
        columns=list(upload.columns),
        prompt_column=upload.prompt_column,
        problem=upload.preview["problem"][0] if upload.state == "refused" else "",
        url=f"/uploads/{upload.id}",
    )
