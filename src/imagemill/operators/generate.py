"""A prompt table becomes a dataset of images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from imagemill.dataset.card import AS_RECEIVED
from imagemill.dataset.differences import check_same
from imagemill.dataset.files import write_file
from imagemill.dataset.folder import FORMAT, Counts, Dataset, failed_request
from imagemill.environment import cuda_devices, environment
from imagemill.errors import LimitReached, SomeFailed, UsageError, did_you_mean
from imagemill.executors.base import Sink
from imagemill.executors.local import Local
from imagemill.fitting import check_requests, complete, left_out, unguided, unused_of
from imagemill.images import ImageFormat
from imagemill.models.base import Measured, Model, ModelInfo, find_model
from imagemill.plan import Plan
from imagemill.produce import Output, Progress, Report, pending_requests, produce
from imagemill.readers import rows_of
from imagemill.records import Maker, Sampling, Size
from imagemill.tables import PromptTable, Table, read_table

DEFAULT_MODEL = "shapes"
Talk = Callable[[str], None]


class Generate(Sampling, PromptTable):
    """Text to image: every prompt of a table, several images each."""

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


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that has been checked as a whole, before any model is loaded or folder made."""

    options: Generate
    table: Table
    plan: Plan
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
    talk: list[str]
    """What the user should know of it."""

    def estimate(self) -> tuple[float | None, int | None]:
        """Guess the seconds that are left and the bytes of all images; None for what nobody knows of the model."""
        pixels = steps = 0
        for request in self.plan.requests():
            pixels += request.width * request.height
            steps += request.width * request.height * (request.num_inference_steps or 1)
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
        costs = [self.model.cost(request) for request in self.plan.requests()]
        known = [cost for cost in costs if cost is not None]
        return sum(known) * self.pending / len(costs) if len(known) == len(costs) else None

    def calls(self) -> int:
        """Guess the calls that are left, where one can bring several images of a prompt."""
        same = groupby(self.plan.requests(), lambda request: (request.row, request.prompt, request.size))
        calls = sum(-(-len(list(group)) // self.info.batch_size) for _, group in same)
        return round(calls * self.pending / len(self.plan))

    @property
    def pending(self) -> int:
        """Images still to be made."""
        ended = self.counts.done + sum(self.counts.failed.values()) if self.counts else 0
        return len(self.plan) - ended


def prepare(
    table: str | Path | Iterable[Any],
    output: str | Path,
    parameters: Mapping[str, Any],
    workers: int = 1,
    devices: str = "",
) -> Prepared:
    """Check a whole job: parameters, model, table; nothing is loaded and nothing written.

    Raises UsageError, also when the folder was made by another job.
    """
    options, model_parameters = split_parameters(parameters)
    executor = local_executor(workers, devices)
    folder = Path(output)
    Dataset.check_folder(folder)
    found = Dataset(folder).job if (folder / "job.toml").is_file() else {}
    step: Mapping[str, Any] = found["steps"][0] if found else {}
    model = find_model(options.model, model_parameters)
    known = step.get("model_parameters", {}) if step.get("model") == options.model else {}
    model = model.resolve(known, executor.workers)
    if executor.devices and (device := model.to_table().get("device", "cuda")) != "cuda":
        raise UsageError(f"`devices` are CUDA devices, and `device` is `{device}`", "leave out one of them")
    info = model.info()
    options = _as_received(options, info)
    sampling = complete(options, info, step)
    if not isinstance(table, str | Path):
        table = rows_of(table)
    read = read_table(table, options)
    unused = unused_of(info)
    plan = Plan(read.rows, options, sampling, unused, info.guided_above)
    check_requests(plan, info)
    maker = Maker(info.name, info.revision, model.to_table())
    job = _job(_table_name(table), read, options, sampling, plan, maker, info)
    if found:
        check_same(folder, found, job)
        job["input"]["table"] = found["input"]["table"]
    return Prepared(
        options=options,
        table=read,
        plan=plan,
        model=model,
        info=info,
        output=Output(folder, maker, options.image_format, options.metadata, options.mark, info.per_row_guidance),
        job=job,
        found=found,
        counts=Dataset(folder).counts() if found else None,
        executor=executor,
        talk=[
            *read.talk,
            *left_out(unused, options, read.rows, info),
            *unguided(options, plan, info),
            *_unknown(folder, bool(found)),
        ],
    )


def execute(prepared: Prepared, progress: Progress | None = None) -> Report:
    """Make what is still to be made; the same call after any interruption continues.

    Raises LockedError, OutOfSpace, ModelError and LimitReached.
    """
    folder = prepared.output.folder
    prepared.model.ready(prepared.executor.workers)
    with Dataset.create(folder):
        path = folder / "job.toml"
        if path.is_file():
            # Another process may have made or changed the dataset since the job was prepared.
            check_same(folder, Dataset(folder).job, prepared.job)
        output = _measured(prepared)
        Dataset.write_rejects(folder, prepared.table.rejects)
        Dataset.write_job(folder, prepared.job)
        dataset = Dataset(folder)
        dataset.recover()
        pending = pending_requests(dataset, prepared.plan.requests())
        now = pending[: prepared.options.max_images]
        report = produce(dataset, now, prepared.model, output, prepared.executor, progress)
        if len(now) < len(pending):
            raise LimitReached(
                f"`max_images` is reached: {report.done:,} made, {len(pending) - len(now):,} still to make",
                "the same command goes on",
            )
        return report


def generate(
    table: str | Path | Iterable[Any],
    output: str | Path,
    *,
    workers: int = 1,
    devices: str = "",
    progress: Progress | None = None,
    **parameters: Any,
) -> Dataset:
    """Make an image dataset from a prompt table and return it; the same call again continues.

    `table` is what `imagemill generate` takes, or an iterable of prompts or mappings; `parameters` are those of
    `Generate` and of the model, as on the command line. Raises UsageError for anything that cannot be right,
    LimitReached when `max_images` or `max_cost` has stopped it, and SomeFailed when every request of the dataset
    failed; single failures stand in `Dataset.failures()`.
    """
    prepared = prepare(table, output, parameters, workers, devices)
    execute(prepared, progress)
    dataset = Dataset(output)
    raise_if_all_failed(dataset)
    return dataset


def local_executor(workers: int, devices: str) -> Local:
    """The processes that work: so many, or one for each CUDA device of `all` or `0,1`; raises UsageError."""
    if not devices:
        return Local.parse({"workers": workers}, "generate")
    there = [str(number) for number in range(len(cuda_devices()))]
    chosen = there if devices == "all" else [text.strip() for text in devices.split(",")]
    absent = [device for device in chosen if device not in there]
    if absent or not chosen or len(set(chosen)) < len(chosen) or workers != 1:
        raise UsageError(
            f"`devices` names CUDA devices of this machine, each once, without `workers`; got: `{devices}`",
            f"there are: {', '.join(there)}" if there else "this machine has none that PyTorch can use",
        )
    return Local.parse({"workers": len(chosen), "devices": chosen}, "generate")


def retry(
    dataset: Dataset,
    reasons: Iterable[str] = (),
    workers: int = 1,
    devices: str = "",
    progress: Progress | None = None,
    **settings: Any,
) -> Report:
    """Make the failed requests of a dataset again, all or those with the given reasons.

    Needs nothing but the dataset; `settings` are parameters of the model that are not written down, such as `max_cost`.
    Raises UsageError for a reason that no failure has.
    """
    executor = local_executor(workers, devices)
    with dataset.lock():
        dataset.recover()
        failures = dataset.failures()
        reasons = {reasons} if isinstance(reasons, str) else set(reasons)
        known = {failure["reason"] for failure in failures.values()}
        for reason in sorted(reasons - known):
            hint = did_you_mean(reason, known) or f"reasons: {', '.join(sorted(known)) or 'none, nothing has failed'}"
            raise UsageError(f"no request failed with `{reason}`", hint)
        requests = [
            failed_request(failure) for failure in failures.values() if not reasons or failure["reason"] in reasons
        ]
        model, output = restore(dataset, settings)
        model.ready(executor.workers)
        for number in sorted({request.part for request in requests}):
            dataset.part(number).unseal()
        if not requests:
            # An interrupted retry may have left open what it had completed.
            for part in dataset.parts:
                if not part.sealed and part.complete:
                    part.seal()
        return produce(dataset, requests, model, output, executor, progress)


def model_of(dataset: Dataset, settings: Mapping[str, Any] | None = None) -> Model:
    """The model that a dataset was made with; raises UsageError when `settings` has what is written down already."""
    step = dataset.job["steps"][0]
    model = find_model(step["model"], {**step["model_parameters"], **(settings or {})})
    fixed = [name for name in settings or () if name in model.to_table()]
    if fixed:
        raise UsageError(f"`{fixed[0]}` is what the dataset was made with", "it cannot be another one for some images")
    return model


def restore(dataset: Dataset, settings: Mapping[str, Any]) -> tuple[Model, Output]:
    """The model and the output of a dataset, from its job; raises UsageError when the model is another one now."""
    step = dataset.job["steps"][0]
    model = model_of(dataset, settings)
    info = model.info()
    if info.revision != step["model_revision"]:
        raise UsageError(
            f"the model `{step['model']}` is now `{info.revision}`; the dataset was made with "
            f"`{step['model_revision']}`",
            "bring back the version that made it",
        )
    maker = Maker(info.name, step["model_revision"], step["model_parameters"])
    sizes = _sizes(step["batch_sizes"])
    formats = step["image_format"], step["metadata"], step["mark"]
    return model, Output(dataset.folder, maker, *formats, info.per_row_guidance, sizes)


def raise_if_all_failed(dataset: Dataset) -> None:
    """Raise SomeFailed when a finished dataset has no image at all."""
    counts = dataset.counts()
    if counts.failed and not counts.done and not counts.pending:
        first = next(iter(dataset.failures().values()))
        raise SomeFailed(
            f"all {counts.requests:,} requests failed, the first with {first['reason']}: {first['message']}",
            f"the reasons stand in `{dataset.failures_file}`",
        )


def split_parameters(parameters: Mapping[str, Any]) -> tuple[Generate, dict[str, Any]]:
    """Tell the operator's parameters from the model's."""
    own = {name: value for name, value in parameters.items() if name in Generate.model_fields}
    options = Generate.parse(own, "generate")
    rest = {name: value for name, value in parameters.items() if name not in own}
    known = [*Generate.model_fields, *type(find_model(options.model, {})).model_fields] if rest else []
    for name, value in rest.items():
        if name not in known:
            raise UsageError(
                f"generate: `{name}`: neither `generate` nor the model `{options.model}` has such a parameter, "
                f"got: `{value!s:.80}`",
                did_you_mean(name, known) or f"known: {', '.join(known)}",
            )
    return options, rest


def _as_received(options: Generate, info: ModelInfo) -> Generate:
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


def _table_name(source: str | Path | Iterable[Any]) -> str:
    """What to call a table in the dataset, which may be published: never where it lies on this machine."""
    if not isinstance(source, str | Path):
        return "python"
    if str(source) == "-":
        return "stdin"
    return Path(source).name if Path(source).exists() else str(source)


def _job(
    source: str, table: Table, options: Generate, sampling: Sampling, plan: Plan, maker: Maker, info: ModelInfo
) -> dict[str, Any]:
    chosen = options.to_table()
    return {
        "format": FORMAT,
        "input": {
            "table": source,
            "sha256": table.sha256,
            **{name: chosen[name] for name in PromptTable.model_fields if name in chosen},
        },
        "steps": [
            {
                "operator": "generate",
                "model": options.model,
                "model_revision": maker.model_revision,
                "license": info.license,
                **sampling.to_table(),
                "batch_size": options.batch_size,
                "image_format": AS_RECEIVED if info.as_received else options.image_format,
                "metadata": options.metadata,
                "mark": options.mark,
                "model_parameters": dict(maker.model_parameters),
            }
        ],
        "plan": {"rows_read": table.rows_read, "rows_accepted": len(table.rows), "requests": len(plan)},
    }


def _measured(prepared: Prepared) -> Output:
    """Complete the output and the job with the batch sizes, and write down the environment.

    What the dataset's files say of this machine already is not measured again.
    """
    output, batch_size = prepared.output, prepared.options.batch_size
    path = output.folder / ".imagemill" / "environment.json"
    known = json.loads(path.read_text())["environments"] if path.is_file() else []
    device = str(output.maker.model_parameters.get("device", "cpu"))
    here = {**environment(), "device": device, **({"gpus": cuda_devices()} if device.startswith("cuda") else {})}
    # What was chosen once stays.
    sizes = _sizes(prepared.found["steps"][0]["batch_sizes"]) if prepared.found else {}
    wanted = prepared.plan.sizes()
    if batch_size != "auto":
        sizes = dict.fromkeys(wanted, batch_size) | sizes
    if set(wanted) - set(sizes) or not any(here.items() <= entry.items() for entry in known):
        found: list[Measured] = []
        prepared.executor.run(partial(_measure, prepared.model, sizes), [wanted], found.append)
        (measured,) = found
        sizes = {**measured.batch_sizes, **sizes}
        here |= {"reproducibility": measured.reproducibility, **measured.environment}
        # In order; more than one environment means that bits may differ.
        if not known or known[-1] != here:
            _write_if_changed(path, (json.dumps({"environments": [*known, here]}, indent=1) + "\n").encode())
    prepared.job["steps"][0]["batch_sizes"] = {f"{w}x{h}": count for (w, h), count in sorted(sizes.items())}
    return replace(output, batch_sizes=sizes)


def _measure(model: Model, chosen: Mapping[Size, int], work: Iterable[Mapping[Size, int]], sink: Sink) -> None:
    for sizes in work:
        sink(model.measure(sizes, chosen))


def _sizes(table: Mapping[str, int]) -> dict[Size, int]:
    """Read batch sizes as `job.toml` has them."""
    pairs = ((key.partition("x"), value) for key, value in table.items())
    return {(int(width), int(height)): value for (width, _, height), value in pairs}


def _write_if_changed(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        write_file(path, content)
