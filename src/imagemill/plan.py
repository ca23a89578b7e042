"""Rows × parameters → requests with seeds → parts → batches."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from imagemill.errors import UsageError
from imagemill.records import (
    MADE_KEYS,
    NO_SEED,
    SEED_LIMIT,
    SOURCE_KEYS,
    Batch,
    Denoising,
    Request,
    Row,
    Sample,
    Size,
    safe_column,
)
from imagemill.seeds import Seeds
from imagemill.tables.columns import TableOptions, parse_template
from imagemill.tables.texts import TextRows

if TYPE_CHECKING:
    from imagemill.tables.texts import Integers

PART_SIZE = 1_000
"""Images in a part, as in DiffusionDB."""


_NONE: Mapping[str, Any] = {
    "negative_prompt": "",
    "guidance_scale": 0.0,
    "num_inference_steps": 0,
    "scheduler": "",
    "seed": NO_SEED,
    "strength": 0.0,
}


@dataclass(frozen=True, slots=True)
class _Variant:
    """One point of the product of `vary`."""

    overrides: Mapping[str, Any]
    fields: Mapping[str, str]


class Plan:
    """All requests of a job, in order, a function of the table and the parameters alone.

    They are made when they are asked for: of a plan of millions only the seeds are held.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        options: TableOptions,
        sampling: Denoising,
        unused: Collection[str] = (),
        guided_above: float = -1.0,
    ) -> None:
        """Plan for all `rows` of a table; `sampling` is complete: no seed of -1, nothing left to the model.

        `unused` names sampling parameters that the model does not take: requests have none.
        Nor has a request a negative prompt without a guidance scale above `guided_above`.
        """
        self.options = options
        self._unused = {name: _NONE[name] for name in unused}
        self._guided_above = guided_above
        self.sampling = sampling
        self._sampled = sampling.model_dump()
        self.variants = _variants(options)
        self._template = parse_template(options.template) if options.template else None
        # Over the whole table, so that --limit and --sample change no seed.
        self._seeds = Seeds(rows, [self._images(row) for row in rows_alike(rows)], sampling.seed)
        self._table = rows
        self.rows, self._places = self._selected()
        self._ends = self._summed()

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def parts(self) -> int:
        """Parts that the images fill."""
        return -(-len(self) // PART_SIZE)

    @property
    def pictorial(self) -> bool:
        """Whether the images start from pictures."""
        return bool(self.rows[0].samples[0].sources)

    @cached_property
    def turns(self) -> int:
        """Edits of the longest conversation."""
        return max(len(sample.prompts) or 1 for row, _ in self.kinds for sample in row.samples)

    @cached_property
    def kinds(self) -> list[tuple[Row, int]]:
        """A row of each kind, and how many of them are left by `sample` and `limit`; see the function."""
        return kinds(self.rows)

    def requests(self, first: int = 0, end: int | None = None) -> Iterator[Request]:
        """Yield the requests from one position in the plan to another, part by part, in the order of the table."""
        end = len(self) if end is None else min(end, len(self))
        if first >= end:
            return
        start, last = (int(self._ends.searchsorted(position, "right")) for position in (first, end - 1))
        position = int(self._ends[start - 1]) if start else 0
        for place, row in enumerate(self.rows[start : last + 1], start):
            for request in self._requests(row, place, position):
                if first <= position < end:
                    yield request
                position += 1

    def part(self, number: int) -> Iterator[Request]:
        """The requests of one part."""
        return self.requests((number - 1) * PART_SIZE, number * PART_SIZE)

    def of_rows(self, indexes: Collection[int]) -> Iterator[Request]:
        """The requests of the rows at these positions in the table."""
        if not indexes:
            return
        import numpy as np

        rows = self.rows
        known = rows.places if isinstance(rows, TextRows) else np.array([row.index for row in rows])
        for place in np.flatnonzero(np.isin(known, list(indexes))).tolist():
            yield from self.requests(int(self._ends[place - 1]) if place else 0, int(self._ends[place]))

    def examples(self) -> Iterator[tuple[list[Request], int]]:
        """The requests of a row of each kind, and how many such rows there are."""
        for row, count in self.kinds:
            yield list(self._requests(row, None, 0)), count

    def _requests(self, row: Row, place: int | None, position: int) -> Iterator[Request]:
        """Those of a row, which begin at this position in the plan; without its place they have no seeds."""
        image = first = 0
        seeds = None if place is None else self._seeds.of(place if self._places is None else int(self._places[place]))
        for sample in row.samples:
            if sample.keep_original:
                yield self._original(row, sample, image, (position + image) // PART_SIZE + 1)
                image += 1
            turns = len(sample.prompts) or 1
            made = self._count(row) * turns
            for variant in self.variants:
                values = self._values(row, variant)
                told = variant.overrides.get("seed", row.overrides.get("seed"))
                for number in range(made):
                    part = (position + image) // PART_SIZE + 1
                    if "seed" in self._unused or seeds is None:
                        seed = NO_SEED
                    elif told is not None:
                        seed = (told + first + number) % SEED_LIMIT
                    else:
                        seed = int(seeds[first + number])
                    yield self._request(row, sample, variant, values, image, part, seed, number % turns)
                    image += 1
            first += made

    def _request(
        self,
        row: Row,
        sample: Sample,
        variant: _Variant,
        values: Mapping[str, Any],
        image: int,
        part: int,
        seed: int,
        turn: int,
    ) -> Request:
        width, height = sample.size or (values["width"], values["height"])
        return Request(
            row=row.index,
            image=image,
            part=part,
            id=row.id,
            prompt=self._prompt(row, variant, sample.prompts[turn] if sample.prompts else row.prompt),
            negative_prompt=values["negative_prompt"],
            seed=seed,
            width=width,
            height=height,
            num_inference_steps=values["num_inference_steps"],
            guidance_scale=float(values["guidance_scale"]),
            scheduler=values["scheduler"],
            columns=self._columns(row, sample, variant.fields),
            images=sample.images,
            mask=sample.mask_image,
            strength=float(values.get("strength", 0.0)),
            turn=turn + 1,
            problem=sample.problem,
        )

    def _original(self, row: Row, sample: Sample, image: int, part: int) -> Request:
        width, height = sample.full_size
        return Request(
            row=row.index,
            image=image,
            part=part,
            id=row.id,
            # As the images made from it say it, apart from what a variation has changed.
            prompt=self._prompt(row, self.variants[0], sample.prompts[0] if sample.prompts else row.prompt),
            negative_prompt="",
            seed=NO_SEED,
            width=width,
            height=height,
            num_inference_steps=0,
            guidance_scale=0.0,
            scheduler="",
            columns=self._columns(row, sample, self.variants[0].fields),
            images=sample.images,
            original=True,
            problem=sample.problem,
        )

    def sizes(self) -> dict[Size, int]:
        """How many images of each size can share a pass, whatever `limit` and `sample` leave out of the table."""
        alike: Counter[tuple[Any, ...]] = Counter()
        for row, rows in kinds(self._table):
            for variant in self.variants:
                values = self._values(row, variant)
                for sample in row.samples:
                    size = sample.size or (values["width"], values["height"])
                    # Only images of one turn can share a pass.
                    same = (*size, values["num_inference_steps"], values["scheduler"], values.get("strength"))
                    alike[*same, len(sample.sources), bool(sample.mask)] += self._count(row) * rows
        sizes: dict[Size, int] = {}
        for (width, height, *_), count in alike.items():
            sizes[width, height] = max(count, sizes.get((width, height), 0))
        return sizes

    def _values(self, row: Row, variant: _Variant) -> dict[str, Any]:
        """The sampling parameters of one prompt."""
        values = {
            **self._sampled,
            "negative_prompt": row.negative_prompt or self.sampling.negative_prompt,
            **row.overrides,
            **variant.overrides,
            **self._unused,
        }
        if values["guidance_scale"] <= self._guided_above:
            values["negative_prompt"] = ""
        return values

    def _columns(self, row: Row, sample: Sample, fields: Mapping[str, str]) -> dict[str, Any]:
        taken = {*MADE_KEYS, *(SOURCE_KEYS if sample.sources else ())}
        return {**row.columns, **{safe_column(name, taken): text for name, text in fields.items()}, **sample.columns}

    def _count(self, row: Row) -> int:
        """Images made of each sample of a row, or conversations held about it."""
        name = self.sampling.count_name
        return int(row.overrides.get(name, self._sampled[name]))

    def _images(self, row: Row) -> int:
        """Seeds that a row needs: one for each image that a variation makes of it."""
        return self._count(row) * sum(len(sample.prompts) or 1 for sample in row.samples)

    def _summed(self) -> Integers:
        """Where in the plan the requests of each row end."""
        import numpy as np

        alike = rows_alike(self.rows)
        counts = [
            self._images(row) * len(self.variants) + sum(sample.keep_original for sample in row.samples)
            for row in alike
        ]
        return np.cumsum(np.broadcast_to(np.array(counts, np.int64), len(self.rows)))

    def _selected(self) -> tuple[Sequence[Row], Integers | None]:
        """The rows that `sample` and `limit` leave, and their places in the table where these are others."""
        import numpy as np

        rows, options, places = self._table, self.options, None
        if options.sample and options.sample < len(rows):
            # The smallest hashes are a sample that does not depend on the order of the table.
            places = np.sort(np.argsort(self._seeds.hashes(-1), kind="stable")[: options.sample])
            rows = rows.take(places) if isinstance(rows, TextRows) else [rows[place] for place in places]
        return (rows[: options.limit] if options.limit else rows), places

    def _prompt(self, row: Row, variant: _Variant, prompt: str) -> str:
        if self._template:
            fields = {**row.fields, **variant.fields}
            prompt = "".join(literal + (fields[name] if name else "") for literal, name in self._template)
        return " ".join(text for text in (self.options.prompt_prefix, prompt, self.options.prompt_postfix) if text)


def rows_alike(rows: Sequence[Row]) -> Sequence[Row]:
    """All rows, or one where what is made of each is the same."""
    return rows[:1] if isinstance(rows, TextRows) else rows


def kinds(rows: Sequence[Row]) -> list[tuple[Row, int]]:
    """A row of each kind, and how many there are: they differ in texts and pictures, and in nothing that is counted."""
    if isinstance(rows, TextRows):
        return [(rows[place], count) for place, count in rows.with_and_without_negative()]
    found: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        told = tuple((name, name == "seed" or value) for name, value in row.overrides.items())
        samples = tuple(
            (
                sample.size,
                sample.full_size,
                len(sample.prompts),
                len(sample.sources),
                bool(sample.mask),
                sample.keep_original,
                bool(sample.problem),
            )
            for sample in row.samples
        )
        found.setdefault((told, bool(row.negative_prompt), samples), [row, 0])[1] += 1
    return [(row, count) for row, count in found.values()]


def batches(requests: Iterable[Request], sizes: Mapping[Size, int], per_row_guidance: bool = False) -> Iterator[Batch]:
    """Put requests that can share a forward pass together, in the order in which groups fill.

    `sizes` says how many, by width and height. A shuffled table is so cut like a sorted one: only the last batch of
    each kind is short.
    """
    groups: defaultdict[tuple[Any, ...], list[Request]] = defaultdict(list)
    for request in requests:
        same = kind(request, per_row_guidance)
        group = groups[same]
        group.append(request)
        if len(group) == sizes[request.size]:
            yield Batch(tuple(groups.pop(same)), sizes[request.size])
    for group in groups.values():
        yield Batch(tuple(group), sizes[group[0].size])


def kind(request: Request, per_row_guidance: bool) -> tuple[Any, ...]:
    """What requests must have in common to share a forward pass."""
    # Without guidance the pass is half as wide.
    guidance = request.guidance_scale > 1 if per_row_guidance else request.guidance_scale
    pictures = request.strength, len(request.images), bool(request.mask)
    return (*request.size, request.num_inference_steps, guidance, request.scheduler, *pictures)


def _variants(options: TableOptions) -> list[_Variant]:
    axes: list[list[tuple[str, Any]]] = []
    sampling = options.sampling
    count = sampling.count_name
    for item in options.vary:
        name, _, text = item.partition("=")
        if any(name == known for axis in axes for known, _ in axis[:1]):
            raise UsageError(f"`vary`: `{name}` is given twice", f"write all its values in one: `{name}=A,B`")
        if name == count:
            raise UsageError(f"`vary`: `{count}` is not something to vary", f"use `--{count.replace('_', '-')}`")
        values: list[Any] = [value.strip() for value in text.split(",")]
        if name in sampling.model_fields:
            values = [getattr(sampling.parse({name: value}, "vary"), name) for value in values]
            if name == "seed" and -1 in values:
                raise UsageError("`vary`: a seed of -1 means none", "leave it out, or give seeds from 0")
        axes.append([(name, value) for value in values])
    variants = []
    for point in itertools.product(*axes):
        overrides = {name: value for name, value in point if name in sampling.model_fields}
        variants.append(_Variant(overrides, {name: value for name, value in point if name not in overrides}))
    return variants
