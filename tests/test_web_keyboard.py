"""The web app by keys, by a finger and without colours: no focus is lost, nothing typed goes astray, all is said."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from imagemill.operators.generate import generate
from tests.web_server import Served, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROWS = 20


@pytest.fixture
def dataset(web: Served) -> str:
    """Images with a number, some texts and a long decision history to come."""
    table = web.folder / "prompts.csv"
    lines = [f"a {('red', 'green')[row % 2]} shape number {row},topic {row % 4}" for row in range(ROWS)]
    table.write_text("\n".join(["prompt,topic", *lines]) + "\n")
    made = generate(table, web.folder / "set", model="fake", width=64, height=64, seed=1)
    with made.lock():
        made.update(lambda record: {"alignment": int(record["file_name"].split("_")[1]) / ROWS})
    table.unlink()
    return str(web.workspace.id_of(web.folder / "set"))


def focused(page: Page) -> str:
    """What has the focus: its name, else its text."""
    return str(
        page.evaluate(
            "(({activeElement: e}) => e === document.body ? '' : e.id || e.ariaLabel || e.textContent.trim())(document)"
        )
    )


def until_focused(page: Page, name: str) -> None:
    page.wait_for_function(
        "name => (({activeElement: e}) => [e.id, e.ariaLabel, e.textContent.trim()].includes(name))(document)", arg=name
    )


def counts(page: Page, text: str) -> None:
    page.wait_for_function("text => document.getElementById('count').textContent === text", arg=text)


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


_ROWS_LATE = """
const real = window.fetch;
window.fetch = async (url, options = {}) => {
  if (url.includes("/slice?")) await new Promise((done) => setTimeout(done, 700));
  return real(url, options);
};
"""


def test_a_key_that_comes_before_its_image_is_not_lost(browser_page: Page, web: Served, dataset: str) -> None:
    browser_page.add_init_script(_ROWS_LATE)
    page = browser_page
    page.goto(f"/datasets/{dataset}")
    page.wait_for_function("() => document.querySelector('im-grid').total > 0")
    page.locator("#grid").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("k")
    page.get_by_text("Kept 1 image").wait_for()
    assert web.state.edits(dataset).of("1-0").decision == "keep"


def test_filters_are_set_by_keys_and_keep_the_focus(browser_page: Page, web: Served, dataset: str) -> None:
    page = browser_page
    page.goto(f"/datasets/{dataset}")
    counts(page, "20 images")
    page.locator("details[data-name=alignment] .range").wait_for()
    press(page, "f", "f")
    assert focused(page) == "filters-close"
    page.get_by_label("alignment from").focus()
    page.keyboard.type("0.2")
    press(page, "Tab")
    counts(page, "16 of 20 images")
    # Numbers are keys that rate where nobody types.
    page.wait_for_timeout(300)
    page.keyboard.type("0.5")
    press(page, "Enter")
    counts(page, "6 of 20 images")
    assert focused(page) == "alignment below"
    assert web.client.get(f"/api/datasets/{dataset}/curation").json()["pending"]["images"] == 0

    page.locator("details[data-name=topic] summary").click()
    page.get_by_role("button", name="topic 1").focus()
    press(page, "Space")
    counts(page, "2 of 20 images")
    page.wait_for_timeout(300)
    assert focused(page).startswith("topic 1")

    page.locator("#chips .chip").first.focus()
    press(page, "Enter")
    counts(page, "5 of 20 images")
    assert page.evaluate("document.activeElement.closest('#chips') !== null")
    press(page, "Enter")
    counts(page, "20 images")
    until_focused(page, "grid")

    press(page, "/")
    page.keyboard.type("nothing like it")
    press(page, "Enter")
    counts(page, "0 of 20 images")
    page.get_by_role("button", name="Clear all filters").focus()
    press(page, "Enter")
    counts(page, "20 images")
    until_focused(page, "grid")
    press(page, "ArrowRight", "k")
    page.get_by_text("Kept 1 image").wait_for()


def test_going_to_a_number_leaves_the_focus_in_the_grid(browser_page: Page, dataset: str) -> None:
    page = browser_page
    page.goto(f"/datasets/{dataset}")
    counts(page, "20 images")
    page.locator("#larger").focus()
    press(page, "g")
    page.keyboard.type("7")
    press(page, "Enter")
    until_focused(page, "grid")
    press(page, "ArrowRight", "x")
    page.get_by_text("Rejected 1 image").wait_for()
    assert "rejected" in str(page.locator("#tile-7").get_attribute("aria-label"))


def test_what_is_opened_from_the_bar_closes_when_the_focus_leaves_it(browser_page: Page, dataset: str) -> None:
    page = browser_page
    page.goto(f"/datasets/{dataset}")
    counts(page, "20 images")
    page.get_by_role("button", name="More actions").focus()
    press(page, "Enter")
    until_focused(page, "Find and replace…")
    press(page, *["Tab"] * 6)
    page.locator("#curate-menu").wait_for(state="hidden")
    more = page.get_by_role("button", name="More actions")
    more.click()
    page.locator("#curate-menu").wait_for()
    more.click()
    page.locator("#curate-menu").wait_for(state="hidden")
    press(page, "t")
    page.get_by_label("Tag of this image").fill("seen")
    press(page, "Enter")
    page.get_by_text("Tagged 1 image: seen").wait_for()
    press(page, "Shift+H")
    page.get_by_label("What was decided").focus()
    assert page.get_by_label("What was decided").get_attribute("tabindex") == "0"


def test_what_is_decided_of_an_image_is_said_and_tags_keep_the_focus(browser_page: Page, dataset: str) -> None:
    page = browser_page
    page.goto(f"/datasets/{dataset}/images/0-0")
    told = page.locator("#told")
    for key, said in (("k", "Kept"), ("4", "Rated 4 of 5"), ("0", "No rating"), ("x", "Rejected"), ("u", "Undecided")):
        press(page, key)
        told.get_by_text(said, exact=True).wait_for(state="attached")
    for tag in ("one", "two"):
        press(page, "t")
        page.keyboard.type(tag)
        press(page, "Enter")
        told.get_by_text(f"Tagged: {tag}").wait_for(state="attached")
        press(page, "Escape")
    assert focused(page) == "a red shape number 0"
    page.get_by_role("button", name="Remove the tag one").focus()
    press(page, "Enter")
    told.get_by_text("Untagged: one").wait_for(state="attached")
    assert focused(page) == "Remove the tag two"
    press(page, "Enter")
    told.get_by_text("Untagged: two").wait_for(state="attached")
    assert focused(page) == "Add a tag"


def test_compared_images_are_looked_at_closely_and_swapped_by_keys(browser_page: Page, dataset: str) -> None:
    page = browser_page
    page.goto(f"/datasets/{dataset}/compare?images=0-0,1-0")
    placed = "() => document.querySelector('.compared img').style.transform"
    page.wait_for_function(f"() => ({placed})().includes('scale')")
    press(page, "z")
    middle = page.evaluate(placed)
    press(page, "Shift+ArrowLeft", "Shift+ArrowUp")
    x, y = (float(each) for each in re.findall(r"[\d.-]+(?=px)", page.evaluate(placed)))
    was = [float(each) for each in re.findall(r"[\d.-]+(?=px)", middle)]
    assert (round(x - was[0]), round(y - was[1])) == (80, 80)
    press(page, ">")
    assert page.url.endswith("images=1-0,0-0")
    press(page, "k")
    page.locator("#told").get_by_text("Kept", exact=True).wait_for(state="attached")


def test_a_toast_gives_the_focus_back_and_lists_never_lose_it(browser_page: Page, web: Served, dataset: str) -> None:
    page = browser_page
    page.goto("/datasets")
    page.get_by_role("button", name="Delete set").focus()
    press(page, "Enter")
    undo = page.locator(".toast").get_by_role("button", name="Undo")
    undo.wait_for()
    assert focused(page) == "main"
    page.locator("#trash summary").focus()
    undo.focus()
    press(page, "Enter")
    page.get_by_role("link", name="Open set").wait_for()
    assert focused(page) != ""
    page.get_by_role("button", name="Delete set").focus()
    press(page, "Enter")
    page.locator("#trash summary").press("Enter")
    page.get_by_role("button", name="Put back set").focus()
    press(page, "Enter")
    page.get_by_role("link", name="Open set").wait_for()
    until_focused(page, "main")


@pytest.mark.parametrize("size", [(390, 844), (844, 390), (640, 400)])
def test_a_finger_selects_by_holding_and_hits_what_it_wants(
    browser: Browser, web: Served, dataset: str, size: tuple[int, int]
) -> None:
    """Whatever is to be hit has 24 pixels, and on a low screen the images keep a good part of it."""
    width, height = size
    with opened(browser, web, viewport={"width": width, "height": height}, has_touch=True, is_mobile=True) as page:
        page.goto(f"/datasets/{dataset}")
        counts(page, "20 images")
        page.get_by_text("Hold to select").wait_for()
        assert page.locator("#grid").evaluate("grid => grid.clientHeight") > 0.35 * height
        box = page.locator("#tile-0.loaded").bounding_box()
        assert box
        touch = page.context.new_cdp_session(page)
        x, y = box["x"] + 40, box["y"] + 40
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchMove", [{"x": x + 3, "y": y + 2}])):
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.locator(".curate-count", has_text="1 selected").wait_for()
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.get_by_role("button", name="More actions").tap()
        page.get_by_role("button", name="Save as a new dataset…").tap()
        page.locator("#curate-save .check:visible").first.wait_for()
        labels = page.locator("#curate-save .check:visible").evaluate_all("all => all.map(each => each.offsetHeight)")
        assert min(labels) >= 24


def test_without_colours_what_is_pressed_or_current_is_seen(browser: Browser, web: Served, dataset: str) -> None:
    with opened(browser, web, forced_colors="active") as page:
        page.goto(f"/datasets/{dataset}/images/0-0")
        page.keyboard.press("k")
        page.locator("#told").get_by_text("Kept").wait_for(state="attached")
        page.mouse.move(0, 0)
        kept, rejected, here, elsewhere = (
            page.locator(each).evaluate("e => getComputedStyle(e).backgroundColor")
            for each in ("button[data-decision=keep]", "button[data-decision=reject]", "a[aria-current]", ".brand")
        )
        assert kept != rejected
        assert here != elsewhere
