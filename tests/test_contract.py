"""What holds for every component of the registry, also for one that nobody has written a test for."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
from PIL import Image

from imagemill.cli import run
from imagemill.component import Component, component_names, find_component
from imagemill.environment import package_version
from imagemill.errors import ImagemillError
from imagemill.executors.base import Executor, Sink
from imagemill.executors.local import Local
from imagemill.images import decode
from imagemill.models.base import Model, Question, Result, TextModel
from imagemill.operators.generate import Generate
from imagemill.records import Batch, FailureReason, Request

from . import pipelines, text_models
from .faults.server import Faults, serving

if TYPE_CHECKING:
    from imagemill.images import Pixels

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

KINDS = ("models", "executors", "operators", "scorers", "layouts")
COMPONENTS = [(kind, name) for kind in KINDS for name in component_names(kind)]
MODELS = [name for name in component_names("models") if issubclass(find_component("models", name), Model)]
TEXT_MODELS = [name for name in component_names("models") if issubclass(find_component("models", name), TextModel)]
PLAIN = {"string": "x", "integer": 1, "number": 1.0, "boolean": True, "array": []}
every_component = pytest.mark.parametrize(("kind", "name"), COMPONENTS)
every_model = pytest.mark.parametrize("name", MODELS)
every_text_model = pytest.mark.parametrize("name", TEXT_MODELS)


def made(found: type[Component]) -> Component:
    """One of a class, with something plain for what it demands."""
    demanded = [name for name, field in found.model_fields.items() if field.is_required()]
    types = {parameter.name: parameter.type for parameter in found.parameters()}
    return found.parse({name: PLAIN[types[name]] for name in demanded})


@every_component
def test_it_is_named_like_its_class_and_described(kind: str, name: str) -> None:
    found = find_component(kind, name)
    assert found.component_name() == name
    first = (found.__doc__ or "").partition("\n")[0]
    assert first.endswith(".")
    assert len(first) > 20
    assert first != (Component.__doc__ or "").partition("\n")[0]


@every_component
def test_every_parameter_has_help(kind: str, name: str) -> None:
    for parameter in find_component(kind, name).parameters():
        assert len(parameter.help) > 10, parameter.name
        assert parameter.help.endswith("."), parameter.name


@every_component
def test_its_defaults_are_valid_and_what_it_writes_down_is_itself(kind: str, name: str) -> None:
    found = find_component(kind, name)
    component = made(found)
    assert found.parse(json.loads(json.dumps(component.to_table(), allow_nan=False))) == component
    assert found.parse({**component.to_table()}) == component


@every_component
def test_it_refuses_what_it_does_not_know(kind: str, name: str) -> None:
    with pytest.raises(ImagemillError, match="there is no such parameter"):
        find_component(kind, name).parse({**made(find_component(kind, name)).to_table(), "no_such_thing": 1})


# models


@every_model
def test_a_models_parameters_are_not_the_operators(name: str) -> None:
    # `model` alone stands in both: `--model diffusers:NAME` fills it.
    shared = set(find_component("models", name).model_fields) & set(Generate.model_fields)
    assert shared <= {"model"}


@every_model
def test_every_parameter_is_a_flag_of_the_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = find_component("models", name)
    chosen = f"{name}:x" if "model" in found.model_fields else name
    with pytest.raises(SystemExit) as caught:
        run(["generate", "--model", chosen, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    flags = set(re.findall(r"--[\w-]+", text))
    for parameter in [*Generate.parameters(), *found.parameters()]:
        assert parameter.flag in flags
        assert parameter.type != "boolean" or parameter.flag.replace("--", "--no-", 1) in flags
        if parameter.name != "model":
            assert parameter.help in " ".join(text.split())


@pytest.mark.parametrize("name", component_names("models"))
def test_every_parameter_is_described_by_the_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", name]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{name}: ")
    for parameter in find_component("models", name).parameters():
        assert f"  {parameter.flag} " in text
        assert parameter.help in text


DEMANDED: dict[str, dict[str, Any]] = {}
"""What a model cannot run without."""
PICTURES: list[str] = []
"""Files for models that start from one: something red on white, and something blue."""


@pytest.fixture(scope="module", autouse=True)
def _demanded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder for the model `diffusers`, a server for those that call one."""
    if package_version("diffusers"):
        folder = pipelines.save("stable_diffusion", tmp_path_factory.mktemp("models") / "tiny")
        DEMANDED["diffusers"] = {"model": str(folder)}
    if package_version("transformers"):
        DEMANDED["transformers"] = {"model": str(text_models.save("blip", tmp_path_factory.mktemp("models") / "blip"))}
    for color in ("red", "blue"):
        path = tmp_path_factory.mktemp("pictures") / f"{color}.png"
        image = Image.new("RGB", (56, 40), "white")
        image.paste(color, (12, 8, 40, 32))
        image.save(path)
        PICTURES.append(str(path))
    with serving(Faults(rate=0)) as server:
        honored = {"takes": ("seed", "size"), "own_size": "64x64"}
        DEMANDED["openai"] = {"model": "x", "base_url": server.url, **honored}
        DEMANDED["hf"] = {"model": "x", "base_url": f"{server.url}/models/x", **honored}
        yield


