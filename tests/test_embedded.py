"""What other tools write into their pictures is read as they mean it, and what they do not say is not made up."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from imagemill.embedded import a1111, comfyui, invokeai, read_embedded
from imagemill.images import a1111_parameters, encode

RECIPE = {
    "prompt": "a fox\nin snow, \u2744",
    "negative_prompt": "blurry: very",
    "seed": 4_294_967_295,
    "width": 8,
    "height": 16,
    "num_inference_steps": 25,
    "guidance_scale": 7.5,
    "scheduler": "dpmpp_2m",
    "model": "some/model, new",
    "model_revision": "0123456789abcdef",
}


def opened(kind: str = "PNG", **options: Any) -> Image.Image:
    file = io.BytesIO()
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        for key, text in options.items():
            info.add_itxt(key, text)
        options = {"pnginfo": info}
    Image.new("RGB", (8, 16)).save(file, kind, **options)
    return Image.open(file)


def graph(**changes: Any) -> dict[str, Any]:
    """A graph as ComfyUI writes it for one picture."""
    nodes: dict[str, Any] = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["1", 1]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["1", 1]}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 2}},
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 18_446_744_073_709_551_615,
                "steps": 20,
                "cfg": 8.0,
                "sampler_name": "dpmpp_2m",
                "scheduler": "karras",
                "denoise": 1.0,
                "model": ["1", 0],
                "positive": ["2", 0],
                "negative": ["3", 0],
                "latent_image": ["4", 0],
            },
            "is_changed": [float("nan")],
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "x"}},
    }
    return {**nodes, **{name.removeprefix("n"): node for name, node in changes.items()}}


def read(nodes: dict[str, Any]) -> dict[str, Any]:
    return comfyui(json.dumps(nodes))


# A1111


def test_our_own_parameters_text_is_read_like_that_of_others() -> None:
    said = a1111(a1111_parameters(RECIPE))
    for key in RECIPE.keys() - {"width", "height", "model_revision"}:
        assert said[key] == RECIPE[key], key
    assert said["model_revision"] == "0123456789"
    assert said["size"] == "8x16"


def test_the_parts_of_a_text() -> None:
    text = """first line
