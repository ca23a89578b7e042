"""Images that are fetched by their own URL: kept in memory, for a while."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass

from imagemill.images import EXTENSIONS, ImageFormat

FILES = "/v1/images/files/"
"""Where they lie."""
_MOST_BYTES = 256 * 2**20
_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class File:
    """One image."""

    data: bytes
    media_type: str
    until: float


class Files:
    """The newest images, at most 256 MB and an hour of them.

    A name is a capability: 256 random bits that only the client that asked for the image is told. So a file needs no
    key, and a browser or a chat program that knows nothing of keys can show it.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES, seconds: float = _SECONDS) -> None:
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._files: OrderedDict[str, File] = OrderedDict()
        self._bytes = 0

    def add(self, data: bytes, image_format: ImageFormat) -> str:
        """Keep an image and return its name."""
        name = f"{secrets.token_urlsafe(32)}.{EXTENSIONS[image_format]}"
        self._files[name] = File(data, f"image/{image_format}", time.monotonic() + self._seconds)
        self._bytes += len(data)
        self._forget()
        return name

    def get(self, name: str) -> File | None:
        """Return an image that is still kept."""
        self._forget()
        return self._files.get(name)

    def _forget(self) -> None:
        now = time.monotonic()
        while self._files and (self._bytes > self._most_bytes or next(iter(self._files.values())).until < now):
            self._bytes -= len(self._files.popitem(last=False)[1].data)