@cache
def _runnable(name: str) -> tuple[Model | TextModel | None, str]:
    found = find_component("models", name)
    assert issubclass(found, Model | TextModel)
    try:
        # One thread, where a model has a say in it: what is fastest for so little work.
        threads = {"threads": 1} if "threads" in found.model_fields else {}
        model = found.parse({**threads, **DEMANDED.get(name, {})})
        model.info()
        return model.resolve({}, 1), ""
    except ImagemillError as error:
        return None, f"`{name}` cannot run here: {error.message}"


def runnable(name: str) -> Model:
    model, reason = _runnable(name)
    if model is None:
        pytest.skip(reason)
    assert isinstance(model, Model)
    return model


def runnable_text(name: str) -> TextModel:
    model, reason = _runnable(name)
    if model is None:
        pytest.skip(reason)
    assert isinstance(model, TextModel)
    return model


def requests(model: Model, count: int, **changes: Any) -> tuple[Request, ...]:
    info = model.info()
    if info.needs_images:
        changes = {"images": (PICTURES[0],), "strength": info.strength or 0.0, **changes}
    return tuple(
        Request(
            row=number,
            image=0,
            part=1,
            id=str(number),
            prompt=f"a {color} circle on a white background",
            negative_prompt="",
            seed=4_000_000_000 + number,
            **{
                "width": info.width,
                "height": info.height,
                "num_inference_steps": min(2, info.num_inference_steps),
                "guidance_scale": info.guidance_scale,
                "scheduler": info.scheduler,
                **changes,
            },
        )
        for number, color in zip(range(count), ["red", "blue", "green", "yellow", "black"], strict=False)
    )


def pixels(results: Iterable[Result]) -> dict[str, Pixels]:
    """The images by request; fails for a request that failed or came twice."""
    found: dict[str, Pixels] = {}
    for result in results:
        assert result.reason is None, result.message
        assert result.request.name not in found
        if result.data is None:
            assert result.pixels is not None
            found[result.request.name] = result.pixels
        else:
            found[result.request.name] = decode(result.data)
    return found


@every_model
def test_it_says_what_it_is_before_it_is_loaded(name: str) -> None:
    info = runnable(name).info()
    assert info.name
    assert info.revision
    assert info.width % info.size_multiple == info.height % info.size_multiple == 0
    assert min(info.width, info.height, info.num_inference_steps or not info.takes_steps, info.batch_size) >= 1
    assert info.reproducibility in {"row_exact", "batch_shape_exact", "seed_only", "server"}
    assert not info.schedulers or info.scheduler in info.schedulers


@every_model
def test_its_images_have_the_size_that_was_asked_for(name: str) -> None:
    model = runnable(name)
    info = model.info()
    wide = requests(model, 2, width=info.width + info.size_multiple)
    low = [replace(request, image=1) for request in requests(model, 1, height=info.height - info.size_multiple)]
    high = [replace(request, image=2) for request in requests(model, 3)]
    found = pixels(model.make([Batch(wide, 3), Batch(tuple(low), 3), Batch(tuple(high), 3)]))
    for request in [*wide, *low, *high]:
        assert found[request.name].shape == (request.height, request.width, 3)
        assert found[request.name].dtype == np.uint8


