"""Images in parts of a thousand with one table of parameters: the layout of DiffusionDB."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.errors import ImagemillError, UsageError, did_you_mean
from imagemill.foreign.diffusiondb import (
    EXTRA_TABLE,
    KEYS,
    OTHER_PICTURES,
    OTHERS,
    PART_SIZE,
    SAMPLERS,
    SCHEDULERS,
    TABLES,
    columns,
    part_name,
    parts_of,
    read_foreign,
)
from imagemill.foreign.trees import check_name
from imagemill.layouts.base import (
    Content,
    Layout,
    Loaded,
    Picture,
    chosen,
    picture_type,
    read_tables,
    table_of,
    typed,
    write_tables,
)
from imagemill.records import RECORD_KEYS, Record, files_of

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 100_000
"""Rows in a row group of Parquet."""
_TABLE_ALONE = "metadata_only"
"""What `load_dataset` calls the table without pictures, beside subsets."""
_SHARD_BYTES, _GROUP_BYTES = 500_000_000, 100_000_000
"""Bytes of images in a file of a subset, and in a row group of it."""
_SINGLE = {"cfg", "image_nsfw", "prompt_nsfw"}
"""Columns of single precision."""
_BITS = {"part_id": 16, "seed": 32, "step": 16, "width": 16, "height": 16}
"""Of the unsigned integers, which hold nothing below 0."""
_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every file in a ZIP archive: the earliest it can say."""


