"""Some images of a dataset become a smaller one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from imagemill.component import Component
from imagemill.dataset.columns import fingerprint, numbers_of, read_columns, read_schema
from imagemill.dataset.edits import DECISIONS, Edits
from imagemill.dataset.edits.images import ROW_BITS
from imagemill.dataset.edits.overlay import Overlay, overlay_of
from imagemill.dataset.folder import Dataset
from imagemill.errors import SomeFailed, UsageError, did_you_mean, together
from imagemill.expressions import Cause, Expression
from imagemill.hashing import perceptual_hash, pixels_sha256
from imagemill.making.intake import output_for
from imagemill.records import SEED_LIMIT
from imagemill.scorers.base import scored_columns
from imagemill.selecting.choosing import Choice, KeepRows, absent
from imagemill.selecting.duplicates import equal, hashes_of, near, similar, vectors_of
from imagemill.selecting.names import Names
from imagemill.selecting.writing import write_selection

if TYPE_CHECKING:
    import pyarrow as pa

_THRESHOLDS = {"perceptual": 4.0, "embedding": 0.95}
_EMBEDDING = "embedding"
_FOLLOWING = {"edits_sha256", "edited", "columns"}
"""What a step says of the edits, which change like a source."""
_BASIC = ("prompt", "id", "sha256")


class Select(Component):
    """A smaller dataset: images that pass a question, without duplicates, the best, a sample, or splits of them."""

    names: str = ""
    """Keep only images that this text file names, one a line: by their files, or as `7-1` for row 7, image 1."""
    edits: bool = False
    """Take along what people have decided: edited texts, ratings and tags as columns; rejected images stay out."""
    keep_rejected: bool = False
    """With `edits`, rejected images stay in, too, and a column `decision` says which they are."""
    where: str = ""
    """What is true of the images to keep, such as `alignment > 0.28 and image_nsfw < 0.1`."""
    keep_rows: KeepRows | None = None
    """Keep or leave out a table's row as a whole: when `any` or `all` of its images pass."""
    deduplicate: Literal["exact", "perceptual", "embedding"] | None = None
    """Keep one of images with equal pixels, similar perceptual hashes, or similar embeddings."""
    threshold: float | None = None
    """Bits of 64 that may differ [4] for `perceptual`; the least cosine [0.95] for `embedding`."""
    top: int | None = Field(None, ge=1)
    """Keep the best few by `by`."""
    per: str | None = None
    """Of each value of this column, such as `prompt`; without it, of all."""
    by: str | None = None
    """The column that says which image is better: for `top`, and for which of several duplicates is kept."""
    ascending: bool = False
    """In `by` a lower value is better."""
    balance: str | None = None
    """Keep equally many images of each value of this column."""
    sample: int | None = Field(None, ge=1)
    """Keep so many images, drawn by a hash of each one."""
    split: str = ""
    """Divide it into datasets: `train=0.9,test=0.1`, or `a,b` for equal shares; a prompt stays in one of them."""
    seed: int = Field(0, ge=0, le=SEED_LIMIT - 1)
    """Decides what `sample`, `balance` and `split` draw."""
    keep_missing: bool = False
    """Keep images without a value in a column that is asked for; they are the worst."""

    @property
    def equal(self) -> bool:
        """Whether all splits get as much, but for one prompt."""
        return bool(self.split) and "=" not in self.split

    def shares(self) -> dict[str, float]:
        """The splits with their shares; raises UsageError."""
        shares: dict[str, float] = {}
        if self.equal:
            names = [name.strip() for name in self.split.split(",")]
            if len(names) < 2 or len(set(names)) < len(names) or not all(re.fullmatch(r"\w+", name) for name in names):
                raise UsageError(
                    f"select: `split`: names with shares, each once, got: `{self.split}`", "write train=0.9,test=0.1"
                )
            return dict.fromkeys(names, 1 / len(names))
        for item in self.split.split(",") if self.split else ():
            found = re.fullmatch(r"\s*(\w+)\s*=\s*(\d*\.?\d+)\s*", item)
            if not found or found[1] in shares or not float(found[2]):
                raise UsageError(
                    f"select: `split`: names with shares, each once, got: `{self.split}`", "write train=0.9,test=0.1"
                )
            shares[found[1]] = float(found[2])
        if shares and abs(sum(shares.values()) - 1) > 1e-6:
            raise UsageError(
                f"select: `split`: the shares add up to {sum(shares.values()):g}, not 1", "write train=0.9,test=0.1"
            )
        return shares

    def check(self) -> None:
        """Raise UsageError for parameters that say nothing, or nothing together."""
        self.shares()
        asked = (
            *(self.names, self.edits, self.where, self.deduplicate),
            *(self.top, self.balance, self.sample, self.split),
        )
        if not any(asked) and not self.by:
            raise UsageError(
                "select: nothing says what to keep",
                "give `where`, `top`, `deduplicate`, `balance`, `sample`, `split`, `names`, `edits`",
            )
        needs = {
            "by": (self.by, self.top or self.deduplicate, "`top` or `deduplicate`"),
            "top": (self.top, self.by, "`by`"),
            "per": (self.per, self.top, "`top`"),
            "keep_rejected": (self.keep_rejected, self.edits, "`edits`"),
            "ascending": (self.ascending, self.by, "`by`"),
            "keep_rows": (self.keep_rows, self.where or self.by, "`where`"),
            "threshold": (
                self.threshold,
                self.deduplicate in _THRESHOLDS,
                "`deduplicate` by `perceptual`, `embedding`",
            ),
        }
        for name, (given, there, needed) in needs.items():
            if given not in (None, False) and not there:
                raise UsageError(f"select: `{name}` has no effect without {needed}", f"give {needed}, or leave it out")
        if self.threshold is not None:
            whole = self.deduplicate == "perceptual"
            if not (0 <= self.threshold <= 16 and self.threshold.is_integer() if whole else 0 < self.threshold <= 1):
                raise UsageError(
                    f"select: `threshold`: must be {'a whole number of bits from 0 to 16' if whole else 'from 0 to 1'},"
                    f" got: `{self.threshold:g}`",
                    "leave it out for the usual one",
                )

    def limit(self) -> float | None:
        """The threshold that holds."""
        return _THRESHOLDS.get(self.deduplicate or "") if self.threshold is None else self.threshold


