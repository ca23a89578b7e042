"""Files into raw rows: CSV, TSV, JSONL, JSON, TXT, Parquet, compressed or not, standard input, Hugging Face."""

from __future__ import annotations

import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagemill.environment import means_path
from imagemill.errors import MissingExtra, UsageError, did_you_mean
from imagemill.records import Reject
from imagemill.tables.texts import MAX_SPAN, START, RawRow, TextTable, clean_table

_LARGE = 2**20
"""Bytes from which on a CSV file is first tried as a whole, before line by line."""
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_FORMATS = ("csv", "tsv", "jsonl", "ndjson", "json", "txt", "parquet")


@dataclass(slots=True)
class _Collector:
    """Gathers rows and rejects; every row of the file takes one index, read or not."""

    rows: list[RawRow] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    names: dict[str, None] = field(default_factory=dict)
    index: int = 0
    table: TextTable | None = None
    """In place of `rows`, where there are many and all are of text."""

    def accept(self, line: int, values: Mapping[str, Any], start: str) -> None:
        self.names.update(dict.fromkeys(values))
        self.rows.append(RawRow(self.index, line, values, start[:START]))
        self.index += 1

    def reject(self, line: int, reason: str, raw: str) -> None:
        self.rejects.append(Reject(line, reason, raw[:START]))
        self.index += 1


def read_source(
    source: str | Path | Iterable[Any], pictures: bool = False
) -> tuple[Sequence[RawRow], list[Reject], list[str]]:
    """Return the rows, the lines that are no rows, and the column names; with `pictures` also those of the hub.

    Raises UsageError when the source as a whole cannot be read.
    """
    collector = _Collector()
    if not isinstance(source, str | Path):
        _read_values(source, collector)
    elif str(source) == "-":
        content = sys.stdin.buffer.read()
        _read_bytes(content, _sniff(content), collector)
    elif Path(source).is_file():
        _read_file(Path(source), collector)
    elif _means_file(str(source)):
        folder = Path(source).parent
        near = did_you_mean(Path(source).name, [path.name for path in folder.iterdir()] if folder.is_dir() else [])
        raise UsageError(f"there is no file `{source}`", near or "check the path")
    else:
        _read_hugging_face(str(source), collector, pictures)
    rows = collector.rows if collector.table is None else collector.table
    return rows, collector.rejects, list(collector.names)


def rows_of(values: Iterable[Any]) -> list[Any]:
    """Rows given in Python; raises UsageError for a table by columns, which iterates over their names."""
    if isinstance(values, Mapping) or hasattr(values, "iloc") or hasattr(values, "num_columns"):
        raise UsageError(
            f"a prompt table is a list of prompts or of rows, got: `{type(values).__name__}`",
            "of a DataFrame, give `frame.to_dict('records')`",
        )
    return list(values)


def _means_file(source: str) -> bool:
    """Whether a name is a path and not that of a dataset on the hub."""
    suffixes = {suffix.lower().lstrip(".") for suffix in Path(source).suffixes}
    return not Path(source).is_dir() and (bool(suffixes & {*_FORMATS}) or means_path(source))


