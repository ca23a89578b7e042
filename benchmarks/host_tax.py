"""P1: what a run costs beside the model: imagemill against the bare model and a script that saves as it goes.

`python -m benchmarks.host_tax [--images 160]`. The model is `fake` with 50 ms an image, asleep, at 512×512 pixels, so
that nothing but the host's work is measured; every contender makes the same images.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

import imagemill
from benchmarks.common import in_turn, machine, parser, ratios, show, spread, write
from imagemill.models.fake import Fake
from imagemill.plan import batches
from imagemill.records import Batch, Request

SIDE, BATCH, SECONDS = 512, 8, 0.05


def work(count: int) -> list[Batch]:
    """The work, the same for all."""
    requests = [
        Request(number, 0, 1, str(number), f"picture {number}", "", number, SIDE, SIDE, 1, 1.0, "none")
        for number in range(count)
    ]
    return list(batches(requests, {(SIDE, SIDE): BATCH}))


def bare(count: int) -> None:
    """Nothing but the model."""
    for _result in Fake(latency=SECONDS * BATCH).make(work(count)):
        pass


def script(count: int) -> None:
    """The loop people write: run a batch, save each image with Pillow, append a line."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder, Path(folder, "metadata.jsonl").open("a") as lines:
        for result in Fake(latency=SECONDS * BATCH).make(work(count)):
            assert result.pixels is not None
            name = f"{result.request.name}.png"
            Image.fromarray(result.pixels).save(Path(folder, name))
            lines.write(json.dumps({"file_name": name, "prompt": result.request.prompt}) + "\n")
            lines.flush()


def whole(count: int) -> None:
    """Imagemill with everything it does by default: recipe, mark, hash, fsync, seal, card."""
    table = [f"picture {number}" for number in range(count)]
    size = {"width": SIDE, "height": SIDE}
    with tempfile.TemporaryDirectory() as folder:
        imagemill.generate(
            table, Path(folder, "out"), model="fake", seed=1, batch_size=BATCH, latency=SECONDS * BATCH, **size
        )


def main() -> None:
    """Run the contenders in turn."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=160)
    chosen = options.parse_args()
    contenders = {"bare model": bare, "script": script, "imagemill": whole}
    seconds = in_turn({name: partial(run, chosen.images) for name, run in contenders.items()}, chosen.runs)
    rows = [
        (name, spread(values), spread(ratios(values, seconds["bare model"]), 3)) for name, values in seconds.items()
    ]
    show(
        f"{chosen.images} images of {SIDE}×{SIDE}, {machine()}",
        ("contender", "seconds", "ratio to the bare model"),
        rows,
    )
    write(chosen.output, {"images": chosen.images, "seconds": seconds})


if __name__ == "__main__":
    main()
