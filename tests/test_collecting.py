"""Pictures become a dataset as they are, for operators that add columns."""

from __future__ import annotations

from pathlib import Path

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.dataset.verify import verify

from .conftest import Command
from .test_augment import picture, table


def test_a_folder_or_a_table_becomes_a_dataset_with_captions(imagemill: Command) -> None:
    picture("in/a.png"), picture("in/b.png", (9, 20))
    Path("in/broken.png").write_bytes(b"no picture")
    for _ in range(2):
        ran = imagemill("caption", "in", "--model", "fake")
        assert ran.code == 3
        assert "1 picture not taken in" in ran.err
        records = list(Dataset("in-captioned"))
        assert [(record["source_image"], record["original"]) for record in records] == [
            ("a.png", True),
            ("b.png", True),
        ]
        assert all(record["caption"] for record in records)
        assert verify(Dataset("in-captioned")) == []
    kept = Path("in-captioned/images/part-000001/prompt_0_image_0.png")
    assert kept.read_bytes() == Path("in/a.png").read_bytes()
    picture("in/broken.png")
    assert imagemill("caption", "in", "--model", "fake").code == 0
    assert [bool(record["caption"]) for record in Dataset("in-captioned")] == [True] * 3
    rows = [{"path": "in/a.png", "text": "what the table says"}]
    made = package.caption(table(rows), "out", model="fake", captions_per_image=4, keep_candidates="similar")
    assert [record["prompt"] for record in made] == ["what the table says"]
    assert imagemill("retry", "out").code == 2
    assert "no model made them" in imagemill("retry", "out").err
    assert imagemill("caption", "in", "-o", "new", "--model", "fake", "--captions-per-image", 0).code == 2
    assert not Path("new").exists()


def test_pictures_need_no_text_where_others_have_one(imagemill: Command) -> None:
    for name in "abc":
        picture(f"in/{name}.png")
    Path("in/a.txt").write_bytes(b"\xef\xbb\xbfwhat it shows")
    dataset = package.caption("in", model="fake")
    assert [record["prompt"] for record in dataset] == ["what it shows", "", ""]
    ran = imagemill("caption", "in", "-o", "dry", "--model", "fake", "--dry-run")
    assert (ran.code, Path("dry").exists()) == (2, False)
