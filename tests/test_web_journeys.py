"""A person in a browser: from a prompt table to an exported dataset, by mouse and by keys; and what a crash leaves."""

from __future__ import annotations

import itertools
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import imagemill as package
from tests.conftest import contents
from tests.web_server import TOKEN, Served, barriers, opened, started

LARGE, SMALL = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
COLORS, FORMS, GROUNDS = ("red", "blue", "green", "yellow", "purple"), ("circle", "star", "heart"), (
    "white", "pink", "cyan", "gray", "black",
)  # fmt: skip


def prompts(folder: Path, rows: int) -> Path:
    """A prompt table."""
    texts = [
        f"a {color} {form} on a {ground} background"
        for form, color, ground in itertools.product(FORMS, COLORS, GROUNDS)
    ]
    table = folder / "prompts.csv"
    table.write_text("prompt,topic\n" + "".join(f"{text},one object\n" for text in texts[:rows]))
    return table


def until(page: Any, asked: Callable[[], Any] | str, seconds: float = 60) -> Any:
    """Wait for something to be true: in the page, by a script, or here."""
    ends = time.monotonic() + seconds
    while not (found := evaluated(page, asked) if isinstance(asked, str) else asked()):
        assert time.monotonic() < ends, asked
        page.wait_for_timeout(50)
    return found


def evaluated(page: Any, script: str) -> Any:
    """What a script says, or nothing while the page changes."""
    from playwright.sync_api import Error

    try:
        return page.evaluate(script)
    except Error as error:
        if "context was destroyed" in str(error):
            return None
        raise


def shown(page: Any, count: int) -> None:
    """Wait for the gallery to show so many images."""
    until(page, f"document.getElementById('grid')?.total === {count}")
    until(page, "[...document.querySelectorAll('#grid img')].some((image) => image.complete && image.naturalWidth)")


def job_done(page: Any, web: Served, job: int) -> None:
    """Wait for a job to be done."""
    until(page, lambda: web.state.queue.get(job).state in {"done", "failed", "cancelled"}, seconds=180)
    found = web.state.queue.get(job)
    assert found.state == "done", found.message


def last_job(web: Served) -> int:
    return max(int(job.id) for job in web.state.queue.jobs())


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {record["file_name"]: dict(record) for record in package.Dataset(folder)}


