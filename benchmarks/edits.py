"""The log of edits: how long one decision takes behind 100,000 others, and one over 600,000 images.

`python -m benchmarks.edits [--events 100000] [--images 600000]`. The images are drawn from a million, so that they do
not follow each other. Seconds are those of a core, without waiting for the disk; memory is what the values take.
"""

from __future__ import annotations

import gc
import json
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import machine, parser, show, spread, write
from imagemill.dataset.edits import Edits

ROWS, EACH = 250_000, 4


def timed(action: Callable[[], object]) -> float:
    """Seconds of a core."""
    start = time.process_time()
    action()
    return time.process_time() - start


def begin(folder: Path, events: int) -> Edits:
    """A log with so many events, one image each."""
    (folder / ".imagemill").mkdir(parents=True)
    with (folder / ".imagemill" / "edits.jsonl").open("w") as file:
        for number in range(1, events + 1):
            line = {"number": number, "time": "2026-01-01T00:00:00+00:00", "event": "change", "count": 1}
            line |= {"images": {"0": str(number * 7 % ROWS)}, "rating": number % 5 + 1}
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    return Edits(folder)


def run(folder: Path, events: int, chosen: list[str]) -> dict[str, float]:
    """One run; seconds by what was done, and bytes."""
    edits = begin(folder, events)
    path = folder / ".imagemill" / "edits.jsonl"
    found = {"open": timed(lambda: edits.revision)}
    single = sorted(timed(lambda row=row: edits.change([f"{row}-1"], decision="keep")) for row in range(200))  # type: ignore[misc]
    found |= {"one decision (median)": single[100], "one decision (p99)": single[197]}
    size = path.stat().st_size
    found["decision on many"] = timed(lambda: edits.change(chosen, decision="reject"))
    found["bytes of its event"] = path.stat().st_size - size
    found["undo of it"] = timed(edits.undo)
    found["snapshot"] = timed(edits.state)
    return found


def memory(folder: Path, chosen: list[str]) -> dict[str, float]:
    """Bytes for each image of many that are decided alike, and for one with a text of 80 characters."""
    edits = begin(folder, 0)
    (folder / "job.toml").write_text('format = 1\n[[steps]]\noperator = "generate"\n')
    edits.change(["0-0"], texts={"caption": ""})
    tracemalloc.start()
    edits.change(chosen, decision="reject")
    gc.collect()
    many, most = tracemalloc.get_traced_memory()
    edits.state()
    snapshot = tracemalloc.get_traced_memory()[0] - many
    before = tracemalloc.get_traced_memory()[0]
    for row in range(2_000):
        edits.change([f"{row}-9"], texts={"caption": f"{row:080}"})
    gc.collect()
    text = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    count = len(chosen)
    return {"image": many / count, "at most": most / count, "in a snapshot": snapshot / count, "text": text / 2_000}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--events", type=int, default=100_000)
    options.add_argument("--images", type=int, default=600_000)
    parsed = options.parse_args()
    images = [f"{row}-{image}" for row in range(ROWS) for image in range(EACH)]
    chosen = random.Random(1).sample(images, parsed.images)
    with tempfile.TemporaryDirectory() as folder:
        runs = [run(Path(folder, str(number)), parsed.events, chosen) for number in range(parsed.runs)]
        bytes_each = memory(Path(folder, "memory"), chosen)
    rows = [(name, spread([found[name] for found in runs], 4)) for name in runs[0]]
    show(f"{parsed.events:,} events, {parsed.images:,} images, {machine()}", ("what", "seconds"), rows)
    show("Memory", ("what", "bytes"), [(name, f"{count:.0f}") for name, count in bytes_each.items()])
    write(parsed.output, {"machine": machine(), "runs": runs, "memory": bytes_each})


if __name__ == "__main__":
    main()
