"""The image API as its clients see it: OpenAI's and Hugging Face's libraries, curl, and whoever means harm."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import PrivateAttr

from imagemill.errors import ModelError
from imagemill.images import decode, embedded_recipe, is_marked, open_image
from imagemill.models.base import Model, ModelInfo, Result, find_model
from imagemill.models.fake import Fake
from imagemill.records import Batch, FailureReason, Request

from .conftest import Command
from .servers import KEY, serving
from .shapes_verifier import read_scene

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
httpx = pytest.importorskip("httpx2", reason="the extra `remote` is not installed")
openai = pytest.importorskip("openai", reason="the package `openai` is not installed")

from imagemill.server.api import batching, openai_api  # noqa: E402
from imagemill.server.api.batching import Batcher  # noqa: E402
from imagemill.server.api.command import Server  # noqa: E402
from imagemill.server.api.files import Files  # noqa: E402

BEARER = {"authorization": f"Bearer {KEY}"}


class Sketch(Fake):
    """Draws like `fake`, starts from images, and remembers what it was given; waits until it may draw."""

    _batches: list[Batch] = PrivateAttr(default_factory=list)
    _uploads: list[list[bytes]] = PrivateAttr(default_factory=list)
    _may_draw: threading.Event = PrivateAttr(default_factory=threading.Event)

    def info(self) -> ModelInfo:
        return ModelInfo("sketch", "1", 64, 48, 4, 2.0, "euler", 8, most_images=16, takes_mask=True, size_multiple=16)

    def make(self, batches: Iterable[Batch]) -> Iterator[Result]:
        for batch in batches:
            self._batches.append(batch)
            files = [path for request in batch.requests for path in (*request.images, request.mask) if path]
            self._uploads.append([Path(path).read_bytes() for path in files])
            self._may_draw.wait(10)
            yield from super().make([batch])


class Blind(Fake):
    """Draws like `fake`, and takes no images."""

    def info(self) -> ModelInfo:
        return replace(super().info(), most_images=0, takes_mask=False, strength=None)


def sketch(may_draw: bool = True) -> Sketch:
    model = Sketch()
    if may_draw:
        model._may_draw.set()
    return model


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of models that are fast; the first is the default."""
    models: dict[str, Model] = {"fake": Fake(), "pencil/sketch": sketch(), "moody": Blind(fail_text="fail")}
    with serving(models) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture
def web(server: Server) -> Iterator[Any]:
    with httpx.Client(base_url=server.url, headers=BEARER) as made:
        yield made


def pixels_of(item: Any) -> np.ndarray:
    return decode(base64.b64decode(item.b64_json))


def png(width: int = 20, height: int = 10, color: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (width, height), color).save(buffer, "PNG")
    return buffer.getvalue()


def request(prompt: str, seed: int, model: Model, **values: Any) -> Request:
    info = model.info()
    said = {
        "width": info.width,
        "height": info.height,
        "num_inference_steps": info.num_inference_steps,
        "guidance_scale": info.guidance_scale,
        "scheduler": info.scheduler,
        **values,
    }
    return Request(row=0, image=0, part=1, id="", prompt=prompt, negative_prompt="", seed=seed, **said)


def until(condition: Any) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it never happens"
        time.sleep(0.01)


# OpenAI's library


def test_a_picture_is_the_one_that_the_model_makes(client: Any) -> None:
    answer = client.images.generate(prompt="a cat", extra_body={"seed": 7})
    (made,) = Fake().make([Batch((request("a cat", 7, Fake()),), 1)])
    assert (pixels_of(answer.data[0]) == made.pixels).all()
    assert answer.data[0].seed == 7
    assert (answer.size, answer.output_format, answer.background) == ("64x64", "png", "opaque")
    assert answer.imagemill == {
        "model": "fake",
        "model_revision": "1",
        "batch_size": 1,
        "num_inference_steps": 1,
        "guidance_scale": 1.0,
        "scheduler": "none",
    }


def test_the_file_carries_its_recipe_and_says_that_an_ai_made_it(client: Any) -> None:
    answer = client.images.generate(prompt="a cat", output_format="webp", extra_body={"seed": 7})
    image = open_image(base64.b64decode(answer.data[0].b64_json))
    recipe = embedded_recipe(image)
    assert image.format == "WEBP"
    assert is_marked(image)
    assert recipe is not None
    assert (recipe["prompt"], recipe["seed"], recipe["model"], recipe["batch_size"]) == ("a cat", 7, "fake", 1)
    assert json.loads(recipe["model_parameters"])["latency"] == 0.0


