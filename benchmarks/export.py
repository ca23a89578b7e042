"""P9: the layout webdataset against a raw write of the same bytes and against `webdataset.ShardWriter`.

`python -m benchmarks.export [--images 600] [--bytes 500000]`. Images are encoded before and lie in memory, and nobody
waits for the disk. Then the whole command on a dataset of small images: written, hashed, loaded back, compared.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import imagemill
from benchmarks.common import machine, parser, ratios, show, spread, write
from imagemill.layouts.base import Content, Picture
from imagemill.layouts.webdataset import Webdataset
from imagemill.records import Record, to_json

LAYOUTS = ("imagefolder", "parquet", "webdataset")


@dataclass(frozen=True, slots=True)
class InMemory(Picture):
    """A picture whose file is in memory."""

    data: bytes

    def read(self, name: str) -> bytes:
        """Its bytes."""
        del name
        return self.data


def record_of(number: int) -> Record:
    """A record as long as they are."""
    return {
        "file_name": f"prompt_{number}_image_0.png",
        "prompt": f"a photograph of object {number} on a wooden table, soft light, 35 mm, highly detailed",
        "negative_prompt": "blurry", "id": str(number), "seed": number, "width": 512, "height": 512,
        "num_inference_steps": 20, "guidance_scale": 7.5, "scheduler": "euler", "model": "m",
        "model_revision": "1" * 40, "model_parameters": '{"dtype": "float32", "threads": 2}', "batch_size": 8,
        "sha256": "0" * 64, "alignment": 0.31, "aesthetic": 5.5,
    }  # fmt: skip


def raw(pictures: list[InMemory], folder: Path) -> None:
    """Write the same bytes, and nothing else."""
    with (folder / "raw").open("wb", buffering=0) as file:
        for picture in pictures:
            texts = to_json(picture.record).encode(), picture.record["prompt"].encode()
            os.writev(file.fileno(), [picture.data, *texts])


def ours(pictures: list[InMemory], folder: Path) -> None:
    """Write shards with their index and the card."""
    import pyarrow as pa

    schema = pa.Table.from_pylist([pictures[0].record]).schema
    Webdataset().write(Content({"train": pictures}, schema, "", "", ""), folder)


def theirs(pictures: list[InMemory], folder: Path) -> None:
    """Write shards as the package `webdataset` does."""
    import webdataset

    with webdataset.ShardWriter(f"{folder}/train-%06d.tar", maxsize=1e9, verbose=0) as shards:
        for picture in pictures:
            record = picture.record
            key = record["file_name"].removesuffix(".png")
            shards.write({"__key__": key, "png": picture.data, "json": record, "txt": record["prompt"]})


def files(pictures: list[InMemory], folder: Path) -> None:
    """Write a file for each image and one for each record."""
    for picture in pictures:
        (folder / picture.record["file_name"]).write_bytes(picture.data)
        (folder / picture.record["file_name"]).with_suffix(".json").write_text(to_json(picture.record))


def in_turn(contenders: Mapping[str, Callable[[Path], object]], runs: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of each contender in each run, in a folder that is empty each time; to empty it is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, contender in contenders.items():
            folder.mkdir()
            start = time.perf_counter()
            contender(folder)
            seconds[name].append(time.perf_counter() - start)
            shutil.rmtree(folder)
    return seconds


def main() -> None:
    """Run the contenders in turn."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=600)
    options.add_argument("--bytes", type=int, default=500_000)
    options.add_argument("--folder", help="where to write; a file system in memory shows what is not the disk's time")
    options.add_argument("--dataset", type=int, default=2_000, help="images of the dataset that is exported as a whole")
    chosen = options.parse_args()
    rng = random.Random(0)
    pictures = [InMemory(Path(), record_of(number), rng.randbytes(chosen.bytes)) for number in range(chosen.images)]
    contenders = {"raw write": raw, "imagemill": ours, "file and JSON for each image": files}
    if importlib.util.find_spec("webdataset"):
        contenders["webdataset.ShardWriter"] = theirs
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        root = Path(name)
        writers = {named: partial(action, pictures) for named, action in contenders.items()}
        # The first to write would pay for the room of all, and for what is imported.
        in_turn(writers, 1, root / "output")
        seconds = in_turn(writers, chosen.runs, root / "output")
        megabytes = chosen.images * chosen.bytes / 1e6
        show(
            f"{chosen.images} images of {chosen.bytes:,} bytes, {machine()}",
            ("contender", "MB/s", "of a raw write"),
            [
                (
                    named,
                    spread([megabytes / value for value in values], 0),
                    spread(ratios(seconds["raw write"], values)),
                )
                for named, values in seconds.items()
            ],
        )
        rows = [{"prompt": f"picture {number}"} for number in range(chosen.dataset)]
        imagemill.generate(rows, root / "dataset", model="fake", seed=1, width=128, height=128)
        commands = in_turn(
            {layout: partial(imagemill.export, root / "dataset", layout) for layout in LAYOUTS},
            chosen.runs,
            root / "output",
        )
        show(
            f"`imagemill export` as a whole, {chosen.dataset} images of 128×128",
            ("layout", "seconds", "images/s"),
            [
                (layout, spread(values), spread([chosen.dataset / value for value in values], 0))
                for layout, values in commands.items()
            ],
        )
    write(chosen.output, {"seconds": seconds, "export": commands})


if __name__ == "__main__":
    main()