second, with Steps: many
Negative prompt: ugly,
worse
Steps: 30, Sampler: Euler a, CFG scale: 7, Seed: 1234, Size: 512x768, Model hash: 6ce0161689, Model: v1-5, \
Lora hashes: "one: 12ab, two: \\"34\\"", Clip skip: 2, Hires upscale: 1.50, Version: v1.10.0"""
    said = a1111(text)
    assert said["prompt"] == "first line\nsecond, with Steps: many"
    assert said["negative_prompt"] == "ugly,\nworse"
    assert (said["num_inference_steps"], said["guidance_scale"], said["seed"]) == (30, 7, 1234)
    assert (said["scheduler"], said["model"], said["model_revision"]) == ("euler_ancestral", "v1-5", "6ce0161689")
    assert said["lora_hashes"] == 'one: 12ab, two: "34"'
    assert (said["clip_skip"], said["hires_upscale"], said["version"]) == (2, "1.50", "v1.10.0")


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("a fox", "a fox"),
        ("a fox\nSteps: 20, Seed: 1", "a fox\nSteps: 20, Seed: 1"),
        ("ratio: 1, mood: dark", "ratio: 1, mood: dark"),
        ("", ""),
    ],
)
def test_fewer_than_three_pairs_are_a_prompt(text: str, prompt: str) -> None:
    assert a1111(text) == {"prompt": prompt, "negative_prompt": ""}


def test_a_long_text_without_pairs_is_read_at_once() -> None:
    for line in ("a" * 200_000, " " * 200_000, "a b" * 70_000, 'ab:"' * 50_000):
        start = time.perf_counter()
        a1111(f"a fox\n{line}y")
        assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("sampler", "name", "schedule"),
    [
        ("Euler", "euler", None),
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
        ("DPM2 a", "dpm_2_ancestral", None),
        ("UniPC", "unipc", None),
        ("Something new", "something new", None),
    ],
)
def test_samplers_have_the_names_of_k_diffusion(sampler: str, name: str, schedule: str | None) -> None:
    said = a1111(f"x\nSteps: 1, Sampler: {sampler}, Seed: 1")
    assert (said["scheduler"], said.get("schedule_type")) == (name, schedule)


def test_a_model_is_a_text_also_where_it_looks_like_a_number() -> None:
    said = a1111("x\nSteps: 1, Seed: 1, Model: 15, Model hash: 0000000012")
    assert (said["model"], said["model_revision"]) == ("15", "0000000012")


@pytest.mark.parametrize("order", ["be", "le"])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_comments_of_jpeg_and_webp_are_read(kind: str, order: str) -> None:
    exif = Image.Exif()
    text = "ein Füchslein 狐\nSteps: 2, Sampler: DDIM, Seed: 3"
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode(f"utf-16-{order}")
    said = read_embedded(opened(kind, exif=exif))
    assert (said["prompt"], said["seed"], said["made_with"]) == ("ein Füchslein 狐", 3, "a1111")


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_our_recipe_comes_first(image_format: Any) -> None:
    import numpy as np

    data = encode(np.zeros((16, 8, 3), np.uint8), image_format, RECIPE, mark=True)
    assert read_embedded(Image.open(io.BytesIO(data))) == {**RECIPE, "made_with": "imagemill"}


def test_pictures_that_say_nothing_say_nothing() -> None:
    assert read_embedded(opened()) == {}
    assert read_embedded(opened(prompt="a fox", invokeai_metadata="[1]")) == {}
    assert read_embedded(opened("JPEG", exif=b"Exif\0\0broken")) == {}
    assert read_embedded(opened(prompt="[" * 100_000)) == {}


# ComfyUI


def test_a_graph_is_read_from_its_sampler() -> None:
    assert read(graph()) == {
        "prompt": "a fox",
        "negative_prompt": "blurry",
        "seed": 18_446_744_073_709_551_615,
        "num_inference_steps": 20,
        "guidance_scale": 8.0,
        "scheduler": "dpmpp_2m",
        "schedule_type": "karras",
        "denoising_strength": 1.0,
        "model": "base.safetensors",
        "batch_size": 2,
    }
    said = read_embedded(opened(prompt=json.dumps(graph()), parameters="not this"))
    assert (said["prompt"], said["made_with"]) == ("a fox", "comfyui")
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(graph())
    assert read_embedded(opened("WEBP", exif=exif))["prompt"] == "a fox"


def test_values_may_come_through_other_nodes() -> None:
    sampler = graph()["5"]
    nodes = graph(
        n2={"class_type": "CLIPTextEncode", "inputs": {"text": ["20", 0], "clip": ["21", 1]}},
        n20={"class_type": "PrimitiveString", "inputs": {"value": "a linked fox"}},
        n21={"class_type": "LoraLoader", "inputs": {"model": ["1", 0], "lora_name": "ink.safetensors"}},
        n22={"class_type": "PrimitiveNode", "inputs": {"value": 99}},
        n23={
            "class_type": "ControlNetApplyAdvanced",
            "inputs": {"positive": ["2", 0], "negative": ["3", 0], "image": ["40", 0]},
        },
        n5={
            **sampler,
            "class_type": "KSamplerAdvanced",
            "inputs": {
                **{key: value for key, value in sampler["inputs"].items() if key != "seed"},
                "noise_seed": ["22", 0],
                "positive": ["23", 0],
                "negative": ["23", 1],
                "model": ["21", 0],
            },
        },
    )
    said = read(nodes)
    assert (said["prompt"], said["negative_prompt"], said["seed"]) == ("a linked fox", "blurry", 99)
    assert (said["model"], said["lora"]) == ("base.safetensors", "ink.safetensors")


def test_the_last_of_two_samplers_behind_each_other_made_the_picture() -> None:
    second = {"class_type": "KSampler", "inputs": {**graph()["5"]["inputs"], "seed": 7, "latent_image": ["5", 0]}}
    nodes = graph(n8=second, n6={"class_type": "VAEDecode", "inputs": {"samples": ["8", 0]}})
    assert read(nodes)["seed"] == 7
    assert read(nodes)["batch_size"] == 2


def test_what_is_not_plain_is_left_out() -> None:
    beside = {"class_type": "KSampler", "inputs": {**graph()["5"]["inputs"], "seed": 7}}
    shown = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    assert read(graph(n8=beside, n9=shown)) == {}
    combined = {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["2", 0], "conditioning_2": ["3", 0]}}
    sampler = graph()["5"]
    changed = {**sampler, "inputs": {**sampler["inputs"], "positive": ["10", 0], "seed": ["10", 0]}}
    said = read(graph(n10=combined, n5=changed))
    assert "prompt" not in said
    assert "seed" not in said
    different = {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "a fox", "text_l": "a dog"}}
    assert "prompt" not in read(graph(n2=different))
    same = {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "a fox", "text_l": "a fox"}}
    assert read(graph(n2=same))["prompt"] == "a fox"
    nothing = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["2", 0]}}
    assert "negative_prompt" not in read(graph(n3=nothing))


def test_graphs_of_flow_models_have_their_parts_in_nodes_of_their_own() -> None:
    nodes = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flow.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["9", 0]}},
        "3": {"class_type": "BasicGuider", "inputs": {"model": ["1", 0], "conditioning": ["4", 0]}},
        "4": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["2", 0]}},
        "5": {"class_type": "RandomNoise", "inputs": {"noise_seed": 12}},
        "6": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "7": {"class_type": "BasicScheduler", "inputs": {"scheduler": "simple", "steps": 4, "denoise": 1.0}},
        "8": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {"noise": ["5", 0], "guider": ["3", 0], "sampler": ["6", 0], "sigmas": ["7", 0]},
        },
    }
    said = read(nodes)
    assert (said["prompt"], said["seed"], said["num_inference_steps"]) == ("a fox", 12, 4)
    assert (said["scheduler"], said["model"]) == ("euler", "flow.safetensors")
    assert "negative_prompt" not in said
    assert "guidance_scale" not in said


@pytest.mark.parametrize(
    "nodes",
    [
        {},
        {"1": []},
        {"1": {"class_type": "KSampler"}},
        {"1": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["1", 0], "seed": ["1", 0]}}},
        {"1": {"class_type": 3, "inputs": []}},
    ],
)
def test_graphs_that_are_none_break_nothing(nodes: dict[str, Any]) -> None:
    assert set(read(nodes)) <= {"seed"}


# InvokeAI


def test_metadata_of_invokeai_is_read() -> None:
    found = {
        "app_version": "5.0.0",
        "generation_mode": "txt2img",
        "positive_prompt": "a fox",
        "negative_prompt": "",
        "width": 1024,
        "height": 768,
        "seed": 5,
        "rand_device": "cpu",
        "cfg_scale": 7.5,
        "steps": 30,
        "scheduler": "dpmpp_2m_k",
        "model": {"key": "k", "hash": "blake3:ab", "name": "XL", "base": "sdxl", "type": "main"},
        "loras": [],
    }
    said = invokeai(json.dumps(found))
    assert (said["prompt"], said["negative_prompt"], said["seed"]) == ("a fox", "", 5)
    assert (said["num_inference_steps"], said["guidance_scale"]) == (30, 7.5)
    assert (said["scheduler"], said["schedule_type"]) == ("dpmpp_2m", "karras")
    assert (said["model"], said["model_revision"], said["size"]) == ("XL", "blake3:ab", "1024x768")
    assert read_embedded(opened(invokeai_metadata=json.dumps(found)))["made_with"] == "invokeai"
    assert invokeai('{"a": 1}') == {}
