"""Edits: what people decide is kept beside a dataset, undone from its end, taken along, and applied."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import imagemill as package
from imagemill.cli import run
from imagemill.dataset import Dataset
from imagemill.dataset.applying import apply, last_applied, marker_of, pending, take_back
from imagemill.dataset.edits import Conflict, Edited, Edits, NotLast, key_of
from imagemill.dataset.edits.images import decode, encode, id_of
from imagemill.dataset.verify import verify
from imagemill.errors import ImagemillError, LimitReached, LockedError, UsageError

from .conftest import Command, contents
from .faults.sweep import fork, stop_at

ROWS = [{"prompt": f"picture {number}", "note": f"note {number}"} for number in range(6)]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def dataset() -> Dataset:
    """Six prompts with two images each, and a column of texts."""
    return package.generate(ROWS, "out", model="fake", seed=1, images_per_prompt=2)


@pytest.fixture
def edits(dataset: Dataset) -> Edits:
    return Edits(dataset.folder)


def everything(edits: Edits) -> dict[str, Edited]:
    return dict(edits.state().edited)


def log(folder: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, ".imagemill", "edits.jsonl").read_text().splitlines()]


def test_what_is_decided_of_images_is_there_at_once_and_for_other_processes(edits: Edits) -> None:
    event = edits.change(["0-0", "1-1"], decision="reject", by="somebody")
    assert (event.number, event.what, event.images) == (1, "rejected 2 images", 2)
    edits.change(["1-1"], texts={"caption": "what it shows", "note": "another"}, rating=4)
    edits.change(["1-1", "2-0"], add_tags=["nice", "a cat"])
    edits.change(["2-0"], remove_tags=["nice"])
    for seen in (edits, Edits("out")):
        texts = {"caption": "what it shows", "note": "another"}
        assert seen.of("1-1") == Edited(texts, "reject", 4, ("a cat", "nice"), 3)
        assert seen.of("2-0") == Edited({}, "", 0, ("a cat",), 4)
        assert seen.of("5-1") == Edited()
        state = seen.state()
        assert sorted(state.edited) == ["0-0", "1-1", "2-0"]
        assert state.tags == Counter({"a cat": 2, "nice": 1})
        assert state.keys.tolist() == [key_of("0-0"), key_of("1-1"), key_of("2-0")]
        assert state.decisions.tolist() == [2, 2, 0]
        assert state.ratings.tolist() == [0, 4, 0]
        assert state.tagged("nice").tolist() == [key_of("1-1")]
        assert state.counts == {"images": 3, "texts": 2, "decisions": 2, "ratings": 1, "tags": 2}
        assert seen.revision == 4


def test_the_dataset_itself_is_not_touched(dataset: Dataset, edits: Edits) -> None:
    before = contents(dataset.folder)
    edits.change(["0-0"], decision="keep", texts={"caption": "mine"})
    assert contents(dataset.folder) == before
    assert verify(dataset) == []


def test_an_event_that_changes_nothing_is_not_written(edits: Edits) -> None:
    edits.change(["0-0", "0-1"], decision="keep")
    assert edits.change(["0-0"], decision="keep").images == 0
    assert edits.change(["0-0", "2-0"], decision="keep").images == 1
    assert edits.change_texts("note", {}).images == 0
    assert edits.revision == 2


def test_edits_go_while_a_job_holds_the_lock(dataset: Dataset, edits: Edits) -> None:
    with dataset.lock():
        assert edits.change(["0-0"], rating=5).number == 1


def test_undo_and_redo_are_a_stack(edits: Edits) -> None:
    edits.change(["0-0", "1-0"], decision="keep")
    edits.change(["0-0"], texts={"caption": "first"})
    edits.change_texts("caption", {"0-0": "second", "1-0": "other"})
    states = [everything(edits)]
    for what in ("edited `caption` of 2 images", "edited `caption` of 1 image", "kept 2 images"):
        undone = edits.undo()
        assert undone
        assert undone.what == f"undid: {what}"
        states.append(everything(edits))
    assert edits.undo() is None
    assert states[-1] == {}
    assert states[2] == {image: Edited({}, "keep", 0, (), 1) for image in ("0-0", "1-0")}
    assert edits.of("0-0").revision == 0
    for expected in reversed(states[:-1]):
        edits.redo()
        assert everything(edits) == expected == everything(Edits("out"))
    assert edits.redo() is None
    edits.undo()
    edits.change(["3-0"], rating=1)
    assert edits.redo() is None
    with pytest.raises(NotLast):
        edits.undo(3)
    taken_back = edits.undo(edits.revision)
    assert taken_back
    done_again = edits.redo(taken_back.number)
    assert done_again
    assert edits.undo(done_again.number)


def test_an_image_edited_since_keeps_that_edit_when_others_are_undone(edits: Edits) -> None:
    """Undoing goes from the end, so that nobody's later edit is lost by it."""
    mine = edits.change(["0-0", "1-0"], decision="reject").number
    Edits("out").change(["0-0"], texts={"caption": "theirs"})
    with pytest.raises(NotLast):
        edits.undo(mine)
    assert edits.of("0-0").texts == {"caption": "theirs"}


