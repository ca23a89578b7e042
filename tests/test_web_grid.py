"""The gallery in a browser: a grid over all images, its keys and selections, filters, the address, and comparing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import imagemill
from imagemill.dataset.index import Index
from imagemill.operators.generate import generate
from tests.web_server import Served, opened, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROWS = 600
EACH = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many prompts with two images each; those of one look alike, some are not safe for work, some not aligned."""
    folder = tmp_path_factory.mktemp("grid")
    table = folder / "prompts.csv"
    tail = {11: " of many words" * 300}
    lines = [
        f"a {('red', 'green', 'blue')[row % 3]} shape number {row}{tail.get(row, '')},it's {row % 4}"
        for row in range(ROWS)
    ]
    table.write_text("\n".join(["prompt,topic", *lines]) + "\n")
    dataset = generate(table, folder / "set", model="fake", images_per_prompt=EACH, width=64, height=64, seed=1)

    def scores(record: dict[str, Any]) -> dict[str, Any]:
        row = int(record["file_name"].split("_")[1])
        alike = {"perceptual_hash": "00ff00ff00ff00ff"} if row == 7 else {}
        return {**alike, "alignment": None if row % 60 == 59 else row / ROWS, "image_nsfw": 0.9 * (row % 100 == 1)}

    imagemill.score(folder / "set", "hashes")
    with dataset.lock():
        dataset.update(scores)
    Index(folder / "set")
    return folder / "set"


class Gallery:
    """A page of the gallery, and what it shows."""

    def __init__(self, page: Page, web: Served) -> None:
        self.page = page
        self.web = web
        self.id = web.workspace.id_of(web.folder / "set")
        self.address = f"/datasets/{self.id}"

    def go(self, rest: str = "") -> Gallery:
        self.page.goto(self.address + rest)
        self.page.wait_for_selector(".tile.loaded")
        return self

    def ask(self, expression: str) -> Any:
        return self.page.evaluate(f"(grid => {expression})(document.getElementById('grid'))")

    def until(self, expression: str) -> None:
        self.page.wait_for_function(f"() => {{ const grid = document.getElementById('grid'); return {expression} }}")

    def shows(self, place: int) -> Any:
        """The tile of a place, when its picture is there."""
        return self.page.wait_for_selector(f"#tile-{place}.loaded")

    def counts(self, text: str) -> None:
        self.page.wait_for_function("text => document.getElementById('count').textContent === text", arg=text)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def query(self) -> str:
        return self.page.url.partition("?")[2].partition("#")[0]

    @property
    def edits(self) -> Any:
        return self.web.state.edits(self.id)


@pytest.fixture
def gallery(browser_page: Page, web: Served, made: Path) -> Iterator[Gallery]:
    shutil.copytree(made, web.folder / "set", copy_function=os.link)
    opened = Gallery(browser_page, web)
    browser_page.goto(opened.address)
    opened.counts("1,200 images")
    opened.shows(0)
    return opened


def test_any_place_is_reached_and_few_tiles_are_drawn(gallery: Gallery) -> None:
    asked: list[str] = []
    gallery.page.on("request", lambda request: asked.append(request.url) if "/slice?" in request.url else None)
    gallery.press("End")
    assert gallery.shows(1199).get_attribute("aria-label") == "a blue shape number 599"
    assert gallery.ask("grid.focused.id") == "599-1"
    assert gallery.ask("grid.querySelectorAll('.tile').length") < 80
    gallery.ask("grid.scrollToPlace(600)")
    gallery.shows(605)
    # Only what was looked at was fetched.
    starts = [int(found[1]) for each in asked if (found := re.search(r"start=(\d+)", each))]
    assert starts
    assert all(start in {500, 600, 1100} for start in starts)
    gallery.press("Home")
    gallery.shows(0)
    # Where one stood is in the address, and holds when the size of the tiles changes.
    gallery.ask("grid.scrollToPlace(700)")
    gallery.shows(700)
    gallery.press("-")
    gallery.until("grid.first <= 700 && grid.end > 700")
    gallery.until("location.hash === `#place=${grid.first}` && grid.first > 600")
    gallery.page.reload()
    gallery.until("grid.first <= 700 && grid.end > 700 && grid.querySelector('.tile.loaded')")


