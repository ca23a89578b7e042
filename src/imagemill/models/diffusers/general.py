"""Any pipeline, through its own call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imagemill.hub import import_package
from imagemill.models.diffusers.family import Encoder, Family, generators
from imagemill.models.diffusers.sources import Sources
from imagemill.models.diffusers.traits import guidance_name, parameters, pictures_of
from imagemill.records import Request

if TYPE_CHECKING:
    from torch import Tensor


class General(Family):
    """Calls a pipeline with what it takes: once for requests without pictures, else once for each."""

    def __init__(self, pipeline: Any, exact: bool, image_guidance_scale: float) -> None:
        super().__init__(pipeline, exact, image_guidance_scale)
        self.pictures = pictures_of(type(pipeline))
        # What a list of pictures means, each pipeline decides for itself.
        self.alone = self.pictures.needs_images
        self._image_to_image = pipeline if "image" in parameters(type(pipeline)) else None

    @property
    def size_factor(self) -> int:
        """Two suits them all."""
        return 2

    def draw(self, requests: Sequence[Request], encoded: Encoder, sources: Sources) -> Tensor:
        """Call the pipeline with what it takes."""
        import torch

        del encoded
        if not requests[0].images:
            texts = {
                "prompt": [request.prompt for request in requests],
                "negative_prompt": [request.negative_prompt for request in requests],
            }
            return self._called(self.pipeline, requests[0], {**texts, "generator": generators(requests)})
        if self._image_to_image is None:
            self._image_to_image = import_package("diffusers").AutoPipelineForImage2Image.from_pipe(self.pipeline)
            self._image_to_image.set_progress_bar_config(disable=True)
        self._image_to_image.scheduler = self.pipeline.scheduler
        drawn: list[Tensor] = []
        for number, request in enumerate(requests):
            # What fills up a batch is its last request again.
            again = number > 0 and request is requests[number - 1]
            drawn.append(drawn[-1] if again else self._started(self._image_to_image, request, sources))
        return torch.cat(drawn)

    def _started(self, pipeline: Any, request: Request, sources: Sources) -> Tensor:
        """Draw one request from its pictures."""
        from torch.nn.functional import interpolate

        images = [sources.images[path] for path in request.images]
        # Some were trained with zeros where there is no negative prompt; others lead away from an empty one.
        zeros = pipeline.config.get("force_zeros_for_empty_prompt", False)
        arguments = {
            "prompt": request.prompt,
            "negative_prompt": None if zeros and not request.negative_prompt else request.negative_prompt,
            "generator": generators([request])[0],
            "image": images if self.pictures.most_images > 1 else images[0],
            "strength": request.strength,
        }
        if request.mask:
            arguments["mask_image"] = sources.masks[request.mask]
        drawn = self._called(pipeline, request, arguments)
        if "width" not in parameters(type(pipeline)) and drawn.shape[-2:] != (request.height, request.width):
            # It takes no size, and has taken one near that of the picture.
            drawn = interpolate(drawn.float(), (request.height, request.width), mode="bicubic", antialias=True)
        return drawn

    def _called(self, pipeline: Any, first: Request, arguments: Mapping[str, Any]) -> Tensor:
        import torch

        known = parameters(type(pipeline))
        arguments = {
            **arguments,
            "width": first.width,
            "height": first.height,
            "num_inference_steps": first.num_inference_steps,
            guidance_name(known): first.guidance_scale,
            "image_guidance_scale": self.image_guidance_scale,
            "output_type": "pt",
            # The size asked for, not one near it that is then stretched.
            "use_resolution_binning": False,
            "max_area": first.width * first.height,
            "_auto_resize": False,
        }
        images = pipeline(**{name: value for name, value in arguments.items() if name in known}).images
        return images if isinstance(images, torch.Tensor) else torch.stack(list(images))
