"""What an image shows, as a vector: to find what is alike, and to measure how different images are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from pydantic import Field

from imagemill.encoders import DualEncoder, encoder_of
from imagemill.pretrained import Failure
from imagemill.scorers.base import Column, Scored, Scorer, ScorerInfo, Seen


class Embedding(DualEncoder, Scorer):
    """Gives each image its vector by CLIP or SigLIP; those of images that show the same are close."""

    column: str = Field("embedding", pattern=r"^[^\W\d]\w*$", max_length=50)
    """The column that says which images have a vector, and the folder of the vectors."""

    def columns(self) -> Mapping[str, Column]:
        """One vector, of length 1."""
        return {self.column: Column(False, "whether there is a vector of what the image shows; their cosine compares")}

    def info(self) -> ScorerInfo:
        """Read what the folder says of itself."""
        return ScorerInfo(*self.described())

    def score(self, images: Iterable[Seen]) -> Iterator[Scored]:
        """Encode each image."""
        import numpy as np

        encoder, images = encoder_of(self), iter(images)
        while chunk := list(islice(images, self.score_batch_size)):
            for seen, vector in zip(chunk, encoder.images([seen.image for seen in chunk]), strict=True):
                if isinstance(vector, Failure):
                    yield Scored(seen, reason=vector.reason, message=vector.message)
                else:
                    yield Scored(seen, {self.column: vector.astype(np.float16)})
