"""What every layout is: a dataset written as other tools read it, and read back."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.component import Component, find_component
from imagemill.errors import ImagemillError
from imagemill.records import Record, files_of, to_json

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Picture:
    """One image to export."""

    path: Path
    """Its file; other pictures that its record names lie beside it."""
    record: Record

    @property
    def files(self) -> list[str]:
        """The names of its file and of those beside it."""
        return files_of(self.record)

    def read(self, name: str) -> bytes:
        """What one of its files holds; raises ImagemillError."""
        path = self.path.with_name(name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise ImagemillError(
                f"`{path}` cannot be read: {error.strerror}", "`imagemill verify --repair` gives up what is lost"
            ) from None

    def place(self, name: str, target: Path) -> None:
        """Give one of its files a second name; copy it where the file system has no links. Raises ImagemillError."""
        try:
            os.link(self.path.with_name(name), target)
        except OSError:
            target.write_bytes(self.read(name))


@dataclass(frozen=True, slots=True)
class Loaded:
    """One image as it is read back."""

    record: Record
    """As it was before the export."""
    files: Mapping[str, bytes]
    """What the files that the record names hold."""


@dataclass(frozen=True, slots=True)
class Content:
    """What there is to export."""

    splits: Mapping[str, Iterable[Picture]]
    """By name; each can be gone through more than once."""
    schema: pa.Schema
    """The columns of all records; one that has no value anywhere is of type `null`."""
    front: str
    """Of the card's front matter all that does not depend on the layout, as lines of YAML."""
    text: str
    """The card itself."""
    fingerprint: str
    """A hash of everything."""

    def write_card(self, folder: Path, files: Mapping[str, str], features: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write `README.md`, which tells readers the files of each split by a pattern; without any, they look.

        `features` are the columns with their types as a card says them, for readers that would guess.
        """
        splits = "".join(f"  - split: {split}\n    path: {pattern}\n" for split, pattern in files.items())
        # With these lines `load_dataset` knows what it has cached by them and by the folder's name alone, so that
        # another export would be taken for the first; the description tells them apart.
        configs = f"configs:\n- config_name: default\n  description: {self.fingerprint}\n  data_files:\n{splits}"
        configs = configs if files else ""
        if features:
            # JSON is YAML.
            configs += f"dataset_info: {to_json([{'config_name': 'default', 'features': features}])}\n"
        (folder / "README.md").write_text(f"---\n{self.front}{configs}---\n{self.text}", encoding="utf-8")


class Layout(Component, ABC):
    """Writes a dataset as other tools read it."""

    @abstractmethod
    def write(self, content: Content, folder: Path) -> None:
        """Write into an empty folder; the same content gives the same bytes.

        Raises UsageError for content that the layout cannot hold as it is, and OSError when it cannot be written.
        """

    def exported(self, record: Record) -> Record:
        """What a record becomes where it may not leave as it is; by default itself."""
        return record

    def notes(self, content: Content) -> list[str]:
        """What this layout holds only beside its usual place, a sentence each."""
        return []

    @abstractmethod
    def read(self, folder: Path, split: str) -> Iterator[Loaded]:
        """Read a split back in order, from what other tools read."""


def find_layout(name: str, parameters: Mapping[str, Any]) -> Layout:
    """Make the layout of a name; raises UsageError with a suggestion when there is none."""
    found = find_component("layouts", name)
    if not issubclass(found, Layout):
        raise TypeError(f"`{found.__name__}` is no Layout")
    return found.parse(parameters, f"layout {name}")


def renamed(record: Record, change: Callable[[str], str]) -> Record:
    """A record with other names for its files."""
    changed = dict(record)
    for key, value in record.items():
        if key.endswith("file_name"):
            changed[key] = change(value)
        elif key.endswith("file_names"):
            changed[key] = [change(name) for name in value]
    return changed


def typed(schema: pa.Schema) -> pa.Schema:
    """The same with numbers for columns without any value, which only scores can be."""
    import pyarrow as pa

    return pa.schema(
        [pa.field(field.name, pa.float64()) if pa.types.is_null(field.type) else field for field in schema]
    )


def table_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; raises ImagemillError where a value is not of its column's type."""
    import pyarrow as pa

    try:
        return pa.Table.from_pylist(rows, schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ImagemillError(
            f"a value is not of its column's type: {error}", "`imagemill verify` tells which"
        ) from None
