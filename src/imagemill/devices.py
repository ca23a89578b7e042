"""Where a model of PyTorch's runs, and in which numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from imagemill.component import Component
from imagemill.environment import cores
from imagemill.errors import ModelError, UsageError
from imagemill.hub import import_package


def failure_of(error: Exception) -> tuple[bool, str]:
    """Whether an exception means that memory was not enough, and its words.

    Raises ModelError when the device is lost, since nothing works after that.
    """
    text = str(error)
    memory = (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(sign in text for sign in ("can't allocate memory", "out of memory", "ALLOC_FAILED"))
    )
    if type(error).__name__ == "AcceleratorError" and not memory:
        raise ModelError(f"the device stopped working: {text[:500]}", "the same command continues") from error
    return memory, f"{type(error).__name__}: {text}"[:500]


class OnDevice(Component):
    """A component that computes with PyTorch."""

    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    """Where it runs: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Number format of the weights; `auto` is float32 on a CPU and bfloat16 elsewhere."""
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """CPU threads; they decide the last bits, so they are kept for the whole dataset."""

    def check_device(self) -> None:
        """Raise UsageError when the device is not there."""
        if self.device == "mps" and not import_package("torch").backends.mps.is_available():
            raise UsageError("`mps` is not there", "see `imagemill doctor`")
        if self.device.startswith("cuda"):
            count = import_package("torch").cuda.device_count()
            if int(self.device.partition(":")[2] or 0) >= count:
                raise UsageError(f"there is no device `{self.device}`: {count} CUDA devices", "see `imagemill doctor`")

    def suitable(self, workers: int) -> Mapping[str, Any]:
        """Take the best device that is there, and share its cores."""
        torch = import_package("torch")
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        fast = device != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
        return {
            "device": device,
            "dtype": "float32" if device == "cpu" else "bfloat16" if fast else "float16",
            # Elsewhere than on the CPU they decide nothing, and must not depend on how many work.
            "threads": max(1, cores() // workers) if device == "cpu" else 1,
        }