def test_discarding_is_undone_like_anything(edits: Edits) -> None:
    edits.change(["0-0", "1-0"], decision="reject")
    edits.change(["2-0"], texts={"note": "new"})
    before = everything(edits)
    assert edits.discard().images == 3
    assert everything(edits) == {}
    assert edits.undo()
    assert everything(edits) == before == everything(Edits("out"))
    edits.redo()
    assert everything(edits) == {} == everything(Edits("out"))


def test_a_text_is_given_back_to_the_dataset(edits: Edits) -> None:
    edits.change(["0-0"], texts={"caption": "mine"})
    edits.change(["0-0"], texts={"caption": None})
    assert everything(edits) == {}


def test_history_tells_of_all_and_of_one_image(edits: Edits) -> None:
    edits.change([f"{row}-0" for row in range(6)], rating=3)
    edits.change(["2-0"], texts={"note": "new"})
    edits.change(["1-1"], decision="keep")
    edits.undo()
    assert [event.what for event in edits.history()] == [
        "undid: kept 1 image",
        "kept 1 image",
        "edited `note` of 1 image",
        "rated 6 images 3",
    ]
    assert [event.undone for event in edits.history()] == [False, True, False, False]
    assert [event.number for event in edits.history("2-0")] == [2, 1]
    assert [event.number for event in edits.history("1-1")] == [4, 3]
    assert [event.number for event in edits.history(limit=1)] == [4]


def test_whoever_has_seen_an_older_revision_is_told(edits: Edits) -> None:
    edits.change(["0-0"], texts={"caption": "theirs"}, expected=0)
    with pytest.raises(Conflict, match="`0-0` was edited by somebody else") as told:
        edits.change(["0-0"], texts={"caption": "mine"}, expected=0)
    assert told.value.theirs == Edited({"caption": "theirs"}, revision=1)
    edits.change(["0-0"], texts={"caption": "both"}, expected=1)
    assert edits.of("0-0").texts == {"caption": "both"}


def test_texts_made_from_what_is_no_longer_so_are_refused(edits: Edits) -> None:
    seen = edits.state().revision
    Edits("out").change(["0-0"], texts={"note": "theirs"})
    with pytest.raises(NotLast):
        edits.change_texts("note", {"0-0": "mine", "1-0": "mine"}, expected=seen)
    assert edits.of("0-0").texts == {"note": "theirs"}
    assert edits.change_texts("note", {"0-0": "mine"}, expected=edits.state().revision).images == 1