class Diffusiondb(Layout):
    """Parts of 1,000 images named by UUID, a JSON file in each, and `metadata.parquet`: the layout of DiffusionDB."""

    zips: bool = False
    """Write each part as a ZIP archive, as DiffusionDB lies on the hub."""
    large: bool = False
    """Name everything as in DiffusionDB Large, whose parts from 10,001 on lie in a second directory."""
    user_column: str = "user_name"
    """The column that tells who wrote a prompt; exported as SHA-256 only. Empty for none."""
    timestamp_column: str = "timestamp"
    """The column that tells when an image was made, as ISO 8601 or in seconds since 1970. Empty for none."""

    def write(self, content: Content, folder: Path) -> None:
        """Write `images/part-000001` and so on, `metadata.parquet`, and `metadata-extra.parquet` with whole records."""
        ((split, pictures),) = self._checked(content).items()
        text = content.text + self._section(self.notes(content), bool(content.subsets))
        with (
            _written(folder / self._table, columns()) as add_rows,
            _written(folder / EXTRA_TABLE, self._extra_columns(content.schema)) as add_records,
        ):
            for number, part in enumerate(_parts(pictures), 1):
                self._write_part(self._part(folder, number), part)
                records = [self.exported(picture.record) for picture in part]
                add_rows([self._row(record, number) for record in records])
                add_records([_extra_row(record) for record in records])
                _place_others(part, _others(folder, number))
        for name, some in content.subsets.items():
            (folder / "subsets").mkdir(exist_ok=True)
            rows = self._subset_rows(pictures, some)
            write_tables(rows, _subset_columns(), folder / "subsets" / name, _SHARD_BYTES, _GROUP_BYTES)
        configs = {name: f"subsets/{name}-*.parquet" for name in content.subsets}
        if configs:
            configs[_TABLE_ALONE] = self._table
        told = {name: {"data_files": [{"split": split, "path": path}]} for name, path in configs.items()}
        replace(content, text=text).write_card(folder, {split: self._table}, configs=told)

    def read(self, folder: Path, split: str) -> Iterator[Loaded]:
        """Read both tables, the parts' JSON files and the images; what they say differently is taken as different."""
        rows = zip(_rows(folder / self._table), _rows(folder / EXTRA_TABLE), strict=True)
        numbered = ((row["part_id"] or place // PART_SIZE + 1, row, extra) for place, (row, extra) in enumerate(rows))
        for number, group in groupby(numbered, key=itemgetter(0)):
            path = self._part(folder, number)
            with opened(path) as read:
                entries = json.loads(read(f"{path.name}.json"))
                for _, row, extra in group:
                    name = row["image_name"]
                    if name not in entries:
                        raise ImagemillError(f"`{path.name}.json` says nothing of `{name}`", "export it again")
                    record = self._record(row, extra, entries[name])
                    yield Loaded(record, {record["file_name"]: read(name), **_read_others(record, folder, number)})

    def read_subset(self, folder: Path, name: str) -> Iterator[Loaded]:
        """Read its tables, and what else is known of its images."""
        whole = enumerate(zip(_rows(folder / self._table), _rows(folder / EXTRA_TABLE), strict=True))
        for row, _ in read_tables(folder / "subsets", name):
            image = row.pop("image")
            found = next((item for item in whole if item[1][0]["image_name"] == image["path"]), None)
            if found is None:
                raise ImagemillError(f"`{self._table}` says nothing of `{image['path']}`", "export it again")
            place, (known, extra) = found
            if row != known:
                raise ImagemillError(f"`{self._table}` says something else of `{image['path']}`", "export it again")
            record = self._record(row, extra, {})
            others = _read_others(record, folder, place // PART_SIZE + 1)
            yield Loaded(record, {record["file_name"]: image["bytes"], **others})

    @property
    def hidden(self) -> frozenset[str]:
        """The column with names."""
        return frozenset({self.user_column} - {""})

    def check_conversion(self, image_format: str | None, quality: int | None) -> None:
        """Raise UsageError for JPEG, and for WebP that loses something."""
        if image_format == "jpeg" or (image_format == "webp" and quality is not None):
            lossy = "JPEG" if image_format == "jpeg" else f"WebP of quality {quality}"
            raise UsageError(
                f"diffusiondb holds images without loss, as PNG or lossless WebP, got: {lossy}",
                "`--image-format webp` without `--quality` loses nothing",
            )

    def exported(self, record: Record) -> Record:
        """A record as it leaves: nobody's name in clear."""
        user = record.get(self.user_column)
        return record if user is None or user == "" else {**record, self.user_column: hashed(str(user))}

    def notes(self, content: Content) -> list[str]:
        """What the columns of DiffusionDB cannot hold, a sentence each.

        Raises UsageError for content that cannot be in this layout at all.
        """
        ((_, pictures),) = self._checked(content).items()
        absent: Counter[str] = Counter()
        schedulers: Counter[str] = Counter()
        for number, part in enumerate(_parts(pictures), 1):
            for picture in part:
                row = self._row(picture.record, number)
                absent.update(name for name in _BITS if row[name] is None)
                if row["sampler"] == OTHERS[0]:
                    schedulers[picture.record["scheduler"] or "unknown"] += 1
        notes = [
            f"`{name}` is null for {_images(absent[name])}: it holds integers from 0 to {2**bits - 1:,} only"
            for name, bits in _BITS.items()
            if absent[name]
        ]
        if schedulers:
            names = ", ".join(f"`{name}`" for name in sorted(schedulers))
            notes.append(f"`sampler` is 9, others, for {_images(schedulers.total())}: {names}")
        return notes

    def _subset_rows(
        self, pictures: Iterable[Picture], some: Iterable[Picture]
    ) -> Iterator[tuple[dict[str, Any], int]]:
        """The rows of a subset with their pictures, and the bytes of these."""
        for place, picture in chosen(enumerate(pictures), some):
            row = self._row(picture.record, place // PART_SIZE + 1)
            data = picture.read(picture.record["file_name"])
            yield {"image": {"bytes": data, "path": row["image_name"]}, **row}, len(data)

    def _checked(self, content: Content) -> Mapping[str, Iterable[Picture]]:
        """The only split; raises UsageError for splits and columns that cannot be in this layout."""
        import pyarrow as pa

        if len(content.splits) > 1:
            splits = ", ".join(f"`{split}`" for split in content.splits)
            raise UsageError(f"diffusiondb has no splits, got: {splits}", "export each of them alone")
        for parameter, name in (("user_column", self.user_column), ("timestamp_column", self.timestamp_column)):
            usual = type(self).model_fields[parameter].default
            known = [column for column in content.schema.names if column not in RECORD_KEYS]
            if name not in {*known, usual, ""}:
                raise UsageError(
                    f"diffusiondb: `{parameter}`: there is no such column, got: `{name}`",
                    did_you_mean(name, known) or f"known: {', '.join(known)}",
                )
        for name in ("image_nsfw", "prompt_nsfw"):
            kind = content.schema.field(name).type if name in content.schema.names else pa.null()
            if not (pa.types.is_null(kind) or pa.types.is_floating(kind) or pa.types.is_integer(kind)):
                raise UsageError(
                    f"diffusiondb: `{name}` must be a number, got: {kind}", f"`imagemill score --with {name}` adds one"
                )
        return content.splits

    @property
    def _table(self) -> str:
        return TABLES[self.large]

    def _part(self, folder: Path, number: int) -> Path:
        return folder / part_name(number, self.large)

    def _write_part(self, path: Path, pictures: Iterable[Picture]) -> None:
        named = {image_name(picture.record): picture for picture in pictures}
        entries = {name: _entry(picture.record) for name, picture in named.items()}
        document = json.dumps(entries, ensure_ascii=False, indent=2)
        if not self.zips:
            path.mkdir(parents=True)
            for name, picture in named.items():
                picture.place(picture.record["file_name"], path / name)
            (path / f"{path.name}.json").write_text(document, encoding="utf-8")
            return
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(f"{path}.zip", "w") as archive:
            for name, picture in named.items():
                archive.writestr(_member(name), picture.read(picture.record["file_name"]))
            archive.writestr(_member(f"{path.name}.json"), document.encode())

    def _row(self, record: Record, part: int) -> dict[str, Any]:
        """The row of `metadata.parquet`."""
        numbers = {
            "part_id": part,
            "seed": record["seed"],
            "step": record["num_inference_steps"],
            "width": record["width"],
            "height": record["height"],
        }
        return {
            "image_name": image_name(record),
            "prompt": record["prompt"],
            **{name: value if 0 <= value < 2 ** _BITS[name] else None for name, value in numbers.items()},
            "cfg": record["guidance_scale"],
            "sampler": SAMPLERS.get(record["scheduler"], OTHERS)[0],
            "user_name": self.exported(record).get(self.user_column) or None,
            "timestamp": self._time(record),
            "image_nsfw": record.get("image_nsfw"),
            "prompt_nsfw": record.get("prompt_nsfw"),
        }

    def _record(self, row: Mapping[str, Any], extra: Mapping[str, Any], entry: Mapping[str, Any]) -> Record:
        """The record out of all three places where it stands; one that says something else is heard."""
        record = {_original(name): value for name, value in extra.items() if name != "image_name"}
        expected = {**self._row(record, 0), **_entry(record), "image_name": image_name(record), "part_id": None}
        keys = {**KEYS, "user_name": self.user_column, "timestamp": self.timestamp_column}
        for name, value in {**row, **entry}.items():
            meant = expected[name]
            if name in _SINGLE and meant is not None:
                meant = _single(meant)
            if name in keys and value != meant:
                record[keys[name]] = SCHEDULERS.get(value, value) if keys[name] == "scheduler" else value
        return record

    def _time(self, record: Record) -> datetime | None:
        """When the image was made; raises UsageError for something else than a time."""
        value = record.get(self.timestamp_column)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        try:
            if isinstance(value, str):
                time = datetime.fromisoformat(value.strip())
                return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, TypeError, OverflowError, OSError):
            raise UsageError(
                f"diffusiondb: `{self.timestamp_column}` of `{record['file_name']}` is no time, got: `{value!s:.80}`",
                '`--timestamp-column ""` exports without times',
            ) from None

    def _extra_columns(self, schema: pa.Schema) -> pa.Schema:
        import pyarrow as pa

        kinds = {field.name: field.type for field in typed(schema)}
        kinds.update({self.user_column: pa.string()} if self.user_column in kinds else {})
        return pa.schema([("image_name", pa.string()), *((_renamed(name), kind) for name, kind in kinds.items())])

    def _section(self, notes: Iterable[str], subsets: bool) -> str:
        """What the card says of the layout."""
        more = f" Subsets have these columns with the picture, `{_TABLE_ALONE}` without." if subsets else ""
        text = (
            f"\n## Layout\n\nImages lie in parts of {PART_SIZE:,}, as in "
            f"[DiffusionDB](https://huggingface.co/datasets/poloclub/diffusiondb), and `{self._table}` has its 13 "
            f"columns. What is not known is null there.{more} `{EXTRA_TABLE}` holds the whole records, by "
            "`image_name`, and so what those columns cannot hold"
        )
        remarks = "".join(f"* {note}\n" for note in notes)
        return f"{text}:\n\n{remarks}" if remarks else f"{text}.\n"

    @classmethod
    def splits(cls, source: Path) -> list[str]:
        """The only split of parts with their JSON files, as folders or archives."""
        return ["train"] if parts_of(source) else []

    @classmethod
    def foreign(cls, source: Path, split: str) -> Iterator[Loaded]:
        """Read the parts that are there, with what the tables say of them."""
        return read_foreign(source)


def _subset_columns() -> pa.Schema:
    """The columns of subsets: with the picture."""
    import pyarrow as pa

    return pa.schema([pa.field("image", picture_type()), *columns()])


def image_name(record: Record) -> str:
    """The name of an image: a UUID of version 4 whose bits are a hash of its file instead of random.

    Raises UsageError for a file that is neither PNG nor WebP.
    """
    file_name = str(record["file_name"])
    extension = Path(file_name).suffix
    if extension not in {".png", ".webp"}:
        raise UsageError(f"diffusiondb holds PNG and WebP images, got: `{file_name}`", "`--image-format png` converts")
    digest = hashlib.sha256(f"{file_name}\0{record['sha256']}".encode()).digest()
    return f"{uuid.UUID(bytes=digest[:16], version=4)}{extension}"


def hashed(user: str) -> str:
    """The SHA-256 of a user's name; what is one already stays."""
    return user if re.fullmatch(r"[0-9a-fA-F]{64}", user) else hashlib.sha256(user.encode()).hexdigest()


@contextmanager
def opened(part: Path) -> Iterator[Callable[[str], bytes]]:
    """Open a part, be it a folder or a ZIP archive, to read its files by name."""
    if part.is_dir():
        yield partial(_inside, part)
    else:
        with zipfile.ZipFile(f"{part}.zip") as archive:
            yield archive.read


def _inside(folder: Path, name: str) -> bytes:
    """What a file holds; raises ValueError for a name that leads out of the folder."""
    check_name(name)
    return (folder / name).read_bytes()


@contextmanager
def _written(path: Path, schema: pa.Schema) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Write Parquet with the rows of many parts in a row group; what is given takes the rows of one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[pa.Table] = []

    def add(rows: list[dict[str, Any]]) -> None:
        waiting.append(table_of(rows, schema))
        if len(waiting) * PART_SIZE >= _ROWS:
            flush()

    def flush() -> None:
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=_ROWS)
            waiting.clear()

    with pq.ParquetWriter(path, schema) as writer:
        yield add
        flush()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(PART_SIZE):
            yield from batch.to_pylist()


def _parts(pictures: Iterable[Picture]) -> Iterator[list[Picture]]:
    remaining = iter(pictures)
    while part := list(islice(remaining, PART_SIZE)):
        yield part


def _others(folder: Path, part: int) -> Path:
    """Where the pictures are that DiffusionDB has no place for."""
    return folder / OTHER_PICTURES / f"part-{part:06d}"


def _read_others(record: Record, folder: Path, part: int) -> dict[str, bytes]:
    names = [name for name in files_of(record) if name != record["file_name"]]
    return {name: _inside(_others(folder, part), name) for name in names}


def _place_others(pictures: Iterable[Picture], folder: Path) -> None:
    """Keep the pictures that DiffusionDB has no place for, such as those that others were made from."""
    for picture in pictures:
        for name in picture.files:
            if name != picture.record["file_name"]:
                folder.mkdir(parents=True, exist_ok=True)
                picture.place(name, folder / name)


def _entry(record: Record) -> dict[str, Any]:
    """What the JSON file of a part says of an image; here every number fits."""
    return {
        "p": record["prompt"],
        "se": record["seed"],
        "c": record["guidance_scale"],
        "st": record["num_inference_steps"],
        "sa": SAMPLERS.get(record["scheduler"], OTHERS)[1],
    }


def _member(name: str) -> zipfile.ZipInfo:
    """A file in a ZIP archive, stored as it is, the same whenever and wherever it is written."""
    member = zipfile.ZipInfo(name, _TIME)
    member.create_system = 3
    member.external_attr = 0o644 << 16
    return member


def _extra_row(record: Record) -> dict[str, Any]:
    return {"image_name": image_name(record), **{_renamed(key): value for key, value in record.items()}}


def _renamed(key: str) -> str:
    """A key of a record as a column of the extra table, whose own `image_name` comes first."""
    return f"table_{key}" if re.fullmatch(r"(table_)*image_name", key) else key


def _original(name: str) -> str:
    return name.removeprefix("table_") if re.fullmatch(r"(table_)+image_name", name) else name


def _single(value: float) -> float:
    """The nearest number of single precision."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
