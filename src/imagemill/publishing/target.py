"""Where an export can go: a repository of the hub, or a prefix of an object store."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from imagemill.component import Component
from imagemill.dataset.manifest import MANIFEST, MARK
from imagemill.errors import ImagemillError, UsageError, did_you_mean

CARD = "README.md"
_SCHEMES = ("hf", "s3", "gs", "az")

Say = Callable[[str], None]
"""Tells the user how far an upload is."""


class Publish(Component):
    """How an export becomes visible on the hub."""

    public: bool = False
    """On the hub: for everybody; a new repository is private without it."""
    tag: str = ""
    """On the hub: a name for this version, such as `v1`, that always leads to it."""
    replace: bool = False
    """Put it in the place of an export of another dataset, in another layout or with other parameters."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of an export."""

    name: str
    """Its path in the export."""
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Exported:
    """An export as it lies on this machine."""

    folder: Path
    files: Mapping[str, File]
    fingerprint: str
    """A hash of what it is an export of."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


@dataclass(frozen=True, slots=True)
class State:
    """What there is at a target before an upload."""

    holds: Literal["nothing", "this", "another", "half"]
    """This export, an earlier one of ours, or what an interrupted upload has left."""
    names: frozenset[str] = frozenset()
    """Files of an earlier export."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the target wants to know again."""


class Target(ABC):
    """A place for one export."""

    def __init__(self, url: str, options: Publish) -> None:
        self.url = url
        self.options = options

    @property
    def address(self) -> str:
        """How `load_dataset` names it; empty where it does not know the place."""
        return ""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where people look at it, and who can."""

    @abstractmethod
    def look(self, mark: Mapping[str, Any]) -> State:
        """Say what is there, of the export with a mark; nothing is changed.

        Raises UsageError when it cannot be reached or holds something else.
        """

    def check_replaced(self, there: Any, mark: Mapping[str, Any]) -> None:
        """Raise UsageError when what is there is no earlier version of the export with a mark, unless it may go."""
        if self.options.replace or there == mark:
            return
        there = there if isinstance(there, dict) else {}
        name = without_password(self.url)
        if there.get("layout") != mark["layout"]:
            problem = f"`{name}` holds an export in the layout `{there.get('layout')}`"
        elif there.get("parameters") != mark["parameters"]:
            given = ", ".join(f"`{key}` {value}" for key, value in dict(there.get("parameters") or {}).items())
            problem = f"`{name}` holds an export with other parameters: {given or 'none'}"
        elif origins(there) != origins(mark):
            problem = f"`{name}` holds an export of another dataset"
        else:
            return
        raise UsageError(problem, "choose another place, or let this one replace it: `--replace`")

    @abstractmethod
    def publish(self, exported: Exported, state: State, say: Say) -> None:
        """Upload so that readers see the export whole or not at all, and compare what is there then.

        The same call after any interruption continues. Raises UsageError and ImagemillError.
        """

    def settle(self, mark: Mapping[str, Any], state: State) -> None:  # noqa: B027 - most have nothing to do
        """Do what is left to do where the export is there already."""


def origins(mark: Mapping[str, Any]) -> Any:
    """Which datasets an export is of, as far as its mark tells."""
    splits = mark.get("splits")
    if not isinstance(splits, dict):
        return None
    return {name: found.get("origin") if isinstance(found, dict) else None for name, found in splits.items()}


def is_url(output: str | Path) -> bool:
    """Whether an output is no folder."""
    return "://" in str(output)


def find_target(url: str, options: Publish) -> Target:
    """The target of a URL; raises UsageError."""
    scheme = url.partition("://")[0]
    if scheme not in _SCHEMES:
        hint = did_you_mean(scheme, _SCHEMES) or "known: `hf://user/name`, `s3://bucket/prefix`, `gs://…`, `az://…`"
        raise UsageError(f"`{without_password(url)}` leads to nothing that can hold an export", hint)
    if scheme == "hf":
        from imagemill.publishing.hub import HubRepository

        return HubRepository(url, options)
    from imagemill.publishing.stores import StorePrefix

    return StorePrefix(url, options)


def without_password(url: str) -> str:
    """A URL as it can be shown."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def read_export(folder: Path, fingerprint: str) -> Exported:
    """An export on this machine; raises ImagemillError when its manifest cannot be read."""
    try:
        content = (folder / MANIFEST).read_bytes()
        files = {file.name: file for file in parse_manifest(content)}
    except (OSError, ValueError) as error:
        raise ImagemillError(f"`{folder / MANIFEST}` cannot be read: {error}", "delete the folder") from None
    files[MANIFEST] = File(MANIFEST, len(content), hashlib.sha256(content).hexdigest())
    return Exported(folder, files, fingerprint)


def mark_of(exported: Exported) -> dict[str, Any]:
    """What an export on this machine says it is."""
    mark: dict[str, Any] = json.loads((exported.folder / MARK).read_bytes())
    return mark


def parse_manifest(content: bytes) -> list[File]:
    """The files that a manifest names; raises ValueError."""
    try:
        lines = [json.loads(line) for line in content.splitlines()]
        return [File(line["file"], line["size"], line["sha256"]) for line in lines]
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is no manifest: {error}") from None
