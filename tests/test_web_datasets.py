"""The first page: what it lists and how quickly, the trash, the demo, and all of it in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

import imagemill
from imagemill.dataset import Dataset
from tests.web_server import barriers, served

PROMPTS = ["a red circle", "a blue star", "a green heart"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset."""
    folder = tmp_path_factory.mktemp("made") / "shapes"
    imagemill.generate(PROMPTS, folder, model="fake", images_per_prompt=2, seed=1)
    return folder


@pytest.fixture
def listed(web: Any, shapes: Path) -> Any:
    """The web app over two datasets."""
    shutil.copytree(shapes, web.folder / "shapes")
    shutil.copytree(shapes, web.folder / "more" / "Other shapes")
    return web


def datasets(web: Any) -> dict[str, dict[str, Any]]:
    found = web.client.get("/api/datasets").json()["datasets"]
    return {each["name"]: each for each in found}


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def test_datasets_are_listed_with_their_counts(listed: Any) -> None:
    found = datasets(listed)
    assert list(found) == ["more/Other shapes", "shapes"]
    one = found["shapes"]
    assert (one["images"], one["state"], one["operator"], one["model"]) == (6, "complete", "generate", "fake")
    assert len(one["thumbnails"]) == 4
    assert all(listed.client.get(address).status_code == 200 for address in one["thumbnails"])
    text = listed.client.get("/datasets").text
    assert "more/Other shapes" in text
    assert "6 images" in text
    assert "Other" not in listed.client.get("/datasets", params={"search": "SHAPES", "by": "name"}).text.replace(
        "more/Other shapes", ""
    )
    assert "No dataset is called so" in listed.client.get("/datasets", params={"search": "zebra"}).text
    size = sum(path.stat().st_size for path in (listed.folder / "shapes").rglob("*") if path.is_file())
    assert f"{size / 1000:.0f} kB" in listed.client.get(f"/datasets/{one['id']}/size").text
    assert f"{size / 1000:.0f} kB" in listed.client.get(f"/datasets/{one['id']}/card").text


def test_what_is_no_dataset_or_lies_elsewhere_is_not_listed(listed: Any, shapes: Path, tmp_path: Path) -> None:
    (listed.folder / "link").symlink_to(shapes)
    (listed.folder / "linked").symlink_to(listed.folder / "more")
    (listed.folder / "notes").mkdir()
    assert len(datasets(listed)) == 2
    damaged = listed.folder / "damaged"
    shutil.copytree(shapes, damaged)
    (damaged / "job.toml").write_text("= not toml")
    assert datasets(listed)["damaged"]["state"] == "unreadable"
    assert "cannot be opened" in listed.client.get("/datasets").text


