"""What a repository in the layout of DiffusionDB holds, and what of it is wanted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imagemill.downloading.options import Download
from imagemill.downloading.repository import RemoteFile, Repository
from imagemill.errors import UsageError
from imagemill.foreign.diffusiondb import EXTRA_TABLE, OTHER_PICTURES, PART_SIZE, TABLES, part_name

_CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of a repository that make a dataset."""

    parts: Mapping[int, RemoteFile]
    """The archives by number, in order."""
    tables: Sequence[RemoteFile]
    """The table, and beside it the one with whole records, row by row, where there is one."""
    card: RemoteFile | None
    other_pictures: bool
    """Whether there are pictures beside the images, which are not fetched."""


def read_contents(repository: Repository, large: bool) -> Contents:
    """List the files; raises UsageError for a repository in another layout."""
    top = repository.files()
    files = {path: file for path, file in top.items() if file}
    parts = _parts(repository, set(top), large)
    names = [TABLES[large], *([] if large and TABLES[0] in files else [EXTRA_TABLE])]
    tables = [files[name] for name in names if name in files]
    if not parts and not (tables and tables[0].path == TABLES[large]):
        other = TABLES[not large] in files or _directories(not large) & set(top)
        hint = f"it is there {'without' if large else 'with'} `--large`" if other else "name another repository"
        raise UsageError(
            f"`{repository.name}` is not in DiffusionDB's layout: there are neither parts such as "
            f"`{part_name(1, large)}.zip` nor `{TABLES[large]}`",
            hint,
        )
    tables = tables if tables and tables[0].path == TABLES[large] else []
    return Contents(parts, tables, files.get(_CARD), OTHER_PICTURES in top)


def wanted_parts(contents: Contents, options: Download) -> list[int]:
    """The parts to fetch, in order; raises UsageError for ones outside of what there is."""
    if options.metadata_only or options.subset:
        return []
    if not contents.parts:
        raise UsageError("the repository has no archives of parts", "`--metadata-only` fetches the table")
    first, last = min(contents.parts), max(contents.parts)
    numbers: set[int] = set()
    for asked in options.ranges:
        if asked.start < first or asked[-1] > last:
            shown = f"{asked.start}-{asked[-1]}" if len(asked) > 1 else f"{asked.start}"
            raise UsageError(
                f"download: `parts`: `{shown}` is not all there, the repository has {first:,} to {last:,}",
                f"ask for parts from {first} to {last}",
            )
        numbers.update(asked)
    return sorted(numbers) or list(contents.parts)


def check_table(contents: Contents, options: Download) -> None:
    """Raise UsageError where the table is needed and absent, or cannot have enough rows."""
    if not (options.subset or options.metadata_only):
        return
    if not contents.tables:
        raise UsageError(f"the repository has no `{TABLES[options.large]}`", "fetch `--parts` instead")
    subset = options.chosen
    most = len(contents.parts) * PART_SIZE
    if subset and subset.count > most:
        raise UsageError(
            f"download: `subset`: {subset.count:,} images are wanted, and there are at most {most:,}", "ask for fewer"
        )


def _parts(repository: Repository, top: set[str], large: bool) -> dict[int, RemoteFile]:
    found = {}
    for directory in sorted(_directories(large) & top):
        for path, file in repository.files(directory).items():
            match = re.fullmatch(r".*/part-(\d{6,9})\.zip", path, re.ASCII)
            if file and match and path == f"{part_name(int(match[1]), large)}.zip":
                found[int(match[1])] = file
    return dict(sorted(found.items()))


def _directories(large: bool) -> set[str]:
    return {part_name(number, large).partition("/")[0] for number in (1, 10**6)}
