"""Requests that a machine makes up from the OpenAPI schema: whatever they say, the server does not fail."""

from __future__ import annotations

import time
from typing import Any

import pytest

import imagemill as package
from tests.web_server import Served

ENDLESS = {"/events"}
"""Streams that do not end."""
SECONDS = 600
"""Of the long run."""


def fuzz(web: Served, examples: int, seed: int) -> int:
    """Make requests up for every operation; how many there were. Raises AssertionError for an answer of 500 or more."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis makes requests up: pip install '.[dev]'")
    import hypothesis
    from hypothesis import strategies

    known = {
        "dataset": str(web.workspace.id_of(web.folder / "cats")),
        "image": "1-0",
        "job": 1,
        "operator": "generate",
        "view": web.client.get(f"/api/datasets/{web.workspace.id_of(web.folder / 'cats')}/view").json().get("view"),
    }
    schema = schemathesis.openapi.from_dict(web.client.get("/api/openapi.json").json())
    headers = {"Origin": web.url, "Cookie": "; ".join(f"{name}={value}" for name, value in web.client.cookies.items())}
    count = 0

    def asked(operation: Any) -> None:
        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=False,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(), real=strategies.integers(0, 3))
        def one(case: Any, real: int) -> None:
            nonlocal count
            # Random ids are almost never those of something; but what is there shall not be deleted.
            if real and "delete" not in operation.path:
                case.path_parameters |= {name: known[name] for name in case.path_parameters if known.get(name)}
            answer = case.call(base_url=web.url, headers=headers, timeout=30)
            count += 1
            assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text[:500]}"

        one()

    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path not in ENDLESS:
            asked(operation)
    return count


@pytest.fixture
def filled(web: Served) -> Served:
    package.generate([{"prompt": "a cat", "topic": "x"}] * 3, web.folder / "cats", model="fake", seed=1)
    return web


def test_the_server_does_not_fail(filled: Served) -> None:
    assert fuzz(filled, examples=2, seed=8) > 60
    assert filled.client.get("/api/datasets").status_code == 200


@pytest.mark.slow
def test_the_server_does_not_fail_for_ten_minutes(filled: Served) -> None:
    ends = time.monotonic() + SECONDS
    seed = 0
    while time.monotonic() < ends:
        seed += 1
        fuzz(filled, examples=50, seed=seed)