def test_no_edit_of_two_editors_is_lost(edits: Edits) -> None:
    """Each appends a word to the text it has seen; after a conflict it looks again. All words are there in the end."""
    chance, editors = random.Random(3), [edits, Edits("out")]
    seen = [("", 0), ("", 0)]
    said: list[str] = []
    for step in range(1_000):
        who = chance.randrange(2)
        if chance.random() < 0.4:
            found = editors[who].of("0-0")
            seen[who] = found.texts.get("caption", ""), found.revision
            continue
        text, revision = seen[who]
        try:
            event = editors[who].change(["0-0"], texts={"caption": f"{text} {step}"}, expected=revision)
        except Conflict as conflict:
            seen[who] = conflict.theirs.texts["caption"], conflict.theirs.revision
        else:
            said.append(str(step))
            seen[who] = f"{text} {step}", event.number
    assert len(said) > 300
    assert edits.of("0-0").texts["caption"].split() == said


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"decision": "maybe"}, "`decision`: keep, reject or nothing"),
        ({"rating": 6}, "`rating`: from 0 to 5, got: `6`"),
        ({"rating": True}, "`rating`: from 0 to 5"),
        ({"texts": {"prompt": "x"}}, "the column `prompt` cannot be edited"),
        ({"texts": {"seed": "x"}}, "the column `seed` cannot be edited"),
        ({"texts": {"rating": "x"}}, "the column `rating` cannot be edited"),
        ({"texts": {"nobody": "x"}}, "the column `nobody` cannot be edited"),
        ({"texts": {"caption": "x" * 100_001}}, "100,001 characters is too long"),
        ({"texts": {"caption": "a\0b"}}, "characters that no file can hold"),
        ({"texts": {"caption": "\ud800"}}, "characters that no file can hold"),
        ({"add_tags": ["a,b"]}, "is not a tag"),
        ({"add_tags": [""]}, "is not a tag"),
        ({"add_tags": ["two\nlines"]}, "is not a tag"),
        ({"add_tags": ["x" * 65]}, "65 characters is too long"),
        ({}, "nothing says what to change"),
    ],
)
def test_values_that_cannot_be_are_refused(edits: Edits, what: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        edits.change(["0-0"], **what)
    assert edits.revision == 0


@pytest.mark.parametrize("image", ["", "1", "1-", "-1-1", "01-1", "1-1,2-2", "1-1\n", "../1-1", "١-1", "99999999999-1"])
def test_only_ids_name_images(edits: Edits, image: str) -> None:
    with pytest.raises(UsageError, match="is not the id of an image"):
        edits.change([image], rating=1)


def test_images_are_written_as_ranges() -> None:
    keys = [key_of(f"{row}-{image}") for row in range(150_000) for image in range(4)]
    assert encode(keys) == {str(image): "0-149999" for image in range(4)}
    chosen = random.Random(1).sample(keys, 10_000)
    assert sorted(decode(encode(chosen))) == sorted(chosen)
    assert encode([key_of("7-1")]) == {"1": "7"}
    assert id_of(key_of("9999999999-12345678")) == "9999999999-12345678"


def test_many_images_take_little_space(edits: Edits) -> None:
    everywhere = [f"{row}-{image}" for row in range(50_000) for image in range(2)]
    edits.change(everywhere, decision="reject")
    assert edits.change(everywhere, rating=2).what == "rated 100,000 images 2"
    assert Path("out/.imagemill/edits.jsonl").stat().st_size < 1_000
    edits.undo()
    assert edits.of("49999-1") == Edited({}, "reject", 0, (), 1)


def test_whatever_is_done_in_whatever_order_is_the_same_when_read_again(edits: Edits) -> None:
    """Any events, undone and redone, by two that write in turns, are what they would be one after another."""
    chance, other = random.Random(7), Edits("out")
    done: list[dict[str, Edited]] = [{}]
    undone: list[dict[str, Edited]] = []
    for _ in range(300):
        editor, images = chance.choice([edits, other]), chance.sample([f"{row}-0" for row in range(6)], 3)
        before = everything(edits)
        match chance.randrange(8):
            case 0 | 1:
                event = editor.change(images, decision=chance.choice(["", "keep", "reject"]))
            case 2:
                event = editor.change(images, rating=chance.randrange(6), add_tags=["a"])
            case 3:
                event = editor.change(images, remove_tags=["a"], texts={"note": chance.choice(["x", "y", None])})
            case 4:
                event = editor.change_texts("caption", {image: f"{image} {chance.random()}" for image in images})
            case 5 if chance.random() < 0.2:
                event = editor.discard()
            case 6:
                assert (editor.redo() is None) == (not undone)
                if undone:
                    done.append(undone.pop())
                event = None
            case _:
                assert (editor.undo() is None) == (len(done) == 1)
                if len(done) > 1:
                    undone.append(done.pop())
                event = None
        if event and event.images:
            done.append(everything(edits))
            undone.clear()
        elif event:
            assert everything(edits) == before
        assert everything(edits) == everything(other) == done[-1]
    assert everything(Edits("out")) == done[-1]


def test_a_torn_line_counts_for_nothing_and_a_damaged_one_is_told(dataset: Dataset, edits: Edits) -> None:
    edits.change(["0-0"], rating=1)
    path = Path("out/.imagemill/edits.jsonl")
    path.write_bytes(path.read_bytes() + b'{"number":2,"time":"x","event":"cha')
    assert edits.revision == Edits("out").revision == 1
    assert edits.change(["1-0"], rating=2).number == 2
    assert [line["number"] for line in log("out")] == [1, 2]
    assert verify(dataset, reader=False) == []
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    assert Edits("out").of("1-0").rating == 2
    assert verify(dataset, reader=False) == ["edits.jsonl: 1 damaged lines"]


def test_edits_do_not_bring_back_a_dataset_that_is_gone(dataset: Dataset, edits: Edits) -> None:
    edits.change(["0-0"], rating=1)
    dataset.folder.rename("trash")
    with pytest.raises(ImagemillError):
        edits.change(["1-0"], rating=2)
    assert not Path("out").exists()
    Path("trash").rename("out")
    assert edits.change(["1-0"], rating=2).number == 2


_EDITOR = """
import sys
from imagemill.dataset.edits import Edits
edits = Edits("out")
for number in range(int(sys.argv[1]), 1_000_000):
    edits.change([f"{number}-0"], rating=1 + number % 5)
    print(number, flush=True)
"""


def test_a_kill_loses_no_event_that_was_acknowledged(edits: Edits) -> None:
    chance, told, number = random.Random(5), 0, 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", _EDITOR, str(number)], stdout=subprocess.PIPE, text=True, env={**os.environ}
        )
        assert process.stdout
        for _ in range(chance.randrange(1, 60)):
            number = int(process.stdout.readline()) + 1
        process.kill()
        said = process.stdout.read().split()
        process.stdout.close()
        process.wait()
        number = int(said[-1]) + 1 if said else number
        told = number
        # One more may have been written and not told of.
        known = edits.state().edited
        assert all(f"{row}-0" in known for row in range(told))
        assert told <= len(known) <= told + 1
        assert [line["number"] for line in log("out")] == list(range(1, len(log("out")) + 1))
    assert told > 50


