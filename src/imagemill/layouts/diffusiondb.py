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
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.errors import ImagemillError, UsageError, did_you_mean
from imagemill.layouts.base import Content, Layout, Loaded, Picture, table_of, typed
from imagemill.records import RECORD_KEYS, Record, files_of

if TYPE_CHECKING:
    import pyarrow as pa

PART_SIZE = 1_000
"""Images in a part."""
SAMPLERS = {
    "ddim": (1, "ddim"),
    "plms": (2, "plms"),
    "euler": (3, "k_euler"),
    "euler_ancestral": (4, "k_euler_ancestral"),
    "heun": (5, "k_heun"),
    "dpm_2": (6, "k_dpm_2"),
    "dpm_2_ancestral": (7, "k_dpm_2_ancestral"),
    "lms": (8, "k_lms"),
}
"""Schedulers as the table and the JSON files of parts say them; all others are `_OTHERS`."""

_OTHERS = (9, "others")
_SCHEDULERS = {said: name for name, both in {**SAMPLERS, "": _OTHERS}.items() for said in both}
_TABLES = ("metadata.parquet", "metadata-large.parquet")
_EXTRA = "metadata-extra.parquet"
_OTHER_PICTURES = "images-extra"
_DIRECTORY = 10_000
"""Parts in the first directory of the large layout."""
_ROWS = 100_000
"""Rows in a row group of Parquet."""
_KEYS = {
    "prompt": "prompt",
    "seed": "seed",
    "step": "num_inference_steps",
    "cfg": "guidance_scale",
    "sampler": "scheduler",
    "width": "width",
    "height": "height",
    "image_nsfw": "image_nsfw",
    "prompt_nsfw": "prompt_nsfw",
    "p": "prompt",
    "se": "seed",
    "c": "guidance_scale",
    "st": "num_inference_steps",
    "sa": "scheduler",
}
"""What the columns of the table, and the keys of the parts' JSON files, are called in a record."""
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
        text = content.text + self._section(self.notes(content))
        with (
            _written(folder / self._table, columns()) as add_rows,
            _written(folder / _EXTRA, self._extra_columns(content.schema)) as add_records,
        ):
            for number, part in enumerate(_parts(pictures), 1):
                self._write_part(self._part(folder, number), part)
                records = [self.exported(picture.record) for picture in part]
                add_rows([self._row(record, number) for record in records])
                add_records([_extra_row(record) for record in records])
                _place_others(part, folder / _OTHER_PICTURES / f"part-{number:06d}")
        replace(content, text=text).write_card(folder, {split: self._table})

    def read(self, folder: Path, split: str) -> Iterator[Loaded]:
        """Read both tables, the parts' JSON files and the images; what they say differently is taken as different."""
        rows = zip(_rows(folder / self._table), _rows(folder / _EXTRA), strict=True)
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
                    others = [other for other in files_of(record) if other != record["file_name"]]
                    place = folder / _OTHER_PICTURES / path.name
                    files = {other: (place / other).read_bytes() for other in others}
                    yield Loaded(record, {record["file_name"]: read(name), **files})

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
                if row["sampler"] == _OTHERS[0]:
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
        return _TABLES[self.large]

    def _part(self, folder: Path, number: int) -> Path:
        directory = f"diffusiondb-large-part-{1 if number <= _DIRECTORY else 2}" if self.large else "images"
        return folder / directory / f"part-{number:06d}"

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
            "sampler": SAMPLERS.get(record["scheduler"], _OTHERS)[0],
            "user_name": self.exported(record).get(self.user_column) or None,
            "timestamp": self._time(record),
            "image_nsfw": record.get("image_nsfw"),
            "prompt_nsfw": record.get("prompt_nsfw"),
        }

    def _record(self, row: Mapping[str, Any], extra: Mapping[str, Any], entry: Mapping[str, Any]) -> Record:
        """The record out of all three places where it stands; one that says something else is heard."""
        record = {_original(name): value for name, value in extra.items() if name != "image_name"}
        expected = {**self._row(record, 0), **_entry(record), "image_name": image_name(record), "part_id": None}
        keys = {**_KEYS, "user_name": self.user_column, "timestamp": self.timestamp_column}
        for name, value in {**row, **entry}.items():
            meant = expected[name]
            if name in _SINGLE and meant is not None:
                meant = _single(meant)
            if name in keys and value != meant:
                record[keys[name]] = _SCHEDULERS.get(value, value) if keys[name] == "scheduler" else value
        return record

    def _time(self, record: Record) -> datetime | None:
        """When the image was made; raises UsageError for something else than a time."""
        value = record.get(self.timestamp_column)
        if value is None or value == "":
            return None
        try:
            if isinstance(value, str):
                time = datetime.fromisoformat(value)
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

    def _section(self, notes: Iterable[str]) -> str:
        """What the card says of the layout."""
        text = (
            f"\n## Layout\n\nImages lie in parts of {PART_SIZE:,}, as in "
            f"[DiffusionDB](https://huggingface.co/datasets/poloclub/diffusiondb), and `{self._table}` has its 13 "
            f"columns. What is not known is null there. `{_EXTRA}` holds the whole records, by `image_name`, and so "
            "what those columns cannot hold"
        )
        remarks = "".join(f"* {note}\n" for note in notes)
        return f"{text}:\n\n{remarks}" if remarks else f"{text}.\n"


