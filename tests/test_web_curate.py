"""Many images at once: decisions, find and replace, new datasets, applying, exports and their download."""

from __future__ import annotations

import io
import json
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import imagemill as package
from imagemill.component import find_component
from imagemill.server.web.curating.replacing import Replacement
from tests.conftest import contents
from tests.web_server import Served, ended

ROWS = 6
"""Of the table, two images each."""


@pytest.fixture
def dataset(web: Served) -> str:
    """A dataset of twelve images with a text column of the table, by its id."""
    table = web.folder / "prompts.csv"
    table.write_text("prompt,topic\n" + "".join(f"a red cat {row},cats and concat\n" for row in range(ROWS)))
    package.generate(table, web.folder / "cats", model="fake", images_per_prompt=2, seed=1)
    return str(web.workspace.id_of(web.folder / "cats"))


def post(web: Served, dataset: str, what: str, status: int = 200, **body: Any) -> Any:
    headers = {"Content-Type": "application/json"}
    answer = web.client.post(f"/api/datasets/{dataset}/{what}", content=json.dumps(body), headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def view(web: Served, dataset: str, **query: Any) -> Any:
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        answer = web.client.get(f"/api/datasets/{dataset}/view", params=query)
        if answer.status_code != 202:
            break
    assert answer.status_code == 200, answer.text
    return answer.json()


def everything(web: Served, dataset: str, *left_out: str) -> dict[str, Any]:
    return {"view": view(web, dataset)["view"], "except": list(left_out)}


def test_a_name_is_given_once_whoever_asks_for_it(web: Served, dataset: str) -> None:
    form = {"source": "typed", "prompts": "a cat", "values": {"model": "fake"}}
    assert web.client.post("/api/make/generate/plan", json=form).status_code == 200
    with ThreadPoolExecutor() as pool:
        for number in range(5):
            made = pool.submit(web.client.post, "/api/make/generate", json={**form, "name": f"same-{number}"})
            time.sleep(number / 50)
            saved = web.client.post(f"/api/datasets/{dataset}/save-as", json={"name": f"same-{number}"})
            assert sorted([made.result().status_code == 200, saved.status_code == 200]) == [False, True]


def test_all_of_a_view_but_some_are_decided_as_one_event(web: Served, dataset: str) -> None:
    found = post(web, dataset, "bulk", selection=everything(web, dataset, "0-0", "3-1"), decision="reject")
    assert found["images"] == 10
    assert view(web, dataset, decision="reject")["total"] == 10
    assert post(web, dataset, "bulk", selection={"images": ["0-0"]}, rating=4, add_tags=["fine"])["images"] == 1
    assert view(web, dataset, rating=4, tag="fine")["total"] == 1
    curation = web.client.get(f"/api/datasets/{dataset}/curation").json()
    assert curation["tags"] == [{"tag": "fine", "images": 1}]
    assert curation["pending"]["images"] == 11
    assert curation["suggested"] == "cats-curated"
    web.client.post(f"/api/datasets/{dataset}/undo")
    web.client.post(f"/api/datasets/{dataset}/undo")
    assert view(web, dataset, decision="undecided")["total"] == 12


WRONG: list[tuple[dict[str, Any], int]] = [
    ({"selection": {"images": ["99-0"]}, "decision": "keep"}, 404),
    ({"selection": {"images": ["../1"]}, "decision": "keep"}, 422),
    ({"selection": {"images": ["0-0"], "view": "0" * 16}, "decision": "keep"}, 422),
    ({"selection": {"view": "0" * 16}, "decision": "keep"}, 410),
    ({"selection": {"images": ["0-0"]}, "decision": "maybe"}, 422),
    ({"selection": {"images": ["0-0"]}, "rating": 6}, 422),
    ({"selection": {"images": ["0-0"]}, "add_tags": ["a, b"]}, 400),
    ({"selection": {"images": ["0-0"]}, "add_tags": ["\ud800"]}, 422),
    ({"selection": {"images": ["0-0"]}}, 400),
    ({"selection": {"images": ["0-0"]}, "decision": "keep", "path": "/etc"}, 422),
]


def test_what_cannot_be_is_refused_and_changes_nothing(web: Served, dataset: str) -> None:
    for wrong, status in WRONG:
        assert post(web, dataset, "bulk", status, **wrong)["error"]
    assert web.client.get(f"/api/datasets/{dataset}/curation").json()["pending"]["images"] == 0


def test_replacing_shows_first_what_it_will_change(web: Served, dataset: str) -> None:
    asked = {
        "selection": everything(web, dataset, "0-0"),
        "column": "topic",
        "replacement": {"find": "CAT", "replace": "dog", "words": False},
    }
    before = contents(web.folder / "cats")
    shown = post(web, dataset, "replace?preview=1", **asked)
    assert (shown["images"], shown["looked"], len(shown["shown"])) == (11, 11, 11)
    pieces = shown["shown"][0]["pieces"]
    assert ["removed", "cats"] in pieces
    assert ["added", "dogs"] in pieces
    done = post(web, dataset, "replace", revision=shown["revision"], **asked)
    assert done["images"] == 11
    texts = {row["id"] for row in rows(web, dataset, search="condog", search_column="topic")}
    assert len(texts) == 11
    assert "0-0" not in texts
    # What somebody has agreed to is not what would be done now.
    assert post(web, dataset, "replace", 409, revision=shown["revision"], **asked)["error"]
    web.client.post(f"/api/datasets/{dataset}/undo")
    assert view(web, dataset, edited=1)["total"] == 0
    assert contents(web.folder / "cats") == before


def rows(web: Served, dataset: str, **query: Any) -> list[dict[str, Any]]:
    found = view(web, dataset, **query)["view"]
    answer = web.client.get(f"/api/views/{found}/slice", params={"start": 0, "count": 100})
    return list(answer.json()["rows"])


FOUND: list[tuple[dict[str, Any], str | None]] = [
    ({"find": "cats", "replace": "dogs", "words": True}, "dogs and concat"),
    ({"find": "cat", "replace": "dog", "words": True}, None),
    ({"find": "CATS", "replace": "dogs", "case": True}, None),
    ({"find": "a.", "replace": ""}, None),
    ({"find": r"(\w+) and (\w+)", "replace": r"\2 und \1", "expression": True}, "concat und cats"),
    ({"find": r"^CATS\b", "replace": "x", "expression": True}, "x and concat"),
    ({"find": "cats", "replace": r"\1 \n"}, r"\1 \n and concat"),
]
NOT_REPLACED: list[tuple[dict[str, Any], str, str]] = [
    ({"find": "(", "expression": True}, "topic", "no regular expression"),
    ({"find": "(?<=a)b", "expression": True}, "topic", "no regular expression"),
    ({"find": "x*", "expression": True}, "topic", "nothing at all"),
    ({"find": "a", "replace": r"\7", "expression": True}, "topic", "no regular expression"),
    ({"find": "a"}, "prompt", "cannot be edited"),
    ({"find": "a"}, "tpoic", "cannot be edited"),
    ({"find": "a", "replace": "\0"}, "topic", "no text can hold"),
    ({"find": "\0"}, "topic", "no text can hold"),
]


def test_what_is_found(web: Served, dataset: str) -> None:
    for replacement, after in FOUND:
        asked = {"selection": {"images": ["2-1"]}, "column": "topic", "replacement": replacement}
        shown = post(web, dataset, "replace?preview=1", **asked)["shown"]
        became = ["".join(text for kind, text in each["pieces"] if kind != "removed") for each in shown]
        assert became == ([after] if after else []), replacement


def test_what_cannot_be_replaced(web: Served, dataset: str) -> None:
    for replacement, column, said in NOT_REPLACED:
        asked = {"selection": {"images": ["2-1"]}, "column": column, "replacement": replacement}
        assert said in post(web, dataset, "replace", 400, **asked)["error"]


def test_an_expression_that_hangs_elsewhere_ends(web: Served, dataset: str) -> None:
    web.state.edits(dataset).change(["2-1"], texts={"topic": "a" * 50_000 + "!"})
    asked = {"selection": {"images": ["2-1"]}, "column": "topic"}
    replacement = {"find": "^(a+)+$", "replace": "b", "expression": True}
    assert post(web, dataset, "replace?preview=1", **asked, replacement=replacement)["images"] == 0
    much = {"find": "a", "replace": "b" * 1_000}
    assert "longer than" in post(web, dataset, "replace", 400, **asked, replacement=much)["error"]


def test_no_text_keeps_a_search_busy() -> None:
    """Compared anew at every place, these take most of a minute, in which nothing else is answered."""
    texts = ["a" * 45_000, "!" * 45_000] * 250
    for letter in "a!":
        for words in (False, True):
            assert Replacement(find=letter * 499 + "b", replace="x", words=words).of(texts) == texts
    assert Replacement(find="ÄPFEL ΟΔΟΣ", replace="x").of(["äpfel οδος!", "Äpfel  Οδος"]) == ["x!", "Äpfel  Οδος"]
    assert Replacement(find="!", replace="?", words=True).of(["a! !b ! a!b"]) == ["a! !b ? a!b"]


def test_what_was_removed_before_it_could_be_saved_is_named(web: Served, dataset: str) -> None:
    view = web.client.get(f"/api/datasets/{dataset}/view").json()["view"]
    package.remove(web.folder / "cats", "prompt_2_image_1", reason="asked for")
    job = ended(web.state.queue, post(web, dataset, "save-as", name="late", selection={"view": view})["job"])
    assert (job.state, job.hint[:46]) == ("failed", "removed since then? choose the images again, o")
    assert "`cats` has no `2-1`" in job.message
    assert not (web.folder / "late").exists()


def test_a_new_dataset_has_what_was_decided_and_this_one_stays(web: Served, dataset: str) -> None:
    edits = web.state.edits(dataset)
    edits.change(["0-0"], texts={"topic": "a dog"}, rating=5)
    edits.change(["1-0", "1-1"], decision="reject")
    before = contents(web.folder / "cats")
    some = everything(web, dataset, "5-0", "5-1")
    saved = post(web, dataset, "save-as", name="better cats", selection=some)
    taken = post(web, dataset, "save-as", 400, name="better cats")["error"]
    assert "better cats" in taken
    job = ended(web.state.queue, saved["job"])
    assert (job.state, job.message) == ("done", job.message)
    new = package.Dataset(web.folder / "better cats")
    records = {record["file_name"]: record for record in new}
    assert len(records) == 8
    assert [record["topic"] for record in records.values()].count("a dog") == 1
    assert {record["rating"] for record in records.values()} == {0, 5}
    assert saved["dataset"] in {each["id"] for each in web.client.get("/api/datasets").json()["datasets"]}
    assert contents(web.folder / "cats") == before
    everyone = post(web, dataset, "save-as", 400, name="none", selection={"images": ["1-0", "1-1"]})
    assert "all of these images are rejected" in everyone["error"]
    for name in ("", "../up", ".hidden", "a/b", "better cats", "prompts.csv", "x" * 81):
        assert post(web, dataset, "save-as", 400, name=name)["error"]


def test_applying_changes_the_dataset_and_is_taken_back(web: Served, dataset: str) -> None:
    before = [record["topic"] for record in package.Dataset(web.folder / "cats")]
    web.state.edits(dataset).change(["0-0"], texts={"topic": "a dog"}, decision="keep")
    assert web.client.get(f"/api/datasets/{dataset}/curation").json()["pending"] | {"images": 1} == {
        "images": 1, "texts": 1, "decisions": 1, "ratings": 0, "tags": 0,
    }  # fmt: skip
    assert ended(web.state.queue, post(web, dataset, "apply")["job"]).state == "done"
    assert [record["topic"] for record in package.Dataset(web.folder / "cats")] == ["a dog", *before[1:]]
    assert web.client.get(f"/api/datasets/{dataset}/curation").json()["pending"]["images"] == 0
    assert ended(web.state.queue, post(web, dataset, "apply", undo=True)["job"]).state == "done"
    assert [record["topic"] for record in package.Dataset(web.folder / "cats")] == before


def test_an_export_of_some_images_is_downloaded_as_a_zip_file(web: Served, dataset: str) -> None:
    images = ["0-0", "2-1", "3-0"]
    web.state.edits(dataset).change(["0-0"], texts={"topic": "a dog"})
    asked = {"name": "three", "layout": "imagefolder", "selection": {"images": images}}
    found = post(web, dataset, "export", **asked)
    assert web.client.get(f"/downloads/{found['jobs'][0]}").status_code == 404
    assert [ended(web.state.queue, job).state for job in found["jobs"]] == ["done", "done"]
    listed = web.client.get(f"/api/datasets/{dataset}/exports").json()
    assert [(each["name"], each["layout"], each["download"]) for each in listed] == [
        ("three-imagefolder", "imagefolder", f"/downloads/{found['job']}")
    ]
    answer = web.client.get(f"/downloads/{found['job']}")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''three-imagefolder.zip"
    assert len(answer.content) == int(answer.headers["content-length"])
    folder = web.folder / "three-imagefolder"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        files = {str(path.relative_to(web.folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert {name: archive.read(name) for name in archive.namelist()} == files
    assert web.client.get(f"/downloads/{found['job']}").content == answer.content
    assert web.client.get("/downloads/999").status_code == 404
    assert post(web, dataset, "export", 400, name="x", layout="../x")["error"]


def exported(web: Served, name: str, layout: str) -> list[dict[str, Any]]:
    """The records of an export."""
    return [loaded.record for loaded in find_component("layouts", layout)().read(web.folder / name, "train")]


def test_an_export_means_the_same_before_and_after_applying(web: Served, dataset: str) -> None:
    edits = web.state.edits(dataset)
    edits.change(["0-0", "0-1"], texts={"caption": "a disc"})
    edits.change(["1-0", "1-1"], decision="reject")
    curation = web.client.get(f"/api/datasets/{dataset}/curation").json()
    assert {"imagefolder", "parquet", "webdataset"} <= set(curation["captioned"])
    assert post(web, dataset, "rejected") == {"rejected": 2}
    assert post(web, dataset, "rejected", selection={"images": ["0-0", "1-0"]}) == {"rejected": 1}
    for number in range(2):
        asked = {"name": f"tars{number}", "layout": "webdataset", "caption_column": "caption"}
        made = post(web, dataset, "export", **asked)["jobs"]
        jobs = [ended(web.state.queue, job) for job in made]
        assert [(job.state, job.device) for job in jobs] == [("done", "disk")] * 2
        assert web.state.queue.get(made[-1]).title == f"tars{number} → tars{number}-webdataset as webdataset"
        with tarfile.open(next((web.folder / f"tars{number}-webdataset").glob("*.tar"))) as archive:
            texts = [archive.extractfile(each).read() for each in archive if each.name.endswith(".txt")]  # type: ignore[union-attr]
        assert len(texts) == 10
        assert texts.count(b"a disc") == 2
        if not number:
            assert ended(web.state.queue, post(web, dataset, "apply")["job"]).state == "done"
    whole = post(web, dataset, "export", name="whole", layout="parquet", keep_rejected=True)
    assert len(whole["jobs"]) == 1
    assert ended(web.state.queue, whole["job"]).state == "done"
    assert len(exported(web, "whole", "parquet")) == 12
    saved = post(web, dataset, "save-as", name="all", keep_rejected=True)
    assert ended(web.state.queue, saved["job"]).state == "done"
    decisions = [record["decision"] for record in package.Dataset(web.folder / "all")]
    assert (len(decisions), decisions.count("reject")) == (12, 2)


def test_the_form_of_an_export_offers_captions_where_there_are_some(web: Served, dataset: str) -> None:
    asked = {"source": f"dataset:{dataset}", "layout": "webdataset"}
    chosen = '<option value="caption" selected>'
    assert chosen not in web.client.get("/make/export/parameters", params=asked).text
    web.state.edits(dataset).change(["0-0"], texts={"caption": "a disc"})
    sent = {"source": f"dataset:{dataset}", "values": {"layout": "webdataset"}}
    plan = web.client.post("/api/make/export/plan", json=sent).json()
    assert "dits of 1 image are not applied" in json.dumps(plan)
    assert ended(web.state.queue, post(web, dataset, "apply")["job"]).state == "done"
    assert chosen in web.client.get("/make/export/parameters", params=asked).text


def test_applying_waits_for_no_model_and_says_what_it_waits_for(web: Served, dataset: str) -> None:
    table = web.folder / "prompts.csv"
    slow = ["generate", str(table), f"--output={web.folder / 'slow'}", "--model=fake", "--latency=100"]
    busy = web.state.queue.add("generate", "slow", slow, output=web.folder / "slow")
    web.state.edits(dataset).change(["0-0"], decision="keep")
    assert ended(web.state.queue, post(web, dataset, "apply")["job"]).state == "done"
    writing = ["status", str(web.folder / "cats")]
    web.state.queue.add("score", "cats", writing, output=web.folder / "cats")
    undone = post(web, dataset, "apply", undo=True)
    assert undone["ahead"] == 1
    assert web.state.queue.get(undone["job"]).state == "queued"
    web.state.queue.cancel(busy)
    assert ended(web.state.queue, undone["job"]).state == "done"


def test_a_zip_file_is_as_long_as_told_whatever_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imagemill.server.web.curating import downloads

    folder = tmp_path / "export"
    (folder / "ä b").mkdir(parents=True)
    (folder / "ä b" / "large").write_bytes(b"x" * 3_000_000)
    (folder / "empty").touch()
    (tmp_path / "secret").write_text("no")
    (folder / "link").symlink_to(tmp_path / "secret")
    for number in range(200):
        (folder / f"{number}.txt").write_text(str(number))
    # As if 1,000,000 bytes and 100 files were the most that the first ZIP files could tell of.
    monkeypatch.setattr(downloads, "_LARGE", 1_000_000)
    monkeypatch.setattr(downloads, "_MANY", 100)
    content = b"".join(downloads.zip_stream(folder))
    assert len(content) == downloads.zip_length(folder)