@every_model
def test_every_request_has_one_result_however_the_stream_is_cut(name: str) -> None:
    model = runnable(name)
    asked = requests(model, 3)
    for cut in ([asked[:2], asked[2:]], [asked], [(request,) for request in asked]):
        results = list(model.make(Batch(part, 3) for part in cut))
        assert sorted(result.request.name for result in results) == [request.name for request in asked]
    assert list(model.make([])) == []


@every_model
def test_an_image_does_not_depend_on_its_neighbors(name: str) -> None:
    model = runnable(name)
    asked = requests(model, 3)
    together = pixels(model.make([Batch(asked, 3)]))
    alone = pixels(model.make([Batch((request,), 3) for request in asked]))
    turned = pixels(model.make([Batch(asked[::-1], 3)]))
    for request in asked:
        assert np.array_equal(together[request.name], alone[request.name])
        assert np.array_equal(together[request.name], turned[request.name])


@every_model
def test_seed_and_prompt_decide_the_image(name: str) -> None:
    model = runnable(name)
    first = requests(model, 1)[0]
    other_seed = replace(first, image=1, seed=first.seed - 1)
    other_prompt = replace(first, image=2, prompt="a small black cross on a yellow background")
    same = replace(first, image=3)
    found = pixels(model.make([Batch((first, other_seed, other_prompt, same), 4)]))
    assert np.array_equal(found[first.name], found[same.name])
    assert not np.array_equal(found[first.name], found[other_seed.name])
    assert not np.array_equal(found[first.name], found[other_prompt.name])


# models that start from pictures


def starting(name: str) -> Model:
    model = runnable(name)
    if not model.info().most_images:
        pytest.skip(f"`{name}` starts from no pictures")
    return model


def from_pictures(model: Model, **changes: Any) -> list[Request]:
    """Two requests that start from different pictures, and one more from the first, all of one kind."""
    info = model.info()
    strength = info.strength or 0.0
    first, second, third = requests(model, 3, strength=strength, **changes)
    paths = [(path,) for path in PICTURES]
    return [replace(first, images=paths[0]), replace(second, images=paths[1]), replace(third, images=paths[0])]


@every_model
def test_an_image_made_from_a_picture_has_the_size_asked_for_and_depends_on_it(name: str) -> None:
    model = starting(name)
    info = model.info()
    # No multiple of anything, where the size is the model's to keep.
    odd = {} if info.as_received else {"width": 57, "height": 43}
    asked = from_pictures(model, **odd)
    same = replace(asked[0], image=7, images=asked[1].images)
    found = pixels(model.make([Batch((*asked, same), 4)]))
    for request in asked:
        assert found[request.name].shape == (request.height, request.width, 3)
    if not info.as_received:
        assert not np.array_equal(found[asked[0].name], found[same.name])


@every_model
def test_an_image_made_from_a_picture_does_not_depend_on_its_neighbors(name: str) -> None:
    model = starting(name)
    asked = from_pictures(model)
    together = pixels(model.make([Batch(tuple(asked), 3)]))
    alone = pixels(model.make([Batch((request,), 3) for request in asked[::-1]]))
    for request in asked:
        assert np.array_equal(together[request.name], alone[request.name])


@every_model
def test_a_picture_that_cannot_be_read_fails_alone(name: str, tmp_path: Path) -> None:
    model = starting(name)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    asked = from_pictures(model)
    wrong = [replace(asked[1], images=(str(tmp_path / file),)) for file in ("bad.png", "absent.png")]
    asked = [asked[0], replace(wrong[0], image=1), replace(wrong[1], image=2), asked[2]]
    results = {result.request.name: result for result in model.make([Batch(tuple(asked), 4)])}
    reasons = [results[request.name].reason for request in asked]
    assert reasons[0] is None
    assert reasons[3] is None
    if not model.info().as_received:
        assert reasons[1] == "bad_image"
    assert reasons[2] in {"bad_image", "no_source"}


@every_model
def test_a_model_that_needs_a_picture_says_so_of_a_request_without_one(name: str) -> None:
    model = runnable(name)
    if not model.info().needs_images:
        pytest.skip(f"`{name}` makes images from text alone")
    (result,) = model.make([Batch((replace(requests(model, 1)[0], images=()),), 2)])
    assert result.reason == "bad_request"
    assert result.message


# models that make text


