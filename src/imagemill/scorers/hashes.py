"""Hashes of pictures, by which equal and similar ones are found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from imagemill.hashing import perceptual_hash, pixels_sha256
from imagemill.scorers.base import Column, Scored, Scorer, Seen


class Hashes(Scorer):
    """Tells pictures by their pixels: equal ones have equal hashes, and similar ones similar hashes."""

    def columns(self) -> Mapping[str, Column]:
        """Two hashes."""
        return {
            "pixels_sha256": Column("", "SHA-256 of size and RGB pixels; the same whatever the file says beside them"),
            "perceptual_hash": Column("", "64-bit DCT hash of the gray picture; similar pictures differ in few bits"),
        }

    def score(self, images: Iterable[Seen]) -> Iterator[Scored]:
        """Hash each image."""
        for seen in images:
            hashes = {
                "pixels_sha256": pixels_sha256(seen.image),
                "perceptual_hash": perceptual_hash(seen.image),
            }
            yield Scored(seen, hashes)
