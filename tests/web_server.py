"""The web app on loopback over a temporary folder, a client that is logged in, and a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx2
    from playwright.sync_api import Browser, Page

TOKEN = "token-of-the-tests"


@dataclass(frozen=True)
class Served:
    """A server, and what tests ask of it."""

    url: str
    folder: Path
    state: Any
    """The `Web` object that its routes share."""
    client: httpx2.Client

    @property
    def workspace(self) -> Any:
        return self.state.workspace

    @property
    def link(self) -> str:
        """What the terminal shows."""
        return f"{self.url}/?token={TOKEN}"


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[Served]:
    """Serve a folder for a while."""
    for package in ("fastapi", "jinja2", "apsw", "uvicorn", "httpx2"):
        pytest.importorskip(package, reason=f"the web app needs {package}: pip install '.[serve,remote]'")
    import httpx2

    from imagemill.server.web.command import WebServer

    with (
        WebServer(folder, TOKEN, port=port) as server,
        httpx2.Client(
            base_url=server.address, timeout=30, trust_env=False, headers={"Sec-Fetch-Site": "same-origin"}
        ) as client,
    ):
        assert client.get("/", params={"token": TOKEN}).status_code == 303
        yield Served(server.address, folder, server.web, client)


@contextmanager
def started(*arguments: object, port: int = 0, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, with the line that it prints when it can be asked; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "imagemill", "serve", *map(str, arguments), "--no-browser", f"--port={port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    ) as process:
        assert process.stdout
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def until(true: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait for a condition; returns what it returned."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


def ended(queue: Any, job: int) -> Any:
    """A job when it has ended."""
    return until(lambda: found if (found := queue.get(job)).over else None, 60)


CHROMIUM = os.environ.get("PLAYWRIGHT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's browser, or the one that PLAYWRIGHT_CHROMIUM names; skips where there is none."""
    if not CHROMIUM:
        pytest.skip("no browser: apt-get install chromium, or set PLAYWRIGHT_CHROMIUM to one")
    pytest.importorskip("playwright", reason="the browser is driven by playwright: pip install '.[dev]'")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--font-render-hinting=none"]
        )
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, web: Served, **options: Any) -> Iterator[Page]:
    """A page of a browser of its own that is logged in; fails on whatever the console says is an error."""
    context = browser.new_context(base_url=web.url, **{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(15_000)
    problems: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.goto(web.link)
    yield page
    context.close()
    # Refusals that a test asks for are logged by the browser as well.
    assert [each for each in problems if "Failed to load resource" not in each] == []


def barriers(page: Page, rules: Sequence[str] = ()) -> list[str]:
    """What axe finds that keeps people out of a page, by all of its rules or some."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is run by axe-playwright-python: pip install '.[dev]'"
    )
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe.Axe().axe_script)
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = page.evaluate("options => axe.run(document, options)", options)["violations"]
    return [
        f"{each['id']}, {each['impact']}: {node['html']} {node['any'][0]['message'] if node['any'] else ''}"
        for each in found
        for node in each["nodes"]
    ]
