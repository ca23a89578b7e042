"""A job that makes images: checked as a whole before anything is loaded, then run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from imagemill.component import Component
from imagemill.dataset.card import AS_RECEIVED, license_of
from imagemill.dataset.differences import check_same
from imagemill.dataset.folder import FORMAT, Counts, Dataset
from imagemill.dataset.journal import blanks_of
from imagemill.dataset.sources import Sources
from imagemill.environment import cuda_devices
from imagemill.errors import UsageError
from imagemill.executors.local import Local
from imagemill.hub import license_of as license_told
from imagemill.images import ImageFormat
from imagemill.making.added import check_columns, check_step
from imagemill.making.fitting import check_requests, complete, left_out, unguided, unused_of
from imagemill.making.intake import place_of, table_name, unreadable, with_pictures
from imagemill.making.parameters import split_parameters
from imagemill.models.base import Model, ModelInfo, find_model
from imagemill.output import Output, recipe_of, record_of
from imagemill.plan import Plan
from imagemill.records import Maker, Record, Request, Row, Size
from imagemill.tables import Table, read_table
from imagemill.tables.columns import PictureTable, TableOptions
from imagemill.tables.pictures import base_of
from imagemill.tables.readers import rows_of

if TYPE_CHECKING:
    from imagemill.making.quota import Quota

DEFAULT_MODEL = "shapes"


class Making(TableOptions):
    """What operators that make images have in common."""

    family: ClassVar[Mapping[str, str]] = {}
    """Models that another name stands for here: of a family, the one for the task."""

    model: str = DEFAULT_MODEL
    """What makes the images: `shapes` (built in), a folder, a hub id, or another name from `imagemill models`."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Images that share a forward pass, or `auto`; decides the last bits, so it is kept for the whole dataset."""
    image_format: ImageFormat = "png"
    """File format; PNG and WebP are lossless, JPEG has quality 95."""
    metadata: bool = True
    """Write the recipe into every file, for imagemill and for tools that read A1111 `parameters`."""
    mark: bool = True
    """Say in every file that an AI made it (XMP `DigitalSourceType`)."""
    max_images: int | None = Field(None, ge=1)
    """Images a run may make; it stops there (exit code 4), and the same command goes on."""

    def model_name(self) -> str:
        """The model that `model` stands for."""
        return self.family.get(self.model, self.model)

    def check_model(self, info: ModelInfo) -> None:
        """Raise UsageError when a model cannot do what the operator is for."""

    def arranged(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Rows with what is to be made of each."""
        return rows

    def further(self, rows: Sequence[Row], known: Mapping[str, Any], workers: int) -> dict[str, Any]:
        """What else the step of the job says; `known` is the step as it was written down before."""
        del rows, known, workers
        return {}

    def quota(self, expected: Record, known: Sequence[Mapping[str, Any]], workers: int) -> Quota | None:
        """What images must be to be kept; `expected` is a record of one, `known` the later steps of the job so far."""
        del expected, known, workers
        return None

    def described(self, rows: Sequence[Row], step: Mapping[str, Any], folder: Path, executor: Local) -> list[Row]:
        """Rows with the texts that only a look at their pictures can give."""
        del step, folder, executor
        return list(rows)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that has been checked as a whole, before any model is loaded or folder made."""

    options: Making
    table: Table
    plan: Plan
    quota: Quota | None
    model: Model
    info: ModelInfo
    output: Output
    job: dict[str, Any]
    """As `job.toml` says it."""
    found: dict[str, Any]
    """What `job.toml` said before; empty for a new dataset."""
    counts: Counts | None
    """Where the dataset stands, when there is one."""
    executor: Local
    base: Path
    """Where relative paths of pictures start from."""
    talk: list[str]
    """What the user should know of it."""

    def estimate(self) -> tuple[float | None, int | None]:
        """Guess the seconds that are left and the bytes of all images; None for what nobody knows of the model."""
        pixels = steps = 0
        for requests, count in self.plan.examples():
            for request in requests:
                if not request.original:
                    pixels += request.width * request.height * count
                    steps += request.width * request.height * (request.num_inference_steps or 1) * count
        own = self.info.width * self.info.height
        seconds = size = None
        if self.info.seconds_per_image is not None:
            share = self.pending / (len(self.plan) * self.executor.workers)
            seconds = self.info.seconds_per_image * steps / (own * (self.info.num_inference_steps or 1)) * share
        if self.info.bytes_per_image is not None:
            size = round(self.info.bytes_per_image * pixels / own)
        return seconds, size

    def cost(self) -> float | None:
        """Guess the dollars that are left to pay; None when nobody knows a price."""
        total = 0.0
        for requests, count in self.plan.examples():
            for request in requests:
                cost = 0.0 if request.original else self.model.cost(request)
                if cost is None:
                    return None
                total += cost * count
        return total * self.pending / len(self.plan)

    def calls(self) -> int:
        """Guess the calls that are left, where one can bring several images of a prompt."""
        calls = 0
        for requests, count in self.plan.examples():
            same = groupby(requests, lambda request: (request.prompt, request.size))
            calls += count * sum(-(-len(list(group)) // self.info.batch_size) for _, group in same)
        return round(calls * self.pending / len(self.plan))

    def expected_record(self) -> Record:
        """A record as the images will have: its columns, each with a value of its type."""
        first = next(request for request in self.plan.requests() if not request.original or len(self.plan) == 1)
        tries = {"tries": 1} if self.quota else {}
        return {**_expected(first, self.output), **tries, **self.output.later_columns}

    @property
    def pending(self) -> int:
        """Images still to be made."""
        ended = self.counts.requests - self.counts.pending if self.counts else 0
        return len(self.plan) - ended


def prepare(
    operator: type[Making],
    source: str | Path | Iterable[Any],
    output: str | Path,
    parameters: Mapping[str, Any],
    workers: int = 1,
    devices: str = "",
) -> Prepared:
    """Check a whole job: parameters, model, table; nothing is loaded and nothing written.

    Raises UsageError, also when the folder was made by another job.
    """
    options, model_parameters = split_parameters(
        operator, parameters, lambda options: find_model(options.model_name(), {})
    )
    executor = local_executor(workers, devices)
    folder = Path(output)
    Dataset.check_folder(folder)
    found = Dataset(folder).job if (folder / "job.toml").is_file() else {}
    step: Mapping[str, Any] = found["steps"][0] if found else {}
    model = find_model(options.model_name(), model_parameters)
    known = step.get("model_parameters", {}) if step.get("model") == options.model_name() else {}
    model = model.resolve(known, executor.workers)
    check_devices(executor, model)
    info = model.info()
    options.check_model(info)
    options = _as_received(options, info)
    sampling = complete(options, info, step)
    source = place_of(source)
    if not isinstance(source, str | Path):
        source = rows_of(source)
    read = read_table(source, options)
    read = replace(read, rows=options.arranged(read.rows))
    further = options.further(read.rows, step, executor.workers)
    base = base_of(source)
    rows = with_pictures(read, Sources(folder), base, options, info)
    unused = unused_of(info)
    plan = Plan(rows, options, sampling, unused, info.guided_above)
    check_requests(operator.component_name(), plan, info)
    maker = Maker(info.name, info.revision, model.to_table())
    sourced = _license_of_sources(source, options, found)
    job = _job(table_name(source), read, options, {**sourced, **sampling.to_table(), **further}, plan, maker, info)
    if found:
        check_same(folder, found, job)
        job["input"]["table"] = found["input"]["table"]
        # Columns that were added since.
        job["steps"] += found["steps"][1:]
    written = output_of(folder, maker, job, info)
    quota = options.quota(_expected(next(plan.requests()), written), job["steps"][1:], executor.workers)
    for scored in quota.steps if quota else ():
        if found and check_step(Dataset(folder), scored, found):
            continue
        if not found:
            check_columns(_expected(next(plan.requests()), written), scored, job["steps"][1:])
        job["steps"].append(scored)
    return Prepared(
        options=options,
        table=replace(read, rows=rows),
        plan=plan,
        quota=quota,
        model=model,
        info=info,
        output=replace(written, later_columns=later_columns(job)),
        job=job,
        found=found,
        counts=Dataset(folder).counts() if found else None,
        executor=executor,
        base=base,
        talk=[
            *read.talk,
            *left_out(unused, options, rows, info),
            *unguided(plan, info),
            *(unreadable(rows) if plan.pictorial else []),
            *_unknown(folder, bool(found)),
        ],
    )


def later_columns(job: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that were added to a dataset, as they stand for images that nobody has looked at."""
    return {name: blank for step in job["steps"][1:] for name, blank in blanks_of(step).items()}


def output_of(
    folder: Path, maker: Maker, job: Mapping[str, Any], info: ModelInfo, batch_sizes: Mapping[Size, int] | None = None
) -> Output:
    """How the images of a job are written."""
    step = job["steps"][0]
    return Output(
        folder=folder,
        maker=maker,
        image_format=step["image_format"],
        metadata=step["metadata"],
        mark=step["mark"],
        per_row_guidance=info.per_row_guidance,
        operator=step["operator"],
        several=step.get("condition_images", 1) > 1,
        model_columns=info.columns,
        later_columns=later_columns(job),
        batch_sizes=batch_sizes or {},
    )


def _expected(request: Request, output: Output) -> Record:
    """A record as the images of a job will have when they are made."""
    edited = {"input_images_file_names": [""]} if output.several else {}
    kinds: dict[str, dict[str, Any]] = {
        "augment": {"original": False},
        "edit": {
            "turn": 1,
            "edit_prompt": "",
            "input_image_file_name": "",
            "edited_image_file_name": "",
            **edited,
            **({"mask_file_name": ""} if request.mask else {}),
            "difference": 0.0,
            "changed_area": 0.0,
            "no_op": False,
        },
    }
    sources = {"strength": 0.0, "source_sha256": [""]} if request.images or output.operator in kinds else {}
    return {
        **record_of(f"{request.name}.png", recipe_of(request, output.maker, 1), ""),
        **sources,
        **kinds.get(output.operator, {}),
        **output.model_columns,
        **request.columns,
    }


def local_executor(workers: int, devices: str) -> Local:
    """The processes that work: so many, or one for each CUDA device of `all` or `0,1`; raises UsageError."""
    if not devices:
        return Local.parse({"workers": workers}, "workers")
    there = [str(number) for number in range(len(cuda_devices()))]
    chosen = there if devices == "all" else [text.strip() for text in devices.split(",")]
    absent = [device for device in chosen if device not in there]
    if absent or not chosen or len(set(chosen)) < len(chosen) or workers != 1:
        raise UsageError(
            f"`devices` names CUDA devices of this machine, each once, without `workers`; got: `{devices}`",
            f"there are: {', '.join(there)}" if there else "this machine has none that PyTorch can use",
        )
    return Local.parse({"workers": len(chosen), "devices": chosen}, "workers")


def check_devices(executor: Local, model: Component) -> None:
    """Raise UsageError where CUDA devices are named for a model that is to run elsewhere."""
    if executor.devices and (device := model.to_table().get("device", "cuda")) != "cuda":
        raise UsageError(f"`devices` are CUDA devices, and `device` is `{device}`", "leave out one of them")


def _as_received(options: Making, info: ModelInfo) -> Making:
    """Without what would change a file that is kept as it comes; raises UsageError where that was asked for."""
    if not info.as_received:
        return options
    asked = {name: getattr(options, name) for name in ("batch_size", "image_format", "metadata", "mark")}
    if asked.pop("batch_size") != "auto":
        raise UsageError(f"`batch_size`: `{info.name}` decides that itself", "leave it out")
    for name in sorted(asked.keys() & options.model_fields_set):
        if asked[name]:
            raise UsageError(f"`{name}`: the files of `{info.name}` are kept as they come", "leave it out")
    return options.model_copy(update={"metadata": False, "mark": False})


def _unknown(folder: Path, exists: bool) -> list[str]:
    """Say what an earlier run may have paid for in vain."""
    unknown = Dataset(folder).unknown_outcome() if exists and not Dataset(folder).writer else None
    if not unknown or not unknown.images:
        return []
    cost = "at a price nobody knows" if unknown.cost is None else f"up to ${unknown.cost:.2f}"
    return [f"unknown_outcome: {unknown.images:,} images that did not come may have been charged ({cost})"]


def _job(
    source: str,
    table: Table,
    options: Making,
    decided: Mapping[str, Any],
    plan: Plan,
    maker: Maker,
    info: ModelInfo,
) -> dict[str, Any]:
    chosen = options.to_table()
    making = {*Making.model_fields, *options.sampling.model_fields} - {*TableOptions.model_fields}
    own = [name for name in type(options).model_fields if name not in making]
    reading = {*TableOptions.model_fields, *PictureTable.model_fields}
    reading |= {name for name in own if name.endswith("_column")}
    return {
        "format": FORMAT,
        "input": {
            "table": source,
            "sha256": table.sha256,
            **{name: chosen[name] for name in own if name in reading and name in chosen},
        },
        "steps": [
            {
                "operator": options.component_name(),
                "model": options.model_name(),
                "model_revision": maker.model_revision,
                "license": info.license,
                **{name: chosen[name] for name in own if name not in reading and name in chosen},
                **decided,
                "batch_size": options.batch_size,
                "image_format": AS_RECEIVED if info.as_received else options.image_format,
                "metadata": options.metadata,
                "mark": options.mark,
                "model_parameters": dict(maker.model_parameters),
            }
        ],
        "plan": {"rows_read": table.rows_read, "rows_accepted": len(table.rows), "requests": len(plan)},
    }


def _license_of_sources(source: Any, options: TableOptions, found: Mapping[str, Any]) -> dict[str, str]:
    """The license of the pictures that images are made from, as it was known when the dataset was begun."""
    if not isinstance(options, PictureTable):
        return {}
    if found:
        return {name: value for name, value in found["steps"][0].items() if name == "source_license"}
    if not isinstance(source, str | Path) or not Path(source).exists():
        return {"source_license": "unknown"}
    path = Path(source)
    if (path / "job.toml").is_file():
        return {"source_license": license_of(Dataset(path).job["steps"][0])}
    return {"source_license": license_told(path if path.is_dir() else path.parent)}


def sizes_of(table: Mapping[str, int]) -> dict[Size, int]:
    """Read batch sizes as `job.toml` has them."""
    pairs = ((key.partition("x"), value) for key, value in table.items())
    return {(int(width), int(height)): value for (width, _, height), value in pairs}
