"""Columns of all records at once, as an Arrow table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from imagemill.dataset.files import parse_lines
from imagemill.dataset.folder import Dataset, Part
from imagemill.errors import ImagemillError

if TYPE_CHECKING:
    import pyarrow as pa

PART = ".part"
"""The column with the number of an image's part."""


def read_schema(dataset: Dataset) -> pa.Schema:
    """The columns of a dataset with their types; of one without any value, `null`."""
    import pyarrow as pa

    types: dict[str, Any] = {}
    for part in dataset.parts:
        for record in part.records():
            for name in [name for name in record if types.get(name) is None]:
                types[name] = _type(record[name])
        if types and None not in types.values():
            break
    return pa.schema([(name, pa.null() if arrow is None else arrow) for name, arrow in types.items()])


def read_columns(dataset: Dataset, names: Iterable[str]) -> pa.Table:
    """Some columns of all records in plan order, behind `file_name` and `PART`; a value that is absent is null.

    Raises ImagemillError where a value is not of its column's type.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    known = read_schema(dataset)
    schema = pa.schema([known.field(name) for name in dict.fromkeys(["file_name", *names])])
    tables = [_read_part(part, schema) for part in dataset.parts]
    table = pa.concat_tables(
        [table for table in tables if len(table)] or [schema.append(pa.field(PART, pa.int64())).empty_table()]
    )
    numbers = numbers_of(table)
    order = pc.sort_indices(numbers, sort_keys=[("row", "ascending"), ("image", "ascending")])
    return table.take(order).combine_chunks()


def numbers_of(table: pa.Table) -> pa.Table:
    """The row and the image that the names of images tell, which are the order of the plan."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.extract_regex(table.column("file_name").combine_chunks(), r"^prompt_(?P<row>\d+)_image_(?P<image>\d+)\.")
    return pa.table({name: pc.struct_field(found, name).cast(pa.int64()) for name in ("row", "image")})


def fingerprint(dataset: Dataset) -> str:
    """A hash of all metadata."""
    whole = hashlib.sha256()
    for part in dataset.parts:
        whole.update(part.name.encode())
        if part.metadata.exists():
            whole.update(hashlib.sha256(part.metadata.read_bytes()).digest())
    return whole.hexdigest()


def _read_part(part: Part, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa
    import pyarrow.json as pj

    content = part.metadata.read_bytes() if part.metadata.exists() else b""
    # A last line without its end is still being written.
    content = content[: content.rfind(b"\n") + 1]
    if not content:
        return schema.append(pa.field(PART, pa.int64())).empty_table()
    try:
        table = pj.read_json(
            pa.BufferReader(content),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(content) + 1),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid as error:
        damaged = any(value is None for value, _ in parse_lines(part.metadata))
        raise ImagemillError(
            f"`{part.metadata}` {'has damaged lines' if damaged else f'cannot be read as a table: {error}'}",
            "`imagemill verify` tells what is wrong",
        ) from None
    return table.select(schema.names).append_column(PART, pa.array([part.number] * len(table), pa.int64()))


def _type(value: Any) -> Any:
    """The Arrow type of a value; None when it does not tell."""
    import pyarrow as pa

    if isinstance(value, list):
        inner = next((found for found in map(_type, value) if found is not None), None)
        return None if inner is None else pa.list_(inner)
    # A yes or no is also an int.
    kinds: dict[type, Any] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    return next((arrow for kind, arrow in kinds.items() if isinstance(value, kind)), None)
