"""Paid calls: written down before they are made, so that after a crash it is known which may have been charged."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagemill.dataset.files import append_lines, encode_lines, read_lines, write_file


@dataclass(frozen=True, slots=True)
class Unknown:
    """Images that may have been charged and did not come."""

    images: int = 0
    cost: float | None = 0.0
    """Dollars; None when the price of one is not known."""


class Calls:
    """The file `.imagemill/calls.jsonl` of a dataset."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".imagemill" / "calls.jsonl"
        self._lock = threading.Lock()
        self._waiting: set[str] = set()
        """Asked for by this process, and neither given up nor stored."""

    def opened(self, names: Sequence[str], cost: float | None, batch: str = "") -> None:
        """A call for these images is about to be made, or a batch of calls with this token handed in."""
        with self._lock:
            append_lines(self.path, [{"names": list(names), "cost": cost, **({"batch": batch} if batch else {})}])
            self._waiting |= set(names)

    def closed(self, names: Sequence[str], paid: bool | None) -> None:
        """It has ended without them; `paid` is None when nobody knows whether it is charged for."""
        with self._lock:
            append_lines(self.path, [{"names": list(names), "closed": True, "paid": paid}])
            self._waiting -= set(names)

    def stored(self, name: str) -> None:
        """The image is on disk."""
        with self._lock:
            self._waiting.discard(name)

    def waiting(self) -> int:
        """Count images that this process has asked for, and neither given up nor stored."""
        return len(self._waiting)

    def batches(self) -> dict[str, list[str]]:
        """Batches that were handed in, with the images that have not come back, by token."""
        waiting, _ = self._read(set())
        batches: dict[str, list[str]] = {}
        for name, (_, batch) in waiting.items():
            if batch:
                batches.setdefault(batch, []).append(name)
        return batches

    def unknown(self, ended: Iterable[str] = ()) -> Unknown:
        """Count what may have been charged without an image to show; `ended` are the images that were made since."""
        waiting, kept = self._read(set(ended))
        costs = [cost for cost, batch in waiting.values() if not batch] + [line["cost"] for line in kept]
        return Unknown(len(costs), None if None in costs else sum(costs))

    def settle(self, ended: Iterable[str]) -> None:
        """Keep of the file only what is unknown and what is handed in, when nobody is calling."""
        waiting, kept = self._read(set(ended))
        for name, (cost, batch) in waiting.items():
            kept.append({"names": [name], "cost": cost, "batch": batch} if batch else {"unknown": name, "cost": cost})
        write_file(self.path, encode_lines(kept))

    def _read(self, ended: set[str]) -> tuple[dict[str, tuple[Any, str]], list[dict[str, Any]]]:
        """Images asked for and not come, with their share of the cost and their batch; and lines of what is unknown."""
        waiting: dict[str, tuple[Any, str]] = {}
        kept: list[dict[str, Any]] = []
        for line in read_lines(self.path):
            if "unknown" in line:
                kept.append(line)
                continue
            for name in line["names"]:
                if not line.get("closed"):
                    share = None if line["cost"] is None else line["cost"] / len(line["names"])
                    waiting[name] = share, line.get("batch", "")
                elif name in waiting:
                    cost, _ = waiting.pop(name)
                    if line["paid"] is not False:
                        kept.append({"unknown": name, "cost": cost})
        return {name: value for name, value in waiting.items() if name not in ended}, kept