def test_more_pixels_than_a_browser_lays_out_scroll_pixel_by_pixel(browser_page: Page) -> None:
    found = browser_page.evaluate(
        """async () => {
          const { ScrollRange } = await import("/static/grid_scroll.js");
          const element = document.createElement("div");
          const sizer = document.createElement("div");
          element.append(sizer);
          Object.assign(element.style, { height: "600px", overflow: "auto" });
          document.body.append(element);
          const range = new ScrollRange(element, sizer);
          range.span(40_000_000);
          const scroll = (by) => { element.scrollTop += by; range.follow(); return range.top; };
          const steps = [0, 3_000_000, 20_000_000, 39_990_000].map((top) => {
            range.top = top;
            const exact = range.top === top;
            const before = range.top;
            for (let step = 0; step < 40; step++) scroll(120);
            range.settle();
            return [exact, range.top - before];
          });
          element.scrollTop = element.scrollHeight;
          range.follow();
          const last = range.top;
          for (let step = 0; step < 3000; step++) scroll(-120);
          const back = last - range.top;
          element.scrollTop = 0;
          range.follow();
          return { steps, last, back, first: range.top };
        }"""
    )
    assert found["steps"] == [[True, 4800]] * 4
    assert found["last"] == 40_000_000 - 600
    assert found["back"] == 360_000
    assert found["first"] == 0


def test_a_click_into_a_histogram_filters_and_the_address_restores_it(gallery: Gallery) -> None:
    page = gallery.page
    column = page.locator("details[data-name=alignment]")
    # A bar that is clicked again is let go of, whatever its bounds were rounded to.
    for place in (3, 8):
        column.locator(".hit").nth(place).click()
        gallery.until("grid.total < 1200")
        page.wait_for_function("() => document.querySelectorAll('details[data-name=alignment] .inside').length === 1")
        column.locator(".hit").nth(place).click()
        gallery.counts("1,200 images")
        page.wait_for_function("() => !document.querySelector('details[data-name=alignment] .outside')")
    column.locator(".hit").nth(0).click()
    gallery.until("grid.total < 1200")
    narrow = gallery.ask("grid.total")
    column.locator(".hit").nth(5).click()
    gallery.until(f"grid.total > {narrow}")
    wide = gallery.ask("grid.total")
    bound = float(gallery.query().rpartition("+")[2])
    assert wide == EACH * sum(row / ROWS < bound for row in range(ROWS) if row % 60 != 59)
    page.locator("details[data-name=topic] summary").click()
    page.get_by_role("button", name="it's 1").click()
    gallery.until(f"grid.total < {wide}")
    both, count = gallery.ask("grid.total"), page.locator("#count").inner_text()
    assert count == f"{both} of 1,200 images"
    assert page.locator("#chips .chip").count() == 2
    page.reload()
    gallery.counts(count)
    assert page.locator("#chips .chip").count() == 2
    assert page.locator("#where").input_value() == "alignment < 0.249 and topic = 'it''s 1'"
    page.go_back()
    gallery.until(f"grid.total === {wide}")
    page.locator("#chips .chip").click()
    gallery.counts("1,200 images")
    assert gallery.query() == ""


