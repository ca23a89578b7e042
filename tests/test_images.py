"""Bytes ↔ pixels, and what a file says about itself."""

from __future__ import annotations

import io
import json
import math
import re
import struct
import zlib
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from imagemill.contact_sheet import contact_sheet
from imagemill.images import (
    EXTENSIONS,
    MAX_BYTES,
    ImageFormat,
    decode,
    embedded_recipe,
    encode,
    is_marked,
    open_image,
    psnr,
)

if TYPE_CHECKING:
    from imagemill.images import Pixels

FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
RECIPE = {
    "prompt": "a red circle, on white",
    "negative_prompt": "blur",
    "id": "row-1",
    "seed": 4_294_967_295,
    "width": 24,
    "height": 16,
    "num_inference_steps": 20,
    "guidance_scale": 7.5,
    "scheduler": "euler_ancestral",
    "model": "shapes",
    "model_revision": "0123456789abcdef",
    "model_parameters": '{"threads": 2}',
    "batch_size": 8,
}
A1111_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
SOURCE_TYPE = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def noise(width: int = 24, height: int = 16) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def recipe(**changes: Any) -> dict[str, Any]:
    return {**RECIPE, **changes}


def a1111_text(data: bytes) -> str:
    """What other tools find in the file, read as they read it."""
    image = Image.open(io.BytesIO(data))
    if image.format == "PNG":
        return str(image.info["parameters"])
    comment: bytes = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment.startswith(b"UNICODE\0")
    return comment[8:].decode("utf-16-be")


def a1111(data: bytes) -> tuple[str, dict[str, str]]:
    """The text before the last line, and the last line's pairs; as A1111 itself reads them."""
    *lines, last = a1111_text(data).split("\n")
    pairs = A1111_PAIR.findall(last)
    assert len(pairs) >= 3
    return "\n".join(lines), {key: json.loads(text) if text.startswith('"') else text for key, text in pairs}


# pixels


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("side", [1, 8, 33])
def test_pixels_come_back(image_format: ImageFormat, side: int) -> None:
    pixels = noise(side, 2 * side)
    back = decode(encode(pixels, image_format, recipe(), mark=True))
    assert back.dtype == np.uint8
    assert back.shape == (2 * side, side, 3)
    if image_format == "jpeg":
        assert psnr(pixels, back) > 25
    else:
        assert np.array_equal(pixels, back)


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_same_input_gives_the_same_bytes(image_format: ImageFormat) -> None:
    first = encode(noise(), image_format, recipe(), mark=True)
    assert first == encode(noise(), image_format, recipe(), mark=True)
    assert first != encode(noise(), image_format, recipe(seed=1), mark=True)


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_extension_is_the_true_format(image_format: ImageFormat) -> None:
    data = encode(noise(), image_format, None, mark=False)
    assert Image.open(io.BytesIO(data)).format == image_format.upper()
    assert Image.registered_extensions()["." + EXTENSIONS[image_format]] == image_format.upper()


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA"])
def test_any_kind_of_png_decodes_to_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (5, 3)).save(buffer, "PNG")
    assert decode(buffer.getvalue()).shape == (3, 5, 3)


# the recipe in the file


@pytest.mark.parametrize("image_format", FORMATS)
@settings(max_examples=60, deadline=None)
@given(prompt=st.text(st.characters(codec="utf-8"), max_size=40), other=st.text(st.characters(codec="utf-8")))
@example(prompt="</imagemill:recipe></rdf:Description> & <b> &amp;amp; ]]> \"'", other='"\\')
@example(prompt="👩‍👩‍👧‍👦 \x00\x01\x0b\x1f\x7f\x85\ufffe\uffff", other="\r\n\t\u2028")
@example(prompt="Negative prompt: x\nSteps: 3, Seed: 1, Size: 1x1", other="<?xpacket end='w'?>")
def test_any_text_in_a_recipe_comes_back(image_format: ImageFormat, prompt: str, other: str) -> None:
    given_recipe = recipe(prompt=prompt, negative_prompt=other, id=other)
    assert embedded_recipe(open_image(encode(noise(8, 8), image_format, given_recipe, mark=True))) == given_recipe


