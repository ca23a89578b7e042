"""What every model is: a stream of batches in, a stream of results out."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from imagemill.component import Component, component_names, find_component
from imagemill.environment import means_path
from imagemill.errors import UsageError
from imagemill.records import Batch, FailureReason, Request, Size

if TYPE_CHECKING:
    from imagemill.images import Pixels


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a model before it is loaded."""

    name: str
    """As records say it."""
    revision: str
    """The exact version: a commit, or a hash of the weights."""
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    batch_size: int
    """Requests that share a forward pass when nobody has said or measured how many."""
    takes_negative_prompt: bool = True
    takes_guidance: bool = True
    takes_seed: bool = True
    takes_steps: bool = True
    takes_scheduler: bool = True
    most_images: int = 0
    """Pictures a request may start from."""
    needs_images: bool = False
    """Whether it makes nothing without one."""
    takes_mask: bool = False
    """Whether a request may say where the first picture is to be changed."""
    needs_mask: bool = False
    """Whether a request must say it."""
    strength: float | None = None
    """Its own share of the picture that may change; None when it takes none."""
    per_row_guidance: bool = False
    """Whether requests with different guidance can share a forward pass."""
    guided_above: float = -1.0
    """A negative prompt has an effect only with a guidance scale above it."""
    schedulers: tuple[str, ...] = ()
    """Those it can use, by k-diffusion name; empty when it pays no heed."""
    sizes: tuple[Size, ...] = ()
    """Those it can draw; empty when there are others."""
    size_multiple: int = 1
    """Width and height must be multiples of it."""
    license: str = "unknown"
    """As Hugging Face names it; that of the images may follow from it."""
    note: str = ""
    """One line on what it can draw."""
    seconds_per_image: float | None = None
    """At its own size and steps on this machine; None when nobody knows."""
    bytes_per_image: int | None = None
    """As PNG at its own size; None when nobody knows."""
    reproducibility: str = "batch_shape_exact"
    """`row_exact`: a request alone decides the bits; `batch_shape_exact`: together with batch size, threads, software
    and processor; `seed_only`: the same noise, other bits; `server`: what a server makes of it."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What it adds to records, with the values that stand for an image it has not made."""
    as_received: bool = False
    """Whether results are files, which are kept as they come and carry nothing of ours."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What only a loaded model can tell."""

    batch_sizes: Mapping[Size, int]
    """Requests that share a forward pass, by width and height."""
    reproducibility: str
    """As in ModelInfo."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What decides the bits beside versions and processor: the device's name, the attention backend."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one request ended: with pixels, with a file, or with a reason."""

    request: Request
    """The one asked for; with another seed where the model had to draw again."""
    pixels: Pixels | None = None
    data: bytes | None = None
    """A PNG, JPEG or WebP file, which has been looked at and is kept as it is."""
    reason: FailureReason | None = None
    message: str = ""
    batch_size: int | None = None
    """The size of the batch it was really made in, when that had to be smaller than planned."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What the model adds to the record: the same keys for each of its images."""


DESCRIBE = "Describe this image in one sentence."
"""What a model that answers questions is asked when nobody has said what."""


@dataclass(frozen=True, slots=True)
class Question:
    """Something to ask of images."""

    name: str
    """To tell it from others."""
    prompt: str
    """Empty for a model that only describes what it sees."""
    images: tuple[bytes, ...] = ()
    """PNG, JPEG or WebP files."""
    count: int = 1
    """Replies wanted, different ones when there are several."""
    seed: int = 0
    """Decides how replies differ; from 0 to below 2^32."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a question: texts, or a reason."""

    question: Question
    texts: tuple[str, ...] = ()
    """As many as were wanted."""
    reason: FailureReason | None = None
    message: str = ""


