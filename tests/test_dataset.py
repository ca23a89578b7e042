"""The folder: what a crash leaves behind is put right, what is sealed stays, columns are added atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import imagemill as package
from imagemill.dataset import Dataset, Part

from .conftest import Command, contents


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Six images, sealed."""
    return package.generate([f"picture {number}" for number in range(6)], tmp_path / "out", model="fake", seed=1)


def reopened(dataset: Dataset) -> Part:
    """The first part, unsealed, as it is while a run is under way."""
    with dataset.lock():
        dataset.part(1).unseal()
    return Dataset(dataset.folder).part(1)


def recover(dataset: Dataset) -> None:
    with dataset.lock():
        dataset.recover()


def test_a_torn_last_line_is_passed_over_by_readers_and_dropped_on_open(dataset: Dataset) -> None:
    part = reopened(dataset)
    whole = part.metadata.read_bytes()
    part.metadata.write_bytes(whole + b'{"file_name": "prompt_6_im')
    assert len(part.records()) == 6
    recover(part.dataset)
    assert part.metadata.read_bytes() == whole


def test_a_record_without_its_file_and_a_file_without_a_record_are_removed_on_open(dataset: Dataset) -> None:
    part = reopened(dataset)
    (part.folder / "prompt_2_image_0.png").unlink()
    (part.folder / "prompt_9_image_0.png").write_bytes(b"finished, not committed")
    (part.folder / ".prompt_8_image_0.png.tmp").write_bytes(b"half")
    (part.folder / "notes.txt").write_text("mine")
    recover(part.dataset)
    assert [record["file_name"] for record in part.records()] == [f"prompt_{n}_image_0.png" for n in (0, 1, 3, 4, 5)]
    assert not (part.folder / "prompt_9_image_0.png").exists()
    assert not (part.folder / ".prompt_8_image_0.png.tmp").exists()
    assert (part.folder / "notes.txt").exists(), "what is not ours stays"


def test_a_record_written_twice_counts_once(dataset: Dataset) -> None:
    part = reopened(dataset)
    before = part.metadata.read_bytes()
    part.metadata.write_bytes(before + before.splitlines(keepends=True)[0])
    recover(part.dataset)
    assert part.metadata.read_bytes() == before


def test_sealing_sorts_into_plan_order_by_number(dataset: Dataset) -> None:
    part = reopened(dataset)
    before = contents(dataset.folder)
    lines = part.metadata.read_bytes().splitlines(keepends=True)
    part.metadata.write_bytes(b"".join(reversed(lines)))
    with part.dataset.lock():
        part.seal()
    assert contents(dataset.folder) == before
    assert Dataset(dataset.folder).part(1).sealed


def test_what_is_sealed_is_left_alone(dataset: Dataset) -> None:
    stray = dataset.part(1).folder / "prompt_9_image_0.png"
    stray.write_bytes(b"")
    recover(dataset)
    assert stray.exists()


def test_columns_are_added_to_every_record_and_the_part_is_sealed_again(dataset: Dataset) -> None:
    with dataset.lock():
        dataset.update(lambda record: {"score": record["seed"] / 2**32})
    records = list(Dataset(dataset.folder))
    assert all(record["score"] == record["seed"] / 2**32 for record in records)
    assert list(records[0])[-1] == "score"
    assert Dataset(dataset.folder).part(1).sealed


def test_an_update_that_would_make_records_unequal_or_rename_images_changes_nothing(dataset: Dataset) -> None:
    before = contents(dataset.folder)

    def some(record: dict[str, Any]) -> dict[str, Any]:
        return {"score": 1.0} if record["id"] == "3" else {}

    with dataset.lock():
        with pytest.raises(ValueError, match="same columns"):
            dataset.update(some)
        with pytest.raises(ValueError, match="`file_name` says how the image was made"):
            dataset.update(lambda _: {"file_name": "x.png"})
        with pytest.raises(ValueError, match="cannot be set"):
            dataset.update(lambda _: {"label": "cat"})
        with pytest.raises(ValueError, match="`score` is a str, elsewhere a int"):
            dataset.update(lambda record: {"score": 1 if record["id"] == "0" else "one"})
    with pytest.raises(package.UsageError, match="is not locked"):
        dataset.update(lambda _: {"score": 1})
    assert contents(dataset.folder) == before


def test_an_update_keeps_every_promise(dataset: Dataset) -> None:
    with dataset.lock():
        dataset.update(lambda record: {"words": len(record["prompt"].split())})
    assert package.verify(dataset) == []
    assert "| `words` | from the prompt table, or added later |" in (dataset.folder / "README.md").read_text()


def test_images_without_a_job_are_not_taken_over_by_another(dataset: Dataset) -> None:
    (dataset.folder / "job.toml").unlink()
    with pytest.raises(package.UsageError, match=r"holds images and no job\.toml"):
        package.generate(["another"], dataset.folder, model="fake", seed=2)


def test_damaged_images_are_given_up_and_made_again(dataset: Dataset, imagemill: Command) -> None:
    before = contents(dataset.folder)
    (dataset.part(1).folder / "prompt_2_image_0.png").unlink()
    (dataset.part(1).folder / "prompt_4_image_0.png").write_bytes(b"damaged")
    assert imagemill("verify", dataset.folder).code == 3
    repaired = imagemill("verify", dataset.folder, "--repair")
    assert (repaired.code, "2 images given up" in repaired.err, "2 still to make" in repaired.out) == (0, True, True)
    package.generate([f"picture {number}" for number in range(6)], dataset.folder, model="fake", seed=1)
    assert contents(dataset.folder) == before
    assert Dataset(dataset.folder).part(1).sealed


def test_a_second_writer_is_refused_and_a_reader_is_not(dataset: Dataset) -> None:
    other = Dataset(dataset.folder)
    with dataset.lock():
        assert "process" in other.writer
        assert len(list(other)) == 6
        with pytest.raises(package.LockedError, match="is being written by process"), other.lock():
            pass
    assert other.writer == ""


def test_records_can_be_counted_found_and_looked_at(dataset: Dataset) -> None:
    assert len(dataset) == 6
    part, record = dataset.find("prompt_4_image_0")
    assert (part.name, record["prompt"]) == ("part-000001", "picture 4")
    assert dataset.image("prompt_4_image_0.png").size == (64, 64)
    with pytest.raises(package.UsageError, match="has no image"):
        dataset.find("prompt_6_image_0")
    with pytest.raises(package.UsageError, match="holds no dataset"):
        Dataset(dataset.folder / "images")


def test_an_update_passes_over_a_part_in_which_everything_failed(dataset: Dataset) -> None:
    (dataset.folder / "images" / "part-000002").mkdir()
    with dataset.lock():
        dataset.update(lambda _: {"score": 1})
    assert all(record["score"] == 1 for record in dataset)
