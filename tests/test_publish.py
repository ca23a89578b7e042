"""An export reaches the hub and object stores whole or not at all, and takes nothing along that must not leave."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import imagemill as package
from imagemill.cli import run
from imagemill.dataset import Dataset
from imagemill.errors import ImagemillError, MissingExtra, UsageError
from imagemill.publishing import checks, stores
from imagemill.publishing.hub import HubRepository
from imagemill.publishing.target import Exported, File

from .conftest import Command
from .hub_server import NAME, TOKEN, Hub, hub_server, wait_for
from .s3_server import BUCKET, KEY, SECRET, Store, s3_server

# The hub's own library sends files in a way that the one below it wants changed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

REPOSITORY = f"{NAME}/name"
URL = f"hf://{REPOSITORY}"
MARK, MANIFEST, CLAIM = ".imagemill-export.json", ".imagemill-manifest.jsonl", ".imagemill-upload.json"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub for this process and those that it starts."""
    pytest.importorskip("huggingface_hub", reason="the package `huggingface_hub` is not installed")
    from huggingface_hub import constants

    with hub_server() as server:
        settings = {
            "HF_ENDPOINT": server.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        # The library reads them when it is imported, which another test may have done.
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An object store for this process and those that it starts."""
    pytest.importorskip("obstore", reason="the package `obstore` is not installed")
    with s3_server() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        yield server


def generated(folder: str = "out", count: int = 5, **columns: Any) -> Dataset:
    rows = [{"prompt": f"picture {n}", **columns} for n in range(count)]
    return package.generate(rows, folder, model="fake", seed=1, width=8, height=8)


def add(dataset: Dataset, **columns: Any) -> None:
    """Add columns, each by the number of the image."""
    names = [record["file_name"] for record in dataset]
    with dataset.lock():
        dataset.update(lambda r: {name: make(names.index(r["file_name"])) for name, make in columns.items()})


def files_in(folder: Path | str) -> dict[str, bytes]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def same_but_card(tree: dict[str, bytes], local: Path | str) -> bool:
    """Whether a repository holds what a folder holds, but for the card, which names the repository."""
    names = (".gitattributes", "README.md", MANIFEST)
    expected = files_in(local)
    return without(tree, *names) == without(expected, *names) and set(tree) - {".gitattributes"} == set(expected)


def without(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name not in names}


def no_secret_anywhere(folder: Path, *texts: str) -> None:
    content = b"\0".join([*files_in(folder).values(), *map(str.encode, texts)])
    for secret in (TOKEN, KEY, SECRET):
        assert secret.encode() not in content


# The hub


def test_load_dataset_reads_from_the_hub_what_was_exported(hub: Hub) -> None:
    pytest.importorskip("datasets", reason="the package `datasets` is not installed")
    dataset = generated()
    for layout in ("parquet", "imagefolder"):
        assert package.export(dataset, layout, f"hf://{NAME}/{layout}") == f"hf://{NAME}/{layout}"
    script = """
import json, sys
import datasets
for layout in ("parquet", "imagefolder"):
    for row in datasets.load_dataset(sys.argv[1] + layout, split="train"):
        print(json.dumps([row["prompt"], row["seed"], row["image"].convert("RGB").tobytes().hex()]))
"""
    read = subprocess.run([sys.executable, "-c", script, f"{NAME}/"], capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr
    found = [json.loads(line) for line in read.stdout.splitlines()]
    pixels = [dataset.image(record["file_name"]).convert("RGB").tobytes().hex() for record in dataset]
    expected = [[record["prompt"], record["seed"], each] for record, each in zip(dataset, pixels, strict=True)]
    assert found == expected * 2
    assert not Path(".out.upload").exists()


def test_main_holds_nothing_or_everything_and_says_what(hub: Hub, imagemill: Command, tmp_path: Path) -> None:
    dataset = generated()
    done = imagemill("export", "out", "webdataset", "-o", URL, "--json")
    assert done.code == 0, done.err
    assert (done.json["output"], done.json["done_before"]) == (URL, False)
    assert f"{hub.url}/datasets/{REPOSITORY} (private)" in done.err
    repository = hub.repositories[REPOSITORY]
    local = package.export(dataset, "webdataset", "local")
    assert same_but_card(repository.tree(), local)
    assert f'load_dataset("{REPOSITORY}", split="train")' in repository.tree()["README.md"].decode()
    assert repository.private
    assert [request.status for request in repository.requests.values()] == ["merged"]
    # The empty repository, the pull request and the merge.
    assert len(repository.commits) == 3
    mark = json.dumps(json.loads(Path(local, MARK).read_text()), sort_keys=True)
    fingerprint = hashlib.sha256(mark.encode()).hexdigest()
    (message,) = repository.messages
    assert fingerprint in message
    assert "imagemill 0." in message
    no_secret_anywhere(tmp_path, done.out, done.err, *repository.messages)


def test_the_same_export_again_sends_nothing(hub: Hub, imagemill: Command) -> None:
    generated()
    package.export("out", "parquet", URL)
    hub.calls.clear()
    again = imagemill("export", "out", "parquet", "-o", URL)
    assert (again.code, again.out) == (0, f"{URL}\n")
    assert "uploaded before" in again.err
    assert hub.writes() == []
    # People may edit the card there.
    hub.repositories[REPOSITORY].tree()["README.md"] += b"More words.\n"
    package.export("out", "parquet", URL)
    assert hub.writes() == []


def test_a_later_export_takes_the_place_of_an_earlier_one(hub: Hub) -> None:
    dataset = generated()
    package.export(dataset, "imagefolder", URL)
    repository = hub.repositories[REPOSITORY]
    repository.tree()["LICENSE"] = b"CC0"
    add(dataset, note=lambda n: f"note {n}")
    package.export(dataset, "parquet", URL, replace=True)
    assert repository.tree().pop("LICENSE") == b"CC0"
    assert same_but_card(repository.tree(), package.export(dataset, "parquet", "local"))
    package.export(dataset, "imagefolder", URL, replace=True)
    assert same_but_card(repository.tree(), package.export(dataset, "imagefolder", "local-2"))


def test_an_export_of_something_else_is_not_replaced_by_accident(hub: Hub, store: Store, imagemill: Command) -> None:
    generated()
    package.generate([{"prompt": "another"}], "other", model="fake", seed=1, width=8, height=8)
    for place in (URL, f"s3://{BUCKET}/a"):
        package.export("out", "parquet", place)
        before = (dict(hub.repositories[REPOSITORY].tree()), store.names())
        for said, asked in {
            "holds an export in the layout `parquet`": ["out", "webdataset"],
            "holds an export with other parameters": ["out", "parquet", "--license", "cc-by-4.0"],
            "holds an export of another dataset": ["other", "parquet"],
        }.items():
            ran = imagemill("export", *asked, "-o", place)
            assert (ran.code, f"`{place}` {said}" in ran.err, "--replace" in ran.err) == (2, True, True), ran.err
        assert (hub.repositories[REPOSITORY].tree(), store.names()) == before
        assert imagemill("export", "other", "parquet", "-o", place, "--replace").code == 0
        assert imagemill("export", "other", "parquet", "-o", place).code == 0


def test_of_two_uploads_at_once_one_is_told(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    generated()
    second = generated("second", 3)
    for kind, step, place in ((HubRepository, "_begun", URL), (stores.StorePrefix, "_check", f"s3://{BUCKET}/a")):
        original = getattr(kind, step)

        def meanwhile(self: Any, *asked: Any, kind: Any = kind, step: str = step, original: Any = original) -> Any:
            # Only the first one comes here: the other is done before it goes on.
            monkeypatch.setattr(kind, step, original)
            package.export(second, "parquet", self.url, replace=True)
            return original(self, *asked)

        monkeypatch.setattr(kind, step, meanwhile)
        with pytest.raises(ImagemillError):
            package.export("out", "parquet", place)
    local = package.export(second, "parquet", "local")
    assert same_but_card(hub.repositories[REPOSITORY].tree(), local)
    assert {name.removeprefix("a/"): found.data for name, found in store.objects.items()} == files_in(local)


def test_a_place_that_looks_like_a_url_is_no_folder(imagemill: Command) -> None:
    generated()
    for place in ("hf:/someone/name", "S3:/bucket/a", "file:/tmp/a"):
        ran = imagemill("export", "out", "parquet", "-o", place)
        assert (ran.code, "is neither a folder nor a place" in ran.err) == (2, True), ran.err
    for place in ("s3://bucket/a/../b", "s3://bucket//a", "s3://bucket/./a"):
        ran = imagemill("export", "out", "parquet", "-o", place)
        assert (ran.code, "in its path" in ran.err) == (2, True), ran.err
    assert {path.name for path in Path().iterdir()} == {"out"}


def test_a_lost_image_is_told(hub: Hub, imagemill: Command) -> None:
    next(generated().folder.glob("images/*/*.png")).unlink()
    ran = imagemill("export", "out", "parquet", "-o", URL, "--dry-run")
    assert (ran.code, "is absent" in ran.err, "imagemill verify" in ran.err) == (2, True, True), ran.err


def test_what_is_not_ours_is_not_touched(hub: Hub) -> None:
    generated()
    hub.add(REPOSITORY, {"notes.txt": b"mine"})
    with pytest.raises(UsageError, match=r"holds other files, such as `notes\.txt`"):
        package.export("out", "parquet", URL)
    assert hub.writes() == []
    assert not Path(".out.upload").exists()


def test_nothing_private_becomes_public_by_accident(hub: Hub) -> None:
    generated()
    hub.add(REPOSITORY, private=False)
    with pytest.raises(UsageError, match="is public"):
        package.export("out", "parquet", URL)
    package.export("out", "parquet", URL, public=True)
    hub.add(f"{NAME}/private")
    with pytest.raises(UsageError, match="is private"):
        package.export("out", "parquet", f"hf://{NAME}/private", public=True)
    package.export("out", "parquet", f"hf://datasets/{NAME}/new", public=True)
    assert not hub.repositories[f"{NAME}/new"].private


def test_a_tag_stands_for_one_export(hub: Hub) -> None:
    dataset = generated()
    package.export(dataset, "parquet", URL)
    package.export(dataset, "parquet", URL, tag="v1")
    repository = hub.repositories[REPOSITORY]
    assert repository.references["refs/tags/v1"] == repository.references["refs/heads/main"]
    hub.calls.clear()
    package.export(dataset, "parquet", URL, tag="v1")
    add(dataset, note=lambda n: f"note {n}")
    with pytest.raises(UsageError, match="has a tag `v1` already"):
        package.export(dataset, "parquet", URL, tag="v1")
    assert hub.writes() == []
    package.export(dataset, "parquet", URL, tag="v2")
    assert repository.references["refs/tags/v1"] != repository.references["refs/tags/v2"]


def test_several_commits_are_merged_at_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the library sends many files where its package `hf_xet` is installed: into a pull request that is a draft."""
    pytest.importorskip("hf_xet", reason="the package `hf_xet` is not installed")
    from huggingface_hub import _upload_pipeline, constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(_upload_pipeline, "COMMIT_SIZE_SCALE", [4] * 10)
    hub.small = True
    generated(count=9)
    hub.fault = lambda _, call: 500 if "merge" in call else None
    with pytest.raises(ImagemillError, match="answers 500"):
        package.export("out", "imagefolder", URL)
    repository = hub.repositories[REPOSITORY]
    assert len(repository.messages) > 2
    assert set(repository.tree()) == {".gitattributes"}
    hub.fault = lambda _, __: None
    package.export("out", "imagefolder", URL)
    assert [request.status for request in repository.requests.values()] == ["merged"]
    assert same_but_card(repository.tree(), package.export("out", "imagefolder", "local"))


@pytest.mark.parametrize(
    ("fault", "call", "code", "said"),
    [
        (401, "whoami", 2, "does not know the token"),
        (403, "repos/create", 2, "may not write"),
        (404, "preupload", 2, "has no `someone/name`"),
        (409, "merge", 1, "has changed meanwhile"),
        (500, "commit/", 1, "answers 500"),
        (500, "merge", 1, "answers 500"),
        ("close", "commit/", 1, "cannot be reached"),
        ("close", "merge", 1, "cannot be reached"),
        ("close", "/discussions?", 1, "cannot be reached"),
    ],
)
def test_a_fault_leaves_main_as_it_was_and_the_same_command_continues(
    hub: Hub, imagemill: Command, tmp_path: Path, fault: int | str, call: str, code: int, said: str
) -> None:
    generated()
    hub.fault = lambda _, path: fault if call in path else None
    failed = imagemill("export", "out", "parquet", "-o", URL)
    assert failed.code == code, failed.err
    assert failed.err.rpartition("error: ")[2].count("\n") == 3, failed.err
    assert said in failed.err
    assert "hint: " in failed.err
    if REPOSITORY in hub.repositories:
        assert set(hub.repositories[REPOSITORY].tree()) == {".gitattributes"}
    no_secret_anywhere(tmp_path, failed.out, failed.err)
    hub.fault = lambda _, __: None
    assert imagemill("export", "out", "parquet", "-o", URL).code == 0
    repository = hub.repositories[REPOSITORY]
    assert MARK in repository.tree()
    statuses = [request.status for request in repository.requests.values()]
    # One that cannot be merged any more is closed.
    assert statuses == (["closed", "merged"] if fault == 409 else ["merged"])
    assert not Path(".out.upload").exists()


def killed(arguments: list[str], reached: Any) -> None:
    """Run a command and kill it when it has come somewhere."""
    process = subprocess.Popen([sys.executable, "-m", "imagemill", *arguments], stderr=subprocess.PIPE)
    try:
        wait_for(reached)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("call", ["PUT /large/", "/merge"])
def test_a_killed_upload_continues_without_writing_again(hub: Hub, call: str) -> None:
    generated()
    hub.fault = lambda _, path: "wait" if call in path else None
    killed(["export", "out", "webdataset", "-o", URL], lambda: any(call in path for path in hub.calls))
    (before,) = Path(".out.upload").glob("*/train-000000.tar")
    written = before.stat().st_ino
    assert set(hub.repositories[REPOSITORY].tree()) == {".gitattributes"}
    os.link(before, "kept")
    hub.fault = lambda _, __: None
    sent: list[int] = []
    original = shutil.rmtree

    def look(path: Any, *arguments: Any, **options: Any) -> None:
        sent.extend(each.stat().st_ino for each in Path(path).glob("*/train-000000.tar"))
        original(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", look)
        package.export("out", "webdataset", URL)
    assert sent == [written]
    repository = hub.repositories[REPOSITORY]
    assert [request.status for request in repository.requests.values()] == ["merged"]
    assert repository.tree()["train-000000.tar"] == Path("kept").read_bytes()


def test_a_changed_dataset_does_not_continue_an_older_upload(hub: Hub) -> None:
    dataset = generated()
    hub.fault = lambda _, path: 500 if "merge" in path else None
    with pytest.raises(ImagemillError):
        package.export(dataset, "parquet", URL)
    add(dataset, note=lambda n: f"note {n}")
    hub.fault = lambda _, __: None
    package.export(dataset, "parquet", URL)
    repository = hub.repositories[REPOSITORY]
    assert [request.status for request in repository.requests.values()] == ["closed", "merged"]
    assert same_but_card(repository.tree(), package.export(dataset, "parquet", "local"))


def test_who_cannot_reach_the_hub_is_told_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    generated()
    hub.role = "read"
    with pytest.raises(UsageError, match="the token may only read"):
        package.export("out", "parquet", URL)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="nobody is logged in") as nobody:
        package.export("out", "parquet", URL)
    assert "hf auth login" in nobody.value.hint
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ImagemillError, match="the hub cannot be reached"):
        package.export("out", "parquet", URL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="not asked while offline"):
        package.export("out", "parquet", URL)
    assert hub.writes() == []


