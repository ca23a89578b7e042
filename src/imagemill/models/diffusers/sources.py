"""Pictures that requests start from, opened and brought to size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.images import mask_of, upright
from imagemill.records import Request, Size

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Sources:
    """The pictures of a batch by their files."""

    images: dict[str, Image.Image] = field(default_factory=dict)
    """RGB."""
    masks: dict[str, Image.Image] = field(default_factory=dict)
    """Gray, 255 where something is to be changed."""

    def open(self, request: Request, room: Size, whole: bool) -> None:
        """Open what a request starts from; raises ValueError for a file that is missing or no picture.

        Pictures get the request's size, and their edge goes on until they fill `room`; with `whole` they stay as they
        are.
        """
        for path in request.images:
            if path not in self.images:
                image = _opened(path, upright)
                self.images[path] = image if whole else fitted(image, request.size, room)
        if request.mask and request.mask not in self.masks:
            self.masks[request.mask] = fitted(_opened(request.mask, mask_of), request.size, room)

    @staticmethod
    def example(request: Request, room: Size) -> Sources:
        """Plain pictures for a request whose files do not exist."""
        from PIL import Image

        images = {path: Image.new("RGB", room, "gray") for path in request.images}
        return Sources(images, {request.mask: Image.new("L", room, "white")} if request.mask else {})


def _opened(path: str, opener: Callable[[bytes], Image.Image]) -> Image.Image:
    try:
        return opener(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"the picture `{Path(path).name}` cannot be opened: {reason}") from None


def fitted(image: Image.Image, size: Size, room: Size) -> Image.Image:
    """Resize a picture, and repeat its last row and column until it fills `room`."""
    import numpy as np
    from PIL import Image

    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    if size == room:
        return image
    pixels = np.asarray(image)
    missing = [(0, room[1] - size[1]), (0, room[0] - size[0]), (0, 0)]
    return Image.fromarray(np.pad(pixels, missing[: pixels.ndim], "edge"))
