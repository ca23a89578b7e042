"""Hugging Face's text to image: a prompt goes in, the bytes of an image come out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagemill.server.api.options import TextToImage, checked_size, read_options, requests_of
from imagemill.server.api.served import ServedModels, while_connected

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route


def hugging_face_routes(models: ServedModels) -> list[Route]:
    """The routes of the protocol that `huggingface_hub.InferenceClient` speaks."""
    from starlette.responses import Response
    from starlette.routing import Route

    async def text_to_image(request: Request) -> Response:
        served = models.find(request.path_params["name"])
        body = await read_options(request, TextToImage)
        options, info = body.parameters, served.info
        asked = options.width or info.width, options.height or info.height
        size = checked_size(asked, info, "parameters.height" if options.width is None else "parameters.width")
        futures = served.submit(requests_of(options, body.inputs, size, 1, info))
        (picture,) = await while_connected(request, served.pictures(futures, "png"))
        return Response(picture.data, media_type="image/png")

    return [Route("/models/{name:path}", text_to_image, methods=["POST"])]
