"""Models behind servers: every call counts, whatever the server does."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import imagemill as package
from imagemill.dataset.calls import Calls, Unknown
from imagemill.images import decode
from imagemill.models.base import Question, Result, find_model
from imagemill.models.hf import Hf, image_in
from imagemill.models.openai import FAMILIES, Openai
from imagemill.records import FailureReason, Request
from imagemill.remote.client import CallFailed, Client, checked_base_url, retry_after
from imagemill.remote.engine import Settings, run_once, stream
from imagemill.remote.model import Remote

from .conftest import Command
from .faults.server import KINDS, Faults, FaultServer, expected_color, program, serving
from .servers import KEY
from .servers import serving as serving_models

CANARY = "sk-canary-0123456789abcdef"
SMALL = {"own_size": "64x64", "takes": ("seed", "size"), "timeout": 2.0}


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def prompts(count: int) -> list[str]:
    return [f"picture number {number}" for number in range(count)]


def calls(server: FaultServer) -> Counter[str]:
    return Counter(call.fault for call in server.calls)


def check(dataset: package.Dataset, requests: int) -> None:
    """Every request ended once, and every picture is that of its own prompt."""
    counts = dataset.counts()
    assert (counts.done + sum(counts.failed.values()), counts.pending) == (requests, 0)
    assert package.verify(dataset, reader=False) == []
    for part in dataset.parts:
        for record in part.records():
            pixels = decode((part.folder / record["file_name"]).read_bytes())
            color = np.median(pixels.reshape(-1, 3), axis=0)
            # WebP of a server may be lossy.
            assert np.abs(color - expected_color(record["prompt"])).max() <= 3, record["prompt"]


# faults


@pytest.mark.parametrize(
    "count", [pytest.param(250, id="250"), pytest.param(10_000, id="10000", marks=pytest.mark.slow)]
)
def test_whatever_the_server_does_every_request_ends_once(count: int) -> None:
    with serving(Faults(rate=0.3, kinds=KINDS, hang=1.5, endless=4)) as server:
        # The faults depend on the seeds, and more of them in a row than there are retries are no failure of ours.
        options = SMALL | {"timeout": 1.0, "seed": 1, "max_retries": 8}
        dataset = package.generate(prompts(count), "out", model="openai:mock", base_url=server.url, **options)
        check(dataset, count)
        made = Counter(call.fault for call in server.calls)
    assert set(KINDS) - {"reset_paid"} <= set(made) or count < 1_000
    # What no retry mends is asked for once.
    failed = Counter(failure["reason"] for failure in dataset.failures().values())
    assert failed.keys() <= {"moderation_blocked", "auth", "no_credit", "model_gone"}
    assert failed["moderation_blocked"] == made["moderation"]
    assert failed["auth"] == made["401"]
    assert failed["no_credit"] == made["402"]
    assert failed["model_gone"] == made["404"]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"moderation", "401", "402", "404"}))
def test_a_fault_that_passes_costs_no_image(kind: str) -> None:
    with serving(Faults(rate=1, kinds=(kind,), attempts=1, hang=3, endless=4, trickle=0.3)) as server:
        dataset = package.generate(
            prompts(3), "out", model="openai:mock", base_url=server.url, **{**SMALL, "timeout": 1.0}
        )
        check(dataset, 3)
        assert len(dataset) == 3
        assert calls(server)[kind] == 3


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("429_ms", "rate_limited"),
        ("500", "server_error"),
        ("hang", "timeout"),
        ("truncated_png", "bad_image"),
        ("wrong_size", "bad_image"),
        ("html", "server_error"),
        ("moderation", "moderation_blocked"),
    ],
)
def test_a_fault_that_stays_ends_as_a_failure_with_its_reason(kind: str, reason: str) -> None:
    faults = Faults(rate=1, kinds=(kind,), text="number 1", hang=2)
    with serving(faults) as server:
        options = {**SMALL, "max_retries": 1, "timeout": 0.5}
        dataset = package.generate(prompts(3), "out", model="openai:mock", base_url=server.url, **options)
        (failure,) = dataset.failures().values()
        assert (failure["reason"], failure["id"], len(dataset)) == (reason, "1", 2)
        # Only to be told to wait is borne longer.
        assert calls(server)[kind] == {"moderation": 1, "429_ms": 6}.get(kind, 2)
    assert reason in get_args(FailureReason)


@pytest.mark.parametrize(("kind", "reason"), [("401", "auth"), ("402", "no_credit"), ("404", "model_gone")])
def test_a_server_that_refuses_all_is_asked_a_few_times_and_nothing_has_failed(kind: str, reason: str) -> None:
    with serving(Faults(rate=1, kinds=(kind,))) as server:
        with pytest.raises(package.ModelError, match=reason):
            package.generate(prompts(200), "out", seed=3, model="openai:mock", base_url=server.url, **SMALL)
        assert len(server.calls) <= 8
        counts = package.Dataset("out").counts()
        assert (counts.done, counts.failed, counts.pending) == (0, {}, 200)
        server.faults = Faults(rate=0)
        dataset = package.generate(prompts(200), "out", seed=3, model="openai:mock", base_url=server.url, **SMALL)
        check(dataset, 200)


def test_a_server_that_is_not_there_is_named_before_anything_is_made() -> None:
    with pytest.raises(package.ModelError, match="unreachable") as caught:
        package.generate(["a"], "out", model="openai:mock", base_url="http://127.0.0.1:9")
    assert "127.0.0.1:9" in str(caught.value)
    assert not Path("out").exists()


def test_a_slow_call_holds_nobody_up() -> None:
    with serving(Faults(rate=1, kinds=("hang",), text="number 0", hang=2)) as server:
        options = {**SMALL, "timeout": 4.0}
        package.generate(prompts(60), "out", model="openai:mock", base_url=server.url, **options)
        slow = next(call for call in server.calls if call.fault == "hang")
        others = [call.time + call.seconds for call in server.calls if call is not slow]
        assert max(others) < slow.time + slow.seconds


def test_what_a_server_sends_is_kept_byte_by_byte() -> None:
    with serving(Faults(rate=0, shape="either")) as server:
        dataset = package.generate(
            prompts(8), "out", model="openai:mock", base_url=server.url, own_size="64x64", images_per_prompt=3,
            takes=("n", "size"), output_format="webp",
        )  # fmt: skip
        check(dataset, 24)
        assert [call.asked for call in server.calls if call.asked] == [3] * 8, "a prompt's images share a call"
    names = {record["file_name"].partition(".")[2] for record in dataset}
    assert names == {"webp"}
    assert {record["seed"] for record in dataset} == {-1}, "a seed that nobody used is not written down"
    assert {record["revised_prompt"] for record in dataset} != {""}
    assert "as received" in (Path("out") / "job.toml").read_text()
    with pytest.raises(package.UsageError, match="kept as they come"):
        package.generate(["a"], "out2", model="openai:mock", base_url=server.url, image_format="webp", **SMALL)


# money


def test_a_budget_stops_before_the_call_that_would_exceed_it_and_the_same_command_goes_on(imagemill: Command) -> None:
    Path("prompts.txt").write_text("\n".join(prompts(20)))
    with serving(Faults(rate=0.3, kinds=("500", "truncated_png"))) as server:
        command = (
            "generate", "prompts.txt", "-o", "out", "--seed", 1, "--model", "openai:mock", "--base-url", server.url,
            "--own-size", "64x64", "--takes", "size", "--price", "0.10", "--max-cost", "1.0", "--json",
        )  # fmt: skip
        stopped = imagemill(*command)
        assert stopped.code == 4
        assert "max_cost" in stopped.err
        assert server.paid <= 10
        assert stopped.json["done"] + stopped.json["pending"] == 20
        while stopped.code == 4:
            before = server.paid
            stopped = imagemill(*command)
            assert server.paid - before <= 10
        assert (stopped.code, stopped.json["done"]) == (0, 20)


def test_calls_that_are_tried_again_together_do_not_exceed_a_budget_together(imagemill: Command) -> None:
    Path("prompts.txt").write_text("\n".join(prompts(40)))
    with serving(Faults(rate=0.8, kinds=("500",), latency=0.05)) as server:
        command = (
            "generate", "prompts.txt", "-o", "out", "--seed", 1, "--model", "openai:mock", "--base-url", server.url,
            "--own-size", "64x64", "--takes", "size", "--price", "0.10", "--max-cost", "0.30", "--json",
        )  # fmt: skip
        for _ in range(3):
            before = server.paid
            assert imagemill(*command).code == 4
            assert server.paid - before <= 3


def test_a_number_of_images_stops_a_run_of_any_model(imagemill: Command, prompts: Path) -> None:
    command = ("generate", prompts, "-o", "out", "--model", "fake", "--seed", 1, "--max-images", 5, "--json")
    runs = [imagemill(*command) for _ in range(3)]
    assert [(run.code, run.json["done"]) for run in runs] == [(4, 5), (4, 10), (0, 12)]


def test_a_dry_run_tells_calls_and_money_and_asks_nobody(imagemill: Command, prompts: Path) -> None:
    command = ("generate", prompts, "-o", "out", "--dry-run", "--json", "--model")
    plan = imagemill(*command, "openai:gpt-image-1.5", "--quality", "low", "--images-per-prompt", 4).json
    assert (plan["images"], plan["calls"], plan["cost"]) == (48, 12, pytest.approx(48 * 0.009))
    unknown = imagemill(*command[:-2], "--model", "openai:gpt-image-1.5")
    assert "cost unknown" in unknown.err
    priced = imagemill(*command, "openai:gpt-image-1.5", "--price", "0.5", "--price", "1024x1024=0.25").json
    assert priced["cost"] == pytest.approx(3.0)
    assert imagemill(*command, "openai:gpt-image-1.5", "--quality", "low", "--batch-api").json["cost"] == pytest.approx(
        6 * 0.009
    )
    refused = imagemill(*command, "openai:gpt-image-1.5", "--max-cost", 5)
    assert refused.code == 2
    assert "--price" in refused.err


def test_after_kill_9_what_may_have_been_paid_for_is_told_and_nothing_is_double(imagemill: Command) -> None:
    Path("prompts.txt").write_text("\n".join(prompts(60)))
    with serving(Faults(rate=0, latency=0.3)) as server:
        arguments = [
            "generate", "prompts.txt", "-o", "out", "--seed", "1", "--model", "openai:mock", "--base-url", server.url,
            "--own-size", "64x64", "--takes", "size", "--price", "0.10", "--concurrency", "6",
        ]  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "imagemill", *arguments], stderr=subprocess.DEVNULL)
        while not list(Path().glob("out/images/*/*.png")):
            time.sleep(0.02)
        process.kill()
        process.wait()
        status = imagemill("status", "out", "--json").json
        told = status["unknown_outcome"]
        asked = sum(call.asked for call in server.calls)
        # What is open is what was asked for and is not in the dataset, and calls that had not yet arrived.
        assert max(1, asked - status["done"]) <= told["images"] <= asked - status["done"] + 6
        assert told["cost"] == pytest.approx(0.1 * told["images"])
        paid = server.paid
        continued = imagemill(*arguments)
        assert continued.code == 0
        assert f"unknown_outcome: {told['images']} images" in continued.err
        assert server.paid - paid == 60 - status["done"], "only what has no image is asked for again"
        check(package.Dataset("out"), 60)
        assert imagemill("status", "out", "--json").json["unknown_outcome"]["images"] == told["images"]


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_an_interrupt_keeps_what_is_in_flight(signals: list[signal.Signals]) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        pytest.skip("SIGINT is ignored where the tests run, as under nohup, and so by what they start")
    Path("prompts.txt").write_text("\n".join(prompts(200)))
    with serving(Faults(rate=0, latency=0.5)) as server:
        arguments = [
            "generate", "prompts.txt", "-o", "out", "--model", "openai:mock", "--base-url", server.url, "--own-size",
            "64x64", "--takes", "size", "--concurrency", "8",
        ]  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "imagemill", *arguments], stderr=subprocess.PIPE, text=True)
        while not list(Path().glob("out/images/*/*.png")):
            time.sleep(0.02)
        # `timeout` sends two at once.
        for each in signals:
            process.send_signal(each)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130, said
        assert "Traceback" not in said
        time.sleep(0.6)
        assert len(package.Dataset("out")) == server.paid
        assert package.Dataset("out").unknown_outcome() == Unknown(0, 0)


def test_the_journal_of_calls_tells_what_is_open(tmp_path: Path) -> None:
    (tmp_path / ".imagemill").mkdir()
    journal = Calls(tmp_path)
    journal.opened(["a", "b"], 0.2)
    journal.opened(["c"], 0.1)
    journal.closed(["c"], False)
    journal.opened(["d"], 0.1)
    journal.closed(["d"], None)
    journal.opened(["e"], None, "token")
    assert journal.unknown() == Unknown(3, pytest.approx(0.3))
    assert journal.unknown({"a"}) == Unknown(2, pytest.approx(0.2))
    journal.settle({"a"})
    assert journal.unknown() == Unknown(2, pytest.approx(0.2))
    assert journal.batches() == {"token": ["e"]}


# the batch API


def batch_options(server: FaultServer) -> dict[str, Any]:
    return {"model": "openai:mock", "base_url": server.url, "batch_api": True, "batch_poll": 0.05, "seed": 1, **SMALL}


def test_the_batch_api_makes_the_same_dataset() -> None:
    with serving(Faults(rate=0.3, kinds=("500", "moderation", "truncated_png", "bad_base64"))) as server:
        dataset = package.generate(prompts(60), "out", **batch_options(server))
        check(dataset, 60)
        assert {call.path for call in server.calls if call.prompt} == {"/v1/images/generations"}
        assert all(call.batch for call in server.calls if call.prompt)
        failed = {failure["reason"] for failure in dataset.failures().values()}
        assert failed == {"moderation_blocked"}
    with serving(Faults(rate=0)) as server:
        direct = {**batch_options(server), "batch_api": False}
        again = package.generate(prompts(60), "direct", **direct)
    sums = {record["prompt"]: record["sha256"] for record in again}
    assert all(sums[record["prompt"]] == record["sha256"] for record in dataset)


def test_a_batch_is_found_again_after_kill_9(imagemill: Command) -> None:
    Path("prompts.txt").write_text("\n".join(prompts(10)))
    with serving(Faults(rate=0, polls=40)) as server:
        arguments = [
            "generate", "prompts.txt", "-o", "out", "--seed", "1", "--model", "openai:mock", "--base-url", server.url,
            "--own-size", "64x64", "--takes", "size", "--batch-api", "--batch-poll", "0.05",
        ]  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "imagemill", *arguments], stderr=subprocess.DEVNULL)
        while not any("GET" in call.path or call.path.startswith("/v1/batches") for call in server.calls):
            time.sleep(0.02)
        time.sleep(0.3)
        process.kill()
        process.wait()
        assert imagemill(*arguments).code == 0
        check(package.Dataset("out"), 10)
        assert server.paid == 10, "the batch of the first run was taken up"


@pytest.mark.parametrize("end", ["expired", "failed"])
def test_a_batch_that_ends_badly_is_told_and_what_expired_is_handed_in_again(end: str) -> None:
    with serving(Faults(rate=0, batch_end=end)) as server:
        if end == "failed":
            with pytest.raises(package.ModelError, match="refused the batch"):
                package.generate(prompts(4), "out", **batch_options(server))
            assert package.Dataset("out").counts().pending == 4
            assert package.Dataset("out").unknown_outcome() == Unknown(0, 0)
        else:
            check(package.generate(prompts(8), "out", **batch_options(server)), 8)


# what is sent


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/v1/", "http://127.0.0.1:8000/v1"),
        ("https://x.example/v1beta/openai", "https://x.example/v1beta/openai"),
        ("https://x.example/api", "https://x.example/api/v1"),
    ],
)
def test_an_address_has_one_v1(given: str, url: str) -> None:
    assert Openai(model="m", base_url=given).address() == url


@pytest.mark.parametrize("url", ["ftp://x", "x.example", "https://user:secret@x.example", "https://x.example?key=1"])
def test_an_address_is_http_and_holds_no_secret(url: str) -> None:
    with pytest.raises(package.UsageError, match="base_url"):
        checked_base_url(url)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_gets_only_what_it_takes(name: str) -> None:
    family = FAMILIES[name]
    model = find_model(f"openai:{name}", {}).resolve({}, 1)
    assert isinstance(model, Openai)
    width, height = model.own_width_and_height()
    request = Request(0, 0, 1, "0", "a cat", "no dogs", 7, width, height, 20, 3.0, "euler")
    said = model.body([request])
    assert set(said) <= {"prompt", "model", "n", "size", *family.values}
    assert "response_format" not in said, "unless it is asked for"
    assert not {"seed", "style"} & set(said)
    for parameter in ("quality", "style", "background", "output_format"):
        with pytest.raises(package.UsageError, match=parameter):
            find_model(f"openai:{name}", {parameter: "nonsense"}).resolve({}, 1)


@pytest.mark.parametrize(
    "parameters",
    [
        {"style": "vivid"},
        {"quality": "hd"},
        {"background": "transparent", "output_format": "jpeg"},
        {"width": 1000, "height": 1000},
        {"base_url": "https://a:b@x.example"},
        {"price": ("cheap",)},
        {"base_url": ""},
        {"base_url": "http://127.0.0.1:99999"},
        {"base_url": "http://127.0.0.1:x"},
        {"batch_size": 4},
        {"max_cost": 1.0, "quality": "auto"},
        {"response_format": "png"},
    ],
)
def test_what_cannot_be_right_is_refused_before_any_call(parameters: dict[str, Any]) -> None:
    with pytest.raises(package.UsageError):
        package.generate(["a"], "out", model="openai:gpt-image-1.5", **parameters)
    assert not Path("out").exists()


def test_without_a_key_nothing_is_sent_to_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, model in (("OPENAI_API_KEY", "openai:gpt-image-2"), ("HF_TOKEN", "hf:owner/name")):
        monkeypatch.delenv(name)
        with pytest.raises(package.UsageError, match=f"{name}.*not set"):
            package.generate(["a"], "out", model=model)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "2"}, 2.0),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25),
        ({"Retry-After": "soon"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_server_says_in_three_ways_how_long_to_wait(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers) == seconds


def test_a_date_to_wait_for_is_read() -> None:
    from email.utils import formatdate

    assert 8 < retry_after({"Retry-After": formatdate(time.time() + 10, usegmt=True)}) <= 10


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/",
        "https://[::ffff:127.0.0.1]/x.png",
        "https://0x7f.1/x.png",
        "https://127.0.0.1:9/x.png",
        "https://localhost/x.png",
        "https://100.64.0.1/x.png",
        "https://[::1]/x.png",
        "https://[fe80::1]/x.png",
        "https://10.0.0.1/x.png",
        "https://user@93.184.216.34/x.png",
        "http://93.184.216.34/x.png",
        "file:///etc/passwd",
        "https:///x.png",
    ],
)
def test_an_image_is_never_fetched_from_a_private_place(url: str) -> None:
    model = Openai(model="m", base_url="https://api.example/v1")
    with pytest.raises(CallFailed) as caught:
        run_once(model.client, lambda client: client.fetch(url))
    assert caught.value.reason == "bad_image"
    # Not "connection refused": nobody was asked.
    assert "not public" in caught.value.message or "no plain https address" in caught.value.message


# what a server honours


def test_a_probe_finds_out_what_a_server_honours_and_it_is_used(imagemill: Command) -> None:
    for takes_seed, expected in ((True, {"seed", "n", "size", "image"}), (False, {"n", "size", "image"})):
        with serving(Faults(rate=0, takes_seed=takes_seed)) as server:
            probed = imagemill("models", "openai:mock", "--probe", "--base-url", server.url, "--json")
            assert set(probed.json["takes"]) == expected
            assert server.paid == 3, "two images of one call, and one of another"
            dataset = package.generate(["a"], f"out-{takes_seed}", model="openai:mock", base_url=server.url)
            (record,) = dataset
            assert (record["seed"] >= 0) is takes_seed
            assert record["width"] == 256


def test_a_server_that_refuses_a_seed_is_asked_without() -> None:
    with serving(Faults(rate=0, rejects=("seed",))) as server:
        model = find_model("openai:mock", {"base_url": server.url})
        from imagemill.remote.servers import probe

        assert isinstance(model, Remote)
        assert "seed" not in probe(model).takes


# our own server


def test_our_backend_and_our_server_make_the_pictures_of_the_model_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    texts = ["a red circle on a white background", "large yellow star, blue background", "a white heart"]
    with serving_models(("shapes",)) as server:
        remote = package.generate(texts, "remote", model="openai:shapes", base_url=server.url, seed=7)
        first = next(iter(remote))
        assert package.reproduce(remote, first["file_name"]).verdict == "bit-exact"
    local = package.generate(texts, "local", model="shapes", seed=7)
    for near, far in zip(local, remote, strict=True):
        assert np.array_equal(np.asarray(local.image(near["file_name"])), np.asarray(remote.image(far["file_name"])))
        for name in ("prompt", "seed", "width", "height", "num_inference_steps", "guidance_scale", "scheduler"):
            assert near[name] == far[name], name


def test_the_hugging_face_protocol_makes_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", KEY)
    with serving_models(("fake",)) as server:
        address = server.url.removesuffix("/v1") + "/models/fake"
        dataset = package.generate(
            prompts(12), "out", model="hf:fake", base_url=address, own_size="64x64", seed=7, takes=("seed", "size")
        )
    near = package.generate(prompts(12), "local", model="fake", seed=7)
    assert [record["seed"] for record in dataset] == [record["seed"] for record in near]
    assert np.asarray(dataset.image("prompt_3_image_0")).shape == (64, 64, 3)


# Hugging Face


def test_hugging_face_endpoints_are_called_with_every_parameter() -> None:
    with serving(Faults(rate=0.3, kinds=("500", "503", "truncated_png", "html"))) as server:
        dataset = package.generate(
            prompts(20), "out", model="hf:owner/name", base_url=f"{server.url}/models/owner/name",
            negative_prompt="fog", guidance_scale=2.5, num_inference_steps=9, **{**SMALL, "takes": (
                "seed", "size", "negative_prompt", "num_inference_steps", "guidance_scale")},
        )  # fmt: skip
        check(dataset, 20)
        assert {call.path for call in server.calls} == {"/models/owner/name"}
        record = next(iter(dataset))
        assert (record["negative_prompt"], record["guidance_scale"], record["num_inference_steps"]) == ("fog", 2.5, 9)


@pytest.mark.parametrize(
    "parameters",
    [
        {"provider": "fal"},
        {"endpoint_namespace": "me"},
        {"endpoint_name": "mine", "base_url": "https://x.example"},
        {"provider": "together", "base_url": "https://x.example"},
    ],
)
def test_where_a_hugging_face_model_is_must_be_clear(parameters: dict[str, Any]) -> None:
    with pytest.raises(package.UsageError):
        package.generate(["a"], "out", model="hf:owner/name", **parameters)


@pytest.mark.parametrize("provider", ["together", "fal-ai", "hf-inference", "nscale"])
def test_every_provider_is_asked_in_its_own_words(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.hf_api import InferenceProviderMapping
    from huggingface_hub.inference._providers import _common, hf_inference

    # The library's own place for models that the hub does not know yet.
    mapping = InferenceProviderMapping(
        provider=provider, hf_model_id="owner/name", providerId="their/name", status="live", task="text-to-image"
    )
    monkeypatch.setitem(_common.HARDCODED_MODEL_INFERENCE_MAPPING, provider, {"owner/name": mapping})
    monkeypatch.setattr(hf_inference, "_check_supported_task", lambda model, task: None)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    options = {"provider": provider, "takes": ("seed", "size", "num_inference_steps"), "own_size": "64x64"}
    model = find_model("hf:owner/name", options)
    assert isinstance(model, Hf)
    request = Request(0, 0, 1, "0", "a cat", "", 7, 64, 32, 9, 0.0, "")
    if provider == "nscale":
        with pytest.raises(CallFailed, match="takes no `num_inference_steps`"):
            model.prepared(request)
        request = replace(request, num_inference_steps=0)
    url, body, headers = model.prepared(request)
    assert url.startswith("https://router.huggingface.co/")
    assert headers["authorization"] == "Bearer hf_x"
    text = json.dumps(body)
    assert '"a cat"' in text
    assert "7" in text
    assert "32" in text
    assert ("9" in text) is (provider != "nscale")
    assert "negative" not in text


@pytest.mark.parametrize(
    "answer",
    [
        {"images": [{"url": "URL"}]},
        {"output": ["URL"]},
        {"output": "URL"},
        {"data": [{"b64_json": "DATA"}]},
        {"images": ["DATA"]},
        {"image": "data:image/png;base64,DATA"},
    ],
)
def test_every_shape_of_a_providers_answer_is_read(answer: dict[str, Any]) -> None:
    with serving(Faults(rate=0, shape="url")) as server:
        client = Openai(model="m", base_url=server.url).client
        body = {"prompt": "a", "size": "64x64"}
        made = run_once(client, lambda opened: opened.call("POST", f"{server.url}/v1/images/generations", json=body))
        url = made.json()["data"][0]["url"]
        data = run_once(client, lambda opened: opened.fetch(url))
        text = json.dumps(answer).replace("DATA", base64.b64encode(data).decode()).replace("URL", url)
        assert run_once(client, lambda opened: image_in(opened, json.loads(text))) == data
        assert decode(data).shape == (64, 64, 3)


def test_an_answer_without_an_image_is_a_failure() -> None:
    client = Openai(model="m", base_url="http://127.0.0.1:9").client
    for answer in ({}, {"images": []}, {"output": None}, [], "no base64!", {"data": [{"other": 1}]}):
        with pytest.raises(CallFailed):
            run_once(client, lambda opened, answer=answer: image_in(opened, answer))


# images to text, and images to images


def test_questions_about_images_are_answered() -> None:
    from .faults.server import picture

    with serving(Faults(rate=0.3, kinds=("500", "429_ms", "bad_json", "moderation"))) as server:
        model = find_model("openai:mock", {"base_url": server.url, **SMALL})
        assert isinstance(model, Remote)
        questions = [Question(str(number), f"what is {number}?", (picture("a", number),) * 2) for number in range(40)]
        replies = list(model.answer(questions))
        assert Counter(reply.question.name for reply in replies) == Counter(map(str, range(40)))
        good = [reply for reply in replies if reply.reason is None]
        assert len(good) > 30
        assert all(reply.question.prompt in reply.texts[0] and "2" in reply.texts[0] for reply in good)
        assert {reply.reason for reply in replies if reply.reason} <= {"moderation_blocked"}


def test_edits_carry_all_images_and_the_mask(tmp_path: Path) -> None:
    from .faults.server import picture

    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        path.write_bytes(picture("a", number))
        paths.append(str(path))
    with serving(Faults(rate=0)) as server:
        model = find_model("openai:mock", {"base_url": server.url, **SMALL})
        assert isinstance(model, Remote)
        request = Request(
            0, 0, 1, "0", "make it red", "", 7, 64, 64, 0, 0.0, "", images=tuple(paths[:2]), mask=paths[2]
        )
        (result,) = run_once(model.client, lambda client: model.draw(client, [request]))
        assert not isinstance(result, CallFailed)
        assert result.data
        (call,) = server.calls
        assert call.path == "/v1/images/edits"
        assert [name for name, _, _ in call.uploads] == ["image[]", "image[]", "mask"]


# secrets


def test_the_key_is_nowhere_but_in_the_call(imagemill: Command, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(prompts(30)))
    texts = []
    with serving(Faults(rate=0.5, kinds=("401", "402", "500", "moderation", "reset", "html"))) as server:
        for command in (
            ("generate", "prompts.txt", "-o", "out", "--model", "openai:mock", "--base-url", server.url, "--takes",
             "size", "--own-size", "64x64", "--timeout", 2),
            ("status", "out"),
            ("retry", "out"),
            ("models", "openai:mock", "--probe", "--base-url", server.url),
            ("verify", "out", "--no-reader"),
        ):  # fmt: skip
            ran = imagemill(*command)
            texts.append(ran.out + ran.err)
        assert {call.authorization for call in server.calls} == {f"Bearer {CANARY}"}
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in "".join(texts)


def test_a_server_that_repeats_the_key_does_not_get_it_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    # The server's page of HTML says something that is taken for a key here.
    monkeypatch.setenv("OPENAI_API_KEY", "doctype html")
    with serving(Faults(rate=1, kinds=("html",), text="number 1")) as server:
        options = {**SMALL, "max_retries": 0}
        dataset = package.generate(prompts(3), "out", model="openai:mock", base_url=server.url, **options)
        (failure,) = dataset.failures().values()
    assert "***" in failure["message"]
    assert "doctype" not in failure["message"]


@pytest.mark.parametrize("key", ["sk-one\nsecond", "schlüssel"])
def test_a_key_that_cannot_be_one_is_never_sent(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving(Faults(rate=0)) as server:
        with pytest.raises(package.UsageError, match="characters that no key has"):
            package.generate(["a"], "out", model="openai:mock", base_url=server.url, **SMALL)
        assert server.calls == []


def test_remote_models_work_in_one_process() -> None:
    with pytest.raises(package.UsageError, match="concurrency"):
        package.generate(["a"], "out", model="openai:gpt-image-2", workers=2)


@pytest.fixture(scope="module")
def real_table() -> Path:
    path = Path(__file__).parents[2] / "shared" / "data" / "geneval.jsonl"
    if not path.is_file():
        pytest.skip("the real prompt table geneval.jsonl is not beside this checkout")
    return path


@pytest.mark.slow
def test_a_real_table_through_our_server_gives_the_pictures_of_the_model(
    real_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving_models(("shapes",)) as server:
        remote = package.generate(real_table, "remote", model="openai:shapes", base_url=server.url, seed=7)
    local = package.generate(real_table, "local", model="shapes", seed=7)
    assert len(remote) == len(local) == 553
    for near, far in zip(local.parts, remote.parts, strict=True):
        for one, other in zip(near.records(), far.records(), strict=True):
            first = decode((near.folder / one["file_name"]).read_bytes())
            assert np.array_equal(first, decode((far.folder / other["file_name"]).read_bytes()))
            assert one["seed"] == other["seed"]


def test_the_fault_server_runs_as_a_program() -> None:
    with program("--faults", "0") as url:
        dataset = package.generate(prompts(3), "out", model="openai:mock", base_url=url, **SMALL)
        check(dataset, 3)
    assert os.environ["OPENAI_API_KEY"] == CANARY


def test_a_retry_asks_the_same_server_within_a_budget(imagemill: Command) -> None:
    with serving(Faults(rate=1, kinds=("500",), text="number 1")) as server:
        package.generate(
            prompts(20), "out", model="openai:mock", base_url=server.url, **SMALL | {"max_retries": 0}, seed=1
        )
        server.faults = Faults(rate=0)
        stopped = imagemill("retry", "out", "--price", "0.5", "--max-cost", "2", "--json")
        assert (stopped.code, len(package.Dataset("out"))) == (4, 13)
        assert imagemill("retry", "out", "--timeout", 5).code == 0
        check(package.Dataset("out"), 20)
        assert "no argument" in imagemill("retry", "out", "--takes", "seed").err


def test_a_kill_during_a_retry_is_told_too(imagemill: Command) -> None:
    with serving(Faults(rate=1, kinds=("500",))) as server:
        options = {**SMALL, "max_retries": 0}
        with pytest.raises(package.SomeFailed):
            package.generate(prompts(12), "out", model="openai:mock", base_url=server.url, **options)
        server.faults = Faults(rate=0, latency=0.5)
        command = [sys.executable, "-m", "imagemill", "retry", "--concurrency", "4", "--price", "1", "out"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while not server.in_flight:
            time.sleep(0.02)
        process.kill()
        process.wait()
        unknown = package.Dataset("out").unknown_outcome()
        assert 1 <= unknown.images <= 4
        assert unknown.cost == unknown.images
        assert imagemill("retry", "out").code == 0
        check(package.Dataset("out"), 12)


def test_a_budget_holds_in_a_retry_and_for_sizes_without_a_price(imagemill: Command) -> None:
    with serving(Faults(rate=1, kinds=("500",), text="number 1")) as server:
        options = {**SMALL, "max_retries": 0}
        package.generate(prompts(12), "out", model="openai:mock", base_url=server.url, **options)
        server.faults = Faults(rate=0)
        before = server.paid
        assert imagemill("retry", "out", "--max-cost", "0.001").code == 4
        assert imagemill("retry", "out", "--workers", 2).code == 2
        assert server.paid == before
        priced = {**SMALL, "price": ("512x512=1",), "max_cost": 0.5}
        with pytest.raises(package.LimitReached, match="nobody knows"):
            package.generate(prompts(3), "other", model="openai:mock", base_url=server.url, **priced)


def test_an_image_behind_a_broken_url_is_not_made_again() -> None:
    faults = Faults(rate=1, kinds=("503",), attempts=2, paths=("/files",), shape="url")
    with serving(faults) as server:
        dataset = package.generate(prompts(2), "out", model="openai:mock", base_url=server.url, **SMALL)
        check(dataset, 2)
        assert server.paid == 2


def test_batches_are_cut_to_the_budget_and_direct_calls_do_not_pass_over_them(imagemill: Command) -> None:
    with serving(Faults(rate=0)) as server:
        options = {**batch_options(server), "price": ("0.1",), "max_cost": 0.55}
        for done in (5, 10, 12):
            with suppress(package.LimitReached):
                package.generate(prompts(12), "out", **options)
            assert len(package.Dataset("out")) == done
        server.faults = Faults(rate=0, polls=10_000)
    with serving(Faults(rate=0, polls=10_000)) as server:
        Path("prompts.txt").write_text("\n".join(prompts(4)))
        arguments = [
            "generate", "prompts.txt", "-o", "open", "--seed", "1", "--model", "openai:mock", "--base-url", server.url,
            "--own-size", "64x64", "--takes", "size", "--batch-poll", "0.05",
        ]  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "imagemill", *arguments, "--batch-api"])
        while not server.batches.batches:
            time.sleep(0.02)
        time.sleep(0.3)
        process.kill()
        process.wait()
        refused = imagemill(*arguments)
        assert refused.code == 2
        assert "--batch-api" in refused.err
        assert server.paid == 0


def test_prompts_that_are_no_good_do_not_stop_those_after_them() -> None:
    with serving(Faults(rate=1, kinds=("500",), text="nothing")) as server:
        bad = ["x" * 40_000 + str(number) for number in range(6)]
        table = [*bad, *prompts(10)]
        for _ in range(3):
            try:
                package.generate(table, "out", model="openai:mock", base_url=server.url, seed=1, **SMALL)
            except package.ModelError:
                continue
        counts = package.Dataset("out").counts()
        assert (counts.pending, counts.done + sum(counts.failed.values())) == (0, 16)


def test_a_declared_rate_tells_the_time(imagemill: Command, prompts: Path) -> None:
    with serving(Faults(rate=0)) as server:
        plan = imagemill(
            "generate", prompts, "-o", "out", "--model", "openai:mock", "--base-url", server.url, "--own-size",
            "64x64", "--takes", "size", "--images-per-minute", 6, "--dry-run", "--json",
        ).json  # fmt: skip
    assert plan["seconds"] == pytest.approx(120)


def test_a_probe_of_hugging_faces_protocol_finds_the_seed(imagemill: Command) -> None:
    for takes_seed in (True, False):
        with serving(Faults(rate=0, takes_seed=takes_seed)) as server:
            address = f"{server.url}/models/x"
            probed = imagemill("models", "--base-url", address, "hf:x", "--probe", "--json").json
            assert ("seed" in probed["takes"]) is takes_seed


def test_generate_works_where_a_loop_is_running() -> None:
    async def cell() -> int:
        return len(package.generate(["a"], "out", model="openai:mock", base_url=server.url, own_size="64x64"))

    with serving(Faults(rate=0)) as server:
        assert asyncio.run(cell()) == 1


def test_files_of_our_own_server_are_in_order(imagemill: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving_models(("fake",)) as server:
        dataset = package.generate(prompts(3), "out", model="openai:fake", base_url=server.url)
    assert package.verify(dataset) == []


def test_an_imagemill_server_tells_what_it_honors_in_both_protocols(
    imagemill: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", KEY)
    near = package.generate(prompts(4), "near", model="fake", seed=7)
    with serving_models(("fake",)) as server:
        address = server.url.removesuffix("/v1") + "/models/fake"
        far = package.generate(prompts(4), "far", model="hf:fake", base_url=address, seed=7)
        told = imagemill("models", "openai:fake", "--probe", "--base-url", server.url, "--json").json
    assert "image" in told["takes"]
    assert [(r["seed"], r["width"]) for r in near] == [(r["seed"], r["width"]) for r in far]


def test_a_server_may_move(imagemill: Command) -> None:
    Path("prompts.txt").write_text("\n".join(prompts(8)))
    command = ["generate", "prompts.txt", "-o", "out", "--seed", 1, "--model", "openai:mock", "--own-size", "64x64"]
    for code in (4, 0):
        with serving(Faults(rate=0)) as server:
            more = ["--takes", "seed,size", "--base-url", server.url, "--max-images", 5]
            assert imagemill(*command, *more).code == code
    check(package.Dataset("out"), 8)


def test_what_could_not_be_reached_for_a_while_is_made_later() -> None:
    with serving(Faults(rate=0)) as server:
        model = find_model("openai:mock", {"base_url": server.url, **SMALL})
        assert isinstance(model, Remote)
        asked = [Request(row, 0, 1, str(row), f"picture number {row}", "", 7, 64, 64, 0, 0.0, "") for row in range(6)]
        failures = [CallFailed("unreachable", "no connection", again=True)]

        async def draw(client: Client, requests: Sequence[Request]) -> Sequence[Result | CallFailed]:
            if failures:
                raise failures.pop()
            return await model.draw(client, requests)

        results = list(
            stream(
                [(request,) for request in asked], model.client, draw, Settings(2, 0, None, None, None),
                name_of=lambda request: request.name, kind_of=lambda request: request.name, most=1,
                cost_of=lambda request: None, journal=None,
                refused=lambda request, failure: Result(request, reason=failure.reason, message=failure.message),
            )
        )  # fmt: skip
    assert [result.reason for result in results] == [None] * 6


def test_a_file_that_never_comes_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        model = Openai(model="m", base_url=url, timeout=0.3)
        with pytest.raises(CallFailed, match="the download broke"):
            run_once(model.client, lambda client: client.download(f"{url}/file", Path("file"), 1000))