def test_images_of_one_call_have_seeds_that_count_up(client: Any) -> None:
    several = client.images.generate(prompt="a cat", n=3, extra_body={"seed": 2**32 - 1})
    assert [item.seed for item in several.data] == [2**32 - 1, 0, 1]
    alone = client.images.generate(prompt="a cat", extra_body={"seed": 1})
    assert alone.data[0].b64_json is not None
    assert (pixels_of(alone.data[0]) == pixels_of(several.data[2])).all()


def test_a_seed_that_was_drawn_is_told_and_makes_the_picture_again(client: Any) -> None:
    first = client.images.generate(prompt="a cat")
    other = client.images.generate(prompt="a cat")
    again = client.images.generate(prompt="a cat", extra_body={"seed": first.data[0].seed})
    assert again.data[0].b64_json == first.data[0].b64_json != other.data[0].b64_json


def test_the_extra_fields_reach_the_model(client: Any) -> None:
    extra = {"negative_prompt": "dogs", "num_inference_steps": 9, "guidance_scale": 5, "seed": 1}
    answer = client.images.generate(prompt="a cat", size="32x40", extra_body=extra)
    recipe = embedded_recipe(open_image(base64.b64decode(answer.data[0].b64_json)))
    assert recipe is not None
    assert {name: recipe[name] for name in extra} == extra
    assert (recipe["width"], recipe["height"], answer.size) == (32, 40, "32x40")


def test_a_url_shows_the_picture_without_a_key_for_a_while(client: Any) -> None:
    inline = client.images.generate(prompt="a cat", extra_body={"seed": 7}).data[0].b64_json
    answer = client.images.generate(prompt="a cat", response_format="url", extra_body={"seed": 7})
    url = answer.data[0].url
    shown = httpx.get(url, headers={"sec-fetch-site": "cross-site"})
    assert shown.content == base64.b64decode(inline)
    assert shown.headers["content-type"] == "image/png"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert len(url.rpartition("/")[2]) > 40
    assert httpx.get(url[:-8] + "AAAA.png").status_code == 404


def test_files_are_kept_within_bounds() -> None:
    files = Files(most_bytes=10)
    names = [files.add(bytes([number]) * 4, "jpeg") for number in range(3)]
    assert files.get(names[0]) is None
    kept = files.get(names[2])
    assert kept is not None
    assert (kept.data, kept.media_type) == (b"\2" * 4, "image/jpeg")
    brief = Files(seconds=-1)
    assert brief.get(brief.add(b"x", "png")) is None


def test_a_stream_ends_with_the_picture(client: Any) -> None:
    whole = client.images.generate(prompt="a cat", extra_body={"seed": 7}).data[0].b64_json
    events = list(client.images.generate(prompt="a cat", stream=True, partial_images=3, extra_body={"seed": 7}))
    assert [event.type for event in events] == ["image_generation.completed"]
    assert type(events[0]).__name__ == "ImageGenCompletedEvent"
    assert events[0].b64_json == whole
    assert (events[0].size, events[0].output_format, events[0].usage.total_tokens) == ("64x64", "png", 0)


def test_a_stream_says_that_it_lives_and_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_api, "_KEEP_ALIVE", 0.05)
    with serving({"slow": Fake(latency=0.3, fail_text="fail", fail_reason="oom")}) as server:
        body = {"prompt": "a cat", "stream": True}
        answer = httpx.post(f"{server.url}/images/generations", json=body, headers=BEARER)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text.count(": waiting\n\n") >= 2
        assert answer.text.count("event: image_generation.completed\n") == 1
        client = openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0)
        with client, pytest.raises(openai.APIError, match="asked to fail"):
            list(client.images.generate(prompt="fail", stream=True))


def test_the_async_library_works_too(server: Server) -> None:
    async def main() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=server.url, api_key=KEY, max_retries=0) as client:
            prompts = [f"cat {number}" for number in range(20)]
            calls = [client.images.generate(prompt=prompt, extra_body={"seed": 1}) for prompt in prompts]
            return await asyncio.gather(*calls)

    answers = asyncio.run(main())
    for number, answer in enumerate(answers):
        (made,) = Fake().make([Batch((request(f"cat {number}", 1, Fake()),), 1)])
        assert (pixels_of(answer.data[0]) == made.pixels).all()


def test_models_say_what_they_pay_heed_to(client: Any) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert list(listed) == ["fake", "pencil/sketch", "moody"]
    told = client.models.retrieve("pencil/sketch")
    assert (told.object, told.owned_by) == ("model", "imagemill")
    assert told.imagemill == listed["pencil/sketch"].imagemill
    assert set(told.imagemill["takes"]) == {
        "seed", "n", "size", "num_inference_steps", "negative_prompt", "guidance_scale", "image",
    }  # fmt: skip
    assert "image" not in listed["moody"].imagemill["takes"]
    assert (told.imagemill["width"], told.imagemill["height"], told.imagemill["size_multiple"]) == (64, 48, 16)


