"""Schedulers by their k-diffusion names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
"""k-diffusion names and diffusers' classes with the options that make them so."""

FLOW_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {"euler": ("FlowMatchEulerDiscreteScheduler", {})}
"""The same for models that learned a flow instead of a noise."""


def scheduler_name(config: Mapping[str, Any]) -> str:
    """The k-diffusion name of a scheduler by its configuration; diffusers' class name when it has none."""
    class_name = str(config.get("_class_name", ""))
    for table in (SCHEDULERS, FLOW_SCHEDULERS):
        for name, (candidate, options) in table.items():
            if candidate == class_name and all(config.get(key) == value for key, value in options.items()):
                return name
    return class_name


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration is that of a model that learned a flow."""
    return "FlowMatch" in str(config.get("_class_name", "")) or config.get("prediction_type") == "flow_prediction"


def scheduler_table(config: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """The schedulers that a model with this one of its own can use instead."""
    return FLOW_SCHEDULERS if is_flow(config) else SCHEDULERS
