"""What a server honours: told by it for nothing, or found out by a probe and remembered."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.errors import ModelError
from imagemill.images import decode, psnr
from imagemill.records import Request
from imagemill.remote.client import CallFailed, Client
from imagemill.remote.engine import run_once

if TYPE_CHECKING:
    from imagemill.remote.model import Picture, Remote

_SAME = 35.0
"""Decibels: two pictures of one seed, with the last bits of another batch size."""
_CLEARLY = 6.0
"""Decibels, by which pictures of one seed are more alike than pictures of two."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a server honours for one model."""

    takes: tuple[str, ...]
    own_size: str


_UNKNOWN = Server(("size",), "1024x1024")
"""What is assumed of a server that nobody has asked."""


def remembered(model: Remote) -> Server | None:
    """What an earlier probe has found."""
    kept = _kept().get(_place(model))
    return Server(tuple(kept["takes"]), kept["own_size"]) if kept else None


def known_server(model: Remote) -> Server:
    """What the server tells in its list of models, or a probe has found; raises ModelError when it does not answer."""
    return told_by(model) or remembered(model) or _UNKNOWN


def probe(model: Remote) -> Server:
    """Ask a server with two small calls, which it may charge, what it honours, and remember that.

    One that tells by itself is not asked. Raises ModelError when it refuses them.
    """
    told = told_by(model)
    if told:
        return told
    size = "256x256" if model.own_size == "auto" else model.own_size
    try:
        found = run_once(model.client, lambda client: _probe(model, client, size))
    except CallFailed as error:
        raise ModelError(
            f"the server refuses: {error.reason}: {error.message}", "check name, address and key"
        ) from None
    _remember(model, found)
    return found


async def _probe(model: Remote, client: Client, size: str) -> Server:
    takes = ["seed", *(["n"] if model.several else []), "size"]
    width, _, height = size.partition("x")
    request = Request(
        0, 0, 1, "probe", "a red circle on a white background", "", 7, int(width), int(height), 0, 0.0, ""
    )

    async def draw(count: int, seed: int = 7) -> list[Any]:
        asked = model.model_copy(update={"takes": tuple(takes), "own_size": size})
        requests = [
            replace(request, image=number, seed=seed + number) for number in range(count if "n" in takes else 1)
        ]
        return _pixels(await asked.pictures(client, requests))

    try:
        first = await draw(2)
    except CallFailed as error:
        if error.reason != "bad_request":
            raise
        takes.remove("seed")
        try:
            first = await draw(2)
        except CallFailed as other:
            if other.reason != "bad_request" or "n" not in takes:
                raise
            takes.remove("n")
            first = await draw(1)
    if not first:
        raise CallFailed("bad_image", "the probe brought no image")
    if len(first) < 2 and "n" in takes:
        takes.remove("n")
    if "seed" in takes:
        second = await draw(1)
        if len(first) < 2:
            first += await draw(1, seed=8)
        # A server that always draws much the same picture does not heed the seed either.
        near = max([_SAME, *(_likeness(first[0], other) + _CLEARLY for other in first[1:])])
        if not second or math.isinf(near) or _likeness(first[0], second[0]) < near:
            takes.remove("seed")
    own_height, own_width, _ = first[0].shape
    if (own_width, own_height) != request.size:
        takes.remove("size")
    if await model.edits(client):
        takes.append("image")
    return Server(tuple(takes), f"{own_width}x{own_height}")


def _likeness(one: Any, other: Any) -> float:
    return psnr(one, other) if one.shape == other.shape else 0.0


def _pixels(pictures: Sequence[Picture | CallFailed]) -> list[Any]:
    found = []
    for picture in pictures:
        if not isinstance(picture, CallFailed):
            try:
                found.append(decode(picture.data))
            except ValueError as error:
                raise CallFailed("bad_image", str(error)) from None
    return found


def told_by(model: Remote) -> Server | None:
    """What a server like our own says of a model, for nothing; raises ModelError when it does not answer."""
    url = model.description_url()
    if not url:
        return None
    try:
        answer = run_once(model.client, lambda client: client.call("GET", url)).json()
    except CallFailed as error:
        if error.reason in {"unreachable", "auth", "timeout"}:
            raise ModelError(
                f"`{model.address()}` cannot be asked: {error.reason}: {error.message}",
                f"is the server running, and `{model.key_variable}` its key?",
            ) from None
        return None
    told = answer.get("imagemill") if isinstance(answer, dict) else None
    if not isinstance(told, dict):
        return None
    return Server(tuple(map(str, told["takes"])), f"{told['width']}x{told['height']}")


def _place(model: Remote) -> str:
    return f"{model.address()} {model.served_name()}"


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagemill" / "servers.json"


def _kept() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(model: Remote, server: Server) -> None:
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(json.dumps({**_kept(), _place(model): asdict(server)}, indent=1) + "\n", encoding="utf-8")
    new.replace(path)
