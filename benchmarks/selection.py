"""P8: questions of a table of 2,000,000 records: what `select` does with it, beside DuckDB and Polars.

`python -m benchmarks.selection [--records 2000000] [--images 20000]`. Each query runs in a process of its own: reading
the columns that it needs from the same Parquet file, and answering. `sample` and `balance` draw by a hash, another one
in each contender; the other answers must be equal. Then `imagemill select` as a whole on a dataset of tiny images.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import machine, parser, show, spread, write

SAMPLE = 1_000
WHERE = "alignment > 0.28 and image_nsfw < 0.1 and prompt contains 'cat'"
WORDS = ("cat", "dog", "castle", "river", "portrait", "city", "forest", "robot", "flower", "sea", "oil", "neon")


def make_table(path: Path, count: int) -> None:
    """Columns as DiffusionDB has them: 1.8 million prompts of its 2 million images are not all different."""
    rng = np.random.default_rng(0)
    prompts = (count * rng.beta(0.8, 1.2, count)).astype(np.int64)
    words = rng.integers(0, len(WORDS), (count, 6))
    texts = [" ".join(WORDS[word] for word in words[prompt]) + f", detailed, trending, {prompt}" for prompt in prompts]
    table = pa.table(
        {
            "file_name": [f"prompt_{number}_image_0.png" for number in range(count)],
            "prompt": texts,
            "id": [str(prompt) for prompt in prompts],
            "sha256": [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)],
            "seed": rng.integers(0, 2**32, count),
            "width": pa.array([512] * count, pa.int64()),
            "height": pa.array([512] * count, pa.int64()),
            "alignment": rng.normal(0.27, 0.05, count),
            "aesthetic": rng.normal(5.5, 0.8, count),
            "image_nsfw": rng.beta(0.3, 3, count),
            "prompt_nsfw": rng.beta(0.3, 3, count),
            "animal": [WORDS[word] for word in rng.choice(8, count, p=[0.3, 0.2, 0.15, 0.1, 0.1, 0.08, 0.05, 0.02])],
        }
    )
    pq.write_table(table, path)


def imagemill(path: str, query: str) -> pa.Table:
    """What `select` does with an Arrow table; returns the names of what is kept."""
    from imagemill.expressions import Expression
    from imagemill.selecting.choosing import badness, codes, draws, passing, ranks_in

    needed = {
        "where": ["prompt", "alignment", "image_nsfw"],
        "top": ["prompt", "alignment"],
        "sample": ["id", "sha256"],
        "balance": ["id", "sha256", "animal"],
    }
    table = pq.read_table(path, columns=["file_name", *needed[query]])
    everything = np.arange(len(table))
    if query == "where":
        expression = Expression.parse(WHERE)
        expression.check(table.schema)
        kept = np.flatnonzero(passing(expression, table, keep_missing=False))
    elif query == "top":
        kept = np.flatnonzero(ranks_in(codes(table["prompt"]), badness(table["alignment"], ascending=False)) < 1)
    elif query == "sample":
        kept = np.argsort(draws(table, everything, 7, "sample"), kind="stable")[:SAMPLE]
    else:
        groups = codes(table["animal"])
        kept = np.flatnonzero(ranks_in(groups, draws(table, everything, 7, "balance")) < np.bincount(groups).min())
    return table.select(["file_name"]).take(kept)


def duckdb(path: str, query: str) -> pa.Table:
    """The same in SQL."""
    import duckdb as db

    source = f"read_parquet('{path}')"
    draw = "hash(id, sha256, 7)"
    texts = {
        "where": f"""select file_name from {source}
            where alignment > 0.28 and image_nsfw < 0.1 and prompt ilike '%cat%'""",
        "top": f"""select file_name from {source}
            qualify row_number() over (partition by prompt order by alignment desc) = 1""",
        "sample": f"select file_name from {source} order by {draw} limit {SAMPLE}",
        "balance": f"""with counts as (select count(*) as number from {source} group by animal)
            select file_name from {source}
            qualify row_number() over (partition by animal order by {draw}) <= (select min(number) from counts)""",
    }
    return db.sql(texts[query]).to_arrow_table()


def polars(path: str, query: str) -> pa.Table:
    """The same with lazy frames."""
    import polars as pl

    frame = pl.scan_parquet(path)
    draw = pl.concat_str("id", "sha256").hash(7)
    if query == "where":
        passing = (pl.col("alignment") > 0.28) & (pl.col("image_nsfw") < 0.1) & pl.col("prompt").str.contains("(?i)cat")
        frame = frame.filter(passing)
    elif query == "top":
        frame = frame.sort("alignment", descending=True).group_by("prompt").first()
    elif query == "sample":
        frame = frame.select("file_name", draw=draw).bottom_k(SAMPLE, by="draw")
    else:
        least = frame.group_by("animal").len().select(pl.col("len").min()).collect().item()
        frame = frame.select("file_name", "animal", draw=draw).filter(
            pl.col("draw").rank("ordinal").over("animal") <= least
        )
    return frame.select("file_name").collect().to_arrow()


CONTENDERS: dict[str, Callable[[str, str], pa.Table]] = {"imagemill": imagemill, "duckdb": duckdb, "polars": polars}
QUERIES = ("where", "top", "sample", "balance")


def ask(contender: str, path: str, query: str) -> dict[str, Any]:
    """One query in this process: seconds, peak of memory, and what came out."""
    packages = (
        ["imagemill.selecting.choosing", "pyarrow.compute", "pyarrow.dataset"]
        if contender == "imagemill"
        else [contender]
    )
    for package in packages:
        importlib.import_module(package)
    before = memory("VmRSS")
    start = time.perf_counter()
    names = CONTENDERS[contender](path, query)
    seconds = time.perf_counter() - start
    peak = memory("VmHWM") - before
    same = hashlib.sha256("\n".join(sorted(names["file_name"].to_pylist())).encode()).hexdigest()
    return {"seconds": seconds, "peak_mb": peak, "kept": len(names), "names": same}


def memory(name: str) -> float:
    """Megabytes of this process: `VmRSS` now, `VmHWM` at the most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def in_own_process(contender: str, path: Path, query: str) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.selection", "--ask", contender, query, "--table", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def whole(folder: Path, images: int, runs: int) -> dict[str, list[float]]:
    """Seconds that selecting takes on a dataset, everything included."""
    import imagemill as package

    small = package.generate(
        (f"{WORDS[number % 12]} {number // 2}" for number in range(1_000)),
        folder / "small", model="fake", seed=1, width=16, height=16,
    )  # fmt: skip
    source = grown(small, folder / "source", images)
    seconds: dict[str, list[float]] = {}
    asked: dict[str, dict[str, Any]] = {
        "where": {"where": WHERE.replace("'cat'", "'a'")},
        "top 1 per prompt": {"top": 1, "per": "prompt", "by": "alignment"},
        "deduplicate exact": {"deduplicate": "exact"},
        "deduplicate perceptual": {"deduplicate": "perceptual"},
        "everything, in two splits": {"split": "train=0.9,test=0.1"},
    }
    for _ in range(runs):
        for name, parameters in asked.items():
            start = time.perf_counter()
            package.select(source, folder / "out", **parameters)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
            shutil.rmtree(folder / "out")
    return seconds


