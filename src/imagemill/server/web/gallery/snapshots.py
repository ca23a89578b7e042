"""Indexes of datasets as they were at some moment, and the images in them by their ids."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.dataset.columns import PART, numbers_of
from imagemill.dataset.edits import image_id, key_of
from imagemill.errors import ImagemillError
from imagemill.server.web.workspace import NotFound, Workspace

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from imagemill.dataset.index import Index
    from imagemill.dataset.index.segments import Mask, Rows
    from imagemill.server.web.gallery.likeness import Group

    Keys = NDArray[np.int64]

_SHARE = 10
"""Bringing an index up to date takes at most one of so many parts of the time."""
_SECONDS = 2.0
"""Nobody who only asks whether there is more has it done more often than this."""
_BUILDING = 30.0
"""How long who wants a single image waits for the first index."""
_DATASETS = 16
"""Of which snapshots are kept: one of a million images takes some tens of megabytes."""
_HASH = "perceptual_hash"
_FEW = 2_000
"""Rows whose ids are read one by one, so that a first page does not wait for those of all."""
_SEEN = 100_000
_MISSING = 0.05
"""Seconds before an image that is not there is looked for again."""
_ROW = key_of("1-0")
"""Numbers of images, as edits have them, count the images of a row below it."""
_LARGEST = 2**33, _ROW
"""No row and no image has such a number."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image lies."""

    path: Path
    sha256: str
    """Of the file, as its record has it; empty where it has none."""


