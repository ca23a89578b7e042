"""Downloads from a hub on this machine: exactly what was asked for, in spite of every fault, and never twice."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import imagemill as package
from imagemill.dataset.lock import locked
from imagemill.foreign.diffusiondb import columns, read_foreign

from .conftest import Command, Completed
from .resolve_server import Hub, serving

PARTS, IMAGES, SIZE = 4, 40, 60_000
REPO = "someone/pictures"


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as written:
        for name, content in members.items():
            written.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


@lru_cache
def members(number: int) -> dict[str, bytes]:
    """The files of a part; what the images hold, no reader of pictures needs to know."""
    draw = random.Random(number)
    names = [f"{uuid.UUID(int=draw.getrandbits(128), version=4)}.png" for _ in range(IMAGES)]
    entries = {name: {"p": f"a fox, {name}", "se": 7, "c": 7.0, "st": 50, "sa": "k_lms"} for name in names}
    images = {name: draw.randbytes(SIZE) for name in names}
    return {**images, f"part-{number:06d}.json": json.dumps(entries, ensure_ascii=False).encode()}


@lru_cache
def repository(large: bool = False, parts: int = PARTS) -> dict[str, bytes]:
    """A repository as DiffusionDB's."""
    directory = "diffusiondb-large-part-1" if large else "images"
    rows = [
        {
            "image_name": name, "prompt": f"a fox, {name}", "part_id": number, "seed": 7, "step": 50, "cfg": 7.0,
            "sampler": 8, "width": 512, "height": 512, "user_name": None, "timestamp": None, "image_nsfw": 0.5,
            "prompt_nsfw": 2.0,
        }
        for number in range(1, parts + 1) for name in members(number) if name.endswith(".png")
    ]  # fmt: skip
    # In the real table the rows of a part do not lie together.
    random.Random(0).shuffle(rows)
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, columns()), table)
    archives = {f"{directory}/part-{number:06d}.zip": archive(dict(members(number))) for number in range(1, parts + 1)}
    name = "metadata-large.parquet" if large else "metadata.parquet"
    return {**archives, name: table.getvalue(), "README.md": b"---\nlicense: cc0-1.0\n---\n"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(repository()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


Download = Callable[..., Completed]


@pytest.fixture
def download(imagemill: Command, hub: Hub) -> Download:
    return lambda *arguments: imagemill("download", REPO, "-o", "out", *arguments)


def zip_name(number: int) -> str:
    return f"images/part-{number:06d}.zip"


def files(folder: str = "out") -> dict[str, bytes]:
    """What there is for a user."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(Path(folder).rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".imagemill")}


def failed(ended: Completed) -> dict[str, str]:
    return {line["file"]: line["reason"] for line in ended.json["failed"]}


def rows(folder: str = "out") -> list[dict[str, Any]]:
    return list(pq.read_table(f"{folder}/metadata.parquet").to_pylist())


# Parts


def test_parts_come_as_they_are_with_the_whole_table_and_never_twice(hub: Hub, download: Download) -> None:
    ended = download("--parts", "1,3-4", "--json")
    assert ended.code == 0
    wanted = {zip_name(1), zip_name(3), zip_name(4), "metadata.parquet", "README.md"}
    assert files() == {name: hub.files[name] for name in wanted}
    assert set(ended.json["fetched"]) == wanted
    assert ended.json["bytes_received"] == sum(len(hub.files[name]) for name in wanted)
    hub.forget()
    assert download("--parts", "1,3-4").code == 0
    assert hub.content_requests() == []
    assert "everything is there already" in download("--parts", "3").err
    # One more part, and one that has changed on the disk: only these.
    Path("out", zip_name(3)).write_bytes(b"damaged")
    hub.forget()
    assert download("--parts", "1-4").code == 0
    assert set(hub.sent) == {zip_name(2), zip_name(3)}
    assert {name: content for name, content in files().items() if name.endswith(".zip")} == {
        name: content for name, content in hub.files.items() if name.endswith(".zip")
    }


def test_all_parts_without_a_word_and_each_unpacked_when_asked(hub: Hub, download: Download) -> None:
    hub.page = 2
    assert download("--unzip").code == 0
    unpacked = {f"images/part-{number:06d}/{name}": content for number in range(1, PARTS + 1)
                for name, content in members(number).items()}  # fmt: skip
    assert files() == {**unpacked, **{name: hub.files[name] for name in ("metadata.parquet", "README.md")}}
    hub.forget()
    assert download("--unzip").code == 0
    assert download().code == 0
    assert hub.content_requests() == []
    # A picture that is lost brings its part again.
    next(Path("out/images/part-000002").glob("*.png")).unlink()
    assert download("--unzip").code == 0
    assert {name: content for name, content in files().items() if "/part-" in name} == unpacked
    assert set(hub.sent) == {zip_name(2)}


def test_archives_that_are_there_are_unpacked_without_the_network(hub: Hub, download: Download) -> None:
    assert download("--parts", "2").code == 0
    hub.forget()
    assert download("--parts", "2", "--unzip").code == 0
    assert hub.content_requests() == []
    assert set(files()) == {f"images/part-000002/{name}" for name in members(2)} | {"metadata.parquet", "README.md"}


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ("0-3", "counted from 1"),
        ("3-1", "lower end"),
        ("1-x", "no part and no range"),
        ("1,,2", "no part and no range"),
        ("3-9", "the repository has 1 to 4"),
        ("70000", "the repository has 1 to 4"),
    ],
)
def test_a_range_that_is_none_is_refused(hub: Hub, download: Download, parts: str, told: str) -> None:
    ended = download("--parts", parts)
    assert ended.code == 2
    assert told in ended.err
    assert not Path("out").exists()
    assert hub.content_requests() == []


@pytest.mark.parametrize(
    "fault", ["429", "503", "cut", "short", "corrupt", "range", "403", "404", "long", "packed", "stall"]
)
def test_what_passes_is_tried_again(hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """403 and 404 elsewhere: a signed address that has ended."""
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    name = zip_name(1)
    if fault in {"403", "404"}:
        hub.faults = {name: ["cut", fault]}
    else:
        hub.faults = {name: [fault]}
    start = time.monotonic()
    ended = download("--parts", "1")
    assert ended.code == 0, ended.err
    assert files()[name] == hub.files[name]
    assert fault != "429" or time.monotonic() - start >= 1
    if fault in {"cut", "short", "stall", "403", "404"}:
        assert hub.sent[name] == len(hub.files[name]), "what came before the cut comes twice"


def test_a_part_that_is_missing_does_not_stop_the_rest(hub: Hub, download: Download) -> None:
    hub.faults = {zip_name(2): ["404*"]}
    hub.put(zip_name(6), hub.files.pop(zip_name(4)))
    ended = download("--parts", "1-6", "--json", "--retries", "0")
    assert ended.code == 3
    missing = "it is not in the repository"
    assert failed(ended) == {zip_name(2): "it is missing: status 404", zip_name(4): missing, zip_name(5): missing,
                             zip_name(6): "the archive lacks `part-000006.json`"}  # fmt: skip
    assert {name for name in files() if name.endswith(".zip")} == {zip_name(1), zip_name(3)}
    hub.faults.clear()
    hub.forget()
    assert download("--parts", "1-3").code == 0
    assert set(hub.sent) == {zip_name(2)}


def test_bytes_that_stay_wrong_never_get_a_name(hub: Hub, download: Download) -> None:
    hub.faults = {zip_name(1): ["corrupt*"], zip_name(2): ["short*"], zip_name(3): ["500*"]}
    ended = download("--parts", "1-4", "--json", "--retries", "1")
    assert ended.code == 3
    reasons = failed(ended)
    assert "another hash" in reasons[zip_name(1)]
    assert "it has" in reasons[zip_name(2)] or "ends after" in reasons[zip_name(2)]
    assert reasons[zip_name(3)] == "status 500"
    assert {name for name in files() if name.endswith(".zip")} == {zip_name(4)}


def _with(**changed: bytes | None) -> Callable[[], bytes]:
    """An archive of part 1 in which `image` or `json` is another one, or absent."""

    def make() -> bytes:
        made = dict(members(1))
        for what, content in changed.items():
            name = "part-000001.json" if what == "json" else next(iter(made))
            made.pop(name)
            if content is not None:
                made[name] = content
        return archive(made)

    return make


def _named(name: str, mode: int = 0) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = io.BytesIO(archive(dict(members(1))))
        with zipfile.ZipFile(buffer, "a") as more, pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *_, **__: None)
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            more.writestr(member, b"content")
        return buffer.getvalue()

    return make


def _flipped() -> bytes:
    content = bytearray(repository()[zip_name(1)])
    content[SIZE // 2] ^= 1
    return bytes(content)


def _bomb() -> bytes:
    entries = dict.fromkeys(f"{number}.png" for number in range(9))
    made = {name: bytes(2**25) for name in entries}
    return archive({**made, "part-000001.json": json.dumps({n: {} for n in entries}).encode()}, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize("unzip", [False, True])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_flipped, "Bad CRC-32"),
        (_with(json=None), "lacks `part-000001.json`"),
        (_with(json=b"[1]"), "no table of images"),
        (_with(json=b"[" * 100_000), "no table of images"),
        (_with(image=None), "lacks 1 of its images"),
        (_named("../../escaped.png"), "no name of an image"),
        (_named("/tmp/escaped.png"), "no name of an image"),
        (_named("more/escaped.png"), "no name of an image"),
        (_named("link.png", stat.S_IFLNK | 0o777), "no plain file"),
        (_named("PART-000001.json"), "one name twice"),
        (lambda: b"PK no archive" * 100, "broken"),
        (_bomb, "would unpack to far more"),
        (lambda: archive(dict(members(1)), zipfile.ZIP_LZMA), "packed in an unusual way"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_archive_that_is_no_part_is_refused(
    hub: Hub, download: Download, make: Callable[[], bytes], reason: str, unzip: bool
) -> None:
    hub.put(zip_name(1), make())
    ended = download("--parts", "1-2", "--json", *(["--unzip"] if unzip else []))
    assert ended.code == 3
    ((_, told),) = failed(ended).items()
    assert reason in told
    assert {name.split("/")[1].removesuffix(".zip") for name in files() if "/" in name} == {"part-000002"}
    assert not list(Path.cwd().parent.rglob("escaped.png"))


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_only_the_rest_is_fetched(hub: Hub, download: Download, signum: int) -> None:
    hub.pause = 0.02
    command = [sys.executable, "-m", "imagemill", "download", REPO, "-o", "out", "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ, text=True) as process:
        while sum(hub.sent.values()) < 4_000_000:
            time.sleep(0.01)
        process.send_signal(signum)
        start = time.monotonic()
        _, told = process.communicate(timeout=20)
    assert time.monotonic() - start < 5
    assert signum != signal.SIGINT or (process.returncode == 130 and "Continue: imagemill download" in told)
    assert not any(name.endswith(".zip") for name in files() if files()[name] != hub.files[name])
    hub.pause = 0
    before = sum(hub.sent.values())
    assert download().code == 0
    assert files() == hub.files
    again = sum(hub.sent.values()) - sum(map(len, hub.files.values()))
    assert before > 2_000_000
    # What the server has sent and the killed process has not read: what sockets hold.
    assert again <= PARTS * 500_000


def test_a_disk_without_the_room_is_told_before_anything_is_fetched(hub: Hub, download: Download) -> None:
    hub.sizes = {zip_name(2): 10**17}
    for arguments in (["--parts", "2"], ["--parts", "1-2", "--unzip"], ["--subset", "random-10"]):
        ended = download(*arguments)
        assert ended.code == 6, ended.err
        assert "bytes of disk" in ended.err
        assert not Path("out").exists()
    assert hub.content_requests() == []
    assert download("--parts", "1").code == 0


def test_a_disk_that_fills_up_ends_it_and_nothing_is_lost(hub: Hub, download: Download) -> None:
    command = f"ulimit -f 1500; exec {sys.executable} -m imagemill download {REPO} -o out"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ, check=False)
    assert ended.returncode == 6, ended.stderr
    assert "no space left" in ended.stderr
    before = sum(hub.sent.values())
    assert download().code == 0
    assert files() == hub.files
    assert sum(hub.sent.values()) - before < sum(map(len, hub.files.values()))


def test_only_one_writes_a_folder(hub: Hub, download: Download) -> None:
    with locked(Path("out")):
        assert download().code == 5
    assert download("--parts", "1").code == 0


def test_progress_counts_bytes_and_files(hub: Hub) -> None:
    seen: list[Any] = []
    package.download(REPO, "out", parts="1-2", workers=1, progress=seen.append)
    last = seen[-1]
    assert (last.files, last.files_done, last.failed) == (4, 4, 0)
    assert last.received == last.size == sum(len(content) for content in files().values())
    assert [progress.received for progress in seen] == sorted(progress.received for progress in seen)


# Subsets


def test_a_random_subset_is_exact_and_only_its_bytes_are_fetched(hub: Hub, download: Download) -> None:
    ended = download("--subset", "random-7", "--seed", "7", "--json")
    assert ended.code == 0, ended.err
    table = pq.read_table("out/metadata.parquet")
    assert table.schema.equals(columns())
    chosen = {(row["part_id"], row["image_name"]) for row in rows()}
    assert len(chosen) == table.num_rows == 7
    for number in {part for part, _ in chosen}:
        folder = Path(f"out/images/part-{number:06d}")
        names = {name for part, name in chosen if part == number}
        assert json.loads((folder / f"{folder.name}.json").read_text()).keys() == names
        assert {path.name for path in folder.iterdir()} == {*names, f"{folder.name}.json"}
        assert all((folder / name).read_bytes() == members(number)[name] for name in names)
    whole = sum(len(content) for name, content in hub.files.items() if name.endswith(".zip"))
    parts = len({part for part, _ in chosen})
    assert sum(hub.sent.get(zip_name(number), 0) for number in range(1, PARTS + 1)) < whole / 2
    assert len(hub.content_requests()) <= 2 + parts * 2 * 5
    records = [loaded.record for loaded in read_foreign(Path("out"))]
    assert {record["file_name"] for record in records} == {name for _, name in chosen}
    hub.forget()
    again = download("--subset", "random_7", "--seed", "7", "--json")
    assert (again.code, again.json["fetched"], hub.content_requests()) == (0, [], [])
    next(Path("out/images").glob("*/*.png")).unlink()
    assert download("--subset", "random-7", "--seed", "7").code == 0
    assert len(list(Path("out/images").glob("*/*.png"))) == 7
    assert not hub.sent.get("metadata.parquet")


def test_of_small_images_hardly_more_is_fetched_than_is_said(hub: Hub, download: Download) -> None:
    """As DiffusionDB has them by the thousand, each smaller than what one could fetch in vain between two."""
    draw = random.Random(1)
    for number in range(1, PARTS + 1):
        entries = {name: {"p": name} for name in members(number) if name.endswith(".png")}
        more = {f"more-{place}.png": draw.randbytes(2_000) for place in range(960)}
        entries |= {name: {"p": name} for name in more}
        small = {name: draw.randbytes(2_000) for name in entries}
        told = {f"part-{number:06d}.json": json.dumps(entries).encode()}
        hub.put(zip_name(number), archive({**small, **more, **told}))
    dry = download("--subset", "random-20", "--dry-run", "--json")
    ended = download("--subset", "random-20", "--json")
    assert ended.code == 0, ended.err
    whole = sum(len(content) for name, content in hub.files.items() if name.endswith(".zip"))
    assert ended.json["bytes_received"] < 1.3 * dry.json["wanted"]["bytes"]
    assert ended.json["bytes_received"] < whole / 3


def test_a_subset_can_be_loaded(download: Download) -> None:
    datasets = pytest.importorskip("datasets", reason="the package `datasets` is not installed")
    assert download("--subset", "random-7").code == 0
    loaded = datasets.load_dataset("out", split="train")
    assert sorted(loaded["image_name"]) == sorted(row["image_name"] for row in rows())
    assert f"A subset of {REPO}" in Path("out/README.md").read_text()


def test_a_subset_that_is_refused_leaves_the_folder_to_another(hub: Hub, download: Download) -> None:
    for number in (2, 3, 4):
        del hub.files[zip_name(number)]
    ended = download("--subset", "random-41")
    assert (ended.code, "41 images are wanted, and there are 40" in ended.err) == (2, True), ended.err
    assert download("--subset", "random-5").code == 0


def test_a_folder_that_is_something_else_is_not_written_into(download: Download) -> None:
    package.generate([{"prompt": "one"}], "made", model="fake", seed=1)
    package.export("made", "parquet", "exported")
    Path("a.txt").write_text("mine")
    places = {"made/d": "inside of it", "made": "is the dataset", "exported/d": "is the export", "a.txt": "is a file"}
    for place, said in {**places, "a.txt/d": "is a file"}.items():
        ended = download("--metadata-only", "-o", place)
        assert (ended.code, said in ended.err) == (2, True), ended.err
    assert Path("a.txt").read_text() == "mine"
    assert not Path("made/d").exists()


def test_a_wrong_variable_of_the_hub_is_told(hub: Hub) -> None:
    script = "import sys; from imagemill.cli import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "download", REPO, "-o", "out", "--parts", "1"]
    environment = {**os.environ, "HF_HUB_DOWNLOAD_TIMEOUT": "abc"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 2, ran.stderr
    assert "'abc'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_subsets_are_drawn_by_seed_and_larger_ones_hold_smaller_ones(hub: Hub, imagemill: Command) -> None:
    drawn = {}
    for name, seed in (("random-5", 7), ("random-12", 7), ("random-5", 8), ("first-50", None)):
        seeded = [] if seed is None else ["--seed", seed]
        out = f"{name}-{seed}"
        assert imagemill("download", REPO, "-o", out, "--subset", name, *seeded).code == 0
        drawn[name, seed] = {row["image_name"]: row["part_id"] for row in rows(out)}
        assert len(drawn[name, seed]) == int(name.split("-")[1])
    assert imagemill("download", REPO, "-o", "again", "--subset", "random-5", "--seed", 7, "--workers", 1).code == 0
    assert files("again") == files("random-5-7")
    assert drawn["random-5", 7].keys() < drawn["random-12", 7].keys()
    assert drawn["random-5", 7] != drawn["random-5", 8]
    parts = sorted(drawn["first-50", None].values())
    assert parts == [1] * IMAGES + [2] * (50 - IMAGES)


def test_of_most_of_a_part_and_from_a_server_without_ranges_the_whole_is_fetched(
    hub: Hub, download: Download, imagemill: Command
) -> None:
    assert download("--subset", f"first-{IMAGES - 3}").code == 0
    assert len(rows()) == IMAGES - 3
    assert len(hub.content_requests(zip_name(1))) <= 2 * 2
    hub.ranges = False
    ended = imagemill("download", REPO, "-o", "plain", "--subset", "first-3")
    assert ended.code == 0
    assert "whole files only" in ended.err
    assert len(rows("plain")) == len(list(Path("plain/images").glob("*/*.png"))) == 3


@pytest.mark.parametrize("fault", ["404*", "corrupt*"])
def test_a_subset_with_a_part_that_fails_is_whole_without_it_and_filled_later(
    hub: Hub, download: Download, fault: str
) -> None:
    hub.faults = {zip_name(2): [fault]}
    ended = download("--subset", "random-30", "--json", "--retries", "0")
    assert ended.code == 3
    assert set(failed(ended)) == {"images/part-000002"}
    there = {row["image_name"] for row in rows()}
    assert there == {path.name for path in Path("out/images").glob("*/*.png")}
    hub.faults.clear()
    hub.forget()
    assert download("--subset", "random-30").code == 0
    assert there < {row["image_name"] for row in rows()} == {p.name for p in Path("out/images").glob("*/*.png")}
    assert len(rows()) == 30
    assert set(hub.sent) == {zip_name(2)}


def test_rows_of_parts_that_are_not_there_are_passed_over(hub: Hub, download: Download) -> None:
    hub.files.pop(zip_name(3))
    assert download("--subset", "random-50").code == 0
    assert len(rows()) == len(list(Path("out/images").glob("*/*.png"))) == 50
    assert {row["part_id"] for row in rows()} == {1, 2, 4}


def test_subsets_that_cannot_be_are_refused(hub: Hub, download: Download) -> None:
    for arguments, told in (
        (["--subset", "random-1m"], "at most 4,000"),
        (["--subset", "random-161"], "there are 160"),
        (["--subset", "some-1k"], "first-1k"),
        (["--subset", "first-1k", "--parts", "1"], "give one"),
        (["--subset", "first-1k", "--seed", "3"], "no effect"),
        (["--seed", "3"], "no effect"),
    ):
        ended = download(*arguments)
        assert (ended.code, told in ended.err) == (2, True), ended.err


# The table alone, and what is large


def test_the_table_alone(hub: Hub, download: Download) -> None:
    ended = download("--metadata-only")
    assert (ended.code, "imagemill query out/metadata.parquet" in ended.err) == (0, True)
    assert files() == {name: hub.files[name] for name in ("metadata.parquet", "README.md")}


def test_the_large_layout(monkeypatch: pytest.MonkeyPatch, imagemill: Command) -> None:
    with serving({**repository(), **repository(large=True, parts=2)}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        ended = imagemill("download", f"hf://datasets/{REPO}", "-o", "large", "--large", "--parts", "2")
        assert ended.code == 0, ended.err
        assert set(files("large")) == {
            "diffusiondb-large-part-1/part-000002.zip", "metadata-large.parquet", "README.md"
        }  # fmt: skip
        assert imagemill("download", REPO, "-o", "some", "--large", "--subset", "first-3").code == 0
        assert pq.read_table("some/metadata-large.parquet").num_rows == 3
        assert "was downloaded with `large`" in imagemill("download", REPO, "-o", "large").err


def test_what_is_in_another_layout_is_refused(hub: Hub, download: Download) -> None:
    ended = download("--large")
    assert ended.code == 2
    assert "without `--large`" in ended.err
    for name in list(hub.files):
        hub.files.pop(name)
    hub.put("train.parquet", b"")
    assert "not in DiffusionDB's layout" in download().err


def test_an_export_of_ours_comes_back_as_it_was(
    monkeypatch: pytest.MonkeyPatch, imagemill: Command, prompts: Path
) -> None:
    assert imagemill("generate", prompts, "-o", "made", "--model", "fake", "--quiet").code == 0
    assert imagemill("export", "made", "diffusiondb", "-o", "export", "--zips").code == 0
    exported = files("export")
    with serving(exported) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        folder = package.download(REPO, "out")
        assert files(str(folder)) == exported
        assert imagemill("download", REPO, "-o", "five", "--subset", "random-5").code == 0
        extra = pq.read_table("five/metadata-extra.parquet").column("image_name").to_pylist()
        assert extra == [row["image_name"] for row in rows("five")]
        hub.faults = {zip_name(1): ["404*"]}
        with pytest.raises(package.SomeFailed, match="status 404"):
            package.download(REPO, "other", retries=0)


# The hub


def test_the_token_goes_to_the_hub_alone_and_into_no_text(
    hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_canary_of_the_tests"
    hub.gated = True
    refused = download("--parts", "1")
    assert (refused.code, "gated" in refused.err) == (2, True)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.faults = {zip_name(1): ["404*"], zip_name(2): ["cut"]}
    hub.forget()
    ended = download("--parts", "1-2", "--json", "--retries", "1")
    assert ended.code == 3
    assert {asked.token for asked in hub.asked if not asked.elsewhere} == {f"Bearer {hub.token}"}
    assert {asked.token for asked in hub.asked if asked.elsewhere} == {""}
    assert hub.token not in ended.out + ended.err
    assert "signature" not in ended.out + ended.err
    for path in Path("out").rglob("*"):
        assert path.is_dir() or hub.token.encode() not in path.read_bytes()


def test_nothing_is_asked_while_offline(hub: Hub, download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ended = download()
    assert (ended.code, "HF_HUB_OFFLINE" in ended.err) == (2, True)
    assert hub.asked == []


def test_what_is_not_there_is_told(hub: Hub, imagemill: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, more, told in (
        ("someone/other", [], "is no dataset"),
        (REPO, ["--revision", "v9"], "no revision `v9`"),
        ("../etc", [], "no dataset of the hub"),
        ("https://example.com", [], "no dataset of the hub"),
    ):
        ended = imagemill("download", name, "-o", "out", *more)
        assert (ended.code, told in ended.err) == (2, True), ended.err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    ended = imagemill("download", REPO, "-o", "out", "--retries", "1")
    assert ended.code == 1
    assert "cannot be asked" in ended.err
    assert not Path("out").exists()


@pytest.mark.parametrize("mark", ["/../../../../x", "0123"])
def test_a_hash_that_is_none_leads_nowhere(hub: Hub, download: Download, mark: str) -> None:
    hub.marks[zip_name(1)] = mark
    ended = download("--parts", "1")
    assert (ended.code, "does not list the files" in ended.err) == (1, True), ended.err
    assert not Path("out").exists()


def test_a_server_that_is_gone_ends_the_rest(hub: Hub, download: Download) -> None:
    hub.elsewhere = "http://127.0.0.1:9"
    ended = download("--json", "--workers", "1", "--retries", "0")
    assert ended.code == 3
    assert len(failed(ended)) == PARTS + 1
    assert "not tried: the server cannot be reached" in failed(ended).values()


def test_a_branch_that_has_moved_is_told(hub: Hub, download: Download) -> None:
    assert download("--parts", "1").code == 0
    before, hub.commit = hub.commit, "f" * 40
    ended = download("--parts", "1-2")
    assert ended.code == 2
    assert f"--revision {before}" in ended.err


def test_a_dry_run_writes_nothing(hub: Hub, download: Download) -> None:
    ended = download("--parts", "1-2", "--dry-run", "--json")
    assert ended.code == 0
    assert ended.json["wanted"]["parts"] == [1, 2]
    assert ended.json["wanted"]["bytes"] >= 2 * IMAGES * SIZE
    assert not Path("out").exists()
    assert hub.content_requests() == []


def test_a_folder_of_something_else_stays_as_it_is(hub: Hub, download: Download) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    ended = download()
    assert (ended.code, "holds no download" in ended.err) == (2, True)
    assert [path.name for path in Path("out").iterdir()] == ["mine.txt"]


def test_other_subsets_do_not_fall_into_one_folder(hub: Hub, download: Download) -> None:
    assert download("--subset", "first-3").code == 0
    for arguments in (["--subset", "first-4"], ["--parts", "1"], ["--subset", "random-3"]):
        ended = download(*arguments)
        assert (ended.code, "was downloaded with `subset` first_3" in ended.err) == (2, True), ended.err