def test_from_a_prompt_table_to_an_exported_dataset(web: Served, browser: Any, tmp_path: Path) -> None:
    """120 images by `shapes`, one caption edited, saved as a new dataset, exported, downloaded and loaded."""
    datasets = pytest.importorskip("datasets")
    with opened(browser, web) as page:
        page.goto("/datasets")
        page.set_input_files("#send-files", prompts(tmp_path, 60))
        page.get_by_role("link", name="Generate from this table").wait_for()
        page.get_by_role("link", name="Generate from this table").click()
        page.locator("[name=images_per_prompt]").fill("2")
        page.locator("[name=seed]").fill("7")
        page.locator("[name=num_inference_steps]").fill("4")
        page.locator("#name").fill("one object")
        until(
            page, "document.getElementById('plan').innerText.includes('120') && !document.querySelector('[aria-busy]')"
        )
        page.locator("#queue").click()
        page.wait_for_url("**/executions*")
        until(page, "document.querySelectorAll('[data-field=newest] img').length > 3", seconds=180)
        job_done(page, web, last_job(web))
        page.get_by_role("link", name="Open dataset").first.click()
        shown(page, 120)
        before = contents(web.folder / "one object")

        page.locator("#grid").press("Home")
        page.locator("#grid").press("Enter")
        page.wait_for_url("**/images/0-0*")
        page.keyboard.press("e")
        page.locator("[data-column=caption] textarea").fill("a scarlet disc")
        edits = web.state.edits(a_dataset(web, "one object"))
        until(page, lambda: edits.of("0-0").texts == {"caption": "a scarlet disc"})
        page.keyboard.press("Tab")
        page.locator("a.back").click()
        shown(page, 120)

        page.keyboard.press("Shift+S")
        page.locator("#curate-save-name").fill("scarlet")
        page.locator("#curate-save button.primary").click()
        page.get_by_role("link", name="Open", exact=True).click()
        shown(page, 120)
        assert contents(web.folder / "one object") == before
        old, new = records(web.folder / "one object"), records(web.folder / "scarlet")
        assert new.keys() == old.keys()
        changed = {name: record["caption"] for name, record in new.items() if record["caption"] != old[name]["prompt"]}
        assert changed == {"prompt_0_image_0.png": "a scarlet disc"}

        page.locator("#grid").focus()
        page.keyboard.press("Shift+E")
        page.locator("#curate-export-name").fill("scarlet export")
        page.locator("#curate-export button.primary").click()
        with page.expect_download(timeout=60_000) as download:
            page.get_by_role("link", name="Download", exact=True).click()
        download.value.save_as(tmp_path / "download.zip")
    with zipfile.ZipFile(tmp_path / "download.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked" / "scarlet export"
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(loaded["caption"]) == sorted(record["caption"] for record in new.values())


def a_dataset(web: Served, name: str) -> str:
    return str(web.workspace.id_of(web.folder / name))


def reach(page: Any, selector: str, most: int = 120) -> None:
    """Go to an element by Tab alone."""
    for _ in range(most):
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached by Tab on {page.url}")


def name_it(page: Any, key: str, dialog: str, name: str) -> None:
    """Open a dialog that asks for a name, and give one."""
    page.keyboard.press(key)
    until(page, f"document.activeElement.id === '{dialog}-name' && document.activeElement.value")
    page.keyboard.press("Control+a")
    page.keyboard.type(name)
    page.keyboard.press("Enter")


def test_the_same_without_a_mouse(web: Served, browser: Any, tmp_path: Path) -> None:
    web.state.models.append("fake")
    with opened(browser, web) as page:
        choosers: list[Any] = []
        page.on("filechooser", lambda chooser: choosers.append(chooser))  # noqa: PLW0108 - it wants a function of Python
        page.goto("/datasets")
        reach(page, "#send-files")
        page.keyboard.press("Enter")
        until(page, lambda: choosers)
        choosers[0].set_files(prompts(tmp_path, 10))
        page.get_by_role("link", name="Generate from this table").wait_for()
        reach(page, "a[href^='/make/generate?upload']")
        page.keyboard.press("Enter")
        page.locator("#queue").wait_for()
        reach(page, "[name=images_per_prompt]")
        page.keyboard.type("2")
        reach(page, "#name")
        page.keyboard.press("Control+a")
        page.keyboard.type("keys")
        page.keyboard.press("Control+Enter")
        page.wait_for_url("**/executions*")
        job_done(page, web, last_job(web))
        reach(page, "[data-field=open]")
        page.keyboard.press("Enter")
        shown(page, 20)
        reach(page, "#grid")
        page.keyboard.press("Home")
        page.keyboard.press("Space")
        page.keyboard.press("Shift+ArrowRight")
        until(page, "document.getElementById('grid').count === 2")
        page.keyboard.press("x")
        until(page, lambda: view(web, "keys", decision="reject") == 2)
        page.keyboard.press("t")
        until(page, "document.activeElement.id === 'curate-tag'")
        page.keyboard.type("unclear")
        page.keyboard.press("Enter")
        until(page, lambda: view(web, "keys", tag="unclear") == 2)
        page.keyboard.press("Control+z")
        until(page, lambda: view(web, "keys", tag="unclear") == 0)
        reach(page, "#grid")
        page.keyboard.press("Escape")
        page.keyboard.press("r")
        page.keyboard.type("red")
        page.keyboard.press("Tab")
        page.keyboard.type("crimson")
        until(page, "!document.querySelector('#curate-replace [data-do]').disabled")
        page.keyboard.press("Enter")
        until(page, lambda: view(web, "keys", search="crimson", search_column="caption") > 0)
        page.locator("#curate-replace").wait_for(state="hidden")
        name_it(page, "Shift+S", "curate-save", "kept")
        until(page, (web.folder / "kept" / "README.md").exists)
        page.locator("#curate-save").wait_for(state="hidden")
        name_it(page, "Shift+E", "curate-export", "sent")
        until(page, (web.folder / "sent-imagefolder" / "README.md").exists)
        page.locator("#curate-export").wait_for(state="hidden")
        page.keyboard.press("?")
        assert page.get_by_role("dialog", name="Keys").is_visible()
    kept = records(web.folder / "kept")
    assert len(kept) == 18
    assert any("crimson" in record["caption"] for record in kept.values())


def view(web: Served, name: str, **query: str) -> int:
    answer = web.client.get(f"/api/datasets/{a_dataset(web, name)}/view", params=query)
    return int(answer.json()["total"]) if answer.status_code == 200 else -1


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_killed_server_loses_neither_the_job_nor_what_is_being_written(browser: Any, tmp_path: Path) -> None:
    import httpx2

    folder, port = tmp_path / "served", free_port()
    url = f"http://127.0.0.1:{port}"
    folder.mkdir()
    package.generate([{"prompt": f"a cat {row}"} for row in range(4)], folder / "cats", model="fake", seed=1)
    from imagemill.server.web.workspace import Workspace

    cats = Workspace(folder).id_of(folder / "cats")
    context = browser.new_context(base_url=url, viewport=LARGE)
    page = context.new_page()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx2.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as client:
        with started(folder, port=port, IMAGEMILL_TOKEN=TOKEN) as (first, _):
            values = {"model": ["fake"], "images_per_prompt": ["2"], "latency": ["0.3"]}
            asked = {
                "source": "typed",
                "prompts": "\n".join(f"a dog {row}" for row in range(40)),
                "name": "dogs",
                "values": values,
            }
            answer = client.post("/api/make/generate", json=asked)
            assert answer.status_code == 200, answer.text
            job = answer.json()["job"]
            until(page, lambda: client.get(f"/api/jobs/{job}").json()["done"] > 8)
            page.goto(f"/datasets/{cats}/images/1-0?token={TOKEN}")
            page.keyboard.press("e")
            page.locator("[data-column=caption] textarea").fill("acknowledged")
            until(page, lambda: client.get(f"/api/datasets/{cats}/images/1-0").json()["revision"] == 1)
            first.kill()
            first.wait()
            page.locator("[data-column=caption] textarea").fill("written while nobody listened")
            page.wait_for_timeout(1_500)
        with started(folder, port=port, IMAGEMILL_TOKEN=TOKEN):
            # The same page, still open, sends what it has kept; a reload would send it as well.
            page.reload()
            wanted = "written while nobody listened"
            until(page, lambda: client.get(f"/api/datasets/{cats}/images/1-0").json()["texts"]["caption"] == wanted)
            until(page, lambda: client.get(f"/api/jobs/{job}").json()["state"] in {"done", "failed", "cancelled"})
            assert client.get(f"/api/jobs/{job}").json()["state"] == "done"
            assert len(client.get("/api/jobs").json()["jobs"]) == 1
    context.close()
    assert len(records(folder / "dogs")) == 80
    assert package.Dataset(folder / "dogs").counts().done == 80


PAGES = ("/datasets", "/executions", "/make/generate", "/make/score")
STILL = "!document.querySelector('[aria-busy=true]') && !document.getAnimations().length"
DIALOGS = ("r", "Shift+S", "Shift+E", "Shift+A", "Shift+H", "?")


@pytest.mark.parametrize(("viewport", "scheme"), [(LARGE, "light"), (SMALL, "dark")], ids=["large-light", "small-dark"])
def test_every_page_is_accessible(web: Served, browser: Any, viewport: dict[str, int], scheme: str) -> None:
    """axe finds nothing serious, whatever the theme."""
    dataset, upload = some_of_everything(web)
    gallery = f"/datasets/{dataset}"
    own = (gallery, f"{gallery}/images/0-0", f"{gallery}/compare?images=0-0,1-0", upload, "/executions/1", "/none")
    found: list[str] = []
    with opened(browser, web, viewport=viewport, color_scheme=scheme) as page:

        def look(what: str) -> None:
            until(page, STILL)
            found.extend(f"{what}: {each}" for each in barriers(page))
            page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
            until(page, STILL)
            found.extend(f"{what}, other theme: {each}" for each in barriers(page, ["color-contrast"]))
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), what

        for path in (*PAGES, *own):
            page.goto(path)
            if path == gallery:
                shown(page, 8)
                page.locator("#grid").press("Control+a")
            look(path)
        page.goto(gallery)
        shown(page, 8)
        for key in DIALOGS:
            page.keyboard.press(key)
            page.locator("dialog[open]").wait_for()
            look(key)
            page.keyboard.press("Escape")
            page.locator("dialog[open]").wait_for(state="hidden")
    assert found == []


def some_of_everything(web: Served) -> tuple[str, str]:
    """A dataset with decisions, by its id, an upload with a rejected row, by its page, and a job."""
    rows = [{"prompt": f"a cat {row}", "topic": "cats"} for row in range(8)]
    package.generate(rows, web.folder / "cats", model="fake", seed=1)
    dataset = a_dataset(web, "cats")
    edits = web.state.edits(dataset)
    edits.change(["0-0", "1-0"], decision="reject", rating=3, add_tags=["fine"])
    edits.change(["2-0"], texts={"caption": "another"}, decision="keep")
    files = {"files": ("prompts.csv", "prompt,n\na cat,1\n,2\n")}
    sent = web.client.post("/api/uploads", files=files, headers={"Accept": "application/json"})
    web.client.post(f"/api/datasets/{dataset}/save-as", json={"name": "other"})
    return dataset, str(sent.json()["uploads"][0]["url"])