class Stale(UsageError):
    """The folder holds the same selection from a dataset that has changed since."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A selection that has been checked as a whole, before any image is looked at."""

    dataset: Dataset
    options: Select
    expression: Expression | None
    schema: pa.Schema
    folder: Path
    step: dict[str, Any]
    """As `job.toml` says it, but for what is left out."""
    done: bool
    """Whether the folder holds this selection."""
    names: Names | None = None
    overlay: Overlay | None = None
    """What people have decided."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What stays of a dataset."""

    choice: Choice
    kept: dict[str, Any]
    """Rows of the table, by the name of the split; `""` where there are none."""

    @property
    def counts(self) -> dict[str, int]:
        """Images by the name of the split."""
        return {name: len(places) for name, places in self.kept.items()}


def check_parameters(parameters: Mapping[str, Any]) -> tuple[Select, Expression | None]:
    """The parameters, and the question among them; raises UsageError for what cannot be right in any dataset."""
    options = Select.parse(parameters, "select")
    options.check()
    return options, Expression.parse(options.where) if options.where.strip() else None


def prepare(source: Dataset | str | Path, output: str | Path | None, parameters: Mapping[str, Any]) -> Prepared:
    """Check parameters and columns; nothing is written.

    Raises UsageError, also when the folder holds something else.
    """
    options, expression = check_parameters(parameters)
    dataset = source if isinstance(source, Dataset) else Dataset(source)
    folder = output_for(dataset, output, "selected")
    schema = read_schema(dataset)
    if not len(schema):
        raise UsageError(f"`{dataset.folder}` has no image yet", "generate some first")
    check_columns(options, expression, schema, dataset.folder)
    chosen = {name: value for name, value in options.to_table().items() if value != ""}
    if limit := options.limit():
        chosen["threshold"] = limit
    if not options.keep_rejected:
        # Selections that were made before there was this one stay what they are.
        del chosen["keep_rejected"]
    step = {
        "operator": "select",
        **chosen,
        "source": dataset.folder.resolve().name,
        "source_sha256": fingerprint(dataset),
    }
    names = Names(options.names) if options.names else None
    if names:
        step |= {"names": names.path.name, "names_sha256": names.sha256}
    edited = Edits(dataset.folder).state() if options.edits else None
    overlay = overlay_of(dataset, edited, with_decisions=options.keep_rejected) if edited else None
    if overlay:
        step |= {"edits_sha256": overlay.sha256, "edited": list(overlay.edited), "columns": dict(overlay.added)}
    if folder.resolve() == dataset.folder.resolve():
        raise UsageError(f"`{folder}` is the dataset that is selected from", "choose another output folder")
    done = _is_done(folder, step, options)
    return Prepared(dataset, options, expression, schema, folder, step, done, names, overlay)


def choose(prepared: Prepared) -> Chosen:
    """Decide what stays; raises SomeFailed when that is nothing, or a split would be empty."""
    options, expression, schema = prepared.options, prepared.expression, prepared.schema
    named = [name for name in (options.per, options.by, options.balance) if name]
    hashes = {"exact": "pixels_sha256", "perceptual": "perceptual_hash"}.get(options.deduplicate or "")
    if hashes in schema.names:
        named.append(str(hashes))
    if options.deduplicate == _EMBEDDING:
        named.append(_EMBEDDING)
    names = [*_BASIC, *(expression.columns if expression else ()), *named]
    choice = Choice(read_columns(prepared.dataset, schema, names))
    if prepared.names or prepared.overlay:
        _by_hand(prepared, choice)
    choice.where(expression, [options.by] if options.by else [], options.keep_missing, options.keep_rows)
    if options.deduplicate and len(choice.kept):
        _deduplicate(prepared, choice)
    if options.top and options.by:
        choice.top(options.top, options.per, options.by, options.ascending)
    if options.balance:
        choice.balance(options.balance, options.seed, options.keep_missing)
    if options.sample:
        choice.sample(options.sample, options.seed)
    if not len(choice.kept):
        raise _nothing_left(prepared, choice)
    shares = options.shares()
    kept = choice.split(shares, options.seed, options.equal) if shares else {"": choice.kept}
    empty = [name for name, places in kept.items() if not len(places)]
    if empty:
        raise SomeFailed(
            f"none of {len(choice.kept):,} images falls into the split `{empty[0]}`: whole prompts are drawn",
            "ask for fewer" if options.equal else "give it a larger share, or try another `seed`",
        )
    return Chosen(choice, kept)


def write(prepared: Prepared, chosen: Chosen) -> None:
    """Write what stays as a dataset, whole or not at all; raises LockedError, OutOfSpace."""
    choice = chosen.choice
    step = {**prepared.step, "left_out": choice.left_out()}
    steps = {
        name: [*prepared.dataset.job["steps"], {**step, "split_name": name} if name else step] for name in chosen.kept
    }
    write_selection(
        prepared.dataset, choice.table, chosen.kept, choice.causes, steps, prepared.folder, prepared.overlay
    )


def select(
    source: Dataset | str | Path, output: str | Path | None = None, **parameters: Any
) -> Dataset | dict[str, Dataset]:
    """Make a smaller dataset by hard links and return it, or the one of each split by its name.

    Without `output` it goes to IMAGEMILL_OUTPUT_DIR, else beside the source; `parameters` are those of `Select`. The
    same call again does nothing. Raises UsageError for anything that cannot be right, and SomeFailed when nothing is
    left.
    """
    prepared = prepare(source, output, parameters)
    if not prepared.done:
        write(prepared, choose(prepared))
    return selected(prepared)


def selected(prepared: Prepared) -> Dataset | dict[str, Dataset]:
    """The dataset that was written, or that of each split."""
    shares = prepared.options.shares()
    return {name: Dataset(prepared.folder / name) for name in shares} if shares else Dataset(prepared.folder)


def check_columns(options: Select, expression: Expression | None, schema: pa.Schema, folder: Path) -> None:
    """Raise UsageError for columns that the dataset in `folder` has not, or that are of another kind than asked for."""
    import pyarrow as pa

    asked = {"per": options.per, "by": options.by, "balance": options.balance}
    if options.deduplicate == _EMBEDDING:
        asked["deduplicate"] = _EMBEDDING
    problems = []
    absent = {name for name in [*(expression.columns if expression else ()), *asked.values()] if name} - {*schema.names}
    scorers = scored_columns() if absent else {}
    for name in sorted(absent & scorers.keys()):
        hint = f"imagemill score {folder} --with {scorers[name]}"
        problems.append(UsageError(f"there is no column `{name}` yet", hint))
    if expression and not absent & scorers.keys() & {*expression.columns}:
        try:
            expression.check(schema)
        except UsageError as error:
            problems.append(error)
    for parameter, name in asked.items():
        if not name or name in scorers:
            continue
        if name in absent:
            hint = did_you_mean(name, [*schema.names, *scorers]) or f"columns: {', '.join(schema.names)}"
            problems.append(UsageError(f"select: `{parameter}`: there is no column `{name}`", hint))
            continue
        kind = schema.field(name).type
        if pa.types.is_list(kind):
            hint = "name a column of numbers or texts"
            problems.append(UsageError(f"select: `{parameter}`: `{name}` holds lists", hint))
        elif parameter == "by" and not (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)
        ):
            problems.append(UsageError(f"select: `by`: `{name}` holds no numbers", "name a column of numbers"))
    if problems:
        raise together(problems)


def selection_of(dataset: Dataset) -> dict[str, Any]:
    """The step of its job that has selected a dataset; empty for one that was not selected."""
    return next((step for step in reversed(dataset.job["steps"]) if step["operator"] == "select"), {})


def _is_done(folder: Path, step: Mapping[str, Any], options: Select) -> bool:
    """Whether the folder holds this selection; raises UsageError when it holds anything else."""
    folders = [folder / name for name in options.shares()] or [folder]
    if not folder.exists() or not all((each / "job.toml").is_file() for each in folders):
        Dataset.check_folder(folder)
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"`{folder}` is a dataset already", "choose another output folder")
        return False
    selection = selection_of(Dataset(folders[0]))
    # What the file with names is called does not matter; what it names does.
    found, step = (
        {name: value for name, value in each.items() if name not in {"left_out", "split_name", "names"}}
        for each in (selection, step)
    )
    if not found:
        raise UsageError(f"`{folder}` is a dataset already", "choose another output folder")
    differences = [
        f"`{name}` was `{found.get(name, 'not given')}`, now `{step.get(name, 'not given')}`"
        for name in dict.fromkeys([*found, *step])
        if found.get(name) != step.get(name) and not name.startswith("source") and name not in _FOLLOWING
    ]
    if found["source"] != step["source"]:
        differences.append(f"its source was `{found['source']}`")
    elif found != step and not differences:
        raise Stale(
            f"`{folder}` holds this selection, and its source has changed since", "delete it, or choose another"
        )
    if differences:
        raise UsageError(
            f"`{folder}` holds another selection: {'; '.join(differences)}", "choose another output folder"
        )
    return True


def _by_hand(prepared: Prepared, choice: Choice) -> None:
    """Leave out what is not named, and what people have rejected."""
    import numpy as np

    found = numbers_of(choice.table)
    keys = found.column("row").to_numpy() << ROW_BITS | found.column("image").to_numpy()
    rejected = np.zeros(len(keys), bool)
    if prepared.overlay and not prepared.options.keep_rejected:
        state = prepared.overlay.state
        rejected = np.isin(keys, state.keys[state.decisions == DECISIONS.index("reject")])
    others = ~prepared.names.among(keys, prepared.dataset.folder) if prepared.names else np.zeros(len(keys), bool)
    for places, kind in ((np.flatnonzero(others), "not named"), (np.flatnonzero(rejected & ~others), "rejected")):
        choice.leave_out(places.tolist(), [Cause(kind, kind)] * len(places))


def _deduplicate(prepared: Prepared, choice: Choice) -> None:
    options, dataset = prepared.options, prepared.dataset
    places = choice.by_preference(options.by, options.ascending)
    table = choice.table.take(places)
    limit = options.limit() or 0.0
    if options.deduplicate == "exact":
        found = equal(hashes_of(dataset, table, "pixels_sha256", pixels_sha256))
    elif options.deduplicate == "perceptual":
        found = similar(hashes_of(dataset, table, "perceptual_hash", perceptual_hash), int(limit))
    else:
        rows, vectors = vectors_of(dataset, table, _EMBEDDING)
        if not options.keep_missing:
            missing = sorted(set(range(len(table))).difference(rows))
            choice.leave_out(places[missing].tolist(), [absent(_EMBEDDING)] * len(missing))
        places, table = places[rows], table.take(rows)
        found = near(vectors, limit)
    names = table.column("file_name").to_pylist()
    figures = {"exact": "same pixels", "perceptual": "distance {:.0f}", "embedding": "cosine {:.4f}"}
    figure = figures[str(options.deduplicate)]
    kind = f"duplicate ({options.deduplicate})"
    doubles = [(int(places[row]), f"duplicate of {names[kept]} ({figure.format(far)})") for row, kept, far in found]
    choice.leave_out((place for place, _ in doubles), (Cause(kind, text) for _, text in doubles))


def _nothing_left(prepared: Prepared, choice: Choice) -> SomeFailed:
    import pyarrow as pa
    import pyarrow.compute as pc

    reasons = [f"{count:,} × {kind}" for kind, count in list(choice.left_out().items())[:3]]
    named = [*(prepared.expression.columns if prepared.expression else ()), prepared.options.by]
    ranges = []
    for name in dict.fromkeys(filter(None, named)):
        column = choice.table.column(name)
        if (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)) and column.null_count < len(column):
            least, most = pc.min_max(column).as_py().values()
            ranges.append(f"`{name}` is from {least:.4g} to {most:.4g}")
    scored = [name for name in dict.fromkeys(filter(None, named)) if pa.types.is_null(choice.table.column(name).type)]
    return SomeFailed(
        f"nothing is left of {len(choice.table):,} images: {'; '.join([*reasons, *ranges])}",
        f"no image has a value in `{scored[0]}` yet" if scored else "ask for less",
    )