DAMAGED = {
    "binary": (b"^", b"\xff\xfe\x00"),
    "cut": (rb"\[steps(.|\n)*", b"[st"),
    "empty": (rb"(.|\n)*", b""),
    "a format to come": (b"format = 1", b"format = 2"),
    "no steps": (rb"\[\[steps(.|\n)*(?=\[plan\])", b""),
    "steps that are none": (rb"\[input\](.|\n)*(?=\[plan\])", b"steps = [3]\n"),
    "a step that does nothing": (b'operator = "generate"', b"operator = 3"),
    "requests that are no number": (b"requests = .*", b'requests = "x"'),
    "columns that are none": (b'model = "fake"', b'model = "fake"\ncolumns = 7'),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_dataset_is_told_and_can_be_deleted(listed: Any, shapes: Path, kind: str) -> None:
    folder = listed.folder / "damaged"
    shutil.copytree(shapes, folder)
    found, instead = DAMAGED[kind]
    content = (folder / "job.toml").read_bytes()
    (folder / "job.toml").write_bytes(re.sub(found, instead, content, count=1))
    one = datasets(listed)["damaged"]
    assert len(datasets(listed)) == 3
    assert (one["state"], one["problem"][:11]) == ("unreadable", "`job.toml` ")
    problem = one["problem"].replace("`", "")
    assert problem in said(listed.client.get(f"/datasets/{one['id']}/card"))
    for path in every_page(one["id"]):
        answer = listed.client.get(path)
        assert answer.status_code == 400, path
        assert f"damaged/{problem}" in said(answer), path
    decided = {"selection": {"images": ["0-0"]}, "decision": "keep"}
    for path, body in (("bulk", decided), ("save-as", {"name": "x"}), ("export", {"name": "x", "layout": "parquet"})):
        assert listed.client.post(f"/api/datasets/{one['id']}/{path}", json=body).status_code == 400, path
    assert not listed.state.queue.jobs()
    item = listed.client.post(f"/api/datasets/{one['id']}/delete").json()["item"]
    assert len(datasets(listed)) == 2
    assert listed.client.post(f"/api/trash/{item}/restore").json()["id"] == one["id"]
    (folder / "job.toml").write_bytes(content)
    assert listed.client.get(f"/datasets/{one['id']}").status_code == 200


@pytest.mark.parametrize("inner", ["job.toml", ".imagemill", "images", ".imagemill/edits.jsonl", "images/part-000001"])
def test_no_link_inside_of_a_dataset_is_followed(listed: Any, shapes: Path, tmp_path: Path, inner: str) -> None:
    outside, folder = tmp_path / "outside", listed.folder / "linked"
    shutil.copytree(shapes, folder)
    shutil.copytree(shapes, outside)
    (outside / ".imagemill/edits.jsonl").touch()
    if (folder / inner).is_dir():
        shutil.rmtree(folder / inner)
    (folder / inner).unlink(missing_ok=True)
    (folder / inner).symlink_to(outside / inner)
    before = tree(outside)
    one = datasets(listed)["linked"]
    assert (one["state"], one["thumbnails"]) == ("unreadable", [])
    assert one["problem"].startswith(f"`{inner}` is a link")
    for path in every_page(one["id"]):
        answer = listed.client.get(path)
        assert answer.status_code == 400, path
        assert f"linked/{inner} is a link" in said(answer), path
        assert "red circle" not in answer.text, path
    decided = {"selection": {"images": ["0-0"]}, "decision": "keep"}
    assert listed.client.post(f"/api/datasets/{one['id']}/bulk", json=decided).status_code == 400
    listed.client.post(f"/api/datasets/{one['id']}/delete").raise_for_status()
    assert len(datasets(listed)) == 2
    assert tree(outside) == before


def said(answer: Any) -> str:
    """The words of a page, or of what scripts read."""
    return html.unescape(re.sub(r"<[^>]+>|[`\\]", "", answer.text))


def every_page(dataset: str) -> list[str]:
    """What shows something of a dataset."""
    return [
        f"/datasets/{dataset}",
        f"/datasets/{dataset}/images/0-0",
        f"/datasets/{dataset}/images/0-0/file",
        f"/datasets/{dataset}/compare?images=0-0,1-0",
        f"/images/{dataset}/0-0/thumbnail",
        f"/images/{dataset}/0-0/full",
        f"/api/datasets/{dataset}/view",
        f"/api/datasets/{dataset}/columns",
        f"/api/datasets/{dataset}/images/0-0",
        f"/api/datasets/{dataset}/history",
        f"/api/datasets/{dataset}/curation",
        f"/api/datasets/{dataset}/similar/0-0",
        f"/api/datasets/{dataset}/duplicates",
    ]


def test_what_the_gallery_blurs_is_not_among_the_images_of_the_list(listed: Any) -> None:
    with (dataset := Dataset(listed.folder / "shapes")).lock():
        dataset.update(lambda record: {"prompt_nsfw": 0.1 if "star" in record["prompt"] else 0.9})
    shown = datasets(listed)["shapes"]["thumbnails"]
    assert [address.split("/")[3] for address in shown] == ["1-0", "1-1"]


def test_a_dataset_that_is_not_complete_says_so(listed: Any) -> None:
    folder = listed.folder / "shapes"
    (folder / ".imagemill" / "seals.jsonl").write_text("")
    part = folder / "images" / "part-000001" / "metadata.jsonl"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:2]))
    found = datasets(listed)["shapes"]
    assert (found["state"], found["images"], found["pending"]) == ("pending", 2, 4)
    failure = {"name": "prompt_1_image_0", "part": 1, "reason": "timeout", "attempts": 1}
    (folder / ".imagemill" / "failures.jsonl").write_text(json.dumps(failure) + "\n")
    found = datasets(listed)["shapes"]
    assert (found["failed"], found["pending"]) == (1, 3)
    with Dataset(folder).lock():
        assert datasets(listed)["shapes"]["state"] == "written"


