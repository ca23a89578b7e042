"""Many images with their captions on one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagemill.images import Pixels


def contact_sheet(tiles: Sequence[tuple[Pixels, str]], columns: int = 6, side: int = 160) -> Pixels:
    """Lay images out in a grid with a caption under each, as one RGB picture."""
    import numpy as np
    from PIL import Image, ImageDraw

    gap, caption = 12, 42
    columns = max(1, min(columns, len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + caption + gap) + gap), (250, 250, 250))
    draw = ImageDraw.Draw(sheet)
    font = _font(13)
    for position, (pixels, text) in enumerate(tiles):
        x = gap + position % columns * (side + gap)
        y = gap + position // columns * (side + caption + gap)
        image = Image.fromarray(pixels)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        if max(image.size) < side:
            scale = side / max(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        left, top = x + (side - image.width) // 2, y + (side - image.height) // 2
        sheet.paste(image, (left, top))
        draw.rectangle((left, top, left + image.width - 1, top + image.height - 1), outline=(210, 210, 210))
        for number, line in enumerate(_wrapped(text, side, font)):
            draw.text((x, y + side + 4 + 17 * number), line, fill=(60, 60, 60), font=font)
    return np.asarray(sheet)


def _wrapped(text: str, width: int, font: Any) -> list[str]:
    """Break a caption into at most two lines of `width` pixels."""
    lines = [""]
    for word in text[:200].split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) == 2:
            while lines[-1] and font.getlength(lines[-1] + "…") > width:
                lines[-1] = lines[-1][:-1]
            lines[-1] += "…"
            break
        else:
            lines.append(word)
    return lines


def _font(size: int) -> Any:
    """A font of this machine that knows most scripts, else Pillow's own, which knows ASCII."""
    from PIL import ImageFont

    for name in ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf"):
        with suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)
