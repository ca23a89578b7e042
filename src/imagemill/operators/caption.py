"""The images of a dataset get a column of texts that say what is in them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from imagemill.annotate import Item, annotate
from imagemill.captions import Keep, kept, said
from imagemill.committing import Progress, Report
from imagemill.component import Component
from imagemill.dataset.folder import Dataset
from imagemill.dataset.journal import Annotation, ColumnJournal
from imagemill.errors import SomeFailed, UsageError
from imagemill.executors.base import Sink
from imagemill.executors.local import Local
from imagemill.making.added import begun, check_step, without_empty
from imagemill.making.collecting import dataset_of
from imagemill.making.parameters import split_parameters
from imagemill.making.preparation import check_devices, local_executor
from imagemill.models.base import Described, Question, Reply, TextModel, find_text_model, text_model_name
from imagemill.records import SEED_LIMIT
from imagemill.seeds import derive_seed

DEFAULT_MODEL = "shapes"


class Caption(Component):
    """Image to text: every image of a dataset gets a text that says what is in it."""

    model: str = DEFAULT_MODEL
    """What looks at the images: `shapes` (built in), a folder, a hub id, or another name, such as `openai:NAME`."""
    column: str = Field("caption", pattern=r"^[^\W\d]\w*$", max_length=50)
    """The column to fill; images that have a text in it are left alone."""
    prompt: str = ""
    """What to ask, or how the text is to begin, as the model takes it; models that need a question have one."""
    captions_per_image: int = Field(1, ge=1, le=100)
    """Texts made for each image, different ones when there are several."""
    keep_candidates: Keep = "random"
    """Which stay: one at `random`, the one most `similar` to the record's prompt, or `all`, in a second column."""
    seed: int = Field(-1, ge=-1, le=SEED_LIMIT - 1)
    """Decides how texts differ and which one stays; -1 draws one and writes it down."""

    def model_name(self) -> str:
        """The model that `model` stands for."""
        return text_model_name(self.model)

    def blanks(self) -> dict[str, Any]:
        """The columns that are filled, with the values of an image that has no text."""
        # Of a part with nothing but empty lists no reader could tell what they are lists of.
        return {self.column: "", **({f"{self.column}_candidates": [""]} if self.keep_candidates == "all" else {})}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A column to be filled that has been checked as a whole, before any model is loaded."""

    dataset: Dataset
    options: Caption
    model: TextModel
    info: Described
    step: dict[str, Any]
    """As `job.toml` says it."""
    executor: Local
    images: int
    pending: int
    """Images without a text."""


def prepare(dataset: Dataset, parameters: Mapping[str, Any], workers: int = 1, devices: str = "") -> Prepared:
    """Check parameters, model and column; nothing is loaded and nothing written.

    Raises UsageError, also when the column holds something else.
    """
    options, model_parameters = check_parameters(parameters)
    executor = local_executor(workers, devices)
    job = without_empty(dataset, dataset.job, "caption", options.blanks())
    known = begun(job, "caption", options.column)
    model = find_text_model(options.model_name(), model_parameters)
    same = known.get("model") == options.model_name()
    model = model.resolve(known["model_parameters"] if same else {}, executor.workers)
    check_devices(executor, model)
    if options.seed < 0:
        options = options.model_copy(update={"seed": known.get("seed", secrets.randbelow(SEED_LIMIT))})
    info = model.info()
    step = {
        "operator": "caption",
        "columns": options.blanks(),
        **options.to_table(),
        "model": options.model_name(),
        "model_revision": info.revision,
        "license": info.license,
        "model_parameters": model.to_table(),
    }
    check_step(dataset, step, job)
    journal = ColumnJournal(dataset, options.blanks())
    pending = [journal.is_pending(record) for record in dataset]
    if not pending:
        raise UsageError(f"`{dataset.folder}` has no image yet", "generate some first")
    return Prepared(dataset, options, model, info, step, executor, len(pending), sum(pending))


def execute(prepared: Prepared, progress: Progress | None = None) -> Report:
    """Describe the images that have no text yet; the same call after any interruption continues.

    Raises LockedError, OutOfSpace, ModelError, and SomeFailed when no image of the dataset could be described.
    """
    dataset, options, model = prepared.dataset, prepared.options, prepared.model
    model.ready(prepared.executor.workers)
    with dataset.lock():
        # Another process may have changed the dataset since this was prepared.
        job = without_empty(dataset, dataset.job, "caption", options.blanks())
        if not check_step(dataset, prepared.step, job):
            dataset.write_job(dataset.folder, {**job, "steps": [*job["steps"], prepared.step]})
        dataset.recover()
        report = annotate(dataset, [options.blanks()], partial(_describe, model, options), prepared.executor, progress)
        failures = ColumnJournal(dataset, options.blanks()).failures()
    if failures and len(failures) == len(dataset):
        raise SomeFailed(
            f"no image could be described, the first with {failures[0]['reason']}: {failures[0]['message']}",
            "the same command tries them again",
        )
    return report


def caption(
    source: Dataset | str | Path | Iterable[Any],
    output: str | Path | None = None,
    *,
    workers: int = 1,
    devices: str = "",
    progress: Progress | None = None,
    **parameters: Any,
) -> Dataset:
    """Fill a column of a dataset with texts that say what is in its images, and return it.

    Any other source that `augment` takes becomes a dataset first: `output`, else IMAGEMILL_OUTPUT_DIR, else beside the
    source. The same call again continues, and tries images again that could not be described. `parameters` are those
    of `Caption` and of the model, as on the command line. Raises UsageError for anything that cannot be right, and
    SomeFailed when no image could be described.
    """
    check_parameters(parameters)
    dataset = dataset_of(source, output, "captioned")
    execute(prepare(dataset, parameters, workers, devices), progress)
    return dataset


def check_parameters(parameters: Mapping[str, Any]) -> tuple[Caption, dict[str, Any]]:
    """The operator's parameters and the model's; raises UsageError for those that nobody has or that cannot be."""
    options, model_parameters = split_parameters(
        Caption, parameters, lambda options: find_text_model(options.model_name(), {})
    )
    if model_parameters.get("max_cost") is not None:
        raise UsageError("caption: `max_cost`: nobody knows what a question costs", "leave it out")
    find_text_model(options.model_name(), model_parameters)
    return options, model_parameters


def _describe(model: TextModel, options: Caption, work: Iterable[Sequence[Item]], sink: Sink) -> None:
    """Ask the model about images. This is what a worker does."""
    asked: dict[str, Item] = {}

    def questions() -> Iterator[Question]:
        for batch in work:
            for item in batch:
                try:
                    image = Path(item.path).read_bytes()
                except OSError as error:
                    sink(item.failed("bad_image", f"its file cannot be read: {error.strerror}"))
                    continue
                asked[item.name] = item
                seed = derive_seed(options.seed, item.name, 0) >> 32
                yield Question(item.name, options.prompt, (image,), options.captions_per_image, seed)

    for reply in model.answer(questions()):
        sink(_annotation(options, asked.pop(reply.question.name), reply))


def _annotation(options: Caption, item: Item, reply: Reply) -> Annotation:
    """What a reply says of an image."""
    if reply.reason:
        return item.failed(reply.reason, reply.message)
    texts = said(reply.texts)
    if not texts:
        return item.failed("model_error", "the model said nothing")
    staying = kept(texts, options.keep_candidates, reply.question.seed, item.record["prompt"])
    return item.found(dict(zip(options.blanks(), (staying[0], list(staying)), strict=False)))
