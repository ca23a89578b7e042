"""Columns of all records at once, as an Arrow table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from imagemill.dataset.applying import marker_of
from imagemill.dataset.files import parse_lines
from imagemill.dataset.folder import Dataset, Part
from imagemill.dataset.removal import removal_of
from imagemill.errors import ImagemillError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

PART = ".part"
"""The column with the number of an image's part."""


def read_schema(dataset: Dataset) -> pa.Schema:
    """The columns of a dataset with their types; of one without any value, `null`.

    Raises ImagemillError where metadata is no table.
    """
    import pyarrow as pa

    types: dict[str, pa.DataType] = {}
    for part in dataset.parts:
        table = read_part(part, None)
        for field in table.schema:
            if types.get(field.name, pa.null()) == pa.null():
                types[field.name] = told(field.type)
        if types and pa.null() not in types.values():
            break
    return pa.schema(list(types.items()))


def read_columns(dataset: Dataset, known: pa.Schema, names: Iterable[str]) -> pa.Table:
    """Some columns of all records in plan order, behind `file_name` and `PART`; a value that is absent is null.

    `known` is the dataset's schema.
    Raises ImagemillError where a value is not of its column's type.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = pa.schema([known.field(name) for name in dict.fromkeys(["file_name", *names])])
    tables = []
    for part in dataset.parts:
        table = read_part(part, schema).select(schema.names)
        tables.append(table.append_column(PART, pa.array([part.number] * len(table), pa.int64())))
    table = pa.concat_tables(tables or [schema.append(pa.field(PART, pa.int64())).empty_table()])
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
    """A hash of all metadata; raises UsageError while a removal or an applying is under way, or was interrupted."""
    if removal_of(dataset):
        raise UsageError(
            f"a removal from `{dataset.folder}` has not come to its end", "give the same `imagemill remove` again"
        )
    if marker_of(dataset.folder).exists():
        raise UsageError(
            f"the applying of edits to `{dataset.folder}` has not come to its end",
            "let it finish, or give the same `imagemill apply` again",
        )
    whole = hashlib.sha256()
    for part in dataset.parts:
        whole.update(part.name.encode())
        if part.metadata.exists():
            whole.update(hashlib.sha256(part.metadata.read_bytes()).digest())
    return whole.hexdigest()


def read_part(part: Part, schema: pa.Schema | None) -> pa.Table:
    """The columns of a schema; without one all, of the types that their values tell."""
    import pyarrow as pa
    import pyarrow.json as pj

    content = part.metadata.read_bytes() if part.metadata.exists() else b""
    # A last line without its end is still being written.
    content = content[: content.rfind(b"\n") + 1]
    if not content:
        return (pa.schema([]) if schema is None else schema).empty_table()
    try:
        return pj.read_json(
            pa.BufferReader(content),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(content) + 1),
            parse_options=pj.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
            ),
        )
    except pa.ArrowInvalid as error:
        damaged = any(value is None for value, _ in parse_lines(part.metadata))
        raise ImagemillError(
            f"`{part.metadata}` {'has damaged lines' if damaged else f'cannot be read as a table: {error}'}",
            "`imagemill verify` tells what is wrong",
        ) from None


def told(arrow: pa.DataType) -> pa.DataType:
    """What an inferred type says: lists without an item say nothing, and texts that look like times are texts."""
    import pyarrow as pa

    if pa.types.is_list(arrow):
        inner = told(arrow.value_type)
        return pa.null() if pa.types.is_null(inner) else pa.list_(inner)
    return pa.string() if pa.types.is_temporal(arrow) else arrow
