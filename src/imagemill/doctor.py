"""What this machine can run, and why not."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from imagemill.environment import cores, package_version, processor
from imagemill.terminal import size

_TOKENS = ("HF_TOKEN", "OPENAI_API_KEY")


def findings(folder: Path) -> dict[str, str]:
    """One line on each thing that jobs depend on; tokens are said to be set or not, never shown."""
    found = {
        "imagemill": f"{package_version('imagemill')}, Python {platform.python_version()}",
        "processor": f"{processor()}, {cores()} cores",
        "disk": f"{size(shutil.disk_usage(folder).free)} free in {folder}",
        "local models": _local(),
    }
    found["datasets"] = package_version("datasets") or "not installed: pip install datasets"
    for token in _TOKENS:
        found[token] = "set" if os.environ.get(token) else "not set"
    return found


def _local() -> str:
    versions = {name: package_version(name) for name in ("torch", "diffusers", "transformers")}
    absent = [name for name, version in versions.items() if not version]
    if absent:
        return f"no: {', '.join(absent)} not installed: pip install 'imagemill[local]'"
    import torch

    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        return f"yes: {said}, " + ", ".join(f"{device.name} {size(device.total_memory)}" for device in devices)
    if torch.backends.mps.is_available():
        return f"yes: {said}, Apple GPU"
    return f"yes: {said}, on the CPU: no GPU that torch can use"