class Model(Component, ABC):
    """Makes images."""

    @abstractmethod
    def info(self) -> ModelInfo:
        """Describe the model without loading it; raises UsageError when it cannot be found."""

    def resolve(self, known: Mapping[str, Any], workers: int) -> Self:
        """Replace every `auto` by what an earlier run took (`known`), or by what this machine suggests."""
        left = [name for name in type(self).model_fields if getattr(self, name) == "auto"]
        if not left:
            return self
        chosen = {**(self.automatic(workers) if set(left) - set(known) else {}), **known}
        return self.model_copy(update={name: chosen[name] for name in left})

    def automatic(self, workers: int) -> Mapping[str, Any]:
        """Say what each parameter that may be `auto` comes to on this machine, shared by `workers` processes."""
        del workers
        return {}

    def measure(self, sizes: Mapping[Size, int], chosen: Mapping[Size, int]) -> Measured:
        """Load and find out what only a loaded model tells, once for a dataset on a machine.

        `sizes` are those of a job's images, with how many of each can share a pass; `chosen` are batch sizes that the
        user or an earlier run has settled. Raises ModelError.
        """
        info = self.info()
        found = {size: chosen.get(size) or min(info.batch_size, count) for size, count in sizes.items()}
        return Measured(found, info.reproducibility)

    def ready(self, workers: int) -> None:
        """Raise UsageError when something is missing that a plan can do without, such as a key."""
        del workers

    def cost(self, request: Request) -> float | None:
        """Dollars that one image costs; None when nobody knows."""
        del request
        return 0.0

    @abstractmethod
    def make(self, batches: Iterable[Batch]) -> Iterator[Result]:
        """Load, then turn batches into results, in any order; a failing request is a result, never an exception.

        Every batch runs at the shape of its `size`, a short one padded, so that an image's bits do not depend on how
        many came with it. Raises ModelError when nothing can go on.
        """


class Described(Protocol):
    """What is known of a model that makes text."""

    @property
    def name(self) -> str:
        """As datasets say it."""

    @property
    def revision(self) -> str:
        """The exact version."""

    @property
    def license(self) -> str:
        """As Hugging Face names it."""


@dataclass(frozen=True, slots=True)
class TextInfo:
    """What is known of a model that makes text and nothing else, before it is loaded."""

    name: str
    revision: str
    license: str = "unknown"


class TextModel(Component, ABC):
    """Makes text about images."""

    @abstractmethod
    def info(self) -> Described:
        """Describe the model without loading it; raises UsageError when it cannot be found."""

    @abstractmethod
    def resolve(self, known: Mapping[str, Any], workers: int) -> Self:
        """Replace every `auto`, as `Model.resolve` does."""

    @abstractmethod
    def ready(self, workers: int) -> None:
        """Raise UsageError when something is missing that a plan can do without, such as a key."""

    @abstractmethod
    def answer(self, questions: Iterable[Question]) -> Iterator[Reply]:
        """Load, then answer questions, in any order; one that fails is a reply with a reason, never an exception.

        Raises ModelError when nothing can go on.
        """


def find_model(name: str, parameters: Mapping[str, Any]) -> Model:
    """Make the model that `--model` names.

    A component (`shapes`), a component with its model (`diffusers:NAME`), or what diffusers loads: a folder or a hub
    id. Raises UsageError for anything else.
    """
    found, parameters = _find(name, parameters, "diffusers")
    if not issubclass(found, Model):
        raise UsageError(f"`{name}` makes no images", "see `imagemill models`")
    return found.parse(parameters, f"model {found.component_name()}")


def text_model_name(name: str) -> str:
    """The model that describes images, where a name stands for a family."""
    return {"shapes": "shapes_captioner"}.get(name, name)


def find_text_model(name: str, parameters: Mapping[str, Any]) -> TextModel:
    """Make the model that describes images: like `find_model`, with transformers for a folder or a hub id."""
    found, parameters = _find(name, parameters, "transformers")
    if not issubclass(found, TextModel):
        raise UsageError(f"`{name}` makes no text", "see `imagemill models`")
    return found.parse(parameters, f"model {found.component_name()}")


def _find(name: str, parameters: Mapping[str, Any], library: str) -> tuple[type[Component], Mapping[str, Any]]:
    """The class that a name means, with the parameters; `library` is what loads folders and hub ids."""
    component, colon, rest = name.partition(":")
    known = component_names("models")
    if colon and component in known:
        parameters = {**parameters, "model": rest}
    elif name not in known and (Path(name).is_dir() or means_path(name) or re.fullmatch(r"[\w.-]+/[\w.-]+", name)):
        component, parameters = library, {**parameters, "model": name}
    else:
        component = name
    return find_component("models", component), parameters