# What is refused


def test_errors_are_those_of_the_library(server: Server, client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as absent:
        client.images.generate(prompt="a cat", model="fak")
    assert (absent.value.code, absent.value.param) == ("model_not_found", "model")
    assert "did you mean `fake`?" in str(absent.value)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-image-2")
    with pytest.raises(openai.BadRequestError) as unknown:
        client.images.generate(prompt="a cat", extra_body={"guidence_scale": 3})
    assert (unknown.value.code, unknown.value.param) == ("unknown_parameter", "guidence_scale")
    assert "did you mean `guidance_scale`?" in str(unknown.value)
    stranger = openai.OpenAI(base_url=server.url, api_key="wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError) as refused:
        stranger.images.generate(prompt="a cat")
    assert refused.value.code == "invalid_api_key"


WRONG: dict[str, tuple[Any, str, str | None]] = {
    "no prompt": ({}, "missing_required_parameter", "prompt"),
    "an empty prompt": ({"prompt": " "}, "invalid_value", "prompt"),
    "a long prompt": ({"prompt": "x" * 32_001}, "invalid_value", "prompt"),
    "half a character": (b'{"prompt": "\\ud800"}', "invalid_json", None),
    "a number as text": ({"prompt": "a cat", "n": "2"}, "invalid_value", "n"),
    "a yes as a number": ({"prompt": "a cat", "n": True}, "invalid_value", "n"),
    "too many": ({"prompt": "a cat", "n": 11}, "invalid_value", "n"),
    "no image": ({"prompt": "a cat", "n": 0}, "invalid_value", "n"),
    "a large seed": ({"prompt": "a cat", "seed": 2**32}, "invalid_value", "seed"),
    "no number": (b'{"prompt": "a cat", "guidance_scale": NaN}', "invalid_value", "guidance_scale"),
    "a large side": ({"prompt": "a cat", "size": "4104x64"}, "invalid_value", "size"),
    "no size": ({"prompt": "a cat", "size": "large"}, "invalid_value", "size"),
    "an absent format": ({"prompt": "a cat", "output_format": "gif"}, "invalid_value", "output_format"),
    "transparency": ({"prompt": "a cat", "background": "transparent"}, "invalid_value", "background"),
    "an unknown quality": ({"prompt": "a cat", "quality": "best"}, "invalid_value", "quality"),
    "a stream of several": ({"prompt": "a cat", "stream": True, "n": 2}, "invalid_value", "n"),
    "an absent scheduler": ({"prompt": "a cat", "scheduler": "euler"}, "unsupported_parameter", "scheduler"),
    "a list": ([], "invalid_value", None),
    "no JSON": (b"prompt=a+cat", "invalid_json", None),
    "half a JSON": (b'{"prompt": "a c', "invalid_json", None),
    "nothing": (b"", "invalid_json", None),
    "no UTF-8": (b'{"prompt": "a c\xe4t"}', "invalid_json", None),
    "an abyss": (b"[" * 100_000, "invalid_json", None),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_body_is_an_error_that_names_the_parameter(web: Any, name: str) -> None:
    body, code, param = WRONG[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = web.post("/images/generations", content=content)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["code"], error["param"]) == (code, param), error
    assert error["message"]


def test_all_that_is_wrong_is_said_at_once(web: Any) -> None:
    answer = web.post("/images/generations", json={"n": 0, "styl": 1, "seed": "x"})
    message = answer.json()["error"]["message"]
    assert all(f"`{name}`:" in message for name in ("prompt", "n", "seed", "styl")), message


def test_a_size_between_sizes_gets_the_nearest_as_a_hint(web: Any) -> None:
    answer = web.post("/images/generations", json={"prompt": "a", "model": "pencil/sketch", "size": "500x30"})
    assert "the nearest is `496x32`" in answer.json()["error"]["message"]


def test_a_parameter_that_would_have_no_effect_is_refused() -> None:
    class Stubborn(Fake):
        def info(self) -> ModelInfo:
            return ModelInfo(
                "stubborn", "1", 64, 64, 0, 0.0, "", 1, takes_negative_prompt=False, takes_guidance=False,
                takes_seed=False, takes_steps=False, takes_scheduler=False, sizes=((64, 64), (96, 64)),
            )  # fmt: skip

        def _fails(self, request: Request) -> bool:
            return False

    with serving({"stubborn": Stubborn()}) as server, httpx.Client(base_url=server.url, headers=BEARER) as web:
        given = {"negative_prompt": "x", "guidance_scale": 2, "num_inference_steps": 5, "seed": 1}
        for name, value in given.items():
            error = web.post("/images/generations", json={"prompt": "a cat", name: value}).json()["error"]
            assert (error["code"], error["param"]) == ("unsupported_parameter", name)
        refused = web.post("/images/generations", json={"prompt": "a cat", "size": "80x64"})
        assert "draws `64x64`, `96x64`" in refused.json()["error"]["message"]
        made = web.post("/images/generations", json={"prompt": "a cat", "size": "96x64", "seed": -1}).json()
        assert made["data"][0]["seed"] is None
        told = web.get("/models").json()["data"][0]["imagemill"]
        assert told["takes"] == ["n", "size"]


def test_known_parameters_without_a_meaning_here_are_taken(client: Any) -> None:
    answer = client.images.generate(
        prompt="a cat", quality="hd", style="vivid", background="auto", moderation="low", user="me",
        output_compression=50, output_format="jpeg",
    )  # fmt: skip
    assert open_image(base64.b64decode(answer.data[0].b64_json)).format == "JPEG"


def test_paths_and_methods_that_are_not_there_are_errors_too(web: Any) -> None:
    absent = web.get("/nothing")
    assert (absent.status_code, absent.json()["error"]["type"]) == (404, "invalid_request_error")
    method = web.get("/images/generations")
    assert (method.status_code, method.headers["allow"]) == (405, "POST")
    assert "error" in method.json()


def test_a_body_is_limited_whatever_its_header_says(web: Any) -> None:
    large = json.dumps({"prompt": "x" * 2**20}).encode()

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(large), 100_000):
            yield large[start : start + 100_000]

    told = web.post("/images/generations", content=large)
    untold = web.post("/images/generations", content=chunks())
    form = web.post("/images/edits", data={"prompt": "x" * 2**21}, files={"image": png()})
    assert "transfer-encoding" in untold.request.headers
    for answer in (told, untold):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert form.status_code == 400


def test_a_form_is_limited_too(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_api, "_MAX_FORM", 2**20)
    answer = web.post("/images/edits", data={"prompt": "a cat"}, files={"image": bytes(2 * 2**20)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


# Who may ask


def test_every_route_needs_the_key(server: Server) -> None:
    paths = {route.path for route in server.app.routes}
    assert len(paths) == 6
    base = server.url.removesuffix("/v1")
    for path in {path.replace("{name:path}", "fake") for path in paths} | {"/", "/v1/nothing"}:
        if path.startswith("/v1/images/files/"):
            continue
        for method in ("GET", "POST", "OPTIONS", "DELETE"):
            for header in ({}, {"authorization": "Bearer x"}, {"authorization": f"Basic {KEY}"}):
                answer = httpx.request(method, base + path, headers=header)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), path
                assert "access-control-allow-origin" not in answer.headers
    odd = httpx.get(f"{server.url}/models", headers={"authorization": "Bearer schlüssel".encode()})
    assert odd.status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 400),
        ("evil.example:80", 400),
        ("127.0.0.1.evil.example", 400),
        ("user@127.0.0.1", 400),
        ("10.0.0.1", 400),
        ("0.0.0.0", 400),
        ("", 400),
        ("[", 400),
        ("LOCALHOST:1", 200),
        ("[::1]:7860", 200),
        ("127.0.0.1", 200),
    ],
)
def test_a_name_that_is_not_ours_is_refused(web: Any, host: str, status: int) -> None:
    answer = web.get("/models", headers={"host": host})
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["error"]["code"] == "invalid_host"