def test_an_expression_that_is_wrong_is_explained(gallery: Gallery) -> None:
    page = gallery.page
    gallery.press("/")
    page.keyboard.type("number 59")
    gallery.counts("22 of 1,200 images")
    page.locator("#where").fill("alignmet > 0.5")
    gallery.press("Enter")
    page.wait_for_function("() => document.getElementById('where-wrong').textContent.includes('did you mean')")
    page.locator("#nothing").get_by_text("There is no column alignmet").wait_for()
    assert page.locator("#nothing code").all_inner_texts() == ["alignmet", "alignment"]
    assert gallery.ask("grid.hidden")
    page.locator("#where").fill("alignment > 0.99")
    gallery.press("Enter")
    gallery.counts("8 of 1,200 images")
    assert page.locator("#where-wrong").inner_text() == ""
    for wrong in ("by=nosuch", "search=a&search_column=nosuch", "where=nosuch+%3E+1", "rating=9"):
        page.goto(f"{gallery.address}?{wrong}")
        page.locator("#nothing h2", has_text="cannot be read").wait_for()
        # The panel is there, with figures of all images.
        page.locator("#decision").get_by_role("button", name="undecided 1,200").wait_for()
        assert page.locator("#columns details").count() > 5
        assert page.locator("#where").input_value() == ("nosuch > 1" if "where" in wrong else "")
        assert page.locator("#sort").input_value() == ("nosuch" if "by" in wrong else "")
        page.get_by_role("button", name="Clear all filters").click()
        gallery.counts("1,200 images")
    page.goto(f"{gallery.address}?search=number&where=alignment+%3E+0.99")
    gallery.counts("8 of 1,200 images")
    page.get_by_role("button", name="Clear all").click()
    gallery.counts("1,200 images")
    page.locator("#where").fill("width = 3")
    gallery.press("Enter")
    page.get_by_role("button", name="Clear all filters").click()
    gallery.counts("1,200 images")


def test_expressions_are_taken_apart_and_put_together(browser_page: Page) -> None:
    found = browser_page.evaluate(
        """async () => {
          const where = await import("/static/where.js");
          const long = "a > 1 and (b = 'x and y' or c) and not `d or e` and f in ('g', 'it''s')";
          return {
            terms: where.terms(long),
            or: where.terms("a = 1 or b = 2 and c = 3"),
            joined: where.joined(["a = 1 or b = 2", "c"]),
            chosen: where.chosen(long, "f").texts,
            truth: where.chosen(long, "d or e").truth,
            listed: where.listed(long, "f", ["g"]),
            ranged: where.ranged("a >= 1 and a < 2 and b", "a", null, 5),
            chips: where.chips("a >= 1 and b = 2 and a < 2"),
          };
        }"""
    )
    assert found["terms"] == ["a > 1", "(b = 'x and y' or c)", "not `d or e`", "f in ('g', 'it''s')"]
    assert found["or"] == ["a = 1 or b = 2 and c = 3"]
    assert found["joined"] == "(a = 1 or b = 2) and c"
    assert found["chosen"] == ["g", "it's"]
    assert found["truth"] is False
    assert found["listed"] == "a > 1 and (b = 'x and y' or c) and not `d or e` and f = 'g'"
    assert found["ranged"] == "b and a < 5"
    assert found["chips"] == [{"text": "a 1 – 2", "rest": "b = 2"}, {"text": "b = 2", "rest": "a >= 1 and a < 2"}]


def test_a_range_reaches_over_images_that_were_never_fetched(gallery: Gallery) -> None:
    gallery.shows(2).click()
    gallery.ask("grid.scrollToPlace(1000)")
    gallery.shows(1001).click(modifiers=["Shift"])
    gallery.until("grid.count === 1000")
    selected = gallery.ask("grid.selection.images")
    assert selected[0] == "1-0"
    assert selected[500] == "251-0"
    gallery.press("x")
    gallery.page.get_by_text("Rejected 1,000 images").wait_for()
    state = gallery.edits.state()
    assert len(state.edited) == 1000
    assert gallery.page.locator("#tile-1001.rejected").count() == 1
    gallery.page.get_by_role("button", name="Undo").click()
    gallery.page.wait_for_selector("#tile-1001:not(.rejected)")
    assert not gallery.edits.state().edited
    # All that match is no list, whatever their number.
    gallery.press("Control+a")
    gallery.page.locator("#tile-1001").click(modifiers=["Control"])
    assert gallery.ask("grid.selection") == {"view": gallery.ask("grid.view"), "except": ["500-1"]}
    assert gallery.ask("grid.count") == 1199
    gallery.press("Escape")
    assert gallery.ask("grid.count") == 0