# Taken along.


def decide(edits: Edits) -> None:
    edits.change(["0-0", "1-1"], decision="reject")
    edits.change(["2-0"], texts={"caption": "by hand, “ünïcode”\nand lines"})
    edits.change(["3-1"], texts={"note": "another note"})
    edits.change(["2-0", "3-1"], rating=4, add_tags=["nice", "a cat"])


def test_a_selection_takes_edits_along_and_leaves_the_original(dataset: Dataset, imagemill: Command) -> None:
    decide(Edits("out"))
    before = contents(dataset.folder)
    ran = imagemill("select", "out", "-o", "new", "--edits")
    assert ran.err.splitlines() == ["10 of 12 images kept", "  2 left out: rejected"]
    new = Dataset("new")
    records = {record["file_name"][7:-4].replace("_image_", "-"): record for record in new}
    assert records.keys() == {f"{row}-{image}" for row in range(6) for image in range(2)} - {"0-0", "1-1"}
    assert all(list(record) == list(records["2-0"]) for record in records.values())
    found = {image: (record["caption"], record["note"]) for image, record in records.items()}
    assert found["2-0"] == ("by hand, “ünïcode”\nand lines", "note 2")
    assert found["3-1"] == ("picture 3", "another note")
    assert found["5-0"] == ("picture 5", "note 5")
    assert {image: record["rating"] for image, record in records.items() if record["rating"]} == {"2-0": 4, "3-1": 4}
    assert records["2-0"]["tags"] == "a cat, nice"
    assert records["0-1"]["tags"] == ""
    assert "decision" not in records["2-0"]
    assert verify(new) == []
    assert contents(dataset.folder) == before
    name = "images/part-000001/prompt_2_image_0.png"
    assert Path("new", name).samefile(Path("out", name))
    edits = Edits("new")
    assert everything(edits) == {}
    assert edits.of("2-0") == Edited({}, "", 4, ("a cat", "nice"))
    assert imagemill("select", "out", "-o", "new", "--edits").err.splitlines()[-1] == "done before"
    Edits("out").change(["5-0"], rating=1)
    assert "its source has changed since" in imagemill("select", "out", "-o", "new", "--edits").err
    card = Path("new/README.md").read_text()
    assert "People have edited these: `caption`, `note`, `rating`, `tags`." in card