class Snapshot:
    """All images of a dataset at one moment; never changes."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder = folder
        self.index = index
        self._seen: dict[str, int] = {}
        """The rows of images whose ids were told last."""
        self.groups: dict[int, list[Group]] = {}
        """Images that look alike, by threshold; `Likeness` finds them."""

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def all_rows(self) -> Rows:
        """Every row, in plan order."""
        import numpy as np

        return np.arange(len(self), dtype=np.uint32)

    def ids(self, rows: Rows) -> list[str]:
        """The ids of the images in some rows."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        if len(rows) <= _FEW:
            names = self.index.records(rows.tolist(), ["file_name"]).records
            few = [image_id(record["file_name"]) for record in names]
            if len(self._seen) > _SEEN:
                self._seen = {}
            self._seen.update(zip(few, rows.tolist(), strict=True))
            return few
        numbers = [pa.array(each).cast(pa.string()) for each in np.divmod(self._keys[rows], _ROW)]
        ids: list[str] = pc.binary_join_element_wise(*numbers, "-").to_pylist()
        return ids

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The row of each of some images, -1 for those that are not here; every id is one."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        if not len(ids):
            return np.empty(0, np.int64)
        numbers = pc.split_pattern(pa.array(ids, pa.string()), "-").flatten().cast(pa.int64()).to_numpy().reshape(-1, 2)
        fits = (numbers < _LARGEST).all(axis=1)
        return self.find_keys(np.where(fits, numbers[:, 0] * _ROW + numbers[:, 1], -1))

    def find_keys(self, asked: Keys) -> NDArray[np.int64]:
        """The same of images by the numbers that edits have of them."""
        import numpy as np

        if not len(self):
            return np.full(len(asked), -1)
        keys, order = self._sorted
        places = np.searchsorted(keys, asked).clip(max=len(keys) - 1)
        rows = places if order is None else order[places]
        return np.where(keys[places] == asked, rows, -1)

    def rows(self, ids: Sequence[str]) -> Rows:
        """The rows of images; raises NotFound when one of them is not here."""
        import numpy as np

        rows = self.find(ids)
        gone = np.flatnonzero(rows < 0)
        if len(gone):
            raise NotFound(f"there is no image {ids[gone[0]]}", "it may have been removed: reload the page")
        return rows.astype(np.uint32)

    def place(self, image: str) -> Place | None:
        """Where an image lies, None when it is not here."""
        row = self._seen.get(image)
        if row is None:
            row = int(self.find([image])[0])
        if row < 0:
            return None
        names = ["file_name", *(["sha256"] if "sha256" in self.index.schema.names else [])]
        page = self.index.records([row], names)
        name = str(page.records[0]["file_name"])
        if "/" in name:
            return None
        path = self.folder / "images" / f"part-{page.parts[0]:06d}" / name
        return Place(path, str(page.records[0].get("sha256") or ""))

    @cached_property
    def prompts(self) -> NDArray[np.int32]:
        """Of each row a number that rows of one prompt share."""
        import pyarrow.compute as pc

        encoded = pc.dictionary_encode(self.index.values("prompt", self.all_rows))
        numbers: NDArray[np.int32] = encoded.indices.fill_null(-1).to_numpy()
        return numbers

    @cached_property
    def parts(self) -> NDArray[np.int32]:
        """Of each row the number of its part."""
        numbers: NDArray[np.int32] = self.index.values(PART, self.all_rows).to_numpy()
        return numbers

    @cached_property
    def hashes(self) -> tuple[NDArray[np.uint64], Mask]:
        """The perceptual hash of each row, and whether it has one."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        if _HASH not in self.index.schema.names:
            return np.zeros(len(self), np.uint64), np.zeros(len(self), bool)
        texts = self.index.values(_HASH, self.all_rows).cast(pa.string())
        valid = pc.match_substring_regex(texts, "^[0-9a-f]{16}$").fill_null(False)
        digits = "".join(pc.if_else(valid, texts, "0" * 16).to_pylist())
        hashes = np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64)
        return hashes, valid.to_numpy(zero_copy_only=False)

    @cached_property
    def embedded(self) -> Mask:
        """Of each row whether it has a vector."""
        import pyarrow as pa

        has: Mask = self.index.values("embedding", self.all_rows).cast(pa.bool_()).fill_null(False).to_numpy(False)
        return has

    @cached_property
    def _keys(self) -> Keys:
        """Of each row the number that edits have of its image."""
        import numpy as np
        import pyarrow as pa

        if not len(self):
            return np.empty(0, np.int64)
        names: pa.Array = self.index.values("file_name", self.all_rows)
        numbers = numbers_of(pa.table({"file_name": names}))
        row, image = (numbers.column(name).to_numpy() for name in ("row", "image"))
        keys: Keys = row * _ROW + image
        return keys

    @cached_property
    def _sorted(self) -> tuple[Keys, NDArray[np.intp] | None]:
        """Keys ascending, and where they stood; datasets that others were merged into are not in this order."""
        if (self._keys[1:] > self._keys[:-1]).all():
            return self._keys, None
        order = self._keys.argsort(kind="stable")
        return self._keys[order], order


@dataclass(slots=True)
class _Held:
    """What is known of one dataset."""

    snapshot: Snapshot | None = None
    under_way: Future[None] | None = None
    began: float = 0.0
    """When the last bringing up to date did, and when it ended."""
    ended: float = 0.0
    took: float = 0.0
    read: tuple[int, int] | None = None


class Snapshots:
    """The last snapshot of each dataset; threads of their own bring it up to date, and not too often."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(2, "imagemill-index")
        # The first page does not wait for them.
        self._pool.submit(_import_packages)

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def latest(self, dataset: str, patience: float) -> Snapshot | None:
        """The dataset as it is now, or as it was where that takes longer; None when there is nothing yet.

        Raises NotFound.
        """
        held = self._refreshing(dataset, 0.0)
        under_way = held.under_way
        if under_way:
            with suppress(TimeoutError):
                try:
                    under_way.result(patience)
                except ImagemillError:
                    if held.snapshot is None:
                        raise
        return held.snapshot

    def count(self, dataset: str) -> int:
        """How many images there are, as of some seconds ago; raises NotFound."""
        held = self._refreshing(dataset, _SECONDS)
        return len(held.snapshot) if held.snapshot else 0

    def read(self, dataset: str) -> tuple[int, int] | None:
        """How many records of a first index have been read, and about how many there are."""
        held = self._held.get(dataset)
        return held.read if held else None

    def has(self, dataset: str) -> bool:
        """Whether there is one of a dataset."""
        held = self._held.get(dataset)
        return bool(held and held.snapshot)

    def place(self, dataset: str, image: str) -> Place:
        """Where an image lies; raises NotFound."""
        self._workspace.find(dataset)
        held = self._held.get(dataset)
        snapshot = held.snapshot if held else None
        place = snapshot.place(image) if snapshot else None
        asked = time.monotonic()
        for wait in (0.0, _MISSING):
            if place is not None or (held and held.began > asked):
                break
            # It may have been made a moment ago, and only what begins from now on has surely seen it.
            time.sleep(wait)
            held = self._refreshing(dataset, 0.0, share=0)
            snapshot = self.latest(dataset, _BUILDING)
            place = snapshot.place(image) if snapshot else None
        if place is None:
            raise NotFound(f"there is no image {image}", "it may have been removed: reload the page")
        return place

    def _refreshing(self, dataset: str, seconds: float, share: int = _SHARE) -> _Held:
        """Have a dataset brought up to date unless that was done a moment ago."""
        try:
            self._workspace.find(dataset)
        except NotFound:
            with self._lock:
                self._held.pop(dataset, None)
            raise
        with self._lock:
            held = self._held.setdefault(dataset, _Held())
            # The last asked for is the last.
            self._held[dataset] = self._held.pop(dataset)
            for unused in [each for each in list(self._held)[:-_DATASETS] if not self._held[each].under_way]:
                del self._held[unused]
                self._workspace.forget(unused)
            soon = time.monotonic() < held.ended + max(seconds, held.took * share)
            if not held.under_way and not (held.snapshot and soon):
                held.under_way = self._pool.submit(self._refresh, dataset, held)
            return held

    def _refresh(self, dataset: str, held: _Held) -> None:
        held.began = time.monotonic()

        def read(done: int, total: int) -> None:
            held.read = done, total

        try:
            folder = self._workspace.find(dataset).folder
            index = self._workspace.fresh_index(dataset, read)
            if held.snapshot is None or held.snapshot.index is not index:
                held.snapshot = Snapshot(folder, index)
        except OSError as error:
            raise NotFound(f"the dataset cannot be read: {error.strerror}", "it may be moved just now") from None
        finally:
            held.ended = time.monotonic()
            # The first one took long because there was none; those after it do not.
            held.took = 0.0 if held.read else held.ended - held.began
            held.read = None
            with self._lock:
                held.under_way = None


def _import_packages() -> None:
    """Import what takes long; pyarrow imports pandas, where that is installed, with the first NumPy array it sees."""
    import numpy as np
    import PIL.Image  # noqa: F401
    import pyarrow as pa
    import pyarrow.compute

    pa.array(np.zeros(1))
