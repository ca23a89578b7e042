"""Where pipelines and LoRAs lie, which version they are, and that nothing in them runs code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from imagemill.errors import MissingExtra, UsageError

_HASHED = {".json", ".safetensors", ".txt", ".model"}
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_DESCRIBING = ["*.json", "*.txt", "*.model", "README.md"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


def import_package(name: str) -> Any:
    """Import a package of the extra `local`, with the settings that must stand before."""
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        return __import__(name)
    except ImportError:
        raise MissingExtra(name, "imagemill[local]") from None


@dataclass(frozen=True, slots=True)
class Hub:
    """How the Hugging Face hub is reached."""

    cache: str | None
    offline: bool

    def snapshot(self, repository: str, revision: str | None, weights: bool, variant: str | None = None) -> Path:
        """The folder of a repository's copy in the cache, fetched where it is not there; raises UsageError.

        Without `weights` only what describes the pipeline is fetched.
        """
        hub = import_package("huggingface_hub")
        diffusers = import_package("diffusers")
        try:
            if weights:
                return Path(
                    diffusers.DiffusionPipeline.download(
                        repository,
                        revision=revision,
                        variant=variant,
                        use_safetensors=True,
                        cache_dir=self.cache,
                        local_files_only=self.offline,
                    )
                )
            return Path(
                hub.snapshot_download(
                    repository,
                    revision=revision,
                    cache_dir=self.cache,
                    local_files_only=self.offline,
                    allow_patterns=_DESCRIBING,
                )
            )
        except (OSError, ValueError) as error:
            raise UsageError(
                f"the model `{repository}` is neither a folder nor on the hub: {_first_line(error)}",
                "check its name, the network and, where it needs one, `HF_TOKEN`",
            ) from error

    def commit(self, repository: str, revision: str | None) -> str:
        """The commit that a branch or tag stands for now; offline, the one in the cache."""
        if revision and _COMMIT.fullmatch(revision):
            return revision
        return self.snapshot(repository, revision, weights=False).name


def revision_of(folder: Path) -> str:
    """The commit of a copy from the hub, else a hash of every configuration and weight file."""
    if folder.parent.name == "snapshots":
        return folder.name
    paths = sorted(path for path in folder.rglob("*") if path.suffix in _HASHED)
    return _hash(folder, tuple((path, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in paths))


@lru_cache(maxsize=8)
def _hash(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash files, once as long as they stay as they are: there may be many gigabytes."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises UsageError."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"`{path}` cannot be read: {error}", "is the model's folder complete?") from None
    return dict(value)


def license_of(folder: Path) -> str:
    """The licence in the model's card."""
    card = folder / "README.md"
    found = re.search(r"^license:\s*(\S+)", card.read_text(errors="replace"), re.MULTILINE) if card.is_file() else None
    return found[1].strip("\"'") if found else "unknown"


def check_safe(folder: Path, index: Mapping[str, Any], code_allowed: bool = False) -> None:
    """Raise UsageError when loading a pipeline would unpickle something or run code of its own.

    What a file is, its first bytes say, not its name.
    """
    parts = {name: entry for name, entry in index.items() if isinstance(entry, list) and entry[0]}
    if not code_allowed:
        own = [entry[0] for name, entry in parts.items() if (folder / name / f"{entry[0]}.py").is_file()]
        own += [str(index["_class_name"][0])] if isinstance(index.get("_class_name"), list) else []
        if own:
            raise UsageError(
                f"`{folder}` brings code of its own: {', '.join(own)}",
                "read it; then allow it with `--trust-remote-code` and the commit you have read in `--revision`",
            )
    for name in parts:
        files = sorted(path for path in (folder / name).glob("*") if path.suffix in _WEIGHTS)
        pickles = [path for path in files if is_pickle(path)]
        sound = [path for path in files if path.suffix == ".safetensors" and path not in pickles]
        wrong = [path for path in pickles if path.suffix == ".safetensors" or not sound]
        if wrong:
            raise refused(wrong[0])


@dataclass(frozen=True, slots=True)
class Lora:
    """Weights added to a pipeline's."""

    name: str
    """A file, a folder with one, or a hub id."""
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
        name, _, revision = (name or text).partition("@") if "@" in text else (name or text, "", "")
        return Lora(name, revision, number)

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}:{self.scale:g}"

    def pinned(self, hub: Hub) -> Lora:
        """With its revision: the commit, or the hash of the file; raises UsageError when it is not the one named."""
        if not Path(self.name).exists():
            return replace(self, revision=hub.commit(self.name, self.revision or None))
        with self.file(hub).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        if self.revision not in ("", found):
            raise UsageError(f"the LoRA `{self.name}` is now `{found}`, not `{self.revision}`", "bring that one back")
        return replace(self, revision=found)

    def file(self, hub: Hub) -> Path:
        """Its safetensors file; raises UsageError when there is none, or more than one, or a pickle."""
        path = Path(self.name)
        if not path.exists():
            path = hub.snapshot(self.name, self.revision or None, weights=False)
        files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in _WEIGHTS)
        for file in files:
            if is_pickle(file):
                raise refused(file)
        if len(files) != 1:
            raise UsageError(f"the LoRA `{self.name}` has {len(files)} weight files", "name one file")
        return files[0]


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle or an archive of PyTorch, whatever it is called."""
    with path.open("rb") as file:
        head = file.read(512)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return False  # safetensors: the length of a JSON header, and the header
    # A bare pickle of protocol 2 or later, a ZIP as `torch.save` writes it, a TAR as it once did, and a text pickle.
    binary = head[:1] == b"\x80" and head[1:2] <= b"\x05"
    return binary or head[:2] == b"PK" or head[257:262] == b"ustar" or head[:1] in (b"(", b"c", b"]", b"}")


def refused(path: Path) -> UsageError:
    """The error for a pickle."""
    return UsageError(
        f"`{path}` is a pickle, which can run any code when it is loaded",
        "convert it where you trust it: `safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)`",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
