"""A table of prompts becomes a curated image dataset that anyone can load, trust and make again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagemill.dataset import Counts, Dataset, Part
    from imagemill.dataset.verify import verify
    from imagemill.errors import (
        ImagemillError,
        LimitReached,
        LockedError,
        ModelError,
        OutOfSpace,
        SomeFailed,
        UsageError,
    )
    from imagemill.job import run
    from imagemill.making.retrying import retry
    from imagemill.operators.augment import augment
    from imagemill.operators.caption import caption
    from imagemill.operators.edit import edit
    from imagemill.operators.export import export
    from imagemill.operators.generate import generate
    from imagemill.operators.score import score
    from imagemill.operators.select import select
    from imagemill.reporting.page import report
    from imagemill.reproduction import Reproduction, reproduce

__all__ = [
    "Counts",
    "Dataset",
    "ImagemillError",
    "LimitReached",
    "LockedError",
    "ModelError",
    "OutOfSpace",
    "Part",
    "Reproduction",
    "SomeFailed",
    "UsageError",
    "augment",
    "caption",
    "edit",
    "export",
    "generate",
    "report",
    "reproduce",
    "retry",
    "run",
    "score",
    "select",
    "verify",
]

_HOMES = {
    "Counts": "dataset",
    "Dataset": "dataset",
    "Part": "dataset",
    "Reproduction": "reproduction",
    "reproduce": "reproduction",
    "augment": "operators.augment",
    "caption": "operators.caption",
    "edit": "operators.edit",
    "export": "operators.export",
    "generate": "operators.generate",
    "score": "operators.score",
    "select": "operators.select",
    "report": "reporting.page",
    "retry": "making.retrying",
    "run": "job",
    "verify": "dataset.verify",
}
"""Where the public names live; what is not here is an error class."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import imagemill` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'imagemill' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"imagemill.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value
