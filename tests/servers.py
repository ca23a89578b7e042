"""Servers that tests talk to: the API on a free port of this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from imagemill.models.base import Model, find_model
from imagemill.server.api.command import Server

KEY = "a key for tests"


@contextmanager
def serving(
    models: Mapping[str, Model] | Iterable[str] = ("fake",), key: str = KEY, batch_size: int | None = None
) -> Iterator[Server]:
    """Serve models, by name or as they are, while the block runs; `url` ends with /v1."""
    if not isinstance(models, Mapping):
        models = {name: find_model(name, {}).resolve({}, 1) for name in models}
    with Server(models, key, batch_size=batch_size) as server:
        yield server
