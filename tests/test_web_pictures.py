"""Every page of the web app with a small showcase, as it is pictured; IMAGEMILL_SCREENSHOTS puts these into docs/."""

from __future__ import annotations

import io
import itertools
import os
from pathlib import Path
from typing import Any

import imagemill as package
from imagemill.models.shapes import EXAMPLES
from tests.test_web_journeys import LARGE, SMALL, a_dataset, last_job, shown, until
from tests.web_server import Served, ended, opened

DOCS = Path(__file__).parent.parent / "docs" / "images" / "web"
MOST_BYTES = 150_000
"""Of a picture."""
STEPS = 12
PAIRS = (
    ("red", "pink"), ("blue", "yellow"), ("green", "white"),
    ("purple", "cyan"), ("orange", "black"), ("white", "green"),
)  # fmt: skip
PROMPTS = [
    *EXAMPLES,
    *(f"a {color} {form} on a {ground} background" for (color, ground), form in zip(
        PAIRS * 2, itertools.cycle(("star", "heart", "triangle", "cross", "circle")), strict=False
    )),
]  # fmt: skip


def picture(page: Any, name: str) -> None:
    """Take a picture of a page when all of its images are there, and keep it for the guide where that is asked for."""
    until(page, "[...document.images].every((image) => image.naturalWidth || !image.checkVisibility())")
    taken = page.screenshot(animations="disabled", caret="hide")
    if not os.environ.get("IMAGEMILL_SCREENSHOTS"):
        return
    from PIL import Image

    path = DOCS / f"{name}.png"

    # A screen of few colors is as good with 256 of them, in a third of the bytes.
    Image.open(io.BytesIO(taken)).convert("RGB").quantize(
        256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
    ).save(path, optimize=True)
    assert path.stat().st_size <= MOST_BYTES, name


def test_every_page_has_its_picture(web: Served, browser: Any, tmp_path: Path) -> None:
    web.state.models.append("fake")
    dataset = a_curated_dataset(web)
    with opened(browser, web) as page:
        of_executions(page, web, dataset, tmp_path)
        of_a_gallery(page, dataset)


def a_curated_dataset(web: Served) -> str:
    """Scored images, some of them decided, rated and tagged; another dataset of the best of them."""
    folder = web.folder / "shapes and colors"
    package.generate(
        [{"prompt": prompt, "topic": "two objects" if " of a " in prompt or " and " in prompt else "one object"}
         for prompt in PROMPTS],
        folder, model="shapes", images_per_prompt=2, seed=7, num_inference_steps=STEPS,
    )  # fmt: skip
    package.score(folder, scorers=["alignment", "hashes"])
    dataset = a_dataset(web, "shapes and colors")
    edits = web.state.edits(dataset)
    edits.change(["0-0", "2-1", "3-0", "5-1"], decision="keep", rating=5)
    edits.change(["1-0", "7-0"], decision="keep", rating=4)
    edits.change(["1-1", "2-0"], decision="reject", add_tags=["blurred"])
    edits.change(["0-1"], rating=2)
    edits.change(["3-0"], texts={"caption": "a small black cross in the middle of a cyan square"}, add_tags=["cover"])
    best = {"images": ["7-0", "3-0", "8-0", "0-0", "5-1", "1-0", "4-0"]}
    made = web.client.post(f"/api/datasets/{dataset}/save-as", json={"name": "the best of them", "selection": best})
    assert made.status_code == 200, made.text
    return dataset