def test_a_selection_by_names(dataset: Dataset, imagemill: Command) -> None:
    Path("names.txt").write_text("# chosen\n2-0\nprompt_3_image_1.png\n\nprompt_1_image_1\n2-0\n")
    ran = imagemill("select", "out", "-o", "new", "--names=names.txt")
    assert ran.err.splitlines() == ["3 of 12 images kept", "  9 left out: not named"]
    Path("other.txt").write_text("3-1\n1-1\n2-0")
    assert imagemill("select", "out", "-o", "new", "--names", "other.txt").err.splitlines()[-1] == "done before"
    Path("other.txt").write_text("3-1\n")
    assert "holds another selection" in imagemill("select", "out", "-o", "new", "--names", "other.txt").err
    Edits("out").change(["2-0"], decision="reject")
    ran = imagemill("select", "out", "-o", "both", "--edits", "--names=names.txt", "--json")
    assert ran.json["left_out"] == {"not named": 9, "rejected": 1}
    assert verify(Dataset("both"), reader=False) == []


def test_what_was_applied_outlives_a_selection(dataset: Dataset, edits: Edits, imagemill: Command) -> None:
    edits.change(["0-0", "1-0"], decision="keep", rating=3)
    apply(dataset)
    edits.change(["1-0"], rating=4)
    assert imagemill("select", "out", "-o", "new", "--where", "seed >= 0").code == 0
    new = Edits("new")
    assert everything(new) == {}
    assert (new.of("0-0").decision, new.of("1-0").rating, new.of("2-0").rating) == ("keep", 3, 0)
    # Also where the log does not know of it, as in what is merged or imported.
    Path("new/.imagemill/edits.jsonl").unlink()
    new.change(["0-0"], add_tags=["nice"])
    apply(Dataset("new"))
    records = {record["file_name"]: record for part in Dataset("new").parts for record in part.records()}
    found = [(record["decision"], record["rating"], record["tags"]) for record in records.values()]
    assert found == [("keep", 3, "nice"), ("", 0, ""), ("keep", 3, ""), *[("", 0, "")] * 9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("9-0\n2-0\n", "`out` has no `9-0`, named in `names.txt`"),
        ("a cat.png\n", "`names.txt`: `a cat.png` is not the name of an image"),
        ("\n# nothing\n", "`names.txt` names nothing"),
    ],
)
def test_names_of_nothing_are_told(dataset: Dataset, imagemill: Command, content: str, message: str) -> None:
    Path("names.txt").write_text(content)
    ran = imagemill("select", "out", "-o", "new", "--names", "names.txt")
    assert ran.code == 2
    assert message in ran.err
    assert not Path("new").exists()


# Applied.


def test_edits_are_applied_and_taken_back(dataset: Dataset, imagemill: Command) -> None:
    edits = Edits("out")
    decide(edits)
    before, pending = contents(dataset.folder), everything(edits)
    dry = imagemill("apply", "out", "--dry-run", "--json").json
    assert contents(dataset.folder) == before
    done = imagemill("apply", "out", "--json").json
    assert (
        done
        == dry
        == {
            "dataset": "out",
            "images": 4,
            "columns": ["caption", "note", "decision", "rating", "tags"],
            "added": ["caption", "decision", "rating", "tags"],
        }
    )
    record = Dataset("out").find("prompt_2_image_0")[1]
    assert list(record)[-5:] == ["note", "caption", "decision", "rating", "tags"]
    assert (record["caption"][:7], record["rating"], record["tags"]) == ("by hand", 4, "a cat, nice")
    assert Dataset("out").find("prompt_0_image_0")[1]["decision"] == "reject"
    assert verify(Dataset("out")) == []
    assert everything(edits) == {}
    # What was decided is still known, and undoing does not cross it.
    assert edits.of("2-0") == Edited({}, "", 4, ("a cat", "nice"), edits.revision)
    assert edits.undo() is None
    assert imagemill("apply", "out").err == "no edits to apply\n"
    assert imagemill("status", "out", "--json").json["unfilled"] == {}
    edits.change(["5-0"], texts={"caption": "later"})
    with pytest.raises(Conflict):
        edits.change(["4-0"], texts={"caption": "of one who has seen the old text"}, expected=0)
    assert imagemill("apply", "out", "--undo").code == 0
    assert contents(dataset.folder) == before
    assert verify(Dataset("out"), reader=False) == []
    later = everything(edits)
    assert later.pop("5-0").texts == {"caption": "later"}
    assert later == pending
    assert imagemill("apply", "out", "--undo").err == "nothing to take back\n"


