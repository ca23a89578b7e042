"""Models in folders and on the Hugging Face hub: which version they are, and that nothing in them runs code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from imagemill.environment import means_path
from imagemill.errors import MissingExtra, UsageError

_HASHED = {".json", ".safetensors", ".txt", ".model", ".py", ".jinja"}
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_DESCRIBING = ["*.json", "*.txt", "*.model", "README.md"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


_NO_CODE = "DIFFUSERS_DISABLE_REMOTE_CODE"


def allow_code() -> None:
    """Let diffusers run a model's own code; raises UsageError where it has been imported without."""
    os.environ[_NO_CODE] = "0"
    constants = sys.modules.get("diffusers.utils.constants")
    if getattr(constants, _NO_CODE, False):
        raise UsageError("this process has imported diffusers without remote code", "start a new one")


def import_package(name: str) -> Any:
    """Import a package of the extra `local`, with the settings that must stand before."""
    os.environ.setdefault(_NO_CODE, "1")
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

    def files(self, repository: str, revision: str | None, patterns: Sequence[str] = _DESCRIBING) -> Path:
        """The same for the files of a repository that match, those that describe a model when none are named."""
        hub = import_package("huggingface_hub")
        return self.fetched(hub.snapshot_download, repository, revision, allow_patterns=list(patterns))

    def fetched(self, fetch: Callable[..., Any], repository: str, revision: str | None, **options: Any) -> Path:
        """What a function of the hub's fetches; raises UsageError."""
        try:
            return Path(
                fetch(repository, revision=revision, cache_dir=self.cache, local_files_only=self.offline, **options)
            )
        except (OSError, ValueError) as error:
            if self.offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
                raise UsageError(
                    f"`{repository}` is neither here nor in the cache, and the hub is not asked while offline",
                    "fetch it once online, or name the cache with `--hf-cache-dir`",
                ) from error
            raise UsageError(
                f"`{repository}` is neither here nor on the hub: {_first_line(error)}",
                "check its name, the network and, where it needs one, `HF_TOKEN`",
            ) from error

    def commit(self, repository: str, revision: str | None) -> str:
        """The commit that a branch or tag stands for now; offline, the one in the cache."""
        if revision and _COMMIT.fullmatch(revision):
            return revision
        return self.files(repository, revision).name


def is_folder(model: str) -> bool:
    """Whether a model is a folder and not on the hub; raises UsageError for a folder that is not there."""
    if Path(model).is_dir():
        return True
    if means_path(model):
        raise UsageError(f"there is no folder `{model}`", "bring it back, or name where it is now")
    return False


def revision_of(folder: Path) -> str:
    """The commit of a copy from the hub, else a hash of every configuration and weight file."""
    if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        return folder.name
    return _hash(folder, stamp_of(folder))


def stamp_of(folder: Path) -> tuple[tuple[Path, int, int], ...]:
    """Every file that decides what a pipeline does, with size and time: tells cheaply that nothing has changed."""
    paths = [Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names]
    return tuple(
        (path, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in sorted(paths) if path.suffix in _HASHED
    )


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
    """The licence in the model's card; by its name where Hugging Face has no id for it."""
    card = folder / "README.md"
    text = card.read_text(errors="replace") if card.is_file() else ""
    told: dict[str, str] = dict(re.findall(r"^(license|license_name):[ \t]*[\"']?([^\s\"']+)", text, re.MULTILINE))
    name = told.get("license", "unknown")
    return (told.get("license_name") or name) if name == "other" else name


def check_weights(folder: Path) -> None:
    """Raise UsageError when loading the weights in a folder would unpickle something.

    What a file is, its first bytes say, not its name.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix in WEIGHTS)
    pickles = [path for path in files if is_pickle(path)]
    sound = [path for path in files if path.suffix == ".safetensors" and path not in pickles]
    wrong = [path for path in pickles if path.suffix == ".safetensors" or not sound]
    if wrong:
        raise refused(wrong[0])
    for path in sound:
        if not is_safetensors(path):
            raise UsageError(f"`{path}` is no safetensors file, whatever its name says", "is it complete?")
    for path in folder.glob("*.safetensors.index.json"):
        listed = set(map(str, dict(read_config(path).get("weight_map", {})).values()))
        other = sorted(file for file in listed if Path(file).suffix != ".safetensors" or Path(file).name != file)
        if other:
            raise UsageError(f"`{path}` names `{other[0]}`, which is no safetensors file beside it", "convert it")


def is_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a JSON header, and the header."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle or an archive of PyTorch, whatever it is called."""
    if is_safetensors(path):
        return False
    with path.open("rb") as file:
        head = file.read(512)
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
