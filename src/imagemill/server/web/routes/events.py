"""Live updates, as one stream that a browser can take up where it lost it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from imagemill.server.web.state import Shared

router = APIRouter()


@router.get("/events")
async def events(
    web: Shared,
    last: Annotated[str, Query(max_length=64)] = "",
    last_event_id: Annotated[str, Header(max_length=64)] = "",
) -> StreamingResponse:
    """Tell what changes from now on, or after the event that the browser got last."""
    return StreamingResponse(web.events.stream(last_event_id or last), media_type="text/event-stream")