def test_pages_of_other_sites_are_refused(server: Server, web: Any) -> None:
    origin = server.url.removesuffix("/v1")
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        answer = web.post("/images/generations", json={"prompt": "a cat"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")
    for headers in ({"origin": origin}, {"sec-fetch-site": "same-origin"}):
        assert web.get("/models", headers=headers).status_code == 200


def test_whoever_listens_everywhere_is_known_by_any_address() -> None:
    with Server({"fake": Fake()}, KEY, host="0.0.0.0") as server:
        assert server.url.startswith("http://127.0.0.1:")
        hosts = {"192.168.1.7:80": 200, "[fe80::1]": 200, "localhost": 200, "evil.example": 400}
        for host, status in hosts.items():
            assert httpx.get(f"{server.url}/models", headers={**BEARER, "host": host}).status_code == status


# Edits


def test_an_edit_gets_all_images_and_the_mask() -> None:
    model = sketch()
    files = [png(20, 10, "red"), png(30, 30, "blue"), png(20, 10, "#0000")]
    with serving({"sketch": model}) as server, openai.OpenAI(base_url=server.url, api_key=KEY) as client:
        answer = client.images.edit(
            image=[files[0], files[1]], mask=files[2], prompt="ein Käse", n=2, size="32x32", extra_body={"seed": 5}
        )
        single = client.images.edit(image=files[0], prompt="a hat")
        events = list(client.images.edit(image=files[0], prompt="a hat", stream=True))
    assert [item.seed for item in answer.data] == [5, 6]
    assert model._uploads == [files * 2, files[:1], files[:1]]
    asked = model._batches[0].requests[0]
    assert (asked.prompt, asked.size, len(asked.images)) == ("ein Käse", (32, 32), 2)
    assert single.size == "64x48"
    assert [event.type for event in events] == ["image_edit.completed"]
    gone = [path for batch in model._batches for one in batch.requests for path in (*one.images, one.mask) if path]
    assert len(gone) == 8
    until(lambda: not any(Path(path).parent.exists() for path in gone))


FORMS: dict[str, tuple[dict[str, Any], list[tuple[str, Any]], str, str | None]] = {
    "no image": ({}, [("image", png())], "invalid_image", "image"),
    "half an image": ({}, [("image", png()[:-20])], "invalid_image", "image"),
    "another mask": ({}, [("image", png()), ("mask", png(5, 5))], "invalid_image", "mask"),
    "a text for an image": ({"image": "x"}, [("mask", png())], "invalid_value", "image"),
    "too many": ({}, [("image[]", png())] * 17, "invalid_value", "image"),
    "far too many": ({}, [("image[]", png())] * 18, "invalid_form", None),
    "an unknown file": ({}, [("image", png()), ("picture", png())], "unknown_parameter", "picture"),
    "a mask alone": ({}, [("mask", png())], "missing_required_parameter", "image"),
    "a model without": ({"model": "moody"}, [("image", png())], "unsupported_parameter", "image"),
    "no UTF-8": ({"prompt": b"a c\xe4t"}, [("image", png())], "invalid_value", "prompt"),
    "an unknown field": ({"sede": "3"}, [("image", png())], "unknown_parameter", "sede"),
    "no number": ({"n": "two"}, [("image", png())], "invalid_value", "n"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_wrong_form_is_an_error_that_names_the_parameter(web: Any, name: str) -> None:
    fields, files, code, param = FORMS[name]
    if name == "no image":
        files = [("image", b"no image at all")]
    answer = web.post("/images/edits", data={"prompt": "a", "model": "pencil/sketch", **fields}, files=files)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param), error
    if name == "a model without":
        assert "`pencil/sketch`" in error["message"]


def test_a_form_that_is_none_is_an_error(web: Any) -> None:
    no_form = web.post("/images/edits", json={"prompt": "a cat"})
    no_end = web.post("/images/edits", content=b"x", headers={"content-type": "multipart/form-data"})
    assert no_form.json()["error"]["code"] == "invalid_content_type"
    assert no_end.json()["error"]["code"] == "invalid_form"


# Other clients


def test_the_library_of_hugging_face_works(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the package `huggingface_hub` is not installed")
    # Offline, it calls not even this machine.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    url = server.url.removesuffix("/v1") + "/models/fake"
    (made,) = Fake().make([Batch((request("a cat", 7, Fake(), width=32, num_inference_steps=3),), 1)])
    for client in (hub.InferenceClient(base_url=url, token=KEY), hub.InferenceClient(model=url, api_key=KEY)):
        image = client.text_to_image("a cat", seed=7, width=32, num_inference_steps=3)
        assert (np.asarray(image.convert("RGB")) == made.pixels).all()
        with pytest.raises(hub.errors.HfHubHTTPError, match="the nearest is `8x64`"):
            client.text_to_image("a cat", width=2)
    stranger = hub.InferenceClient(base_url=url, token="wrong")
    with pytest.raises(hub.errors.HfHubHTTPError, match="401"):
        stranger.text_to_image("a cat")

    async def main() -> Any:
        async with hub.AsyncInferenceClient(base_url=url, token=KEY) as client:
            return await client.text_to_image("a cat", seed=7, width=32, num_inference_steps=3)

    assert (np.asarray(asyncio.run(main()).convert("RGB")) == made.pixels).all()


def test_curl_works(server: Server, tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    (tmp_path / "in.png").write_bytes(png())
    generate = ["-H", "Content-Type: application/json", "-d", '{"prompt": "a cat", "seed": 7}']
    edit = ["-F", "model=pencil/sketch", "-F", "prompt=a hat", "-F", "image[]=@in.png", "-F", "image[]=@in.png"]
    for path, arguments in (("generations", generate), ("edits", edit)):
        command = [
            "curl",
            "-sS",
            "--fail-with-body",
            f"{server.url}/images/{path}",
            "-H",
            f"Authorization: Bearer {KEY}",
        ]
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert decode(base64.b64decode(json.loads(done.stdout)["data"][0]["b64_json"])).shape[2] == 3


# The built-in model


@pytest.fixture(scope="module")
def drawing() -> Iterator[Server]:
    """The built-in model twice, for one process loads both."""
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    pytest.importorskip("diffusers", reason="the extra `local` is not installed")
    folder = find_model("shapes", {}).folder()  # type: ignore[attr-defined]
    with serving(["shapes", f"diffusers:{folder}"], batch_size=4) as started:
        yield started


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_shapes_draws_what_was_asked_for_and_two_models_load_at_once(drawing: Server) -> None:
    prompt = "a red circle on a white background"

    async def main() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=drawing.url, api_key=KEY, max_retries=0) as client:
            names = [model.id async for model in client.models.list()]
            calls = [client.images.generate(prompt=prompt, model=name, n=2, extra_body={"seed": 3}) for name in names]
            return await asyncio.gather(*calls)

    answers = asyncio.run(main())
    scenes = [read_scene(pixels_of(item)) for item in answers[0].data]
    assert all(scene.background == "white" for scene in scenes)
    assert all([(found.shape, found.color) for found in scene.objects] == [("circle", "red")] for scene in scenes)
    assert [item.batch_size for item in answers[0].data] == [2, 2]
    shapes = find_model("shapes", {}).resolve({}, 1)
    asked = tuple(request(prompt, seed, shapes) for seed in (3, 4))
    made = list(shapes.make([Batch(asked, 2)]))
    assert all((pixels_of(item) == one.pixels).all() for item, one in zip(answers[0].data, made, strict=True))
    assert len(answers[1].data) == 2


# Batches


def test_requests_that_arrive_together_share_a_batch() -> None:
    model = sketch(may_draw=False)

    async def main(url: str) -> list[Any]:
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            first = asyncio.ensure_future(client.images.generate(prompt="first"))
            await asyncio.to_thread(until, lambda: model._batches)
            rest = [client.images.generate(prompt=f"cat {number}") for number in range(5)]
            waiting = asyncio.gather(*rest)
            await asyncio.sleep(0.5)
            model._may_draw.set()
            return [await first, *await waiting]

    with serving({"sketch": model}) as server:
        answers = asyncio.run(main(server.url))
    assert [len(batch.requests) for batch in model._batches] == [1, 5]
    assert [batch.size for batch in model._batches] == [1, 8]
    assert [answer.imagemill["batch_size"] for answer in answers] == [1, 8, 8, 8, 8, 8]
    prompts = [
        json.loads(open_image(base64.b64decode(a.data[0].b64_json)).info["imagemill"])["prompt"] for a in answers
    ]
    assert prompts == ["first", *[f"cat {number}" for number in range(5)]]


def batched(model: Model, requests: list[Request], batch_size: int | None = None) -> list[batching.Made]:
    async def main() -> list[batching.Made]:
        batcher = Batcher(model, model.info(), batch_size)
        try:
            return await asyncio.gather(*batcher.submit(requests))
        finally:
            batcher.stop()
            assert batcher.finish(5)

    return asyncio.run(main())


def test_only_requests_of_one_kind_share_a_batch_and_the_oldest_go_first() -> None:
    model = sketch()
    sizes = [(16, 16), (32, 16), (16, 16), (16, 16), (32, 16), (16, 16)]
    asked = [request(f"{n}", 1, model, width=w, height=h) for n, (w, h) in enumerate(sizes)]
    made = batched(model, asked, batch_size=3)
    assert [one.result.request.prompt for one in made] == ["0", "1", "2", "3", "4", "5"]
    assert [[one.prompt for one in batch.requests] for batch in model._batches] == [["0", "2", "3"], ["1", "4"], ["5"]]
    assert [batch.size for batch in model._batches] == [3, 2, 1]
    assert [one.batch_size for one in made] == [3, 2, 3, 3, 2, 1]


def test_a_model_that_keeps_results_back_is_not_waited_for_in_vain() -> None:
    class Ahead(Fake):
        """Gives the results of a batch when it has seen the next, as a model on a GPU does."""

        def make(self, batches: Iterable[Batch]) -> Iterator[Result]:
            kept: list[Result] = []
            for batch in batches:
                yield from kept
                kept = list(super().make([batch]))
            yield from kept

    model = Ahead()
    assert len(batched(model, [request("a cat", seed, model) for seed in range(3)], batch_size=2)) == 3
    assert len(batched(model, [request("a cat", 1, model)])) == 1


def test_too_many_requests_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_WAITING", 3)
    model = sketch(may_draw=False)
    with serving({"sketch": model}) as server:
        url = f"{server.url}/images/generations"
        with httpx.Client(headers=BEARER) as web, posted(url, {"prompt": "first"}) as first:
            until(lambda: model._batches)
            refused = web.post(url, json={"prompt": "a cat", "n": 4})
            model._may_draw.set()
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert first[0].status_code == 200


@contextmanager
def posted(url: str, body: Any) -> Iterator[list[Any]]:
    """Ask in another thread; the answer is there at the end of the block."""
    answers: list[Any] = []

    def ask() -> None:
        answers.append(httpx.post(url, json=body, headers=BEARER, timeout=20))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        thread.join()


def test_a_client_that_has_gone_costs_no_batch() -> None:
    model = sketch(may_draw=False)
    with serving({"sketch": model}) as server:
        url = f"{server.url}/images/generations"
        with posted(url, {"prompt": "first"}):
            until(lambda: model._batches)
            for stream in (False, True):
                with pytest.raises(httpx.ReadTimeout):
                    httpx.post(url, json={"prompt": "gone", "stream": stream}, headers=BEARER, timeout=0.3)
            time.sleep(0.2)
            model._may_draw.set()
        assert httpx.post(url, json={"prompt": "last"}, headers=BEARER).status_code == 200
    assert [[one.prompt for one in batch.requests] for batch in model._batches] == [["first"], ["last"]]


# What goes wrong


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("blocked", 400, "moderation_blocked"),
        ("bad_request", 400, "bad_request"),
        ("oom", 500, "oom"),
        ("nan_image", 500, "nan_image"),
        ("black_image", 500, "black_image"),
        ("model_error", 500, "model_error"),
    ],
)
def test_a_request_without_an_image_says_why(reason: FailureReason, status: int, code: str) -> None:
    with serving({"moody": Fake(fail_text="fail", fail_reason=reason)}) as server:
        url = f"{server.url}/images/generations"
        answer = httpx.post(url, json={"prompt": "fail", "n": 2}, headers=BEARER)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert "asked to fail" in answer.json()["error"]["message"]
        assert httpx.post(url, json={"prompt": "a cat"}, headers=BEARER).status_code == 200


def test_a_model_that_breaks_down_is_started_anew(capfd: pytest.CaptureFixture[str]) -> None:
    class Fragile(Fake):
        def make(self, batches: Iterable[Batch]) -> Iterator[Result]:
            for batch in batches:
                for one in batch.requests:
                    if one.prompt == "explain":
                        raise ModelError("the weights are damaged")
                    if one.prompt == "surprise":
                        raise RuntimeError("secret\ndetails")
                    if one.prompt == "leave":
                        return
                yield from super().make([batch])

    messages = {
        "explain": "the weights are damaged",
        "surprise": "the model stopped working",
        "leave": "the model ended and left the request without a result",
    }
    with serving({"fragile": Fragile()}) as server:
        url = f"{server.url}/images/generations"
        for prompt, message in messages.items():
            answer = httpx.post(url, json={"prompt": prompt}, headers=BEARER)
            assert (answer.status_code, answer.json()["error"]["message"]) == (500, message)
            assert answer.json()["error"]["type"] == "server_error"
            assert httpx.post(url, json={"prompt": "a cat"}, headers=BEARER).status_code == 200
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "error: the weights are damaged",
        "error: RuntimeError: secret details",
        "error: the model ended and left the request without a result",
    ]


def test_a_bug_is_one_line_in_the_log_and_no_traceback(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret\ndetails")

    monkeypatch.setattr(openai_api, "size_of", broken)
    answer = httpx.post(f"{server.url}/images/generations", json={"prompt": "a cat"}, headers=BEARER)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer.text
    assert capfd.readouterr().err == "error: POST '/v1/images/generations': ZeroDivisionError: secret details\n"


# The end


def test_what_runs_ends_and_what_waits_is_let_go() -> None:
    model = sketch(may_draw=False)
    server = Server({"sketch": model}, KEY)
    url = f"{server.url}/images/generations"
    with server, posted(url, {"prompt": "first"}) as first:
        until(lambda: model._batches)
        with posted(url, {"prompt": "second"}) as second:
            time.sleep(0.3)
            threading.Timer(0.3, model._may_draw.set).start()
            server.__exit__(None, None, None)
    assert first[0].status_code == 200
    assert (second[0].status_code, second[0].json()["error"]["code"]) == (503, "server_stopping")
    assert not server.busy


def test_a_model_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagemill.server.api.command.Server.patience", 0.3)
    model = sketch(may_draw=False)
    server = Server({"sketch": model}, KEY)
    with posted(f"{server.url}/images/generations", {"prompt": "first"}) as first, server:
        until(lambda: model._batches)
    assert first[0].status_code == 503
    assert server.busy
    model._may_draw.set()


# The command


@contextmanager
def command(*arguments: str, key: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`imagemill serve` in a process of its own, with the URL it printed; killed if it does not end by itself."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "IMAGEMILL_API_KEY": key}
    process = subprocess.Popen(
        [sys.executable, "-m", "imagemill", "serve", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    with process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_the_command_prints_its_url_and_ends_at_an_interrupt(tmp_path: Path) -> None:
    with command("--api", "--model", "fake", "--port", "0", "--no-browser", str(tmp_path), key="hush") as (
        process,
        url,
    ):
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/v1")
        with openai.OpenAI(base_url=url, api_key="hush", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["fake"]
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "")
    assert err == "serving fake with the key in IMAGEMILL_API_KEY\n\ninterrupted\n"


def test_a_key_is_drawn_and_told_once_where_there_is_none() -> None:
    with command("--api", "--model", "fake", "--port", "0", "--host", "0.0.0.0", "--quiet") as (process, url):
        assert process.stderr
        warning, told = process.stderr.readline(), process.stderr.readline()
        assert "can be reached from other machines" in warning
        assert f"on {url} with the key " in told
        answer = httpx.get(f"{url}/models", headers={"authorization": f"Bearer {told.split()[-1]}"})
        assert answer.status_code == 200
        process.terminate()
        assert process.wait(10) == 130


@pytest.mark.slow
def test_an_interrupt_within_a_long_batch_is_clean() -> None:
    with command("--api", "--port", "0", key="hush") as (process, url):
        body = {"prompt": "a cat", "n": 10, "size": "512x512", "num_inference_steps": 500}
        headers = {"authorization": "Bearer hush"}
        httpx.post(f"{url}/images/generations", json={"prompt": "a cat"}, headers=headers, timeout=60)
        answers: list[Any] = []

        def ask() -> None:
            answers.append(httpx.post(f"{url}/images/generations", json=body, headers=headers, timeout=60))

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(1)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        thread.join()
    assert time.monotonic() - begun < 7
    assert (process.returncode, answers[0].status_code) == (130, 503)
    assert "Traceback" not in err
    assert "terminate" not in err


def test_what_cannot_be_served_is_a_usage_error(imagemill: Command, server: Server) -> None:
    port = server.url.split(":")[2].partition("/")[0]
    taken = imagemill("serve", "--api", "--model", "fake", "--port", port)
    assert taken.code == 2
    assert taken.err.startswith(f"error: cannot listen on `127.0.0.1`, port {port}: address already in use\n\nhint: ")
    for arguments, said in {
        ("--batch-size", "2"): "hint: add `--api`",
        ("--api", "--model", "fke"): "did you mean `fake`?",
        ("--api", "--model", "fake", "--port", "70000"): "from 0 to 65535",
        ("--api", "--model", "fake", "--host", "no-such-host.invalid"): "hint: give an address of this machine",
        ("--api", "--model", "fake", "--batch-size", "0"): "`--batch-size` is at least 1",
    }.items():
        refused = imagemill("serve", *arguments)
        assert refused.code == 2
        assert said in refused.err


def test_a_missing_package_is_said_with_what_to_install(imagemill: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "imagemill.server.api.command.find_spec", lambda name: None if name == "starlette" else found(name)
    )
    refused = imagemill("serve", "--api")
    assert refused.code == 2
    assert "pip install 'imagemill[serve]'" in refused.err


# Edits by the built-in model


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_shapes_starts_from_the_image_as_far_as_its_strength_lets_it(drawing: Server) -> None:
    prompt = "a blue star on a yellow background"
    with openai.OpenAI(base_url=drawing.url, api_key=KEY, max_retries=0) as client:
        drawn = client.images.generate(prompt="a red circle on a white background", extra_body={"seed": 3}).data[0]
        source = base64.b64decode(drawn.b64_json)
        answers = {
            strength: client.images.edit(
                image=source,
                prompt=prompt,
                extra_body={"seed": 4, **({} if strength is None else {"strength": strength})},
            ).data[0]
            for strength in (0, 0.8, 1, None)
        }
        fresh = client.images.generate(prompt=prompt, extra_body={"seed": 4}).data[0]
        assert (np.abs(pixels_of(answers[0]).astype(int) - decode(source)) < 40).mean() > 0.95
        assert (pixels_of(answers[1]) == pixels_of(fresh)).all()
        assert (pixels_of(answers[None]) == pixels_of(answers[0.8])).all()
        assert (pixels_of(answers[None]) != pixels_of(fresh)).any()
        for wrong in (1.5, "x"):
            with pytest.raises(openai.BadRequestError) as refused:
                client.images.edit(image=source, prompt=prompt, extra_body={"strength": wrong})
            assert (refused.value.code, refused.value.param) == ("invalid_value", "strength")
        with pytest.raises(openai.BadRequestError) as alone:
            client.images.generate(prompt=prompt, extra_body={"strength": 0.5})
        assert (alone.value.code, alone.value.param) == ("unsupported_parameter", "strength")
