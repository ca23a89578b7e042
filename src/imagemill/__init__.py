"""A table of prompts becomes a curated image dataset that anyone can load, trust and make again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagemill.dataset import Counts, Dataset, Part
    from imagemill.dataset.index import Index, Query
    from imagemill.dataset.verify import verify
    from imagemill.downloading.work import download
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
    from imagemill.operators.generate import generate
    from imagemill.operators.import_ import import_dataset
    from imagemill.operators.merge import merge
    from imagemill.operators.remove import remove
    from imagemill.operators.score import score
    from imagemill.operators.select import select
    from imagemill.publishing.publish import export
    from imagemill.reporting.page import report
    from imagemill.reproduction import Reproduction, reproduce

__all__ = [
    "Counts",
    "Dataset",
    "ImagemillError",
    "Index",
    "LimitReached",
    "LockedError",
    "ModelError",
    "OutOfSpace",
    "Part",
    "Query",
    "Reproduction",
    "SomeFailed",
    "UsageError",
    "augment",
    "caption",
    "download",
    "edit",
    "export",
    "generate",
    "import_dataset",
    "merge",
    "remove",
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
    "Index": "dataset.index",
    "Part": "dataset",
    "Query": "dataset.index",
    "Reproduction": "reproduction",
    "reproduce": "reproduction",
    "augment": "operators.augment",
    "caption": "operators.caption",
    "download": "downloading.work",
    "edit": "operators.edit",
    "export": "publishing.publish",
    "generate": "operators.generate",
    "import_dataset": "operators.import_",
    "merge": "operators.merge",
    "remove": "operators.remove",
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