def test_a_million_images_are_counted_without_reading_them(listed: Any) -> None:
    folder = listed.folder / "shapes"
    seals = "".join(f'{{"part":"part-{n:06d}","sealed":true,"records":1000,"sha256":"x"}}\n' for n in range(1, 1_001))
    (folder / ".imagemill" / "seals.jsonl").write_text(seals)
    for number in range(2, 1_001):
        (folder / "images" / f"part-{number:06d}").mkdir()
    job = (folder / "job.toml").read_text()
    (folder / "job.toml").write_text(job.replace("requests = 6", "requests = 1000000"))
    start = time.monotonic()
    assert datasets(listed)["shapes"]["images"] == 1_000_000
    first = time.monotonic() - start
    start = time.monotonic()
    assert datasets(listed)["shapes"]["state"] == "complete"
    assert first < 2
    assert time.monotonic() - start < 0.5


def small_copies(listed: Any, dataset: str) -> list[bytes]:
    """The thumbnails of all images of a dataset, which the server keeps from then on."""
    listed.client.get(f"/api/datasets/{dataset}/view").raise_for_status()
    images = [f"{row}-{image}" for row in range(3) for image in range(2)]
    return [listed.client.get(f"/images/{dataset}/{image}/thumbnail").raise_for_status().content for image in images]


