"""P4: the batch size that `auto` chooses against every power of two.

`python -m benchmarks.batch_size [--model stable_diffusion] [--device cpu]`.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from functools import partial

from benchmarks.common import in_turn, machine, parser, show, write
from benchmarks.models import folder
from imagemill.models.base import find_model
from imagemill.models.diffusers import Pipeline, engine_of
from imagemill.records import Batch, Request


def main() -> None:
    """Sweep."""
    options = parser(__doc__)
    options.add_argument("--model", default="stable_diffusion")
    options.add_argument("--device", default="cpu")
    options.add_argument("--largest", type=int, default=64)
    options.add_argument("--steps", type=int, default=8)
    chosen = options.parse_args()
    model = find_model(folder(chosen.model, chosen.device), {"device": chosen.device}).resolve({}, 1)
    assert isinstance(model, Pipeline)
    info, engine = model.info(), engine_of(model)
    size = (info.width, info.height)
    example = Request(0, 0, 1, "0", "a picture", "", 1, *size, chosen.steps, info.guidance_scale, info.scheduler)
    start = time.perf_counter()
    found = engine.measure({size: chosen.largest}, example, {}).batch_sizes[size]
    searched = time.perf_counter() - start
    counts = [2**power for power in range(20) if 2**power <= chosen.largest]

    def draw(count: int) -> None:
        for _ in engine.make([Batch(tuple(replace(example, image=k, seed=k) for k in range(count)), count)] * 2):
            pass

    for count in counts:
        draw(count)
    seconds = in_turn({str(count): partial(draw, count) for count in counts}, chosen.runs)
    rate = {count: 2 * count / statistics.median(seconds[str(count)]) for count in counts}
    best = max(rate.values())
    show(
        f"{chosen.model}, {info.width}×{info.height}, {machine(chosen.device)}",
        ("batch", "images/s", "of the best"),
        [(f"**{n}**" if n == found else n, f"{value:.1f}", f"{value / best:.3f}") for n, value in rate.items()],
    )
    print(f"`auto` chose {found} in {searched:.1f} s: {rate[found] / best:.3f} of the best")
    write(chosen.output, {"chosen": found, "images_per_second": rate})


if __name__ == "__main__":
    main()