def test_a_box_selects_and_scrolls(gallery: Gallery) -> None:
    mouse = gallery.page.mouse
    one, other = gallery.shows(0).bounding_box(), gallery.shows(6).bounding_box()
    mouse.move(one["x"] + one["width"] - 20, one["y"] + 40)
    mouse.down()
    mouse.move(other["x"] + 20, other["y"] + 20, steps=4)
    gallery.until("grid.querySelectorAll('[aria-selected=true]').length === 4")
    mouse.up()
    gallery.until("grid.count === 4")
    assert gallery.ask("grid.selection") == {"images": ["0-0", "0-1", "2-1", "3-0"]}
    mouse.move(one["x"] + 20, one["y"] + 40)
    mouse.down()
    mouse.move(one["x"] + 40, gallery.ask("grid.getBoundingClientRect().bottom") - 4, steps=4)
    gallery.until("grid.first >= 50")
    mouse.up()
    gallery.until("grid.count > 10")
    assert gallery.ask("grid.selection.images").index("5-0") == 2


def test_all_is_done_by_keys(gallery: Gallery) -> None:
    page = gallery.page
    assert page.evaluate("document.activeElement.id") == "grid"
    gallery.press("ArrowRight", "ArrowDown")
    assert gallery.ask("grid.focused.id") == "3-0"
    assert gallery.ask("document.getElementById(grid.getAttribute('aria-activedescendant')).ariaPosInSet") == "7"
    gallery.press("k")
    page.get_by_text("Kept 1 image").wait_for()
    gallery.press("ArrowRight", "4")
    page.get_by_text("Rated 1 image").wait_for()
    assert gallery.edits.of("3-0").decision == "keep"
    assert gallery.edits.of("3-1").rating == 4
    assert "kept" in page.locator("#tile-6").get_attribute("aria-label")
    gallery.press("Space", "ArrowRight", "Space", "Shift+ArrowRight", "Shift+ArrowRight")
    gallery.until("grid.count === 3")
    gallery.press("Escape")
    assert gallery.ask("grid.count") == 0
    gallery.press("g")
    page.locator("#go-number").fill("900")
    gallery.press("Enter")
    gallery.until("grid.focused?.place === 899")
    gallery.shows(899)
    gallery.press("PageDown", "Enter")
    page.wait_for_url("**/images/*")
    page.go_back()
    gallery.until("grid.focused?.place > 899 && grid.first < grid.focused.place && grid.end > grid.focused.place")
    gallery.press("?")
    assert page.locator("#keys").get_by_text("Select all that match").is_visible()


def test_what_is_not_safe_for_work_is_blurred_until_somebody_wants_to_see_it(gallery: Gallery) -> None:
    page = gallery.page
    blurred = "getComputedStyle(document.querySelector('#tile-{} img')).filter.startsWith('blur')"
    assert page.evaluate(blurred.format(2))
    assert not page.evaluate(blurred.format(0))
    gallery.press("ArrowRight", "ArrowRight", "p")
    assert not page.evaluate(blurred.format(2))
    assert page.evaluate(blurred.format(3))
    gallery.press("b")
    assert not page.evaluate(blurred.format(3))
    gallery.go()
    assert not page.evaluate(blurred.format(3))


def test_stacks_show_a_tile_a_prompt_and_open(gallery: Gallery) -> None:
    page = gallery.page
    gallery.press("s")
    gallery.counts("600 prompts, 1,200 images")
    page.wait_for_selector("#tile-4.stack.loaded")
    assert page.locator("#tile-4 .stacked").inner_text() == "×2"
    page.locator("#tile-4").dblclick()
    gallery.counts("2 of 1,200 images")
    assert gallery.shows(1).get_attribute("aria-label") == "a green shape number 4"
    page.go_back()
    gallery.until("grid.focused?.place === 4")
    gallery.shows(5).query_selector(".stacked").click()
    gallery.counts("2 of 1,200 images")
    page.go_back()
    page.locator("#tile-11.stack.loaded").dblclick()  # a prompt longer than an address
    gallery.counts("2 of 1,200 images")


def test_what_is_decided_of_a_stack_is_decided_of_all_its_images(gallery: Gallery) -> None:
    page = gallery.page
    gallery.edits.change(["3-1"], decision="keep")
    gallery.press("s")
    gallery.counts("600 prompts, 1,200 images")
    page.wait_for_selector("#tile-4.stack.loaded")
    assert page.locator("#tile-3 .stacked").inner_text() == "✓1 of 2"
    assert page.locator("#tile-3 .mark").count() == 0
    # A click, a range over what was never fetched, and all but some.
    page.locator("#tile-2").click()
    bar = page.locator(".curate-count")
    assert bar.inner_text() == "1 stack · 2 selected"
    gallery.press("x")
    page.get_by_text("Rejected 2 images").wait_for()
    gallery.ask("grid.scrollToPlace(500)")
    gallery.shows(501).click(modifiers=["Shift"])
    gallery.until("grid.count === 1000")
    assert bar.inner_text() == "500 stacks · 1,000 selected"
    gallery.press("Shift+S")
    assert page.locator("#curate-save [data-number=selected]").inner_text() == "1,000"
    assert page.locator("#curate-save [data-number=matching]").is_hidden()
    gallery.press("Escape")
    gallery.press("r")
    assert page.locator("#curate-replace [data-scope]").inner_text() == "In 1,000 images selected"
    page.locator("#curate-find").fill("shape number 50")
    page.get_by_text("Changes 6 of 1,000 images").wait_for()  # 50, 500 and 501
    gallery.press("Escape", "Escape", "Control+a")
    page.locator("#tile-501").click(modifiers=["Control"])
    assert bar.inner_text() == "599 stacks · 1,198 selected"
    gallery.press("k")
    page.get_by_text("Kept 1,197 images").wait_for()
    edited = gallery.edits.state().edited
    assert {image for image, decided in edited.items() if decided.decision == "keep"} == {
        f"{row}-{image}" for row in range(ROWS) for image in range(EACH) if row != 501
    }
    # A focused stack, which is not selected, and one that is told by its filter.
    gallery.press("Control+z")
    gallery.until("document.querySelectorAll('.tile.kept').length === 0")
    gallery.press("Escape", "Home", "ArrowRight", "4")
    page.get_by_text("Rated 2 images 4 of 5").wait_for()
    page.goto(f"{gallery.address}?stack=prompt&decision=keep")
    gallery.counts("1 prompt, 1 of 1,200 images")
    gallery.shows(0)
    gallery.press("x")
    page.get_by_text("Rejected 1 image").wait_for()
    state = gallery.edits.state().edited
    assert {image for image, decided in state.items() if decided.decision == "reject"} == {"2-0", "2-1", "3-1"}
    assert {image for image, decided in state.items() if decided.rating} == {"1-0", "1-1"}


def test_keys_of_one_letter_can_be_switched_off(gallery: Gallery) -> None:
    page = gallery.page
    gallery.press("?")
    assert page.locator("#keys").get_by_text("Find and replace").is_visible()
    page.get_by_label("Keys of one letter").uncheck()
    assert page.locator("#keys").get_by_text("Find and replace").count() == 0
    assert page.locator("#keys").get_by_text("Select all that match").is_visible()
    for _ in range(2):
        gallery.press("Escape")
        page.locator("#grid").focus()
        gallery.press("?", "x", "3", "Shift+S", "/", "ArrowRight", "Space", "Control+a")
        gallery.until("grid.count === 1200")
        assert page.locator("dialog[open]").count() == 0
        assert page.evaluate("document.activeElement.id") == "grid"
        assert not gallery.edits.state().edited
        gallery.go()
    page.get_by_role("button", name="Keys").click()
    page.get_by_label("Keys of one letter").check()
    gallery.press("Escape", "x")
    page.get_by_text("Rejected 1 image").wait_for()


