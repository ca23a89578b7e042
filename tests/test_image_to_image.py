"""Pictures to start from: pipelines make of them what diffusers' own make, at any size, whatever else is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from imagemill.errors import UsageError
from imagemill.models.base import Model, Result, find_model
from imagemill.models.diffusers import Pipeline, engine_of
from imagemill.models.diffusers.engine import Engine
from imagemill.models.diffusers.schedulers import SCHEDULERS
from imagemill.models.diffusers.sources import Sources, fitted
from imagemill.models.diffusers.traits import pictures_of
from imagemill.models.shapes_editor import ShapesEditor
from imagemill.plan import kind
from imagemill.records import Batch, Request

from . import pipelines
from .shapes_verifier import read_scene

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
diffusers = pytest.importorskip("diffusers", reason="the extra `local` is not installed")
pytest.importorskip("transformers", reason="the extra `local` is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

LOOPS = ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux", "flux_schnell"]
"""Those that draw from nothing as well."""
FORMS = ["from_image", "from_image_xl"]
"""The same in the form of a pipeline that starts from a picture."""


def of(*names: str) -> Any:
    return pytest.mark.parametrize("folder", names, indirect=True)


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.save(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(autouse=True)
def _no_noise_of_the_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    """Diffusers' own pipelines draw from what the VAE makes of a picture; here they take its mode, as we do."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


def loaded(folder: Path, **parameters: Any) -> Pipeline:
    found = find_model(str(folder), {"device": "cpu", "threads": 1, **parameters}).resolve({}, 1)
    assert isinstance(found, Pipeline)
    return found


def picture(path: Path, number: int = 0, size: tuple[int, int] = (32, 48)) -> str:
    """Save a picture with a slope, a disc and a bar, different for each number."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    image = Image.fromarray(np.stack([x * 6, y * 5, x + y + 80 * number], -1).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((4 + 2 * number, 6, 20, 24), fill=(240, 40 * number, 30))
    draw.rectangle((18, 20 + number, 28, 30), fill=(20, 200, 90 + number))
    path.mkdir(exist_ok=True)
    file = path / f"{number}-{size[0]}x{size[1]}.png"
    image.save(file)
    return str(file)


def asked(model: Model, images: Path, **changes: Any) -> tuple[Request, ...]:
    """Three requests with pictures of their own, different guidance and negative prompts where that is possible."""
    info = model.info()
    guidance = (4.0, 2.5 if info.per_row_guidance else 4.0, 4.0) if info.takes_guidance else (0.0,) * 3
    negative = ("", "blue", "") if info.takes_negative_prompt else ("",) * 3
    return tuple(
        replace(
            Request(
                row=k,
                image=0,
                part=1,
                id=str(k),
                prompt=f"picture {k}",
                negative_prompt=negative[k],
                seed=100 + k,
                width=32,
                height=48,
                num_inference_steps=4,
                guidance_scale=guidance[k],
                scheduler=info.scheduler,
                images=(picture(images, k),),
                strength=0.6 if info.strength is not None else 0.0,
            ),
            **changes,
        )
        for k in range(3)
    )


def made(model: Model, requests: tuple[Request, ...], size: int = 3) -> dict[str, Result]:
    results = list(model.make([Batch(requests, size)]))
    assert sorted(result.request.id for result in results) == sorted(request.id for request in requests)
    return {result.request.id: result for result in results}


def pixels(results: Mapping[str, Result]) -> dict[str, np.ndarray]:
    assert all(result.reason is None for result in results.values()), [result.message for result in results.values()]
    return {key: result.pixels for key, result in results.items() if result.pixels is not None}


def own(folder: Path) -> Any:
    """Diffusers' own pipeline that starts from a picture."""
    found = diffusers.DiffusionPipeline.from_pretrained(folder)
    if "text" in folder.name or folder.name in (*LOOPS, "pag"):
        found = diffusers.AutoPipelineForImage2Image.from_pipe(found)
    found.set_progress_bar_config(disable=True)
    return found


