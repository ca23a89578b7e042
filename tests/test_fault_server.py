"""The fault server does what the tests that use it rely on."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from .faults.plan import KINDS, Call, Faults, expected_color, picture
from .faults.server import FaultServer, program, serving


@contextmanager
def connected(faults: Faults) -> Iterator[tuple[FaultServer, httpx2.Client]]:
    with serving(faults) as server, httpx2.Client(base_url=server.url, timeout=5) as client:
        yield server, client


@contextmanager
def sdk(faults: Faults) -> Iterator[tuple[FaultServer, openai.OpenAI]]:
    with serving(faults) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as client:
        yield server, client


def ask(client: httpx2.Client, prompt: str = "a fox", **parameters: Any) -> httpx2.Response:
    return client.post("/v1/images/generations", json={"model": "mock", "prompt": prompt, **parameters})


def decoded(item: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"], validate=True))).convert("RGB")


def only(kind: str, **parameters: Any) -> Faults:
    return Faults(rate=1, kinds=(kind,), attempts=1, **parameters)


def test_a_picture_shows_its_prompt_and_its_number() -> None:
    with connected(Faults(rate=0)) as (server, client):
        items = ask(client, n=2, seed=7, size="32x48").json()["data"]
        assert [decoded(item).size for item in items] == [(32, 48), (32, 48)]
        assert [base64.b64decode(item["b64_json"]) for item in items] == [
            picture("a fox", number, 32, 48) for number in (7, 8)
        ]
        assert decoded(items[0]).getpixel((20, 20)) == expected_color("a fox") != expected_color("a hen")
        again = [ask(client).json()["data"][0]["b64_json"] for _ in range(2)]
        assert again[0] != again[1]
    assert server.paid == 4
    assert [(call.images, call.seed, call.attempt) for call in server.calls] == [(2, 7, 1), (1, None, 1), (1, None, 2)]


STATUSES = {
    "429_seconds": 429, "429_date": 429, "429_ms": 429, "408": 408, "409": 409, "500": 500, "502": 502, "503": 503,
    "529": 529, "moderation": 400, "401": 401, "402": 402, "404": 404,
}  # fmt: skip


@pytest.mark.parametrize("kind", STATUSES)
def test_errors_cost_nothing_and_all_but_moderation_pass(kind: str) -> None:
    with connected(only(kind)) as (server, client):
        first, second = ask(client), ask(client)
    assert first.status_code == STATUSES[kind]
    assert first.json()["error"]["code"]
    assert second.status_code == (400 if kind == "moderation" else 200)
    assert [call.fault for call in server.calls] == [kind, "moderation" if kind == "moderation" else "ok"]
    assert server.paid == (kind != "moderation")
    if kind.startswith("429"):
        name = "retry-after-ms" if kind == "429_ms" else "retry-after"
        value = first.headers[name]
        assert {"429_seconds": value == "1", "429_ms": value == "50", "429_date": value.endswith("GMT")}[kind]


def is_bad(kind: str, response: httpx2.Response) -> bool:
    """Whether the answer to a call for two images is bad in the way that its kind says."""
    if kind in {"html", "bad_json"}:
        try:
            response.json()
        except ValueError:
            return ("html" in response.headers["content-type"]) == (kind == "html")
        return False
    items = response.json()["data"]
    if kind in {"no_data", "n_mismatch"}:
        return len(items) == (kind == "n_mismatch")
    assert decoded(items[0]).size == (64, 64)
    try:
        return decoded(items[1]).size == (32, 32) and kind == "wrong_size"
    except ValueError:
        return kind == "bad_base64"
    except OSError:
        return kind == "truncated_png"


@pytest.mark.parametrize(
    ("kind", "paid", "images"),
    [("html", 0, 0), ("bad_json", 2, 0), ("no_data", 0, 0), ("bad_base64", 2, 1), ("truncated_png", 2, 1),
     ("wrong_size", 2, 1), ("n_mismatch", 1, 1)],
)  # fmt: skip
def test_bad_answers_are_bad_and_counted(kind: str, paid: int, images: int) -> None:
    with connected(only(kind)) as (server, client):
        response = ask(client, n=2)
        assert response.status_code == 200
        assert is_bad(kind, response)
        assert len(ask(client, n=2).json()["data"]) == 2
    assert (server.calls[0].paid, server.calls[0].images, server.paid) == (paid, images, paid + 2)


@pytest.mark.parametrize("kind", ["reset", "reset_paid"])
def test_a_reset_connection_prints_nothing(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    with connected(only(kind)) as (server, client):
        with pytest.raises(httpx2.NetworkError, match=r"(?i)reset"):
            ask(client)
        assert ask(client).status_code == 200
    assert [call.status for call in server.calls] == [0, 200]
    assert [call.paid for call in server.calls] == [int(kind == "reset_paid"), 1]
    assert capfd.readouterr() == ("", "")


def test_bodies_that_are_slow_endless_or_a_bomb(capfd: pytest.CaptureFixture[str]) -> None:
    with connected(only("slow_body", trickle=0.005)) as (server, client):
        response = ask(client)
        assert response.json()["data"]
        assert response.elapsed.total_seconds() > 0.05
    with connected(only("endless_body")) as (server, client):
        with client.stream("POST", "/v1/images/generations", json={"prompt": "a fox"}) as stream:
            pieces = stream.iter_raw()
            assert sum(len(next(pieces)) for _ in range(64)) > 2**19
        assert ask(client).status_code == 200
    assert [(call.status, call.paid) for call in server.calls] == [(0, 1), (200, 1)]
    with connected(only("gzip_bomb", endless=4)) as (server, client):
        response = ask(client)
        assert len(response.content) == 4 * 2**20 > 100 * int(response.headers["content-length"])
    assert capfd.readouterr() == ("", "")


def test_a_call_that_hangs_is_paid_and_leaves_with_its_client(capfd: pytest.CaptureFixture[str]) -> None:
    with connected(only("hang", hang=60)) as (server, client):
        with pytest.raises(httpx2.ReadTimeout):
            client.post("/v1/images/generations", json={"prompt": "a fox"}, timeout=0.1)
        assert ask(client).status_code == 200
        until = time.monotonic() + 5
        while server.in_flight and time.monotonic() < until:
            time.sleep(0.01)
        assert server.in_flight == 0
    assert server.calls[0].paid == 1
    assert capfd.readouterr() == ("", "")


def test_the_end_does_not_wait_for_hanging_calls() -> None:
    async def hang(url: str) -> None:
        async with httpx2.AsyncClient() as client:
            await client.post(f"{url}/v1/images/generations", json={"prompt": "a fox"})

    async def main() -> None:
        with serving(only("hang", hang=60)) as server:
            task = asyncio.create_task(hang(server.url))
            while not server.in_flight:
                await asyncio.sleep(0.01)
        with pytest.raises(httpx2.NetworkError):
            await task

    asyncio.run(main())


def test_faults_depend_on_the_request_and_not_on_time() -> None:
    def drawn(order: int) -> dict[tuple[str, int], str]:
        prompts = [f"picture {number}" for number in range(60)] * 3
        random.Random(order).shuffle(prompts)
        faults = Faults(kinds=("500", "no_data", "moderation"), rate=0.5)

        async def main(url: str) -> None:
            async with httpx2.AsyncClient() as client:
                calls = (client.post(f"{url}/v1/images/generations", json={"prompt": prompt}) for prompt in prompts)
                await asyncio.gather(*calls)

        with serving(faults) as server:
            asyncio.run(main(server.url))
        return {(call.prompt, call.attempt): call.fault for call in server.calls}

    first = drawn(1)
    assert first == drawn(2)
    faults = list(first.values())
    assert {kind: faults.count(kind) > 15 for kind in ("ok", "500", "no_data")} == dict.fromkeys(
        ("ok", "500", "no_data"), True
    )
    blocked = {prompt for (prompt, _), fault in first.items() if fault == "moderation"}
    assert all(first[prompt, attempt] == "moderation" for prompt in blocked for attempt in (1, 2, 3))
    assert blocked


def test_the_rate_limit_can_be_changed_while_it_runs() -> None:
    with connected(Faults(rate=0, rate_limit=1, burst=2)) as (server, client):
        statuses = [ask(client, f"picture {number}").status_code for number in range(4)]
        assert statuses == [200, 200, 429, 429]
        refused = ask(client)
        assert refused.headers["retry-after"] == "1"
        assert 0 < int(refused.headers["retry-after-ms"]) <= 1000
        server.rate_limit = None
        assert ask(client, n=10).status_code == 200
    assert [call.fault for call in server.calls] == ["ok"] * 2 + ["rate_limit"] * 3 + ["ok"]
    assert server.paid == 12


def test_images_come_as_urls_where_the_server_likes() -> None:
    with connected(Faults(rate=0, shape="either")) as (_, client):
        items = [ask(client, f"picture {number}").json()["data"][0] for number in range(20)]
        urls = [item["url"] for item in items if "url" in item]
        assert 0 < len(urls) < 20
        assert client.get(urls[0]).content.startswith(b"\x89PNG")
        assert 0 < sum("revised_prompt" in item for item in items) < 20
    with connected(only("truncated_png", shape="url", paths=("/files",))) as (_, client):
        url = ask(client).json()["data"][0]["url"]
        assert len(client.get(url).content) < len(client.get(url).content)


def test_parameters_and_keys_are_refused() -> None:
    with connected(Faults(rate=0, rejects=("seed",), key="right")) as (server, client):
        assert ask(client).status_code == 401
        client.headers["authorization"] = "Bearer right"
        assert ask(client, seed=1).json()["error"]["code"] == "unknown_parameter"
        assert ask(client).status_code == 200
        assert client.post("/v1/images/edits", data={"prompt": "a fox"}).status_code == 400
        assert client.get("/v1/nothing").status_code == 404
    assert server.paid == 1


def test_hugging_face_answers_with_bytes() -> None:
    faults = Faults(rate=1, kinds=("503",), attempts=1)
    with connected(faults) as (_, client):
        body = {"inputs": "a fox", "parameters": {"width": 32, "height": 16, "seed": 3}}
        first, second = (client.post("/models/some/one", json=body) for _ in range(2))
    assert isinstance(first.json()["error"], str)
    assert second.headers["content-type"] == "image/png"
    assert second.content == picture("a fox", 3, 32, 16)


def test_openai_client_generates_edits_and_chats() -> None:
    with sdk(Faults(rate=0)) as (server, client):
        assert [model.id for model in client.models.list()] == ["mock"]
        assert client.images.generate(model="mock", prompt="a fox").data
        first, second, mask = (("a.png", picture("a fox", number)) for number in range(3))
        assert client.images.edit(model="mock", prompt="a hen", image=[first, second], mask=mask, n=2).data
        url = {"url": f"data:image/png;base64,{base64.b64encode(first[1]).decode()}"}
        content: Any = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "what is it?"}]
        answer = client.chat.completions.create(model="mock", messages=[{"role": "user", "content": content}])
        assert answer.choices[0].message.content == "1 images: what is it?"
    edit: Call = server.calls[2]
    assert [(name, body) for name, _, body in edit.uploads] == [
        ("image[]", first[1]), ("image[]", second[1]), ("mask", mask[1]),
    ]  # fmt: skip
    assert {call.authorization for call in server.calls} == {"Bearer key"}


def submit(client: openai.OpenAI, count: int) -> str:
    body = {"model": "mock", "n": 1}
    lines = [
        {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/images/generations",
         "body": {**body, "prompt": f"picture {number}"}}
        for number in range(count)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=("lines.jsonl", text), purpose="batch")
    endpoint: Any = "/v1/images/generations"
    batch = client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"run": str(count)}
    )
    assert batch.status == "validating"
    return batch.id


def lines_of(client: openai.OpenAI, name: str | None) -> list[dict[str, Any]]:
    assert name
    return [json.loads(line) for line in client.files.content(name).text.splitlines()]


def test_a_batch_ends_with_its_good_and_its_failed_lines() -> None:
    with sdk(Faults(rate=0.4, kinds=("500", "reset"), polls=2)) as (server, client):
        names = [submit(client, count) for count in (40, 2, 2)]
        assert [batch.id for batch in client.batches.list(limit=2)] == names[::-1]
        assert client.batches.retrieve(names[0]).status == "in_progress"
        batch = client.batches.retrieve(names[0])
        assert batch.status == "completed"
        good, failed = lines_of(client, batch.output_file_id), lines_of(client, batch.error_file_id)
        ids = [line["custom_id"] for line in good]
        assert sorted(ids + [line["custom_id"] for line in failed]) == sorted(f"row-{number}" for number in range(40))
        assert ids != sorted(ids, key=lambda name: int(name[4:]))
        assert {line["response"] and line["response"]["status_code"] for line in failed} == {None, 500}
        assert decoded(good[0]["response"]["body"]["data"][0]).size == (64, 64)
        assert batch.request_counts
        assert batch.request_counts.completed == len(good) == server.paid
        client.batches.cancel(names[1])
        batch = client.batches.retrieve(names[1])
        assert (batch.status, batch.metadata) == ("cancelled", {"run": "2"})


@pytest.mark.parametrize("end", ["expired", "failed"])
def test_a_batch_can_end_badly(end: str) -> None:
    with sdk(Faults(rate=0, polls=1, batch_end=end)) as (server, client):
        batch = client.batches.retrieve(submit(client, 4))
        assert batch.status == end
        assert server.paid == (2 if end == "expired" else 0)
        assert bool(batch.errors) == (end == "failed")
        if end == "expired":
            assert [line["error"]["code"] for line in lines_of(client, batch.error_file_id)] == ["batch_expired"] * 2


def test_it_runs_as_a_program() -> None:
    flags = ("--faults", "1", "--kinds", "html,500", "--rate-limit", "5", "--no-takes-seed")
    with program(*flags) as url, httpx2.Client(base_url=url) as client:
        assert ask(client).status_code in {200, 500}
        assert client.put("/rate_limit", json=2).status_code == 200
        log = client.get("/log").json()
    assert [call["fault"] in KINDS for call in log["calls"]] == [True]
    assert log["paid"] == 0