@pytest.mark.parametrize("letter", ["a", "é", "🐱", "\x01", "&"])
def test_a_very_long_prompt_is_whole_except_in_a_jpeg_which_says_so(letter: str) -> None:
    long = letter * 100_000
    for image_format in ("png", "webp"):
        data = encode(noise(8, 8), image_format, recipe(prompt=long), mark=True)
        assert embedded_recipe(open_image(data)) == recipe(prompt=long)
    image = open_image(encode(noise(8, 8), "jpeg", recipe(prompt=long), mark=True))
    cut = embedded_recipe(image)
    assert cut is not None
    assert is_marked(image)
    assert cut.pop("truncated") is True
    assert long.startswith(cut["prompt"])
    assert len(cut["prompt"]) > 1_000
    assert cut == recipe(prompt=cut["prompt"])


def test_a_short_jpeg_recipe_is_not_called_truncated() -> None:
    assert embedded_recipe(open_image(encode(noise(), "jpeg", recipe(), mark=True))) == RECIPE


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_picture_of_others_has_no_recipe(image_format: ImageFormat) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, image_format.upper())
    image = open_image(buffer.getvalue())
    assert embedded_recipe(image) is None
    assert not is_marked(image)


@pytest.mark.parametrize("text", ["", "{", "[1]", "7"])
def test_a_damaged_recipe_is_none(text: str) -> None:
    image = Image.new("RGB", (1, 1))
    image.info["imagemill"] = text
    assert embedded_recipe(image) is None


# the parameters that other tools read


@pytest.mark.parametrize("image_format", FORMATS)
def test_other_tools_read_the_parameters(image_format: ImageFormat) -> None:
    prompt = "a red circle, on white\nsecond line – 🐱"
    text, pairs = a1111(encode(noise(), image_format, recipe(prompt=prompt), mark=True))
    assert text == f"{prompt}\nNegative prompt: blur"
    assert pairs == {
        "Steps": "20",
        "Sampler": "Euler a",
        "CFG scale": "7.5",
        "Seed": "4294967295",
        "Size": "24x16",
        "Model hash": "0123456789",
        "Model": "shapes",
        "RNG": "CPU",
        "Version": "imagemill",
    }


@pytest.mark.parametrize("image_format", FORMATS)
def test_values_that_would_break_the_last_line_are_quoted(image_format: ImageFormat) -> None:
    odd = 'my, "model": 2\nb'
    made_by = recipe(model=odd, scheduler="own", negative_prompt="")
    text, pairs = a1111(encode(noise(), image_format, made_by, mark=True))
    assert text == RECIPE["prompt"]
    assert (pairs["Model"], pairs["Sampler"], pairs["Seed"]) == (odd, "own", "4294967295")


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("letter", ["a", "🐱"])
def test_a_very_long_prompt_leaves_the_parameters_readable(image_format: ImageFormat, letter: str) -> None:
    data = encode(noise(8, 8), image_format, recipe(prompt=letter * 100_000), mark=True)
    text, pairs = a1111(data)
    assert text.startswith(letter * 1_000)
    assert (pairs["Seed"], pairs["Steps"]) == ("4294967295", "20")