def by_itself(pipeline: Any, request: Request, **more: Any) -> np.ndarray:
    """What a pipeline makes of a request when it is called like anybody calls it."""
    told = {
        "prompt": request.prompt,
        "image": Image.open(request.images[0]),
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "generator": torch.Generator().manual_seed(request.seed),
        "output_type": "np",
        **({"negative_prompt": request.negative_prompt} if request.negative_prompt else {}),
        **({"strength": request.strength} if request.strength else {}),
        **more,
    }
    image: np.ndarray = pipeline(**told).images[0]
    return (image * 255).round().astype(int)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and int(np.abs(one.astype(int) - other.astype(int)).max()) <= 1


# The loops of our own


@of(*LOOPS, *FORMS)
@pytest.mark.parametrize("strength", [0.3, 0.6, 0.99])
def test_it_makes_what_the_pipeline_itself_makes(folder: Path, tmp_path: Path, strength: float) -> None:
    model = loaded(folder)
    requests = asked(model, tmp_path, strength=strength)
    found, pipeline = pixels(made(model, requests, 4)), own(folder)
    sized = {"width": 32, "height": 48} if "flux" in folder.name or folder.name == "stable_diffusion_3" else {}
    for request in requests:
        assert same(found[request.id], by_itself(pipeline, request, **sized))


class Orderly:
    """Linear multistep, whose own call looks back at steps that have not been made."""

    def __init__(self, step: Any) -> None:
        self._step, self._made = step, 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self._made += 1
        return self._step(*arguments, order=min(4, self._made), **named)


@of("stable_diffusion")
@pytest.mark.parametrize("strength", [0.5, 0.8])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_can_begin_later(folder: Path, tmp_path: Path, name: str, strength: float) -> None:
    model = loaded(folder)
    requests = asked(model, tmp_path, scheduler=name, num_inference_steps=10, strength=strength)
    found, pipeline = pixels(made(model, requests)), own(folder)
    class_name, options = SCHEDULERS[name]
    pipeline.scheduler = getattr(diffusers, class_name).from_config(pipeline.scheduler.config, **options)
    if name == "lms":
        pipeline.scheduler.step = Orderly(pipeline.scheduler.step)
    assert same(found["1"], by_itself(pipeline, requests[1]))
    # What a scheduler remembers of one batch does not reach the next.
    assert np.array_equal(pixels(made(model, requests))["1"], found["1"])


@of(*LOOPS, *FORMS)
def test_all_of_the_strength_draws_as_if_there_were_no_picture(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder)
    requests = asked(model, tmp_path, strength=1.0)
    found = pixels(made(model, requests))
    nothing = pixels(made(model, tuple(replace(request, images=(), strength=0.0) for request in requests)))
    assert all(np.array_equal(found[key], nothing[key]) for key in nothing)


@of(*LOOPS)
def test_none_of_the_strength_gives_the_picture_through_the_vae(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder)
    requests = asked(model, tmp_path, strength=0.0)
    found = pixels(made(model, requests))
    vae = engine_of(model).pipeline.vae
    with torch.inference_mode():
        source = torch.from_numpy(np.array(Image.open(requests[0].images[0]))).permute(2, 0, 1)[None] / 255
        back = vae.decode(vae.encode(source * 2 - 1).latent_dist.mode()).sample[0] / 2 + 0.5
    assert same(found["0"], back.clamp(0, 1).mul(255).round().permute(1, 2, 0).numpy())


@of("stable_diffusion_xl")
def test_latents_of_a_known_distribution_are_brought_to_it(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "model"
    link.symlink_to(folder)
    model = loaded(link)
    plain = pixels(made(model, asked(model, tmp_path / "pictures", strength=0.0)))
    there = pixels(made(model, asked(model, tmp_path / "pictures", strength=0.5)))
    told = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.8, 1.1, 0.9, 1.2]}
    engine_of(model).pipeline.vae.register_to_config(**told)
    back = pixels(made(model, asked(model, tmp_path / "pictures", strength=0.0)))
    assert same(back["0"], plain["0"])
    pipeline = own(folder)
    pipeline.vae.register_to_config(**told)
    request = asked(model, tmp_path / "pictures", strength=0.5)[0]
    found = pixels(made(model, (request,)))["0"]
    assert same(found, by_itself(diffusers.AutoPipelineForImage2Image.from_pipe(pipeline), request))
    assert not np.array_equal(found, there["0"])


# Instructions


