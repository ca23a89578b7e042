"""What goes wrong while a pipeline draws ends as a result: memory, faulty pictures, the model's own safety checker."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagemill.models.base import Model, Result, find_model
from imagemill.models.diffusers import Pipeline, engine_of
from imagemill.records import Batch, Request

from . import pipelines

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("diffusers", reason="the extra `local` is not installed")
pytest.importorskip("transformers", reason="the extra `local` is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.save("stable_diffusion", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Pipeline:
    """A pipeline of its own, so that a test may break it."""
    link = tmp_path / "model"
    link.symlink_to(folder)
    found = find_model(str(link), {"device": "cpu", "threads": 1}).resolve({}, 1)
    assert isinstance(found, Pipeline)
    return found


def asked(count: int) -> tuple[Request, ...]:
    return tuple(Request(k, 0, 1, str(k), f"picture {k}", "", 100 + k, 32, 32, 2, 4.0, "ddim") for k in range(count))


def made(model: Model, requests: tuple[Request, ...], size: int) -> dict[str, Result]:
    results = list(model.make([Batch(requests, size)]))
    assert sorted(result.request.id for result in results) == sorted(request.id for request in requests)
    return {result.request.id: result for result in results}


def before_each_step(model: Pipeline, hook: Callable[[Any], None]) -> None:
    """Call `hook` with the latents whenever the UNet is asked."""
    engine_of(model).pipeline.unet.register_forward_pre_hook(lambda _, arguments: hook(arguments[0]))


def test_a_batch_that_does_not_fit_into_memory_is_halved_and_records_say_so(model: Pipeline) -> None:
    whole = made(model, asked(8), 2)
    tried: list[int] = []

    def little_memory(latents: Any) -> None:
        tried.append(len(latents) // 2)
        if len(latents) // 2 > 2:
            raise torch.OutOfMemoryError("no room")

    before_each_step(model, little_memory)
    results = made(model, asked(8), 8)
    assert all(result.reason is None for result in results.values())
    assert {result.batch_size for result in results.values()} == {2}
    assert all(np.array_equal(results[key].pixels, whole[key].pixels) for key in whole)
    tried.clear()
    made(model, asked(8), 8)
    assert max(tried) == 2, "what has been learned stays"


def test_what_fits_nowhere_fails_alone(model: Pipeline) -> None:
    def no_memory(_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    before_each_step(model, no_memory)
    results = made(model, asked(3), 4)
    assert {result.reason for result in results.values()} == {"oom"}


def test_a_request_that_fails_otherwise_leaves_its_neighbors(model: Pipeline) -> None:
    whole = made(model, asked(3), 3)
    noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(101))

    def dislikes_one(latents: Any) -> None:
        if any(torch.equal(row, noise[0]) for row in latents):
            raise ValueError("that one again")

    before_each_step(model, dislikes_one)
    results = made(model, asked(3), 3)
    assert (results["1"].reason, results["1"].message) == ("model_error", "ValueError: that one again")
    assert all(np.array_equal(results[key].pixels, whole[key].pixels) for key in ("0", "2"))


def broken_decoder(model: Pipeline, value: Any, times: int) -> None:
    """Let the first picture of a decoded batch have one value only, so many times."""
    left = [times]

    def breaks(_: Any, __: Any, pictures: Any) -> Any:
        if left[0]:
            left[0] -= 1
            pictures = pictures.clone()
            pictures[0] = value
        return pictures

    engine_of(model).pipeline.vae.decoder.register_forward_hook(breaks)


RED = torch.tensor([1.0, -1.0, -1.0])[:, None, None]


@pytest.mark.parametrize(
    ("value", "reason"), [(float("nan"), "nan_image"), (-1.0, "black_image"), (RED, "black_image")]
)
def test_a_faulty_picture_is_drawn_once_more_and_never_kept(model: Pipeline, value: Any, reason: str) -> None:
    whole = made(model, asked(3), 3)
    broken_decoder(model, value, 1)
    results = made(model, asked(3), 3)
    assert results["0"].reason is None
    assert results["0"].columns["redrawn"] == 1
    assert results["0"].request.seed != 100
    assert all(results[key].columns["redrawn"] == 0 for key in ("1", "2"))
    assert all(np.array_equal(results[key].pixels, whole[key].pixels) for key in ("1", "2"))
    again = made(model, (replace(asked(1)[0], seed=results["0"].request.seed),), 3)
    assert np.array_equal(again["0"].pixels, results["0"].pixels), "the record's seed makes the picture"
    broken_decoder(model, value, -1)
    assert (made(model, asked(1), 1)["0"].reason) == reason


def test_a_picture_that_fails_when_it_is_drawn_again_fails_alone(model: Pipeline) -> None:
    broken_decoder(model, float("nan"), 1)
    calls: list[int] = []

    def fails_later(latents: Any) -> None:
        calls.append(len(latents))
        if len(calls) > 2:
            raise ValueError("not a second time")

    before_each_step(model, fails_later)
    results = made(model, asked(3), 3)
    assert [results[key].reason for key in "012"] == ["model_error", None, None]


def test_memory_that_ends_while_measuring_ends_no_run(model: Pipeline) -> None:
    def little_memory(latents: Any) -> None:
        if len(latents) // 2 > 2:
            raise torch.OutOfMemoryError("no room")

    before_each_step(model, little_memory)
    assert model.measure({(32, 32): 64}, {}).batch_sizes[32, 32] <= 2
    assert model.measure({(32, 32): 64}, {(32, 32): 16}).batch_sizes == {(32, 32): 16}
    assert {result.batch_size for result in made(model, asked(8), 8).values()} == {2}


def test_what_a_failed_pass_held_is_let_go_before_the_next(model: Pipeline) -> None:
    alive: list[Any] = []
    most = 0

    def counts(latents: Any) -> None:
        nonlocal most
        alive.append(weakref.ref(latents))
        most = max(most, sum(reference() is not None for reference in alive))
        raise torch.OutOfMemoryError("no room")

    before_each_step(model, counts)
    made(model, asked(8), 8)
    assert most == 1


def add_checker(model: Pipeline, weight: float) -> Any:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(
        text_config=tower, vision_config={**tower, "image_size": 30, "patch_size": 10}, projection_dim=8
    )
    checker = StableDiffusionSafetyChecker(config).eval()
    checker.concept_embeds_weights.data.fill_(weight)
    checker.special_care_embeds_weights.data.fill_(2.0)
    engine = engine_of(model)
    engine.pipeline.feature_extractor = CLIPImageProcessor(
        size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}
    )
    engine.checker = checker
    return checker


def test_the_safety_checker_lets_pass_or_blocks_after_its_retries(folder: Path, model: Pipeline) -> None:
    checker = add_checker(model, 2.0)
    assert all(result.columns["redrawn"] == 0 for result in made(model, asked(2), 2).values())
    checker.concept_embeds_weights.data.fill_(-2.0)
    looked: list[int] = []
    checker.register_forward_pre_hook(lambda _, __, named: looked.append(len(named["images"])), with_kwargs=True)
    results = made(model, asked(2), 2)
    assert {result.reason for result in results.values()} == {"blocked"}
    assert looked == [2, 2, 2], "padded like the batch, and both drawn again together"
    assert "3 times" in results["0"].message
    assert all(result.pixels is None for result in results.values())


def test_a_blocked_seed_is_replaced_by_another(model: Pipeline) -> None:
    checker = add_checker(model, -2.0)

    def relents(_: Any, __: Any, ___: Any) -> None:
        checker.concept_embeds_weights.data.fill_(2.0)

    checker.register_forward_hook(relents)
    results = made(model, asked(2), 2)
    assert [result.columns["redrawn"] for result in results.values()] == [1, 1]
    assert len({result.request.seed for result in results.values()} - {100, 101}) == 2


def test_tokens_that_are_not_read_are_counted(model: Pipeline) -> None:
    long = replace(asked(1)[0], prompt="x" * 100)
    assert made(model, (long,), 1)["0"].columns["dropped_tokens"] == 100 + 2 - 24


def test_a_measured_batch_is_no_larger_than_the_job(model: Pipeline) -> None:
    measured = model.measure({(32, 32): 3, (48, 32): 1}, {})
    assert measured.batch_sizes[32, 32] in (1, 2)
    assert measured.batch_sizes[48, 32] == 1
    assert measured.reproducibility == "batch_shape_exact"
    assert measured.environment["device_name"]
    assert measured.environment["attention"]
    assert model.measure({(32, 32): 3}, {(32, 32): 7}).batch_sizes == {(32, 32): 7}
