"""`imagemill serve`: the folder, the link, the way in, and its end."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Command
from tests.web_server import TOKEN, Served, served, started

httpx2 = pytest.importorskip("httpx2", reason="the web app is asked with httpx2: pip install '.[remote]'")


def test_the_link_lets_in_once_and_the_cookie_after_it(tmp_path: Path) -> None:
    with started(tmp_path / "new") as (process, link), httpx2.Client(trust_env=False) as client:
        assert "?token=" in link
        assert client.get(link.partition("?")[0]).status_code == 401
        page = client.get(link.partition("?")[0], headers={"Accept": "text/html"})
        assert page.headers["content-type"].startswith("text/html")
        assert "<h1>The token is missing</h1>" in page.text
        assert "<code>?token=</code>" in page.text
        assert "<h1>This server is not <code>a&lt;b</code></h1>" in (
            client.get(link, headers={"Accept": "text/html", "Host": "a<b"}).text
        )
        first = client.get(link)
        assert first.status_code == 303
        assert "token" not in first.headers["location"]
        cookie = first.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert link.partition("token=")[2] not in cookie
        assert client.get(link.partition("?")[0]).status_code == 303
        other = {"Cookie": f"{first.headers['set-cookie'].partition('=')[0]}=of-another-token"}
        with httpx2.Client(trust_env=False, headers=other) as later:
            assert "the token is of an earlier start" in later.get(link.partition("?")[0]).text
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_a_token_of_the_environment_is_never_printed(tmp_path: Path) -> None:
    with started(tmp_path, IMAGEMILL_TOKEN="a secret of mine") as (process, link):
        assert "token" not in link
        with httpx2.Client(trust_env=False) as client:
            assert client.get(link, params={"token": "a secret of mine"}).status_code == 303
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=20)[1]
    assert "IMAGEMILL_TOKEN" in said
    assert "a secret of mine" not in said


def test_a_dataset_opens_in_its_gallery(tmp_path: Path, prompts: Path, imagemill: Command) -> None:
    assert imagemill("generate", prompts, "-o", "mine", "--model", "fake", "--limit", 2).code == 0
    with started("mine") as (_, link), httpx2.Client(trust_env=False, follow_redirects=True) as client:
        assert "/datasets/" in link
        page = client.get(link)
    assert page.status_code == 200
    assert "mine" in page.text
    assert not (tmp_path / "mine" / ".imagemill-server").exists()


def test_a_second_server_of_a_folder_is_refused(tmp_path: Path, imagemill: Command) -> None:
    with started(tmp_path / "served"):
        refused = imagemill("serve", tmp_path / "served", "--no-browser", "--port", 0)
    assert refused.code == 5
    assert str(tmp_path / "served") in refused.err


def test_what_cannot_be_served_is_told(tmp_path: Path, imagemill: Command) -> None:
    (tmp_path / "file").write_text("")
    for arguments, said in {
        ("file",): "`file` is a file",
        (".", "--port", "70000"): "from 0 to 65535",
        (".", "--model", "shpes"): "did you mean `shapes`?",
        (".", "--batch-size", "2"): "add `--api`",
    }.items():
        refused = imagemill("serve", *arguments, "--no-browser")
        assert refused.code == 2
        assert said in refused.err
    refused = imagemill("serve", "file/inside", "--no-browser")
    assert "file/inside/.imagemill-server` cannot be written: Not a directory" in refused.err


def test_other_machines_are_warned_of(tmp_path: Path) -> None:
    with started(tmp_path, "--host", "0.0.0.0") as (process, link):
        assert link.startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=20)[1]
    assert "can be reached from other machines, with the address of this one in the link" in said


def test_datasets_are_found_and_no_link_leads_out(tmp_path: Path, prompts: Path, imagemill: Command) -> None:
    folder = tmp_path / "served"
    for place in (folder / "one", folder / "deep" / "two", tmp_path / "outside"):
        assert imagemill("generate", prompts, "-o", place, "--model", "fake", "--limit", 1).code == 0
    (folder / "link").symlink_to(tmp_path / "outside")
    with served(folder) as web:
        entries = web.workspace.datasets()
        assert [entry.name for entry in entries] == ["deep/two", "one"]
        assert web.workspace.find(entries[0].id).folder == folder / "deep" / "two"


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "x" * 81, "end.", "new\nline", "-o"])
def test_a_name_that_is_no_folder_is_refused(web: Served, name: str) -> None:
    from imagemill.errors import UsageError

    with pytest.raises(UsageError):
        web.workspace.new_folder(name)


def test_who_comes_from_another_site_is_let_in_by_the_link(browser: Any, web: Served, tmp_path: Path) -> None:
    (tmp_path / "way.html").write_text(f'<meta http-equiv="refresh" content="0; url={web.url}/?token={TOKEN}">')
    page = browser.new_context().new_page()
    page.goto((tmp_path / "way.html").as_uri())
    page.wait_for_url(f"{web.url}/datasets")
    page.wait_for_selector("main")
    assert "token" not in page.url
    page.context.close()
