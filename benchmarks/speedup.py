"""P1, P2, P3: whole runs against the loops people write with diffusers, on the same model in the same process.

`python -m benchmarks.speedup [--model shapes] [--images 64]`; on a GPU `--device cuda --model sd15|sdxl|flux`, full
size with random weights, where the share of the device's matrix rate and the peak memory are told too.

The loops are those of diffusers' documentation, run on the same pipeline. `one prompt at a time` is also the shape of
Transformer Lab's and Data-Juicer's loops, and `lists of 4` that of DataFlow-MM with its default batch size; the tools
themselves cannot run this model: Data-Juicer starts from images, DataFlow-MM loads FLUX only, and distilabel only asks
endpoints. All save PNG with Pillow. Loading the model is left out for everyone.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagemill
from benchmarks.common import in_turn, machine, parser, ratios, show, spread, write
from benchmarks.models import folder
from imagemill.models.base import find_model
from imagemill.models.diffusers import Pipeline, engine_of
from imagemill.plan import batches
from imagemill.records import Request

TERAFLOP = {("sd15", 512): (0.803, 2, 2.51), ("sdxl", 1024): (6.761, 2, 10.47), ("flux", 1024): (74.36, 1, 10.47)}
"""Of one denoiser pass, passes a step, and the VAE: matrix products and convolutions, two for a multiply-add."""


def prompts(count: int) -> list[str]:
    """Different prompts in the world of `shapes`."""
    colors, shapes = ("red", "blue", "green", "black", "purple"), ("circle", "square", "star", "heart")
    return [f"a {colors[n % 5]} {shapes[n % 4]} on a white background, number {n}" for n in range(count)]


def loop(pipeline: Any, count: int, size: int, settings: dict[str, Any]) -> None:
    """Call the pipeline with so many prompts at a time and save each image."""
    import torch

    with tempfile.TemporaryDirectory() as target:
        for start in range(0, count, size):
            part = prompts(count)[start : start + size]
            generators = [torch.Generator("cpu").manual_seed(start + k) for k in range(len(part))]
            for k, image in enumerate(pipeline(part, generator=generators, **settings).images):
                image.save(Path(target, f"{start + k}.png"))


def bare(model: Pipeline, count: int, size: int, settings: dict[str, Any]) -> None:
    """Only texts, denoiser and VAE, through our engine."""
    info = model.info()
    requests = [
        Request(k, 0, 1, str(k), prompt, "", k, info.width, info.height, settings["num_inference_steps"],
                settings["guidance_scale"], info.scheduler)
        for k, prompt in enumerate(prompts(count))
    ]  # fmt: skip
    for _ in model.make(batches(requests, {(info.width, info.height): size})):
        pass


def whole(name: str, device: str, count: int, size: int | str, settings: dict[str, Any], workers: int = 1) -> float:
    """An imagemill run; with one worker the model is loaded already, in this process."""
    with tempfile.TemporaryDirectory() as target:
        start = time.perf_counter()
        imagemill.generate(
            prompts(count), Path(target, "out"), model=name, seed=1, device=device, batch_size=size, workers=workers,
            **settings,
        )  # fmt: skip
        return time.perf_counter() - start


def matrix_rate(device: str) -> float:
    """Teraflops a second of a large matrix product in bfloat16."""
    import torch

    side = 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * side**3 / (time.perf_counter() - start) / 1e12


def main() -> None:
    """Run the contenders in turn."""
    options = parser(__doc__)
    options.add_argument("--model", default="shapes")
    options.add_argument("--device", default="cpu")
    options.add_argument("--images", type=int, default=64)
    options.add_argument("--steps", type=int, help="denoising steps; the model's own when not given")
    options.add_argument("--lists", type=int, nargs="*", default=[4, 8, 32, 64])
    chosen = options.parse_args()
    name, device = folder(chosen.model, chosen.device), chosen.device
    model = find_model(name, {"device": device}).resolve({}, 1)
    assert isinstance(model, Pipeline)
    info = model.info()
    settings = {"num_inference_steps": chosen.steps or info.num_inference_steps, "guidance_scale": info.guidance_scale}
    pipeline, count = engine_of(model).pipeline, chosen.images
    size = model.measure({(info.width, info.height): count}, {}).batch_sizes[info.width, info.height]
    contenders: dict[str, Callable[[], object]] = {
        "diffusers, one prompt at a time": lambda: loop(pipeline, count, 1, settings),
        **{f"diffusers, lists of {n}": (lambda n=n: loop(pipeline, count, n, settings)) for n in chosen.lists},
        f"our engine alone, batch {size}": lambda: bare(model, count, size, settings),
        f"imagemill, batch {size}": lambda: whole(name, device, count, size, settings),
    }
    for contender in contenders.values():
        contender()
    seconds = in_turn(contenders, chosen.runs)
    if device == "cpu":
        # Workers load their own models: the difference of two runs leaves that out.
        label = f"imagemill, 2 workers of one thread, batch {size}"
        seconds[label] = [
            whole(name, device, 3 * count, size, settings, 2) / 2 - whole(name, device, count, size, settings, 2) / 2
            for _ in range(chosen.runs)
        ]
    first = seconds["diffusers, one prompt at a time"]
    rows = [
        (label, spread([value / count for value in values], 3), spread(ratios(first, values)))
        for label, values in seconds.items()
    ]
    title = f"{chosen.model}, {count} images of {info.width}×{info.height}, {settings['num_inference_steps']} steps"
    show(f"{title}, {machine(device)}", ("contender", "seconds an image", "times as fast as one by one"), rows)
    tax = ratios(seconds[f"imagemill, batch {size}"], seconds[f"our engine alone, batch {size}"])
    print(f"host tax: {spread(tax, 3)}")
    figures: dict[str, Any] = {"title": title, "images": count, "seconds": seconds}
    if device != "cpu":
        import torch

        figures["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
        print(f"peak memory: {figures['peak_gigabytes']:.1f} GB")
        if (chosen.model, info.width) in TERAFLOP:
            once, passes, vae = TERAFLOP[chosen.model, info.width]
            work = (once * passes * settings["num_inference_steps"] + vae) * count
            figures["rate"] = matrix_rate(device)
            done = work / statistics.median(seconds[f"our engine alone, batch {size}"])
            figures["mfu"] = done / figures["rate"]
            print(f"MFU: {figures['mfu']:.2f} of {figures['rate']:.0f} TFLOP/s")
    write(chosen.output, figures)


if __name__ == "__main__":
    main()