def test_batches_are_taken_back_one_by_one(dataset: Dataset) -> None:
    edits = Edits("out")
    states = [contents(dataset.folder)]
    for text, rating in (("first", 1), ("second", 0), ("third", 5)):
        edits.change(["0-0"], texts={"note": text}, rating=rating)
        assert apply(dataset)
        states.append(contents(dataset.folder))
    assert len({str(state) for state in states}) == 4
    record = dataset.find("prompt_0_image_0")[1]
    assert (record["note"], record["rating"]) == ("third", 5)
    for state in reversed(states[:-1]):
        assert take_back(dataset)
        assert contents(dataset.folder) == state
        assert verify(dataset, reader=False) == []
    assert edits.of("0-0").texts == {"note": "third"}


def test_what_is_decided_while_edits_are_applied_is_not_lost(edits: Edits) -> None:
    edits.change(["0-0"], texts={"note": "first"}, add_tags=["a"])
    number = edits.begin_applying()
    assert edits.undo() is None
    edits.change(["0-0"], texts={"note": "second"}, add_tags=["b"])
    assert Edits("out").at(number).of("0-0").texts == {"note": "first"}
    edits.end_applying(number)
    for seen in (edits, Edits("out")):
        assert seen.of("0-0").texts == {"note": "second"}
        assert seen.of("0-0").tags == ("a", "b")
        assert seen.state().counts == {"images": 1, "texts": 1, "decisions": 0, "ratings": 0, "tags": 1}


def test_nothing_is_taken_from_a_dataset_that_is_half_applied(dataset: Dataset, imagemill: Command) -> None:
    Edits("out").change(["0-0"], rating=1)
    batch = pending(dataset)
    assert batch
    # As a kill leaves it.
    marker_of(dataset.folder).write_text(json.dumps({**asdict(batch), "undo": False}))
    for command in (["select", "out", "-o", "new", "--edits"], ["export", "out", "parquet", "-o", "new"]):
        ran = imagemill(*command)
        assert (ran.code, "has not come to its end" in ran.err) == (2, True), ran.err
    assert imagemill("apply", "out").code == 0
    assert imagemill("select", "out", "-o", "new", "--edits").code == 0


def test_applying_waits_for_nobody_and_for_all_images(dataset: Dataset, imagemill: Command) -> None:
    Edits("out").change(["0-0"], rating=1)
    with dataset.lock(), pytest.raises(LockedError):
        apply(Dataset("out"))
    with pytest.raises(LimitReached):
        package.generate(ROWS, "half", model="fake", seed=1, images_per_prompt=2, max_images=4)
    Edits("half").change(["0-0"], rating=1)
    ran = imagemill("apply", "half")
    assert ran.code == 2
    assert "is not finished: 8 images to be made" in ran.err


def test_images_made_later_get_the_columns_too(imagemill: Command) -> None:
    made = package.generate(ROWS, "out", model="fake", seed=1, images_per_prompt=2, fail_rate=0.4, fail_attempts=1)
    assert 0 < len(made) < 12
    done = next(iter(made))["file_name"][7:-4].replace("_image_", "-")
    Edits("out").change([done], rating=3, decision="keep")
    assert imagemill("apply", "out").code == 0
    assert verify(Dataset("out")) == []
    assert imagemill("retry", "out").code == 0
    assert len(Dataset("out")) == 12
    assert verify(Dataset("out")) == []
    assert imagemill("apply", "out", "--undo").code == 0
    assert not any("rating" in record for record in Dataset("out"))
    assert verify(Dataset("out")) == []


def test_columns_of_a_table_with_these_names_stay_what_they_are(imagemill: Command) -> None:
    rows = [{"prompt": "a", "tags": "own", "rating": "high"}, {"prompt": "b", "tags": "own", "rating": "low"}]
    package.generate(rows, "out", model="fake", seed=1)
    Edits("out").change(["0-0"], rating=2, add_tags=["mine"])
    assert imagemill("apply", "out").code == 0
    first, second = Dataset("out")
    assert (first["tags"], first["curated_tags"]) == ("own", "mine")
    assert (first["rating"], first["curated_rating"]) == ("high", 2)
    assert (second["curated_tags"], second["curated_rating"]) == ("", 0)
    assert verify(Dataset("out")) == []


