"""Tar files that are read from front to back: WebDataset."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import Field

from imagemill.errors import ImagemillError, UsageError
from imagemill.foreign.tars import read_tars, tar_splits
from imagemill.layouts.base import Content, Layout, Loaded, Picture, check_captions, typed
from imagemill.records import Record, to_json

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK, _RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
_INDEX = "v1.2"
"""The version of the index that NVIDIA DALI's `wds2idx` writes."""
_HEAD = bytearray(tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT))
"""No time, no owner: the same samples are the same bytes."""
_HEAD[148:156] = b" " * 8  # where the sum of all bytes belongs, which counts these
_NAME = re.compile(r"(?!__[^/]*__/)((?:.*/)?[^./]+)\.([^/]+)")
"""A key ends at the first point of the last part of the name; readers pass over what has none, and over `__x__/`."""
_EXTENSIONS = {"png", "jpg", "webp"}

Sample = tuple[str, Mapping[str, bytes]]
"""A key, and what the members hold by the rest of their names."""


class Webdataset(Layout):
    """Tar shards with image, prompt and record of each sample: for training that streams, and for the hub."""

    shard_bytes: int = Field(1_000_000_000, ge=1)
    """Bytes of one tar file, at most; it holds at least one sample."""
    caption_column: str = "prompt"
    """The column whose texts are the captions, `.txt`."""

    def write(self, content: Content, folder: Path) -> None:
        """Write `SPLIT-000000.tar` and so on, each with `SPLIT-000000.idx`, which says where everything lies in it."""
        if self.caption_column != "prompt":
            check_captions(content.schema, self.caption_column, "webdataset", adds_text=False)
        pictures = chain.from_iterable(content.splits.values())
        first = next(iter(pictures)).record
        for split, found in content.splits.items():
            self._write_split(self._samples(found, first), folder / split)
        for name, found in content.subsets.items():
            (folder / "subsets").mkdir(exist_ok=True)
            self._write_split(self._samples(found, first), folder / "subsets" / name)
        subsets = {
            name: {"data_files": [{"split": split, "path": f"subsets/{name}-*.tar"} for split in content.splits]}
            for name in content.subsets
        }
        features = _features(first, typed(content.schema))
        content.write_card(folder, {split: f"{split}-*.tar" for split in content.splits}, features, subsets)

    def read(self, folder: Path, split: str) -> Iterator[Loaded]:
        """Read records and files from the tar files.

        Raises ImagemillError where an index, a key or a caption says something else.
        """
        for path in sorted(folder.glob(f"{split}-*.tar")):
            for key, members in read_samples(path):
                record = json.loads(members["json"])
                if key != PurePosixPath(record["file_name"]).stem or members["txt"] != self._caption(record):
                    raise ImagemillError(f"`{path}`: `{key}` is not as its record says", "export it again")
                yield Loaded(record, {name: members[suffix] for suffix, name in _members(record).items()})

    def read_subset(self, folder: Path, name: str) -> Iterator[Loaded]:
        """Read records and files from its own tar files."""
        return self.read(folder / "subsets", name)

    def _samples(self, pictures: Iterable[Picture], first: Record) -> Iterator[Sample]:
        """What each picture is in a shard."""
        for key, held, record in _checked(pictures, first):
            yield key, {**held, "json": to_json(record).encode(), "txt": self._caption(record)}

    def _caption(self, record: Record) -> bytes:
        return (record[self.caption_column] or "").encode()

    def _write_split(self, samples: Iterable[Sample], start: Path) -> None:
        shard: _Shard | None = None
        number = 0
        try:
            for key, members in samples:
                if shard is None or _whole(shard.size + _room(members)) > self.shard_bytes:
                    if shard:
                        shard.finish()
                    shard = _Shard(start.with_name(f"{start.name}-{number:06d}.tar"))
                    number += 1
                shard.add(key, members)
            if shard:
                shard.finish()
        finally:
            if shard:
                shard.file.close()

    @classmethod
    def splits(cls, source: Path) -> list[str]:
        """The splits of tar files of samples."""
        return tar_splits(source)

    @classmethod
    def foreign(cls, source: Path, split: str) -> Iterator[Loaded]:
        """Read a split of tar files of samples."""
        return read_tars(source, split, _members)


class _Shard:
    """A tar file that is being written, and what lies where in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb")
        self.size = 0
        self._index: list[str] = []

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append a sample, its members behind each other."""
        places = []
        for suffix, data in members.items():
            name = f"{key}.{suffix}"
            padding = bytes(-len(data) % _BLOCK)
            self.file.writelines([_head(name.encode("ascii"), len(data)), data, padding])
            places.append(_place(suffix, self.size + _BLOCK, len(data), name))
            self.size += _BLOCK + len(data) + len(padding)
        self._index.append(" ".join(places))

    def finish(self) -> None:
        """Write the end of the file, and the index."""
        self.file.write(bytes(_whole(self.size) - self.size))
        self.file.close()
        self.path.with_suffix(".idx").write_text(_index(self._index), encoding="ascii")


