"""Each family of pipelines draws what diffusers' own loop draws, and says what it does not take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagemill.dataset import Dataset
from imagemill.models.base import Model, find_model
from imagemill.models.diffusers import Pipeline, engine_of
from imagemill.models.diffusers.schedulers import SCHEDULERS
from imagemill.records import Batch, Request

from . import pipelines
from .conftest import Command

pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("diffusers", reason="the extra `local` is not installed")
pytest.importorskip("transformers", reason="the extra `local` is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

every_family = pytest.mark.parametrize("folder", pipelines.PIPELINES, indirect=True)


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.save(request.param, tmp_path_factory.mktemp("models") / request.param)


def loaded(folder: Path, **parameters: Any) -> Model:
    return find_model(str(folder), {"device": "cpu", "threads": 1, **parameters}).resolve({}, 1)


def asked(model: Model, mixed: bool = True) -> tuple[Request, ...]:
    info = model.info()
    guidance = (4.0, 2.5 if info.per_row_guidance and mixed else 4.0, 4.0) if info.takes_guidance else (0.0,) * 3
    negative = ("", "blue", "") if info.takes_negative_prompt else ("",) * 3
    return tuple(
        Request(k, 0, 1, str(k), f"picture {k}", negative[k], 100 + k, 32, 48, 3, guidance[k], info.scheduler)
        for k in range(3)
    )


@every_family
def test_it_draws_what_the_pipeline_itself_draws(folder: Path) -> None:
    import torch
    from diffusers import DiffusionPipeline

    model = loaded(folder)
    info = model.info()
    results = {result.request.id: result for result in model.make([Batch(asked(model), 4)])}
    own: Any = DiffusionPipeline.from_pretrained(folder)
    own.set_progress_bar_config(disable=True)
    for request in asked(model):
        told: dict[str, Any] = {"guidance_scale": request.guidance_scale} if info.takes_guidance else {}
        told |= {"negative_prompt": request.negative_prompt} if request.negative_prompt else {}
        told |= {"use_resolution_binning": False} if folder.name == "pixart" else {}
        image = own(
            request.prompt,
            width=request.width,
            height=request.height,
            num_inference_steps=request.num_inference_steps,
            generator=torch.Generator().manual_seed(request.seed),
            output_type="np",
            **told,
        ).images[0]
        pixels = results[request.id].pixels
        assert pixels is not None, results[request.id].message
        assert np.abs(pixels.astype(int) - (image * 255).round().astype(int)).max() <= 1


@every_family
def test_a_row_depends_on_its_batch_only_through_its_size(folder: Path) -> None:
    model = loaded(folder)
    requests = asked(model)
    parts = [Batch(requests[:1], 3), Batch(requests[1:], 3)]
    if not model.info().per_row_guidance:
        parts = [Batch((request,), 3) for request in requests]
        requests = asked(model, mixed=False)
    together = {result.request.id: result.pixels for result in model.make([Batch(requests[::-1], 3)])}
    for result in model.make(parts):
        assert np.array_equal(result.pixels, together[result.request.id])


@every_family
def test_what_it_does_not_take_is_said_and_stands_in_no_record(
    imagemill: Command, folder: Path, tmp_path: Path
) -> None:
    info = loaded(folder).info()
    table = tmp_path / "prompts.csv"
    table.write_text("prompt,negative_prompt\na cat,dogs\na dog,\n")
    ran = imagemill(
        *("generate", table, "-o", "out", "--model", folder, "--width", 32, "--height", 32, "--device", "cpu"),
        *("--num-inference-steps", 2, "--guidance-scale", 3, "--seed", 1, "--batch-size", 2, "--threads", 1),
    )
    assert ran.code == 0, ran.err
    assert ("takes no `negative_prompt`" in ran.err) is not info.takes_negative_prompt
    assert ("takes no `guidance_scale`" in ran.err) is not info.takes_guidance
    first, second = Dataset("out")
    assert first["negative_prompt"] == ("dogs" if info.takes_negative_prompt else "")
    assert first["guidance_scale"] == second["guidance_scale"] == (3.0 if info.takes_guidance else 0.0)
    assert json.loads(first["model_parameters"])["dtype"] == "float32"
    assert "bit-exact" in imagemill("reproduce", "out", "prompt_1_image_0").out


@every_family
def test_every_text_is_encoded_once(folder: Path) -> None:
    if folder.name == "pixart":
        pytest.skip("a general pipeline encodes as it likes")
    model = loaded(folder)
    assert isinstance(model, Pipeline)
    engine = engine_of(model)
    words = [("one", "red"), ("two", "red"), ("one", ""), ("one", "green"), ("three", "")]
    first = asked(model)[0]
    requests = [
        replace(first, image=k, prompt=f"{folder.name} {prompt}", negative_prompt=negative and f"no {negative}")
        for k, (prompt, negative) in enumerate(words)
    ]
    before, known = engine.texts.encoded, {""} if engine.texts.encoded else set()
    assert len(list(model.make([Batch(tuple(requests[:3]), 3), Batch(tuple(requests[3:]), 3)]))) == 5
    texts = {request.prompt for request in requests}
    if model.info().takes_negative_prompt:
        texts |= {request.negative_prompt for request in requests}
    assert engine.texts.encoded - before == len(texts - known)


@pytest.mark.parametrize("folder", ["stable_diffusion"], indirect=True)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_draws_what_it_draws_in_the_pipeline(folder: Path, name: str) -> None:
    import diffusers
    import torch

    model = loaded(folder)
    requests = tuple(replace(request, scheduler=name, num_inference_steps=4) for request in asked(model))
    results = {result.request.id: result for result in model.make([Batch(requests, 3)])}
    own: Any = diffusers.DiffusionPipeline.from_pretrained(folder)
    own.set_progress_bar_config(disable=True)
    class_name, options = SCHEDULERS[name]
    own.scheduler = getattr(diffusers, class_name).from_config(own.scheduler.config, **options)
    request = requests[1]
    image = own(
        request.prompt,
        negative_prompt=request.negative_prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=4,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    ).images[0]
    pixels = results["1"].pixels
    assert pixels is not None, results["1"].message
    assert np.abs(pixels.astype(int) - (image * 255).round().astype(int)).max() <= 1
