"""What pictures say of how they were made: A1111's `parameters`, ComfyUI's graph, InvokeAI's metadata, our recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from imagemill.images import embedded_recipe, is_composite, is_marked

if TYPE_CHECKING:
    from PIL import Image

_EXIF_FOLDER = 0x8769
_USER_COMMENT = 0x9286
_MAKE, _MODEL = 0x010F, 0x0110
"""Where ComfyUI's nodes for JPEG and WebP put the graph."""
_PAIR = re.compile(r'(\w[\w \-/]{1,100}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""A1111's own expression, but for keys of any length: those would take hours where a long text is no pair."""
_LEAST = 3
"""Pairs that make a last line one of parameters, and not of the prompt."""
_NEGATIVE = "Negative prompt:"
_A1111_KEYS = {
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "sampler": "scheduler",
    "seed": "seed",
    "model": "model",
    "model_hash": "model_revision",
}
"""What its keys, as columns, are called in a record."""
_SAMPLERS = {
    "euler a": "euler_ancestral",
    "euler_a": "euler_ancestral",
    "dpm2": "dpm_2",
    "kdpm_2": "dpm_2",
    "dpm2 a": "dpm_2_ancestral",
    "kdpm_2_a": "dpm_2_ancestral",
    "dpm++ 2m": "dpmpp_2m",
    "dpm++ 2m sde": "dpmpp_2m_sde",
    "dpm++ 3m sde": "dpmpp_3m_sde",
    "dpm++ sde": "dpmpp_sde",
    "dpm++ 2s a": "dpmpp_2s_ancestral",
    "dpm fast": "dpm_fast",
    "dpm adaptive": "dpm_adaptive",
    "pndm": "plms",
    "uni_pc": "unipc",
}
"""Samplers by their k-diffusion names, where tools have names of their own; in lower case."""
_SCHEDULES = {
    " karras": "karras",
    " polyexponential": "polyexponential",
    " exponential": "exponential",
    "_k": "karras",
}
"""Kinds of schedules, as some write them behind the sampler."""
_SAMPLING = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
_VALUES = ("value", "text", "string", "seed", "noise_seed", "int", "float", "number", "ckpt_name")
"""Inputs of ComfyUI's nodes that only hold something for others."""
_DEPTH = 64
"""Nodes behind each other that are followed."""

Said = dict[str, Any]
"""Values by the keys of a record, and others by names of their own."""


def read_embedded(image: Image.Image) -> Said:
    """Read what a picture tells of how it was made; empty when it tells nothing, or nothing that can be understood.

    `made_with` says in whose words; what is not said is not there.
    """
    if recipe := embedded_recipe(image):
        return {**recipe, "made_with": "imagemill"}
    texts = {key: value for key, value in image.info.items() if isinstance(value, str)}
    exif = _exif_texts(image)
    for text, read, tool in (
        (texts.get("invokeai_metadata"), invokeai, "invokeai"),
        (texts.get("prompt") or exif.get("prompt"), comfyui, "comfyui"),
        (texts.get("parameters") or exif.get("parameters"), a1111, "a1111"),
    ):
        if text and (said := read(text)):
            return {**said, "made_with": tool}
    return {}


def carried(image: Image.Image) -> dict[str, Any]:
    """What is to stay with the pixels of a picture in another file, as `encode` takes it: all that tells its origin."""
    recipe = embedded_recipe(image)
    chunks = getattr(image, "text", {})
    # These tell also of the file, such as how it must be turned; a recipe writes its own.
    texts = {key: str(text) for key, text in chunks.items() if not key.startswith(("Raw profile", "XML:com.adobe"))}
    texts = {} if recipe else {**_exif_texts(image), **texts}
    texts = {key: text for key, text in texts.items() if text.strip()}
    return {"recipe": recipe, "mark": is_marked(image), "composite": is_composite(image), "texts": texts}


def a1111(text: str) -> Said:
    """Read a `parameters` text as the Stable Diffusion web UI and tools like it write it."""
    *lines, last = text.strip().split("\n")
    pairs = _PAIR.findall(last)
    if len(pairs) < _LEAST:
        lines, pairs = [*lines, last], []
    start = next((place for place, line in enumerate(lines) if line.strip().startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[start:]).strip().removeprefix(_NEGATIVE)
    said: Said = {"prompt": "\n".join(lines[:start]).strip(), "negative_prompt": negative.strip()}
    for key, value in pairs:
        column = _column(key)
        said[_A1111_KEYS.get(column, column)] = _value(_unquoted(value))
    for key in ("scheduler", "model", "model_revision"):
        if key in said:
            said[key] = str(_unquoted(next(v for k, v in pairs if _A1111_KEYS.get(_column(k)) == key)))
    return _with_sampler(said)


def comfyui(text: str) -> Said:
    """Read the graph that ComfyUI has run, from the sampler that its picture comes from.

    What the graph does not say plainly, such as which of several samplers or texts it is, is not there.
    """
    # Its JSON may hold NaN.
    nodes = _object(text)
    graph = _Graph({str(name): node for name, node in nodes.items() if isinstance(node, dict)})
    name = graph.sampler()
    if name is None:
        return {}
    said = {
        "prompt": graph.text(name, "positive"),
        "negative_prompt": graph.text(name, "negative"),
        "seed": graph.find(name, ("seed", "noise_seed"), ("noise",), int),
        "num_inference_steps": graph.find(name, ("steps",), ("sigmas",), int),
        "guidance_scale": graph.find(name, ("cfg",), ("guider",), int | float),
        "scheduler": graph.find(name, ("sampler_name",), ("sampler",), str),
        "schedule_type": graph.find(name, ("scheduler",), ("sigmas",), str),
        "denoising_strength": graph.find(name, ("denoise",), ("sigmas",), int | float),
        "model": graph.find(name, ("ckpt_name", "unet_name"), ("model", "guider"), str),
        "batch_size": graph.find(name, ("batch_size",), ("latent_image", "latent"), int),
        "lora": ", ".join(dict.fromkeys(graph.loras(name))) or None,
    }
    return _with_sampler({key: value for key, value in said.items() if value is not None})


def invokeai(text: str) -> Said:
    """Read InvokeAI's `invokeai_metadata`."""
    found = _object(text)
    said: Said = {}
    for key, value in found.items():
        named = {
            "positive_prompt": "prompt",
            "steps": "num_inference_steps",
            "cfg_scale": "guidance_scale",
        }.get(key, _column(key))
        if key == "model" and isinstance(value, dict):
            said["model"] = str(value.get("name") or value.get("model_name") or "")
            said["model_revision"] = str(value.get("hash") or "")
        elif isinstance(value, str | int | float):
            said[named] = value
    if said and not {"prompt", "seed", "model"} & said.keys():
        return {}
    # These are of the picture as it was asked for; the file tells its own.
    if isinstance(width := said.pop("width", None), int) and isinstance(height := said.pop("height", None), int):
        said["size"] = f"{width}x{height}"
    return _with_sampler(said)


class _Graph:
    """Nodes of ComfyUI, each with `class_type` and `inputs`, which are values or links to other nodes' outputs."""

    def __init__(self, nodes: Mapping[str, dict[str, Any]]) -> None:
        self._nodes = nodes

    def sampler(self) -> str | None:
        """The sampler that made the picture; None where that is none, or not one."""
        saving = [name for name in self._nodes if re.match(r"Save|Preview", self._kind(name))]
        reached = set().union(*map(self._above, saving)) if saving else set(self._nodes)
        samplers = [name for name in reached if self._kind(name) in _SAMPLING]
        before = set().union(*(self._above(name) - {name} for name in samplers)) if samplers else set()
        last = [name for name in samplers if name not in before]
        return last[0] if len(last) == 1 else None

    def find(self, name: str, keys: tuple[str, ...], through: tuple[str, ...], kind: Any) -> Any:
        """An input of a node, or of those above it along some of its links; None where there is none of this kind."""
        for _ in range(_DEPTH):
            inputs = self._inputs(name)
            for key in keys:
                if key in inputs:
                    value = self._held(inputs[key])
                    return value if isinstance(value, kind) and not isinstance(value, bool) else None
            above = next((self._linked(inputs[key]) for key in through if self._linked(inputs.get(key))), None)
            if above is None:
                return None
            name = above[0]
            through = (*through, "model", "latent_image", "latent", "samples")
        return None

    def loras(self, name: str) -> Iterator[str]:
        """The names of the LoRAs that the model of a sampler has."""
        for _ in range(_DEPTH):
            inputs = self._inputs(name)
            if isinstance(lora := inputs.get("lora_name"), str):
                yield lora
            above = self._linked(inputs.get("model")) or self._linked(inputs.get("guider"))
            if above is None:
                return
            name = above[0]

    def text(self, name: str, side: str) -> str | None:
        """The text that a sampler is conditioned with; None where that is none, or more than one."""
        for _ in range(_DEPTH):
            inputs = self._inputs(name)
            kind = self._kind(name)
            if kind == "ConditioningZeroOut":
                return None
            if kind.startswith("CLIPTextEncode"):
                keys = ("text", "text_g", "text_l", "clip_l", "t5xxl")
                texts = [self._held(inputs[key]) for key in keys if key in inputs]
                if not all(isinstance(text, str) for text in texts):
                    return None
                different = list(dict.fromkeys(text for text in texts if text.strip()))
                return None if len(different) > 1 else str(next(iter(different), ""))
            links = [link for key in (side, "guider") if (link := self._linked(inputs.get(key)))]
            if not links:
                conditionings = [key for key in inputs if key.startswith("conditioning") and self._linked(inputs[key])]
                links = [link for key in conditionings if (link := self._linked(inputs[key]))]
                if side == "negative" and kind == "BasicGuider":
                    return None
            if len(links) != 1:
                return None
            name, output = links[0]
            if {"positive", "negative"} <= self._inputs(name).keys():
                # Such nodes hand on both, in this order.
                side = ("positive", "negative")[output] if output in {0, 1} else side
        return None

    def _kind(self, name: str) -> str:
        return str(self._nodes.get(name, {}).get("class_type", ""))

    def _inputs(self, name: str) -> dict[str, Any]:
        inputs = self._nodes.get(name, {}).get("inputs")
        return inputs if isinstance(inputs, dict) else {}

    def _linked(self, value: Any) -> tuple[str, int] | None:
        """The node and the number of its output that an input is linked to."""
        if isinstance(value, list) and len(value) == 2 and str(value[0]) in self._nodes and isinstance(value[1], int):
            return str(value[0]), value[1]
        return None

    def _held(self, value: Any) -> Any:
        """A value itself, or what the node holds that it is linked to; None where that is not plain."""
        for _ in range(_DEPTH):
            link = self._linked(value)
            if link is None:
                return value if isinstance(value, str | int | float) else None
            inputs = self._inputs(link[0])
            found = [inputs[key] for key in _VALUES if key in inputs]
            if len(found) != 1:
                return None
            value = found[0]
        return None

    def _above(self, name: str) -> set[str]:
        """A node and all that lead to it."""
        found, waiting = {name}, [name]
        while waiting:
            for value in self._inputs(waiting.pop()).values():
                link = self._linked(value)
                if link and link[0] not in found:
                    found.add(link[0])
                    waiting.append(link[0])
        return found


def _with_sampler(said: Said) -> Said:
    """The same with the scheduler by its k-diffusion name, and the kind of its schedule, which some write behind it."""
    if "scheduler" not in said:
        return said
    name = str(said["scheduler"]).strip().lower()
    for end, kind in _SCHEDULES.items():
        if name.endswith(end):
            name = name.removesuffix(end)
            said.setdefault("schedule_type", kind)
    if "schedule_type" in said:
        said["schedule_type"] = str(said["schedule_type"]).lower()
    return {**said, "scheduler": _SAMPLERS.get(name, name)}


def _column(key: str) -> str:
    return re.sub(r"\W+", "_", key.strip().lower()).strip("_")


def _unquoted(value: str) -> str:
    value = value.strip()
    if value.startswith('"') and value.endswith('"'):
        with suppress(ValueError):
            return str(json.loads(value))
    return value


def _value(text: str) -> str | int | float:
    """A number where a text is one, and would be written in the same way."""
    kinds: tuple[Callable[[str], int | float], ...] = (int, float)
    for kind in kinds:
        with suppress(ValueError):
            if str(value := kind(text[:40])) == text and text.isascii() and not re.search("[a-z]", text):
                return value
    return text


def _object(text: str) -> dict[str, Any]:
    """A JSON object; empty where a text is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _exif_texts(image: Image.Image) -> dict[str, str]:
    """What stands in the EXIF data of JPEG and WebP files, by the names that PNG has for it."""
    texts: dict[str, str] = {}
    # Whatever is wrong with the EXIF data, the picture itself is not.
    with suppress(Exception):
        exif = image.getexif()
        for tag in (_MAKE, _MODEL):
            name, colon, text = str(exif.get(tag, "")).partition(":")
            if colon and name in {"prompt", "workflow"}:
                texts[name] = text
        comment = exif.get_ifd(_EXIF_FOLDER).get(_USER_COMMENT)
        if comment:
            texts["parameters"] = _user_comment(comment)
    return texts


def _user_comment(comment: bytes | str) -> str:
    """The text of a comment, after the eight bytes that name its characters."""
    if isinstance(comment, str):
        return comment
    head, data = comment[:8], comment[8:]
    if head == b"UNICODE\0":
        # Exif leaves the order open; most texts have more zeros in the higher byte.
        little = data[1::2].count(0) > data[0::2].count(0)
        return data.decode("utf-16-le" if little else "utf-16-be", "replace").strip("\0")
    return (data if head in {b"ASCII\0\0\0", bytes(8)} else comment).decode("utf-8", "replace").strip("\0")
