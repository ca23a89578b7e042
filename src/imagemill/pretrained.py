"""Models of transformers' in folders and on the hub: which version, loaded with nothing but safetensors."""

from __future__ import annotations

import math
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import Field

from imagemill.devices import OnDevice, failure_of
from imagemill.environment import package_version
from imagemill.errors import MissingExtra, ModelError, UsageError
from imagemill.hub import Hub, check_weights, import_package, is_folder, license_of, revision_of

_LOADING = threading.Lock()
_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "README.md"]
_WEIGHTS = ["*.safetensors"]

Item = TypeVar("Item")
Found = TypeVar("Found")


class LocalModel(OnDevice):
    """A model of transformers in a folder."""

    @abstractmethod
    def folder(self, weights: bool = True) -> Path:
        """The folder with `config.json`, perhaps without weights; raises UsageError when there is none."""

    @abstractmethod
    def model_name(self) -> str:
        """As datasets say it."""

    def described(self) -> tuple[str, str, str]:
        """Name, exact version and license, as the folder says without being loaded; raises UsageError."""
        folder = self.folder(weights=False)
        return self.model_name(), revision_of(folder), license_of(folder)

    def resolve(self, known: Mapping[str, Any], workers: int) -> Self:
        """Also check that the device is there."""
        left = [name for name in type(self).model_fields if getattr(self, name) == "auto"]
        chosen = {**(self.suitable(workers) if set(left) - set(known) else {}), **known}
        resolved = self.model_copy(update={name: chosen[name] for name in left})
        resolved.check_device()
        return resolved


class Pretrained(LocalModel):
    """A model in a folder or on the hub."""

    built_in: ClassVar[Mapping[str, str]] = {}
    """Folders of the package's own weights, by the names that stand for them."""

    model: str
    """A folder in transformers' format, or the id of one on the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub; resolved to a commit, which is kept for the whole column."""
    hf_cache_dir: str | None = Field(None, exclude=True)
    """Folder for what comes from the hub, instead of the one in `HF_HOME`; not written down."""
    offline: bool = Field(False, exclude=True)
    """Do not ask the hub; what is not in the cache is an error. Not written down."""

    def resolve(self, known: Mapping[str, Any], workers: int) -> Self:
        """Also pin the revision; what an earlier run pinned stays."""
        revision = self.revision or known.get("revision")
        if self.model not in self.built_in and not is_folder(self.model):
            revision = Hub(self.hf_cache_dir, self.offline).commit(self.model, revision)
        return super().resolve(known, workers).model_copy(update={"revision": revision})

    def folder(self, weights: bool = True) -> Path:
        """The folder itself, or the hub's copy in the cache; no weights in it may be a pickle."""
        path, here = Path(self.model), True
        if self.model in self.built_in:
            path = Path(__file__).parent / "weights" / self.built_in[self.model]
        elif not is_folder(self.model):
            # Folders below hold the same weights in other formats.
            which = {"allow_patterns": [*_FILES, *(_WEIGHTS if weights else ())], "ignore_patterns": ["*/*"]}
            hub = Hub(self.hf_cache_dir, self.offline)
            path = hub.fetched(import_package("huggingface_hub").snapshot_download, self.model, self.revision, **which)
            here = False
        if not (path / "config.json").is_file():
            raise UsageError(f"`{self.model}` holds no transformers model: no config.json", "name its folder")
        if here and self.revision not in (None, found := revision_of(path)):
            raise UsageError(f"`{self.model}` is now `{found}`, not `{self.revision}`", "bring that one back")
        check_weights(path)
        if weights and not any(path.glob("*.safetensors")):
            raise UsageError(
                f"`{self.model}` has no weights in the format safetensors",
                "take another revision, such as one of its pull requests: `--revision refs/pr/1`",
            )
        return path

    def model_name(self) -> str:
        """The folder or id as given, or the name of what is built in."""
        return self.built_in.get(self.model, self.model)


