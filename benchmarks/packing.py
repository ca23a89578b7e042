"""P5, P6: a shuffled mixed table against the same sorted, and texts encoded once against once an image.

`python -m benchmarks.packing [--rows 960]`. Rows have one of 6 sizes, 4 numbers of steps and 5 guidance scales. As a
reference, the policy of servers with 8 slots: requests in the order they come, and only equal neighbors share a pass.
"""

from __future__ import annotations

import itertools
import random
from functools import partial
from itertools import groupby

from benchmarks.common import in_turn, machine, parser, ratios, show, spread, write
from benchmarks.models import folder
from imagemill.models.base import find_model
from imagemill.models.diffusers import Pipeline, engine_of
from imagemill.plan import batches
from imagemill.records import Batch, Request

SIZES = list(itertools.product((32, 48), (32, 40, 48)))
STEPS, GUIDANCE = (4, 6, 8, 10), (1.0, 2.0, 3.0, 5.0, 7.5)
SLOTS = 8


def useful(cut: list[Batch]) -> float:
    """The share of row-steps that make an image."""
    done = sum(batch.requests[0].num_inference_steps * len(batch.requests) for batch in cut)
    return done / sum(batch.requests[0].num_inference_steps * batch.size for batch in cut)


def neighbors(requests: list[Request]) -> list[Batch]:
    """Batches of equal neighbors only."""
    cut: list[Batch] = []
    for _, group in groupby(requests, lambda r: (*r.size, r.num_inference_steps, r.guidance_scale)):
        same = list(group)
        parts = [same[start : start + SLOTS] for start in range(0, len(same), SLOTS)]
        cut += [Batch(tuple(part), len(part)) for part in parts]
    return cut


def main() -> None:
    """Run the contenders in turn."""
    options = parser(__doc__)
    options.add_argument("--model", default="stable_diffusion")
    options.add_argument("--device", default="cpu")
    options.add_argument("--rows", type=int, default=960)
    chosen = options.parse_args()
    model = find_model(folder(chosen.model, chosen.device), {"device": chosen.device}).resolve({}, 1)
    assert isinstance(model, Pipeline)
    engine, info = engine_of(model), model.info()
    rng = random.Random(0)
    rows = [
        Request(
            n, 0, 1, str(n), f"picture {n % 120}", "", n, *rng.choice(SIZES), rng.choice(STEPS), rng.choice(GUIDANCE),
            info.scheduler,
        )
        for n in range(chosen.rows)
    ]  # fmt: skip
    ordered = sorted(rows, key=lambda r: (*r.size, r.num_inference_steps, r.guidance_scale))
    sizes = dict.fromkeys(SIZES, SLOTS)
    cuts = {
        "sorted": list(batches(ordered, sizes, True)),
        "shuffled": list(batches(rows, sizes, True)),
        "shuffled, equal neighbors only": neighbors(rows),
    }

    def draw(cut: list[Batch]) -> None:
        for _ in engine.make(cut):
            pass

    draw(cuts["sorted"])
    seconds = in_turn({name: partial(draw, cut) for name, cut in cuts.items()}, chosen.runs)
    show(
        f"{chosen.model}, {chosen.rows} mixed rows, {machine(chosen.device)}",
        ("order", "seconds", "ratio to sorted", "useful row-steps"),
        [
            (name, spread(values), spread(ratios(values, seconds["sorted"])), f"{useful(cuts[name]):.3f}")
            for name, values in seconds.items()
        ],
    )
    images = [
        Request(n, k, 1, str(n), f"scene {n}", "", 8 * n + k, 32, 32, 4, 3.0, info.scheduler)
        for n in range(16)
        for k in range(8)
    ]
    cut = list(batches(images, {(32, 32): SLOTS}))

    def again() -> None:
        for request in images:
            engine.family.encode([request.prompt])
        draw(cut)

    before = engine.texts.encoded
    draw(cut)
    encoded, unique = engine.texts.encoded - before, 16
    reuse = in_turn({"once": partial(draw, cut), "for every image": again}, chosen.runs)
    show(
        "16 prompts, 8 images each",
        ("texts are encoded", "seconds", "ratio"),
        [(name, spread(values), spread(ratios(values, reuse["once"]))) for name, values in reuse.items()],
    )
    print(f"texts encoded for each unique text: {encoded / unique:.2f}")
    write(chosen.output, {"seconds": seconds, "reuse": reuse, "encoded": encoded, "unique": unique})


if __name__ == "__main__":
    main()
