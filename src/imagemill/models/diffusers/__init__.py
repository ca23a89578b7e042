"""Local diffusers pipelines: a folder or a hub id."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from imagemill.devices import OnDevice
from imagemill.errors import ModelError, UsageError
from imagemill.hub import Hub, allow_code, import_package, is_folder, license_of, read_config, revision_of, stamp_of
from imagemill.models.base import Measured, Model, ModelInfo, Result
from imagemill.models.diffusers.folders import Lora, check_safe, pipeline_of
from imagemill.models.diffusers.schedulers import scheduler_name, scheduler_table
from imagemill.models.diffusers.traits import Traits, family_of, general_traits, parameters, traits, vae_factor
from imagemill.records import Batch, Request, Size

if TYPE_CHECKING:
    from imagemill.models.diffusers.engine import Engine


class Pipeline(OnDevice, Model):
    """A diffusers pipeline in a folder."""

    batch_size: ClassVar[int | None] = None
    """The most that suits the model everywhere; None to measure it."""

    exact: bool = True
    """The same bits whatever else is in a batch: short ones are padded, and kernels are not chosen by speed alone."""
    compile: bool = False
    """Compile the denoiser: slower to start, faster from then on."""
    attention: str = "default"
    """How attention is computed, by diffusers' names, such as `native`, `flash`, `_flash_3` or `xformers`."""
    offload: Literal["none", "model", "sequential"] = "none"
    """For a small GPU: only the part at work (`model`), or only its layer (`sequential`), is in its memory; slower."""
    safety_retries: int = Field(2, ge=0, le=100)
    """Other seeds tried when the model's own safety checker, where it has one, blocks a picture."""
    image_guidance_scale: float = Field(1.5, ge=1, le=100)
    """How strongly the source picture is followed, where a pipeline takes that."""

    @abstractmethod
    def folder(self, weights: bool = True) -> Path:
        """The folder with `model_index.json`, perhaps without weights; raises UsageError when there is none."""

    @abstractmethod
    def model_name(self) -> str:
        """As records say it."""

    def resolve(self, known: Mapping[str, Any], workers: int) -> Self:
        """Also check that the device is there, and that attention runs no code from the hub."""
        if self.attention.endswith("_hub"):
            raise UsageError(f"`attention`: `{self.attention}` is code from the hub", "take one without `_hub`")
        resolved = super().resolve(known, workers)
        resolved.check_device()
        if resolved.device == "cpu" and self.offload != "none":
            raise UsageError("`offload` brings parts of a model to a GPU, and `device` is `cpu`", "leave it out")
        return resolved

    def automatic(self, workers: int) -> Mapping[str, Any]:
        """What suits this machine."""
        return self.suitable(workers)

    def info(self) -> ModelInfo:
        """Read the folder's configuration files."""
        folder = self.folder(weights=False)
        index = read_config(folder / "model_index.json")
        denoiser = _part(folder, index, "unet", "transformer")
        vae = _part(folder, index, "vae", "vqvae")
        own = _part(folder, index, "scheduler")
        found = self._traits(index, denoiser)
        factor = vae_factor(vae)
        side = denoiser.get("sample_size") or 1024 // factor
        height, width = side if isinstance(side, list) else (side, side)
        return ModelInfo(
            name=self.model_name(),
            revision=revision_of(folder),
            width=width * factor,
            height=height * factor,
            num_inference_steps=found.num_inference_steps,
            guidance_scale=found.guidance_scale,
            scheduler=scheduler_name(own),
            schedulers=tuple(dict.fromkeys([*scheduler_table(own), scheduler_name(own)])),
            batch_size=self.batch_size or found.batch_size,
            takes_negative_prompt=found.takes_negative_prompt,
            takes_guidance=found.takes_guidance,
            most_images=found.pictures.most_images,
            needs_images=found.pictures.needs_images,
            takes_mask=found.pictures.needs_mask,
            needs_mask=found.pictures.needs_mask,
            strength=found.pictures.strength,
            per_row_guidance=found.per_row_guidance,
            guided_above=1.0 if found.per_row_guidance else -1.0,
            size_multiple=max(8, factor * found.size_factor),
            license=license_of(folder),
            # Who draws in a loop of ours also counts what the tokenizer drops.
            columns={"redrawn": 0, **({"dropped_tokens": 0} if found.per_row_guidance else {})},
        )

    def measure(self, sizes: Mapping[Size, int], chosen: Mapping[Size, int]) -> Measured:
        """Load and measure."""
        if self.batch_size:
            # Passes of equal size, so that the last one is not padded much.
            passes = {size: math.ceil(count / self.batch_size) for size, count in sizes.items()}
            chosen = {size: math.ceil(count / passes[size]) for size, count in sizes.items()} | dict(chosen)
        info = self.info()
        example = Request(
            0, 0, 1, "0", "a picture", "", 1, info.width, info.height, 2, info.guidance_scale, info.scheduler
        )
        return engine_of(self).measure(sizes, example, chosen)

    def make(self, batches: Iterable[Batch]) -> Iterator[Result]:
        """Load the pipeline once and run it over the batches."""
        yield from engine_of(self).make(batches)

    def loras(self) -> list[tuple[Path, float]]:
        """LoRA files with their scales."""
        return []

    def load_options(self) -> dict[str, Any]:
        """More arguments for diffusers' `from_pretrained`."""
        return {}

    def _traits(self, index: Mapping[str, Any], denoiser: Mapping[str, Any]) -> Traits:
        family = family_of(index["_class_name"], index)
        return traits(family, self.model_name(), denoiser) if family else general_traits(_class_of(index))


