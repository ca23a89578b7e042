"""What an uploaded prompt table holds: its columns, its first rows, and the rows that cannot be used."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from imagemill.dataset.files import write_file
from imagemill.errors import UsageError
from imagemill.records import Reject
from imagemill.tables import read_table
from imagemill.tables.cells import missing
from imagemill.tables.columns import Columns, PromptTable
from imagemill.tables.pictures import is_pictorial
from imagemill.tables.readers import read_source
from imagemill.tables.texts import RawRow
from imagemill.terminal import size

MOST_BYTES = 512_000_000
"""Of a table, as it comes and unpacked."""
ROWS = "rows.json"
"""Where the first rows and the rejected ones are kept."""
_BLOCK = 2**20
_ROWS = 30
"""That are shown."""
_KINDS_FROM = 1_000
"""Rows that tell the kinds of columns."""
_REJECTS = 200
"""That are shown."""
_COLUMNS = 60
"""That are shown."""
_CELL = 2_000
"""Characters of a cell that are kept."""


def read(folder: Path) -> dict[str, Any]:
    """Read the table in a folder, as `generate` would; raises UsageError when nothing can be made of it."""
    path = next(folder.glob("table.*"))
    _check_size(path)
    raw_rows, rejects, names = read_source(path)
    known = raw_rows[:_KINDS_FROM] if isinstance(raw_rows, list) else list(islice(raw_rows, _KINDS_FROM))
    count, more = len(raw_rows) + len(rejects), len(raw_rows) > _ROWS
    del raw_rows
    told: dict[str, Any] = {"rows": count, "accepted": 0, "rejected": len(rejects), "talk": [], "doubt": None}
    roles: dict[str, str] = {}
    try:
        roles = _roles(names)
        table = read_table(path, PromptTable())
        told |= {"accepted": len(table.rows), "rejected": len(table.rejects), "talk": table.talk}
        rejects = table.rejects
    except UsageError as error:
        # Without a column of prompts there may be a template.
        told["doubt"] = [error.message, error.hint]
        if not known:
            raise
    kinds = {name: _kind([row.values.get(name) for row in known]) for name in names}
    told["columns"] = [
        {"name": name, "kind": kind, "role": "not kept" if kind == "picture" else roles.get(name, "")}
        for name, kind in kinds.items()
    ]
    told["prompt_column"] = next((name for name, role in roles.items() if role == "prompt"), "")
    shown = {"more": more, **_shown(known[:_ROWS], names[:_COLUMNS], rejects[:_REJECTS])}
    write_file(folder / ROWS, json.dumps(shown).encode())
    return told


def _check_size(path: Path) -> None:
    """Raise UsageError for a table that is too large when it is unpacked; nothing of it is kept."""
    pieces: Iterable[bytes]
    if path.suffix == ".gz":
        pieces = iter(lambda: packed.read(_BLOCK), b"")
        packed: Any = gzip.open(path)  # noqa: SIM115 - below
    elif path.suffix == ".zst":
        import pyarrow as pa

        packed = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
        pieces = iter(lambda: packed.read(_BLOCK), b"")
    elif path.suffix == ".parquet":
        _check_parquet(path)
        return
    else:
        return
    total = 0
    try:
        with packed:
            for piece in pieces:
                total += len(piece)
                if total > MOST_BYTES:
                    raise UsageError(f"`{path}` has more than {size(MOST_BYTES)} when it is unpacked", "split it")
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"`{path}` cannot be unpacked: {error}", "is the file complete?") from None


def _check_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            found = file.metadata
            total = sum(found.row_group(number).total_byte_size for number in range(found.num_row_groups))
    except (OSError, pa.ArrowException) as error:
        said = str(error).rstrip(".")
        raise UsageError(f"the Parquet file cannot be read: {said}", "is the file complete?") from None
    if total > 2 * MOST_BYTES:
        raise UsageError(f"`{path}` has {size(total)} when it is unpacked", f"at most {size(2 * MOST_BYTES)}: split it")


def _roles(names: list[str]) -> dict[str, str]:
    """What `generate` would take each column for; raises UsageError when none has the prompts."""
    columns = Columns(names, PromptTable())
    roles = {name: "setting" for name in names if name in columns.sampling.model_fields}
    named = {columns.negative: "negative prompt", columns.id: "id", columns.prompt: "prompt"}
    return roles | {name: role for name, role in named.items() if name is not None}


def _kind(values: Sequence[Any]) -> str:
    """The kind of a column in one word."""
    there = [value for value in values if not missing(value)]
    if not there:
        return "empty"
    for kind, holds in (
        ("picture", is_pictorial),
        ("yes or no", lambda value: isinstance(value, bool)),
        ("number", _is_number),
        ("list", lambda value: isinstance(value, list | tuple)),
        ("object", lambda value: isinstance(value, dict)),
    ):
        if all(map(holds, there)):
            return kind
    return "text"


def _is_number(value: object) -> bool:
    if isinstance(value, str) and len(value) <= 40:
        try:
            float(value)
        except ValueError:
            return False
        return True
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(rows: Iterable[RawRow], names: Sequence[str], rejects: Iterable[Reject]) -> dict[str, Any]:
    return {
        "names": list(names),
        "rows": [[row.line, [_cell(row.values.get(name)) for name in names]] for row in rows],
        "rejects": [[reject.line, reject.reason[:500], reject.raw[:300]] for reject in rejects],
    }


def _cell(value: Any) -> list[Any]:
    """How a cell begins, and how many characters it has."""
    if missing(value):
        return ["", 0]
    if is_pictorial(value):
        data = value.get("bytes") if isinstance(value, dict) else value
        return [f"a picture of {size(len(data))}" if isinstance(data, bytes) else "a picture", 0]
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return [text[:_CELL].encode(errors="replace").decode(), len(text)]
