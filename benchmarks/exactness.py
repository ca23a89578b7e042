"""P7: which share of the rows keeps its bytes whatever happens around them, and what that costs.

`python -m benchmarks.exactness [--model shapes] [--rows 25]`. For each batch size: the table shuffled, with one worker
and with two, killed and continued, against the table in order; and the same batch against a batch of one.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from functools import cache, partial
from pathlib import Path

from benchmarks.common import in_turn, machine, parser, ratios, show, spread, write
from benchmarks.models import folder
from imagemill.dataset import Dataset
from imagemill.images import decode
from imagemill.models.base import find_model
from imagemill.models.diffusers import Pipeline, engine_of
from imagemill.models.diffusers.engine import Engine
from imagemill.plan import batches
from imagemill.records import Request


def run(name: str, device: str, rows: list[str], out: Path, *more: str, kill: bool = False) -> None:
    """One run of the command line, perhaps killed when its first images are committed."""
    table = out.with_suffix(".csv")
    table.write_text("\n".join(["id,prompt", *rows]) + "\n")
    command = [sys.executable, "-m", "imagemill", "generate", table, "-o", out, "--model", name, "--seed", "1", "-q"]
    process = subprocess.Popen(
        [*map(str, command), "--device", device, "--threads", "1", *more], stdout=subprocess.DEVNULL
    )
    if kill:
        while process.poll() is None and not list(out.glob("images/*/metadata.jsonl")):
            time.sleep(0.01)
        assert process.poll() is None, "it had ended before it could be killed"
        process.kill()
    assert process.wait() == (-9 if kill else 0)


def pixels(folder: Path) -> dict[str, bytes]:
    """Images by row."""
    return {
        record["id"]: decode((part.folder / record["file_name"]).read_bytes()).tobytes()
        for part in Dataset(folder).parts
        for record in part.records()
    }


@cache
def engine(name: str, device: str, exact: bool) -> Engine:
    """A loaded model."""
    model = find_model(name, {"device": device, "exact": exact}).resolve({}, 1)
    assert isinstance(model, Pipeline)
    return engine_of(model)


def draw(name: str, chosen: Namespace, exact: bool) -> None:
    """Draw as many images as there are rows, in batches of 8."""
    info = find_model(name, {"device": chosen.device}).resolve({}, 1).info()
    requests = [
        Request(n, 0, 1, str(n), f"picture {n}", "", n, info.width, info.height, info.num_inference_steps,
                info.guidance_scale, info.scheduler)
        for n in range(chosen.rows)
    ]  # fmt: skip
    for _ in engine(name, chosen.device, exact).make(batches(requests, {(info.width, info.height): 8}, True)):
        pass


def main() -> None:
    """Compare."""
    options = parser(__doc__)
    options.add_argument("--model", default="shapes")
    options.add_argument("--device", default="cpu")
    options.add_argument("--rows", type=int, default=25)
    options.add_argument("--sizes", type=int, nargs="*", default=[1, 2, 4, 8])
    chosen = options.parse_args()
    name = folder(chosen.model, chosen.device)
    rows = [f"row-{n},a {('red', 'blue', 'green')[n % 3]} star on a white background {n}" for n in range(chosen.rows)]
    shuffled = random.Random(0).sample(rows, len(rows))
    table, figures = [], {}
    with tempfile.TemporaryDirectory() as target:
        alone: dict[str, bytes] = {}
        for size in chosen.sizes:
            base = Path(target, f"{size}")
            batch = ("--batch-size", str(size))
            run(name, chosen.device, rows, base, *batch)
            plain = pixels(base)
            alone = alone or plain
            shares = {"another batch size": alone}
            for label, order, more, kill in (
                ("shuffled", shuffled, (), False),
                ("two workers", shuffled, ("--workers", "2"), False),
                ("killed and continued", rows, (), True),
            ):
                out = Path(target, f"{size}-{label}")
                run(name, chosen.device, order, out, *batch, *more, kill=kill)
                if kill:
                    run(name, chosen.device, order, out, *batch, *more)
                shares[label] = pixels(out)
            equal = {
                label: sum(found[key] == image for key, image in plain.items()) / len(plain)
                for label, found in shares.items()
            }
            figures[size] = equal
            table.append((size, *(f"{equal[label]:.0%}" for label in equal)))
    for exact in (True, False):
        draw(name, chosen, exact)
    seconds = in_turn(
        {label: partial(draw, name, chosen, label == "exact") for label in ("exact", "fast")}, chosen.runs
    )
    labels = list(next(iter(figures.values())))
    show(f"{chosen.model}, {chosen.rows} rows, {machine(chosen.device)}", ("batch", *labels), table)
    cost = spread(ratios(seconds["exact"], seconds["fast"]), 3)
    print(f"exact mode takes {cost} times as long: {chosen.rows} images in batches of 8, the last one padded")
    write(chosen.output, {"equal": figures, "seconds": seconds})


if __name__ == "__main__":
    main()
