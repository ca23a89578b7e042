"""The gallery with 1,000,000 images, in a real browser: first paint, jumps, edits, and pages while a job runs.

`python -m benchmarks.gallery [--images 1000000] [--folder FOLDER]`. The dataset is made once: records as `generate`
writes them, with scores, and hard links to a few hundred pictures of 512×512. Each record tells another hash, so that
every thumbnail is made anew. `imagemill serve` runs as a user starts it; Chromium is driven by Playwright at 1280×800.
A jump sets the scrollbar to a random place and waits until every visible tile has its data, then its thumbnail.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from benchmarks.common import machine, parser, show, write

PICTURES = 256
SIDE = 512
PART = 1_000
EACH = 4
"""Images of a prompt."""
JUMPS = 100
EDITS = 100
SECONDS = 20.0
"""Pages are asked for so long while a job runs."""
STANDSTILL = 300
"""Milliseconds between two jumps."""
NAME = "gallery"

_VISIBLE = """
  const box = grid.getBoundingClientRect();
  const tiles = [...grid.querySelectorAll(".tile")].filter((tile) => {
    const { top, bottom } = tile.getBoundingClientRect();
    return !tile.hidden && bottom > box.top + 1 && top < box.bottom - 1;
  });
  const data = tiles.length > 0 && tiles.every((tile) => !tile.classList.contains("empty"));
  const painted = data && tiles.every((tile) => tile.querySelector("img").naturalWidth > 0);