# the mark


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("with_recipe", [True, False])
def test_mark_and_recipe_are_there_when_asked_for(image_format: ImageFormat, mark: bool, with_recipe: bool) -> None:
    data = encode(noise(), image_format, recipe() if with_recipe else None, mark=mark)
    image = open_image(data)
    assert is_marked(image) is mark
    assert (SOURCE_TYPE in data) is mark
    assert (embedded_recipe(image) == RECIPE) is with_recipe
    if not with_recipe:
        assert not image.getexif()
        assert mark or not {"xmp", "XML:com.adobe.xmp"} & set(image.info)
        assert "parameters" not in image.info
        assert b"red circle" not in data
        assert b"r\0e\0d\0" not in data


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_mark_is_xmp_that_a_parser_of_xml_reads(image_format: ImageFormat) -> None:
    image = open_image(encode(noise(), image_format, recipe(prompt="<&>"), mark=True))
    xmp = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
    assert xmp.count(b"<rdf:Description") == 1
    from xml.etree import ElementTree as ET

    found = ET.fromstring(xmp.decode()).findall(".//{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    assert [element.text for element in found] == [SOURCE_TYPE.decode()]


# what is refused


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("with_recipe", [True, False])
def test_a_file_cut_anywhere_is_refused(image_format: ImageFormat, with_recipe: bool) -> None:
    data = encode(noise(), image_format, recipe() if with_recipe else None, mark=with_recipe)
    decode(data)
    accepted = []
    for length in [*range(0, len(data), 7), *range(len(data) - 40, len(data))]:
        try:
            open_image(data[:length])
        except ValueError as error:
            assert str(error)  # noqa: PT017
        else:
            accepted.append(len(data) - length)
    assert accepted == [], "bytes missing at the end"


@pytest.mark.parametrize("image_format", FORMATS)
@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
@example(changes=[(0.01953125, 1)])
@example(changes=[(0.015625, 1)])
def test_a_damaged_file_is_refused_or_read_and_nothing_else(
    image_format: ImageFormat, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(encode(noise(8, 8), image_format, recipe(), mark=True))
    for where, value in changes:
        data[int(where * len(data))] = value
    try:
        image = open_image(bytes(data))
    except ValueError:
        return
    embedded_recipe(image)
    is_marked(image)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, kind)
    with pytest.raises(ValueError, match="not a whole PNG, JPEG or WebP"):
        decode(buffer.getvalue())


@pytest.mark.parametrize("data", [b"", b"prompt\na cat\n", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a whole PNG, JPEG or WebP"):
        decode(data)


@pytest.mark.parametrize(("width", "height"), [(6_400, 6_400), (60_000, 60_000), (2**31 - 1, 1)])
def test_a_small_file_of_too_many_pixels_is_refused(width: int, height: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(99))), chunk(b"IEND", b"")
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    with pytest.raises(ValueError, match="pixels"):
        open_image(bomb)


def test_a_file_of_too_many_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes are more than"):
        open_image(bytes(MAX_BYTES + 1))


def test_a_setting_that_hides_damage_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES"):
        open_image(encode(noise(), "png", None, mark=False))


# the rest


def test_psnr_is_infinite_for_equal_pixels_and_falls_with_the_error() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black) == math.inf
    assert psnr(black, black + np.uint8(255)) == 0
    assert psnr(black + np.uint8(1), black) == pytest.approx(48.13, abs=0.01)
    assert psnr(black, black + np.uint8(1)) == psnr(black + np.uint8(1), black)


def test_a_contact_sheet_shows_every_tile_in_its_place() -> None:
    colors = [(255, 0, 0), (0, 160, 0), (0, 0, 255), (200, 0, 200)]
    tiles = [(np.full((8, 8, 3), color, np.uint8), f"tile {number}") for number, color in enumerate(colors)]
    sheet = contact_sheet(tiles, columns=3, side=100)
    assert sheet.dtype == np.uint8
    height, width, _ = sheet.shape
    assert 3 * 100 <= width < 3 * 120
    assert 2 * 100 <= height < 2 * 180
    for number, color in enumerate(colors):
        mask = (sheet == np.array(color, np.uint8)).all(axis=2)
        rows, columns = np.nonzero(mask)
        assert mask.sum() > 90 * 90
        assert rows.mean() // (height / 2) == number // 3
        assert columns.mean() // (width / 3) == number % 3


@pytest.mark.parametrize(("width", "height"), [(1, 1), (400, 20), (20, 400), (1, 500), (160, 160)])
def test_a_tile_of_any_shape_fits_the_sheet(width: int, height: int) -> None:
    tiles = [(np.zeros((height, width, 3), np.uint8), "a very long caption that cannot fit " * 20)]
    assert contact_sheet(tiles, side=100).shape == contact_sheet([(noise(), "")], side=100).shape


def test_a_caption_is_drawn_under_its_tile() -> None:
    tile = np.full((8, 8, 3), 255, np.uint8)
    plain, written = contact_sheet([(tile, "")], side=100), contact_sheet([(tile, "a cat")], side=100)
    changed = np.nonzero((plain != written).any(axis=(1, 2)))[0]
    assert changed.min() >= 100


def drawing() -> Pixels:
    """Discs of one color each."""
    y, x = np.mgrid[:256, :256]
    picture = np.full((256, 256, 3), 255, np.uint8)
    for number in range(12):
        picture[np.hypot(x - 20 * number, y - 128) < 15] = (20 * number, 90, 255 - 20 * number)
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        drawing(),
        np.indices((256, 256, 3)).sum(0).astype(np.uint8),
        np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8),
    ],
    ids=["drawing", "gradient", "noise"],
)
def test_a_png_is_never_much_larger_than_usual(picture: Pixels) -> None:
    usual = io.BytesIO()
    Image.fromarray(picture).save(usual, "PNG")
    ours = encode(picture, "png", None, mark=False)
    assert len(ours) <= 1.2 * len(usual.getvalue())
    assert np.array_equal(decode(ours), picture)