@of("instruct")
@pytest.mark.parametrize("strong", [1.5, 3.0])
def test_instructions_are_followed_as_the_pipeline_itself_does(folder: Path, tmp_path: Path, strong: float) -> None:
    model = loaded(folder, image_guidance_scale=strong)
    requests = asked(model, tmp_path)
    found, pipeline = pixels(made(model, requests, 4)), own(folder)
    for request in requests:
        assert same(found[request.id], by_itself(pipeline, request, image_guidance_scale=strong))
    without = replace(requests[0], guidance_scale=1.0)
    assert same(pixels(made(model, (without,)))["0"], by_itself(pipeline, without, image_guidance_scale=strong))


@of("instruct")
@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m_sde"])
def test_instructions_are_followed_with_other_schedulers(folder: Path, tmp_path: Path, name: str) -> None:
    model = loaded(folder)
    request = asked(model, tmp_path, scheduler=name)[1]
    pipeline = own(folder)
    class_name, options = SCHEDULERS[name]
    pipeline.scheduler = getattr(diffusers, class_name).from_config(pipeline.scheduler.config, **options)
    assert same(pixels(made(model, (request,)))["1"], by_itself(pipeline, request))


# Pipelines through their own call


@of("instruct_xl", "refiner", "kontext", "pag", "inpaint")
def test_any_other_pipeline_gets_what_it_takes(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder)
    requests = asked(model, tmp_path)
    told: dict[str, Any] = {}
    if folder.name == "inpaint":
        area = Image.new("L", (32, 48))
        area.paste(255, (8, 8, 24, 40))
        area.save(tmp_path / "mask.png")
        requests = tuple(replace(request, mask=str(tmp_path / "mask.png")) for request in requests)
        told = {"mask_image": area, "width": 32, "height": 48}
    elif folder.name == "kontext":
        told = {"width": 32, "height": 48, "max_area": 32 * 48, "_auto_resize": False}
    elif folder.name == "instruct_xl":
        told = {"width": 32, "height": 48}
    found, pipeline = pixels(made(model, requests)), own(folder)
    for request in requests:
        assert same(found[request.id], by_itself(pipeline, request, **told))


@of("kontext", "pag")
def test_what_needs_no_picture_draws_without_one_too(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder)
    requests = tuple(replace(request, images=(), strength=0.0) for request in asked(model, tmp_path))
    before = pixels(made(model, requests))
    made(model, asked(model, tmp_path))
    after = pixels(made(model, requests))
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert before["0"].shape == (48, 32, 3)


@of("pag")
def test_what_fills_up_a_batch_is_not_drawn(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder)
    calls: list[int] = []
    hook = engine_of(model).pipeline.vae.decoder.register_forward_hook(lambda *_: calls.append(1))
    made(model, asked(model, tmp_path)[:1], 8)
    hook.remove()
    assert len(calls) == 1