def kept(folder: Path, copies: list[bytes]) -> int:
    """How many of some thumbnails can be found in the server's files, whether or not its database knows of them."""
    files = b"".join(path.read_bytes() for path in (folder / ".imagemill-server").glob("thumbnails.db*"))
    return sum(copy[len(copy) // 3 : len(copy) // 2] in files for copy in copies)


def within(seconds: float, true: Callable[[], bool]) -> bool:
    ends = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < ends:
        time.sleep(0.1)
    return found


def test_no_small_copy_of_what_was_removed_is_left(listed: Any) -> None:
    imagemill.generate(PROMPTS, listed.folder / "other", model="fake", images_per_prompt=2, seed=2)
    found = datasets(listed)
    one, other = (small_copies(listed, found[name]["id"]) for name in ("shapes", "other"))
    assert kept(listed.folder, one) == kept(listed.folder, other) == 6
    imagemill.remove(listed.folder / "shapes", "prompt_0_image_0", reason="asked for")
    assert within(20, lambda: kept(listed.folder, one) == 0)
    assert kept(listed.folder, other) == 6
    address = f"/images/{found['shapes']['id']}"
    assert within(20, lambda: listed.client.get(f"{address}/0-0/thumbnail").status_code == 404)
    assert listed.client.get(f"{address}/0-1/thumbnail").content == one[1]

    listed.client.post(f"/api/datasets/{found['other']['id']}/delete").raise_for_status()
    assert within(20, lambda: kept(listed.folder, other) == 0)


def test_what_was_removed_without_the_server_leaves_it_at_its_start(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "all" / "shapes")
    with served(tmp_path / "all") as web:
        copies = small_copies(web, web.workspace.id_of(web.folder / "shapes"))
    assert kept(tmp_path / "all", copies) == 6
    imagemill.remove(tmp_path / "all" / "shapes", "prompt_0_image_0", reason="asked for")
    with served(tmp_path / "all"):
        assert within(20, lambda: kept(tmp_path / "all", copies) == 0)


def test_a_dataset_goes_to_the_trash_and_comes_back_as_it_was(listed: Any) -> None:
    folder = listed.folder / "more" / "Other shapes"
    before = tree(folder)
    dataset = datasets(listed)["more/Other shapes"]["id"]
    gone = listed.client.post(f"/api/datasets/{dataset}/delete").json()
    assert list(datasets(listed)) == ["shapes"]
    assert not folder.exists()
    assert listed.client.post(f"/api/datasets/{dataset}/delete").status_code == 404
    text = listed.client.get("/datasets").text
    assert "Trash" in text
    assert "more/Other shapes" in text
    (listed.folder / "more").rmdir()
    back = listed.client.post(f"/api/trash/{gone['item']}/restore")
    assert back.json() == {"kind": "dataset", "id": dataset, "name": "more/Other shapes"}
    assert tree(folder) == before
    assert listed.client.post(f"/api/trash/{gone['item']}/restore").status_code == 404
    assert list((listed.workspace.state / "trash").iterdir()) == []


def test_decisions_go_with_their_dataset(listed: Any, shapes: Path) -> None:
    dataset = datasets(listed)["shapes"]["id"]
    listed.state.edits(dataset).change(["0-0"], decision="reject")
    gone = listed.client.post(f"/api/datasets/{dataset}/delete").json()
    shutil.copytree(shapes, listed.folder / "shapes")
    assert listed.state.edits(dataset).of("0-0").decision == ""
    other = listed.client.post(f"/api/datasets/{dataset}/delete").json()
    listed.client.post(f"/api/trash/{gone['item']}/restore")
    assert listed.state.edits(dataset).of("0-0").decision == "reject"
    listed.client.post(f"/api/trash/{other['item']}/delete")


def test_nothing_is_put_over_what_has_the_place_now(listed: Any, shapes: Path) -> None:
    dataset = datasets(listed)["shapes"]["id"]
    gone = listed.client.post(f"/api/datasets/{dataset}/delete").json()
    (listed.folder / "shapes").mkdir()
    answer = listed.client.post(f"/api/trash/{gone['item']}/restore")
    assert answer.status_code == 400
    assert answer.json()["error"] == "there is another `shapes` now"
    (listed.folder / "shapes").rmdir()
    (listed.folder / "shapes").symlink_to(shapes)
    assert listed.client.post(f"/api/trash/{gone['item']}/restore").status_code == 400
    (listed.folder / "shapes").unlink()
    assert listed.client.post(f"/api/trash/{gone['item']}/restore").status_code == 200


def test_a_dataset_that_is_written_or_waited_for_stays(listed: Any) -> None:
    dataset = datasets(listed)["shapes"]["id"]
    folder = listed.folder / "shapes"
    with Dataset(folder).lock():
        answer = listed.client.post(f"/api/datasets/{dataset}/delete")
    assert answer.status_code == 423
    assert answer.json()["error"] == "`shapes` is being written"
    job = listed.state.queue.add("score", "score", ["doctor"], output=folder, source=dataset, device="cuda:7")
    found = datasets(listed)["shapes"]
    while found["job"] is not None:
        assert found["job"] == job
        answer = listed.client.post(f"/api/datasets/{dataset}/delete")
        if answer.status_code != 200:
            assert (answer.status_code, answer.json()["error"]) == (423, "a job uses `shapes`")
            break
        found = datasets(listed)["shapes"]
    listed.client.post(f"/api/jobs/{job}/cancel")


def test_what_is_deleted_for_good_is_gone(listed: Any) -> None:
    dataset = datasets(listed)["shapes"]["id"]
    gone = listed.client.post(f"/api/datasets/{dataset}/delete").json()
    assert listed.client.post(f"/api/trash/{gone['item']}/delete").json()["name"] == "shapes"
    assert listed.client.post(f"/api/trash/{gone['item']}/restore").status_code == 404
    trash = listed.workspace.state / "trash"
    end = time.monotonic() + 5
    while list(trash.iterdir()) and time.monotonic() < end:
        time.sleep(0.02)
    assert list(trash.iterdir()) == []


@pytest.mark.parametrize("step", ["about", "moved"])
def test_a_kill_leaves_a_dataset_there_or_in_the_trash(listed: Any, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from imagemill.server.web.uploads import trash

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    folder = listed.folder / "shapes"
    before = tree(folder)
    monkeypatch.setattr(trash, *(("_move", killed) if step == "about" else ("sync_folder", killed)))
    with pytest.raises(KeyboardInterrupt):
        listed.state.trash.put("dataset", "shapes", folder, {"images": 6})
    monkeypatch.undo()
    items = trash.Trash(listed.workspace).list()
    assert folder.exists() == (not items)
    if items:
        listed.state.trash.restore(items[0].id)
    assert tree(folder) == before


@pytest.mark.parametrize("path", ["/api/datasets/{}/delete", "/api/trash/{}/restore", "/api/trash/{}/delete"])
@pytest.mark.parametrize("given", ["0" * 12, "f" * 16, "..%2f..%2fetc", "shapes", "%00", "a/b"])
def test_ids_are_no_paths(listed: Any, path: str, given: str) -> None:
    before = tree(listed.folder)
    assert listed.client.post(path.format(given)).status_code in {404, 422}
    assert tree(listed.folder) == before


def test_the_demo_is_queued(web: Any) -> None:
    assert "No dataset yet" in web.client.get("/datasets").text
    jobs = [web.client.post("/api/demo").json()["job"] for _ in range(2)]
    for job, name in zip(jobs, ("demo", "demo-2"), strict=True):
        found = web.state.queue.get(job)
        assert web.client.post(f"/api/jobs/{job}/cancel").status_code == 200
        assert (found.arguments, found.output) == (["demo", f"--output={web.folder / name}"], web.folder / name)
    # What is here already comes first.
    upload = web.state.uploads.add_text("animals.csv", b"prompt\na cat\n")
    assert web.state.uploads.wait(upload.id).state == "ready"
    text = web.client.get("/datasets").text.partition("No dataset yet")[2]
    assert f'class="button primary" href="/make/generate?upload={upload.id}"' in text.partition("Make the demo")[0]


def test_in_a_browser_a_dropped_table_opens_and_a_deleted_dataset_comes_back(browser_page: Any, listed: Any) -> None:
    page = browser_page
    page.goto("/datasets")
    page.locator(".dataset h2", has_text="Other shapes").wait_for()
    page.fill("#find input", "other")
    page.wait_for_url("**/datasets?search=other*")
    page.locator(".dataset").nth(1).wait_for(state="detached")
    page.fill("#find input", "")
    page.locator(".dataset").nth(1).wait_for()
    page.click("[aria-label='Delete shapes']")
    page.get_by_text("shapes is in the trash").wait_for()
    page.locator(".dataset[data-name=shapes]").wait_for(state="detached")
    page.click(".toast >> text=Undo")
    page.locator(".dataset[data-name=shapes]").wait_for()

    transfer = page.evaluate_handle(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(new File(["prompt,seed\\na cat,1\\n,2\\n"], "dropped <i>.csv"));
            return transfer;
        }"""
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    page.get_by_text("Drop to upload").wait_for()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    page.wait_for_url("**/uploads/*")
    page.get_by_text("empty prompt").wait_for()
    assert page.title().startswith("dropped <i>.csv")
    assert page.locator("h1 i").count() == 0


def test_in_a_browser_who_leaves_while_something_is_sent_is_asked(browser_page: Any, listed: Any) -> None:
    page = browser_page
    page.goto("/datasets")
    page.route("**/api/uploads", lambda route: None)  # it is never answered
    page.click("h1")
    page.set_input_files("#send-files", {"name": "a.csv", "mimeType": "text/csv", "buffer": b"prompt\na cat\n"})
    cancel = page.get_by_role("button", name="Cancel sending a.csv")
    cancel.wait_for()
    with page.expect_event("dialog") as asked:
        page.once("dialog", lambda dialog: dialog.dismiss())
        page.evaluate("location.assign('/executions')")
    assert asked.value.type == "beforeunload"
    cancel.click()
    cancel.wait_for(state="detached")
    page.goto("/executions")


def test_in_a_browser_pages_are_accessible_and_live(browser_page: Any, listed: Any, shapes: Path) -> None:
    page = browser_page
    upload = listed.state.uploads.add_text("bad.csv", b"prompt,seed\na cat,1\n,2\n")
    listed.state.uploads.wait(upload.id)
    for path in ("/datasets", f"/uploads/{upload.id}"):
        page.goto(path)
        assert barriers(page) == []
    page.goto("/datasets")
    page.locator("html[data-live=on]").wait_for(state="attached")
    shutil.copytree(shapes, listed.folder / "new")
    listed.state.events.publish("datasets", {})
    page.locator(".dataset[data-name=new]").wait_for()
