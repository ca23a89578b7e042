"""P13: the time until a half-done dataset of 14,000,000 images goes on, and the memory that takes.

`python -m benchmarks.resume [--requests 14000000] [--images-per-prompt 8]`. A table of prompts as DiffusionDB has them,
about 150 characters long, is begun with `imagemill generate`; then half of the parts are declared complete, and three
are half done. What is measured is the same command again, in a process of its own, from its start until the model gets
its first batch; the model ends there. Complete parts have a folder and a seal, one in twenty of them also records and
(empty) image files: opening looks at neither. Those are what the two contenders look at, whose times are multiplied:
`exists()` for the file of every image asked for, and a set of the ids in all records.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine, parser, show, spread, write
from imagemill.dataset import Dataset
from imagemill.dataset.files import encode_lines
from imagemill.plan import PART_SIZE
from imagemill.records import Batch

SHARE = 20
"""Of so many complete parts one has records and files."""
HALF_DONE = 3
WORDS = (
    "portrait of a young woman", "a castle on a hill", "an astronaut", "two cats", "the sea at night", "a ruined city",
    "a robot", "an old man with a beard", "a forest in fog", "a dragon", "a steam engine", "a bowl of fruit",
)  # fmt: skip
STYLES = (
    "oil on canvas", "highly detailed", "trending on artstation", "sharp focus", "soft light", "Dutch master", "8 k",
    "concept art", "cinematic", "volumetric fog", "matte painting", "wide angle", "studio photograph", "watercolor",
    "art nouveau", "élégante",
)  # fmt: skip


def make_table(path: Path, rows: int) -> None:
    """A CSV with ids and prompts, nearly all of them with commas and so in quotes."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        file.write("id,prompt\n")
        for first in range(0, rows, 100_000):
            count = min(100_000, rows - first)
            subjects = rng.integers(0, len(WORDS), (count, 2)).tolist()
            styles = rng.integers(0, len(STYLES), (count, 7)).tolist()
            for number, (a, b), chosen in zip(range(first, first + count), subjects, styles, strict=True):
                text = ", ".join(STYLES[style] for style in chosen)
                file.write(f'{number:08x},"{WORDS[a]} and {WORDS[b]}, {text}, {number}"\n')


def generate(table: Path, folder: Path, each: int, *further: str) -> list[str]:
    """The arguments of the command."""
    return [
        "generate", str(table), "-o", str(folder), "--model", "fake", "--seed", "7",
        "--images-per-prompt", str(each), *further,
    ]  # fmt: skip


