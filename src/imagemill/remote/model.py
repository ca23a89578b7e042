"""What models behind a server share: how they are called, what they take, what they cost."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from imagemill.errors import UsageError
from imagemill.images import open_image
from imagemill.models.base import DESCRIBE, Measured, Model, ModelInfo, Question, Reply, Result, TextModel
from imagemill.records import Batch, Request, Size
from imagemill.remote.client import CallFailed, Client, checked_base_url
from imagemill.remote.engine import Journal, Settings, stream
from imagemill.remote.servers import Server

Takes = Literal["seed", "negative_prompt", "num_inference_steps", "guidance_scale", "scheduler", "n", "size", "image"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A file as a server sent it."""

    request: Request
    """With what the server says of it."""
    data: bytes
    batch_size: int = 1
    """As the server tells."""
    columns: Mapping[str, Any] = field(default_factory=dict)


class Remote(Model, TextModel):
    """A model behind a server, called over HTTP."""

    key_variable: ClassVar[str]
    """The environment variable that holds the key."""
    several: ClassVar[bool] = True
    """Whether a call can ask for several images."""

    base_url: str | None = Field(None, min_length=1)
    """Address of the server, when it is not the provider's own."""
    takes: tuple[Takes, ...] | Literal["auto"] = "auto"
    """What the server honours, such as `seed`; `auto`: what is known of it, or what `models --probe` has found."""
    own_size: str = Field("auto", pattern=r"^(auto|\d+x\d+)$")
    """Width and height of images for which none are asked, such as `1024x1024`."""
    timeout: float = Field(120, gt=0, exclude=True)
    """Seconds a call may take."""
    max_retries: int = Field(6, ge=0, exclude=True)
    """Further tries of a call that failed in a way that may pass."""
    concurrency: int = Field(64, ge=1, le=1000, exclude=True)
    """Most calls in flight; fewer while the server does not bear so many."""
    requests_per_minute: float | None = Field(None, gt=0, exclude=True)
    """Calls the provider allows; learned when not given."""
    images_per_minute: float | None = Field(None, gt=0, exclude=True)
    """Images the provider allows; learned when not given."""
    max_cost: float | None = Field(None, gt=0, exclude=True)
    """Dollars a run may cost; it stops before the call that could exceed them (exit code 4)."""
    price: tuple[str, ...] = Field((), exclude=True)
    """Dollars an image costs, `0.04`, or by size, `1024x1024=0.04`; may be repeated; instead of the built-in table."""

    @field_validator("takes", mode="before")
    @classmethod
    def _separate(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        words = [word.strip() for text in value for word in str(text).split(",")]
        return "auto" if words == ["auto"] else words

    @field_validator("price")
    @classmethod
    def _prices(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not re.fullmatch(r"(\d+x\d+=)?\d+(\.\d+)?", value):
                raise ValueError("a price is dollars, such as `0.04` or `1024x1024=0.04`")
        return values

    def info(self) -> ModelInfo:
        """What is known of it without a call."""
        width, height = self.own_width_and_height()
        return ModelInfo(
            name=f"{self.component_name()}:{self.served_name()}",
            revision="unknown",
            width=width,
            height=height,
            num_inference_steps=0,
            guidance_scale=0.0,
            scheduler="",
            batch_size=1,
            takes_seed="seed" in self.takes,
            takes_negative_prompt="negative_prompt" in self.takes,
            takes_guidance="guidance_scale" in self.takes,
            takes_steps="num_inference_steps" in self.takes,
            takes_scheduler="scheduler" in self.takes,
            seconds_per_image=60 / self.images_per_minute if self.images_per_minute else None,
            bytes_per_image=width * height * 3 // 2,
            reproducibility="server",
            as_received=True,
        )

    def headers(self) -> dict[str, str]:
        """What every call says: the key, when there is one."""
        return {"Authorization": f"Bearer {self.key()}"} if self.key() else {}

    @abstractmethod
    async def pictures(self, client: Client, requests: Sequence[Request]) -> Sequence[Picture | CallFailed]:
        """Make one call for requests of a kind; raises CallFailed when it fails for all of them."""

    @abstractmethod
    async def edits(self, client: Client) -> bool:
        """Whether the server takes images to start from, asked for nothing."""

    @abstractmethod
    def description_url(self) -> str:
        """Where the server would tell what it honours; empty when that is nowhere."""

    @abstractmethod
    def chat_url(self) -> str:
        """Where questions about images go."""

    @abstractmethod
    def needs_key(self) -> bool:
        """Whether the server is known to answer nobody without one."""

    def ready(self, workers: int) -> None:
        """Raise UsageError when the key is missing or cannot be sent, or for more than one process."""
        if workers > 1:
            raise UsageError(
                "a model behind a server needs one process", "`--concurrency` says how many calls it makes"
            )
        if self.needs_key() and not self.key():
            raise UsageError(f"`{self.key_variable}` is not set", "export the key, and never give it as an argument")
        if not re.fullmatch(r"[ -~]*", self.key()):
            raise UsageError(f"`{self.key_variable}` holds characters that no key has", "was it copied whole?")

    @abstractmethod
    def server(self) -> Server:
        """What is known of the server; may ask it, for nothing, and raise ModelError when it does not answer."""

    def resolve(self, known: Mapping[str, Any], workers: int) -> Self:
        """Also find out what the server honours: known, found before by a probe, or told by it for nothing."""
        del workers
        pinned = self._with_address()
        if self.max_cost is not None and self.price == () and pinned.table_price() is None:
            raise UsageError(
                "`max_cost`: nobody knows what an image costs",
                "say it with `--price`, or choose the `--quality` that the model's price list is by",
            )
        if "auto" not in (self.takes, self.own_size):
            return pinned
        told = known if {"takes", "own_size"} <= set(known) else None
        found = Server(tuple(told["takes"]), told["own_size"]) if told else pinned.server()
        return pinned.model_copy(
            update={
                "takes": found.takes if self.takes == "auto" else self.takes,
                "own_size": found.own_size if self.own_size == "auto" else self.own_size,
            }
        )

    def measure(self, sizes: Mapping[Size, int], chosen: Mapping[Size, int]) -> Measured:
        """Ask nobody: how many images share a pass is the server's business, and many are handed on at once."""
        del chosen
        info = self.info()
        return Measured(dict.fromkeys(sizes, 100 * info.batch_size if info.batch_size > 1 else 1), info.reproducibility)

    def make(self, batches: Iterable[Batch], journal: Journal | None = None) -> Iterator[Result]:
        """Call the server for every request, as many at once as it bears; paid calls are first written down."""
        if journal and journal.batches():
            raise UsageError("images of this dataset are handed in as batches", "add `--batch-api` to fetch them")
        shared = "n" in self.takes and "seed" not in self.takes
        yield from stream(
            (batch.requests for batch in batches),
            self.client,
            self.draw,
            self._settings(),
            name_of=lambda request: request.name,
            # What is asked for in the same words can be asked for once.
            kind_of=lambda request: replace(request, image=0, seed=0, columns={}) if shared else request.name,
            most=self.info().batch_size,
            cost_of=self.cost,
            refused=lambda request, failure: Result(request, reason=failure.reason, message=failure.message),
            journal=journal,
        )

    def answer(self, questions: Iterable[Question], journal: Journal | None = None) -> Iterator[Reply]:
        """Ask about images, in any order; a question that fails is a reply with a reason."""
        # A call brings one text: what is wanted several times is asked several times, and gathered.
        texts: dict[str, list[str]] = {}
        asked: dict[str, Question] = {}

        def calls() -> Iterator[tuple[Question, ...]]:
            for question in questions:
                asked[question.name] = question
                for number in range(question.count):
                    yield (replace(question, name=f"{question.name}\0{number}"),)

        for reply in stream(
            calls(),
            self.client,
            self._ask,
            self._settings(),
            name_of=lambda question: question.name,
            kind_of=lambda question: question.name,
            most=1,
            cost_of=lambda question: None,
            refused=lambda question, failure: Reply(question, reason=failure.reason, message=failure.message),
            journal=journal,
        ):
            name = reply.question.name.partition("\0")[0]
            if name not in asked:
                continue
            if reply.reason:
                yield replace(reply, question=asked.pop(name))
                continue
            texts.setdefault(name, []).extend(reply.texts)
            if len(texts[name]) == asked[name].count:
                yield Reply(asked.pop(name), tuple(texts.pop(name)))

    def client(self) -> Client:
        """A new pool of connections to the server."""
        return Client(self.address(), self.headers(), self.timeout, self.key())

    def key(self) -> str:
        """The key of the environment; empty when there is none."""
        return os.environ.get(self.key_variable, "").strip()

    @abstractmethod
    def address(self) -> str:
        """The server's address, as given or the provider's own."""

    def table_price(self) -> float | None:
        """What an image costs by the built-in table, for the size of its own; None when that does not say."""
        return None

    def cost(self, request: Request) -> float | None:
        """Dollars for one image: as the user says, else by the built-in table, else None."""
        prices = dict(value.rpartition("=")[::2] for value in self.price)
        text = prices.get(f"{request.width}x{request.height}", prices.get(""))
        return None if text is None else float(text)

    async def draw(self, client: Client, requests: Sequence[Request]) -> list[Result | CallFailed]:
        """Make one call and look at all that came; raises CallFailed when it fails for all of them."""
        return await self.looked_through(await self.pictures(client, requests))

    async def looked_through(self, pictures: Sequence[Picture | CallFailed]) -> list[Result | CallFailed]:
        """Look at all of every file."""
        return list(await asyncio.gather(*(asyncio.to_thread(self._checked, picture) for picture in pictures)))

    def own_width_and_height(self) -> Size:
        """The size for which nothing was asked."""
        width, _, height = self.own_size.partition("x") if self.own_size != "auto" else ("1024", "", "1024")
        return int(width), int(height)

    def most_bytes(self, requests: Sequence[Request]) -> int:
        """How many bytes an answer with these images may have."""
        # Four bytes a pixel, as base64; and room for the larger picture of a server that heeds no size.
        return sum(6 * 2**20 + request.width * request.height * 16 // 3 for request in requests)

    def _checked(self, picture: Picture | CallFailed) -> Result | CallFailed:
        """A result with the file as it came, when it is a whole image of the size asked for."""
        if isinstance(picture, CallFailed):
            return picture
        request = picture.request
        try:
            width, height = open_image(picture.data).size
        except ValueError as error:
            return CallFailed("bad_image", str(error), again=True, paid=True)
        if (width, height) != request.size:
            if "size" in self.takes:
                text = f"{width}×{height} came and {request.width}×{request.height} was asked for"
                return CallFailed("bad_image", text, again=True, paid=True)
            request = replace(request, width=width, height=height)
        return Result(request, data=picture.data, batch_size=picture.batch_size, columns=picture.columns)

    async def _ask(self, client: Client, questions: Sequence[Question]) -> list[Reply | CallFailed]:
        (question,) = questions
        content: list[dict[str, Any]] = [{"type": "text", "text": question.prompt or DESCRIBE}]
        for image in question.images:
            try:
                kind = (open_image(image).format or "").lower()
            except ValueError as error:
                raise CallFailed("bad_image", str(error)) from None
            url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        body = {"model": self.served_name(), "messages": [{"role": "user", "content": content}]}
        answer = (await client.call("POST", self.chat_url(), json=body)).json()
        try:
            message = answer["choices"][0]["message"]
            # What a model does not want to say comes in a field of its own.
            text = message.get("refusal") if message["content"] is None else message["content"]
        except (KeyError, IndexError, TypeError, AttributeError):
            text = None
        if not isinstance(text, str):
            raise CallFailed("server_error", "the answer holds no text", again=True, paid=None)
        return [Reply(question, (text,))]

    @abstractmethod
    def served_name(self) -> str:
        """What the server calls the model."""

    def _settings(self) -> Settings:
        return Settings(
            self.concurrency,
            self.max_retries,
            self.requests_per_minute / 60 if self.requests_per_minute else None,
            self.images_per_minute / 60 if self.images_per_minute else None,
            self.max_cost,
        )

    def _with_address(self) -> Self:
        return self.model_copy(update={"base_url": checked_base_url(self.base_url)}) if self.base_url else self


def decoded(text: object) -> bytes:
    """The bytes of a base64 text or of a `data:` URL; raises CallFailed."""
    if not isinstance(text, str):
        raise CallFailed("bad_image", "the answer holds no image", again=True, paid=None)
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CallFailed("bad_image", "its base64 is damaged", again=True, paid=True) from None


async def image_of(client: Client, item: Mapping[str, Any]) -> bytes:
    """The file of one item of an answer: in it as base64, or behind a URL; raises CallFailed."""
    if item.get("b64_json"):
        return decoded(item["b64_json"])
    url = item.get("url")
    if isinstance(url, str) and url and not url.startswith("data:"):
        return await client.fetch(url)
    return decoded(url)
