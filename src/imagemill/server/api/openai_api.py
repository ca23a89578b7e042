"""OpenAI's images API, and the application that serves it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from imagemill.images import open_image
from imagemill.models.base import Model
from imagemill.server.api.files import FILES, Files
from imagemill.server.api.guard import ApiGuard
from imagemill.server.api.hugging_face import hugging_face_routes
from imagemill.server.api.options import ImageOptions, form_options, limited, read_options, requests_of, size_of
from imagemill.server.api.problems import Problem, json_response, wrong
from imagemill.server.api.served import Picture, Served, ServedModels, while_connected

if TYPE_CHECKING:
    from asyncio import Future

    from starlette.applications import Starlette
    from starlette.datastructures import FormData, UploadFile
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from imagemill.records import Request as ImageRequest
    from imagemill.server.api.batching import Made

_MAX_FORM = 64 * 2**20
"""Bytes of a body with files."""
_MAX_IMAGES = 16
_MAX_FIELDS = 64
_KEEP_ALIVE = 5.0
"""Seconds between signs of life while a client waits for an event."""
_NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""Clients want it; a local model counts no tokens."""


def application(
    models: Mapping[str, Model], key: str, host: str = "127.0.0.1", batch_size: int | None = None
) -> tuple[Starlette, ServedModels]:
    """Make the application, and the models that have to be stopped with it.

    `models` are what clients may name, by that name, the first one the default; `host` is what the server listens on.
    Raises UsageError when a model cannot be found.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.routing import Route

    served = ServedModels(models, batch_size)
    api = _OpenaiApi(served)
    app = Starlette(
        routes=[
            Route("/v1/models", api.models),
            Route("/v1/models/{name:path}", api.model),
            Route("/v1/images/generations", api.generations, methods=["POST"]),
            Route("/v1/images/edits", api.edits, methods=["POST"], middleware=[Middleware(_TemporaryFolder)]),
            Route(f"{FILES}{{name}}", api.file),
            *hugging_face_routes(served),
        ],
        middleware=[Middleware(ApiGuard, secret=key, host=host)],
        exception_handlers={HTTPException: _as_problem},
    )
    app.router.redirect_slashes = False
    return app, served


async def _as_problem(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: an unknown path, a wrong method."""
    refused: HTTPException = error  # type: ignore[assignment]
    message = refused.detail[:1].lower() + refused.detail[1:]
    if refused.status_code in {404, 405}:
        message += f": {request.method} {request.url.path}"
    return Problem(refused.status_code, message, headers=refused.headers).response()


