"""Rows × parameters → requests with seeds → parts → batches."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

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
from imagemill.tables.columns import TableOptions, parse_template

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
    """All requests of a job, in order, a function of the table and the parameters alone."""

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
        self.variants = _variants(options)
        self._template = parse_template(options.template) if options.template else None
        # Over the whole table, so that --limit and --sample change no seed.
        self._seeds = _seeds(rows, sampling)
        self._table = rows
        self.rows = _selected(rows, options, sampling.seed)

    def __len__(self) -> int:
        return sum(self._images(row) * len(self.variants) + self._originals(row) for row in self.rows)

    def requests(self) -> Iterator[Request]:
        """Yield the requests, part by part, in the order of the table."""
        for position, request in enumerate(self._requests()):
            yield replace(request, part=position // PART_SIZE + 1)

    def _requests(self) -> Iterator[Request]:
        for row in self.rows:
            image = first = 0
            for sample in row.samples:
                if sample.keep_original:
                    yield self._original(row, sample, image)
                    image += 1
                turns = len(sample.prompts) or 1
                made = self._count(row) * turns
                for variant in self.variants:
                    for number in range(made):
                        yield self._request(row, sample, variant, image, first + number, number % turns)
                        image += 1
                first += made

    def _request(self, row: Row, sample: Sample, variant: _Variant, image: int, number: int, turn: int) -> Request:
        values = self._values(row, variant)
        told = variant.overrides.get("seed", row.overrides.get("seed"))
        seed = self._seeds[row.id, number] if told is None else (told + number) % SEED_LIMIT
        width, height = sample.size or (values["width"], values["height"])
        return Request(
            row=row.index,
            image=image,
            part=0,
            id=row.id,
            prompt=self._prompt(row, variant, sample.prompts[turn] if sample.prompts else row.prompt),
            negative_prompt=values["negative_prompt"],
            seed=NO_SEED if "seed" in self._unused else seed,
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

    def _original(self, row: Row, sample: Sample, image: int) -> Request:
        width, height = sample.full_size
        return Request(
            row=row.index,
            image=image,
            part=0,
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
        kinds: Counter[tuple[Any, ...]] = Counter()
        for row in self._table:
            for variant in self.variants:
                values = self._values(row, variant)
                for sample in row.samples:
                    size = sample.size or (values["width"], values["height"])
                    # Only images of one turn can share a pass.
                    same = (*size, values["num_inference_steps"], values["scheduler"], values.get("strength"))
                    kinds[*same, len(sample.sources), bool(sample.mask)] += self._count(row)
        sizes: dict[Size, int] = {}
        for (width, height, *_), count in kinds.items():
            sizes[width, height] = max(count, sizes.get((width, height), 0))
        return sizes

    def _values(self, row: Row, variant: _Variant) -> dict[str, Any]:
        """The sampling parameters of one prompt."""
        values = {
            **self.sampling.model_dump(),
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
        return _count(row, self.sampling)

    def _images(self, row: Row) -> int:
        return self._count(row) * _turns(row)

    def _originals(self, row: Row) -> int:
        return sum(sample.keep_original for sample in row.samples)

    def _prompt(self, row: Row, variant: _Variant, prompt: str) -> str:
        if self._template:
            fields = {**row.fields, **variant.fields}
            prompt = "".join(literal + (fields[name] if name else "") for literal, name in self._template)
        return " ".join(text for text in (self.options.prompt_prefix, prompt, self.options.prompt_postfix) if text)


def _count(row: Row, sampling: Denoising) -> int:
    name = sampling.count_name
    return int(row.overrides.get(name, getattr(sampling, name)))


def _turns(row: Row) -> int:
    """Images that one pass through all samples of a row makes."""
    return sum(len(sample.prompts) or 1 for sample in row.samples)


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


def derive_seed(job_seed: int, row_id: str, image: int, attempt: int = 0) -> int:
    """Hash a seed of 64 bits from the job's seed and an image's identity; its upper 32 bits are the seed used."""
    text = f"{job_seed}\0{row_id}\0{image}\0{attempt}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def _seeds(rows: Sequence[Row], sampling: Denoising) -> dict[tuple[str, int], int]:
    """Give every (row, image) a seed of its own.

    Where two hashes meet in 32 bits the larger one is drawn again, which depends on what is in the table and not on
    its order.
    """
    taken: set[int] = set()
    drawn: list[tuple[int, str, int]] = []
    for row in rows:
        count = _count(row, sampling) * _turns(row)
        told = row.overrides.get("seed")
        if told is not None:
            taken.update((told + image) % SEED_LIMIT for image in range(count))
        else:
            drawn += [(derive_seed(sampling.seed, row.id, image), row.id, image) for image in range(count)]
    seeds: dict[tuple[str, int], int] = {}
    for digest, row_id, image in sorted(drawn):
        seed = digest >> 32
        attempt = 0
        while seed in taken:
            attempt += 1
            seed = derive_seed(sampling.seed, row_id, image, attempt) >> 32
        taken.add(seed)
        seeds[row_id, image] = seed
    return seeds


def _selected(rows: Sequence[Row], options: TableOptions, seed: int) -> Sequence[Row]:
    if options.sample and options.sample < len(rows):
        # The smallest hashes are a sample that does not depend on the order of the table.
        chosen = sorted(rows, key=lambda row: derive_seed(seed, row.id, -1))[: options.sample]
        ids = {row.id for row in chosen}
        rows = [row for row in rows if row.id in ids]
    return rows[: options.limit] if options.limit else rows


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
