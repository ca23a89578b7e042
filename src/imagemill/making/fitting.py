"""What is asked of a model, made to fit what it takes: completed, checked, and what has no effect said."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from imagemill.errors import UsageError, did_you_mean
from imagemill.images import MAX_PIXELS
from imagemill.models.base import ModelInfo
from imagemill.plan import Plan
from imagemill.records import SEED_LIMIT, Row, Sampling

_TAKES = {
    "negative_prompt": "takes_negative_prompt",
    "guidance_scale": "takes_guidance",
    "num_inference_steps": "takes_steps",
    "scheduler": "takes_scheduler",
    "seed": "takes_seed",
}


def unused_of(info: ModelInfo) -> list[str]:
    """The sampling parameters that a model does not take."""
    return [name for name, flag in _TAKES.items() if not getattr(info, flag)]


def complete(options: Sampling, info: ModelInfo, step: Mapping[str, Any]) -> Sampling:
    """Fill in what the user left to the model, and the seed: the one written down before, or a new one."""
    given = {name: getattr(options, name) for name in Sampling.model_fields}
    for name, value in given.items():
        if value is None:
            given[name] = getattr(info, name)
    given["negative_prompt"] = given["negative_prompt"] if info.takes_negative_prompt else ""
    given["guidance_scale"] = given["guidance_scale"] if info.takes_guidance else 0.0
    given["num_inference_steps"] = given["num_inference_steps"] if info.takes_steps else 0
    given["scheduler"] = given["scheduler"] if info.takes_scheduler else ""
    if given["seed"] < 0:
        given["seed"] = step.get("seed", secrets.randbelow(SEED_LIMIT))
    # What the user gave has been checked; the model's own may be 0 for "the server's own".
    return Sampling.model_construct(**given)


def check_requests(plan: Plan, info: ModelInfo) -> None:
    """Raise UsageError for a size or a scheduler the model does not have, before anything is loaded."""
    kinds = {(request.width, request.height, request.scheduler): request for request in plan.requests()}
    for (width, height, scheduler), request in kinds.items():
        own = (plan.sampling.width, plan.sampling.height, plan.sampling.scheduler) != (width, height, scheduler)
        where = f"generate: row `{request.id}`:" if own else "generate:"
        if info.schedulers and scheduler not in info.schedulers:
            raise UsageError(
                f"{where} `scheduler`: `{info.name}` has no `{scheduler}`",
                did_you_mean(scheduler, info.schedulers) or f"known: {', '.join(info.schedulers)}",
            )
        for name, value in (("width", width), ("height", height)):
            over = value % info.size_multiple
            if over:
                raise UsageError(
                    f"{where} `{name}`: {value} is not a multiple of {info.size_multiple}, as `{info.name}` needs",
                    f"the nearest are {value - over or info.size_multiple} and {value - over + info.size_multiple}",
                )
        if info.sizes and (width, height) not in info.sizes:
            raise UsageError(
                f"{where} `width`, `height`: `{info.name}` does not draw {width}×{height}",
                f"it draws {', '.join(f'{w}×{h}' for w, h in info.sizes)}",
            )
        if width * height > MAX_PIXELS:
            raise UsageError(f"{where} {width}×{height} are more than {MAX_PIXELS:,} pixels", "ask for a smaller size")


def left_out(unused: Iterable[str], options: Sampling, rows: Iterable[Row], info: ModelInfo) -> list[str]:
    """Say what was asked for and the model does not take."""
    asked = {
        "negative_prompt": bool(options.negative_prompt) or any(row.negative_prompt for row in rows),
        "seed": options.seed >= 0 or any("seed" in row.overrides for row in rows),
    }
    for name in ("guidance_scale", "num_inference_steps", "scheduler"):
        asked[name] = getattr(options, name) is not None or any(name in row.overrides for row in rows)
    return [f"`{info.name}` takes no `{name}`: images and records have none" for name in unused if asked[name]]


def unguided(options: Sampling, plan: Plan, info: ModelInfo) -> list[str]:
    """Say that negative prompts were asked for where they have no effect."""
    asked = bool(options.negative_prompt) or any(row.negative_prompt for row in plan.rows)
    low = any(request.guidance_scale <= info.guided_above for request in plan.requests())
    if not (asked and low and info.takes_negative_prompt):
        return []
    return [f"no negative prompt has an effect at a guidance scale of {info.guided_above:g} or less: records have none"]
