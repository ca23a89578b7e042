"""P7: which share of the rows keeps its bytes whatever happens around them, and what that costs.

`python -m benchmarks.exactness [--model shapes] [--rows 24]`. For each batch size: the table shuffled, with one worker
and with two, killed and continued, against the table in order; and the same batch against a batch of one.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import in_turn, machine, parser, ratios, show, spread, write
from benchmarks.models import folder
from imagemill.dataset import Dataset
from imagemill.images import decode


def run(name: str, device: str, rows: list[str], out: Path, *more: str, kill: float = 0) -> None:
    """One run of the command line, perhaps killed after some seconds."""
    table = out.with_suffix(".csv")
    table.write_text("\n".join(["id,prompt", *rows]) + "\n")
    command = [sys.executable, "-m", "imagemill", "generate", table, "-o", out, "--model", name, "--seed", "1", "-q"]
    process = subprocess.Popen([*map(str, command), "--device", device, "--threads", "1", *more])
    if kill:
        time.sleep(kill)
        process.kill()
    process.wait()


def pixels(folder: Path) -> dict[str, bytes]:
    """Images by row."""
    return {
        record["id"]: decode((part.folder / record["file_name"]).read_bytes()).tobytes()
        for part in Dataset(folder).parts
        for record in part.records()
    }


def main() -> None:
    """Compare."""
    options = parser(__doc__)
    options.add_argument("--model", default="shapes")
    options.add_argument("--device", default="cpu")
    options.add_argument("--rows", type=int, default=24)
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
                ("shuffled", shuffled, (), 0),
                ("two workers", shuffled, ("--workers", "2"), 0),
                ("killed and continued", rows, (), 9),
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

        def timed(*more: str) -> None:
            with tempfile.TemporaryDirectory() as once:
                run(name, chosen.device, rows * 1, Path(once, "out"), "--batch-size", "8", *more)

        seconds = in_turn({"exact": timed, "not exact": lambda: timed("--no-exact")}, chosen.runs)
    labels = list(next(iter(figures.values())))
    show(f"{chosen.model}, {chosen.rows} rows, {machine(chosen.device)}", ("batch", *labels), table)
    print(f"exact mode takes {spread(ratios(seconds['exact'], seconds['not exact']), 3)} times as long, start included")
    write(chosen.output, {"equal": figures, "seconds": seconds})


if __name__ == "__main__":
    main()
