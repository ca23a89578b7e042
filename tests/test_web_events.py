"""Live updates: every browser has one stream, takes it up where it lost it, and misses nothing unsaid."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.web_server import Served, opened, served, until

pytest.importorskip("fastapi", reason="the web app needs fastapi: pip install '.[serve]'")


@contextmanager
def listening(web: Served, last: str = "") -> Iterator[Iterator[tuple[str, str, Any]]]:
    """The events that a browser gets: kind, id and data."""
    headers = {"last-event-id": last} if last else {}
    before = web.state.events.listeners
    with web.client.stream("GET", "/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")

        def events() -> Iterator[tuple[str, str, Any]]:
            event: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if line:
                    event[name] = value
                elif "data" in event:
                    yield event["event"], event["id"], json.loads(event["data"])
                    event = {}

        until(lambda: web.state.events.listeners == before + 1)
        yield events()
    # Nothing is kept of who goes away.
    until(lambda: web.state.events.listeners == before)


def test_a_stream_goes_on_behind_the_last_event(web: Served) -> None:
    for number in range(3):
        web.state.events.publish("datasets", {"number": number})
    last = web.state.events.last
    for number in range(3, 6):
        web.state.events.publish("datasets", {"number": number})
    with listening(web, last) as events:
        found = [next(events) for _ in range(3)]
        assert [data["number"] for _, _, data in found] == [3, 4, 5]
    with listening(web, found[0][1]) as events:
        assert next(events)[2] == {"number": 4}
        next(events)
        web.state.events.publish("job", {"title": "größer\n\nid: 1"})
        assert next(events)[0::2] == ("job", {"title": "größer\n\nid: 1"})


@pytest.mark.parametrize("last", ["another-1", "nonsense", "1-999999999"])
def test_who_may_have_missed_something_is_told_so(web: Served, last: str) -> None:
    with listening(web, last) as events:
        kind, number, _ = next(events)
        assert (kind, number) == ("reset", web.state.events.last)
        web.state.events.publish("datasets", {})
        assert next(events)[0] == "datasets"


def test_what_is_kept_for_browsers_that_do_not_read_is_bounded(web: Served) -> None:
    from imagemill.server.web.events import KEPT

    begin = web.state.events.last
    with listening(web) as slow, served_client(web) as other, listening(other) as quick:
        web.state.events.publish("job", {"number": 0})
        assert next(quick)[2] == {"number": 0}
        for number in range(3 * KEPT):
            web.state.events.publish("job", {"number": number, "text": 2000 * "x"})
        assert len(web.state.events._kept) == KEPT
        with served_client(web) as late, listening(late, begin) as events:
            assert next(events)[0] == "reset"
        del slow


@contextmanager
def served_client(web: Served) -> Iterator[Served]:
    """Another browser of a server."""
    import httpx2

    with httpx2.Client(base_url=web.url, cookies=web.client.cookies, timeout=30, trust_env=False) as client:
        yield Served(web.url, web.folder, web.state, client)


def test_a_server_that_stops_does_not_wait_for_its_streams(tmp_path: Path) -> None:
    with served(tmp_path / "served") as web, web.client.stream("GET", "/events") as answer:
        lines = answer.iter_lines()
        next(lines)
        before = time.monotonic()
        web.state.events.close()
        assert list(lines)[-1:] in ([], [""])
    assert time.monotonic() - before < 3


COLLECT = """async () => {
  const { on } = await import("/static/live.js");
  window.got = [];
  for (const kind of ["dataset", "reset"]) on(kind, (data) => window.got.push(data.number ?? kind));
}"""


def test_the_tabs_of_a_browser_share_one_stream_and_hand_it_on(browser: Any, web: Served) -> None:
    publish, events = web.state.events.publish, web.state.events
    with opened(browser, web) as first:
        first.goto("/executions")
        first.wait_for_selector("html[data-live=on]", state="attached")
        second = first.context.new_page()
        second.goto("/executions")
        second.wait_for_selector("html[data-live=on]", state="attached")
        for page in (first, second):
            page.evaluate(COLLECT)
        assert events.listeners == 1
        publish("dataset", {"number": 1})
        for page in (first, second):
            page.wait_for_function("() => got.length === 1")
        first.goto("about:blank")
        publish("dataset", {"number": 2})
        until(lambda: events.listeners == 1)
        publish("dataset", {"number": 3})
        second.wait_for_function("() => got.length === 3")
        assert second.evaluate("got") == [1, 2, 3]


def test_a_page_says_that_the_server_is_away_and_catches_up_with_the_next_one(browser: Any, tmp_path: Path) -> None:
    with ExitStack() as first, served(tmp_path / "other") as other, opened(browser, other) as page:
        web = first.enter_context(served(tmp_path / "served"))
        page.goto(web.link)
        page.wait_for_selector("html[data-live=on]", state="attached")
        page.evaluate(COLLECT)
        first.close()
        page.wait_for_selector("html[data-live=off]", state="attached")
        with served(tmp_path / "served", int(web.url.rpartition(":")[2])):
            page.wait_for_selector("html[data-live=on]", state="attached")
            page.wait_for_function("() => got.length === 1")
            assert page.evaluate("got") == ["reset"]


def test_a_page_says_that_the_server_has_another_token(browser: Any, tmp_path: Path) -> None:
    with ExitStack() as first, served(tmp_path / "other") as other, opened(browser, other) as page:
        web = first.enter_context(served(tmp_path / "served"))
        page.goto(web.link)
        page.wait_for_selector("html[data-live=on]", state="attached")
        first.close()
        page.context.clear_cookies()
        with served(tmp_path / "served", int(web.url.rpartition(":")[2])) as again:
            page.locator("[role=status]", has_text="Another token").wait_for()
            tab = page.context.new_page()
            tab.goto(again.link)
            page.wait_for_selector("html[data-live=on]", state="attached")