def test_a_dry_run_says_what_would_happen(hub: Hub, imagemill: Command) -> None:
    generated()
    dry = imagemill("export", "out", "parquet", "-o", URL, "--dry-run", "--json")
    assert dry.code == 0
    assert (dry.json["files"], dry.json["holds"]) == (5, "nothing")
    assert f"would upload 5 pictures, 6.6 kB, to {hub.url}/datasets/{REPOSITORY} (private)" in dry.err
    assert hub.writes() == []
    assert sorted(path.name for path in Path().iterdir() if path.name != "hf") == ["out"]


def test_a_job_can_end_on_the_hub(hub: Hub, imagemill: Command) -> None:
    Path("prompts.txt").write_text("a\nb\n")
    Path("job.toml").write_text(
        'input = "prompts.txt"\noutput = "made"\n[[steps]]\noperator = "generate"\nmodel = "fake"\n'
        f'[[steps]]\noperator = "export"\nlayout = "parquet"\noutput = "{URL}"\ntag = "v1"\n'
    )
    done = imagemill("run", "job.toml")
    assert (done.code, done.out) == (0, f"{URL}\n"), done.err
    assert "2 images sent to" in done.err
    assert "refs/tags/v1" in hub.repositories[REPOSITORY].references
    Path("job.toml").write_text(Path("job.toml").read_text().replace(URL, "elsewhere"))
    assert "`elsewhere` is no URL" in imagemill("run", "job.toml").err


