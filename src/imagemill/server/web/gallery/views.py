"""Views: which images of a dataset are shown, and in which order, as it was when the view was opened."""

from __future__ import annotations

import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from imagemill.dataset.edits import DECISIONS, Edits, editable_columns
from imagemill.dataset.edits.columns import CAPTION
from imagemill.dataset.index.figures import Histogram, histogram_of
from imagemill.dataset.index.segments import SEARCHED
from imagemill.errors import UsageError
from imagemill.expressions.nodes import kind_of
from imagemill.server.web.gallery.overlay import RATING, Overlay, decision_code
from imagemill.server.web.gallery.snapshots import Snapshot, Snapshots
from imagemill.server.web.gallery.stacks import Stacks
from imagemill.server.web.workspace import IMAGE_ID, NotFound, Workspace

if TYPE_CHECKING:
    from imagemill.dataset.index import Index
    from imagemill.dataset.index.segments import Rows

_VIEWS = 64
_BYTES = 2**28
"""Of their orders."""
_SNAPSHOTS = 6
"""That views may hold; while a job runs there is a new one every few seconds."""
_PATIENCE = 0.5
"""Seconds that a page waits for the newest images, and for a first index."""
_LONG = 60.0
"""The same of who changes something."""
_TAGS = 200
_SHOWN = 2_000
"""Characters of a text that a tile gets."""
_UNSAFE = 0.5
"""Images whose score is so high are blurred."""
_SAFETY = ("image_nsfw", "prompt_nsfw")
"""The columns that tell; of an image that has the first, it decides."""

VERSION = 16
"""Digits of a picture's hash in its address."""

ImageId = Annotated[str, StringConstraints(pattern=IMAGE_ID)]
ImageIds = Annotated[list[ImageId], Field(max_length=100_000)]
MaybeView = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{16})?$")]


class Gone(UsageError):
    """A view that is not kept any more."""

    status: ClassVar[int] = 410

    def __init__(self) -> None:
        super().__init__("this view is not kept any more", "ask for it again")


class Asked(BaseModel):
    """What a view shows."""

    where: Annotated[str, Field(max_length=2_000)] = ""
    """An expression that is true of the images."""
    search: Annotated[str, Field(max_length=500)] = ""
    """A text that `search_column` contains."""
    search_column: Annotated[str, Field(max_length=200)] = SEARCHED
    by: Annotated[str, Field(max_length=200)] = ""
    """The column to sort by, or `rating`; plan order without one."""
    ascending: bool = False
    decision: Literal["", "keep", "reject", "undecided"] = ""
    rating: Annotated[int, Field(ge=0, le=5)] = 0
    """The least."""
    tag: Annotated[str, Field(max_length=200)] = ""
    edited: bool = False
    """Only images with an edited text."""
    stack: Literal["", "prompt"] = ""
    """One image for all of a prompt: the first in the order."""


class Selection(BaseModel):
    """Some images by name, or all of a view but some; one of a stack stands for all that the view has of its prompt."""

    model_config = ConfigDict(extra="forbid")

    images: ImageIds = Field(default_factory=list)
    view: MaybeView = ""
    left_out: ImageIds = Field(default_factory=list, alias="except")
    stacks: MaybeView = ""
    """The view whose stacks the named images stand for; empty where each is itself alone."""

    @model_validator(mode="after")
    def _one_kind(self) -> Selection:
        if bool(self.images) == bool(self.view):
            raise ValueError("name images, or a view")
        if self.stacks and self.view:
            raise ValueError("a view knows its stacks: name `stacks` with images")
        return self


@dataclass(frozen=True)
class Selected:
    """The images of a selection."""

    snapshot: Snapshot
    rows: Rows
    """In the index of the snapshot."""

    @property
    def index(self) -> Index:
        """The index that the rows are of."""
        return self.snapshot.index

    @cached_property
    def ids(self) -> list[str]:
        """Their ids."""
        return self.snapshot.ids(self.rows)


@dataclass(frozen=True)
class View:
    """Images in an order that does not change."""

    id: str
    dataset: str
    asked: Asked
    snapshot: Snapshot
    rows: Rows
    """The images, or the first of each stack, in order."""
    stacks: Stacks | None
    revision: int
    """Of the edits."""

    @property
    def members(self) -> Rows:
        """All images that match, also those that a stack hides."""
        return self.stacks.members if self.stacks else self.rows

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return self.rows.nbytes + (self.stacks.bytes if self.stacks else 0)


