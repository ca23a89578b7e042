"""Uploads: tables and pictures come in over HTTP, are read within limits, and nothing harmful gets through."""

from __future__ import annotations

import gzip
import html
import io
import json
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from imagemill.operators.import_ import import_dataset
from imagemill.server.web.uploads import receiving
from tests.web_server import until

_PART = b"--x\r\nContent-Disposition: form-data; %b\r\n\r\n"
PARTI = Path(__file__).parents[2] / "shared" / "data" / "parti-prompts.tsv"


def send(web: Any, *files: tuple[str, bytes]) -> list[dict[str, Any]]:
    answer = web.client.post("/api/uploads", files=[("files", file) for file in files])
    assert answer.status_code == 201, answer.text
    uploads: list[dict[str, Any]] = answer.json()["uploads"]
    for upload in uploads:
        web.state.uploads.wait(upload["id"])
    return uploads


def refusal(web: Any, *files: tuple[str, bytes]) -> str:
    """Why an upload cannot be used, wherever that is noticed."""
    answer = web.client.post("/api/uploads", files=[("files", file) for file in files])
    if answer.status_code != 201:
        assert 400 <= answer.status_code < 500
        return str(answer.json()["error"])
    (upload,) = answer.json()["uploads"]
    found = web.state.uploads.wait(upload["id"])
    assert found.state == "refused"
    text: str = found.preview["problem"][0]
    shown = html.unescape(re.sub("</?code>", "`", web.client.get(upload["url"]).text))
    assert text.casefold() in shown.casefold()
    return text


def picture(width: int = 40, height: int = 30, kind: str = "PNG") -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, kind)
    return buffer.getvalue()


