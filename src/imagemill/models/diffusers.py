"""Local diffusers pipelines: a folder or a hub id."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from imagemill.environment import cores
from imagemill.errors import MissingExtra, ModelError, UsageError
from imagemill.models.base import Model, ModelInfo, Result
from imagemill.records import FailureReason, Request

if TYPE_CHECKING:
    from imagemill.images import Pixels

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

_FAMILIES = {
    "StableDiffusionPipeline": (50, 7.5),
    "StableDiffusionXLPipeline": (50, 5.0),
    "StableDiffusion3Pipeline": (28, 7.0),
    "FluxPipeline": (28, 3.5),
}
"""Steps and guidance that diffusers' own pipelines default to."""

_HASHED = {".json", ".safetensors", ".txt", ".model"}


class Pipeline(Model):
    """A diffusers pipeline in a folder."""

    device: str = "auto"
    """Where it runs: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Number format of the weights; `auto` is float32 on a CPU and bfloat16 elsewhere."""
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """CPU threads; they decide the last bits, so they are kept for the whole dataset."""

    @abstractmethod
    def folder(self) -> Path:
        """The folder with `model_index.json`; raises UsageError when there is none."""

    @abstractmethod
    def model_name(self) -> str:
        """As records say it."""

    def automatic(self, workers: int) -> Mapping[str, Any]:
        """Take the best device that is there, and share its cores."""
        torch = _import("torch")
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return {
            "device": device,
            "dtype": "float32" if device == "cpu" else "bfloat16",
            "threads": max(1, cores() // workers),
        }

    def info(self) -> ModelInfo:
        """Read the folder's configuration files."""
        folder = self.folder()
        index = _config(folder / "model_index.json")
        steps, guidance = _FAMILIES.get(index["_class_name"], (50, 7.5))
        denoiser = _config(folder / ("unet" if "unet" in index else "transformer") / "config.json")
        vae = _config(folder / "vae" / "config.json")
        multiple = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
        side = denoiser.get("sample_size", 128)
        height, width = side if isinstance(side, list) else (side, side)
        return ModelInfo(
            name=self.model_name(),
            revision=revision(folder),
            width=width * multiple,
            height=height * multiple,
            num_inference_steps=steps,
            guidance_scale=guidance,
            scheduler=_scheduler_name(folder),
            schedulers=tuple(dict.fromkeys([*SCHEDULERS, _scheduler_name(folder)])),
            batch_size=8,
            size_multiple=max(8, multiple),
            license=_license(folder),
        )

    def make(self, batches: Iterable[tuple[Request, ...]], batch_size: int) -> Iterator[Result]:
        """Load the pipeline once and run it over the batches."""
        pipeline = self._load()
        schedulers = {_scheduler_name(self.folder()): pipeline.scheduler}
        for batch in batches:
            name = batch[0].scheduler
            if name not in schedulers:
                class_name, options = SCHEDULERS[name]
                config = pipeline.scheduler.config
                schedulers[name] = getattr(_import("diffusers"), class_name).from_config(config, **options)
            pipeline.scheduler = schedulers[name]
            yield from _attempt(pipeline, batch, batch_size)

    def _load(self) -> Any:
        torch = _import("torch")
        diffusers = _import("diffusers")
        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
        _import("transformers").utils.logging.set_verbosity_error()
        if isinstance(self.threads, int):
            torch.set_num_threads(self.threads)
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                self.folder(), dtype=getattr(torch, self.dtype), use_safetensors=True, local_files_only=True
            )
            pipeline.to(self.device)
        except (OSError, ValueError, RuntimeError, AssertionError) as error:
            raise ModelError(f"`{self.model_name()}` cannot be loaded: {error}", "see `imagemill doctor`") from error
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


class Diffusers(Pipeline):
    """Any text-to-image pipeline that diffusers loads."""

    model: str
    """A folder in diffusers' format, or the id of one on the Hugging Face hub."""

    def folder(self) -> Path:
        """The folder itself, or the hub's copy in the cache."""
        path = Path(self.model)
        if not path.is_dir():
            diffusers = _import("diffusers")
            try:
                path = Path(diffusers.DiffusionPipeline.download(self.model, use_safetensors=True))
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"the model `{self.model}` is neither a folder nor on the hub: {error}", "check name and network"
                ) from error
        if not (path / "model_index.json").is_file():
            raise UsageError(f"`{self.model}` holds no diffusers pipeline: no model_index.json", "name its folder")
        return path

    def model_name(self) -> str:
        """The folder or id as given."""
        return self.model


def revision(folder: Path) -> str:
    """The commit of a copy from the hub, else a hash of every configuration and weight file."""
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _HASHED):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _attempt(pipeline: Any, batch: tuple[Request, ...], batch_size: int) -> Iterator[Result]:
    """Run a batch; when it fails, run its requests one by one, so that only the guilty ones fail."""
    try:
        images = _run(pipeline, batch, batch_size)
    except Exception as error:  # noqa: BLE001 - whatever a pipeline raises belongs to its requests
        if len(batch) > 1:
            for request in batch:
                yield from _attempt(pipeline, (request,), batch_size)
        else:
            memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            reason: FailureReason = "oom" if memory else "model_error"
            yield Result(batch[0], reason=reason, message=f"{type(error).__name__}: {error}"[:500])
    else:
        yield from (Result(request, pixels) for request, pixels in zip(batch, images, strict=False))


def _run(pipeline: Any, batch: tuple[Request, ...], batch_size: int) -> list[Pixels]:
    """Return the images of a batch, run at the shape of `batch_size` requests."""
    import numpy as np
    import torch

    padded = (*batch, *[batch[-1]] * (batch_size - len(batch)))
    first = batch[0]
    arguments = {
        "prompt": [request.prompt for request in padded],
        "negative_prompt": [request.negative_prompt for request in padded],
        "width": first.width,
        "height": first.height,
        "num_inference_steps": first.num_inference_steps,
        "guidance_scale": first.guidance_scale,
        # On the CPU, one for each image: the same noise on every device, whatever else is in the batch.
        "generator": [torch.Generator("cpu").manual_seed(request.seed) for request in padded],
        "output_type": "np",
    }
    known = inspect.signature(pipeline.__call__).parameters
    images = pipeline(**{name: value for name, value in arguments.items() if name in known}).images
    return list((images[: len(batch)] * 255).round().astype(np.uint8))


def _scheduler_name(folder: Path) -> str:
    """The k-diffusion name of the pipeline's own scheduler; diffusers' class name when it has none."""
    own = _config(folder / "scheduler" / "scheduler_config.json")
    class_name = str(own.get("_class_name", ""))
    for name, (candidate, options) in SCHEDULERS.items():
        if candidate == class_name and all(own.get(key) == value for key, value in options.items()):
            return name
    return class_name


def _config(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"`{path}` cannot be read: {error}", "is the model's folder complete?") from None
    return dict(value)


def _license(folder: Path) -> str:
    card = folder / "README.md"
    found = re.search(r"^license:\s*(\S+)", card.read_text(errors="replace"), re.MULTILINE) if card.is_file() else None
    return found[1].strip("\"'") if found else "unknown"


def _import(name: str) -> Any:
    """Import a package of the extra `local`, with the settings that must stand before."""
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        return __import__(name)
    except ImportError:
        raise MissingExtra(name, "imagemill[local]") from None