class Diffusers(Pipeline):
    """Any pipeline of diffusers that makes images from text, or from text and images."""

    model: str
    """A folder in diffusers' format, or the id of one on the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub; resolved to a commit, which is kept for the whole dataset."""
    variant: str | None = None
    """Which of several sets of weights to load, such as `fp16`."""
    lora: tuple[str, ...] = ()
    """Weights to add: `FILE-OR-HUB-ID[@REVISION][:SCALE]`; may be repeated."""
    trust_remote_code: bool = False
    """Let the model run code of its own; only together with the exact `--revision` that has been read."""
    hf_cache_dir: str | None = Field(None, exclude=True)
    """Folder for what comes from the hub, instead of the one in `HF_HOME`; not written down."""
    offline: bool = Field(False, exclude=True)
    """Do not ask the hub; what is not in the cache is an error. Not written down."""

    def resolve(self, known: Mapping[str, Any], workers: int) -> Self:
        """Also pin the revisions of model and LoRAs; what an earlier run pinned stays."""
        resolved = super().resolve(known, workers)
        revision = self.revision or known.get("revision")
        if not is_folder(self.model):
            revision = self._hub().commit(self.model, revision)
        before = {(lora.name, lora.scale): lora for lora in map(Lora.parse, known.get("lora", ()))}
        asked = [Lora.parse(text) for text in self.lora]
        # A file is hashed again; what a branch on the hub stood for once stays.
        kept = [
            before.get((lora.name, lora.scale), lora) if not lora.revision and not Path(lora.name).exists() else lora
            for lora in asked
        ]
        pinned = tuple(str(lora.pinned(self._hub())) for lora in kept)
        return resolved.model_copy(update={"revision": revision, "lora": pinned})

    def folder(self, weights: bool = True) -> Path:
        """The folder itself, or the hub's copy in the cache; nothing in it may be a pickle or run code."""
        path = Path(self.model)
        if not is_folder(self.model):
            hub = self._hub()
            code = {"trust_remote_code": True} if self.trust_remote_code else {}
            path = (
                pipeline_of(hub, self.model, self.revision, variant=self.variant, **code)
                if weights
                else hub.files(self.model, self.revision)
            )
        if not (path / "model_index.json").is_file():
            raise UsageError(f"`{self.model}` holds no diffusers pipeline: no model_index.json", "name its folder")
        # To hash the weights takes long, and only here somebody asks.
        found = revision_of(path) if self.revision or self.trust_remote_code else None
        if self.revision not in (None, found) and is_folder(self.model):
            raise UsageError(f"`{self.model}` is now `{found}`, not `{self.revision}`", "bring that one back")
        if self.trust_remote_code:
            if self.revision != found:
                raise UsageError(
                    "`trust_remote_code` needs the exact revision whose code has been read",
                    f"it is now `--revision {found}`",
                )
            allow_code()
        check_safe(path, read_config(path / "model_index.json"), self.trust_remote_code)
        return path

    def model_name(self) -> str:
        """The folder or id as given."""
        return self.model

    def loras(self) -> list[tuple[Path, float]]:
        """The files, checked to be the ones that were pinned."""
        pinned = [Lora.parse(text).pinned(self._hub()) for text in self.lora]
        return [(lora.file(self._hub()), lora.scale) for lora in pinned]

    def load_options(self) -> dict[str, Any]:
        """Variant and permission."""
        code = {"trust_remote_code": True} if self.trust_remote_code else {}
        return {"variant": self.variant, **code}

    def _hub(self) -> Hub:
        return Hub(self.hf_cache_dir, self.offline)