def half_done(folder: Path, requests: int, each: int) -> None:
    """Declare half of the parts complete, and leave three half done."""
    record = next(iter(Dataset(folder)))
    parts = -(-requests // PART_SIZE)
    seals = []
    for number in range(1, parts // 2 + HALF_DONE + 1):
        part = folder / "images" / f"part-{number:06d}"
        part.mkdir(exist_ok=True)
        sealed = number <= parts // 2
        if sealed:
            seals.append({"part": part.name, "sealed": True, "records": PART_SIZE, "sha256": "0" * 64})
        if not sealed or number % SHARE == 1:
            names = names_of(number, each)[: None if sealed else PART_SIZE // 2]
            lines = [{**record, "file_name": name, "id": f"{int(name.split('_')[1]):08x}"} for name in names]
            (part / "metadata.jsonl").write_bytes(encode_lines(lines))
            for name in names:
                (part / name).touch()
    (folder / ".imagemill" / "seals.jsonl").write_bytes(encode_lines(seals))


def names_of(part: int, each: int) -> list[str]:
    """The files of the images of a part."""
    places = range((part - 1) * PART_SIZE, part * PART_SIZE)
    return [f"prompt_{place // each}_image_{place % each}.png" for place in places]


def open_here(arguments: list[str]) -> None:
    """The command in this process until the model gets a batch; tells when that was."""
    from imagemill.cli import run
    from imagemill.models.fake import Fake

    def end(_: Fake, batches: Iterable[Batch]) -> Iterator[Any]:
        first = next(iter(batches)).requests[0]
        told = {"time": time.time(), "cpu": time.process_time(), "peak_mb": peak(), "first": first.name}
        print(json.dumps(told), flush=True)
        os._exit(0)

    Fake.make = end  # type: ignore[method-assign]
    run(arguments)


def peak() -> float:
    """The most megabytes that this process has held."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def opened(arguments: list[str]) -> dict[str, Any]:
    """The same in a process of its own: seconds since its start, and its peak of memory."""
    start = time.time()
    command = [sys.executable, "-m", "benchmarks.resume", "--open", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, "seconds": found["time"] - start}


def called(*arguments: str) -> dict[str, Any]:
    """A command that ends by itself."""
    start = time.perf_counter()
    code = (
        "import sys, time; from imagemill.cli import run; from benchmarks.resume import peak; run(sys.argv[1:]); "
        "print(time.process_time(), peak(), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cpu, most = map(float, done.stderr.splitlines()[-1].split())
    return {"seconds": time.perf_counter() - start, "cpu": cpu, "peak_mb": most}


def stat_files(folder: Path, parts: int, each: int) -> dict[str, Any]:
    """What it takes to ask for the file of every image, from one in twenty."""
    start, cpu = time.perf_counter(), time.process_time()
    found = 0
    for number in range(1, parts + 1, SHARE):
        part = folder / "images" / f"part-{number:06d}"
        found += sum(os.path.exists(f"{part}/{name}") for name in names_of(number, each))  # noqa: PTH110
    assert found
    return {"seconds": (time.perf_counter() - start) * SHARE, "cpu": (time.process_time() - cpu) * SHARE}


def scan_ids(folder: Path) -> dict[str, Any]:
    """What it takes to read the id of every record, from one in twenty."""
    start, cpu = time.perf_counter(), time.process_time()
    ids = set()
    for path in sorted((folder / "images").glob("part-*/metadata.jsonl")):
        with path.open("rb") as lines:
            ids.update(json.loads(line)["id"] for line in lines)
    assert ids
    return {"seconds": (time.perf_counter() - start) * SHARE, "cpu": (time.process_time() - cpu) * SHARE}


def main() -> None:
    """Make the dataset, then open it in turn with the contenders."""
    options = parser(__doc__)
    options.add_argument("--requests", type=int, default=14_000_000)
    options.add_argument("--images-per-prompt", type=int, default=8)
    options.add_argument("--open", nargs="+", help="only the command, until the first batch")
    if "--open" in sys.argv:
        open_here(sys.argv[sys.argv.index("--open") + 1 :])
        return
    chosen = options.parse_args()
    each, requests = chosen.images_per_prompt, chosen.requests
    parts = -(-requests // PART_SIZE)
    measured: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        table, folder = Path(temporary, "prompts.csv"), Path(temporary, "out")
        make_table(table, requests // each)
        size = table.stat().st_size / 1e6
        arguments = generate(table, folder, each)
        begun = opened(arguments)
        shutil.rmtree(folder)
        command = [sys.executable, "-m", "imagemill", *arguments, "--max-images", "8", "--quiet"]
        subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
        half_done(folder, requests, each)
        for _ in range(chosen.runs):
            for name, found in (
                ("imagemill generate, to the first batch", opened(arguments)),
                ("imagemill generate --dry-run", called(*arguments, "--dry-run")),
                ("imagemill status", called("status", str(folder))),
                ("exists() for every file", stat_files(folder, parts, each)),
                ("a set of the ids in all records", scan_ids(folder)),
            ):
                measured.setdefault(name, []).append(found)
    measured["imagemill generate, a new dataset"] = [begun]
    show(
        f"{requests:,} images of {requests // each:,} prompts ({size:.0f} MB), {machine()}",
        ("what", "seconds", "CPU seconds", "peak MB"),
        [
            (
                name,
                spread([found["seconds"] for found in runs]),
                spread([found["cpu"] for found in runs]),
                round(max(found["peak_mb"] for found in runs)) if "peak_mb" in runs[0] else "",
            )
            for name, runs in measured.items()
        ],
    )
    write(chosen.output, {"requests": requests, "images_per_prompt": each, "table_mb": size, "measured": measured})


if __name__ == "__main__":
    main()
