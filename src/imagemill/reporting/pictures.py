"""Small copies of a dataset's images, inside of the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.images import upright
from imagemill.reporting.markup import Markup, element

if TYPE_CHECKING:
    from PIL import Image

_SIDE = 144


def opened(path: Path) -> Image.Image | None:
    """An image as it is meant to be seen; None when it cannot be read."""
    try:
        return upright(path.read_bytes())
    except (OSError, ValueError):
        return None


class Thumbnails:
    """Small copies, each made once."""

    def __init__(self) -> None:
        self._made: dict[Path, Markup] = {}

    def shown(self, path: Path, described: str) -> Markup:
        """An image, or the words that there is none."""
        if path not in self._made:
            image = opened(path)
            self._made[path] = _embedded(image, described) if image else element("em", "cannot be read")
        return self._made[path]


def _embedded(image: Image.Image, described: str) -> Markup:
    from PIL import Image

    scale = _SIDE / max(image.size)
    width, height = (max(1, round(scale * side)) for side in image.size)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return element("img", src=f"data:image/webp;base64,{data}", alt=described, width=width, height=height)