def columns() -> pa.Schema:
    """The columns of `metadata.parquet`."""
    import pyarrow as pa

    return pa.schema(
        [
            ("image_name", pa.string()),
            ("prompt", pa.string()),
            ("part_id", pa.uint16()),
            ("seed", pa.uint32()),
            ("step", pa.uint16()),
            ("cfg", pa.float32()),
            ("sampler", pa.uint8()),
            ("width", pa.uint16()),
            ("height", pa.uint16()),
            ("user_name", pa.string()),
            ("timestamp", pa.timestamp("us", "UTC")),
            ("image_nsfw", pa.float32()),
            ("prompt_nsfw", pa.float32()),
        ]
    )


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


def read_foreign(folder: Path) -> Iterator[Loaded]:
    """Read what others have written in this layout: the parts that are there, as folders or archives, in their order.

    Records have the keys of the parts' JSON files and those columns of the tables, where there are any, that hold
    something, by the names they have in records. An image that is not in its part comes without its file.
    """
    import pyarrow.dataset as ds

    tables = [ds.dataset(path) for path in map(folder.joinpath, _TABLES) if path.is_file()]
    for part in sorted({path.with_suffix("") for path in folder.glob("*/part-[0-9]*")}):
        wanted = ds.field("part_id") == int(part.name.removeprefix("part-"))
        rows = {row["image_name"]: row for one in tables for row in one.to_table(filter=wanted).to_pylist()}
        with opened(part) as read:
            for name, entry in json.loads(read(f"{part.name}.json")).items():
                files = {}
                with suppress(KeyError, FileNotFoundError):
                    files[name] = read(name)
                yield Loaded(_foreign(name, rows.get(name, {}), entry), files)


@contextmanager
def opened(part: Path) -> Iterator[Callable[[str], bytes]]:
    """Open a part, be it a folder or a ZIP archive, to read its files by name."""
    if part.is_dir():
        yield lambda name: (part / name).read_bytes()
    else:
        with zipfile.ZipFile(f"{part}.zip") as archive:
            yield archive.read


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
        "sa": SAMPLERS.get(record["scheduler"], _OTHERS)[1],
    }


def _foreign(name: str, row: Mapping[str, Any], entry: Mapping[str, Any]) -> Record:
    record: Record = {"file_name": name}
    for key, value in {**row, **entry}.items():
        if value is not None and key not in {"image_name", "part_id"}:
            record[_KEYS.get(key, key)] = _SCHEDULERS.get(value, value) if key in {"sampler", "sa"} else value
    if "timestamp" in record:
        record["timestamp"] = record["timestamp"].isoformat()
    return record


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