def test_what_is_decided_while_the_server_is_away_waits_for_it(browser: Browser, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    shutil.copytree(made, folder / "set", copy_function=os.link)
    with ExitStack() as before, ExitStack() as after:
        web = before.enter_context(served(folder))
        page = after.enter_context(opened(browser, web))
        gallery = Gallery(page, web)
        page.goto(f"{gallery.address}?stack=prompt")
        gallery.shows(0)
        gallery.press("x")
        page.get_by_text("Rejected 2 images").wait_for()
        port = int(web.url.rpartition(":")[2])
        before.close()
        line = page.locator("#curate-away")
        for key in ("x", "k", "3"):
            gallery.press("ArrowRight", key)
        line.get_by_text("The server is away: 3 decisions wait").wait_for()
        # Nothing looks as if the server had it.
        page.locator("#tile-1.rejected.waiting").wait_for()
        assert (
            page.locator("#tile-2")
            .get_attribute("aria-label")
            .endswith("kept, not saved yet, 2 images of this prompt, 2 kept, 0 rejected")
        )
        assert page.locator(".tile.waiting").count() == 3
        asked: list[str] = []
        page.once("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
        page.close(run_before_unload=True)
        page.wait_for_timeout(200)
        assert asked == ["beforeunload"]
        with served(folder, port) as web:
            page.locator(".tile.waiting").first.wait_for(state="detached")
            gallery.until("document.querySelectorAll('.tile.waiting').length === 0")
            assert line.is_hidden()
            page.locator("#tile-2.kept").wait_for()
            state = web.state.edits(gallery.id).state().edited
            assert {image: (decided.decision, decided.rating) for image, decided in state.items()} == {
                "0-0": ("reject", 0), "0-1": ("reject", 0), "1-0": ("reject", 0), "1-1": ("reject", 0),
                "2-0": ("keep", 0), "2-1": ("keep", 0), "3-0": ("", 3), "3-1": ("", 3),
            }  # fmt: skip
            after.close()


def test_a_decision_that_is_refused_is_not_shown(gallery: Gallery) -> None:
    page, said = gallery.page, gallery.page.locator(".toast > span")
    page.route("**/bulk", lambda route: route.fulfill(status=400, json={"error": "no", "hint": ""}))
    for _ in range(2):
        gallery.press("k")
        page.wait_for_function("() => document.querySelector('.toast') && !document.querySelector('.tile.kept')")
    assert said.all_inner_texts() == ["No"]
    page.unroute("**/bulk")
    gallery.press("k")
    page.locator("#tile-0.kept").wait_for()
    # Only what was decided last can be undone at once.
    gallery.press("ArrowRight", "x")
    page.locator(".toast", has_text="Rejected 1 image").wait_for()
    assert "Kept 1 image" not in said.all_inner_texts()


def test_all_images_are_selected_with_the_mouse(gallery: Gallery) -> None:
    gallery.page.get_by_role("button", name="Select all").click()
    assert gallery.ask("grid.count") == ROWS * EACH


def test_sorting_shows_the_score_and_new_images_do_not_move_the_grid(
    browser_page: Page, web: Served, made: Path
) -> None:
    page = browser_page
    shutil.copytree(made, web.folder / "set", copy_function=os.link)
    part, coming = web.folder / "set/images/part-000002", web.folder / "coming"
    part.rename(coming)
    gallery = Gallery(page, web).go()
    gallery.counts("1,000 images")
    page.locator("#sort").select_option("alignment")
    page.wait_for_function("() => document.querySelector('#tile-0 .score')?.textContent === '0.8317'")
    page.locator("#direction").click()
    page.wait_for_function("() => document.querySelector('#tile-0 .score')?.textContent === '0'")
    gallery.ask("grid.scrollToPlace(600)")
    gallery.shows(600)
    before = gallery.ask("[grid.view, grid.top, grid.total]")
    looked_at = gallery.page.locator(f"#tile-{gallery.ask('grid.first')}").get_attribute("aria-label")
    coming.rename(part)
    gallery.web.state.events.publish("dataset", {"id": gallery.id, "images": 1200})
    page.get_by_role("button", name="+200 new").wait_for()
    assert gallery.ask("[grid.view, grid.top, grid.total]") == before
    gallery.press("n")
    gallery.until("grid.total === 1200")
    # What was looked at is still there, at its new place.
    page.wait_for_function(
        """label => {
          const grid = document.getElementById("grid");
          return document.querySelector(`#tile-${grid.first}`)?.getAttribute("aria-label") === label;
        }""",
        arg=looked_at,
    )
    assert page.locator("#newer").is_hidden()


def test_similar_images_and_near_duplicates(gallery: Gallery) -> None:
    page = gallery.page
    gallery.press("ArrowRight", "v")
    gallery.until("grid.total === 60 && !grid.view")
    assert gallery.shows(0).get_attribute("aria-label") == "a red shape number 0"
    assert page.locator("#count").inner_text() == "The 60 most similar images"
    assert "not colours" in page.locator("#compared").inner_text()
    gallery.press("x")
    page.locator("#tile-0.rejected:not(.waiting)").wait_for()
    gallery.press("Control+z")
    page.locator("#tile-0:not(.rejected)").wait_for()
    page.get_by_role("button", name="similar images").click()
    gallery.counts("1,200 images")
    page.locator("#duplicates").click()
    page.get_by_role("heading", name="1 group of 2 images that look alike").wait_for()
    # What is only nearly equal is not rejected unasked.
    page.get_by_role("button", name="Reject all but the first").click()
    page.get_by_role("dialog", name="Reject 1 image").get_by_role("button", name="Cancel").click()
    assert not gallery.edits.state().edited
    page.locator("#threshold").select_option("0")
    page.locator(".likeness header h2", has_text="1 group").wait_for()
    page.get_by_role("button", name="Reject all but the first").click()
    page.get_by_text("Rejected 1 image").wait_for()
    assert [image for image, edited in gallery.edits.state().edited.items() if edited.decision == "reject"] == ["7-1"]
    page.go_back()
    gallery.counts("1,200 images")


def test_two_images_are_compared(gallery: Gallery) -> None:
    page = gallery.page
    gallery.shows(0).click()
    gallery.shows(7).click(modifiers=["Control"])
    gallery.press("c")
    page.wait_for_url("**/compare?images=0-0,3-1")
    page.wait_for_function("() => [...document.querySelectorAll('.compared img')].every(img => img.naturalWidth)")
    cells = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="topic")).get_by_role("cell")
    assert cells.all_inner_texts() == ["it's 0", "it's 3"]
    gallery.press("ArrowRight", "k")
    page.wait_for_selector(".compared:nth-child(2)[data-decision=keep]")
    gallery.press("<", "+", "+")
    assert page.url.endswith("images=3-1,0-0")
    scales = "[...document.querySelectorAll('.compared img')].map(each => new DOMMatrix(each.style.transform).a)"
    assert len({round(scale, 6) for scale in page.evaluate(scales)}) == 1
    assert page.locator("#zoom-fit").inner_text() == "156 %"
    gallery.press("x")
    page.wait_for_selector(".compared:nth-child(1)[data-decision=reject]")
    page.wait_for_function("() => document.querySelector('.compared').getAttribute('aria-label').includes('rejected')")
    gallery.press("Escape")
    gallery.shows(7)
    page.wait_for_selector("#tile-7.rejected")
