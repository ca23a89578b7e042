"""The gallery's server: views that do not move, what people decided on top of them, pictures, and likeness."""

from __future__ import annotations

import io
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imagemill
from imagemill.dataset import Dataset
from imagemill.dataset.vectors import Vectors
from imagemill.environment import cores
from imagemill.operators.generate import generate
from imagemill.server.web.gallery import Thumbnails, snapshots
from imagemill.server.web.gallery.thumbnails import Wanted
from imagemill.server.web.workspace import Workspace
from tests.web_server import TOKEN, Served, served, until

ROWS = 12
EACH = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve prompts with three images each, scored with hashes and with a column of an own, in which some lack."""
    folder = tmp_path_factory.mktemp("gallery")
    table = folder / "prompts.csv"
    lines = [f"{shape} number {row},t{row % 3}" for row, shape in enumerate(["a red circle", "ein grüner Stern"] * 6)]
    table.write_text("\n".join(["prompt,topic", *lines]) + "\n")
    dataset = generate(table, folder / "set", model="fake", images_per_prompt=EACH, width=64, height=64, seed=1)

    def scores(record: dict[str, Any]) -> dict[str, Any]:
        row, image = (int(part) for part in record["file_name"].removesuffix(".png").split("_")[1::2])
        return {"alignment": None if row == 5 else (row * 37 + image) % 100 / 100, "image_nsfw": 0.9 * (row == 2)}

    with dataset.lock():
        dataset.update(scores)
    imagemill.score(folder / "set", "hashes")
    return folder / "set"


@pytest.fixture
def gallery(web: Served, made: Path) -> Gallery:
    shutil.copytree(made, web.folder / "set")
    return Gallery(web, web.workspace.id_of(web.folder / "set"))


class Gallery:
    """One dataset, and questions about it."""

    def __init__(self, web: Served, dataset: str) -> None:
        self.web = web
        self.id = dataset
        self.edits = web.state.edits(dataset)

    def get(self, path: str, status: int = 200, **parameters: Any) -> Any:
        answer = self.web.client.get(path, params=parameters)
        assert answer.status_code == status, answer.text
        return answer.json()

    def open(self, **query: Any) -> dict[str, Any]:
        until = time.monotonic() + 20
        while (answer := self.web.client.get(f"/api/datasets/{self.id}/view", params=query)).status_code == 202:
            assert time.monotonic() < until
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def rows(self, **query: Any) -> list[dict[str, Any]]:
        view = self.open(**query)
        rows: list[dict[str, Any]] = self.get(f"/api/views/{view['view']}/slice", count=1000)["rows"]
        assert [row["place"] for row in rows] == list(range(view["total"]))
        return rows

    def ids(self, **query: Any) -> list[str]:
        return [row["id"] for row in self.rows(**query)]


def records(gallery: Gallery) -> dict[str, dict[str, Any]]:
    return {
        record["file_name"].removesuffix(".png").replace("prompt_", "").replace("_image_", "-"): record
        for record in Dataset(gallery.web.folder / "set")
    }


def test_a_view_shows_what_a_scan_of_the_records_finds(gallery: Gallery) -> None:
    known = records(gallery)
    assert gallery.ids() == list(known)
    assert gallery.ids(search="STERN") == [image for image, record in known.items() if "Stern" in record["prompt"]]
    where = "alignment > 0.5 and topic = 't1'"
    passing = [image for image, record in known.items() if (record["alignment"] or 0) > 0.5 and record["topic"] == "t1"]
    assert gallery.ids(where=where) == passing != []
    by = gallery.rows(by="alignment", where="topic != 't0'")
    scores = [row["score"] for row in by]
    assert scores == [known[row["id"]]["alignment"] for row in by]
    assert scores == sorted([score for score in scores if score is not None], reverse=True) + [None] * 3
    first = gallery.rows()[0]
    assert first | {"thumbnail": ""} == {
        "id": "0-0", "place": 0, "prompt": "a red circle number 0", "caption": "a red circle number 0", "width": 64,
        "height": 64, "thumbnail": "", "decision": "", "rating": 0, "tags": [], "edited": False, "nsfw": False,
    }  # fmt: skip
    assert [row["id"] for row in gallery.rows() if row["nsfw"]] == ["2-0", "2-1", "2-2"]


def test_a_view_does_not_move_while_images_come_and_people_decide(gallery: Gallery, tmp_path: Path) -> None:
    gallery.edits.change(["1-0"], decision="keep")
    view = gallery.open(decision="undecided")
    before = gallery.get(f"/api/views/{view['view']}/slice")["rows"]
    gallery.edits.change(["0-0"], decision="reject", rating=4, add_tags=["odd"])
    after = gallery.get(f"/api/views/{view['view']}/slice")["rows"]
    assert [row["id"] for row in after] == [row["id"] for row in before]
    assert (after[0]["decision"], after[0]["rating"], after[0]["tags"]) == ("reject", 4, ["odd"])
    assert len(gallery.ids(decision="undecided")) == len(before) - 1
    more = tmp_path / "more.csv"
    more.write_text("prompt\n" + "one more\n" * 5)
    generate(more, gallery.web.folder / "more", model="fake", width=64, height=64)
    other = Gallery(gallery.web, gallery.web.workspace.id_of(gallery.web.folder / "more"))
    whole = other.open()["view"]
    assert other.get(f"/api/views/{whole}/newer") == {"newer": 0}
    shutil.copytree(gallery.web.folder / "set" / "images" / "part-000001", other.web.folder / "more/images/part-000002")
    until(lambda: other.get(f"/api/views/{whole}/newer")["newer"] == ROWS * EACH)
    assert len(other.get(f"/api/views/{whole}/slice")["rows"]) == 5
    assert other.open()["total"] == 5 + ROWS * EACH


def test_what_people_edited_is_found_and_what_they_replaced_is_not(gallery: Gallery) -> None:
    gallery.edits.change(["3-1"], texts={"topic": "zebra", "caption": "Ein blauer Stern"})
    gallery.edits.change(["4-0"], texts={"caption": "nothing"}, rating=5)
    gallery.edits.change(["4-1", "4-2"], rating=2, add_tags=["dark"])
    assert gallery.ids(search="zebra", search_column="topic") == ["3-1"]
    assert "3-1" not in gallery.ids(where="topic = 't0'")
    assert gallery.ids(where="topic = 'zebra' or topic = 'nowhere'") == ["3-1"]
    # Captions are the prompts until somebody writes others.
    assert gallery.ids(search="blauer", search_column="caption") == ["3-1"]
    circles = gallery.ids(search="circle number 4", search_column="caption")
    assert circles == ["4-1", "4-2"]
    assert gallery.ids(where="caption = 'nothing'") == ["4-0"]
    assert gallery.ids(by="topic")[0] == "3-1"
    assert gallery.ids(by="caption", ascending=True)[-1] == "4-0"
    assert gallery.ids(by="rating")[:3] == ["4-0", "4-1", "4-2"]
    assert gallery.ids(by="rating", ascending=True)[:3] == ["4-1", "4-2", "4-0"]
    assert gallery.ids(rating=3) == ["4-0"]
    assert gallery.ids(tag="dark") == ["4-1", "4-2"]
    assert gallery.ids(tag="bright") == []
    assert gallery.ids(edited=1) == ["3-1", "4-0"]
    row = gallery.rows(tag="", search="zebra", search_column="topic", by="topic")[0]
    assert (row["caption"], row["score"], row["edited"]) == ("Ein blauer Stern", "zebra", True)
    gallery.edits.undo()
    assert gallery.ids(tag="dark") == []


def test_stacks_places_and_ids(gallery: Gallery) -> None:
    stacks = gallery.rows(stack="prompt", by="alignment")
    assert len(stacks) == ROWS
    assert {row["stacked"] for row in stacks} == {EACH}
    assert stacks[0]["id"] == gallery.ids(by="alignment")[0]
    view = gallery.open(by="alignment")["view"]
    ids = gallery.get(f"/api/views/{view}/ids", count=1000)["ids"]
    assert ids == gallery.ids(by="alignment")
    found = gallery.get(f"/api/views/{view}/place", image=ids[4])
    assert found == {"place": 4, "previous": ids[3], "next": ids[5], "total": ROWS * EACH}
    assert gallery.get(f"/api/views/{view}/place", image=ids[0])["previous"] is None
    other = gallery.open(where="alignment > 0.9")["view"]
    assert gallery.get(f"/api/views/{other}/place", image=ids[-1])["place"] is None


def test_a_stack_is_all_of_its_images(gallery: Gallery) -> None:
    from imagemill.server.web.gallery import Selection

    resolve = gallery.web.state.views.resolve
    gallery.edits.change(["3-1"], rating=5)
    gallery.edits.change(["1-0", "1-1", "4-0", "5-0", "5-1", "5-2"], decision="keep", rating=2)
    gallery.edits.change(["1-2", "4-1"], decision="reject", rating=2)
    gallery.edits.change(["5-1"], texts={"caption": "another"})
    view = gallery.open(stack="prompt", by="rating")
    assert (view["total"], view["matching"], view["images"]) == (ROWS, ROWS * EACH, ROWS * EACH)
    rows = gallery.get(f"/api/views/{view['view']}/slice", count=2)["rows"]
    rows += gallery.get(f"/api/views/{view['view']}/slice", start=2, count=3)["rows"]
    found = {row["id"]: [row[name] for name in ("decision", "kept", "rejected", "rating", "edited")] for row in rows}
    # A mark says what is true of all.
    assert found == {
        "3-1": ["", 0, 0, 0, False], "1-0": ["", 2, 1, 2, False], "4-0": ["", 1, 1, 0, False],
        "5-0": ["keep", 3, 0, 2, False], "0-0": ["", 0, 0, 0, False],
    }  # fmt: skip
    told = gallery.get(f"/api/views/{view['view']}/ids", start=1, count=2)
    assert told == {"ids": ["1-0", "4-0"], "stacked": [3, 3]}
    facets = gallery.get(f"/api/views/{view['view']}/facets")
    assert facets["decisions"] == {"undecided": ROWS * EACH - 8, "keep": 6, "reject": 2}
    some = resolve(gallery.id, Selection(images=["3-1", "4-0"], stacks=view["view"]))
    assert some.ids == ["3-0", "3-1", "3-2", "4-0", "4-1", "4-2"]
    rest = resolve(gallery.id, Selection.model_validate({"view": view["view"], "except": ["3-1", "4-0"]}))
    assert rest.ids == [image for image in gallery.ids() if image not in some.ids]
    # What the filter leaves out is not meant.
    kept = gallery.open(stack="prompt", decision="keep")["view"]
    assert resolve(gallery.id, Selection(images=["1-0"], stacks=kept)).ids == ["1-0", "1-1"]
    assert resolve(gallery.id, Selection(view=kept)).ids == ["1-0", "1-1", "4-0", "5-0", "5-1", "5-2"]
    nothing = gallery.open(stack="prompt", search="no such prompt")
    assert (nothing["total"], nothing["matching"]) == (0, 0)
    assert gallery.get(f"/api/views/{nothing['view']}/slice") == {"rows": []}


def test_figures_of_a_view(gallery: Gallery) -> None:
    gallery.edits.change(["0-0", "0-1"], decision="keep", rating=3, add_tags=["b", "a"])
    gallery.edits.change(["0-0"], remove_tags=["a"], texts={"topic": "mine"})
    view = gallery.open(where="topic = 't0' or topic = 'mine'")["view"]
    total = len(gallery.ids(where="topic = 't0'")) + 1
    assert gallery.get(f"/api/views/{view}/facets") == {
        "decisions": {"undecided": total - 2, "keep": 2, "reject": 0},
        "ratings": [total - 2, 0, 0, 2, 0, 0],
        "tags": [{"value": "b", "count": 2}, {"value": "a", "count": 1}],
        "edited": 1,
    }
    topics = gallery.get(f"/api/views/{view}/histogram", column="topic")
    assert topics == {
        "kind": "text", "missing": 0, "others": 0,
        "values": [{"value": "t0", "count": total - 1}, {"value": "mine", "count": 1}],
    }  # fmt: skip
    numbers = gallery.get(f"/api/views/{gallery.open()['view']}/histogram", column="alignment", bins=5)
    assert (numbers["kind"], len(numbers["edges"]), sum(numbers["counts"]), numbers["missing"]) == ("number", 6, 33, 3)
    columns = {column["name"]: column for column in gallery.get(f"/api/datasets/{gallery.id}/columns")}
    assert columns["caption"] == {
        "name": "caption", "type": "text", "sortable": True, "searchable": True, "editable": True,
    }  # fmt: skip
    assert not columns["prompt"]["editable"]
    assert columns["alignment"]["type"] == "number"


def test_a_selection_is_its_images_or_all_of_a_view_but_some(gallery: Gallery) -> None:
    from imagemill.server.web.gallery import Gone, Selection
    from imagemill.server.web.workspace import NotFound

    views = gallery.web.state.views
    view = gallery.open(search="Stern", by="alignment")["view"]
    selected = views.resolve(gallery.id, Selection.model_validate({"view": view, "except": ["1-0"]}))
    assert selected.ids == [image for image in gallery.ids(search="Stern") if image != "1-0"]
    assert selected.index.values("file_name", selected.rows)[0].as_py() == "prompt_1_image_1.png"
    assert views.resolve(gallery.id, Selection(images=["4-1", "0-2"])).ids == ["0-2", "4-1"]
    for wrong in ["99-0", "0-99", "9999999999-9999999999"]:
        with pytest.raises(NotFound):
            views.resolve(gallery.id, Selection(images=[wrong]))
    with pytest.raises(Gone):
        views.resolve(gallery.id, Selection(view="0" * 16))


WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("/api/datasets/{id}/view", {"where": "alignment >"}, 400, "expected a column or a value"),
    ("/api/datasets/{id}/view", {"where": "alignmnt > 1"}, 400, "did you mean `alignment`"),
    ("/api/datasets/{id}/view", {"by": "nothing"}, 400, "there is no column `nothing`"),
    ("/api/datasets/{id}/view", {"search": "x", "search_column": "seed"}, 400, "and no text"),
    ("/api/datasets/{id}/view", {"where": "x" * 2_001}, 422, "where"),
    ("/api/datasets/{id}/view", {"decision": "maybe"}, 422, "decision"),
    ("/api/datasets/000000000000/view", {}, 404, "there is no dataset"),
    ("/api/datasets/..%2Fset/view", {}, 404, ""),
    ("/api/views/0000000000000000/slice", {}, 410, "ask for it again"),
    ("/api/views/{view}/slice", {"count": 1_001}, 422, "count"),
    ("/api/views/{view}/slice", {"start": -1}, 422, "start"),
    ("/api/views/{view}/histogram", {"column": "nothing"}, 400, "there is no column"),
    ("/api/datasets/{id}/similar/99-99", {}, 404, "there is no image"),
    ("/images/{id}/99-99/thumbnail", {}, 404, ""),
    ("/images/{id}/99-99/full", {}, 404, ""),
    ("/images/{id}/0-0.png/full", {}, 404, ""),
]


def test_what_cannot_be_is_told(gallery: Gallery) -> None:
    view = gallery.open()["view"]
    for template, parameters, status, said in WRONG:
        path = template.format(id=gallery.id, view=view)
        answer = gallery.web.client.get(path, params=parameters)
        assert answer.status_code == status, (path, answer.text)
        told = json.loads(answer.text) if path.startswith("/api") else {"error": answer.text, "hint": ""}
        assert said in f"{told['error']} {told['hint']}"
        assert str(gallery.web.folder) not in answer.text


def test_pictures_are_served_small_and_whole(gallery: Gallery) -> None:
    client = gallery.web.client
    row = gallery.rows()[7]
    small = client.get(row["thumbnail"])
    assert small.status_code == 200
    assert (small.headers["content-type"], small.headers["x-content-type-options"]) == ("image/webp", "nosniff")
    assert "immutable" in small.headers["cache-control"]
    assert "sandbox" in small.headers["content-security-policy"]
    with Image.open(io.BytesIO(small.content)) as image:
        assert (image.format, image.size) == ("WEBP", (64, 64))
    assert client.get(row["thumbnail"], headers={"If-None-Match": small.headers["etag"]}).status_code == 304
    plain = client.get(row["thumbnail"].partition("?")[0])
    assert plain.content == small.content
    assert "immutable" not in plain.headers["cache-control"]
    path = gallery.web.folder / "set/images/part-000001" / "prompt_2_image_1.png"
    whole = client.get(f"/images/{gallery.id}/2-1/full")
    assert whole.content == path.read_bytes()
    assert whole.headers["content-type"] == "image/png"
    assert whole.headers["content-disposition"] == 'inline; filename="prompt_2_image_1.png"'
    part = client.get(f"/images/{gallery.id}/2-1/full", headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"PNG")


def test_what_is_removed_damaged_or_elsewhere_is_not_served(gallery: Gallery, tmp_path: Path) -> None:
    client = gallery.web.client
    images = gallery.web.folder / "set/images/part-000001"
    paths = {image: images / f"prompt_{image[0]}_image_0.png" for image in ("0-0", "1-0", "2-0", "3-0")}
    seen = client.get(f"/images/{gallery.id}/0-0/thumbnail")
    assert seen.status_code == 200
    paths["0-0"].unlink()
    (tmp_path / "secret.png").write_bytes(paths["3-0"].read_bytes())
    paths["1-0"].unlink()
    paths["1-0"].symlink_to(tmp_path / "secret.png")
    paths["2-0"].write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    for image, status in {"0-0": 404, "1-0": 404, "2-0": 415, "3-0": 200}.items():
        for size in ("thumbnail", "full"):
            answer = client.get(f"/images/{gallery.id}/{image}/{size}")
            assert answer.status_code == status, (image, size)
            assert str(gallery.web.folder) not in answer.text
    shutil.move(images, tmp_path / "elsewhere")
    images.symlink_to(tmp_path / "elsewhere")
    assert client.get(f"/images/{gallery.id}/3-0/full").status_code == 400


def test_the_list_of_datasets_shows_images_without_an_index(gallery: Gallery) -> None:
    shown = gallery.get("/api/datasets")["datasets"][0]["thumbnails"]
    assert [gallery.web.client.get(path).headers["content-type"] for path in shown] == ["image/webp"] * len(shown)
    assert shown
    assert not (gallery.web.folder / "set" / ".imagemill" / "index").exists()


def test_what_is_kept_of_datasets_makes_room_for_others(
    gallery: Gallery, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_DATASETS", 1)
    shutil.copytree(made, gallery.web.folder / "another")
    another = Gallery(gallery.web, gallery.web.workspace.id_of(gallery.web.folder / "another"))
    view = gallery.open()["view"]
    assert another.open()["total"] == ROWS * EACH
    assert list(gallery.web.state.views.snapshots._held) == [another.id]
    assert list(gallery.web.workspace._indexes) == [another.id]
    assert len(gallery.get(f"/api/views/{view}/slice")["rows"]) == ROWS * EACH
    assert gallery.web.client.get(f"/images/{gallery.id}/2-1/thumbnail").status_code == 200
    assert gallery.open()["total"] == ROWS * EACH


def test_an_image_is_there_as_soon_as_it_is_made(web: Served, tmp_path: Path) -> None:
    table = tmp_path / "many.csv"
    table.write_text("prompt\n" + "a\n" * 60)
    making = threading.Thread(
        target=generate, args=(table, web.folder / "many"), kwargs={"model": "fake", "latency": 0.1}
    )
    making.start()
    seen: set[str] = set()
    while making.is_alive() or not seen:
        until((web.folder / "many" / "job.toml").exists)
        for path in (web.folder / "many" / "images").glob("*/metadata.jsonl"):
            for line in path.read_text().splitlines(keepends=True):
                image = line.partition("prompt_")[2].partition(".")[0].replace("_image_", "-")
                if line.endswith("\n") and image not in seen:
                    address = f"/images/{web.workspace.id_of(web.folder / 'many')}/{image}/thumbnail"
                    assert web.client.get(address).status_code == 200, image
                    seen.add(image)
    assert seen


def test_thumbnails_outlive_the_server_and_a_damaged_file(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "all" / "set")
    database = tmp_path / "all" / ".imagemill-server" / "thumbnails.db"
    sizes = []
    for damage in (False, False, True):
        if damage:
            database.write_bytes(b"no database" * 1_000)
        with served(tmp_path / "all") as web:
            image = f"/images/{web.workspace.id_of(web.folder / 'set')}/1-1/thumbnail"
            sizes.append(len(web.client.get(image).content))
            assert web.client.get(image).status_code == 200
    assert len({*sizes}) == 1


@pytest.fixture
def thumbnails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Thumbnails]:
    """With one thread, so that there is an order."""
    monkeypatch.setattr("imagemill.server.web.gallery.thumbnails.cores", lambda: 1)
    made = Thumbnails(Workspace(tmp_path / "thumbnails"), most_bytes=200_000)
    yield made
    made.close()


def test_the_last_wanted_thumbnail_is_made_first_and_unwanted_ones_never(
    thumbnails: Thumbnails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "picture.png"
    Image.effect_noise((300, 150), 40).save(picture)
    order: list[str] = []
    begun, go = threading.Semaphore(0), threading.Event()
    keep = thumbnails._keep

    def keeping(key: str, wanted: Wanted, image: bytes) -> None:
        order.append(key)
        begun.release()
        assert go.wait(20)
        keep(key, wanted, image)

    monkeypatch.setattr(thumbnails, "_keep", keeping)
    thumbnails.want("first", "0", picture)
    assert begun.acquire(timeout=20)
    wanted = {name: thumbnails.want(name, "0", picture) for name in ("a", "b", "c")}
    thumbnails.leave("b", wanted["b"])
    go.set()
    content = wanted["a"].future.result(20)
    assert order == ["first", "c", "a"]
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (256, 128)


def test_a_browser_that_has_left_waits_for_no_thumbnail(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    thumbnails = gallery.web.state.thumbnails
    addresses = [row["thumbnail"] for row in gallery.rows()[:8]]
    go = threading.Event()
    monkeypatch.setattr(thumbnails, "_keep", lambda *_: go.wait(20))
    port = int(gallery.web.url.rpartition(":")[2])
    browsers = []
    for address in addresses:
        browsers.append(socket.create_connection(("127.0.0.1", port)))
        lines = [f"GET {address} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Authorization: Bearer {TOKEN}", "", ""]
        browsers[-1].sendall("\r\n".join(lines).encode())
    until(lambda: len(thumbnails._wanted) == len(addresses) - min(2, cores()))
    for browser in browsers:
        browser.close()
    until(lambda: not thumbnails._wanted)
    go.set()
    assert gallery.web.client.get(addresses[0]).status_code == 200


def test_old_thumbnails_make_room(thumbnails: Thumbnails, tmp_path: Path) -> None:
    for number in range(1_200):
        thumbnails._keep(str(number), Wanted("0", tmp_path), bytes(1_000))
    assert thumbnails.kept("0") is None
    assert thumbnails.kept("1199") == bytes(1_000)


def test_similar_images_and_duplicates(gallery: Gallery, tmp_path: Path) -> None:
    images = gallery.web.folder / "set" / "images" / "part-000001"
    lines = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    # Two equal to the first, and one that differs in two bits.
    for line in lines[4:7]:
        line["perceptual_hash"] = lines[0]["perceptual_hash"]
    lines[6]["perceptual_hash"] = f"{int(lines[0]['perceptual_hash'], 16) ^ 0b101:016x}"
    (images / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = gallery.get(f"/api/datasets/{gallery.id}/similar/1-1", limit=4)
    assert [row["id"] for row in found["rows"]] == ["1-1", "0-0", "1-2", "2-0"]
    assert [row["distance"] for row in found["rows"]] == [0, 0, 0, 2]
    groups = gallery.get(f"/api/datasets/{gallery.id}/duplicates", threshold=2)
    mine = next(group for group in groups["groups"] if group[0]["id"] == "0-0")
    assert {"0-0", "1-1", "1-2", "2-0"} <= {row["id"] for row in mine}
    equal = gallery.get(f"/api/datasets/{gallery.id}/duplicates", threshold=0)
    assert ["0-0", "1-1", "1-2"] in [[row["id"] for row in group] for group in equal["groups"]]


def test_similar_images_by_their_vectors(web: Served, tmp_path: Path) -> None:
    table = tmp_path / "few.csv"
    table.write_text("prompt\n" + "a\n" * 4)
    dataset = generate(table, web.folder / "few", model="fake")
    with dataset.lock():
        dataset.update(lambda record: {"embedding": "prompt_3" not in record["file_name"]})
    vectors = {
        "prompt_0_image_0": [1, 0],
        "prompt_1_image_0": [0, 1],
        "prompt_2_image_0": [3, 1],
        "prompt_3_image_0": [1, 0],
    }
    stored = {name: np.array(vector, np.float16) for name, vector in vectors.items()}
    Vectors(web.folder / "few", "embedding").write("part-000001", stored)
    gallery = Gallery(web, web.workspace.id_of(web.folder / "few"))
    found = gallery.get(f"/api/datasets/{gallery.id}/similar/0-0")
    assert [row["id"] for row in found["rows"]] == ["0-0", "2-0", "1-0"]
    assert [row["distance"] for row in found["rows"]] == pytest.approx([0, 1 - 3 / 10**0.5, 1], abs=1e-3)
    assert gallery.get(f"/api/datasets/{gallery.id}/similar/3-0", 409)["hint"].startswith("score them")


def test_likeness_needs_hashes(web: Served, tmp_path: Path) -> None:
    table = tmp_path / "few.csv"
    table.write_text("prompt\na\nb\n")
    generate(table, web.folder / "few", model="fake", width=64, height=64)
    gallery = Gallery(web, web.workspace.id_of(web.folder / "few"))
    for path in ("similar/0-0", "duplicates"):
        told = gallery.get(f"/api/datasets/{gallery.id}/{path}", 409)
        assert "hashes" in told["hint"]


def test_many_readers_at_once_while_the_dataset_grows(gallery: Gallery) -> None:
    def look(number: int) -> int:
        with pytest.MonkeyPatch.context():
            gallery.edits.change([f"{number % ROWS}-0"], rating=number % 6)
            return len(gallery.ids(by="rating" if number % 2 else "alignment", rating=number % 2))

    with ThreadPoolExecutor(6) as pool:
        counts = list(pool.map(look, range(30)))
    assert {counts[number] for number in range(0, 30, 2)} == {ROWS * EACH}
