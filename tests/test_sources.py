"""Pictures that come in: read as they are meant to be seen, or refused with a reason; hostile ones harm nobody."""

from __future__ import annotations

import io
import json
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagemill.dataset import Dataset
from imagemill.dataset.verify import verify
from imagemill.images import mask_of, size_of, upright

from .conftest import Command

LEFT, RIGHT = (250, 10, 20), (10, 20, 250)


def halves(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, LEFT)
    image.paste(RIGHT, (size[0] // 2, 0, *size))
    return image.convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    """A JPEG that says it must be turned to be seen upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(halves(), "JPEG", quality=95, subsampling=0, exif=exif)


def sixteen_bits() -> bytes:
    values = np.zeros((24, 40), np.uint16)
    values[:, 20:] = 0xC000
    return saved(Image.fromarray(values), "PNG")


def palette(transparent: bool) -> bytes:
    image = halves().convert("P", palette=Image.Palette.ADAPTIVE)
    options = {"transparency": image.getpixel((39, 0))} if transparent else {}
    return saved(image, "PNG", **options)


def half_transparent(kind: str) -> bytes:
    image = halves("RGBA")
    image.putalpha(Image.fromarray(np.where(np.arange(40) < 20, 255, 0).astype(np.uint8)[None].repeat(24, 0)))
    return saved(image, kind, **({"lossless": True} if kind == "WEBP" else {}))


WHITE = (255, 255, 255)
READ: dict[str, tuple[bytes, tuple[int, int], tuple[int, int, int], tuple[int, int, int]]] = {
    "PNG": (saved(halves(), "PNG"), (40, 24), LEFT, RIGHT),
    "JPEG": (saved(halves(), "JPEG", quality=95, subsampling=0), (40, 24), LEFT, RIGHT),
    "WebP": (saved(halves(), "WEBP", lossless=True), (40, 24), LEFT, RIGHT),
    "gray": (saved(halves("L"), "PNG"), (40, 24), (83, 83, 83), (43, 43, 43)),
    "orientation 3": (turned(3), (40, 24), RIGHT, LEFT),
    "palette": (palette(transparent=False), (40, 24), LEFT, RIGHT),
    "palette, transparent": (palette(transparent=True), (40, 24), LEFT, WHITE),
    "alpha": (half_transparent("PNG"), (40, 24), LEFT, WHITE),
    "alpha in WebP": (half_transparent("WEBP"), (40, 24), LEFT, WHITE),
    "gray with alpha": (saved(halves("LA"), "PNG"), (40, 24), (83, 83, 83), (43, 43, 43)),
    "16 bits": (sixteen_bits(), (40, 24), (0, 0, 0), (192, 192, 192)),
    "CMYK": (saved(halves("CMYK"), "JPEG", quality=95, subsampling=0), (40, 24), LEFT, RIGHT),
    "one bit": (saved(halves("1"), "PNG"), (40, 24), (0, 0, 0), (0, 0, 0)),
}


@pytest.mark.parametrize("kind", READ)
def test_a_picture_is_read_as_it_is_meant_to_be_seen(kind: str) -> None:
    data, size, left, right = READ[kind]
    seen = np.asarray(upright(data))
    assert seen.shape == (size[1], size[0], 3)
    assert size_of(data) == size
    if kind != "one bit":
        assert np.abs(seen[12, 5].astype(int) - left).max() <= 12, seen[12, 5]
        assert np.abs(seen[12, 35].astype(int) - right).max() <= 12, seen[12, 35]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_and_not_written(orientation: int, imagemill: Command) -> None:
    from PIL import ImageOps

    Path("in").mkdir()
    Path("in/a.jpg").write_bytes(turned(orientation))
    Path("in/a.txt").write_text("two halves")
    assert imagemill("augment", "in", "-o", "out", "--model", "fake", "--strength", 0, "--seed", 1).code == 0
    original, made = Dataset("out")
    expected = ImageOps.exif_transpose(Image.open("in/a.jpg")).convert("RGB")
    assert (made["width"], made["height"]) == (original["width"], original["height"]) == expected.size
    for record in (original, made):
        image = Dataset("out").image(record["file_name"])
        assert image.getexif().get(0x0112, 1) == 1
        assert np.abs(np.asarray(image).astype(int) - np.asarray(expected)).max() <= 1
    # What needs no turning is kept byte by byte.
    kept = Path("out/images/part-000001", original["file_name"]).read_bytes()
    assert (kept == Path("in/a.jpg").read_bytes()) == (orientation == 1)
    assert verify(Dataset("out")) == []


def animated(kind: str) -> bytes:
    frames = [halves(), halves().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def bomb(side: int = 20_000) -> bytes:
    """A few kilobytes that would be 400 megapixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(b"\0" * (side // 8 + 1)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


REFUSED = {
    "moving.png": (animated("PNG"), "it moves: 2 pictures"),
    "moving.webp": (animated("WEBP"), "it moves: 2 pictures"),
    "gif.png": (animated("GIF"), "not a whole PNG, JPEG or WebP"),
    "tiff.jpg": (saved(halves(), "TIFF"), "not a whole PNG, JPEG or WebP"),
    "text.png": (b"no picture at all", "not a whole PNG, JPEG or WebP"),
    "empty.png": (b"", "not a whole PNG, JPEG or WebP"),
    "bomb.png": (bomb(), "could be decompression bomb"),
    "large.png": (bomb(7_000), "7000×7000 pixels are more than 40,000,000"),
    "cut.jpg": (saved(halves(), "JPEG", quality=95)[:-200], "not a whole PNG, JPEG or WebP"),
    "cut.png": (saved(halves(), "PNG")[:-20], "not a whole PNG, JPEG or WebP"),
}


def test_what_cannot_be_read_fails_alone_with_a_reason(imagemill: Command) -> None:
    Path("in").mkdir()
    rows = [{"image": f"in/{name}", "caption": "x"} for name in REFUSED]
    for name, (data, _) in REFUSED.items():
        Path("in", name).write_bytes(data)
    Path("in/good.png").write_bytes(saved(halves(), "PNG"))
    rows += [
        {"image": "in/good.png", "caption": "x"},
        {"image": "in/absent.png", "caption": "x"},
        {"image": "in", "caption": "x"},
    ]
    Path("table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran = imagemill("augment", "table.jsonl", "-o", "out", "--model", "fake", "--drop-original", "--seed", 1)
    assert ran.code == 3, ran.err
    failures = {failure["request"]["source_image"]: failure for failure in Dataset("out").failures().values()}
    for name, (_, reason) in REFUSED.items():
        assert failures[f"in/{name}"]["reason"] == "bad_image"
        assert reason in failures[f"in/{name}"]["message"]
    assert failures["in/absent.png"]["reason"] == "no_source"
    assert failures["in"]["reason"] == "bad_image"
    (record,) = Dataset("out")
    assert record["source_image"] == "in/good.png"
    assert verify(Dataset("out")) == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_cut_of_a_picture_is_noticed(kind: str) -> None:
    rng = np.random.default_rng(1)
    data = saved(Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)), kind)
    for percent in range(1, 100):
        with pytest.raises(ValueError, match="not a whole"):
            upright(data[: len(data) * percent // 100])


def test_a_bomb_costs_neither_memory_nor_time(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb())
    script = (
        "import resource, sys, pathlib\nfrom imagemill.images import upright, size_of\nimport PIL.Image, numpy\n"
        "data = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for read in (upright, size_of):\n"
        "    try:\n        read(data)\n        sys.exit(1)\n    except ValueError:\n        pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "bomb.png"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (30, 30)),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 30_000, "kilobytes"


def test_a_mask_is_white_where_a_picture_may_change() -> None:
    gray = np.asarray(mask_of(saved(halves("L"), "PNG")))
    assert (gray[0, 0], gray[0, -1]) == (83, 43)
    alpha = np.asarray(mask_of(half_transparent("PNG")))
    assert (alpha[0, 0], alpha[0, -1]) == (0, 255)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_exif_data_that_cannot_be_read_says_nothing(kind: str, imagemill: Command) -> None:
    Path("in").mkdir()
    name = f"a.{kind.lower()}".replace("jpeg", "jpg")
    Path("in", name).write_bytes(saved(halves(), kind, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"))
    ran = imagemill("augment", "in", "-o", "out", "--model", "fake", "--captioner", "fake", "--seed", 1)
    assert ran.code == 0, ran.err
    assert [(r["width"], r["height"]) for r in Dataset("out")] == [(40, 24)] * 2


def test_reading_pictures_on_threads_leaves_warnings_as_they_are() -> None:
    import warnings
    from concurrent.futures import ThreadPoolExecutor

    before = list(warnings.filters)
    data = saved(halves(), "PNG")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upright, [data] * 200))
    assert list(warnings.filters) == before