def test_what_is_taken_down_leaves_the_edits_too(dataset: Dataset, imagemill: Command) -> None:
    edits = Edits("out")
    edits.change(["2-0"], texts={"note": "a secret, applied"})
    edits.change(["2-0", "3-0"], rating=4)
    assert imagemill("apply", "out").code == 0
    edits.change(["2-0"], texts={"note": "a secret, again"}, add_tags=["secret"])
    edits.undo()
    edits.redo()
    edits.change_texts("caption", {"2-0": "a secret of many", "4-0": "another"})
    kept = {image: value for image, value in everything(edits).items() if image != "2-0"}
    assert imagemill("remove", "out", "--id", "prompt_2_image_0").code == 0
    left = [path for path in Path("out").rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    assert left == []
    assert everything(edits) == kept == everything(Edits("out"))
    assert "note 2" not in Path("out/.imagemill/applied/000003/part-000001.jsonl").read_text()
    assert edits.change(["3-0"], rating=1).number == 9
    assert edits.undo()
    assert edits.undo()
    assert verify(Dataset("out"), reader=False) == []
    assert imagemill("apply", "out", "--undo").code == 0
    assert verify(Dataset("out"), reader=False) == []


def sweep(folder: Path) -> int:
    """Kill `apply` and `apply --undo` at every call that writes, and go on: as if nothing had happened."""
    os.chdir(folder)
    package.generate(ROWS[:3], "source", model="fake", seed=1, images_per_prompt=2)
    edits = Edits("source")
    edits.change(["0-0"], texts={"note": "of an earlier batch"})
    apply(Dataset("source"))
    edits.change(["0-0", "1-1"], decision="reject", texts={"note": "of this batch"})
    edits.change(["2-0"], texts={"caption": "by hand"}, rating=4)
    before, pending = contents(Path("source")), everything(edits)
    shutil.copytree("source", "reference")
    assert run(["apply", "reference", "-q"]) == 0
    applied = contents(Path("reference"))
    places = 0
    for beginning, flags, expected in (("source", [], applied), ("reference", ["--undo"], before)):
        for place in range(1, 1_000):
            killed = Path(f"place-{place}")
            shutil.copytree(beginning, killed)
            asked = ["apply", str(killed), *flags, "-q"]

            def disturbed(place: int = place, asked: list[str] = asked) -> int:
                stop_at(place, "kill")
                return run(asked)

            status = fork(disturbed)
            begun = marker_of(killed).exists()
            # The same command, or another one that writes.
            again = ["retry", str(killed), "-q"] if begun and place % 2 else asked
            if begun or contents(killed) != expected:
                assert fork(lambda again=again: run(again)) == 0, f"place {place}"  # type: ignore[misc]
            assert contents(killed) == expected, f"place {place}"
            edits = Edits(killed)
            assert everything(edits) == (pending if flags else {}), f"place {place}"
            assert len(edits.applied()) == (1 if flags else 2), f"place {place}"
            assert verify(Dataset(killed), reader=False) == [], f"place {place}"
            assert not list(killed.rglob(".*.tmp")), f"place {place}"
            assert not marker_of(killed).exists(), f"place {place}"
            shutil.rmtree(killed)
            if status == 0:
                break
            assert status == -signal.SIGKILL, f"place {place}: {status}"
            places += 1
    return places


def test_applying_killed_at_any_call_is_gone_through_with(tmp_path: Path) -> None:
    call = "import sys, pathlib; from tests.test_edits import sweep; print(sweep(pathlib.Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", call, tmp_path], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 40


def test_a_batch_that_is_named_is_taken_back_once(dataset: Dataset, imagemill: Command) -> None:
    Edits(dataset.folder).change(["0-0"], texts={"caption": "one"})
    assert imagemill("apply", dataset.folder).code == 0
    Edits(dataset.folder).change(["0-0"], texts={"caption": "two"})
    assert imagemill("apply", dataset.folder).code == 0
    last = last_applied(dataset)
    assert last
    assert imagemill("apply", dataset.folder, f"--undo={last.number}").code == 0
    # A job that is run again, since nobody saw it end.
    assert imagemill("apply", dataset.folder, f"--undo={last.number}").err == "nothing to take back\n"
    assert dataset.find("prompt_0_image_0")[1]["caption"] == "one"