# What must not leave


SECRETS = {
    "a Hugging Face token": "hf_" + "a1B2" * 9,
    "an API key": "sk-proj-" + "a1B2_-" * 9,
    "an AWS access key": "AKIA" + "A1B2" * 4,
    "a GitHub token": "ghp_" + "a1B2" * 9,
    "a Slack token": "xoxb-" + "12345678901-abc",
    "a Google API key": "AIza" + "a1B2_" * 7,
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "the value of `SOME_API_KEY`": "correct horse battery",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_in_prompts_do_not_leave(
    kind: str, hub: Hub, imagemill: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = SECRETS[kind]
    monkeypatch.setenv("SOME_API_KEY", SECRETS["the value of `SOME_API_KEY`"])
    package.generate([{"prompt": "a"}, {"prompt": f"b {secret}."}], "out", model="fake", seed=1, width=8, height=8)
    refused = imagemill("export", "out", "parquet", "-o", URL)
    assert refused.code == 2
    assert f"`prompt_1_image_0.png`, column `prompt`: {kind}" in refused.err
    assert secret not in refused.err
    assert hub.calls == []


@pytest.mark.parametrize("name", ["AZURE_STORAGE_ACCOUNT_KEY", "AWS_SESSION_TOKEN", "OPENAI_API_KEY", "hf_token"])
def test_what_variables_hold_in_secret_is_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "correct horse battery")
    assert checks.known_secrets()[name] == b"correct horse battery"


def test_words_that_look_like_secrets_leave() -> None:
    text = b"a desk-and-chair-in-a-sketched-room, hf_logo, risk-free task-oriented AKIAS, xox"
    assert list(checks.secrets_in(text, {})) == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-be"])
def test_secrets_inside_of_pictures_do_not_leave(encoding: str, store: Store) -> None:
    """As in the workflow that a picture from elsewhere carries."""
    dataset = generated(count=2)
    folder = dataset.parts[0].folder
    path = folder / "prompt_1_image_0.png"
    path.write_bytes(path.read_bytes() + b"\n" * (1 << 20) + SECRETS["a Hugging Face token"].encode(encoding))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines[1]["sha256"] = sha256
    with dataset.lock():
        dataset.parts[0].unseal()
        (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UsageError, match=r"`train/00000/prompt_1_image_0\.png`: a Hugging Face token"):
        package.export("out", "imagefolder", f"s3://{BUCKET}/a")
    assert store.writes() == []


def test_rejected_images_do_not_leave(hub: Hub) -> None:
    dataset = generated()
    add(dataset, rejected=lambda n: n == 2)
    with pytest.raises(UsageError, match="1 of the images is rejected") as refused:
        package.export(dataset, "parquet", URL)
    assert refused.value.hint == 'leave them: `--where "not rejected"`'
    assert hub.calls == []
    package.export(dataset, "parquet", URL, where="not rejected")


def test_images_without_a_license_do_not_leave(hub: Hub) -> None:
    dataset = generated()
    job = Path("out", "job.toml")
    job.write_text(job.read_text().replace("cc0-1.0", "unknown"))
    with pytest.raises(UsageError, match="nobody knows the license") as refused:
        package.export(dataset, "parquet", URL)
    assert "--license" in refused.value.hint
    assert hub.calls == []
    package.export(dataset, "parquet", URL, license="cc-by-4.0")
    assert b"license: cc-by-4.0" in hub.repositories[REPOSITORY].tree()["README.md"]


def test_a_license_that_restricts_use_is_told(hub: Hub, imagemill: Command) -> None:
    generated()
    job = Path("out", "job.toml")
    job.write_text(job.read_text().replace("cc0-1.0", "cc-by-nc-4.0"))
    assert "`cc-by-nc-4.0`, rules out commercial use" in imagemill("export", "out", "parquet", "-o", URL).err


def test_more_files_than_the_hub_takes_do_not_leave() -> None:
    def exported(*names: str) -> Exported:
        return Exported(Path(), {name: File(name, 1, "") for name in names}, "")

    checks.check_limits(exported(*(f"a/{n // 9_000}/{n}" for n in range(90_000))))
    with pytest.raises(UsageError, match="`a/b` holds 10,001 files"):
        checks.check_limits(exported(*(f"a/b/{n}" for n in range(10_001))))
    with pytest.raises(UsageError, match="100,001 files are more than"):
        checks.check_limits(exported(*(f"a/{n // 1000}/{n}" for n in range(100_001))))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hf://name", "names no repository"),
        ("hf://someone/name/folder", "names no repository"),
        ("ftp://host/path", "leads to nothing"),
        ("s3://", "names no bucket"),
        ("s3://user:password@bucket/path", "names no bucket"),
        (f"s3://{BUCKET}/a", "has no effect"),
        ("folder", "has no effect"),
    ],
)
def test_a_wrong_place_is_refused_before_anything_happens(url: str, said: str) -> None:
    dataset = generated()
    with pytest.raises(UsageError, match=said) as refused:
        package.export(dataset, "parquet", url, public=True)
    assert "password" not in str(refused.value)
    assert sorted(path.name for path in Path().iterdir()) == ["out"]


