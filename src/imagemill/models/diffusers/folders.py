"""What pipelines add to a model's folder: an index of parts, and LoRAs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagemill.environment import means_path
from imagemill.errors import UsageError
from imagemill.hub import WEIGHTS, Hub, check_weights, import_package, is_pickle, is_safetensors, refused


def pipeline_of(hub: Hub, repository: str, revision: str | None, **options: Any) -> Path:
    """The folder of a pipeline's copy in the cache, fetched where it is not there; raises UsageError."""
    diffusers = import_package("diffusers")
    return hub.fetched(diffusers.DiffusionPipeline.download, repository, revision, use_safetensors=True, **options)


def check_safe(folder: Path, index: Mapping[str, Any], code_allowed: bool = False) -> None:
    """Raise UsageError when loading a pipeline would unpickle something or run code of its own.

    A pipeline class of its own is never loaded.
    """
    if not isinstance(index.get("_class_name"), str):
        raise UsageError(f"`{folder}` wants a pipeline class of its own", "only pipelines of diffusers are loaded")
    parts = {name: entry for name, entry in index.items() if isinstance(entry, list) and entry[0]}
    if not code_allowed:
        own = [entry[0] for name, entry in parts.items() if (folder / name / f"{entry[0]}.py").is_file()]
        if own:
            raise UsageError(
                f"`{folder}` brings code of its own: {', '.join(own)}",
                "read it; then allow it with `--trust-remote-code` and the commit you have read in `--revision`",
            )
    for name in parts:
        check_weights(folder / name)


@dataclass(frozen=True, slots=True)
class Lora:
    """Weights added to a pipeline's."""

    name: str
    """A file, a folder with one, or `OWNER/NAME` on the hub, with `/FILE` where it has several."""
    revision: str
    scale: float

    @staticmethod
    def parse(text: str) -> Lora:
        """Read `NAME[@REVISION][:SCALE]`."""
        name, colon, scale = text.rpartition(":")
        try:
            number = float(scale) if colon else 1.0
        except ValueError:
            name, number = "", 1.0
        if not math.isfinite(number):
            raise UsageError(f"`lora`: the scale of `{text}` is {scale}", "give a number, such as 0.8")
        name = name or text
        if "@" in name and not Path(name).exists():
            name, _, revision = name.rpartition("@")
            return Lora(name, revision, number)
        return Lora(name, "", number)

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}:{self.scale:g}"

    def pinned(self, hub: Hub) -> Lora:
        """With its revision: the commit, or the hash of the file; raises UsageError when it is not the one named."""
        if not Path(self.name).exists():
            if means_path(self.name) or "/" not in self.name:
                raise UsageError(
                    f"`lora`: there is no file `{self.name}`", "write `FILE[:SCALE]`, or OWNER/NAME on the hub"
                )
            return replace(self, revision=hub.commit(self._place()[0], self.revision or None))
        with self.file(hub).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        if self.revision not in ("", found):
            raise UsageError(f"the LoRA `{self.name}` is now `{found}`, not `{self.revision}`", "bring that one back")
        return replace(self, revision=found)

    def file(self, hub: Hub) -> Path:
        """Its safetensors file; raises UsageError when there is none, or more than one, or a pickle."""
        path = Path(self.name)
        if not path.exists():
            repository, file_name = self._place()
            path = hub.files(repository, self.revision or None, [file_name or "*.safetensors"]) / file_name
        if not path.exists():
            raise UsageError(f"there is no LoRA `{self.name}`", "name a file, or OWNER/NAME/FILE on the hub")
        files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in WEIGHTS)
        for file in files:
            if is_pickle(file):
                raise refused(file)
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise UsageError(f"the LoRA `{self.name}` has not one weight file but: {names}", "name one: `NAME/FILE`")
        if not is_safetensors(files[0]):
            raise UsageError(f"the LoRA `{files[0]}` is no safetensors file", "name the file with its weights")
        return files[0]

    def _place(self) -> tuple[str, str]:
        """Repository on the hub and file in it, empty when not named."""
        words = self.name.split("/")
        return "/".join(words[:2]), "/".join(words[2:])
