"""What a run costs beside the model: imagemill against the bare model and a script that saves as it goes.

`python -m benchmarks.host_tax [--images 160] [--runs 3]`. The model is `fake` with 50 ms an image, asleep, at
512×512 pixels, so that nothing but the host's work is measured; every contender makes the same images.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import imagemill
from imagemill.environment import cores, processor
from imagemill.models.fake import Fake
from imagemill.plan import batches
from imagemill.records import Request

SIDE, BATCH, SECONDS = 512, 8, 0.05


def requests(count: int) -> list[Request]:
    """The work, the same for all."""
    return [
        Request(number, 0, 1, str(number), f"picture {number}", "", number, SIDE, SIDE, 1, 1.0, "none")
        for number in range(count)
    ]


def bare(count: int, _: Path) -> None:
    """Nothing but the model."""
    for _result in Fake(latency=SECONDS * BATCH).make(batches(requests(count), BATCH), BATCH):
        pass


def script(count: int, folder: Path) -> None:
    """The loop people write: run a batch, save each image with Pillow, append a line."""
    from PIL import Image

    with (folder / "metadata.jsonl").open("a") as lines:
        for result in Fake(latency=SECONDS * BATCH).make(batches(requests(count), BATCH), BATCH):
            assert result.pixels is not None
            name = f"{result.request.name}.png"
            Image.fromarray(result.pixels).save(folder / name)
            lines.write(json.dumps({"file_name": name, "prompt": result.request.prompt}) + "\n")
            lines.flush()


def whole(count: int, folder: Path) -> None:
    """Imagemill with everything it does by default: recipe, mark, hash, fsync, seal, card."""
    table = [f"picture {number}" for number in range(count)]
    size = {"width": SIDE, "height": SIDE}
    imagemill.generate(table, folder / "out", model="fake", seed=1, batch_size=BATCH, latency=SECONDS * BATCH, **size)


def main() -> None:
    """Run the contenders in turn and print a table; with `--output`, also write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    contenders: dict[str, Callable[[int, Path], None]] = {"bare model": bare, "script": script, "imagemill": whole}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.runs):
        for name, contender in contenders.items():
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                contender(options.images, Path(folder))
                seconds[name].append(time.perf_counter() - start)
    middle = statistics.median(seconds["bare model"])
    print(
        f"{options.images} images, {SIDE}×{SIDE}, {processor()}, {cores()} cores, Python {platform.python_version()}\n"
    )
    print("| contender | seconds (min … max) | ratio to the bare model |\n|---|---|---|")
    for name, values in seconds.items():
        spread = f"{statistics.median(values):.2f} ({min(values):.2f} … {max(values):.2f})"
        print(f"| {name} | {spread} | {statistics.median(values) / middle:.3f} |")
    if options.output:
        options.output.write_text(json.dumps({"images": options.images, "seconds": seconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