@pytest.mark.parametrize(("url", "name"), [(URL, "huggingface_hub"), (f"s3://{BUCKET}/a", "obstore")])
def test_a_package_that_is_not_installed_is_named(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = generated()
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=f"`{name}` is not installed") as refused:
        package.export(dataset, "parquet", url)
    assert refused.value.hint == "pip install 'imagemill[cloud]'"


# Object stores


def test_a_store_holds_what_a_local_export_holds(store: Store, imagemill: Command, tmp_path: Path) -> None:
    generated(count=30)
    done = imagemill("export", "out", "imagefolder", "-o", f"s3://{BUCKET}/a/b")
    assert (done.code, done.out) == (0, f"s3://{BUCKET}/a/b\n"), done.err
    expected = files_in(package.export("out", "imagefolder", "local"))
    assert {name.removeprefix("a/b/"): found.data for name, found in store.objects.items()} == expected
    sent = [call.split("/a/b/")[1] for call in store.calls if call.startswith("PUT")]
    assert sent[0] == CLAIM
    assert sent[-3:] == ["README.md", MANIFEST, MARK] or sent[-3:] == [MANIFEST, "README.md", MARK]
    store.calls.clear()
    again = imagemill("export", "out", "imagefolder", "-o", f"s3://{BUCKET}/a/b")
    assert "uploaded before" in again.err
    assert store.writes() == []
    assert not Path(".out.upload").exists()
    no_secret_anywhere(tmp_path, done.out, done.err)