class Views:
    """The views that are open; the least used ones are closed when there are too many."""

    def __init__(self, workspace: Workspace, edits: Callable[[str], Edits]) -> None:
        self._workspace = workspace
        self._edits = edits
        self.snapshots = Snapshots(workspace)
        self._views: OrderedDict[str, View] = OrderedDict()
        self._overlays: OrderedDict[str, Overlay] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Begin nothing more."""
        self.snapshots.close()

    def open(self, dataset: str, asked: Asked) -> View | None:
        """Open a view of a dataset as it is now; None while its first index is being built.

        Raises NotFound, and UsageError for a question that cannot be right.
        """
        snapshot = self.snapshots.latest(dataset, _PATIENCE)
        if snapshot is None:
            return None
        overlay = self._overlay(dataset, snapshot)
        rows = _passing(overlay, asked, overlay.rows(asked.where, asked.search, asked.search_column))
        rows = overlay.ordered(rows, asked.by, asked.ascending)
        stacks = Stacks.of(snapshot, rows) if asked.stack else None
        rows = stacks.firsts if stacks else rows
        view = View(secrets.token_hex(8), dataset, asked, snapshot, rows, stacks, overlay.revision)
        with self._lock:
            self._views[view.id] = view
            self._bound()
        return view

    def find(self, view: str) -> View:
        """An open view; raises Gone."""
        with self._lock:
            if view not in self._views:
                raise Gone
            self._views.move_to_end(view)
            found = self._views[view]
        self._workspace.find(found.dataset)
        return found

    def slice(self, view: View, start: int, count: int) -> list[dict[str, Any]]:
        """Some tiles of a view, with what people have decided until now."""
        tiles = self.tiles(view.dataset, view.snapshot, view.rows[start : start + count], view.asked.by)
        for place, tile in enumerate(tiles, start=start):
            tile["place"] = place
        if view.stacks and tiles:
            overlay = self._overlay(view.dataset, view.snapshot)
            for tile, told in zip(tiles, view.stacks.decided(overlay, start, len(tiles)), strict=True):
                tile.update(told)
        return tiles

    def tiles(self, dataset: str, snapshot: Snapshot, rows: Rows, by: str = "") -> list[dict[str, Any]]:
        """What tiles show of some images."""
        known = snapshot.index.schema.names
        wanted = ["prompt", CAPTION, "width", "height", "sha256", *_SAFETY, by]
        names = list(dict.fromkeys(name for name in wanted if name in known))
        edits = self._edits(dataset)
        tiles = []
        records = snapshot.index.records(rows.tolist(), names).records
        for image, stored in zip(snapshot.ids(rows), records, strict=True):
            edited = edits.of(image)
            record = {**stored, **edited.texts, RATING: edited.rating or None}
            prompt = record.get("prompt") or ""
            tiles.append(
                {
                    "id": image,
                    "prompt": _short(prompt),
                    CAPTION: _short(record.get(CAPTION) or prompt),
                    "width": record.get("width"),
                    "height": record.get("height"),
                    "thumbnail": thumbnail_url(dataset, image, str(record.get("sha256") or "")),
                    "decision": edited.decision,
                    "rating": edited.rating,
                    "tags": list(edited.tags),
                    "edited": bool(edited.texts),
                    "nsfw": is_unsafe(stored),
                    **({"score": _short(record.get(by, prompt if by == CAPTION else None))} if by else {}),
                }
            )
        return tiles

    def newer(self, view: View) -> int:
        """How many images have come since the view was opened, as of some seconds ago."""
        return max(0, self.snapshots.count(view.dataset) - len(view.snapshot))

    def place(self, view: View, image: str) -> dict[str, Any]:
        """Where an image stands in a view, and its neighbors there."""
        import numpy as np

        row = view.snapshot.find([image])[0]
        places = np.flatnonzero(view.rows == row)
        if not len(places):
            return {"place": None, "previous": None, "next": None, "total": len(view.rows)}
        place = int(places[0])
        around = [each if 0 <= each < len(view.rows) else None for each in (place - 1, place + 1)]
        ids = [None if each is None else view.snapshot.ids(view.rows[each : each + 1])[0] for each in around]
        return {"place": place, "previous": ids[0], "next": ids[1], "total": len(view.rows)}

    def histogram(self, view: View, column: str, bins: int) -> Histogram:
        """How the values of a column are spread over a view, as people have edited them; raises UsageError."""
        import numpy as np

        overlay = self._overlay(view.dataset, view.snapshot)
        if column not in overlay.schema.names:
            raise UsageError(f"there is no column `{column:.80}`", f"columns: {', '.join(overlay.schema.names)}")
        kind = overlay.schema.field(column).type
        if kind_of(kind) not in {"number", "text", "yes or no"}:
            raise UsageError(f"`{column}` holds neither numbers nor texts", "ask for another column")
        return histogram_of(column, kind, [overlay.values(column, np.sort(view.members))], bins)

    def facets(self, view: View) -> dict[str, Any]:
        """What people have decided until now of the images of a view."""
        import numpy as np

        overlay = self._overlay(view.dataset, view.snapshot)
        decisions = np.bincount(overlay.decisions[view.members], minlength=len(DECISIONS)).tolist()
        shown = np.zeros(len(view.snapshot), bool)
        shown[view.members] = True
        tags = {tag: int(np.count_nonzero(shown[rows])) for tag, rows in overlay.tagged.items()}
        most = sorted((tag for tag in tags if tags[tag]), key=lambda tag: (-tags[tag], tag))[:_TAGS]
        return {
            "decisions": dict(zip([name or "undecided" for name in DECISIONS], decisions, strict=True)),
            "ratings": np.bincount(overlay.ratings[view.members], minlength=6).tolist(),
            "tags": [{"value": tag, "count": tags[tag]} for tag in most],
            "edited": int(overlay.edited[view.members].sum()),
        }

    def columns(self, dataset: str, snapshot: Snapshot) -> list[dict[str, Any]]:
        """The columns of a dataset, and what can be done with each."""
        editable = {*editable_columns(self._workspace.open(dataset))} if len(snapshot) else set()
        found = []
        for field in self._overlay(dataset, snapshot).schema:
            kind = kind_of(field.type)
            found.append(
                {
                    "name": field.name,
                    "type": "other" if kind == "nothing" else kind,
                    "sortable": kind not in {"texts", "other"},
                    "searchable": kind == "text",
                    "editable": field.name in editable,
                }
            )
        return found

    def resolve(self, dataset: str, selection: Selection) -> Selected:
        """The images of a selection, in plan order; raises NotFound, and Gone."""
        import numpy as np

        if not (selection.view or selection.stacks):
            snapshot = self.snapshots.latest(dataset, _LONG)
            if snapshot is None:
                raise NotFound("the dataset is still being read", "try again in a while")
            return Selected(snapshot, np.unique(snapshot.rows(selection.images)))
        view = self.find(selection.view or selection.stacks)
        if view.dataset != dataset:
            raise Gone
        named = view.snapshot.rows(selection.left_out if selection.view else selection.images)
        meant = view.stacks.with_variants(view.snapshot, named) if view.stacks else named
        if selection.view:
            chosen = np.zeros(len(view.snapshot), bool)
            chosen[view.members] = True
            chosen[meant] = False
            meant = np.flatnonzero(chosen).astype(np.uint32)
        return Selected(view.snapshot, np.unique(meant))

    def _overlay(self, dataset: str, snapshot: Snapshot) -> Overlay:
        """The edits as they are now, over a snapshot; the last one is kept."""
        edits = self._edits(dataset)
        revision = edits.revision
        with self._lock:
            kept = self._overlays.get(dataset)
        if kept and kept.snapshot is snapshot and kept.revision == revision:
            return kept
        overlay = Overlay(snapshot, edits.state())
        with self._lock:
            self._overlays[dataset] = overlay
            self._overlays.move_to_end(dataset)
            if len(self._overlays) > _SNAPSHOTS:
                self._overlays.popitem(last=False)
        return overlay

    def _bound(self) -> None:
        """Close the least used views while there are too many."""
        while len(self._views) > 1 and (
            len(self._views) > _VIEWS
            or sum(view.bytes for view in self._views.values()) > _BYTES
            or len({id(view.snapshot) for view in self._views.values()}) > _SNAPSHOTS
        ):
            self._views.popitem(last=False)


def thumbnail_url(dataset: str, image: str, sha256: str) -> str:
    """Where the thumbnail of an image is; another one for another picture, so that browsers may keep it."""
    return f"/images/{dataset}/{image}/thumbnail" + (f"?v={sha256[:VERSION]}" if sha256.isalnum() else "")


def is_unsafe(record: Mapping[str, Any]) -> bool:
    """Whether an image is blurred at first, by the scores in its record."""
    scores = [record[name] for name in _SAFETY if record.get(name) is not None]
    return bool(scores) and isinstance(scores[0], int | float) and scores[0] >= _UNSAFE


def _passing(overlay: Overlay, asked: Asked, rows: Rows) -> Rows:
    """Those of some rows in plan order of which people have decided what is asked."""
    import numpy as np

    if asked.decision:
        rows = rows[overlay.decisions[rows] == decision_code(asked.decision)]
    if asked.rating:
        rows = rows[overlay.ratings[rows] >= asked.rating]
    if asked.tag:
        rows = np.intersect1d(rows, overlay.tagged.get(asked.tag, ())).astype(np.uint32)
    return rows[overlay.edited[rows]] if asked.edited else rows


def _short(value: Any) -> Any:
    """A value that fits a tile, and JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value[: _SHOWN - 1] + "…" if isinstance(value, str) and len(value) > _SHOWN else value
