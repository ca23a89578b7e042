"""What people decide of images: one at a time under its revision, undone and done again."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from imagemill.dataset.edits import Conflict, Edited, Event, NotLast
from imagemill.errors import UsageError
from imagemill.server.web.gallery import ImageId
from imagemill.server.web.image import Located, decided, locate, texts_of
from imagemill.server.web.pages import problem
from imagemill.server.web.state import Shared, Web

router = APIRouter()
_IMAGE = "/api/datasets/{dataset}/images/{image}"


class Change(BaseModel):
    """What is to be another of one image; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    texts: dict[str, str | None] = {}
    """By column; null is the dataset's own text again."""
    decision: Literal["", "keep", "reject"] | None = None
    rating: Annotated[int, Field(ge=0, le=5, strict=True)] | None = None
    """0 takes it back."""
    add_tags: Annotated[list[str], Field(max_length=100)] = []
    remove_tags: Annotated[list[str], Field(max_length=100)] = []


@router.get(_IMAGE)
def image(web: Shared, dataset: str, image: str, response: Response) -> dict[str, Any]:
    """The record of an image, and what people have decided of it, whose revision is the ETag."""
    located = locate(web.workspace.open(dataset), image)
    found = decided(located, web.edits(dataset).of(located.id))
    response.headers["ETag"] = f'"{found["revision"]}"'
    return {"record": located.record, **found}


@router.patch(
    _IMAGE,
    response_model=None,
    responses={
        409: {"description": "somebody else has changed it meanwhile; `theirs` and `yours` tell both"},
        428: {"description": "`If-Match` is missing"},
    },
)
def change(
    request: Request,
    response: Response,
    web: Shared,
    dataset: str,
    image: str,
    asked: Change,
    if_match: Annotated[str | None, Header(description="the ETag that the image had when it was looked at")] = None,
) -> dict[str, Any] | Response:
    """Change what was decided of an image that nobody else has changed meanwhile; else 409 with both."""
    located = locate(web.workspace.open(dataset), image)
    if if_match is None:
        hint = "send it as `If-Match`, as the ETag of the image tells it"
        return problem(request, 428, "the change does not say which revision it is made of", hint)
    expected = re.fullmatch(r'"([0-9]{1,18})"', if_match.strip())
    if not expected:
        raise UsageError(f"`If-Match` is no revision: `{if_match:.40}`", 'revisions look like `"7"`')
    edits = web.edits(dataset)
    try:
        edits.change([located.id], **_without_own(located, asked), expected=int(expected[1]))
    except Conflict as conflict:
        theirs = decided(located, conflict.theirs)
        yours = asked.model_dump(exclude_unset=True)
        answer = problem(request, 409, conflict.message, conflict.hint, theirs=theirs, yours=yours)
        answer.headers["ETag"] = f'"{theirs["revision"]}"'
        return answer
    publish(web, dataset, located.id)
    found = decided(located, edits.of(located.id))
    response.headers["ETag"] = f'"{found["revision"]}"'
    return found


class Which(BaseModel):
    """What is meant to be undone, or done again."""

    model_config = ConfigDict(extra="forbid")

    event: Annotated[int, Field(ge=1, le=2**53)] | None = None
    """The number of the event; the last one when it is left out."""


@router.post("/api/datasets/{dataset}/undo", response_model=None)
def undo(request: Request, web: Shared, dataset: str, which: Which | None = None) -> dict[str, Any] | Response:
    """Take back what was decided last; `event` is null when there is nothing, 409 when another one is the last."""
    return _moved(request, web, dataset, web.edits(dataset).undo, which)


@router.post("/api/datasets/{dataset}/redo", response_model=None)
def redo(request: Request, web: Shared, dataset: str, which: Which | None = None) -> dict[str, Any] | Response:
    """Do again what was taken back last; `event` is null when there is nothing, 409 when another one is the last."""
    return _moved(request, web, dataset, web.edits(dataset).redo, which)


@router.get("/api/datasets/{dataset}/history")
def history(
    web: Shared, dataset: str, image: ImageId | None = None, limit: Annotated[int, Query(ge=1, le=1_000)] = 100
) -> dict[str, Any]:
    """What was decided, the last first; of one image, or of all."""
    located = locate(web.workspace.open(dataset), image).id if image else None
    return {"events": [asdict(event) for event in web.edits(dataset).history(located, limit)]}


@router.get("/api/datasets/{dataset}/tags")
def tags(web: Shared, dataset: str) -> dict[str, Any]:
    """The tags that images have, the most frequent first."""
    counts = web.edits(dataset).state().tags.most_common(1_000)
    return {"tags": [{"value": tag, "count": count} for tag, count in counts]}


def publish(web: Web, dataset: str, image: str | None = None) -> None:
    """Tell every browser that something was decided: of one image, or of several."""
    web.events.publish("edits", {"dataset": dataset, "revision": web.edits(dataset).revision, "image": image})


def _without_own(located: Located, asked: Change) -> dict[str, Any]:
    """A change as the log takes it: a text that is the dataset's own again is no edit."""
    given = asked.model_dump(exclude_unset=True, exclude_none=True)
    if asked.texts:
        own = {text.column: text.own for text in texts_of(located, Edited())}
        given["texts"] = {column: None if text == own.get(column) else text for column, text in asked.texts.items()}
    return given


def _moved(
    request: Request, web: Web, dataset: str, move: Callable[..., Event | None], which: Which | None
) -> dict[str, Any] | Response:
    try:
        event = move(event=which.event) if which and which.event else move()
    except NotLast as error:
        return problem(request, 409, error.message, error.hint)
    if event:
        publish(web, dataset)
    return {"event": event and asdict(event), "revision": web.edits(dataset).revision}