class Kept(Generic[Found]):
    """What this process has loaded: so many at most, the latest stay."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._found: dict[tuple[Any, ...], Found] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...], loaded: Callable[[], Found]) -> Found:
        """What is kept under a key, or what is loaded now, when there is room for it."""
        # Scorers that share a model ask for it at once, each in its thread.
        with self._lock:
            if key in self._found:
                found = self._found.pop(key)
            else:
                # First, so that both are never in memory.
                while len(self._found) >= self._room:
                    del self._found[next(iter(self._found))]
                found = loaded()
            self._found[key] = found
        return found


def load(
    options: LocalModel,
    folder: Path,
    task: str,
    reader: Literal["AutoProcessor", "AutoImageProcessor", "AutoTokenizer"] = "AutoProcessor",
) -> tuple[Any, Any]:
    """Load what prepares inputs and a model onto its device, each by the name of its class in transformers.

    Raises UsageError and ModelError.
    """
    # Several scorers load at once, each in its thread, and what transformers imports late is not made for that.
    with _LOADING:
        return _loaded(options, folder, task, reader)


def _loaded(options: LocalModel, folder: Path, task: str, reader: str) -> tuple[Any, Any]:
    torch, transformers = import_package("torch"), import_package("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if isinstance(options.threads, int):
        torch.set_num_threads(options.threads)
    # Said outright, or a terminal would be asked whether code may run.
    common = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = getattr(transformers, reader).from_pretrained(folder, **common)
        model, loaded = getattr(transformers, task).from_pretrained(
            folder, use_safetensors=True, dtype=getattr(torch, options.dtype), output_loading_info=True, **common
        )
        _check_whole(processor, reader, model, loaded["missing_keys"])
        return processor, model.to(options.device).eval()
    except Exception as error:  # a damaged file, an absent package, a device without memory: each has its own class
        name, text = options.model_name(), " ".join(str(error).split())
        if "trust_remote_code" in text:
            raise UsageError(f"`{name}` brings code of its own, which is not run", "take another model") from error
        for package in ("torchvision", "sentencepiece", "protobuf"):
            if package in text.lower() and not package_version(package):
                raise MissingExtra(package, package) from error
        raise ModelError(f"`{name}` cannot be loaded: {text[:500]}", "see `imagemill doctor`") from error


def _check_whole(processor: Any, reader: str, model: Any, absent: Iterable[str]) -> None:
    """Raise ValueError where transformers has made up what a folder does not hold, and would go on."""
    if absent:
        raise ValueError(f"its weights lack {', '.join(sorted(absent)[:3])}")
    if reader == "AutoImageProcessor":
        return
    tokenizer = processor if reader == "AutoTokenizer" else getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise ValueError("its folder has no processor for images and texts together")
    # The model may have room for more words than there are, not for so many.
    known, words = len(tokenizer), getattr(model.config.get_text_config(decoder=True), "vocab_size", 0)
    if known < words / 2:
        raise ValueError(f"its tokenizer has {known:,} words and the model {words:,}: a file is absent")


def conversation(processor: Any, prompt: str, images: int) -> tuple[str, dict[str, Any]]:
    """The text that asks about images, for a processor with a chat template, and how that is to read it."""
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": prompt}]
    said = [{"role": "user", "content": content}]
    text = str(processor.apply_chat_template(said, add_generation_prompt=True))
    begins = processor.tokenizer.bos_token
    return text, {"add_special_tokens": False} if begins and text.startswith(begins) else {}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is nothing for an item."""

    reason: Literal["oom", "model_error"]
    message: str


class Batches(Generic[Item, Found]):
    """Items in batches that all have one shape, so that what comes of one does not depend on the others."""

    def __init__(self, compute: Callable[[Sequence[Item]], Sequence[Found]], size: int, device: str) -> None:
        self._compute, self._size, self._device = compute, size, device

    def run(self, items: Sequence[Item]) -> list[Found | Failure]:
        """What comes of each item, in their order.

        Batches are smaller from then on where one does not fit into memory; what fails otherwise is tried one by one.
        Raises ModelError when the device is lost.
        """
        found: list[Found | Failure] = []
        while len(found) < len(items):
            found += self._tried(items[len(found) : len(found) + self._size])
        return found

    def _tried(self, items: Sequence[Item]) -> list[Found | Failure]:
        try:
            return list(self._compute([*items, *[items[-1]] * (self._size - len(items))])[: len(items)])
        except Exception as error:  # noqa: BLE001 - whatever a model raises is a failure of these items
            memory, message = failure_of(error)
        if memory and self._device.startswith("cuda"):
            import_package("torch").cuda.empty_cache()
        if memory and self._size > 1:
            self._size = math.ceil(self._size / 2)
            return self.run(items)
        if len(items) > 1:
            return [found for item in items for found in self._tried([item])]
        return [Failure("oom" if memory else "model_error", message)]
