"""The models that clients may name, and the images they get from them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from imagemill.errors import ModelError, did_you_mean
from imagemill.images import ImageFormat, decode, encode, format_of
from imagemill.models.base import Model
from imagemill.records import NO_SEED, Maker, Request
from imagemill.server.api.batching import Batcher, Full, Made, Stopped
from imagemill.server.api.problems import Problem, failed_request

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.requests import Request as HttpRequest

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as a client gets it."""

    data: bytes
    request: Request
    """With the seed and the parameters that were really used."""
    batch_size: int

    @property
    def seed(self) -> int | None:
        """None where the model takes none."""
        return None if self.request.seed == NO_SEED else self.request.seed


class Served:
    """One model behind the API."""

    def __init__(self, name: str, model: Model, batch_size: int | None = None) -> None:
        """Describe a model, which is loaded when it is first used; raises UsageError when it cannot be found."""
        self.name = name
        self.info = model.info()
        self.batcher = Batcher(model, self.info, batch_size)
        self._maker = Maker(self.info.name, self.info.revision, model.to_table())

    def submit(self, requests: Sequence[Request]) -> list[asyncio.Future[Made]]:
        """Let requests wait for their batch; raises Problem when too many wait, or the server ends."""
        try:
            return self.batcher.submit(requests)
        except Full:
            raise Problem(
                429, "too many requests wait; try again", "rate_limit_exceeded", headers={"retry-after": "1"}
            ) from None
        except Stopped:
            raise _stopping() from None

    async def pictures(self, futures: Sequence[asyncio.Future[Made]], image_format: ImageFormat) -> list[Picture]:
        """Wait for images and encode them with their recipe; raises Problem when one could not be made."""
        try:
            made = await asyncio.gather(*futures, return_exceptions=True)
        finally:
            for future in futures:
                future.cancel()
        return await asyncio.gather(*[asyncio.to_thread(self._picture, one, image_format) for one in made])

    def _picture(self, made: Made | BaseException, image_format: ImageFormat) -> Picture:
        if isinstance(made, ModelError):
            raise Problem(500, made.message, "model_error")
        if isinstance(made, Stopped):
            raise _stopping()
        if isinstance(made, BaseException):
            raise made
        result = made.result
        pixels = result.pixels
        if result.data is not None:
            # From another server. Its own file is the best there is, if it has the format asked for.
            if format_of(result.data) == image_format:
                return Picture(result.data, result.request, made.batch_size)
            pixels = decode(result.data)
        if pixels is None:
            raise failed_request(result)
        recipe = {**result.request.recipe, **self._maker.recipe, "batch_size": made.batch_size}
        composite = bool(result.request.images)
        return Picture(
            encode(pixels, image_format, recipe, mark=True, composite=composite), result.request, made.batch_size
        )

    def describe(self) -> dict[str, Any]:
        """What the model is and which parameters it pays heed to."""
        info = self.info
        takes = {
            "seed": info.takes_seed,
            "n": True,
            "size": True,
            "num_inference_steps": info.takes_steps,
            "negative_prompt": info.takes_negative_prompt,
            "guidance_scale": info.takes_guidance,
            "scheduler": bool(info.schedulers),
            "image": info.most_images > 0,
        }
        return {
            "takes": [name for name, taken in takes.items() if taken],
            "width": info.width,
            "height": info.height,
            "size_multiple": info.size_multiple,
            "num_inference_steps": info.num_inference_steps,
            "guidance_scale": info.guidance_scale,
            "scheduler": info.scheduler,
            "schedulers": list(info.schedulers),
            "revision": info.revision,
            "license": info.license,
            "batch_size": self.batcher.batch_size,
        }


class ServedModels:
    """All models behind the API, by the names that clients give them; the first is the default."""

    def __init__(self, models: Mapping[str, Model], batch_size: int | None = None) -> None:
        self.all = {name: Served(name, model, batch_size) for name, model in models.items()}

    def find(self, name: str | None) -> Served:
        """Return the model of a name, or the default; raises Problem for a name that is not served."""
        if name is None:
            return next(iter(self.all.values()))
        if name not in self.all:
            hint = did_you_mean(name[:200], self.all) or f"there are: {', '.join(self.all)}"
            raise Problem(404, f"no model `{name:.200}` is served; {hint}", "model_not_found", "model")
        return self.all[name]

    def stop(self, seconds: float) -> bool:
        """Let go what waits at once, and what runs after so many seconds; returns whether every model has ended."""
        for served in self.all.values():
            served.batcher.stop()
        end = time.monotonic() + seconds
        ended = [served.batcher.finish(max(0.0, end - time.monotonic())) for served in self.all.values()]
        return all(ended)


async def while_connected(request: HttpRequest, work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Wait for an answer, and give up when the client has gone; its body must have been read."""
    from starlette.requests import ClientDisconnect

    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _gone(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _stopping() -> Problem:
    return Problem(503, "the server is stopping", "server_stopping")