def _read_file(path: Path, collector: _Collector) -> None:
    suffixes = [suffix.lower().lstrip(".") for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in {"gz", "zst"} else None
    table_format = suffixes[-1] if suffixes else ""
    if table_format not in _FORMATS:
        raise UsageError(
            f"`{path}` is no prompt table: its name ends in `{''.join(path.suffixes) or path.name}`",
            f"known formats: {', '.join(_FORMATS)}, each also as .gz or .zst",
        )
    if table_format == "parquet":
        _read_parquet(path, compression, collector)
    else:
        _read_bytes(_content(path, compression), table_format, collector)


def _content(path: Path, compression: str | None) -> bytes:
    try:
        content = path.read_bytes()
        if compression == "gz":
            return gzip.decompress(content)
        if compression == "zst":
            import pyarrow as pa

            with pa.CompressedInputStream(pa.BufferReader(content), "zstd") as stream:
                return bytes(stream.read())
    except (OSError, EOFError, zlib.error) as error:
        hint = "check its permissions" if isinstance(error, PermissionError) else "is the file complete?"
        raise UsageError(f"`{path}` cannot be read: {error}", hint) from None
    return content


def _sniff(content: bytes) -> str:
    """Guess the format of standard input from how it begins."""
    if content.startswith(b"PAR1"):
        return "parquet"
    start = _utf_8(content).lstrip()
    if start.startswith(b"["):
        return "json"
    if start.startswith(b"{"):
        try:
            value = json.loads(start)
        except (ValueError, RecursionError):
            return "jsonl"
        return "json" if any(isinstance(item, list) for item in value.values()) and "prompt" not in value else "jsonl"
    header = _LINE_END.split(start, 1)[0].decode(errors="replace").lower()
    for table_format, delimiter in (("tsv", "\t"), ("csv", ","), ("csv", ";")):
        names = [name.strip(' "') for name in header.split(delimiter)]
        if any(name in {"prompt", "text", "caption"} for name in names):
            return table_format
    return "txt"


def _read_bytes(content: bytes, table_format: str, collector: _Collector) -> None:
    if table_format == "parquet":
        import pyarrow as pa

        _read_parquet(pa.BufferReader(content), None, collector)
        return
    content = _utf_8(content)
    if table_format == "json":
        _read_json(content, collector)
        return
    if table_format in {"csv", "tsv"} and len(content) >= _LARGE and _read_clean(content, table_format, collector):
        return
    lines = _LINE_END.split(content)
    while lines and not lines[-1]:
        lines.pop()
    if table_format in {"csv", "tsv"}:
        _read_delimited(lines, table_format, collector)
    else:
        for number, line in enumerate(lines, start=1):
            text, problem = _decode(line)
            if problem:
                collector.reject(number, problem, text)
            elif table_format == "txt":
                collector.accept(number, {"prompt": text}, text)
            elif text.strip():
                _read_json_line(number, text, collector)


def _utf_8(content: bytes) -> bytes:
    """Take a byte order mark away; half a surrogate pair stays one, for its line to be rejected."""
    for bom, encoding in _BOMS:
        if content.startswith(bom):
            content = content.removeprefix(bom)
            if encoding != "utf-8":
                whole = len(content) - len(content) % 2
                text = content[:whole].decode(encoding, errors="surrogatepass")
                content = text.encode(errors="surrogatepass") + content[whole:]
            break
    return content


def _decode(line: bytes) -> tuple[str, str]:
    """Return the text of a line and what is wrong with it, if anything."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return line.decode(errors="replace"), f"byte {error.start + 1} is not UTF-8: 0x{line[error.start]:02x}"
    return text, "contains a NUL character" if "\0" in text else ""


# CSV and TSV


def _read_clean(content: bytes, table_format: str, collector: _Collector) -> bool:
    """Read a large table in which everything is as RFC 4180 wants; return whether it was one."""
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    end = content.find(b"\n") + 1
    if not end:
        return False
    delimiter, names = _header(content[: end - 1], table_format)
    collector.table = clean_table(content, end, names, delimiter)
    collector.names.update(dict.fromkeys(names))
    return collector.table is not None


def _header(line: bytes, table_format: str) -> tuple[str, list[str]]:
    """The delimiter of a table and the names of its columns; raises UsageError."""
    header, problem = _decode(line)
    delimiter = "\t" if table_format == "tsv" else max(",;\t", key=header.count)
    names = _split(header, delimiter)
    if problem or names is None:
        hint = "save the table as UTF-8" if problem else "the first line must name the columns"
        raise UsageError(f"line 1: {problem or 'a quote is not closed'}", hint)
    names = [name.strip() or f"column_{number}" for number, name in enumerate(names, start=1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"line 1 names the column `{twice[0]}` more than once", "rename one of them")
    return delimiter, names


def _read_delimited(lines: list[bytes], table_format: str, collector: _Collector) -> None:
    if not lines:
        raise UsageError("the table is empty", "the first line must name the columns")
    delimiter, names = _header(lines[0], table_format)
    collector.names.update(dict.fromkeys(names))
    # A table in which everything fits is taken as written. Where something does not, a quoted field over
    # several lines is believed only when no line inside it looks like a row of its own.
    if not _read_records(lines, delimiter, table_format, names, collector, trusting=True):
        collector.rows.clear()
        collector.rejects.clear()
        collector.index = 0
        _read_records(lines, delimiter, table_format, names, collector, trusting=False)


def _read_records(
    lines: list[bytes], delimiter: str, table_format: str, names: list[str], collector: _Collector, trusting: bool
) -> bool:
    """Read all rows after the header; return whether none of them raised a doubt about quotes."""
    position = 1
    clean = True
    while position < len(lines):
        number = position + 1
        text, problem = _decode(lines[position])
        if not text:
            position += 1
            continue
        fields = None if problem else _split(text, delimiter)
        used = 1
        if fields is None and not problem:
            fields, used, text = _join(lines, position, delimiter, len(names), trusting)
            if fields is None and table_format == "tsv" and text.count('"') % 2 == 0:
                # Most TSV is written without quoting: `"Hi" on a wall` begins with a word in quotes.
                fields = text.split(delimiter)
            problem = "" if fields else "a quote is opened and not closed, or text follows a closing quote"
        if fields is not None and not problem and len(fields) != len(names):
            problem = f"{_count(len(fields), 'field')} where the header has {len(names)}"
        if problem:
            clean = clean and '"' not in text
            collector.reject(number, problem, text)
        else:
            # What a quote in mid-cell leaves behind is the end of a row that another one may have swallowed.
            clean = clean and text.count('"') % 2 == 0
            collector.accept(number, dict(zip(names, fields or (), strict=True)), text)
        position += used
    return clean


def _join(
    lines: list[bytes], position: int, delimiter: str, width: int, trusting: bool
) -> tuple[list[str] | None, int, str]:
    """Complete a row whose quoted field runs over lines; return its fields, the lines used, and its text."""
    first, _ = _decode(lines[position])
    text = first
    for used in range(2, min(MAX_SPAN, len(lines) - position) + 1):
        line, problem = _decode(lines[position + used - 1])
        if problem:
            break
        text += "\n" + line
        # Only a line with an odd number of quotes can close the field.
        fields = _split(text, delimiter) if line.count('"') % 2 else None
        if fields is not None:
            if len(fields) == width:
                return fields, used, text
            break
        inside = None if trusting else _split(line, delimiter)
        if inside is not None and len(inside) == width:
            break
    return None, 1, first


def _split(text: str, delimiter: str) -> list[str] | None:
    """Split one row by RFC 4180; None when a quote is not closed or closes in mid-field."""
    if '"' not in text:
        return text.split(delimiter)
    fields: list[str] = []
    position = 0
    while True:
        if text.startswith('"', position):
            found = _QUOTED.match(text, position)
            if not found or not (found.end() == len(text) or text[found.end()] == delimiter):
                return None
            fields.append(found[1].replace('""', '"'))
            position = found.end()
        else:
            end = text.find(delimiter, position)
            end = len(text) if end < 0 else end
            fields.append(text[position:end])
            position = end
        if position == len(text):
            return fields
        position += 1


_QUOTED = re.compile(r'"((?:[^"]|"")*+)"')


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# JSON


def _read_json_line(number: int, text: str, collector: _Collector) -> None:
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        collector.reject(number, f"not JSON: {error}", text)
        return
    _take(number, value, text, collector)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"`{twice}` stands twice in one object")
    return found


def _is_text(name: str) -> bool:
    return "\0" not in name and not re.search("[\ud800-\udfff]", name)


def _take(number: int, value: object, text: str, collector: _Collector) -> None:
    if isinstance(value, str):
        collector.accept(number, {"prompt": value}, text)
    elif isinstance(value, Mapping) and not all(_is_text(str(name)) for name in value):
        collector.reject(number, "the name of a column holds a NUL character or half a surrogate pair", text)
    elif isinstance(value, Mapping):
        collector.accept(number, {str(name): item for name, item in value.items()}, text)
    else:
        collector.reject(number, f"neither an object nor a text but a {type(value).__name__}", text)


def _read_json(content: bytes, collector: _Collector) -> None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not JSON: {error}", "one object a line is JSONL: call the file .jsonl") from None
    if isinstance(value, dict):
        lists = [items for items in value.values() if isinstance(items, list)]
        if len(lists) != 1:
            raise UsageError("the JSON is an object without one list of rows in it", "write a list of objects")
        value = lists[0]
    if not isinstance(value, list):
        raise UsageError("the JSON is not a list of rows", "write a list of objects, or of prompts")
    for number, item in enumerate(value, start=1):
        _take(number, item, json.dumps(item)[:START], collector)


# Columns from elsewhere


def _read_parquet(source: Any, compression: str | None, collector: _Collector) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if compression:
            source = pa.BufferReader(_content(source, compression))
        batches: Iterator[Any] = pq.ParquetFile(source).iter_batches()
        _read_values((row for batch in batches for row in batch.to_pylist()), collector)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"the Parquet file cannot be read: {error}", "is the file complete?") from None


def _read_values(items: Iterable[Any], collector: _Collector) -> None:
    for number, item in enumerate(items, start=1):
        # Half a surrogate pair can be in a Python text, and not in a file of rejects.
        _take(number, item, str(item)[:START].encode(errors="replace").decode(), collector)


def _read_hugging_face(name: str, collector: _Collector, pictures: bool) -> None:
    if not Path(name).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UsageError(f"there is no prompt table `{name}`", "give a file, `-`, or a Hugging Face dataset")
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "datasets") from None
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:
        raise UsageError(f"the dataset `{name}` cannot be loaded: {error}", "check the name and the network") from error
    if "train" not in loaded and len(loaded) > 1:
        raise UsageError(f"`{name}` has the splits {', '.join(loaded)} and none is `train`", "save one as a table")
    split = loaded["train" if "train" in loaded else next(iter(loaded))]
    taken = {"Value", "List", "ClassLabel"} | ({"Image"} if pictures else set())
    plain = [column for column, feature in split.features.items() if type(feature).__name__ in taken]
    split = split.select_columns(plain)
    for column, feature in split.features.items():
        if type(feature).__name__ == "Image":
            # The files as they are: whoever takes them in opens them.
            split = split.cast_column(column, datasets.Image(decode=False))
    _read_values(split, collector)
