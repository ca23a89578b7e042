"""What stands above splits, so that `load_dataset` takes them together."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.card import Told, license_lines, scores_of
from imagemill.dataset.columns import PART, read_columns, read_schema
from imagemill.dataset.files import write_file
from imagemill.dataset.folder import Dataset
from imagemill.records import files_of

if TYPE_CHECKING:
    import pyarrow as pa

_OPERATORS = {"Selected": "select", "Imported": "import"}
"""What has made splits, by how their card begins."""


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
    counts = {name: len(places) for name, places in kept.items()}
    typed = any(part.empty_columns for split in splits.values() for part in split.parts)
    if typed:
        schema = _schema([source])
        for name, split in splits.items():
            write_file(folder / f"{name}.parquet", _parquet(split, schema))
    write_file(folder / "README.md", _card(source, step, counts, kinds, typed).encode())


def refresh_above(split: Dataset) -> None:
    """Bring what stands above a split up to date when images of it were removed; nothing for other datasets."""
    folder, own = split.folder.resolve().parent, split.folder.resolve().name
    card = folder / "README.md"
    text = card.read_text(errors="replace") if card.is_file() else ""
    heading = re.search(r"^# (Selected|Imported) from (.*)$", text, re.MULTILINE)
    names = re.findall(r"^  - split: (\w+)$", text, re.MULTILINE)
    if not heading or own not in names:
        return
    splits = {name: Dataset(folder / name) for name in names if (folder / name / "job.toml").is_file()}
    if list(splits) != names:
        return
    kinds = {name: {Path(file).suffix for record in each for file in files_of(record)} for name, each in splits.items()}
    known = [folder / f"{name}.parquet" for name in names]
    typed = any(path.is_file() for path in known)
    if typed:
        for name, path in zip(names, known, strict=True):
            _keep_rows(path, {record["file_name"] for record in splits[name]})
    elif any(part.empty_columns for each in splits.values() for part in each.parts):
        typed = True
        schema = _schema(list(splits.values()))
        for name, path in zip(names, known, strict=True):
            write_file(path, _parquet(splits[name], schema))
    counts = {name: len(each) for name, each in splits.items()}
    step = {"operator": _OPERATORS[heading[1]], "source": heading[2]}
    write_file(card, _card(split, step, counts, kinds, typed).encode())


def _keep_rows(path: Path, names: set[str]) -> None:
    """Leave out of the records of a split those that it has no more."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    kept = [name.rpartition("/")[2] in names for name in table.column("file_name").to_pylist()]
    if not all(kept):
        sink = pa.BufferOutputStream()
        pq.write_table(table.filter(pa.array(kept, pa.bool_())), sink)
        write_file(path, sink.getvalue().to_pybytes())


def _schema(sources: Sequence[Dataset]) -> pa.Schema:
    import pyarrow as pa

    scores = {name for source in sources for name in scores_of(source.job)}
    types: dict[str, pa.DataType] = {}
    for field in (field for source in sources for field in read_schema(source)):
        if types.get(field.name, pa.null()) == pa.null():
            types[field.name] = pa.float64() if field.name in scores else field.type
    return pa.schema(list(types.items()))


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
    counts: Mapping[str, int],
    kinds: Mapping[str, set[str]],
    typed: bool,
) -> str:
    """For `load_dataset`, where each split lies."""
    files = "\n".join(_lines(name, count, sorted(kinds[name]), typed) for name, count in counts.items())
    if typed:
        files += "\n  metadata_filenames:" + "".join(f"\n  - {name}.parquet" for name in counts)
    rows = "\n".join(f"| `{name}` | {count:,} |" for name, count in counts.items())
    made = next(word for word, operator in _OPERATORS.items() if operator == step["operator"])
    together = "Images of one prompt are in one split. " if made == "Selected" else ""
    tables = (
        "\n`load_dataset` reads the records of these from the Parquet files beside this one, which hold them as they\n"
        f"were {made.lower()}: some columns have no value in a whole part, and only there it is told that they are "
        "numbers.\n"
    )
    # The description tells the reader's cache that this is another dataset than one of the same name.
    identity = hashlib.sha256(json.dumps([step, counts], sort_keys=True).encode()).hexdigest()
    license_ = "\n".join(license_lines(source.job["steps"][0], Told()))
    return f"""---
{license_}
configs:
- config_name: default
  description: {identity}
  data_files:
{files}
---

# {made} from {step["source"]}

```python
from datasets import load_dataset

splits = load_dataset("path/to/this/folder")
```

| split | images |
|---|---|
{rows}

{together}Each split is a dataset of its own, with its own card.
{tables if typed else ""}"""


def _lines(name: str, images: int, kinds: Sequence[str], typed: bool) -> str:
    """The files of one split."""
    records = f"{name}.parquet" if typed else f"{name}/images/*/metadata.jsonl"
    # What there is most of is what is loaded: told twice, one image is more than one Parquet file.
    pictures = [f"{name}/images/*/*{kind}" for kind in kinds] * (2 if typed and images == 1 else 1)
    return f"  - split: {name}\n    path:" + "".join(f"\n    - {path}" for path in (records, *pictures))
