"""P11: questions of a table of 14,000,000 rows with DiffusionDB's columns: `imagemill query` beside others.

`python -m benchmarks.metadata [--rows 14000000] [--table FILE]`. The table has a seventh as many prompts as rows, which
mostly stand side by side, and words planted in a tenth to a millionth of them. First the index is built; then pages of
50 rows with `image_nsfw < 0.1` and a term that nobody has asked for, at a random depth of what is found, then a sample,
counts and a histogram. DuckDB, Polars and pyarrow answer the same from the Parquet itself, and answers must be equal.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.common import machine, parser, show, spread, write

FREQUENCIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
TERMS = 8
"""Planted for each frequency: words, of which one is not ASCII, and two phrases of two words."""
WHERE = "image_nsfw < 0.1"
PAGE = 50
SAMPLE = 1_000
_CHUNK = 122_880
_CONSONANTS = ("b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st", "tr", "ch", "sh")
_VOWELS = ("a", "e", "i", "o", "u", "an", "er", "in")
_SYLLABLES = tuple(first + second for first in _CONSONANTS for second in _VOWELS)
_PHRASES = {
    "highly detailed,": 0.06, "trending on artstation,": 0.05, "by greg": 0.03, "octane render,": 0.03, "of a": 0.05,
    "portrait": 0.03, "8 k": 0.02, "sharp focus,": 0.02, "a": 0.03, "the": 0.02, "in": 0.02, "with": 0.02,
}  # fmt: skip


def make_table(path: Path, rows: int) -> None:
    """DiffusionDB's 13 columns."""
    from imagemill.foreign.diffusiondb import columns

    rng = np.random.default_rng(0)
    prompts = _prompts(rng, max(1, round(rows / 7.78)))
    of_row = _order(rng, len(prompts), rows)
    users = pa.array([rng.bytes(32).hex() for _ in range(10_000)])
    with pq.ParquetWriter(path, columns()) as writer:
        for first in range(0, rows, _CHUNK):
            count = min(_CHUNK, rows - first)
            names = rng.bytes(16 * count).hex()
            values = {
                "image_name": [f"{names[32 * n : 32 * n + 32]}.png" for n in range(count)],
                "prompt": prompts.take(pa.array(of_row[first : first + count])),
                "part_id": np.arange(first, first + count) // 1_000 % 65_535 + 1,
                "seed": rng.integers(0, 2**32, count),
                "step": rng.choice([20, 25, 50, 100], count, p=[0.1, 0.1, 0.7, 0.1]),
                "cfg": rng.choice([7.0, 7.5, 12.0], count, p=[0.6, 0.2, 0.2]),
                "sampler": rng.integers(1, 9, count),
                "width": rng.choice([512, 704, 768], count, p=[0.8, 0.1, 0.1]),
                "height": rng.choice([512, 704, 768], count, p=[0.8, 0.1, 0.1]),
                "user_name": users.take(pa.array(of_row[first : first + count] % 10_000)),
                "timestamp": (1_659_700_000 + (first + np.arange(count)) // 600 * 60) * 1_000_000,
                "image_nsfw": rng.beta(0.3, 3, count),
                "prompt_nsfw": rng.beta(0.3, 3, count),
            }
            arrays = [
                column.cast(field.type) if isinstance(column := values[field.name], pa.Array)
                else pa.array(column).cast(field.type, safe=False) if field.name == "timestamp"
                else pa.array(column, field.type) if isinstance(column, list)
                else pa.array(column.astype(field.type.to_pandas_dtype()), field.type)
                for field in columns()
            ]  # fmt: skip
            writer.write_table(pa.table(arrays, schema=columns()), row_group_size=_CHUNK)


def planted() -> dict[float, list[str]]:
    """The terms of each frequency; they occur nowhere else."""
    found = {}
    for first, frequency in zip("bdfgkl", FREQUENCIES, strict=True):
        words = [f"{first}ux{letter}qor" for letter in "aeiounrs"]
        found[frequency] = [f"{words[0]}é", *words[1:6], f"{words[6]} of", f"{words[7]} {words[7][::-1]}"]
    return found


def _prompts(rng: np.random.Generator, count: int) -> pa.Array:
    """Words by Zipf's law and phrases that everybody uses, with the planted terms in their share of prompts."""
    syllables = np.array(_SYLLABLES)
    made = {"".join(syllables[rng.integers(0, len(syllables), rng.integers(1, 5))]) for _ in range(70_000)}
    words = [*_PHRASES, *sorted(made)]
    common = sum(_PHRASES.values())
    rare = 1 / (np.arange(len(made)) + 10)
    bounds = np.cumsum([*_PHRASES.values(), *(rare / rare.sum() * (1 - common))])
    plants = [(term, frequency) for frequency, terms in planted().items() for term in terms]
    plants += [(" ".join(term.split()[::-1]), 3 * frequency) for term, frequency in plants[TERMS - 1 :: TERMS]]
    vocabulary = pa.array(words + [term for term, _ in plants])
    texts = []
    for first in range(0, count, _CHUNK):
        size = min(_CHUNK, count - first)
        lengths = np.clip(rng.lognormal(2.75, 0.5, size), 3, 70).astype(np.int32)
        chosen = np.searchsorted(bounds, rng.random(lengths.sum())).clip(max=len(words) - 1)
        at = np.cumsum(lengths) - lengths
        for number, (_, frequency) in enumerate(plants):
            share = np.flatnonzero(rng.random(size) < frequency)
            # The n-th word of a prompt, so that one term seldom takes the place of another.
            chosen[at[share] + number % lengths[share]] = len(words) + number
        lists = pa.ListArray.from_arrays(np.append(at, at[-1] + lengths[-1]), vocabulary.take(pa.array(chosen)))
        texts.append(pc.binary_join(lists, " "))
    return pa.concat_arrays(texts)


def _order(rng: np.random.Generator, prompts: int, rows: int) -> Any:
    """Of each row its prompt: in runs, since people ask for more images of one; some come back later."""
    again = rng.integers(0, prompts, prompts // 7)
    places = np.concatenate([np.arange(prompts), again + rng.integers(0, prompts, len(again))])
    runs = np.concatenate([np.arange(prompts), again])[np.argsort(places, kind="stable")]
    lengths = rng.geometric(min(1.0, len(runs) / rows), len(runs))
    found = np.repeat(runs, lengths)
    return np.resize(found, rows) if len(found) < rows else found[:rows]


# Contenders: 50 names of images from some depth; they compare letters as they are, which is quicker.


def duckdb_page(path: Path, term: str, offset: int) -> list[str]:
    """In SQL."""
    import duckdb

    source = f"select image_name from read_parquet('{path}')"
    found = duckdb.sql(f"{source} where {WHERE} and contains(prompt, '{term}') limit {PAGE} offset {offset}")
    return [name for (name,) in found.fetchall()]


def polars_page(path: Path, term: str, offset: int) -> list[str]:
    """With a lazy frame."""
    import polars as pl

    passing = (pl.col("image_nsfw") < 0.1) & pl.col("prompt").str.contains(term, literal=True)
    found = pl.scan_parquet(path).filter(passing).select("image_name").slice(offset, PAGE).collect()
    return found["image_name"].to_list()  # type: ignore[no-any-return]


def pyarrow_page(path: Path, term: str, offset: int) -> list[str]:
    """With a dataset."""
    passing = (ds.field("image_nsfw") < 0.1) & pc.match_substring(ds.field("prompt"), term)
    found = ds.dataset(path).scanner(["image_name"], filter=passing).head(offset + PAGE)
    return found.column("image_name").to_pylist()[offset:]  # type: ignore[no-any-return]


PAGES: dict[str, Callable[[Path, str, int], list[str]]] = {
    "duckdb": duckdb_page,
    "polars": polars_page,
    "pyarrow": pyarrow_page,
}


def answers(path: Path) -> dict[str, dict[str, Callable[[], Any]]]:
    """Other questions, asked of the index and of DuckDB; where nothing is drawn, the answers must be equal."""
    import duckdb

    from imagemill.dataset.index import Index, Query

    index = Index(path)
    source = f"from read_parquet('{path}')"

    def sql(text: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = duckdb.sql(text).to_arrow_table().to_pylist()
        return rows

    low, high = sql(f"select min(image_nsfw) as low, max(image_nsfw) as high {source}")[0].values()
    place = f"least(floor((image_nsfw::double - {low!r}) * 20 / {high - low!r}), 19)"
    deep = len(index) * 5 // 7
    common = planted()[0.1][1]
    asked = Query(where=WHERE, search=common)
    drawn = f"using sample {SAMPLE} rows"
    return {
        f"page of {PAGE} of all rows, from row {deep:,}": {
            "imagemill": lambda: [row["image_name"] for row in index.page(offset=deep, limit=PAGE).records],
            "duckdb": lambda: [row["image_name"] for row in sql(f"select * {source} limit {PAGE} offset {deep}")],
        },
        f"the same by image_nsfw, at first without its order, from row {deep:,}": {
            "imagemill": lambda: [
                row["image_nsfw"]
                for row in index.page(Query(by="image_nsfw"), deep, PAGE, ["image_nsfw", "image_name"]).records
            ],
            "duckdb": lambda: [
                row["image_nsfw"]
                for row in sql(
                    f"select image_nsfw, image_name {source} order by image_nsfw desc limit {PAGE} offset {deep}"
                )
            ],
        },
        f"sample of {SAMPLE:,}, whole rows": {
            "imagemill": lambda: len(index.sample(SAMPLE, 7).records),
            "duckdb": lambda: len(sql(f"select * {source} {drawn}")),
        },
        f"sample of {SAMPLE:,} where {WHERE}": {
            "imagemill": lambda: len(index.sample(SAMPLE, 7, Query(where=WHERE)).records),
            "duckdb": lambda: len(sql(f"select * from (select * {source} where {WHERE}) {drawn}")),
        },
        f"count where {WHERE} and a term of 0.1, index opened anew": {
            "imagemill": lambda: Index(path).count(asked),
            "duckdb": lambda: sql(f"select count(*) as found {source} where {WHERE} and contains(prompt, '{common}')")[
                0
            ]["found"],
        },
        "histogram of image_nsfw, 20 bins": {
            "imagemill": lambda: [one.count for one in index.histogram("image_nsfw").bins],
            "duckdb": lambda: [
                row["found"] for row in sql(f"select {place} as bin, count(*) as found {source} group by 1 order by 1")
            ],
        },
    }


def build(path: Path) -> dict[str, float]:
    """Build the index; tells seconds, MB on disk, and the peak of memory that belongs to the process alone."""
    import pyarrow.compute  # noqa: F401

    from imagemill.dataset.index import Index

    peak = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, _status("RssAnon"))

    watcher = threading.Thread(target=watch)
    before = _status("RssAnon")
    watcher.start()
    start = time.perf_counter()
    index = Index(path)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    start = time.perf_counter()
    Index(path)
    opened = time.perf_counter() - start
    size = sum(file.stat().st_size for file in index.folder.iterdir()) / 1e6
    return {"seconds": seconds, "open_seconds": opened, "mb": size, "peak_mb": peak - before}


def _status(name: str) -> float:
    """Megabytes of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def pages(path: Path, runs: int) -> Iterator[dict[str, Any]]:
    """Milliseconds of the first page of each term, at a random depth, and of another one of the same term."""
    from imagemill.dataset.index import Index, Query

    rng = np.random.default_rng(1)
    counter = Index(path)
    counts = {term: counter.count(Query(where=WHERE, search=term)) for terms in planted().values() for term in terms}
    for _ in range(runs):
        index = Index(path)
        index.count(Query(where=WHERE, search="portrait"))
        for frequency, terms in planted().items():
            for term in terms:
                query = Query(where=WHERE, search=term)
                depths = rng.integers(0, max(1, counts[term] - PAGE), 2).tolist()
                milliseconds = []
                for depth in depths:
                    start = time.perf_counter()
                    page = index.page(query, depth, PAGE)
                    milliseconds.append((time.perf_counter() - start) * 1e3)
                names = [record["image_name"] for record in page.records]
                yield {
                    "frequency": frequency, "term": term, "found": counts[term], "first": milliseconds[0],
                    "later": milliseconds[1], "depth": depths[1], "names": names,
                }  # fmt: skip


def main() -> None:
    """Build, then ask everyone everything, in turn."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--table", type=Path, help="where the table lies, or is to be made")
    options.add_argument("--build", action="store_true", help="only build the index of `--table`")
    chosen = options.parse_args()
    if chosen.build:
        print(json.dumps(build(chosen.table)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        path = chosen.table or Path(temporary, "metadata.parquet")
        if not path.exists():
            make_table(path, chosen.rows)
        rows = pq.ParquetFile(path).metadata.num_rows
        built = []
        for _ in range(min(chosen.runs, 2)):
            shutil.rmtree(path.with_name(f".{path.name}.index"), ignore_errors=True)
            command = [sys.executable, "-m", "benchmarks.metadata", "--build", "--table", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            built.append(json.loads(done.stdout))
        title = f"{rows:,} rows, a Parquet of {path.stat().st_size / 1e6:,.0f} MB, {machine()}"
        header = ("index", "s to build", "s to open", "MB", "peak MB")
        show(title, header, [("", *(spread([one[key] for one in built], 3) for key in built[0]))])
        asked = list(pages(path, chosen.runs))
        _show_pages(asked)
        others = _beside(path, asked)
        figures = []
        for question, contenders in answers(path).items():
            told: dict[str, Any] = {}
            seconds: dict[str, list[float]] = {name: [] for name in contenders}
            for _ in range(chosen.runs):
                for name, contender in contenders.items():
                    start = time.perf_counter()
                    told[name] = contender()
                    seconds[name].append((time.perf_counter() - start) * 1e3)
            verdict = "equal" if told["imagemill"] == told["duckdb"] else "DIFFERENT"
            figures.append((question, *(spread(seconds[name], 1) for name in contenders), verdict))
        show("milliseconds of other questions", ("question", "imagemill", "DuckDB on Parquet", "answers"), figures)
    write(chosen.output, {"rows": rows, "build": built, "pages": asked, "beside": others, "others": figures})


def _show_pages(asked: Sequence[dict[str, Any]]) -> None:
    rows = []
    for frequency in (*FREQUENCIES, None):
        some = [one for one in asked if frequency in {None, one["frequency"]}]
        firsts, laters = ([one[key] for one in some] for key in ("first", "later"))
        found = round(statistics.median(one["found"] for one in some))
        cells = [f"{np.percentile(values, part):.1f}" for values in (firsts, laters) for part in (50, 95)]
        rows.append((f"{frequency:g}" if frequency else "all", f"{found:,}", *cells))
    header = ("frequency of the term", "rows found", "first p50", "first p95", "later p50", "later p95")
    show(f"milliseconds a page of {PAGE} rows where {WHERE}, at a random depth", header, rows)


def _beside(path: Path, asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One term of each frequency, asked of the others too."""
    there = [name for name in PAGES if importlib.util.find_spec(name)]
    figures, rows = [], []
    for frequency in FREQUENCIES:
        one = next(one for one in asked if one["frequency"] == frequency)
        told = {"imagemill": one["first"]}
        equal = True
        for name in there:
            start = time.perf_counter()
            names = PAGES[name](path, one["term"], one["depth"])
            told[name] = (time.perf_counter() - start) * 1e3
            equal = equal and names == one["names"]
        figures.append({"frequency": frequency, "depth": one["depth"], **told, "equal": equal})
        cells = [f"{value:.1f}" for value in told.values()]
        rows.append((f"{frequency:g}", f"{one['depth']:,}", *cells, "equal" if equal else "DIFFERENT"))
    show(
        "the same page from the Parquet, in milliseconds", ("frequency", "depth", "imagemill", *there, "answers"), rows
    )
    return figures


if __name__ == "__main__":
    main()
