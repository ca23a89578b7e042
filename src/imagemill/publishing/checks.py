"""What must not leave this machine: secrets, rejected images, images without a license, too many files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from imagemill.errors import UsageError
from imagemill.licenses import is_limited, is_non_commercial
from imagemill.publishing.target import Exported

_SHAPES = {
    "a Hugging Face token": ((b"hf_",), rb"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{30,}"),
    "an API key (`sk-…`)": (
        (b"sk-",),
        rb"(?<![A-Za-z0-9])sk-(?:(?:proj|svcacct|admin|ant|or)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{32,})",
    ),
    "an AWS access key": ((b"AKIA", b"ASIA"), rb"(?<![A-Za-z0-9])A[KS]IA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    "a GitHub token": (
        (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_"),
        rb"(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
    ),
    "a Slack token": ((b"xox",), rb"(?<![A-Za-z0-9])xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    "a Google API key": ((b"AIza",), rb"AIza[A-Za-z0-9_-]{35}"),
    "a private key": ((b"-----BEGIN ",), rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"),
}
_PATTERNS = {shape: (starts, re.compile(pattern)) for shape, (starts, pattern) in _SHAPES.items()}
"""What a secret looks like; searching for how it begins first is what makes gigabytes quick."""

_SECRET_NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|API_?KEY|(ACCESS|ACCOUNT|PRIVATE|SECRET|STORAGE)_KEY)$")
_SHORTEST = 12
"""Characters of a variable that is a secret; shorter values are found in any text."""

_BLOCK = 1 << 20
_OVERLAP = 4096
"""Bytes of a block that are looked at again with the next, since a secret may lie across."""
_SHOWN = 10

_MOST_FILES = 100_000
_MOST_ENTRIES = 10_000
"""What the hub's pages advise for a repository, and allow in a folder."""


def known_secrets() -> dict[str, bytes]:
    """The values that this process was given in secret, by the name of the variable."""
    return {
        name: value.strip().encode()
        for name, value in os.environ.items()
        if _SECRET_NAMES.search(name.upper()) and len(value.strip()) >= _SHORTEST
    }


def redacted(text: str) -> str:
    """A text as it can be shown: without what is, or looks like, a secret."""
    content = text.encode()
    for value in known_secrets().values():
        content = content.replace(value, "…".encode())
    for _, pattern in _PATTERNS.values():
        content = pattern.sub("…".encode(), content)
    return content.decode(errors="replace")


def secrets_in(content: bytes, known: Mapping[str, bytes]) -> Iterator[str]:
    """Name the kinds of secrets in a text."""
    for shape in _PATTERNS:
        if _place(content, shape) is not None:
            yield shape
    for name, value in known.items():
        if value in content:
            yield f"the value of `{name}`"


def check_records(splits: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[UsageError]:
    """The problems of records: secrets in any column, and images that people have rejected."""
    known = known_secrets()
    found: list[str] = []
    rejected: Counter[str] = Counter()
    for split, records in splits.items():
        for record in records:
            rejected[split] += bool(record.get("rejected"))
            if any(secrets_in("\n".join(map(str, record.values())).encode(errors="replace"), known)):
                found += (
                    f"`{record['file_name']}`, column `{column}`: {shape}"
                    for column, value in record.items()
                    for shape in secrets_in(str(value).encode(errors="replace"), known)
                )
    problems = [_secrets("the records hold secrets", found)] if found else []
    if total := rejected.total():
        problems.append(
            UsageError(
                f"{total:,} of the images {'is' if total == 1 else 'are'} rejected",
                'leave them: `--where "not rejected"`',
            )
        )
    return problems


def check_card(license_: str, text: str) -> list[UsageError]:
    """The problems of a card: no license, or secrets."""
    problems = []
    if license_ in {"", "unknown"}:
        problems.append(
            UsageError("nobody knows the license of these images", "say it: `--license cc-by-4.0`, or another")
        )
    if found := list(secrets_in(text.encode(), known_secrets())):
        problems.append(_secrets("the card holds secrets", found))
    return problems


def check_files(exported: Exported) -> None:
    """Raise UsageError when any of the files holds a secret, also in what a picture carries beside its pixels."""
    known = known_secrets()
    found = [
        f"`{name}`{f', line {line}' if line else ''}: {shape}"
        for name in exported.files
        for line, shape in _secrets_of(exported.folder / name, known)
    ]
    if found:
        raise _secrets("the files hold secrets", found)


def check_limits(exported: Exported) -> None:
    """Raise UsageError for more files than the hub can show."""
    hint = "put them into fewer files: the layouts `parquet` and `webdataset`"
    if len(exported.files) > _MOST_FILES:
        raise UsageError(
            f"{len(exported.files):,} files are more than the {_MOST_FILES:,} a repository should hold", hint
        )
    entries: dict[str, set[str]] = {}
    for name in exported.files:
        path = name
        while path:
            folder, _, entry = path.rpartition("/")
            entries.setdefault(folder, set()).add(entry)
            path = folder
    folder, most = max(((folder, len(found)) for folder, found in entries.items()), key=lambda item: item[1])
    if most > _MOST_ENTRIES:
        raise UsageError(
            f"`{folder or '.'}` holds {most:,} files, more than the {_MOST_ENTRIES:,} that the hub takes", hint
        )


def restrictions(steps: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say what of a dataset limits commercial use by its license, a sentence each."""
    return [
        f"the license of {what}, `{name}`, {'rules out' if is_non_commercial(name) else 'limits'} commercial use: "
        "it may apply to what was made with it"
        for what, name in sorted(set(_licensed(steps)))
        if is_non_commercial(name) or is_limited(name)
    ]


def _licensed(steps: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What has made or judged the images, and the pictures they were made from, each with its license."""
    for step in steps:
        merged = step.get("sources", ())
        for source in merged:
            yield from _licensed(source["steps"])
        if step.get("license") and not merged:
            yield f"`{step.get('model') or step.get('scorer') or step['operator']}`", str(step["license"])
        if step.get("source_license"):
            yield "the pictures that images were made from", str(step["source_license"])


def _secrets(what: str, found: list[str]) -> UsageError:
    lines = [f"  {line}" for line in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"  and {len(found) - _SHOWN:,} more")
    return UsageError("\n".join([f"{what}:", *lines]), "take them out, and make them invalid where they came from")


def _secrets_of(path: Path, known: Mapping[str, bytes]) -> Iterator[tuple[int, str]]:
    """The kinds of secrets in a file with the line of a text, each once."""
    told: set[str] = set()
    told_values = {f"the value of `{name}`": value for name, value in known.items()}
    text = path.suffix in {".md", ".json", ".jsonl", ".txt", ".csv"}
    line, before = 1, b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            # In UTF-16, as EXIF has it, every other byte is null.
            content = (before + block).replace(b"\0", b"")
            for shape in secrets_in(content, known):
                if shape not in told:
                    told.add(shape)
                    place = _place(content, shape) if shape in _PATTERNS else content.find(told_values[shape])
                    yield (line + content[:place].count(b"\n") if text else 0), shape
            before = (before + block)[-_OVERLAP:]
            line += (content.count(b"\n") - before.count(b"\n")) if text else 0


def _place(content: bytes, shape: str) -> int | None:
    """Where the first secret of a shape begins."""
    starts, pattern = _PATTERNS[shape]
    for start in starts:
        place = content.find(start)
        while place >= 0:
            if pattern.match(content, place):
                return place
            place = content.find(start, place + 1)
    return None
