"""The forms that make, describe, score, choose and export images, their plans, and the button that queues them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import ValidationError

from imagemill.dataset.edits.columns import CAPTION
from imagemill.errors import UsageError
from imagemill.server.web.making.again import Again, of_dataset, of_image, of_job
from imagemill.server.web.making.filling import NotOffered, Wrong, given
from imagemill.server.web.making.forms import Form, Values, label_of
from imagemill.server.web.making.jobs import (
    TYPED,
    Asked,
    Plan,
    Source,
    StillRead,
    check_operator,
    drawn,
    filled,
    plan,
    problems_of_name,
    queue,
    source_of,
    sources_of,
    suggested_name,
    writes_new,
)
from imagemill.server.web.making.offered import OPERATORS
from imagemill.server.web.making.plans import NoPlan, Overtaken
from imagemill.server.web.making.showing import shown_plan
from imagemill.server.web.pages import page
from imagemill.server.web.state import Shared, Web

router = APIRouter()
_MOST_FIELDS = 10_000


@router.get("/make", include_in_schema=False)
def start() -> RedirectResponse:
    """Begin with the main job."""
    return RedirectResponse("/make/generate", 303)


@router.get("/make/{operator}", include_in_schema=False)
def form_page(
    request: Request,
    web: Shared,
    operator: str,
    upload: str = "",
    dataset: str = "",
    job: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    image: str = "",
) -> Response:
    """A form, empty or filled with what a link says."""
    check_operator(operator)
    web.plans.warm()
    again = _again(web, operator, upload, dataset, job, image)
    for name in request.query_params:
        if name not in {"upload", "dataset", "job", "image"}:
            again.posted[name] = request.query_params.getlist(name)
    if "model" not in again.posted and web.models:
        again.posted["model"] = [web.models[0]]
    return _page(request, web, operator, again)


@router.get("/make/{operator}/parameters", include_in_schema=False)
def parameters(request: Request, web: Shared, operator: str, source: str = "") -> Response:
    """The parameters of what is chosen in a form: of its model, its scorers, its layout."""
    check_operator(operator)
    posted = {name: request.query_params.getlist(name) for name in request.query_params if name != "source"}
    form = _prefilled(web, operator, _source(web, operator, source, []), posted, [])
    return page(request, "_parameters.html", form=form)


@router.post("/api/make/{operator}/plan")
def plan_of(web: Shared, operator: str, asked: Asked) -> dict[str, Any]:
    """What a form would do: images, time, bytes, first prompts; or what is wrong of it, by field."""
    check_operator(operator)
    try:
        # A page asks with every key that is pressed, and again: none may hold a thread for long.
        source = source_of(web, operator, asked.source, wait=0.5)
    except StillRead as error:
        return {"problems": {}, "unknown": error.message, "hint": error.hint, "again": True}
    form = filled(web, operator, source, asked.posted())
    new = writes_new(operator, source)
    named = problems_of_name(web, asked.name) if new else {}
    told: dict[str, Any] = {
        "columns": source.columns,
        "pictures": source.pictures,
        "prompt_column": source.prompt_column,
        "name": suggested_name(web, form, source) if new else "",
        "problems": {**form.problems, **named},
    }
    try:
        found = plan(web, form, source, asked.prompts, asked.key) if not form.problems else None
    except Wrong as wrong:
        return {**told, "problems": {**wrong.problems, **named}, "hint": wrong.hint, "devices": web.plans.devices}
    except NoPlan as error:
        return {**told, "unknown": error.message, "hint": error.hint, "again": isinstance(error, Overtaken)}
    return {**told, "devices": web.plans.devices, **(_told(operator, found) if found else {})}


@router.post("/api/make/{operator}")
def queue_it(web: Shared, operator: str, asked: Asked) -> Response:
    """Put the job of a form into the queue."""
    check_operator(operator)
    try:
        job = queue(web, operator, asked)
    except Wrong as wrong:
        return JSONResponse({"error": wrong.message, "hint": wrong.hint, "problems": wrong.problems}, 422)
    return JSONResponse({"job": job, "title": web.queue.get(job).title})


@router.post("/make/{operator}", include_in_schema=False)
async def form_sent(request: Request, web: Shared, operator: str) -> Response:
    """The same form, sent by a browser without scripts."""
    from fastapi.concurrency import run_in_threadpool

    check_operator(operator)
    return await run_in_threadpool(_sent, request, web, operator, await request.body())


def _sent(request: Request, web: Web, operator: str, body: bytes) -> Response:
    try:
        sent = parse_qs(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise UsageError(f"the form has more than {_MOST_FIELDS:,} fields", "send less") from None
    own = {name.removeprefix("_"): texts[-1] for name, texts in sent.items() if name.startswith("_")}
    values = {name: texts for name, texts in sent.items() if not name.startswith("_")}
    again = Again(own.get("source", ""), own.get("prompts", ""), dict(values))
    try:
        asked = Asked.model_validate({**own, "values": values})
        if own.get("do") == "queue":
            queue(web, operator, asked)
            return RedirectResponse("/executions", 303)
        source = source_of(web, operator, asked.source)
        form = filled(web, operator, source, values)
        if form.problems:
            raise Wrong(form.problems)
        found = plan(web, form, source, asked.prompts)
        return _page(request, web, operator, again, name=asked.name, found=found)
    except ValidationError:
        raise UsageError("the form is too long", "send less") from None
    except Wrong as wrong:
        return _page(request, web, operator, again, name=own.get("name", ""), problems=wrong.problems, status=422)
    except NoPlan as error:
        again.notes.append(f"{error.message[:1].upper()}{error.message[1:]}.")
        return _page(request, web, operator, again, name=own.get("name", ""))


def _again(web: Web, operator: str, upload: str, dataset: str, job: int, image: str) -> Again:
    if job:
        return of_job(web, operator, job)
    if dataset and image:
        return of_image(web, operator, dataset, image)
    if dataset:
        return of_dataset(web, operator, dataset)
    return Again(f"upload:{upload}" if upload else "")


def _source(web: Web, operator: str, value: str, notes: list[str]) -> Source:
    """The source of a form; what is not there any more is said."""
    try:
        return source_of(web, operator, value, wait=0)
    except UsageError as error:
        notes.append(f"{error.message[:1].upper()}{error.message[1:]}.")
        return Source("", "", "")


def _prefilled(web: Web, operator: str, source: Source, posted: Mapping[str, Sequence[str]], notes: list[str]) -> Form:
    """A form with the values that it can take; the others are said."""
    form = drawn(web, operator, source, {})
    offered = {name: dict(field.choices) for name, field in form.fields.items() if field.name in {"model", "layout"}}
    known = {
        name: texts for name, texts in posted.items() if name not in offered or (texts and texts[-1] in offered[name])
    }
    if "model" in posted and "model" not in known:
        notes.append(f"This server does not offer the model {posted['model'][-1]:.80}: name it with serve --model.")
    form = drawn(web, operator, source, known)
    values: Values = {}
    for name, texts in known.items():
        if name in form.fields:
            try:
                values |= _one(form, name, texts)
            except NotOffered as error:
                notes.append(f"{error.message[:1].upper()}{error.message[1:]}.")
    captioned = operator == "export" and CAPTION in source.columns and "text" not in source.columns
    if captioned and "caption_column" in form.fields and "caption_column" not in values:
        # Captions are what trainers are to read where there are some; elsewhere the layout knows best.
        values["caption_column"] = CAPTION
    form.values = values
    return form


def _one(form: Form, name: str, texts: Sequence[str]) -> dict[str, Any]:
    try:
        return given(form, {name: texts})
    except Wrong:
        return {}


def _page(
    request: Request,
    web: Web,
    operator: str,
    again: Again,
    name: str = "",
    found: Plan | None = None,
    problems: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
    sources = sources_of(web, operator)
    first = next((value for group in sources.values() for value, _ in group), "")
    source = _source(web, operator, again.source or first, again.notes)
    form = _prefilled(web, operator, source, again.posted, again.notes)
    form.problems = dict(problems or {})
    return page(
        request,
        "make.html",
        status=status,
        section="Make",
        operators=[(each, label_of(each)) for each in OPERATORS],
        form=form,
        sources=sources,
        source=source,
        typed=TYPED,
        prompts=again.prompts,
        notes=again.notes,
        named=writes_new(operator, source),
        name=name or suggested_name(web, form, source),
        suggested=suggested_name(web, form, source),
        key=secrets.token_hex(12),
        plan=shown_plan(operator, found) if found else None,
    )


def _told(operator: str, found: Plan) -> dict[str, Any]:
    return {"line": found.line, "data": found.data, "own": found.own, "shown": shown_plan(operator, found)}