def test_large_files_go_in_parts_and_are_compared(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_CHUNK", 4096)
    generated()
    package.export("out", "webdataset", f"s3://{BUCKET}/a")
    assert re.fullmatch(r"[0-9a-f]{32}-\d+", store.objects["a/train-000000.tar"].tag)
    assert (
        store.objects["a/train-000000.tar"].data
        == files_in(package.export("out", "webdataset", "local"))["train-000000.tar"]
    )


def test_a_prefix_that_is_not_ours_is_not_touched(store: Store) -> None:
    generated()
    store.put("a/notes.txt", b"mine")
    with pytest.raises(UsageError, match=r"holds other objects, such as `notes\.txt`"):
        package.export("out", "parquet", f"s3://{BUCKET}/a")
    assert store.writes() == []
    # A prefix ends with its name.
    package.export("out", "parquet", f"s3://{BUCKET}/a/notes")
    assert store.objects["a/notes.txt"].data == b"mine"


def test_a_later_export_replaces_an_earlier_one_under_a_prefix(store: Store) -> None:
    dataset = generated()
    package.export(dataset, "imagefolder", f"s3://{BUCKET}/a")
    store.put("a/LICENSE", b"CC0")
    add(dataset, note=lambda n: f"note {n}")
    store.fault = lambda _, call: 403 if "metadata.jsonl" in call else None
    with pytest.raises(UsageError, match="refuses the credentials: InvalidAccessKeyId"):
        package.export(dataset, "imagefolder", f"s3://{BUCKET}/a")
    # While it is neither the one nor the other, nothing says that it is whole.
    assert f"a/{MARK}" not in store.names()
    store.fault = lambda _, __: None
    store.calls.clear()
    package.export(dataset, "parquet", f"s3://{BUCKET}/a", replace=True)
    expected = {**files_in(package.export(dataset, "parquet", "local")), "LICENSE": b"CC0"}
    assert {name.removeprefix("a/"): found.data for name, found in store.objects.items()} == expected


@pytest.mark.parametrize("hashes", [True, False])
def test_an_interrupted_upload_sends_only_what_is_missing(store: Store, hashes: bool) -> None:
    store.hashes = hashes
    generated(count=12)
    target = f"s3://{BUCKET}/a"
    store.fault = lambda _, call: 403 if "prompt_9_" in call else None
    with pytest.raises(UsageError):
        package.export("out", "imagefolder", target)
    there = {name for name in store.names() if name.endswith(".png")}
    assert there
    # Stores tell times in seconds.
    store.objects[f"a/{CLAIM}"].modified -= timedelta(seconds=2)
    store.fault = lambda _, __: None
    store.calls.clear()
    package.export("out", "imagefolder", target)
    sent = {call.removeprefix(f"PUT /{BUCKET}/") for call in store.calls if call.startswith("PUT")}
    assert not sent & there
    expected = files_in(package.export("out", "imagefolder", "local"))
    assert {name.removeprefix("a/"): found.data for name, found in store.objects.items()} == expected


@pytest.mark.parametrize("hashes", [True, False])
def test_an_object_of_an_earlier_export_with_an_equal_size_is_sent_again(store: Store, hashes: bool) -> None:
    store.hashes = hashes
    dataset = generated()
    add(dataset, note=lambda n: f"one {n}")
    package.export(dataset, "imagefolder", f"s3://{BUCKET}/a")
    add(dataset, note=lambda n: f"two {n}")
    package.export(dataset, "imagefolder", f"s3://{BUCKET}/a")
    assert b"two 4" in store.objects["a/train/metadata.jsonl"].data


def test_a_spoiled_object_is_found_and_sent_again(store: Store) -> None:
    generated()
    store.fault = lambda _, call: "spoil" if call.startswith("PUT") and "prompt_3_" in call else None
    with pytest.raises(ImagemillError, match=r"prompt_3_image_0\.png` differs"):
        package.export("out", "imagefolder", f"s3://{BUCKET}/a")
    assert f"a/{MARK}" not in store.names()
    store.fault = lambda _, __: None
    package.export("out", "imagefolder", f"s3://{BUCKET}/a")
    name = "train/00000/prompt_3_image_0.png"
    assert store.objects[f"a/{name}"].data == files_in(package.export("out", "imagefolder", "local"))[name]


@pytest.mark.parametrize("fault", [500, "close"])
def test_a_fault_that_passes_is_not_noticed(store: Store, fault: int | str) -> None:
    generated()
    failed: list[str] = []

    def once(_: int, call: str) -> int | str | None:
        # Each call fails once.
        if call in failed or not call.startswith("PUT"):
            return None
        failed.append(call)
        return fault

    store.fault = once
    package.export("out", "webdataset", f"s3://{BUCKET}/a")
    assert len(failed) >= 5
    assert f"a/{MARK}" in store.names()


def test_who_may_not_write_to_a_store_is_told_so(
    store: Store, imagemill: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated()
    absent = imagemill("export", "out", "parquet", "-o", "s3://another/a")
    assert (absent.code, "NoSuchBucket" in absent.err) == (2, True), absent.err
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA" + "WRONGWRONG000000")
    refused = imagemill("export", "out", "parquet", "-o", f"s3://{BUCKET}/a")
    assert (refused.code, "InvalidAccessKeyId" in refused.err) == (2, True), refused.err
    assert "AKIA" not in refused.err


def test_a_killed_upload_to_a_store_continues(store: Store) -> None:
    generated()
    store.fault = lambda _, call: "wait" if call.startswith("PUT") and "metadata.jsonl" in call else None
    killed(
        ["export", "out", "imagefolder", "-o", f"s3://{BUCKET}/a"],
        lambda: any("metadata.jsonl" in call for call in store.calls) and len(store.names()) > 3,
    )
    assert f"a/{MARK}" not in store.names()
    store.fault = lambda _, __: None
    assert run(["export", "out", "imagefolder", "-o", f"s3://{BUCKET}/a", "--quiet"]) == 0
    expected = files_in(package.export("out", "imagefolder", "local"))
    assert {name.removeprefix("a/"): found.data for name, found in store.objects.items()} == expected
