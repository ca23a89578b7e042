"""What the benchmarks share: contenders in turn, a table, JSON."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imagemill.environment import cores, package_version, processor


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with what every benchmark takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--runs", type=int, default=3)
    made.add_argument("--output", type=Path, help="also write the figures as JSON")
    return made


def machine(device: str = "cpu") -> str:
    """Where the figures come from."""
    name = processor()
    if device != "cpu":
        import torch

        name = f"{torch.cuda.get_device_name(device)}, {name}"
    packages = ", ".join(f"{name} {package_version(name)}" for name in ("torch", "diffusers", "pillow"))
    return f"{name}, {cores()} cores, Python {platform.python_version()}, {packages}"


def in_turn(contenders: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each contender in each run; in each run every contender has its turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, with least and most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} … {max(values):.{digits}f})"


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """The ratio of each run."""
    return [value / other for value, other in zip(values, others, strict=True)]


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"{title}\n")
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")
    print()


def write(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures where `--output` says."""
    if path:
        path.write_text(json.dumps(figures, indent=1) + "\n")
