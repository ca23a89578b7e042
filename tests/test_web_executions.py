"""The queue's pages in a browser: everything live, nothing that moves away under the hands, all by keyboard."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imagemill.dataset import Dataset
from imagemill.dataset.verify import verify
from tests.test_web_queue import ROWS, generate, looked_at, starts, table
from tests.web_server import Served, barriers, ended, opened, until

__all__ = ["table"]

pytest.importorskip("apsw", reason="the queue needs apsw: pip install '.[serve]'")


def test_a_job_is_watched_paused_and_resumed(browser_page: Any, web: Served, table: Path) -> None:
    page, queue = browser_page, web.state.queue
    page.goto("/executions")
    assert page.get_by_text("Nothing has been queued yet").is_visible()
    # Queued elsewhere, it appears here.
    job = generate(queue, table, web.folder / "flowers", "--latency=2")
    row = page.locator(f"#job-{job}")
    row.get_by_role("button", name="Pause").focus()
    row.get_by_text(re.compile(r"^8 of 24 · .* images/s · .* left$")).wait_for()
    assert page.evaluate("document.activeElement.dataset.action") == "pause"
    assert page.locator("#running").inner_text().startswith("1 running")
    page.keyboard.press("p")
    row.get_by_text("paused", exact=True).wait_for()
    assert page.locator("section:visible h2").all_inner_texts() == ["Paused"]
    page.wait_for_function("() => [...document.querySelectorAll('.newest img')].some((image) => image.naturalWidth)")
    assert page.evaluate("document.activeElement.closest('[data-job]').dataset.job") == str(job)
    page.keyboard.press("p")
    row.get_by_text("done", exact=True).wait_for()
    assert page.locator("#running").is_hidden()
    assert queue.get(job).progress.done == ROWS
    assert starts(queue, job) == 2


def test_the_queue_is_ordered_and_cleared_by_keyboard(browser_page: Any, web: Served, table: Path) -> None:
    page, queue = browser_page, web.state.queue
    first = generate(queue, table, web.folder / "first", "--latency=100")
    until(lambda: queue.get(first).state == "running")
    second, third = (generate(queue, table, web.folder / name, "--latency=0.3") for name in ("second", "third"))
    page.goto("/executions")
    for _ in range(3):
        page.keyboard.press("j")
    page.keyboard.press("Alt+ArrowUp")
    until(lambda: [job.id for job in queue.jobs()] == [first, third, second])
    page.wait_for_function("() => document.activeElement.nextElementSibling?.id.startsWith('job-')")
    assert page.evaluate("document.activeElement.id") == f"job-{third}"
    page.keyboard.press("c")
    page.locator("section", has_text="Ended").locator(f"#job-{third}").wait_for()
    page.keyboard.press("Delete")
    page.locator(f"#job-{third}").wait_for(state="detached")
    page.keyboard.press("k")
    page.keyboard.press("k")
    page.keyboard.press("c")
    page.get_by_role("button", name="Cancel the execution").press("Enter")
    assert ended(queue, first).state == "cancelled"
    assert ended(queue, second).state == "done"
    # Among those that have ended a row is as small as they are.
    page.locator(f"#job-{second}[data-state=done]").wait_for()
    assert page.locator(f"#job-{second} .newest a:visible").count() == 6
    page.keyboard.press("?")
    assert page.get_by_role("dialog").get_by_text("Pause or resume").is_visible()


def test_one_execution_shows_its_log_as_it_grows_and_its_settings(browser_page: Any, web: Served, table: Path) -> None:
    page, queue = browser_page, web.state.queue
    job = queue.add(
        "generate",
        "flowers <b>",
        ["generate", str(table), f"--output={web.folder / 'flowers'}", "--model=fake", "--latency=1",
         "--fail-text=picture 7"],
        output=web.folder / "flowers",
        settings={"operator": "generate", "values": {"images_per_prompt": 2, "prompt_postfix": ""}},
    )  # fmt: skip
    page.goto(f"/executions/{job}")
    page.locator("#log", has_text="1 request failed").wait_for()
    page.locator("[data-fact='Exit code']", has_text="3, some failed").wait_for()
    assert page.locator("h1").inner_text() == "flowers <b>"
    assert page.get_by_text("1 failed: model_error 1").is_visible()
    assert (
        page.get_by_role("link", name="Use these settings again").get_attribute("href") == f"/make/generate?job={job}"
    )
    page.get_by_role("button", name="Retry failed").click()
    page.get_by_role("link", name="Show").click()
    page.get_by_role("heading", name="Retry: flowers <b>").wait_for()
    ended(queue, int(page.url.rpartition("/")[2]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_are_accessible_and_the_list_is_read_without_scripts(
    browser: Any, web: Served, table: Path, scheme: str
) -> None:
    queue = web.state.queue
    done = generate(queue, table, web.folder / "done", "--fail-text=picture 7")
    broken = generate(queue, table, web.folder / "broken", "--nonsense")
    ended(queue, done)
    ended(queue, broken)
    running = generate(queue, table, web.folder / "running", "--latency=100")
    until(lambda: queue.get(running).progress.total)
    queue.pause(generate(queue, table, web.folder / "paused"))
    generate(queue, table, web.folder / "queued")
    with opened(browser, web, color_scheme=scheme) as page:
        for address in ("/executions", f"/executions/{running}", f"/executions/{broken}"):
            page.goto(address)
            assert barriers(page) == []
    with opened(browser, web, java_script_enabled=False) as page:
        page.goto("/executions")
        assert page.get_by_role("heading", level=3).all_inner_texts() == [
            "running", "queued", "paused", "broken", "done",
        ]  # fmt: skip
    for job in queue.jobs():
        if not job.over:
            queue.cancel(job.id)
    ended(queue, running)


def test_the_server_is_killed_in_the_middle_of_a_job(tmp_path: Path, table: Path) -> None:
    folder = tmp_path / "served"
    queue = looked_at(folder)
    job = generate(queue, table, folder / "made", "--latency=0.7")
    command = [sys.executable, "-m", "imagemill", "serve", str(folder), "--no-browser", "--port=0"]
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            assert server.stdout
            assert "token=" in server.stdout.readline()
            until(lambda: list((folder / "made").rglob("*.png")))
            if queue.get(job).runs and not queue.get(job).over and _ == 0:
                os.kill(server.pid, signal.SIGKILL)
                continue
            done = ended(queue, job)
            server.send_signal(signal.SIGTERM)
    assert (done.state, done.exit_code, starts(queue, job)) == ("done", 0, 1)
    assert Dataset(folder / "made").counts().done == ROWS
    assert verify(Dataset(folder / "made")) == []
