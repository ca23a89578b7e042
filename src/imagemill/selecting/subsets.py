"""Subsets by name, as users of DiffusionDB know them: `first_1k`, `random_5k`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imagemill.dataset.columns import read_columns, read_schema
from imagemill.dataset.folder import Dataset
from imagemill.errors import UsageError
from imagemill.records import order_of
from imagemill.selecting.choosing import draws

_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}


@dataclass(frozen=True, slots=True)
class Subset:
    """So many images of a dataset."""

    name: str
    random: bool
    """Drawn, as `imagemill select --sample` draws them; without it the first ones."""
    count: int


def parse_subsets(names: Iterable[str]) -> list[Subset]:
    """Subsets by their names; raises UsageError for a text that is none."""
    subsets = []
    for name in names:
        found = re.fullmatch(r"(first|random)[_-]([1-9]\d*)([km]?)", name.lower())
        if not found:
            raise UsageError(f"`subsets`: there is no `{name}`", "write first_1k, random_5k, random_1m, random_250")
        kind, digits, unit = found.groups()
        subsets.append(Subset(f"{kind}_{digits}{unit}", kind == "random", int(digits) * _UNITS[unit]))
    return list({subset.name: subset for subset in subsets}.values())


def draw_subsets(
    dataset: Dataset, subsets: Sequence[Subset], seed: int, kept: frozenset[str] | None = None
) -> dict[str, frozenset[str]]:
    """The images of each subset, as names without extensions; of `kept` file names alone, where they are given.

    Raises UsageError where there are fewer images than a subset holds.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not subsets:
        return {}
    drawn = any(subset.random for subset in subsets)
    table = read_columns(dataset, read_schema(dataset), ["id", "sha256"] if drawn else [])
    # As Python's texts all of them would fill memory.
    names = table.column("file_name")
    places = np.arange(len(names))
    if kept is not None:
        places = np.flatnonzero(pc.is_in(names, pa.array(list(kept), pa.string())).to_numpy())
    order = places
    if drawn:
        order = places[np.argsort(draws(table, places, seed, "sample"), kind="stable")]
    found = {}
    for subset in subsets:
        if len(places) < subset.count:
            raise UsageError(
                f"`subsets`: `{subset.name}` holds {subset.count:,} images, and there are {len(places):,}",
                "ask for fewer",
            )
        chosen = (order if subset.random else places)[: subset.count]
        found[subset.name] = frozenset(map(stem_of, names.take(chosen).to_pylist()))
    return found


def stem_of(name: str) -> str:
    """An image's name in a dataset, which stays when its file is converted."""
    row, image = order_of(name)
    return f"prompt_{row}_image_{image}"