def read_samples(path: Path) -> Iterator[Sample]:
    """Read the samples of any WebDataset shard.

    Raises ImagemillError when it is cut, has two members of one name, or an index that says something else.
    """
    index = []
    hint = "export or download it again"
    try:
        with tarfile.open(path, "r:") as shard:
            found = ((_NAME.fullmatch(member.name), member) for member in shard if member.isfile())
            named = ((name[1], name[2], member) for name, member in found if name)
            for key, group in groupby(named, itemgetter(0)):
                members, places = {}, []
                for _, suffix, member in group:
                    if suffix in members:
                        raise ImagemillError(f"`{path}` has two members `{member.name}`", hint)
                    members[suffix] = shard.extractfile(member).read()  # type: ignore[union-attr]
                    places.append(_place(suffix, member.offset_data, member.size, member.name))
                index.append(" ".join(places))
                yield key, members
            # Cut behind a member it would only be shorter: where the end is written, blocks of zeros follow.
            whole = path.stat().st_size > shard.offset
    except tarfile.TarError as error:
        raise ImagemillError(f"`{path}` is no whole tar file: {error}", hint) from None
    if not whole:
        raise ImagemillError(f"`{path}` is no whole tar file: its end is missing", hint)
    beside = path.with_suffix(".idx")
    if beside.exists() and beside.read_text() != _index(index):
        raise ImagemillError(f"`{beside}` does not say where the samples of `{path.name}` lie", "delete it")


def _place(suffix: str, offset: int, size: int, name: str) -> str:
    """Where a member lies, as the index says it."""
    return f"{suffix} {offset} {size} {name}"


def _index(lines: list[str]) -> str:
    return "\n".join([f"{_INDEX} {len(lines)}", *lines, ""])


def _head(name: bytes, size: int) -> bytes:
    """The block before a member, as `tarfile` makes it in three times the time."""
    block = bytearray(_HEAD)
    block[: len(name)] = name
    block[124:135] = b"%011o" % size
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def _room(members: Mapping[str, bytes]) -> int:
    """The bytes that members take in a tar file."""
    return sum(_BLOCK + len(data) + -len(data) % _BLOCK for data in members.values())


def _whole(size: int) -> int:
    """The size of a tar file: two blocks of zeros at its end, and full records."""
    size += 2 * _BLOCK
    return size + -size % _RECORD


def _checked(pictures: Iterable[Picture], first: Record) -> Iterator[tuple[str, dict[str, bytes], Record]]:
    """Key, pictures by suffix and record of each; raises UsageError where they are of other kinds than the first.

    Readers take the kinds of members, and so columns, from the first samples.
    """
    expected = list(_members(first))
    for picture in pictures:
        record = picture.record
        members = _members(record)
        if list(members) != expected:
            raise UsageError(
                f"webdataset: every sample must have the same kinds of files: `{first['file_name']}` has "
                f"{_said(expected)}, and `{record['file_name']}` has {_said(members)}",
                "`--image-format png` makes the formats equal; the layout `parquet` holds pictures of any number",
            )
        if unnamed := sorted({*picture.files} - {*members.values()}):
            raise UsageError(
                f"webdataset: `{unnamed[0]}` of `{record['file_name']}` would be called like another of its files",
                "the layout `parquet` holds both",
            )
        key = PurePosixPath(record["file_name"]).stem
        # A point would end the key there, and make one sample of many.
        if not re.fullmatch(r"[\w-]{1,80}", key, re.ASCII):
            raise UsageError(f"webdataset: `{key}` cannot be a key", "use 80 letters, digits, `_` and `-` at most")
        yield key, {suffix: picture.read(name) for suffix, name in members.items()}, record


def _said(suffixes: Iterable[str]) -> str:
    return ", ".join(f"`{suffix}`" for suffix in suffixes)


def _members(record: Mapping[str, Any]) -> dict[str, str]:
    """The files that a record names, each once, by what stands behind the key in a shard: `png`, `input.png`."""
    fields: dict[str, str] = {}
    for key, value in record.items():
        if key == "file_name":
            fields[value] = ""
        elif key.endswith("_file_name"):
            fields.setdefault(value, f"{key.removesuffix('_file_name').removesuffix('_image')}.")
        elif key.endswith("_file_names"):
            for number, name in enumerate(value):
                fields.setdefault(name, f"{key.removesuffix('_images_file_names')}_{number}.")
    return {f"{field}{PurePosixPath(name).suffix[1:].lower()}": name for name, field in fields.items()}


def _features(first: Record, records: pa.Schema) -> list[dict[str, Any]]:
    """The columns that `load_dataset` makes of samples, with types that it would guess from five of them."""
    return [
        *({"name": suffix, "dtype": "image" if suffix.split(".")[-1] in _EXTENSIONS else "binary"}
          for suffix in _members(first)),
        {"name": "json", "struct": [{"name": field.name, **_type(field.type)} for field in records]},
        *({"name": name, "dtype": "string"} for name in ("txt", "__key__", "__url__")),
    ]  # fmt: skip


def _type(kind: pa.DataType) -> dict[str, Any]:
    import pyarrow as pa

    if pa.types.is_list(kind):
        inner = _type(kind.value_type)
        return {"list": inner.get("dtype", inner)}
    return {"dtype": "float64" if pa.types.is_float64(kind) else str(kind)}