class _TemporaryFolder:
    """Gives a request a folder that lives as long as it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with TemporaryDirectory(prefix="imagemill-") as folder:
            await self._app({**scope, "folder": Path(folder)}, receive, send)


class _OpenaiApi:
    """The routes."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models
        self._files = Files()
        self._created = int(time.time())

    async def models(self, request: Request) -> Response:
        del request
        data = [self._described(served) for served in self._models.all.values()]
        return json_response({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        return json_response(self._described(self._models.find(request.path_params["name"])))

    def _described(self, served: Served) -> dict[str, Any]:
        return {
            "id": served.name,
            "object": "model",
            "created": self._created,
            "owned_by": "imagemill",
            "imagemill": served.describe(),
        }

    async def file(self, request: Request) -> Response:
        from starlette.responses import Response

        found = self._files.get(request.path_params["name"])
        if found is None:
            raise Problem(404, "there is no such file, or it is no longer kept")
        return Response(found.data, media_type=found.media_type, headers={"cache-control": "private, max-age=3600"})

    async def generations(self, request: Request) -> Response:
        options = await read_options(request, ImageOptions)
        served = self._models.find(options.model)
        size = size_of(options.size, served.info)
        requests = requests_of(options, options.prompt, size, options.count, served.info)
        return await self._answer(request, served, options, requests, "image_generation")

    async def edits(self, request: Request) -> Response:
        form = await _read_form(request)
        try:
            fields, images, mask = _parts(form)
            options = form_options(fields)
            served = self._models.find(options.model)
            if not served.info.most_images:
                able = [f"`{name}`" for name, other in self._models.all.items() if other.info.most_images]
                others = f"those that do: {', '.join(able)}" if able else "none of the models served does"
                raise wrong(f"`{served.name}` takes no images; {others}", "image", "unsupported_parameter")
            if len(images) > served.info.most_images:
                text = f"`image`: `{served.name}` takes {served.info.most_images}, got: {len(images)}"
                raise wrong(text, "image", "unsupported_parameter")
            if mask is not None and not served.info.takes_mask:
                raise wrong(f"`mask`: `{served.name}` takes none", "mask", "unsupported_parameter")
            if mask is None and served.info.needs_mask:
                raise wrong(f"`mask`: `{served.name}` needs one", "mask", "missing_required_parameter")
            # A model pads a picture to what it needs, and cuts the result back.
            size = size_of(options.size, replace(served.info, size_multiple=1))
            paths, mask_path = await _stored(request.scope["folder"], images, mask)
        finally:
            await form.close()
        requests = requests_of(options, options.prompt, size, options.count, served.info, paths, mask_path)
        return await self._answer(request, served, options, requests, "image_edit")

    async def _answer(
        self, request: Request, served: Served, options: ImageOptions, requests: list[ImageRequest], event: str
    ) -> Response:
        if options.stream and options.count > 1:
            raise wrong("`n`: a stream has one image", "n")
        # Before the first byte of an answer, so that a full queue is an answer of its own.
        futures = served.submit(requests)
        if options.stream:
            from starlette.responses import StreamingResponse

            return StreamingResponse(
                _events(served, futures, options, requests[0], event),
                media_type="text/event-stream",
                headers={"cache-control": "no-store"},
            )
        pictures = await while_connected(request, served.pictures(futures, options.image_format))
        first, url = pictures[0], None
        if options.response_format == "url":
            url = str(request.base_url).rstrip("/") + FILES
        return json_response(
            {
                "created": int(time.time()),
                "data": [self._item(picture, options, url) for picture in pictures],
                **_shown(options, requests[0]),
                "imagemill": {
                    "model": served.info.name,
                    "model_revision": served.info.revision,
                    "batch_size": first.batch_size,
                    "num_inference_steps": first.request.num_inference_steps,
                    "guidance_scale": first.request.guidance_scale,
                    "scheduler": first.request.scheduler,
                },
            }
        )

    def _item(self, picture: Picture, options: ImageOptions, url: str | None) -> dict[str, Any]:
        if url is None:
            image = {"b64_json": base64.b64encode(picture.data).decode()}
        else:
            image = {"url": url + self._files.add(picture.data, options.image_format)}
        return {**image, "seed": picture.seed, "batch_size": picture.batch_size}


def _shown(options: ImageOptions, request: ImageRequest) -> dict[str, Any]:
    return {
        "size": f"{request.width}x{request.height}",
        "output_format": options.image_format,
        "background": "opaque",
    }


async def _events(
    served: Served, futures: Sequence[Future[Made]], options: ImageOptions, request: ImageRequest, name: str
) -> AsyncIterator[str]:
    """Server-sent events: signs of life, then one with the image, or with what went wrong."""
    task = asyncio.ensure_future(served.pictures(futures, options.image_format))
    try:
        while not (await asyncio.wait({task}, timeout=_KEEP_ALIVE))[0]:
            yield ": waiting\n\n"
        (picture,) = task.result()
        data = {
            "type": f"{name}.completed",
            "b64_json": base64.b64encode(picture.data).decode(),
            "created_at": int(time.time()),
            **_shown(options, request),
            "quality": "auto",
            "usage": _NO_USAGE,
            "seed": picture.seed,
            "batch_size": picture.batch_size,
        }
        yield f"event: {name}.completed\ndata: {json.dumps(data)}\n\n"
    except Problem as problem:
        yield f"event: error\ndata: {json.dumps(problem.to_table())}\n\n"
    finally:
        task.cancel()


async def _read_form(request: Request) -> FormData:
    """Read a form with files, which wait on disk when they are large; raises Problem."""
    from starlette.datastructures import Headers
    from starlette.formparsers import MultiPartException, MultiPartParser

    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise wrong("send `multipart/form-data`", code="invalid_content_type")
    # The parser takes what is not UTF-8 for Latin-1, silently. Latin-1 keeps the bytes, for us to look at.
    headers = Headers({"content-type": f"{kind}; charset=latin-1"})
    body = limited(request, _MAX_FORM)
    try:
        return await MultiPartParser(headers, body, max_files=_MAX_IMAGES + 1, max_fields=_MAX_FIELDS).parse()
    except MultiPartException as error:
        raise wrong(f"the form cannot be read: {error.message}", code="invalid_form") from None


def _parts(form: FormData) -> tuple[dict[str, str], list[UploadFile], UploadFile | None]:
    """Tell fields, images and the mask apart; raises Problem."""
    fields: dict[str, str] = {}
    images: list[UploadFile] = []
    mask: UploadFile | None = None
    for name, value in form.multi_items():
        if name in {"image", "image[]", "mask"}:
            if isinstance(value, str):
                raise wrong(f"`{name}`: must be a file", name.removesuffix("[]"))
            if name == "mask":
                mask = value
            else:
                images.append(value)
        elif isinstance(value, str):
            try:
                fields[name] = value.encode("latin-1").decode()
            except UnicodeDecodeError:
                raise wrong(f"`{name}`: is not UTF-8", name) from None
        else:
            raise wrong(f"`{name}`: no such file is known; send `image` and `mask`", name, "unknown_parameter")
    if not 1 <= len(images) <= _MAX_IMAGES:
        code = "invalid_value" if images else "missing_required_parameter"
        raise wrong(f"`image`: send from 1 to {_MAX_IMAGES} images, got: {len(images)}", "image", code)
    return fields, images, mask


async def _stored(folder: Path, images: list[UploadFile], mask: UploadFile | None) -> tuple[tuple[str, ...], str]:
    """Check uploads and put them where a model can read them; returns the paths of the images and of the mask."""
    found = [await _store(folder, f"image-{number}", upload, "image") for number, upload in enumerate(images)]
    paths = tuple(path for path, _ in found)
    if mask is None:
        return paths, ""
    path, size = await _store(folder, "mask", mask, "mask")
    if size != found[0][1]:
        raise wrong("`mask`: must be as large as the first image", "mask", "invalid_image")
    return paths, path


async def _store(folder: Path, stem: str, upload: UploadFile, param: str) -> tuple[str, tuple[int, int]]:
    data = await upload.read()
    try:
        # In full: what the model gets is a whole image.
        image = await asyncio.to_thread(open_image, data)
    except ValueError as error:
        raise wrong(f"`{param}`: {error}", param, "invalid_image") from None
    path = folder / f"{stem}.{str(image.format).lower()}"
    path.write_bytes(data)
    return str(path), image.size
