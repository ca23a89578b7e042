"""What `job.toml` must hold, so that whatever reads it can rely on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class _Table(BaseModel):
    """A table of the file; what else stands in it is the business of who put it there."""

    model_config = ConfigDict(strict=True)


class _Source(_Table):
    name: str
    steps: list[_Step] = Field(min_length=1)


class _Step(_Table):
    operator: str
    model: str = ""
    model_parameters: dict[str, Any] = {}
    scores: dict[str, Any] | list[str] = []
    columns: dict[str, Any] = {}
    meanings: dict[str, str] = {}
    sources: list[_Source] = []
    """The datasets that were merged."""


class _Input(_Table):
    table: str


class _Plan(_Table):
    requests: int
    rows_read: int
    rows_accepted: int


class _Job(_Table):
    format: int
    input: _Input
    steps: list[_Step] = Field(min_length=1)
    plan: _Plan


def wrong_in(job: Mapping[str, Any]) -> str:
    """What of a `job.toml` is not as imagemill writes it, in a few words; empty where all is."""
    try:
        _Job.model_validate(job)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"`{where}` is missing" if first["type"] == "missing" else f"`{where}` cannot be {first['input']!r:.60}"
    return ""
