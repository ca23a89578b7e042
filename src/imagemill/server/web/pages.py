"""Pages: templates filled with what routes found out."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.templating import Jinja2Templates

from imagemill.environment import package_version
from imagemill.terminal import duration, number, size

ROOT = Path(__file__).parent
"""Where `templates` and `static` lie."""


def coded(text: str) -> Markup:
    """A text as markup: its pieces between backticks are code."""
    pieces = [escape(piece) for piece in str(text).split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(each) if at % 2 else each for at, each in enumerate(pieces))


def _ago(when: float) -> str:
    """A time as people say it: `3 min ago`, `21 Nov 2026`."""
    seconds = time.time() - when
    for most, unit, noun in ((60, 0, ""), (3_600, 60, "min"), (86_400, 3_600, "hour"), (7 * 86_400, 86_400, "day")):
        if seconds < most:
            whole = int(seconds // unit) if unit else 0
            said = f"{whole} min" if noun == "min" else number(whole, noun)
            return f"{said} ago".replace(" ", "\N{NO-BREAK SPACE}") if unit else "just now"
    return time.strftime("%-d %b %Y", time.localtime(when))


@cache
def _templates() -> Jinja2Templates:
    environment = Environment(
        loader=FileSystemLoader(ROOT / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "ago": _ago,
        "bytes": size,
        "coded": coded,
        "count": lambda count: f"{count:,}",
        "duration": duration,
        "number": number,
    }
    environment.globals["version"] = package_version("imagemill")
    return Jinja2Templates(env=environment)


def page(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Fill a template; `section` of the context says which link of the frame is lit."""
    return _templates().TemplateResponse(request, template, context, status_code=status)


def problem(request: Request, status: int, message: str, hint: str, **more: Any) -> Response:
    """An error as scripts read it, or as a page."""
    # Whatever came in may be quoted, also half a character.
    message, hint = (text.encode(errors="replace").decode() for text in (message, hint))
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": message, "hint": hint, **more}, status)
    return page(request, "problem.html", status=status, section="", message=message, hint=hint)