def questions(count: int, wanted: int = 1) -> list[Question]:
    files = [Path(path).read_bytes() for path in PICTURES]
    return [Question(f"q{number}", "", (files[number % 2],), wanted, seed=number) for number in range(count)]


@every_text_model
def test_every_question_has_one_reply_and_it_does_not_depend_on_its_neighbors(name: str) -> None:
    model = runnable_text(name)
    together = {reply.question.name: reply for reply in model.answer(questions(5))}
    assert sorted(together) == ["q0", "q1", "q2", "q3", "q4"]
    assert list(model.answer([])) == []
    for question in questions(5):
        assert together[question.name].reason is None, together[question.name].message
        assert len(together[question.name].texts) == 1
        if model.info().name.partition(":")[0] not in {"openai", "hf"}:
            (alone,) = model.answer([question])
            assert alone.texts == together[question.name].texts


@every_text_model
def test_several_replies_come_to_one_question_when_they_are_wanted(name: str) -> None:
    model = runnable_text(name)
    for reply in model.answer(questions(2, wanted=3)):
        assert reply.reason is None, reply.message
        assert len(reply.texts) == 3


@every_text_model
def test_an_image_that_cannot_be_read_fails_alone(name: str) -> None:
    model = runnable_text(name)
    asked = questions(3)
    asked[1] = replace(asked[1], images=(b"no picture",))
    replies = {reply.question.name: reply.reason for reply in model.answer(asked)}
    assert replies == {"q0": None, "q1": "bad_image", "q2": None}


@pytest.mark.parametrize("reason", get_args(FailureReason))
def test_a_request_that_fails_fails_alone(reason: str) -> None:
    fake = find_component("models", "fake").parse({"fail_text": "blue", "fail_reason": reason})
    assert isinstance(fake, Model)
    asked = requests(fake, 4)
    results = {result.request.prompt.split()[1]: result for result in fake.make([Batch(asked, 4)])}
    assert (results["blue"].reason, results["blue"].pixels) == (reason, None)
    assert results["blue"].message
    healthy = pixels(result for color, result in results.items() if color != "blue")
    assert len(healthy) == 3
    untouched = pixels(runnable("fake").make([Batch(asked, 4)]))
    assert all(np.array_equal(image, untouched[key]) for key, image in healthy.items())


def test_a_fake_failure_can_end_after_some_attempts() -> None:
    fake = find_component("models", "fake").parse({"fail_text": "red", "fail_attempts": 2})
    assert isinstance(fake, Model)
    tries = [replace(request, attempt=attempt) for attempt in (1, 2, 3) for request in requests(fake, 1)]
    assert [result.reason for result in fake.make([Batch(tuple(tries), 3)])] == ["model_error", "model_error", None]


def test_a_share_of_fake_requests_fails_by_seed() -> None:
    fake = find_component("models", "fake").parse({"fail_rate": 0.25})
    assert isinstance(fake, Model)
    base = requests(fake, 1)[0]
    asked = tuple(replace(base, image=number, seed=number * 2**22) for number in range(1_024))
    failed = [result.request.image for result in fake.make([Batch(asked, 1_024)]) if result.reason]
    assert failed == list(range(256))


# executors


def _double(work: Iterable[Any], sink: Sink) -> None:
    for item in work:
        sink(2 * item)


@pytest.mark.parametrize("name", component_names("executors"))
def test_an_executor_does_all_work_once(name: str) -> None:
    executor = made(find_component("executors", name))
    assert isinstance(executor, Executor)
    done: list[int] = []
    executor.run(_double, iter(range(50)), done.append)
    assert sorted(done) == list(range(0, 100, 2))


def _visible_device(work: Iterable[Any], sink: Sink) -> None:
    for _ in work:
        sink(os.environ.get("CUDA_VISIBLE_DEVICES"))
        # Leaves work for the others.
        time.sleep(0.2)


def test_each_worker_sees_its_device_only() -> None:
    seen: list[str | None] = []
    Local(workers=2, devices=("0", "3")).run(_visible_device, iter(range(12)), seen.append)
    assert len(seen) == 12
    assert set(seen) == {"0", "3"}
    seen.clear()
    Local(workers=1, devices=("5",)).run(_visible_device, iter(range(1)), seen.append)
    assert seen == ["5"]
