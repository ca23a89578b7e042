"""What stands above splits, so that `load_dataset` takes them together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.card import scores_of
from imagemill.dataset.columns import PART, read_columns, read_schema
from imagemill.dataset.files import write_file
from imagemill.dataset.folder import Dataset

if TYPE_CHECKING:
    import pyarrow as pa


def write_above(
    folder: Path,
    source: Dataset,
    step: Mapping[str, Any],
    kept: Mapping[str, Sequence[int]],
    kinds: Mapping[str, set[str]],
) -> None:
    """Write `README.md` over the splits in a folder, whose files are of these kinds.

    Readers want every split to tell the same types. Where a part has a column with nothing but null, they get the
    records as Parquet files, which have types of their own.
    """
    splits = {name: Dataset(folder / name) for name in kept}
    typed = any(part.empty_columns for split in splits.values() for part in split.parts)
    if typed:
        schema = _schema(source)
        for name, split in splits.items():
            write_file(folder / f"{name}.parquet", _parquet(split, schema))
    write_file(folder / "README.md", _card(source, step, kept, kinds, typed).encode())


def _schema(source: Dataset) -> pa.Schema:
    import pyarrow as pa

    scores = scores_of(source.job)
    known = read_schema(source)
    return pa.schema([field.with_type(pa.float64()) if field.name in scores else field for field in known])


def _parquet(split: Dataset, schema: pa.Schema) -> bytes:
    """The records of a split, with files as they are called from the folder above it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = read_columns(split, schema, schema.names)
    parts = [f"{split.folder.name}/images/{split.part(number).name}" for number in table.column(PART).to_pylist()]
    table = table.select(schema.names)
    for place, field in enumerate(schema):
        if not field.name.endswith(("file_name", "file_names")):
            continue
        listed = pa.types.is_list(field.type)
        called = [
            [f"{part}/{name}" for name in names] if listed else f"{part}/{names}"
            for part, names in zip(parts, table.column(place).to_pylist(), strict=True)
        ]
        table = table.set_column(place, field, pa.array(called, field.type))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _card(
    source: Dataset,
    step: Mapping[str, Any],
    kept: Mapping[str, Sequence[int]],
    kinds: Mapping[str, set[str]],
    typed: bool,
) -> str:
    """For `load_dataset`, where each split lies."""
    files = "\n".join(_lines(name, len(places), sorted(kinds[name]), typed) for name, places in kept.items())
    if typed:
        files += "\n  metadata_filenames:" + "".join(f"\n  - {name}.parquet" for name in kept)
    rows = "\n".join(f"| `{name}` | {len(places):,} |" for name, places in kept.items())
    tables = (
        "\n`load_dataset` reads the records of these from the Parquet files beside this one, which hold them as they\n"
        "were selected: some columns have no value in a whole part, and only there it is told that they are numbers.\n"
    )
    # The description tells the reader's cache that this is another dataset than one of the same name.
    identity = hashlib.sha256(json.dumps(step, sort_keys=True).encode()).hexdigest()
    return f"""---
license: {source.job["steps"][0]["license"]}
configs:
- config_name: default
  description: {identity}
  data_files:
{files}
---

# Selected from {step["source"]}

```python
from datasets import load_dataset

splits = load_dataset("path/to/this/folder")
```

| split | images |
|---|---|
{rows}

Images of one prompt are in one split. Each split is a dataset of its own, with its own card.
{tables if typed else ""}"""


def _lines(name: str, images: int, kinds: Sequence[str], typed: bool) -> str:
    """The files of one split."""
    records = f"{name}.parquet" if typed else f"{name}/images/*/metadata.jsonl"
    # What there is most of is what is loaded: told twice, one image is more than one Parquet file.
    pictures = [f"{name}/images/*/*{kind}" for kind in kinds] * (2 if typed and images == 1 else 1)
    return f"  - split: {name}\n    path:" + "".join(f"\n    - {path}" for path in (records, *pictures))