"""
_SHOWN = "const shown = (tell) => requestAnimationFrame(() => setTimeout(() => tell(performance.now())));"
"""What is in the document is on the screen after the next frame."""
_PAINT = f"""() => new Promise((resolve) => {{
  const told = {{}};
  {_SHOWN}
  const look = () => {{
    const grid = document.getElementById("grid");
    if (grid) {{
      {_VISIBLE}
      if (tiles.some((tile) => tile.querySelector("img").naturalWidth > 0)) told.first ??= performance.now();
      if (painted) return shown((whole) => resolve({{ ...told, whole, tiles: tiles.length }}));
    }}
    setTimeout(look, 4);
  }};
  look();
}})"""
_JUMP = f"""(to) => new Promise((resolve) => {{
  const grid = document.getElementById("grid");
  const told = {{}};
  {_SHOWN}
  grid.scrollTop = to * (grid.scrollHeight - grid.clientHeight);
  const started = performance.now();
  const look = () => {{
    {_VISIBLE}
    if (data) told.data ??= performance.now() - started;
    if (painted) return shown((now) => resolve({{ ...told, painted: now - started }}));
    setTimeout(look, 4);
  }};
  // The grid draws in the frame after it has scrolled.
  requestAnimationFrame(() => setTimeout(look));
}})"""
_EDIT = """async ([address, text]) => {
  const etag = (await fetch(address)).headers.get("etag");
  const started = performance.now();
  const answer = await fetch(address, {
    method: "PATCH",
    headers: { "content-type": "application/json", "if-match": etag },
    body: JSON.stringify({ texts: { caption: text } }),
  });
  if (!answer.ok) throw new Error(await answer.text());
  await answer.json();
  return performance.now() - started;
}"""


def make_dataset(folder: Path, images: int) -> None:
    """A dataset as `generate` makes them, but for its pictures, which are few and linked often."""
    import imagemill
    from imagemill.dataset import Dataset

    pictures = folder.parent.parent / "pictures"
    _make_pictures(pictures)
    with tempfile.TemporaryDirectory() as temporary:
        table = Path(temporary, "prompts.csv")
        table.write_text("prompt\na prompt\n")
        small = imagemill.generate(table, Path(temporary, "small"), model="fake", width=SIDE, height=SIDE, seed=0)
        record, job = next(iter(small)), small.job
    rows = -(-images // EACH)
    job["plan"] |= {"rows_read": rows, "rows_accepted": rows, "requests": images}
    (folder / ".imagemill").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / ".imagemill" / "seals.jsonl").open("w") as seals:
        for first in range(0, images, PART):
            count = min(PART, images - first)
            name = f"part-{first // PART + 1:06d}"
            part = folder / "images" / name
            part.mkdir(parents=True)
            (part / "metadata.jsonl").write_text("".join(_lines(rng, record, first, count)))
            for number in range(first, first + count):
                os.link(
                    pictures / f"{number % PICTURES}.png", f"{part}/prompt_{number // EACH}_image_{number % EACH}.png"
                )
            seals.write(json.dumps({"part": name, "sealed": True, "records": count, "sha256": ""}) + "\n")
    # Last, so that what was interrupted is no dataset.
    Dataset.write_job(folder, job)


def _make_pictures(folder: Path) -> None:
    """Soft colors with the grain of photographs: some 450 kB each."""
    from PIL import Image

    from imagemill.images import encode

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        path = folder / f"{number}.png"
        if not path.exists():
            coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
            soft = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.int16)
            grain = rng.integers(-6, 7, (SIDE, SIDE, 3), dtype=np.int16)
            path.write_bytes(encode((soft + grain).clip(0, 255).astype(np.uint8), "png", None, mark=False))


def _lines(rng: np.random.Generator, record: dict[str, Any], first: int, count: int) -> Iterator[str]:
    """Records of one part."""
    words = np.array(_WORDS)[rng.zipf(1.5, (count // EACH + 2, 12)) % len(_WORDS)]
    hashes = rng.bytes(40 * count).hex()
    scores = rng.normal(0.27, 0.05, count).round(4).tolist(), rng.beta(0.3, 3, count).round(4).tolist()
    seeds = rng.integers(0, 2**32, count).tolist()
    for place in range(count):
        row, image = divmod(first + place, EACH)
        yield (
            json.dumps(
                {
                    **record,
                    "file_name": f"prompt_{row}_image_{image}.png",
                    "prompt": f"{' '.join(words[row - first // EACH])}, {row}",
                    "id": str(row),
                    "seed": seeds[place],
                    "sha256": hashes[80 * place : 80 * place + 64],
                    "alignment": scores[0][place],
                    "image_nsfw": scores[1][place],
                    "perceptual_hash": hashes[80 * place + 64 : 80 * place + 80],
                },
                separators=(",", ":"),
            )
            + "\n"
        )


_WORDS = tuple(
    f"{first}{middle}{last}"
    for first in ("ca", "do", "ri", "mo", "sta", "vel", "qui", "tro", "shi", "lan")
    for middle in ("", "ra", "ni", "to", "lu", "be", "sso", "mi", "dra", "ke")
    for last in ("t", "n", "r", "le", "ng", "st", "d", "x", "ve", "a")
)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int]]:
    """Serve a folder as a user does; the link, and the process."""
    command = [sys.executable, "-m", "imagemill", "serve", str(folder), "--no-browser", "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "IMAGEMILL_TOKEN"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()


class Client:
    """Asks a server as a script does."""

    def __init__(self, link: str) -> None:
        import httpx2

        address = urlsplit(link)
        token = parse_qs(address.query)["token"][0]
        self._client = httpx2.Client(
            base_url=f"http://{address.netloc}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=120,
            trust_env=False,
        )

    def get(self, path: str) -> Any:
        """The answer, which must be one."""
        answer = self._client.get(path)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text[:200]}"
        return answer.json() if answer.headers["content-type"] == "application/json" else answer.content

    def view(self, dataset: str, query: str = "") -> dict[str, Any]:
        """Open a view, however long that takes."""
        while "building" in (found := self.get(f"/api/datasets/{dataset}/view?{query}")):
            time.sleep(0.05)
        return found  # type: ignore[no-any-return]


def measure(folder: Path, images: int) -> dict[str, Any]:
    """Everything, with the index first absent, then there."""
    from imagemill.server.web.workspace import Workspace

    dataset = Workspace(folder).id_of((folder / NAME).resolve())
    shutil.rmtree(folder / NAME / ".imagemill" / "index", ignore_errors=True)
    (folder / NAME / ".imagemill" / "edits.jsonl").unlink(missing_ok=True)
    shutil.rmtree(folder / ".imagemill-server", ignore_errors=True)
    figures: dict[str, Any] = {"images": images}
    with serving(folder) as (link, _):
        client = Client(link)
        latencies: list[float] = []
        started = time.perf_counter()
        with _asking(link, dataset, latencies, images=False):
            client.view(dataset)
            figures["index_s"] = time.perf_counter() - started
        figures["building_page_ms"] = _quantiles(latencies)
    with serving(folder) as (link, process), _page(link) as page:
        figures["memory_idle_mb"] = _memory(process)
        address = f"{link.partition('/?')[0]}/datasets/{dataset}"
        figures["paint_ms"] = {"server just started": _painted(page, address)}
        with _page(link) as another:
            figures["paint_ms"]["again, in another browser"] = _painted(another, address)
        rng = np.random.default_rng(1)
        places = rng.random(JUMPS).tolist()
        jumps = [_jumped(page, place) for place in places]
        figures["jump_data_ms"] = _quantiles([jump["data"] for jump in jumps])
        figures["jump_painted_ms"] = {"thumbnails made": _quantiles([jump["painted"] for jump in jumps])}
        with _page(link) as another:
            _painted(another, address)
            jumps = [_jumped(another, place) for place in places]
            figures["jump_painted_ms"]["thumbnails kept"] = _quantiles([jump["painted"] for jump in jumps])
        rows = rng.integers(0, images // EACH, EDITS).tolist()
        base = f"/api/datasets/{dataset}/images"
        edits = [page.evaluate(_EDIT, [f"{base}/{row}-0", f"edit {number}"]) for number, row in enumerate(rows)]
        figures["edit_ms"] = _quantiles(edits)
        client = Client(link)
        for name, query in {
            "sorted by a score": "by=alignment",
            "found by an expression, sorted": "where=alignment+%3E+0.3+and+image_nsfw+%3C+0.1&by=image_nsfw",
            "search": "search=velto",
            "stacks of a prompt": "stack=prompt",
        }.items():
            started = time.perf_counter()
            view = client.view(dataset, query)
            client.get(f"/api/views/{view['view']}/slice")
            figures.setdefault("view_ms", {})[name] = (time.perf_counter() - started) * 1e3
        figures["memory_mb"] = _memory(process)
        latencies = []
        with _job(folder), _asking(link, dataset, latencies, images=True):
            time.sleep(SECONDS)
        figures["job_page_ms"] = _quantiles(latencies)
        latencies = []
        with _asking(link, dataset, latencies, images=True):
            time.sleep(SECONDS / 4)
        figures["quiet_page_ms"] = _quantiles(latencies)
        figures["memory_after_mb"] = _memory(process)
    return figures


@contextmanager
def _page(link: str) -> Iterator[Any]:
    """A browser that has never been here."""
    from playwright.sync_api import sync_playwright

    executable = os.environ.get("PLAYWRIGHT_CHROMIUM") or shutil.which("chromium")
    if _PLAYING:
        browser = _PLAYING[-1]
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        yield _logged_in(context, link)
        context.close()
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        _PLAYING.append(browser)
        yield _logged_in(browser.new_context(viewport={"width": 1280, "height": 800}), link)
        _PLAYING.pop()
        browser.close()


_PLAYING: list[Any] = []


def _logged_in(context: Any, link: str) -> Any:
    page = context.new_page()
    page.goto(link)
    return page


def _painted(page: Any, address: str) -> dict[str, float]:
    """Milliseconds from the beginning of the navigation to the first thumbnail, and to all that are visible."""
    page.goto(address, wait_until="commit")
    painted: dict[str, float] = page.evaluate(_PAINT)
    return painted


def _jumped(page: Any, place: float) -> dict[str, float]:
    """Milliseconds to the data and to the thumbnails of all visible tiles, from a standstill."""
    page.wait_for_timeout(STANDSTILL)
    jumped: dict[str, float] = page.evaluate(_JUMP, place)
    return jumped


@contextmanager
def _asking(link: str, dataset: str, latencies: list[float], images: bool) -> Iterator[None]:
    """Ask for pages all the while, as one user who never rests; milliseconds of each."""
    client = Client(link)
    done = threading.Event()
    pages = ["/datasets", "/executions"]
    if images:
        view = client.view(dataset)
        pages += [f"/datasets/{dataset}", f"/api/views/{view['view']}/newer", f"/api/datasets/{dataset}/view"]
        places = np.random.default_rng(2).integers(0, view["total"] - 100, 1_000).tolist()
        pages += [f"/api/views/{view['view']}/slice?start={place}&count=100" for place in places[:5]]

    def ask() -> None:
        number = 0
        while not done.is_set():
            started = time.perf_counter()
            client.get(pages[number % len(pages)])
            latencies.append((time.perf_counter() - started) * 1e3)
            number += 1
            done.wait(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _job(folder: Path) -> Iterator[None]:
    """Let `generate` run in a process of its own, as the queue starts it, from its first image on."""
    output = folder / "made-meanwhile"
    shutil.rmtree(output, ignore_errors=True)
    table = folder / "prompts.csv"
    table.write_text("prompt\n" + "a red circle on a blue ground\n" * 20_000)
    command = [sys.executable, "-m", "imagemill", "generate", str(table), f"--output={output}", "--model=shapes"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not any(output.glob("images/*/*.png")):
            assert process.poll() is None, "the job has failed"
            time.sleep(0.1)
        yield
        assert process.poll() is None, "the job has ended too soon"
        process.terminate()


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {"p50": statistics.median(ordered), "p95": at(0.95), "p99": at(0.99), "most": ordered[-1]}


def _memory(process: int) -> dict[str, float]:
    """Megabytes: all that is resident, and what belongs to the process alone, without mapped files."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return {name: int(lines[field].split()[0]) / 1024 for name, field in (("resident", "VmRSS"), ("own", "RssAnon"))}


def main() -> None:
    """Make the dataset unless it is there, and measure."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=1_000_000)
    options.add_argument("--folder", type=Path, help="where the dataset lies, or is to be made")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        served = folder / "served"
        if not (served / NAME / "job.toml").exists():
            started = time.perf_counter()
            make_dataset(served / NAME, chosen.images)
            print(f"the dataset was made in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        figures = measure(served, chosen.images)
    print(json.dumps(figures, indent=1))
    rows: list[tuple[str, str]] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            for inner, figure in value.items():
                told = figure if isinstance(figure, dict) else {"": figure}
                rows.append((f"{name} {inner}", " / ".join(f"{each:,.0f}" for each in told.values())))
        else:
            rows.append((name, f"{value:,.1f}"))
    show(f"{chosen.images:,} images, {machine()}", ("what", "figure"), rows)
    write(chosen.output, figures)


if __name__ == "__main__":
    main()