def grown(small: Any, folder: Path, images: int) -> Any:
    """A dataset of many images out of one of few, by links; each with scores and hashes of its own."""
    from imagemill.dataset import Dataset
    from imagemill.dataset.card import write_card
    from imagemill.dataset.files import encode_lines, write_file
    from imagemill.records import order_of

    rng = np.random.default_rng(0)
    records = list(small)
    seals = []
    for first in range(0, images, 1_000):
        part = folder / "images" / f"part-{first // 1_000 + 1:06d}"
        part.mkdir(parents=True)
        lines = []
        for number, record in zip(range(first, min(images, first + 1_000)), records, strict=False):
            name = f"prompt_{number}_image_0.png"
            old = f"prompt_{order_of(record['file_name'])[0]}_image_0.png"
            (part / name).hardlink_to(small.part(1).folder / old)
            scores = {"alignment": rng.normal(0.27, 0.05), "image_nsfw": rng.beta(0.3, 3)}
            digits = rng.bytes(8).hex()
            hashes = {"perceptual_hash": digits, "pixels_sha256": hashlib.sha256(digits.encode()).hexdigest()}
            lines.append({**record, "file_name": name, "id": str(number), **scores, **hashes})
        content = encode_lines(lines)
        (part / "metadata.jsonl").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        seals.append({"part": part.name, "sealed": True, "records": len(lines), "sha256": digest})
    (folder / ".imagemill").mkdir()
    write_file(folder / ".imagemill" / "seals.jsonl", encode_lines(seals))
    plan = {"rows_read": images, "rows_accepted": images, "requests": images}
    Dataset.write_job(folder, {**small.job, "plan": plan})
    made = Dataset(folder)
    write_card(made)
    return made


def main() -> None:
    """Ask everyone everything, in turn."""
    options = parser(__doc__)
    options.add_argument("--records", type=int, default=2_000_000)
    options.add_argument("--images", type=int, default=20_000)
    options.add_argument("--ask", nargs=2, metavar=("CONTENDER", "QUERY"), help="only one query, of `--table`")
    options.add_argument("--table", type=Path)
    chosen = options.parse_args()
    if chosen.ask:
        print(json.dumps(ask(chosen.ask[0], str(chosen.table), chosen.ask[1])))
        return
    there = [name for name in CONTENDERS if name == "imagemill" or importlib.util.find_spec(name)]
    for name in sorted(CONTENDERS.keys() - set(there)):
        print(f"{name} is not installed, and left out\n")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "records.parquet")
        make_table(path, chosen.records)
        size = path.stat().st_size / 1e6
        found: dict[str, dict[str, list[dict[str, Any]]]] = {query: {name: [] for name in there} for query in QUERIES}
        for _ in range(chosen.runs):
            for query, by_name in found.items():
                for name, answers in by_name.items():
                    answers.append(in_own_process(name, path, query))
        path.unlink()
        seconds = whole(Path(temporary), chosen.images, chosen.runs)
    rows = []
    for query, by_name in found.items():
        equal = len({answer["names"] for answers in by_name.values() for answer in answers}) == 1
        same_size = len({answer["kept"] for answers in by_name.values() for answer in answers}) == 1
        verdict = "equal" if equal else "as many" if same_size else "DIFFERENT"
        rows += [
            (
                query,
                name,
                spread([answer["seconds"] for answer in answers]),
                round(max(answer["peak_mb"] for answer in answers)),
                f"{answers[0]['kept']:,}",
                verdict,
            )
            for name, answers in by_name.items()
        ]
    show(
        f"{chosen.records:,} records, a Parquet of {size:.0f} MB, {machine()}",
        ("query", "contender", "seconds", "peak MB", "kept", "answers"),
        rows,
    )
    show(
        f"`imagemill select` on {chosen.images:,} images",
        ("selection", "seconds"),
        [(name, spread(values)) for name, values in seconds.items()],
    )
    write(chosen.output, {"records": chosen.records, "queries": found, "images": chosen.images, "select": seconds})


if __name__ == "__main__":
    main()
