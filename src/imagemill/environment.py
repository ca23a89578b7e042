"""What this machine is and has: versions, processor, device."""

from __future__ import annotations

import os
import platform
import zlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "imagemill", "numpy", "pillow", "pyarrow", "torch", "diffusers", "transformers", "tokenizers", "safetensors",
    "accelerate", "peft", "datasets",
)  # fmt: skip


def package_version(name: str) -> str:
    """The installed version of a package, empty when it is absent."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cuda_devices() -> list[str]:
    """The names of the CUDA devices that PyTorch can use; none without PyTorch."""
    if not package_version("torch"):
        return []
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def means_path(name: str) -> bool:
    """Whether a name can only be that of a file or folder, and not one on the hub."""
    return name.startswith((".", "/", "~"))


def environment() -> dict[str, Any]:
    """What decides the bits of an image beside its record."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        **{name: package_version(name) for name in PACKAGES},
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }
