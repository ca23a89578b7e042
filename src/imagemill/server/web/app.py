"""The web application: every route behind one guard."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from imagemill.environment import package_version
from imagemill.errors import ImagemillError, LockedError, OutOfSpace
from imagemill.server.web.access import Access
from imagemill.server.web.pages import ROOT, problem
from imagemill.server.web.routes import (
    curate,
    datasets,
    edits,
    events,
    executions,
    gallery,
    gallery_pages,
    images,
    making,
    uploads,
)
from imagemill.server.web.state import Web
from imagemill.server.web.workspace import Workspace

_STATUS: dict[type[ImagemillError], int] = {LockedError: 423, OutOfSpace: 507}
"""What is neither here nor says its own `status` is a mistake in the request."""


def application(workspace: Workspace, token: str, host: str, models: Sequence[str]) -> tuple[ASGIApp, Web]:
    """The guarded application, and what its routes share."""
    app = FastAPI(
        title="imagemill",
        version=package_version("imagemill"),
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.web = Web(workspace, models)

    @app.get("/", include_in_schema=False)
    def start() -> RedirectResponse:
        return RedirectResponse("/datasets", 303)

    # What is asked for most comes first: routes are tried in this order.
    for routes in (gallery, images, edits, gallery_pages, datasets, uploads, making, executions, events, curate):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=ROOT / "static"))
    _explain(app)
    return Access(app, token, host), app.state.web


def _explain(app: FastAPI) -> None:
    """Turn what goes wrong into words."""

    @app.exception_handler(ImagemillError)
    def told(request: Request, error: ImagemillError) -> Response:
        known = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 400)
        status: int = getattr(error, "status", known)
        # Where the folder lies on this machine is nobody's business.
        where = f"{app.state.web.workspace.folder}/"
        return problem(request, status, error.message.replace(where, ""), error.hint.replace(where, ""))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        if error.errors()[0]["loc"][0] == "path" and not request.url.path.startswith("/api/"):
            return problem(request, 404, "there is no such page", "begin at /datasets")
        found = [f"`{each['loc'][-1]}`: {each['msg'][:1].lower()}{each['msg'][1:]}" for each in error.errors()]
        return problem(request, 422, "; ".join(found), "see /api/openapi.json")

    @app.exception_handler(FileNotFoundError)
    def gone(request: Request, error: FileNotFoundError) -> Response:
        return problem(request, 404, "this is not there any more", "it was moved or deleted just now: reload the page")

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> Response:
        return problem(request, 500, "the server has a bug", "what it says on its terminal tells more")

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        said = {404: "there is no such page", 405: "that cannot be done here"}
        return problem(request, error.status_code, said.get(error.status_code, str(error.detail)), "begin at /datasets")
