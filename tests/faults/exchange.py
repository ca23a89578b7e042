"""One call's connection, and what the call brings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartParser

from .plan import Uploads

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def form_of(headers: Headers, body: bytes) -> tuple[dict[str, Any], Uploads]:
    """The parameters and the files of a call."""
    if not headers.get("content-type", "").startswith("multipart/"):
        with suppress(ValueError):
            return json.loads(body), []
        return {}, []

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    form = await MultiPartParser(headers, stream()).parse()
    items = form.multi_items()
    uploads = [(name, item.filename or "", await item.read()) for name, item in items if isinstance(item, UploadFile)]
    await form.close()
    return {name: item for name, item in items if isinstance(item, str)}, uploads


class Exchange:
    """The connection of one call."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send

    async def body(self) -> bytes:
        """All that the client sends."""
        body, more = b"", True
        while more:
            message = await self._receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return body

    async def pause(self, seconds: float) -> bool:
        """Wait, and say whether the client is still there."""
        if seconds <= 0:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
            return False
        return True

    async def start(self, status: int, kind: str, length: int | None, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        headers = {"content-type": kind, **headers} | ({} if length is None else {"content-length": str(length)})
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def more(self, pieces: Iterable[bytes], seconds: float) -> bool:
        """Send pieces of a body with pauses, and say whether the client took them all."""
        for piece in pieces:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            if not await self.pause(seconds):
                return False
        return True

    async def end(self, body: bytes = b"") -> None:
        """Send the rest of the body."""
        await self._send({"type": "http.response.body", "body": body})
