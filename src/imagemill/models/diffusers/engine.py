"""One loaded pipeline, kept busy: texts encoded once, batches drawn, pictures checked and copied off the device."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from imagemill.devices import failure_of
from imagemill.environment import processor
from imagemill.hub import import_package
from imagemill.models.base import Measured, Result
from imagemill.models.diffusers.families import FAMILIES
from imagemill.models.diffusers.general import General
from imagemill.models.diffusers.schedulers import scheduler_name, scheduler_table
from imagemill.models.diffusers.sources import Sources
from imagemill.models.diffusers.texts import Texts
from imagemill.models.diffusers.traits import family_of
from imagemill.records import Batch, FailureReason, Request, Size

if TYPE_CHECKING:
    from torch import Tensor

    from imagemill.images import Pixels

_FLAT = 2.0
"""A picture whose values deviate less from their mean, of 255, shows nothing."""
_LARGEST = 128
"""The largest batch tried."""
_KNEE = 1.05
"""A batch twice as large must be so much faster for each image."""
_TRIES: dict[FailureReason, int] = {"nan_image": 1, "black_image": 1}
"""How often a picture with such a fault is drawn again."""
_MESSAGES: dict[FailureReason, str] = {
    "nan_image": "the model made values that are not numbers",
    "black_image": "the model made a picture of one color",
    "blocked": "the model's own safety checker blocked the picture",
}


@dataclass(frozen=True, slots=True)
class _Work:
    """A batch with the pictures it starts from, less the requests that cannot be drawn."""

    batch: Batch
    requests: Sequence[Request]
    sources: Sources


@dataclass(slots=True)
class _Drawn:
    """Pictures of one batch on their way from the device."""

    requests: Sequence[Request]
    size: int
    pictures: Tensor
    """[requests, height, width, 3], uint8."""
    faults: Tensor
    """[requests]: 0 none, 1 not finite, 2 flat."""
    arrived: Any
    """What to wait for, None on a CPU."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a pass over a batch ended without pictures."""

    memory: bool
    message: str

    def result(self, request: Request) -> Result:
        return Result(request, reason="oom" if self.memory else "model_error", message=self.message)