def archive(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def test_a_table_is_shown_with_its_columns_and_every_rejected_row(web: Any) -> None:
    table = (
        'prompt,negative_prompt,seed,style\n"a cat, asleep",blurry,1,oil\na dog,2\n'
        '"never closed,x,3,y\n,b,4,z\na <b>fox</b>,,5,ink\n'
    )
    (upload,) = send(web, ("Mine <1>.csv", table.encode()))
    told = web.client.get(f"/api/uploads/{upload['id']}").json()
    assert (told["name"], told["kind"], told["state"]) == ("Mine <1>.csv", "table", "ready")
    assert (told["rows"], told["rejected"], told["prompt_column"]) == (2, 3, "prompt")
    text = web.client.get(upload["url"]).text
    for shown in (
        "Mine &lt;1&gt;.csv",
        "a &lt;b&gt;fox&lt;/b&gt;",
        "2 fields where the header has 4",
        "a quote is opened and not closed",
        "empty prompt",
        "negative prompt",
        f"/make/generate?upload={upload['id']}",
    ):
        assert shown in text
    found = web.state.uploads.find(upload["id"])
    assert [line for line, _, _ in found.details["rejects"]] == [3, 4, 5]
    assert {column["name"]: column["role"] for column in found.preview["columns"]} == {
        "prompt": "prompt",
        "negative_prompt": "negative prompt",
        "seed": "setting",
        "style": "",
    }
    assert found.path.name == "table.csv"
    assert found.path.read_bytes() == table.encode()


@pytest.mark.skipif(not PARTI.exists(), reason="PartiPrompts are not at hand")
def test_parti_prompts_come_in(web: Any) -> None:
    (upload,) = send(web, ("PartiPrompts.tsv", PARTI.read_bytes()))
    told = web.client.get(f"/api/uploads/{upload['id']}").json()
    assert (told["rows"], told["rejected"], told["prompt_column"]) == (1_632, 0, "Prompt")


def test_tables_come_in_packed_and_in_columns(web: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a cat", "a dog"], "blob": [b"\0\1", b"\2"]}), parquet)
    csv = b"prompt\na cat\na dog\n"
    uploads = send(
        web,
        ("a.TSV", csv),
        ("a.parquet", parquet.getvalue()),
        ("a.txt.gz", gzip.compress(b"a cat\na dog\n", mtime=0)),
        ("a.csv.zst", pa.compress(csv, codec="zstd", asbytes=True)),
    )
    assert [web.state.uploads.find(upload["id"]).rows for upload in uploads] == [2] * 4
    assert len(web.client.get("/api/uploads").json()["uploads"]) == 4
    columns = web.state.uploads.find(uploads[1]["id"]).preview["columns"]
    assert [(column["name"], column["role"]) for column in columns] == [("prompt", "prompt"), ("blob", "not kept")]
    assert "not kept</span>" in web.client.get(uploads[1]["url"]).text


def test_a_table_without_prompts_can_still_be_used_with_a_template(web: Any) -> None:
    (upload,) = send(web, ("animals.csv", b"animal,n\ncat,1\n"))
    text = web.client.get(upload["url"]).text
    assert "No column is called" in text
    assert f"/make/generate?upload={upload['id']}" in text


def test_huge_cells_do_not_choke_the_page(web: Any) -> None:
    (upload,) = send(web, ("long.csv", b"prompt,x\n" + b"a" * 3_000_000 + b",1\n"))
    text = web.client.get(upload["url"]).text
    assert len(text) < 50_000
    assert "2,998,000 more characters" in text


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("empty.csv", b"", "empty"),
        ("deep.json", b"[" * 200_000, "JSON"),
        ("no.parquet", b"PAR1" + b"\0" * 100 + b"PAR1", "Parquet"),
        ("cut.csv.gz", gzip.compress(b"prompt\n" + bytes(range(256)) * 99, mtime=0)[:-20], "unpacked"),
        ("twice.csv.gz", gzip.compress(gzip.compress(b"prompt\na cat\n", mtime=0), mtime=0), "not UTF-8"),
        ("x.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        ("run.exe", b"MZ", "files of its kind are not read"),
        ("moving.gif", b"GIF89a", "files of its kind are not read"),
        ("sheet.xlsx", b"PK\3\4", "files of its kind are not read"),
        ("names-only.csv", b"prompt,topic\n", "the table has no rows"),
        ("svg.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a whole PNG"),
        ("none.zip", b"PK\3\4nothing", "no whole ZIP"),
        ("texts.zip", archive(("a.txt", b"a cat")), "no picture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_refused_with_a_reason(web: Any, name: str, content: bytes, why: str) -> None:
    assert why in refusal(web, (name, content))


def test_what_can_be_done_about_it_is_told(web: Any) -> None:
    (upload,) = send(web, ("text.parquet", b"prompt\na cat\n"))
    assert "not a parquet file. Is the file complete?</div>" in web.client.get(upload["url"]).text
    sheet = web.client.post("/api/uploads", files={"files": ("sheet.xlsx", b"PK\3\4")})
    assert sheet.json()["hint"] == "save the spreadsheet as CSV, and send that"


def test_what_is_refused_beside_others_is_told_where_one_is_left(browser: Any, web: Any) -> None:
    from tests.web_server import opened

    table = {"name": "cats.csv", "mimeType": "text/csv", "buffer": b"prompt\na cat\n"}
    drawing = {"name": "drawing.bmp", "mimeType": "image/bmp", "buffer": b"BM"}
    with opened(browser, web) as page:
        page.set_input_files("input[type=file]", [drawing, table])
        page.get_by_text("cats.csv", exact=True).wait_for()
        assert "drawing.bmp cannot be uploaded" in page.locator(".toast").inner_text()


def test_a_table_that_unfolds_without_end_ends_early(web: Any) -> None:
    bomb = gzip.compress(b"prompt\n" + b"a" * 10_000_000) * 60
    assert len(bomb) < 1_000_000
    assert "when it is unpacked" in refusal(web, ("bomb.csv.gz", bomb))
    assert web.client.get("/datasets").status_code == 200


def test_a_parquet_file_that_says_little_and_holds_much_ends_in_words(web: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), pa.array(["x" * 30_000_000]))
    pq.write_table(pa.table({"prompt": long}), buffer)
    assert len(buffer.getvalue()) < 4_000_000
    assert "memory" in refusal(web, ("six-gigabytes.parquet", buffer.getvalue()))


def test_pictures_become_a_folder_that_commands_read(web: Any) -> None:
    (upload,) = send(
        web,
        ("Krabi 1.PNG", picture()),
        ("b.jpg", picture(64, 64, "JPEG")),
        ("Krabi 1.txt", b"a teal field"),
        ("broken.webp", picture(9, 9, "WEBP")[:-9]),
    )
    found = web.state.uploads.find(upload["id"])
    assert (found.kind, found.rows, found.preview["rejected"]) == ("images", 2, 1)
    lines = [json.loads(line) for line in (found.path / "metadata.jsonl").read_text().splitlines()]
    assert [(line["file_name"], line["source_name"], line["caption"]) for line in lines] == [
        ("000001.png", "Krabi 1.PNG", "a teal field"),
        ("000002.jpg", "b.jpg", ""),
    ]
    left = ["names.json", "pictures", "preview.json", "rows.json", "thumbnails", "upload.json"]
    until(lambda: sorted(path.name for path in found.folder.iterdir()) == left)
    small = web.client.get(f"{upload['url']}/thumbnails/1")
    assert (small.headers["content-type"], small.content[8:12]) == ("image/webp", b"WEBP")
    assert web.client.get(f"{upload['url']}/thumbnails/9").status_code == 404
    assert "broken.webp" in web.client.get(upload["url"]).text

    dataset = import_dataset(found.path, web.folder / "imported")
    assert [(record["prompt"], record["source_name"]) for record in dataset] == [
        ("a teal field", "Krabi 1.PNG"),
        ("", "b.jpg"),
    ]


def test_an_archive_names_only_its_own_pictures(web: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture())
    rows = [
        {"file_name": "in/a.png", "image": str(secret), "path": str(secret), "text": "kept"},
        {"file_name": str(secret), "image": "", "path": "", "text": "absolute"},
        {"file_name": "../../secret.png", "image": "", "path": "", "text": "up"},
    ]
    table = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (upload,) = send(web, ("set.zip", archive(("metadata.jsonl", table), ("in/a.png", picture()))))
    found = web.state.uploads.find(upload["id"])
    assert (found.rows, found.columns) == (1, ("source_name", "file_name", "text"))
    assert found.picture_columns == ("file_name",)
    assert str(secret) not in (found.path / "metadata.jsonl").read_text()
    assert [reason for _, reason, _ in found.details["rejects"]] == ["its name leads elsewhere"] * 2


def test_what_json_cannot_say_stays_out(web: Any) -> None:
    rows = [
        '{"file_name": "a.png", "likes": NaN, "caption": "kept"}',
        '{"file_name": "b.png", "likes": 1, "caption": "\\ud800"}',
        '{"file_name": "c.png", "likes": 1, "more_file_names": {"c.png": 1}}',
    ]
    members = [(f"{name}.png", picture()) for name in "abc"]
    (upload,) = send(web, ("set.zip", archive(("metadata.jsonl", "\n".join(rows).encode()), *members)))
    found = web.state.uploads.find(upload["id"])
    kept = [json.loads(line) for line in (found.path / "metadata.jsonl").read_text().splitlines()]
    assert [(row["source_name"], row["likes"]) for row in kept] == [("a.png", None), ("c.png", 1)]
    assert [said for _, _, said in found.details["rejects"]] == ["b.png"]


def test_thousands_of_files_come_in_at_once(web: Any) -> None:
    (upload,) = send(web, *((f"{number}.png", b"") for number in range(1_500)), ("a.png", picture()))
    assert web.state.uploads.find(upload["id"]).preview["rejected"] == 1_500
    many = [("files", (f"{number}.txt", b"a cat")) for number in range(101)]
    assert web.client.post("/api/uploads", files=many).json()["error"] == "101 tables and archives at once are too many"


def test_what_was_just_read_is_not_read_again(web: Any) -> None:
    """Who asks at the moment when the reading ends must not begin it anew: what it was read from is gone."""
    (upload,) = send(web, ("set.zip", archive(("a.png", picture()))))
    store = web.state.uploads
    found = store.find(upload["id"])
    until(lambda: not store._looked)
    store._start(replace(found, preview={}))
    assert store._looked == {}
    assert store.find(upload["id"]).path.joinpath("000001.png").exists()


def _member(name: str, kind: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system = 3
    member.external_attr = (kind | 0o777) << 16
    return member


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([("../../evil.png", picture())], "leads out"),
        ([("/etc/evil.png", picture())], "leads out"),
        ([("..\\evil.png", picture())], "leads out"),
        ([(_member("link.png", stat.S_IFLNK), b"/etc/passwd")], "is a link"),
        ([(_member("pipe.png", stat.S_IFIFO), b"")], "is a link, or no file"),
        ([("bomb.png", b"\0" * 50_000_000)], "unfolds to 50 MB"),
    ],
    ids=["up", "root", "windows", "link", "pipe", "bomb"],
)
def test_archives_that_are_to_do_harm_are_refused(web: Any, members: list[Any], why: str) -> None:
    before = {path for path in web.folder.parent.rglob("*") if ".imagemill-server" not in path.parts}
    assert why in refusal(web, ("set.zip", archive(("a.png", picture()), *members)))
    assert {path for path in web.folder.parent.rglob("*") if ".imagemill-server" not in path.parts} == before


def test_pictures_of_a_name_and_bombs_of_pixels_are_left_out(web: Any) -> None:
    pixels = zlib.compress(b"\0" * (20_001 * 3_000), 9)
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", pixels), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    with pytest.warns(UserWarning, match="Duplicate name"):
        packed = archive(("a.png", picture()), ("b.png", picture()), ("b.png", picture(9, 9)))
    (upload,) = send(web, ("twice.zip", packed))
    found = web.state.uploads.find(upload["id"])
    assert (found.rows, found.details["rejects"][0][1]) == (1, "the archive has two members of this name")
    assert "Image size (400000000 pixels)" in refusal(web, ("bomb.png", bomb))


def test_too_much_is_refused_before_it_is_kept(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(receiving.MOST, "table", 1_000_000)
    answer = web.client.post("/api/uploads", files={"files": ("big.csv", b"a" * 1_100_000)})
    assert answer.status_code == 413
    assert answer.json()["error"] == "`big.csv` has more than 1.0 MB"
    assert list(web.state.uploads.folder.iterdir()) == []

    def endless() -> Any:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="big.csv"\r\n\r\n'
        for _ in range(20):
            yield b"a" * 100_000

    # Also where no length is told, and where one is told that nobody could store.
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert web.client.post("/api/uploads", content=endless(), headers=headers).status_code == 413
    monkeypatch.setattr(receiving, "MOST_BYTES", 10_000)
    monkeypatch.setattr(receiving, "_OVERHEAD", 0)
    assert web.client.post("/api/uploads", content=b"a" * 20_000, headers=headers).status_code == 413
    assert list(web.state.uploads.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"", 415),
        ("multipart/form-data; boundary=x", b"nothing", 415),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--x--\r\n",
            415,
        ),
        ("multipart/form-data; boundary=x", _PART % b'name="files"; filename="a.csv"' + b"prompt\na cat", 415),
    ],
)
def test_what_is_no_form_is_refused(web: Any, content_type: str, content: bytes, status: int) -> None:
    answer = web.client.post("/api/uploads", content=content, headers={"content-type": content_type})
    assert answer.status_code == status
    assert list(web.state.uploads.folder.iterdir()) == []


