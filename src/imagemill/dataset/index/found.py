"""What a query finds, segment by segment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from imagemill.dataset.index.segments import Segment
from imagemill.environment import cores

if TYPE_CHECKING:
    from imagemill.dataset.index.segments import Mask, Rows


class Found:
    """Which rows of each segment a query finds, without their order; looked up when they are needed."""

    def __init__(self, segments: Sequence[Segment], look: Callable[[Segment, int], Rows | Mask] | None) -> None:
        self._segments = segments
        self._look = look
        self._held: list[Rows | Mask | None] = [None] * len(segments)
        self._counts: list[int | None] = [None if look else len(segment) for segment in segments]

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self._look is None

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return sum(held.nbytes for held in self._held if held is not None)

    def look_up(self, numbers: Iterable[int]) -> None:
        """Look into some segments at once, on all cores."""
        numbers = [number for number in numbers if self._counts[number] is None]
        if len(numbers) > 1:
            with ThreadPoolExecutor(cores()) as pool:
                list(pool.map(self.count, numbers))

    def count(self, number: int) -> int:
        """How many rows of a segment."""
        import numpy as np

        count = self._counts[number]
        if count is None:
            held = self._in(number)
            count = self._counts[number] = int(np.count_nonzero(held)) if held.dtype == bool else len(held)
        return count

    def rows(self, number: int) -> Rows | None:
        """The rows of a segment, counted from its first; None for all of them."""
        import numpy as np

        if self._look is None:
            return None
        held = self._in(number)
        return np.flatnonzero(held).astype(np.uint32) if held.dtype == bool else held

    def _in(self, number: int) -> Any:
        held = self._held[number]
        if held is None and self._look:
            held = self._held[number] = self._look(self._segments[number], number)
        return held