class Engine:
    """Draws batches with a loaded pipeline."""

    def __init__(self, pipeline: Any, exact: bool, safety_retries: int, image_guidance_scale: float) -> None:
        """Take a pipeline that stands on its device; with `exact` short batches are padded."""
        import torch

        self.pipeline = pipeline
        self.checker: Any = getattr(pipeline, "safety_checker", None)
        if self.checker is not None:
            # Its call would look by itself, and blacken.
            pipeline.safety_checker = None
        family = FAMILIES.get(family_of(type(pipeline).__name__, pipeline.config), General)
        self.family = family(pipeline, exact, image_guidance_scale)
        self.exact = exact
        self._device: torch.device = self.family.device
        self.texts = Texts(self.family, 1 if self._device.type == "cpu" else 8)
        self._own = {**pipeline.scheduler.config, "_class_name": type(pipeline.scheduler).__name__}
        self._schedulers = {scheduler_name(self._own): pipeline.scheduler}
        self._largest: dict[Size, int] = {}
        cuda: Any = torch.cuda
        self._copies = cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._tries = {**_TRIES, "blocked": safety_retries}

    def make(self, batches: Iterable[Batch]) -> Iterator[Result]:
        """Draw batches; while one is drawn on the device, the one before is copied and checked."""
        ahead = 1 if self._copies else 0
        drawn: deque[tuple[_Work, _Drawn]] = deque()
        for batch in batches:
            work, refused = self._opened(batch)
            yield from refused
            for requests, size in self._cut(work):
                found = self._attempt(requests, size, work.sources)
                if isinstance(found, _Failure):
                    while drawn:
                        yield from self._finish(*drawn.popleft())
                    yield from self._failed(work, requests, size, found)
                else:
                    drawn.append((work, found))
                while len(drawn) > ahead:
                    yield from self._finish(*drawn.popleft())
        while drawn:
            yield from self._finish(*drawn.popleft())

    def _opened(self, batch: Batch) -> tuple[_Work, list[Result]]:
        """Open the pictures of a batch; a request whose picture is missing or damaged has its result already."""
        taken, sources = self.family.pictures, Sources()
        good: list[Request] = []
        refused = []
        for request in batch.requests:
            if taken.needs_images and not request.images:
                message = "the model draws nothing without a picture to start from"
                refused.append(Result(request, reason="bad_request", message=message))
            elif taken.needs_mask and not request.mask:
                message = "the model draws nothing without a mask that says where"
                refused.append(Result(request, reason="bad_request", message=message))
            else:
                try:
                    sources.open(request, self.family.room(request.size), whole=taken.most_images > 1)
                    good.append(request)
                except ValueError as error:
                    refused.append(Result(request, reason="bad_image", message=str(error)))
        return _Work(batch, good, sources), refused

    def _cut(self, work: _Work) -> list[tuple[Sequence[Request], int]]:
        """A batch in as many parts as memory has turned out to demand."""
        size = min(work.batch.size, self._largest.get(work.batch.requests[0].size, work.batch.size))
        return [(work.requests[start : start + size], size) for start in range(0, len(work.requests), size)]

    def _attempt(self, requests: Sequence[Request], size: int, sources: Sources) -> _Drawn | _Failure:
        """Draw, and take whatever a pipeline raises for a failure of these requests."""
        try:
            return self._draw(requests, size, sources)
        except Exception as error:  # noqa: BLE001 - see above
            failure = _Failure(*failure_of(error))
        # Not before the exception is gone does it let go of the tensors of its pass.
        self._empty_cache(failure)
        return failure

    def _failed(self, work: _Work, requests: Sequence[Request], size: int, failure: _Failure) -> Iterator[Result]:
        """Try in halves what did not fit into memory, and one by one what failed otherwise."""
        if failure.memory and size > 1:
            size = math.ceil(size / 2)
            self._largest[requests[0].size] = min(size, self._largest.get(requests[0].size, size))
            parts = [requests[start : start + size] for start in range(0, len(requests), size)]
        elif len(requests) > 1:
            parts = [[request] for request in requests]
        else:
            yield failure.result(requests[0])
            return
        for part in parts:
            found = self._attempt(part, size, work.sources)
            if isinstance(found, _Failure):
                yield from self._failed(work, part, size, found)
            else:
                yield from self._finish(work, found)

    def _drawn(self, requests: Sequence[Request], size: int, sources: Sources) -> Tensor:
        """Draw in the next size that the model can draw, and cut that back."""
        width, height = requests[0].size
        room = self.family.room((width, height))
        given = [replace(request, width=room[0], height=room[1]) for request in requests]
        missing = size - len(requests) if self.exact else 0
        self.pipeline.scheduler = self._scheduler(requests[0].scheduler)
        images = self.family.draw([*given, *[given[-1]] * missing], self.texts, sources)[: len(requests)]
        if images.shape[-2:] != room[::-1]:
            raise ValueError(f"the model made a picture of {images.shape[-1]}×{images.shape[-2]} pixels")
        return images[..., :height, :width]

    def _draw(self, requests: Sequence[Request], size: int, sources: Sources) -> _Drawn:
        import torch

        with torch.inference_mode():
            images = self._drawn(requests, size, sources).float()
            whole = images.isfinite().flatten(1).all(1)
            flat = images.clamp(0, 1).mul(255).flatten(2).std(2).amax(1) < _FLAT
            faults = torch.where(whole, flat.to(torch.uint8) * 2, torch.ones_like(flat, dtype=torch.uint8))
            pictures = images.nan_to_num(0).clamp(0, 1).mul(255).round().to(torch.uint8)
            pictures = pictures.permute(0, 2, 3, 1).contiguous()
            if self._copies is None:
                return _Drawn(requests, size, pictures.cpu(), faults.cpu(), None)
            self._copies.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._copies):
                there = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in (pictures, faults)]
                for target, source in zip(there, (pictures, faults), strict=True):
                    target.copy_(source, non_blocking=True)
                    source.record_stream(self._copies)
                arrived = self._copies.record_event()
            return _Drawn(requests, size, there[0], there[1], arrived)

    def _finish(self, work: _Work, drawn: _Drawn) -> Iterator[Result]:
        """Check pictures; draw faulty ones again, together, each from seeds derived from its own."""
        asked = list(drawn.requests)
        seen: list[Counter[FailureReason]] = [Counter() for _ in asked]
        redrawn = 0
        while True:
            try:
                checked = self._checked(drawn)
            except Exception as error:  # noqa: BLE001 - the model's own safety checker may raise anything
                failure = _Failure(*failure_of(error))
                self._empty_cache(failure)
                yield from (failure.result(request) for request in asked)
                return
            left = []
            for number, (request, pixels, fault) in enumerate(checked):
                if fault is None:
                    yield self._result(request, pixels, work.batch, drawn.size, redrawn)
                    continue
                seen[number][fault] += 1
                if seen[number][fault] <= self._tries[fault]:
                    left.append(number)
                else:
                    message = f"{_MESSAGES[fault]}, {redrawn + 1} times, each from another seed"
                    yield Result(asked[number], reason=fault, message=message)
            if not left:
                return
            redrawn += 1
            asked, seen = [asked[number] for number in left], [seen[number] for number in left]
            found = self._attempt([request.reseeded(redrawn) for request in asked], drawn.size, work.sources)
            if isinstance(found, _Failure):
                yield from (found.result(request) for request in asked)
                return
            drawn = found

    def _checked(self, drawn: _Drawn) -> list[tuple[Request, Pixels, FailureReason | None]]:
        if drawn.arrived is not None:
            drawn.arrived.synchronize()
        pictures = drawn.pictures.numpy()
        names: tuple[FailureReason | None, ...] = (None, "nan_image", "black_image")
        faults = [names[number] for number in drawn.faults.tolist()]
        if self.checker is not None:
            missing = drawn.size - len(pictures) if self.exact else 0
            blocked = self._blocked([*pictures, *[pictures[-1]] * missing])
            faults = [fault or ("blocked" if bad else None) for fault, bad in zip(faults, blocked, strict=False)]
        return list(zip(drawn.requests, pictures, faults, strict=True))

    def _blocked(self, pictures: Sequence[Pixels]) -> list[bool]:
        """Ask the pipeline's own safety checker."""
        import torch
        from PIL import Image

        found = self.pipeline.feature_extractor([Image.fromarray(p) for p in pictures], return_tensors="pt")
        seen = found.pixel_values.to(self._device, self.checker.dtype)
        with torch.inference_mode():
            # It blackens what it is given; the copies are thrown away.
            _, flags = self.checker(images=[picture.copy() for picture in pictures], clip_input=seen)
        return [bool(flag) for flag in flags]

    def _result(self, request: Request, pixels: Pixels, batch: Batch, size: int, redrawn: int) -> Result:
        columns: dict[str, Any] = {"redrawn": redrawn}
        dropped = self.family.dropped_tokens(request.prompt)
        if dropped is not None:
            columns["dropped_tokens"] = dropped
        return Result(request, pixels, batch_size=size if size != batch.size else None, columns=columns)

    def _scheduler(self, name: str) -> Any:
        if name not in self._schedulers:
            class_name, options = scheduler_table(self._own)[name]
            found = getattr(import_package("diffusers"), class_name)
            self._schedulers[name] = found.from_config(self._own, **options)
        return self._schedulers[name]

    def _empty_cache(self, failure: _Failure) -> None:
        import torch

        if failure.memory and self._copies is not None:
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()

    # What only a loaded model tells

    def measure(self, sizes: Mapping[Size, int], example: Request, chosen: Mapping[Size, int]) -> Measured:
        """Find the batch sizes that are not chosen, and whether neighbors change an image's bits."""
        found: dict[Size, int] = {}
        same = self.exact
        for (width, height), count in sizes.items():
            request = replace(example, width=width, height=height, num_inference_steps=2)
            taken = self.family.pictures
            if taken.needs_images:
                request = replace(request, images=("",), mask="mask" if taken.needs_mask else "", strength=1.0)
            found[request.size] = chosen.get(request.size) or self._knee(request, 1 if self.family.alone else count)
            same = same and self._repeats(request, found[request.size])
        return Measured(found, "batch_shape_exact" if same else "seed_only", self._described())

    def _knee(self, request: Request, most: int) -> int:
        """Double the batch while that makes each image cheaper, and memory and the job allow it."""
        size, cost = 1, self._cost(request, 1)
        while 2 * size <= min(most, _LARGEST):
            larger = self._cost(request, 2 * size)
            if math.isinf(larger) or cost < larger * _KNEE:
                break
            size, cost = 2 * size, larger
        return size

    def _cost(self, request: Request, size: int) -> float:
        """Seconds an image takes in a batch, infinite where it fails; the first run of a shape warms up."""
        batch = [replace(request, seed=seed) for seed in range(size)]
        sources = Sources.example(request, self.family.room(request.size))
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            drawn = self._attempt(batch, size, sources)
            if isinstance(drawn, _Failure):
                return math.inf
            if drawn.arrived is not None:
                drawn.arrived.synchronize()
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:]) / size

    def _repeats(self, request: Request, size: int) -> bool:
        """Whether a picture has the same values in first and last place, among different neighbors.

        The neighbors' texts are much longer: a pipeline may pad all texts of a batch to the longest.
        """
        import torch

        others = [replace(request, seed=seed, prompt="a long picture " * seed) for seed in range(1, size)]
        short = [replace(other, seed=other.seed + size, prompt=f"{other.seed}") for other in others]
        sources = Sources.example(request, self.family.room(request.size))
        try:
            with torch.inference_mode():
                first = self._drawn([request, *others], size, sources)[0]
                last = self._drawn([*short, request], size, sources)[-1]
            return bool((first == last).all())
        except Exception as error:  # noqa: BLE001 - what fails here fails again, and is told, when images are made
            failure = _Failure(*failure_of(error))
        self._empty_cache(failure)
        return False

    def _described(self) -> dict[str, str]:
        import torch

        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else processor()
        denoiser = getattr(self.pipeline, "unet", None) or getattr(self.pipeline, "transformer", None)
        processors = (getattr(denoiser, "attn_processors", None) or {}).values()
        kinds = {type(found).__name__ for found in processors}
        backends = {str(getattr(found, "_attention_backend", None) or "") for found in processors} - {""}
        return {"device_name": name, "attention": ", ".join([*sorted(kinds), *sorted(backends)]) or "unknown"}