def of_executions(page: Any, web: Served, dataset: str, folder: Path) -> None:
    """A table goes up; its images are being made while others wait, are done and have failed."""

    def queue(operator: str, source: str, name: str, **values: str) -> int:
        asked = {"source": source, "name": name, "values": {key: [value] for key, value in values.items()}}
        answer = web.client.post(f"/api/make/{operator}", json=asked)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["job"])

    table = folder / "stars.csv"
    texts = [f"a {size} {color} {form}, {ground} background" for form, size, (color, ground), in itertools.product(
        ("star", "heart", "circle", "cross"), ("small", "large"), PAIRS)]  # fmt: skip
    lines = [f'"{text}",{2024 + number % 3}' for number, text in enumerate(texts)]
    table.write_text("\n".join(["prompt,year", *lines[:3], ",2025", *lines[3:9], '"a blue heart"', *lines[9:]]) + "\n")
    page.goto("/datasets")
    page.set_input_files("#send-files", table)
    page.get_by_role("link", name="Generate from this table").wait_for()
    picture(page, "upload")
    source = f"upload:{page.url.rsplit('/', 1)[1]}"

    for job in (
        queue("export", f"dataset:{dataset}", "shapes for a trainer", layout="webdataset"),
        queue("augment", f"dataset:{dataset}", "variations", model="fake", strength="0.15", fail_text="heart",
              fail_reason="moderation_blocked", images_per_sample="1"),
    ):  # fmt: skip
        ended(web.state.queue, job)

    page.get_by_role("link", name="Generate from this table").click()
    page.locator("[name=model]").select_option("shapes")
    until(page, "document.getElementById('plan').innerText.includes('shapes')")
    page.locator("[name=images_per_prompt]").fill("2")
    page.locator("[name=seed]").fill("7")
    page.locator("[name=num_inference_steps]").fill(str(STEPS))
    page.locator("#name").fill("stars and hearts")
    until(
        page,
        "document.getElementById('plan').innerText.includes('96 images') && !document.querySelector('[aria-busy]')",
    )
    page.evaluate("scrollTo(0, 0)")
    picture(page, "make")
    page.locator("#queue").click()
    page.wait_for_url("**/executions*")
    running = last_job(web)
    waiting = [
        queue("generate", source, name, prompt_postfix=postfix, model="shapes")
        for name, postfix in (("large prints", "on a white background"), ("the same at night", "at night"))
    ]
    page.evaluate("scrollTo(0, 0)")
    until(page, "document.querySelectorAll('[data-state=running] .newest img').length > 11", seconds=180)
    picture(page, "executions")
    page.goto("/datasets")
    until(page, "document.querySelectorAll('.dataset').length > 3 && !document.querySelector('[hx-get$=\\'/size\\']')")
    picture(page, "datasets")
    for job in (*waiting, running):
        web.client.post(f"/api/jobs/{job}/cancel")
    ended(web.state.queue, running)


def of_a_gallery(page: Any, dataset: str) -> None:
    """The grid with its filters, what is done with it, one image, and several side by side."""
    count, gallery = len(PROMPTS) * 2, f"/datasets/{dataset}"
    page.goto(gallery)
    shown(page, count)
    until(page, "document.querySelectorAll('.histogram .bar').length > 3")
    page.set_viewport_size({"width": 1280, "height": 900})
    picture(page, "gallery")
    page.set_viewport_size(LARGE)
    page.keyboard.press("r")
    page.locator("#curate-find").fill("red")
    page.locator("#curate-with").fill("crimson")
    until(page, "!document.querySelector('#curate-replace [data-do]').disabled")
    picture(page, "replace")
    page.keyboard.press("Escape")
    page.locator("#grid").press("Home")
    for _ in range(7):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    for _ in range(2):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("x")
    page.get_by_text("Rejected 3 images").wait_for()
    picture(page, "curate")
    page.goto(f"{gallery}/images/3-0")
    page.locator(".canvas img").wait_for()
    until(page, "document.querySelector('.place').innerText.includes('of')")
    picture(page, "image")
    page.goto(f"{gallery}/compare?images=1-0,7-0,8-0")
    page.locator("main img").nth(2).wait_for()
    picture(page, "compare")
    page.emulate_media(color_scheme="dark")
    page.goto(f"{gallery}?by=alignment")
    shown(page, count)
    picture(page, "dark")
    page.set_viewport_size(SMALL)
    page.goto(gallery)
    shown(page, count)
    picture(page, "phone")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(LARGE)