TAKEN = {
    "FluxKontextPipeline": (1, False, False, None),
    "Flux2Pipeline": (16, False, False, None),
    "FluxFillPipeline": (1, True, True, 1.0),
    "FluxInpaintPipeline": (1, True, True, 0.6),
    "QwenImagePipeline": (1, False, False, 0.6),
    "QwenImageEditPipeline": (1, True, False, None),
    "QwenImageEditPlusPipeline": (16, True, False, None),
    "StableDiffusionXLInpaintPipeline": (1, True, True, 0.9999),
    "StableDiffusionXLControlNetPipeline": (1, True, False, None),
    "PixArtSigmaPipeline": (0, False, False, None),
    "LatentConsistencyModelPipeline": (1, False, False, 0.8),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_a_pipeline_takes_of_pictures_is_read_from_its_call(name: str) -> None:
    found = pictures_of(getattr(diffusers, name))
    assert (found.most_images, found.needs_images, found.needs_mask, found.strength) == TAKEN[name]


@of("from_image", "instruct", "inpaint", "kontext", "stable_diffusion")
def test_what_a_model_takes_of_pictures_is_known_before_it_is_loaded(folder: Path) -> None:
    info = loaded(folder).info()
    assert (info.most_images, info.needs_images, info.takes_mask, info.needs_mask, info.strength) == {
        "from_image": (1, False, False, False, 0.8),
        "stable_diffusion": (1, False, False, False, 0.8),
        "instruct": (1, True, False, False, None),
        "inpaint": (1, True, True, True, 1.0),
        "kontext": (1, False, False, False, None),
    }[folder.name]
    assert info.batch_size == (1 if folder.name == "inpaint" else 8)
    # Where it has two, the other one is off.
    assert folder.name != "kontext" or (info.guidance_scale, info.takes_negative_prompt) == (3.5, False)


# What else is in a batch


@of(*LOOPS, "instruct", "inpaint", "pag")
def test_neighbors_change_no_bit(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder)
    requests = asked(model, tmp_path)
    if folder.name == "inpaint":
        requests = tuple(replace(request, mask=requests[0].images[0]) for request in requests)
    if not model.info().per_row_guidance:
        requests = tuple(replace(request, negative_prompt="") for request in requests)
    together = pixels(made(model, requests[::-1]))
    for request in requests:
        assert np.array_equal(pixels(made(model, (request,)))[request.id], together[request.id])
    # One of them has another picture.
    other = replace(requests[1], images=requests[0].images)
    changed = pixels(made(model, (requests[0], other, requests[2])))
    assert np.array_equal(changed["0"], together["0"])
    assert np.array_equal(changed["2"], together["2"])
    assert not np.array_equal(changed["1"], together["1"])


@of("stable_diffusion", "instruct")
def test_every_picture_is_encoded_once(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder)
    requests = asked(model, tmp_path)
    seen: list[int] = []
    hook = engine_of(model).pipeline.vae.encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    made(model, (requests[0], requests[1], replace(requests[2], images=requests[0].images)), 8)
    hook.remove()
    assert seen == [1, 1]


def test_requests_that_begin_elsewhere_share_no_pass() -> None:
    request = Request(0, 0, 1, "0", "a cat", "", 1, 64, 64, 4, 4.0, "ddim")
    with_picture = replace(request, images=("a.png",), strength=0.5)
    others = [
        request,
        with_picture,
        replace(with_picture, strength=0.6),
        replace(with_picture, images=("a.png", "b.png")),
        replace(with_picture, mask="m.png"),
    ]
    assert len({kind(other, per_row_guidance=True) for other in others}) == len(others)
    assert kind(with_picture, True) == kind(replace(with_picture, images=("b.png",), prompt="a dog", seed=2), True)


# Sizes


@of("stable_diffusion", "stable_diffusion_3", "flux", "instruct", "kontext", "pag")
@pytest.mark.parametrize("size", [(50, 37), (77, 43), (64, 40)])
def test_a_picture_of_any_size_keeps_it(folder: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    model = loaded(folder)
    requests = tuple(
        replace(request, width=size[0], height=size[1], images=(picture(tmp_path, k, size),))
        for k, request in enumerate(asked(model, tmp_path))
    )
    found = pixels(made(model, requests))
    assert {image.shape for image in found.values()} == {(size[1], size[0], 3)}
    # The same as of a picture whose edge goes on to the next size that can be drawn.
    room = tuple(-(-side // 8) * 8 for side in size)
    whole = tmp_path / "whole.png"
    fitted(Image.open(requests[1].images[0]), size, room).save(whole)
    wide = replace(requests[1], width=room[0], height=room[1], images=(str(whole),))
    assert np.array_equal(pixels(made(model, (wide,)))["1"][: size[1], : size[0]], found["1"])


@of("stable_diffusion")
def test_a_wide_picture_stays_one(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder)
    images = (picture(tmp_path, 1, (384, 216)),)
    request = replace(asked(model, tmp_path)[0], width=384, height=216, images=images, num_inference_steps=2)
    assert pixels(made(model, (request,), 1))["0"].shape == (216, 384, 3)


def test_a_picture_is_resized_and_its_edge_goes_on(tmp_path: Path) -> None:
    request = Request(0, 0, 1, "0", "", "", 1, 20, 10, 1, 0.0, "", images=(picture(tmp_path, 1, (40, 20)),))
    mask = tmp_path / "mask.png"
    Image.new("RGBA", (40, 20), (1, 2, 3, 0)).save(mask)
    sources = Sources()
    sources.open(replace(request, mask=str(mask)), (24, 16), whole=False)
    found = np.asarray(sources.images[request.images[0]])
    assert found.shape == (16, 24, 3)
    expected = Image.open(request.images[0]).resize((20, 10), Image.Resampling.LANCZOS)
    assert np.array_equal(found[:10, :20], np.asarray(expected))
    assert (found[:10, 20:] == found[:10, 19:20]).all()
    assert (found[10:] == found[9]).all()
    assert sources.masks[str(mask)].size == (24, 16)
    assert sources.masks[str(mask)].getextrema() == (255, 255)
    whole = Sources()
    whole.open(request, (24, 16), whole=True)
    assert whole.images[request.images[0]].size == (40, 20)


# What goes wrong


@of("stable_diffusion", "instruct", "inpaint")
def test_a_damaged_picture_fails_alone(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder)
    requests = asked(model, tmp_path)
    if folder.name == "inpaint":
        requests = tuple(replace(request, mask=requests[0].images[0]) for request in requests)
    whole = pixels(made(model, requests))
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(Path(requests[1].images[0]).read_bytes()[:-30])
    for path, said in ((damaged, "not a whole"), (tmp_path / "absent.png", "No such file")):
        results = made(model, (requests[0], replace(requests[1], images=(str(path),)), requests[2]))
        assert results["1"].reason == "bad_image"
        assert f"the picture `{path.name}` cannot be opened: " in results["1"].message
        assert said in results["1"].message
        assert np.array_equal(results["0"].pixels, whole["0"])
        assert np.array_equal(results["2"].pixels, whole["2"])
    absent = tuple(replace(request, images=("absent.png",)) for request in requests)
    assert {result.reason for result in made(model, absent).values()} == {"bad_image"}


@of("instruct", "inpaint")
def test_an_editor_without_a_picture_says_so(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder)
    requests = asked(model, tmp_path)
    results = made(model, (replace(requests[0], images=(), mask=""), *requests[1:]))
    assert results["0"].reason == "bad_request"
    assert "without a picture to start from" in results["0"].message
    if folder.name == "inpaint":
        assert {results[key].reason for key in "12"} == {"bad_request"}
        assert "without a mask" in results["1"].message
    else:
        pixels({key: results[key] for key in "12"})


@of("instruct")
def test_a_batch_that_does_not_fit_into_memory_is_halved(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "model"
    link.symlink_to(folder)
    model = loaded(link)
    requests = asked(model, tmp_path / "pictures")
    whole = pixels(made(model, requests, 1))

    def little_memory(_: Any, given: Any) -> None:
        if len(given[0]) // 3 > 1:
            raise torch.OutOfMemoryError("no room")

    engine_of(model).pipeline.unet.register_forward_pre_hook(little_memory)
    found = pixels(made(model, requests, 4))
    assert all(np.array_equal(found[key], whole[key]) for key in whole)


@of("stable_diffusion")
def test_a_faulty_picture_is_drawn_again_from_its_source(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "model"
    link.symlink_to(folder)
    model = loaded(link)
    request = asked(model, tmp_path / "pictures")[0]
    left = [1]

    def breaks(_: Any, __: Any, pictures: Any) -> Any:
        left[0] -= 1
        return pictures * float("nan") if left[0] >= 0 else pictures

    engine_of(model).pipeline.vae.decoder.register_forward_hook(breaks)
    result = made(model, (request,))["0"]
    assert (result.reason, result.columns["redrawn"]) == (None, 1)
    again = made(model, (replace(request, seed=result.request.seed),))["0"]
    assert np.array_equal(result.pixels, again.pixels)


@of("inpaint")
def test_the_safety_checker_of_a_call_does_not_blacken(folder: Path) -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.safety_checker = torch.nn.Linear(1, 1)
    engine = Engine(pipeline, exact=True, safety_retries=0, image_guidance_scale=1.5)
    assert isinstance(engine.checker, torch.nn.Linear)
    assert pipeline.safety_checker is None


# Measuring


@of("instruct", "inpaint", "instruct_xl")
def test_an_editor_is_measured_with_pictures_of_no_file(folder: Path) -> None:
    model = loaded(folder)
    sizes: list[int] = []
    denoiser = engine_of(model).pipeline.unet
    hook = denoiser.register_forward_pre_hook(lambda _, given, named: sizes.append(len(given[0])), with_kwargs=True)
    measured = model.measure({(32, 32): 3, (50, 37): 1}, {})
    hook.remove()
    assert measured.reproducibility == "batch_shape_exact"
    assert measured.batch_sizes[50, 37] == 1
    if folder.name != "instruct":
        assert measured.batch_sizes[32, 32] == 1
        # Guided, so twice or three times one.
        assert max(sizes) <= 3


# The built-in models


WISH = Request(0, 0, 1, "0", "a red circle on a white background", "", 42, 64, 64, 20, 3.0, "ddim")


def drawn(path: Path, *prompts: str) -> list[str]:
    """Files of pictures that the built-in model draws."""
    painter = find_model("shapes", {"threads": 1}).resolve({}, 1)
    requests = tuple(replace(WISH, id=str(k), prompt=prompt, seed=42 + k) for k, prompt in enumerate(prompts))
    files = []
    for key, image in sorted(pixels(made(painter, requests, len(requests))).items()):
        Image.fromarray(image).save(path / f"{key}.png")
        files.append(str(path / f"{key}.png"))
    return files


def seen(image: np.ndarray) -> tuple[str, list[tuple[str, str]]]:
    """Background, and shape and color of the objects."""
    scene = read_scene(image)
    return scene.background, [(found.shape, found.color) for found in scene.objects]


@pytest.mark.parametrize("scheduler", ["ddim", "lms"])
def test_the_painter_keeps_a_scene_or_follows_the_prompt(tmp_path: Path, scheduler: str) -> None:
    painter = find_model("shapes", {"threads": 1}).resolve({}, 1)
    assert (painter.info().most_images, painter.info().strength) == (1, 0.8)
    (source,) = drawn(tmp_path, WISH.prompt)
    other = replace(WISH, prompt="a red star on a white background", images=(source,), scheduler=scheduler)
    for strength, shape in ((0.2, "circle"), (1.0, "star")):
        requests = tuple(replace(other, id=str(k), seed=k, strength=strength) for k in range(6))
        found = [seen(image) for image in pixels(made(painter, requests, 6)).values()]
        assert sum(scene == ("white", [(shape, "red")]) for scene in found) >= 5, (strength, found)


def test_the_editor_follows_instructions(tmp_path: Path) -> None:
    editor = ShapesEditor(threads=1)
    try:
        info = editor.info()
    except UsageError as error:
        pytest.skip(error.message)
    assert (info.name, info.num_inference_steps, info.guidance_scale, info.batch_size) == ("shapes_editor", 20, 1.5, 32)
    assert (info.most_images, info.needs_images, info.strength) == (1, True, None)
    told = {
        "make the circle blue": (WISH.prompt, ("white", [("circle", "blue")])),
        "make the background pink": ("a blue star on a yellow background", ("pink", [("star", "blue")])),
        "replace the circle with a square": ("a red circle on a black background", ("black", [("square", "red")])),
    }
    files = drawn(tmp_path, *(before for before, _ in told.values()))
    requests = tuple(
        replace(WISH, id=str(k), prompt=text, images=(files[k],), guidance_scale=2.0) for k, text in enumerate(told)
    )
    found = pixels(made(editor.resolve({}, 1), requests, 3))
    right = sum(seen(found[str(k)]) == after for k, (_, after) in enumerate(told.values()))
    assert right >= 2, [seen(image) for image in found.values()]


def test_an_installation_without_the_editor_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("imagemill.models.shapes_editor.__file__", str(tmp_path / "models" / "shapes_editor.py"))
    with pytest.raises(UsageError, match="the weights of the built-in editor are not in this installation") as caught:
        find_model("shapes_editor", {}).info()
    assert caught.value.hint


@of("instruct")
def test_the_editor_has_settings_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShapesEditor, "folder", lambda _, weights=True: folder)
    editor = ShapesEditor(device="cpu", threads=1).resolve({}, 1)
    info = editor.info()
    assert (info.name, info.num_inference_steps, info.guidance_scale, info.batch_size) == ("shapes_editor", 20, 1.5, 32)
    assert editor.measure({(32, 32): 40}, {}).batch_sizes == {(32, 32): 20}
