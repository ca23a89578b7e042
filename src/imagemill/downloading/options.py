"""What to download, as a user says it."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, model_validator

from imagemill.component import Component
from imagemill.errors import UsageError
from imagemill.records import SEED_LIMIT
from imagemill.selecting.subsets import Subset, parse_subsets


class Download(Component):
    """What is fetched of a repository in the layout of DiffusionDB, and how."""

    parts: str = ""
    """The parts to fetch, such as `1-20` or `1-3,9`, the last one included; all of them without it."""
    subset: str = ""
    """So many images instead of whole parts: `first-1k`, `random-10k`, `first-1m`, or another number."""
    seed: int = Field(0, ge=0, le=SEED_LIMIT - 1)
    """What decides which images a random subset holds."""
    metadata_only: bool = False
    """Fetch only the table, without images."""
    large: bool = False
    """Fetch from DiffusionDB Large, which lies in the same repository."""
    unzip: bool = False
    """Unpack each part into a folder of its own; a subset always comes so."""
    revision: str = Field("main", min_length=1)
    """A branch, tag or commit of the repository."""
    workers: int = Field(8, ge=1, le=64)
    """Files that are fetched at once."""
    retries: int = Field(5, ge=0, le=100)
    """How often a request is made again that brings nothing, because a server is busy or a connection breaks."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        given = [name for name in ("parts", "subset", "metadata_only") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(f'`{name}`' for name in given)} ask for different things: give one")
        if "seed" in self.model_fields_set and not self.subset.lower().startswith("random"):
            raise ValueError("`seed` has no effect without a random `subset`")
        return self

    @property
    def chosen(self) -> Subset | None:
        """The subset to fetch, if it is one; raises UsageError."""
        if not self.subset:
            return None
        try:
            (subset,) = parse_subsets([self.subset])
        except UsageError:
            raise UsageError(
                f"download: `subset`: there is no `{self.subset}`", "write first-1k, random-5k, random-1m, random-250"
            ) from None
        return subset

    @property
    def ranges(self) -> list[range]:
        """The parts to fetch; empty for all. Raises UsageError."""
        found = []
        for text in self.parts.split(",") if self.parts else []:
            match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", text, re.ASCII)
            if not match:
                raise UsageError(
                    f"download: `parts`: `{text.strip()}` is no part and no range", "write 1-20, 7 or 1-3,9"
                )
            first, last = int(match[1]), int(match[2] or match[1])
            if first < 1 or last < first:
                raise UsageError(
                    f"download: `parts`: `{text.strip()}` holds no part",
                    "parts are counted from 1, and a range begins with its lower end",
                )
            found.append(range(first, last + 1))
        return found