def test_a_browser_without_scripts_is_sent_to_what_it_uploaded(web: Any) -> None:
    headers = {"accept": "text/html,*/*"}
    answer = web.client.post("/api/uploads", files={"files": ("a.txt", b"a cat\n")}, headers=headers)
    assert answer.status_code == 303
    (upload,) = web.state.uploads.list()
    assert answer.headers["location"] == f"/uploads/{upload.id}"
    answer = web.client.post("/api/uploads", files={"files": ("a.svg", b"<svg/>")}, headers=headers)
    assert answer.status_code == 400
    assert "SVG pictures can hold scripts" in answer.text


def test_in_a_browser_without_scripts_a_form_uploads(browser: Any, web: Any) -> None:
    from tests.web_server import opened

    with opened(browser, web, java_script_enabled=False) as page:
        page.goto("/datasets")
        table = {"name": "by hand.csv", "mimeType": "text/csv", "buffer": b"prompt\na cat\n,\n"}
        page.set_input_files("input[type=file]", [table])
        page.click("#send button")
        page.get_by_text("Generate from this table").wait_for()
        assert page.locator("h1").inner_text() == "by hand.csv"


def test_an_upload_goes_to_the_trash_and_comes_back(web: Any) -> None:
    (upload,) = send(web, ("a.txt", b"a cat\n"))
    gone = web.client.delete(f"/api/uploads/{upload['id']}").json()
    assert web.client.get(upload["url"]).status_code == 404
    assert web.client.get("/api/uploads").json()["uploads"] == []
    back = web.client.post(f"/api/trash/{gone['item']}/restore").json()
    assert back == {"kind": "upload", "id": upload["id"], "name": "a.txt"}
    assert web.state.uploads.find(upload["id"]).rows == 1


def test_what_was_being_sent_when_a_server_ended_is_dropped(web: Any) -> None:
    from imagemill.server.web.uploads import Uploads

    folder = web.state.uploads.receiving()
    (folder / "000000.csv").write_bytes(b"prompt\n")
    typed = web.state.uploads.add_text("mine.txt", "a café\na dog\n".encode())
    assert Uploads(web.workspace).wait(typed.id).rows == 2
    assert not folder.exists()


def test_names_are_only_shown(web: Any) -> None:
    name = 'name="files"; filename="../../bad\u202egpj.csv"'.encode()
    form = _PART % name + b"prompt\na cat\r\n--x--\r\n"
    answer = web.client.post("/api/uploads", content=form, headers={"content-type": "multipart/form-data; boundary=x"})
    (upload,) = answer.json()["uploads"]
    assert upload["name"] == "bad\ufffdgpj.csv"
    assert web.state.uploads.wait(upload["id"]).path.relative_to(web.state.uploads.folder).parts[1] == "table.csv"
