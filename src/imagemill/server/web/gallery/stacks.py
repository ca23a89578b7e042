"""Stacks: one tile for all images of a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imagemill.server.web.gallery.overlay import RATING, Overlay, decision_code
from imagemill.server.web.gallery.snapshots import Snapshot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imagemill.dataset.index.segments import Rows


@dataclass(frozen=True)
class Stacks:
    """The images of a view by their prompts, in the order of the first of each."""

    members: Rows
    """All images, stack after stack."""
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    """Where each stack begins in `members`."""

    @classmethod
    def of(cls, snapshot: Snapshot, rows: Rows) -> Stacks:
        """Stack some rows."""
        import numpy as np

        prompts = snapshot.prompts[rows]
        by_prompt = np.argsort(prompts, kind="stable")
        starts = np.flatnonzero(np.diff(prompts[by_prompt], prepend=-2))
        sizes = np.diff(starts, append=len(rows))
        order = np.argsort(by_prompt[starts])
        moved = np.cumsum(sizes[order]) - sizes[order]
        places = np.arange(len(rows)) + np.repeat(starts[order] - moved, sizes[order])
        return cls(rows[by_prompt[places]], sizes[order], moved)

    @property
    def firsts(self) -> Rows:
        """The image that is shown of each."""
        return self.members[self.starts]

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return self.members.nbytes + self.sizes.nbytes + self.starts.nbytes

    def with_variants(self, snapshot: Snapshot, rows: Rows) -> Rows:
        """All images of the stacks that some are of."""
        import numpy as np

        return self.members[np.isin(snapshot.prompts[self.members], snapshot.prompts[rows])]

    def decided(self, overlay: Overlay, first: int, count: int) -> Iterator[dict[str, Any]]:
        """What is true of some stacks: a decision, a rating and an edit only where all of its images have it."""
        import numpy as np

        sizes = self.sizes[first : first + count]
        starts = self.starts[first : first + count] - self.starts[first]
        rows = self.members[self.starts[first] :][: sizes.sum()]
        decisions = overlay.decisions[rows]
        kept, rejected = (np.add.reduceat(decisions == decision_code(name), starts) for name in ("keep", "reject"))
        least, most = (each.reduceat(overlay.ratings[rows], starts) for each in (np.minimum, np.maximum))
        edited = np.logical_and.reduceat(overlay.edited[rows], starts)
        for place, size in enumerate(sizes.tolist()):
            agreed = "keep" if kept[place] == size else "reject" if rejected[place] == size else ""
            yield {
                "stacked": size,
                "decision": agreed,
                "kept": int(kept[place]),
                "rejected": int(rejected[place]),
                RATING: int(least[place]) if least[place] == most[place] else 0,
                "edited": bool(edited[place]),
            }
