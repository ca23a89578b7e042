"""What is asked of a model, made to fit what it takes: completed, checked, and what has no effect said."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from imagemill.errors import UsageError, did_you_mean
from imagemill.images import MAX_PIXELS
from imagemill.models.base import ModelInfo
from imagemill.plan import Plan, kinds
from imagemill.records import SEED_LIMIT, Denoising, Request, Row, Size
from imagemill.tables.columns import TableOptions

_TAKES = {
    "negative_prompt": "takes_negative_prompt",
    "guidance_scale": "takes_guidance",
    "num_inference_steps": "takes_steps",
    "scheduler": "takes_scheduler",
    "seed": "takes_seed",
}


def unused_of(info: ModelInfo) -> list[str]:
    """The sampling parameters that a model does not take."""
    unused = [name for name, flag in _TAKES.items() if not getattr(info, flag)]
    return [*unused, *(["strength"] if info.strength is None else [])]


def size_for(source: Size, info: ModelInfo, max_side: int | None) -> Size:
    """The size of an image made from a picture: the picture's, made smaller where it must, and what the model draws."""
    width, height = source
    shrink = min(1.0, (max_side or max(source)) / max(source))
    width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
    if not info.as_received:
        return width, height
    if info.sizes:
        return min(info.sizes, key=lambda size: (abs(math.log(size[0] * height / size[1] / width)), -size[0] * size[1]))
    multiple = info.size_multiple
    return max(1, round(width / multiple)) * multiple, max(1, round(height / multiple)) * multiple


def complete(options: TableOptions, info: ModelInfo, step: Mapping[str, Any]) -> Denoising:
    """Fill in what the user left to the model, and the seed: the one written down before, or a new one."""
    given = {name: getattr(options, name) for name in options.sampling.model_fields}
    for name, value in given.items():
        if value is None:
            given[name] = getattr(info, name)
    given["negative_prompt"] = given["negative_prompt"] if info.takes_negative_prompt else ""
    given["guidance_scale"] = given["guidance_scale"] if info.takes_guidance else 0.0
    given["num_inference_steps"] = given["num_inference_steps"] if info.takes_steps else 0
    given["scheduler"] = given["scheduler"] if info.takes_scheduler else ""
    if "strength" in given and info.strength is None:
        given["strength"] = 0.0
    if given["seed"] < 0:
        given["seed"] = step.get("seed", secrets.randbelow(SEED_LIMIT))
    # What the user gave has been checked; the model's own may be 0 for "the server's own".
    return options.sampling.model_construct(**given)


def check_requests(operator: str, plan: Plan, info: ModelInfo) -> None:
    """Raise UsageError for a size or a scheduler the model does not have, before anything is loaded."""
    asked = plan.sampling.model_dump()
    asked_for: dict[tuple[Any, ...], Request] = {}
    for requests, _ in plan.examples():
        for request in requests:
            if not request.original:
                own = () if request.columns.get("source_image") else request.size
                asked_for.setdefault((request.scheduler, *own), request)
    for (scheduler, *size), request in asked_for.items():
        usual = [asked["scheduler"], *(asked[name] for name in ("width", "height")[: len(size)])] == [scheduler, *size]
        where = f"{operator}:" if usual else f"{operator}: row `{request.id}`:"
        if info.schedulers and scheduler not in info.schedulers:
            raise UsageError(
                f"{where} `scheduler`: `{info.name}` has no `{scheduler}`",
                did_you_mean(scheduler, info.schedulers) or f"known: {', '.join(info.schedulers)}",
            )
        # A picture's own size is fitted to the model.
        if size:
            _check_size(where, request.size, info)


def _check_size(where: str, size: Size, info: ModelInfo) -> None:
    width, height = size
    for name, value in (("width", width), ("height", height)):
        over = value % info.size_multiple
        if over:
            raise UsageError(
                f"{where} `{name}`: {value} is not a multiple of {info.size_multiple}, as `{info.name}` needs",
                f"the nearest are {value - over or info.size_multiple} and {value - over + info.size_multiple}",
            )
    if info.sizes and size not in info.sizes:
        raise UsageError(
            f"{where} `width`, `height`: `{info.name}` does not draw {width}×{height}",
            f"it draws {', '.join(f'{w}×{h}' for w, h in info.sizes)}",
        )
    if width * height > MAX_PIXELS:
        raise UsageError(f"{where} {width}×{height} are more than {MAX_PIXELS:,} pixels", "ask for a smaller size")


def left_out(unused: Iterable[str], options: TableOptions, rows: Sequence[Row], info: ModelInfo) -> list[str]:
    """Say what was asked for and the model does not take."""
    alike = [row for row, _ in kinds(rows)]
    given = {name: getattr(options, name) for name in options.sampling.model_fields}
    asked = {
        "negative_prompt": bool(given["negative_prompt"]) or any(row.negative_prompt for row in alike),
        "seed": given["seed"] >= 0 or any("seed" in row.overrides for row in alike),
    }
    for name in ("guidance_scale", "num_inference_steps", "scheduler", "strength"):
        asked[name] = given.get(name) is not None or any(name in row.overrides for row in alike)
    return [f"`{info.name}` takes no `{name}`: images and records have none" for name in unused if asked[name]]


def unguided(plan: Plan, info: ModelInfo) -> list[str]:
    """Say that negative prompts were asked for where they have no effect."""
    asked = bool(plan.sampling.negative_prompt) or any(row.negative_prompt for row, _ in plan.kinds)
    low = any(request.guidance_scale <= info.guided_above for requests, _ in plan.examples() for request in requests)
    if not (asked and low and info.takes_negative_prompt):
        return []
    return [f"no negative prompt has an effect at a guidance scale of {info.guided_above:g} or less: records have none"]