def _part(folder: Path, index: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The configuration of the first of these parts that a pipeline has."""
    for name in names:
        if name in index:
            path = folder / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
            return read_config(path)
    return {}


def _class_of(index: Mapping[str, Any]) -> type:
    """The pipeline that a model's folder is made for; raises UsageError."""
    name = str(index["_class_name"])
    found: type | None = getattr(import_package("diffusers"), name, None)
    if found is None:
        raise UsageError(f"diffusers has no pipeline `{name}`", "a newer diffusers may have it")
    return found


_LOADED: dict[tuple[Any, ...], Engine] = {}
"""The engine of this process, by its options and files: there is room for one."""


def engine_of(options: Pipeline) -> Engine:
    """The loaded pipeline; raises UsageError and ModelError."""
    folder = options.folder()
    key = (options, stamp_of(folder))
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = _load(options, folder)
    return _LOADED[key]


def _load(options: Pipeline, folder: Path) -> Engine:
    """Load a pipeline onto its device; raises UsageError and ModelError."""
    # Must stand before the device is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch, diffusers = import_package("torch"), import_package("diffusers")
    from imagemill.models.diffusers.engine import Engine

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers = import_package("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if isinstance(options.threads, int):
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.deterministic = options.exact
    torch.backends.cudnn.benchmark = not options.exact
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not options.exact
    index = read_config(folder / "model_index.json")
    as_it_is = family_of(index["_class_name"], index) or "image" in parameters(_class_of(index))
    loader = diffusers.DiffusionPipeline if as_it_is else diffusers.AutoPipelineForText2Image
    try:
        pipeline = loader.from_pretrained(
            folder,
            dtype=getattr(torch, options.dtype),
            use_safetensors=True,
            local_files_only=True,
            **options.load_options(),
        )
        _add_loras(pipeline, options.loras())
        _place(pipeline, options)
    except UsageError:
        raise
    except Exception as error:  # a damaged file, an absent package, a device without memory: each has its own class
        raise ModelError(f"`{options.model_name()}` cannot be loaded: {error}", "see `imagemill doctor`") from error
    pipeline.set_progress_bar_config(disable=True)
    return Engine(pipeline, options.exact, options.safety_retries, options.image_guidance_scale)


def _add_loras(pipeline: Any, loras: list[tuple[Path, float]]) -> None:
    """Add LoRAs to the weights themselves, one after the other: then they cost nothing."""
    for file, scale in loras:
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="lora", local_files_only=True)
        changed = list(pipeline.get_list_adapters())
        if not changed:
            raise UsageError(f"the LoRA `{file}` has no weights for this pipeline", "it may be made for another family")
        pipeline.fuse_lora(components=changed, lora_scale=scale)
        pipeline.unload_lora_weights()


def _place(pipeline: Any, options: Pipeline) -> None:
    """Bring a pipeline to its device, in the form that is fastest there."""
    torch = import_package("torch")
    unet, vae = getattr(pipeline, "unet", None), getattr(pipeline, "vae", None)
    denoiser: Any = unet or getattr(pipeline, "transformer", None)
    if vae is not None and vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False):
        # Its values do not fit into half precision.
        vae.to(torch.float32)
    if options.offload == "model":
        pipeline.enable_model_cpu_offload(device=options.device)
    elif options.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=options.device)
    else:
        pipeline.to(options.device)
    if options.attention != "default":
        denoiser.set_attention_backend(options.attention)
        taken = [getattr(module, "processor", None) for module in denoiser.modules()]
        if not any(getattr(processor, "_attention_backend", None) for processor in taken):
            raise UsageError(f"`{type(denoiser).__name__}` has no choice of attention", "leave out `attention`")
    if options.device != "cpu":
        for part in (unet, vae):
            if part is not None:
                part.to(memory_format=torch.channels_last)
    if options.compile:
        # A graph for each shape: one for all of them would depend on the order in which they come.
        torch._dynamo.config.recompile_limit = 256
        if unet is None and getattr(denoiser, "_repeated_blocks", None):
            denoiser.compile_repeated_blocks(fullgraph=True, dynamic=False)
        else:
            denoiser.compile(dynamic=False)
