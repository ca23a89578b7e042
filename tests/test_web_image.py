"""The page of one image, in a browser: what it shows, keys, and texts that are edited where they stand."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Command
from tests.web_server import TOKEN, Served, barriers, opened, started, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture
def cats(web: Served, imagemill: Command, prompts: Path) -> str:
    """The id of a dataset of twelve images."""
    assert imagemill("generate", prompts, "-o", web.folder / "cats", "--model", "fake", "--quiet").code == 0
    return str(web.workspace.datasets()[0].id)


def decided(web: Served, dataset: str, image: str = "3-0") -> Any:
    return web.client.get(f"/api/datasets/{dataset}/images/{image}").json()


def show(page: Page, dataset: str, image: str = "3-0", query: str = "") -> None:
    page.goto(f"/datasets/{dataset}/images/{image}{query}")
    page.wait_for_selector(".place:not(:empty)")


def test_every_column_of_the_record_is_on_the_page(web: Served, cats: str) -> None:
    text = web.client.get(f"/datasets/{cats}/images/3-0").text
    record = decided(web, cats)["record"]
    for name, value in record.items():
        if name not in {"file_name", "sha256", "model_parameters", "negative_prompt"}:
            assert str(value) in text, name
        if name not in {"file_name", "sha256", "negative_prompt", "prompt", "topic"}:
            assert f">{name}</dt>" in text, name
    assert "imagemill reproduce cats prompt_3_image_0" in text
    assert f"/make/generate?dataset={cats}&amp;image=3-0" in text
    carried = web.client.get(f"/datasets/{cats}/images/3-0/file").text
    assert "carried by the file itself" in carried
    assert str(record["seed"]) in carried


def test_markup_in_texts_is_text(web: Served, imagemill: Command, tmp_path: Path) -> None:
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
    (tmp_path / "evil.jsonl").write_text(json.dumps({"prompt": evil, "note": evil}) + "\n")
    assert imagemill("generate", tmp_path / "evil.jsonl", "-o", web.folder / "evil", "--model", "fake").code == 0
    (entry,) = web.workspace.datasets()
    for path in ("", "/file"):
        text = web.client.get(f"/datasets/{entry.id}/images/0-0{path}").text
        assert "<script>alert" not in text
        assert "<img src=x" not in text


def test_pictures_that_an_image_was_made_from_are_served_and_nothing_else(web: Served, cats: str) -> None:
    part = web.workspace.find(cats).folder / "images" / "part-000001"
    records = [json.loads(line) for line in (part / "metadata.jsonl").read_text().splitlines()]
    for record in records:
        record["image_nsfw"] = 0.9 if record["file_name"].startswith("prompt_3") else 0.1
        record["input_image_file_name"] = record["file_name"].replace(".png", "_input_0.png")
    lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in records]
    (part / "metadata.jsonl").write_text("".join(lines))
    source = part / "prompt_3_image_0_input_0.png"
    source.write_bytes((part / "prompt_0_image_0.png").read_bytes())
    path = f"/images/{cats}/3-0/source"
    found = web.client.get(f"{path}/0")
    assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
    assert found.content == source.read_bytes()
    assert found.headers["content-security-policy"].startswith("sandbox")
    text = web.client.get(f"/datasets/{cats}/images/3-0").text
    assert f"{path}/0" in text
    assert 'data-unsafe="yes"' in text
    assert "data-unsafe" not in web.client.get(f"/datasets/{cats}/images/4-0").text
    assert [web.client.get(f"{path}/{place}").status_code for place in (1, -1)] == [404, 404]
    source.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert web.client.get(f"{path}/0").status_code == 404
    # Neither is a link followed.
    source.unlink()
    source.symlink_to(part / "prompt_0_image_0.png")
    assert web.client.get(f"{path}/0").status_code == 404


def test_images_are_decided_by_keys_alone(browser_page: Page, web: Served, cats: str) -> None:
    page = browser_page
    show(page, cats)
    for key in ("k", "4"):
        page.keyboard.press(key)
    page.keyboard.press("t")
    page.keyboard.type("soft light")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.locator(".tags", has_text="soft light").wait_for()
    page.keyboard.press("ArrowRight")
    page.locator("h1", has_text="prompt_4_image_0.png").wait_for()
    assert page.url.endswith("/images/4-0")
    page.keyboard.press("x")
    page.wait_for_selector("[data-decision=reject][aria-pressed=true]")
    until(lambda: decided(web, cats, "4-0")["decision"] == "reject")
    found = decided(web, cats)
    assert (found["decision"], found["rating"], found["tags"]) == ("keep", 4, ["soft light"])
    page.keyboard.press("Control+z")
    page.wait_for_selector("[data-decision=''][aria-pressed=true]")
    assert decided(web, cats, "4-0")["decision"] == ""
    page.keyboard.press("Control+Shift+z")
    page.wait_for_selector("[data-decision=reject][aria-pressed=true]")
    page.keyboard.press("ArrowLeft")
    page.locator("h1", has_text="prompt_3_image_0.png").wait_for()
    assert page.locator("button[data-decision=keep]").get_attribute("aria-pressed") == "true"
    page.locator(".place", has_text="4 of 12").wait_for()
    page.keyboard.press("Escape")
    page.wait_for_url(f"**/datasets/{cats}#place=3")


_SLOW_FOR_ONE = """
const real = window.fetch;
window.fetch = async (url, options = {}) => {
  if (options.method === "PATCH" && url.endsWith("/3-0")) await new Promise((done) => setTimeout(done, 500));
  return real(url, options);
};
"""


def test_decisions_arrive_in_the_order_in_which_they_were_made(browser_page: Page, web: Served, cats: str) -> None:
    """Also of several images, since what is undone is what was decided last."""
    browser_page.add_init_script(_SLOW_FOR_ONE)
    page = browser_page
    show(page, cats)
    page.keyboard.press("k")
    page.keyboard.press("ArrowRight")
    page.locator("h1", has_text="prompt_4_image_0.png").wait_for()
    page.keyboard.press("x")
    page.wait_for_selector("[data-decision=reject][aria-pressed=true]")
    page.keyboard.press("Control+z")
    page.locator(".toast", has_text="Undid").wait_for()
    assert [decided(web, cats, image)["decision"] for image in ("3-0", "4-0")] == ["keep", ""]


_FIRST_ANSWER_LATE = """
const real = window.fetch;
let held = false;
window.fetch = async (url, options = {}) => {
  const answer = await real(url, options);
  if (!url.endsWith("/images/3-0") || options.method !== "GET" || held) return answer;
  held = true;
  await new Promise((done) => setTimeout(done, 700));
  document.documentElement.dataset.late = "yes";
  return answer;
};
"""


def test_an_answer_that_comes_late_takes_nothing_back(browser_page: Page, web: Served, cats: str) -> None:
    """What somebody else decides is asked for twice, and the first answer is the last to come."""
    browser_page.add_init_script(_FIRST_ANSWER_LATE)
    page = browser_page
    show(page, cats)
    for decision in ("reject", "keep"):
        selection = {"images": ["3-0"]}
        found = web.client.post(f"/api/datasets/{cats}/bulk", json={"selection": selection, "decision": decision})
        assert found.status_code == 200
        time.sleep(0.3)
    page.wait_for_selector("html[data-late]")
    page.wait_for_selector("[data-decision=keep][aria-pressed=true]")
    page.wait_for_timeout(100)
    assert page.locator("button[data-decision=keep]").get_attribute("aria-pressed") == "true"


def test_the_order_is_that_of_the_view(browser_page: Page, cats: str) -> None:
    page = browser_page
    show(page, cats, "3-0", "?by=seed&where=topic+%3D%3D+%22t0%22")
    assert page.locator(".place").text_content().endswith(" of 4")
    seen = [page.locator("h1").text_content()]
    page.locator(".advance input").check()
    for _ in range(3):
        before = page.locator("h1").text_content()
        if page.locator(".next").is_hidden():
            break
        page.keyboard.press("k")  # and on to the next
        page.wait_for_function("before => document.querySelector('h1').textContent !== before", arg=before)
        page.wait_for_selector(".place:not(:empty)")
        seen.append(page.locator("h1").text_content())
    assert {*seen} <= {f"prompt_{row}_image_0.png" for row in (0, 3, 6, 9)}
    assert "by=seed" in page.url
    assert page.locator(".back").get_attribute("href") == (
        f"/datasets/{cats}?by=seed&where=topic+%3D%3D+%22t0%22#place=3"
    )


def test_a_text_is_saved_while_it_is_typed_and_escape_leaves_it(browser_page: Page, web: Served, cats: str) -> None:
    page = browser_page
    show(page, cats)
    caption = page.locator(".text[data-column=caption]")
    page.keyboard.press("e")
    page.keyboard.press("Control+a")
    page.keyboard.type("a cat <b>on</b>\na mat")
    caption.locator(".state", has_text="Saved").wait_for(timeout=3000)
    assert decided(web, cats)["texts"]["caption"] == "a cat <b>on</b>\na mat"
    page.keyboard.type(", perhaps")
    page.keyboard.press("Escape")
    caption.locator(".text-shown", has_text="a mat, perhaps").wait_for()
    page.wait_for_function("() => Object.keys(localStorage).every((key) => !key.includes('draft'))")
    assert decided(web, cats)["texts"]["caption"] == "a cat <b>on</b>\na mat, perhaps"
    for text in ("a mat", "picture number 3"):
        page.keyboard.press("Control+z")
        page.wait_for_function("text => document.querySelector('.text-shown').textContent.endsWith(text)", arg=text)
    assert decided(web, cats)["texts"]["caption"] == "picture number 3"
    caption.locator(".text-shown").click()
    page.keyboard.type("!")
    caption.locator(".edit-text").focus()  # leaving saves
    caption.locator(".text-own", has_text="In the dataset: picture number 3").wait_for()
    assert decided(web, cats)["texts"]["caption"] == "picture number 3!"


def test_a_stale_tab_shows_both_texts_and_nothing_is_lost(browser_page: Page, web: Served, cats: str) -> None:
    page = browser_page
    # This tab does not hear of it by itself.
    page.route("**/events*", lambda route: route.abort())
    show(page, cats)
    path = f"/api/datasets/{cats}/images/3-0"
    web.client.patch(path, json={"texts": {"caption": "their picture number 3"}}, headers={"If-Match": '"0"'})
    caption = page.locator(".text[data-column=caption]")
    page.keyboard.press("e")
    page.keyboard.type(", mine")
    caption.locator(".clash").wait_for()
    assert caption.locator(".theirs").text_content() == "their picture number 3"
    assert caption.locator(".theirs mark").all_text_contents() == ["their"]
    assert caption.locator(".mine").input_value() == "picture number 3, mine"
    assert decided(web, cats)["texts"]["caption"] == "their picture number 3"
    caption.locator(".mine").fill("both pictures")
    caption.locator(".keep-mine").click()
    caption.locator(".text-shown", has_text="both pictures").wait_for()
    assert decided(web, cats)["texts"]["caption"] == "both pictures"
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.includes('draft'))") == []


def test_what_others_edit_is_seen_at_once_and_clashes_with_what_is_being_typed(
    browser_page: Page, web: Served, cats: str
) -> None:
    page = browser_page
    show(page, cats)
    page.wait_for_selector("html[data-live=on]")
    path = f"/api/datasets/{cats}/images/3-0"

    def theirs(text: str) -> None:
        revision = decided(web, cats)["revision"]
        answer = web.client.patch(path, json={"texts": {"caption": text}}, headers={"If-Match": f'"{revision}"'})
        assert answer.status_code == 200

    theirs("first")
    caption = page.locator(".text[data-column=caption]")
    caption.locator(".text-shown", has_text="first").wait_for()
    page.keyboard.press("e")
    theirs("second")
    page.wait_for_function("() => document.querySelector('textarea').value === 'second'")
    # A rating of theirs is no reason to ask.
    web.client.patch(path, json={"rating": 5}, headers={"If-Match": f'"{decided(web, cats)["revision"]}"'})
    page.wait_for_selector("[data-rating='5'][aria-pressed=true]")
    page.keyboard.type(" by me")
    caption.locator(".state", has_text="Saved").wait_for()
    assert decided(web, cats)["texts"]["caption"] == "second by me"
    page.clock.install()  # what is typed now is not saved by itself
    page.keyboard.type(" and more")
    theirs("third")
    caption.locator(".clash").wait_for()
    caption.locator(".take-theirs").click()
    caption.locator(".text-shown", has_text="third").wait_for()
    assert decided(web, cats)["texts"]["caption"] == "third"


def test_what_is_typed_while_the_server_is_away_is_sent_when_it_is_back(
    browser_page: Page, web: Served, cats: str
) -> None:
    page = browser_page
    show(page, cats)
    page.context.set_offline(True)
    page.keyboard.press("k")
    page.keyboard.press("e")
    page.keyboard.type(" offline")
    page.locator(".said", has_text="The server is away").wait_for()
    page.keyboard.press("Control+Enter")
    page.context.set_offline(False)
    page.locator(".text[data-column=caption] .state", has_text="Saved").wait_for()
    page.wait_for_selector(".said:empty", state="attached")
    found = decided(web, cats)
    assert (found["texts"]["caption"], found["decision"]) == ("picture number 3 offline", "keep")


def test_who_leaves_with_decisions_that_are_not_sent_is_asked(browser_page: Page, cats: str) -> None:
    page = browser_page
    show(page, cats)
    page.route("**/api/datasets/*/images/3-0", lambda route: route.abort())
    page.keyboard.press("x")
    page.locator(".said", has_text="The server is away").wait_for()
    page.keyboard.press("ArrowRight")
    page.locator("h1", has_text="prompt_4_image_0.png").wait_for()
    with page.expect_event("dialog") as asked:
        page.once("dialog", lambda dialog: dialog.accept())
        page.goto("/datasets")
    assert asked.value.type == "beforeunload"


def test_a_text_that_was_kept_and_clashes_waits_for_a_decision(browser_page: Page, web: Served, cats: str) -> None:
    page = browser_page
    page.on("dialog", lambda dialog: dialog.accept())
    show(page, cats)
    page.route("**/images/3-0", lambda route: route.abort() if route.request.method == "PATCH" else route.continue_())
    page.keyboard.press("e")
    page.keyboard.type(", mine")
    caption = page.locator(".text[data-column=caption]")
    caption.locator(".state", has_text="Kept in this browser").wait_for()
    page.unroute_all()
    web.client.patch(
        f"/api/datasets/{cats}/images/3-0", json={"texts": {"caption": "theirs"}}, headers={"If-Match": '"0"'}
    )
    show(page, cats, "5-0")
    page.locator(".toast", has_text="A text of yours is not saved").get_by_role("link").click()
    caption.locator(".clash").wait_for()
    assert caption.locator(".theirs").text_content() == "theirs"
    caption.locator(".keep-mine").click()
    caption.locator(".text-shown", has_text="picture number 3, mine").wait_for()
    assert decided(web, cats)["texts"]["caption"] == "picture number 3, mine"
    caption.locator(".take-own").click()
    caption.locator(".text-own").wait_for(state="hidden")
    assert decided(web, cats)["texts"]["caption"] == "picture number 3"


def test_a_decision_is_not_put_over_one_that_was_not_seen(browser_page: Page, web: Served, cats: str) -> None:
    page = browser_page
    page.route("**/events*", lambda route: route.abort())
    show(page, cats)
    path = f"/api/datasets/{cats}/images/3-0"
    web.client.patch(path, json={"decision": "reject"}, headers={"If-Match": '"0"'})
    page.keyboard.press("k")
    page.locator(".toast", has_text="decided otherwise").wait_for()
    assert page.locator("button[data-decision=reject]").get_attribute("aria-pressed") == "true"
    page.keyboard.press("k")
    until(lambda: decided(web, cats)["decision"] == "keep")


def test_a_server_that_is_killed_in_mid_edit_gets_the_text_when_it_is_started_again(
    browser: Browser, web: Served, imagemill: Command, prompts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    assert imagemill("generate", prompts, "-o", folder / "cats", "--model", "fake", "--quiet").code == 0
    from imagemill.dataset.edits import Edits
    from imagemill.server.web.workspace import Workspace

    dataset = Workspace(folder).datasets()[0].id
    with started(folder, IMAGEMILL_TOKEN=TOKEN) as (running, address):
        port = int(address.strip("/").rpartition(":")[2])
        context = browser.new_context(base_url=address)
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.goto(f"{address}?token={TOKEN}")
        show(page, dataset)
        page.keyboard.press("e")
        page.keyboard.type(" acknowledged")
        page.locator(".text[data-column=caption] .state", has_text="Saved").wait_for()
        running.kill()
        running.wait(10)
        page.keyboard.type(" and not")
        page.locator(".text[data-column=caption] .state", has_text="Kept in this browser").wait_for()
        page.close(run_before_unload=False)  # the browser's tab crashes as well
    edits = Edits(folder / "cats")
    assert edits.of("3-0").texts["caption"] == "picture number 3 acknowledged"
    with started(folder, port=port, IMAGEMILL_TOKEN=TOKEN):
        page = context.new_page()
        # Whichever image is opened first.
        show(page, dataset, "5-0")
        page.wait_for_function("() => Object.keys(localStorage).every((key) => !key.includes('draft'))")
        assert edits.of("3-0").texts["caption"] == "picture number 3 acknowledged and not"
        show(page, dataset)
        assert page.locator(".text[data-column=caption] .text-shown").text_content().endswith("and not")
        context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_everybody_can_use_it(browser: Browser, web: Served, cats: str, width: int, scheme: str) -> None:
    with opened(browser, web, viewport={"width": width, "height": 844}, color_scheme=scheme) as page:
        show(page, cats)
        page.keyboard.press("k")
        page.keyboard.press("e")
        page.locator("summary").click()
        page.locator(".carried .facts").wait_for()
        assert barriers(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
