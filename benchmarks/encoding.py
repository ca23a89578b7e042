"""P8: our PNG against Pillow's: pixels a second and bytes, on pictures that look like photographs.

`python -m benchmarks.encoding [--images FOLDER | --flat]`. Without a folder the pictures are made: noise whose strength
falls with its frequency, as in photographs, with a few sharp edges; with `--flat` discs of one color each.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.common import machine, parser, show, spread, write
from imagemill.images import decode, encode

if TYPE_CHECKING:
    from imagemill.images import Pixels


def natural(seed: int, side: int = 1024) -> Pixels:
    """A picture with the spectrum of a photograph."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = 1
    shared = np.fft.rfft2(rng.standard_normal((side, side)))
    planes = []
    for _ in range(3):
        own = np.fft.rfft2(rng.standard_normal((side, side)))
        plane = np.fft.irfft2((shared + 0.3 * own) / frequency**1.1, (side, side))
        planes.append(plane / plane.std())
    picture = 128 + 45 * np.stack(planes, -1)
    y, x = np.mgrid[:side, :side]
    for _ in range(6):
        a, b = rng.uniform(0, side, 2)
        picture[np.hypot(x - a, y - b) < rng.uniform(0.05, 0.2) * side] += rng.uniform(-60, 60, 3)
    return picture.round().clip(0, 255).astype(np.uint8)


def flat(seed: int, side: int = 1024) -> Pixels:
    """A picture of discs, each of one color, as in drawings."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    picture = np.full((side, side, 3), 255, np.uint8)
    for _ in range(60):
        a, b = rng.uniform(0, side, 2)
        picture[np.hypot(x - a, y - b) < rng.uniform(0.02, 0.2) * side] = rng.integers(0, 256, 3)
    return picture


def pillow(pixels: Pixels, level: int, optimize: bool = False) -> bytes:
    """Pillow's PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=level, optimize=optimize)
    return buffer.getvalue()


def main() -> None:
    """Encode each picture with each encoder in turn."""
    options = parser(__doc__)
    options.add_argument("--images", type=Path, help="a folder of pictures instead of made ones")
    options.add_argument("--flat", action="store_true", help="drawings instead of photographs")
    chosen = options.parse_args()
    if chosen.images:
        paths = sorted(path for path in chosen.images.iterdir() if path.suffix in {".png", ".jpg"})
        pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    else:
        pictures = [(flat if chosen.flat else natural)(seed) for seed in range(4)]
    contenders: dict[str, Callable[[Pixels], bytes]] = {
        "Pillow": lambda pixels: pillow(pixels, 6),
        "Pillow, level 1": lambda pixels: pillow(pixels, 1),
        "Pillow, optimize": lambda pixels: pillow(pixels, 9, optimize=True),
        "imagemill": lambda pixels: encode(pixels, "png", None, mark=False),
        "imagemill, WebP": lambda pixels: encode(pixels, "webp", None, mark=False),
    }
    megapixels = sum(picture.shape[0] * picture.shape[1] for picture in pictures) / 1e6
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    sizes: dict[str, int] = {}
    for _ in range(chosen.runs):
        for name, contender in contenders.items():
            start = time.process_time()
            files = [contender(picture) for picture in pictures]
            rates[name].append(megapixels / (time.process_time() - start))
            sizes[name] = sum(map(len, files))
            assert all(np.array_equal(decode(file), picture) for file, picture in zip(files, pictures, strict=True))
    rows = [
        (
            name,
            spread(values, 1),
            spread([one / other for one, other in zip(values, rates["Pillow"], strict=True)]),
            f"{sizes[name] / sizes['Pillow']:.3f}",
        )
        for name, values in rates.items()
    ]
    title = f"{len(pictures)} {'drawings' if chosen.flat else 'photographs'}, {megapixels:.1f} megapixels, {machine()}"
    show(title, ("encoder", "MP/s a core", "times Pillow's speed", "times Pillow's bytes"), rows)
    write(chosen.output, {"rates": rates, "bytes": sizes})


if __name__ == "__main__":
    main()
