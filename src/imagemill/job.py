"""A job file: an input, steps and an output, checked as a whole before anything runs."""

from __future__ import annotations

import tomllib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from imagemill.committing import Progress, Report
from imagemill.component import Component
from imagemill.dataset import Dataset
from imagemill.dataset.journal import blanks_of
from imagemill.errors import UsageError, did_you_mean
from imagemill.exporting.marks import Stale
from imagemill.expressions import Expression
from imagemill.making import execution, preparation
from imagemill.making.added import begun, check_added, check_columns
from imagemill.making.collecting import dataset_of
from imagemill.making.parameters import split_parameters
from imagemill.making.quota import schema_of, unscored
from imagemill.making.replacing import carry, replaced, restore
from imagemill.making.scoring import find_scorers, step_of
from imagemill.models.base import find_model
from imagemill.operators import augment, caption, edit, export, generate, score, select
from imagemill.publishing import publish
from imagemill.publishing.publish import check_local, split_options
from imagemill.publishing.target import find_target, is_url
from imagemill.records import Record


class Job(Component):
    """Steps that make, score, select and export a dataset, one after the other."""

    input: str = Field(min_length=1)
    """What the first step starts from: a prompt table, pictures, or a dataset; relative to the job file."""
    output: str = Field(min_length=1)
    """Folder for what the steps make, each in a folder named like its operator; relative to the job file."""
    steps: list[dict[str, Any]] = Field(min_length=1)
    """Each names its `operator` and that one's parameters."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended."""

    said: str
    """In a line."""
    failed: int = 0
    """Images without what they should have got."""


class Step(ABC):
    """One step of a job, in its place."""

    makes: ClassVar[bool] = True
    """Whether it makes a folder; otherwise it adds columns to the dataset before it."""

    def __init__(self, name: str, parameters: Mapping[str, Any], source: str | Path, folder: Path) -> None:
        """Take what the step is called, and the folder it makes, or the dataset it adds columns to."""
        self.name = name
        self.parameters = dict(parameters)
        self.source = source
        self.folder = folder
        self.workers = 1
        self.devices = ""
        self.before: list[dict[str, Any]] = []
        """What earlier steps add, as `job.toml` will say it."""
        self.added: list[dict[str, Any]] = []
        """What it adds itself; known when it has been checked."""

    @abstractmethod
    def check(self, known: Record | None, first: bool) -> Record | None:
        """Check all that can be known before anything runs; raises UsageError.

        `known` is a record as the source's will be, each column with a value of its type; None where nobody can tell.
        Returns one of the result. `first` says that the source is there already.
        """

    @abstractmethod
    def run(self, progress: Progress | None) -> Outcome:
        """Do what is left to do."""

    @property
    def place(self) -> Path | str:
        """Where its result is: a folder, or a URL."""
        return self.folder

    def followers(self) -> tuple[str, ...]:
        """The operators that can come after it."""
        return tuple(_STEPS)


class _Making(Step):
    operators: ClassVar[Mapping[str, type[preparation.Making]]] = {
        "generate": generate.Generate,
        "augment": augment.Augment,
        "edit": edit.Edit,
    }

    def check(self, known: Record | None, first: bool) -> Record | None:
        """With its input at hand all is checked; of a dataset that is still to be made only its parameters are."""
        del known
        if first:
            prepared = self._prepared()
            prepared.model.ready(self.workers)
            self.added = prepared.job["steps"][1:]
            return prepared.expected_record()
        operator = self.operators[self.name]
        options, model_parameters = split_parameters(
            operator, self.parameters, lambda options: find_model(options.model_name(), {})
        )
        model = find_model(options.model_name(), model_parameters)
        model.ready(self.workers)
        options.check_model(model.info())
        return None

    def run(self, progress: Progress | None) -> Outcome:
        """Make the images that are still to be made."""
        prepared = self._prepared()
        report = execution.execute(prepared, progress)
        dataset = Dataset(self.folder)
        execution.raise_if_all_failed(dataset)
        counts = dataset.counts()
        failed = sum(counts.failed.values()) + (unscored(dataset, prepared.quota) if prepared.quota else 0)
        return Outcome(f"{counts.done:,} images, {report.done:,} made now", failed)

    def _prepared(self) -> preparation.Prepared:
        operator = self.operators[self.name]
        return preparation.prepare(operator, self.source, self.folder, self.parameters, self.workers, self.devices)


class _Caption(Step):
    makes = False

    def check(self, known: Record | None, first: bool) -> Record | None:
        """Parameters of operator and model, and the columns to fill."""
        options, _ = caption.check_parameters(self.parameters)
        if known is None:
            return None
        if not first:
            check_columns(known, {"operator": "caption", "columns": options.blanks()}, self.before)
        return {**known, **options.blanks()}

    def run(self, progress: Progress | None) -> Outcome:
        """Describe what has no text yet."""
        dataset = dataset_of(self.source, None if self.folder == Path(self.source) else self.folder, "captioned")
        prepared = caption.prepare(dataset, self.parameters, self.workers, self.devices)
        return _added(caption.execute(prepared, progress), "captions")


class _Score(Step):
    makes = False

    def check(self, known: Record | None, first: bool) -> Record | None:
        """Parameters of the scorers, and the columns that they need and fill."""
        if first:
            score.prepare(Dataset(self.folder), self._scorers, self._parameters, self.workers, self.devices)
        for name, scorer in find_scorers(self._scorers, self._parameters):
            scorer.ready(self.workers)
            before = [*self.before, *self.added]
            same = begun({"steps": [{}, *before]}, "score", next(iter(scorer.columns())))
            resolved = scorer.resolve(same.get("model_parameters", {}), self.workers)
            step = step_of(name, resolved)
            if known is not None and not first:
                scorer.check(known)
                check_added(known, step, before)
            self.added.append(step)
        blanks = {name: blank for step in self.added for name, blank in blanks_of(step).items()}
        return None if known is None else {**known, **blanks}

    def run(self, progress: Progress | None) -> Outcome:
        """Score what has no scores yet."""
        dataset = Dataset(self.folder)
        prepared = score.prepare(dataset, self._scorers, self._parameters, self.workers, self.devices)
        return _added(score.execute(prepared, progress), "scores")

    @property
    def _scorers(self) -> list[str]:
        given = self.parameters.get("scorers", "alignment")
        return list(score.Score.parse({"scorers": given.split(",") if isinstance(given, str) else given}).scorers)

    @property
    def _parameters(self) -> dict[str, Any]:
        return {name: value for name, value in self.parameters.items() if name != "scorers"}


class _Select(Step):
    def followers(self) -> tuple[str, ...]:
        """Splits are datasets of their own, which only an export takes together."""
        return ("export",) if self.parameters.get("split") else super().followers()

    def check(self, known: Record | None, first: bool) -> Record | None:
        """Parameters, and the columns that are asked for."""
        del first
        options, expression = select.check_parameters(self.parameters)
        if known is not None:
            select.check_columns(options, expression, schema_of(known, {}), Path(self.source))
        return known

    def run(self, progress: Progress | None) -> Outcome:
        """Write the selection, unless it is there."""
        del progress
        restore(self.folder)
        try:
            prepared = self._prepared()
            if not prepared.done:
                select.write(prepared, select.choose(prepared))
        except select.Stale:
            with replaced(self.folder) as aside:
                prepared = self._prepared()
                select.write(prepared, select.choose(prepared))
                for folder in (self.folder / name for name in prepared.options.shares() or ("",)):
                    carry(Dataset(aside / folder.relative_to(self.folder)), Dataset(folder))
        found = select.selected(prepared)
        kept = {name: len(each) for name, each in found.items()} if isinstance(found, dict) else {"": len(found)}
        splits = ", ".join(f"{name} {count:,}" for name, count in kept.items() if name)
        total = len(prepared.dataset)
        return Outcome(f"{sum(kept.values()):,} of {total:,} images kept" + (f": {splits}" if splits else ""))

    def _prepared(self) -> select.Prepared:
        return select.prepare(str(self.source), self.folder, self.parameters)


class _Export(Step):
    @property
    def place(self) -> Path | str:
        """The URL in `output`, which only this step has; else its folder."""
        return str(self.parameters["output"]) if "output" in self.parameters else self.folder

    def followers(self) -> tuple[str, ...]:
        """What is exported is no dataset of ours any more."""
        return ()

    def check(self, known: Record | None, first: bool) -> Record | None:
        """Nothing stands in the way of a layout but its parameters."""
        del first
        if "output" in self.parameters and not is_url(self.place):
            raise UsageError(
                f"export: `output`: `{self.place}` is no URL", "leave it out: a folder is made in the job's own output"
            )
        if is_url(self.place):
            find_target(str(self.place), split_options(self._given)[0])
        else:
            check_local(self.folder, self._given)
        options, _ = export.check_parameters(split_options(self._given)[1])
        if known is not None and options.where:
            Expression.parse(options.where).check(schema_of(known, {}))
        return known

    def run(self, progress: Progress | None) -> Outcome:
        """Write the layout, or send it, unless it is there."""
        del progress
        if is_url(self.place):
            upload = publish.prepare(self.source, str(self.place), self._given)
            publish.execute(upload)
            return Outcome(f"{sum(upload.prepared.images.values()):,} images sent to {upload.target.place}")
        restore(self.folder)
        try:
            prepared = export.prepare(self.source, self.folder, self.parameters)
            export.execute(prepared)
        except Stale:
            with replaced(self.folder):
                prepared = export.prepare(self.source, self.folder, self.parameters)
                export.execute(prepared)
        return Outcome(f"{sum(prepared.images.values()):,} images in the layout `{prepared.layout.component_name()}`")

    @property
    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in self.parameters.items() if name != "output"}


_STEPS: Mapping[str, type[Step]] = {
    **dict.fromkeys(_Making.operators, _Making),
    "caption": _Caption,
    "score": _Score,
    "select": _Select,
    "export": _Export,
}


def read_job(path: str | Path, given: Mapping[str, Any], workers: int = 1, devices: str = "") -> list[Step]:
    """Read a job file and check all of its steps; `given` may replace its `input` and `output`.

    Raises UsageError that lists every problem, each with its place.
    """
    path = Path(path)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {error.strerror}", "name a job file") from None
    except ValueError as error:
        raise UsageError(f"`{path}` is no TOML: {error}", "see the examples of job files") from None
    for name in ("input", "output"):
        if isinstance(found.get(name), str) and name not in given:
            found[name] = _beside(path, found[name], must=name == "output")
    try:
        job = Job.parse({**found, **given}, str(path))
    except UsageError as error:
        raise UsageError(
            error.message, "a job has `input`, `output` and `[[steps]]`, each with its `operator`"
        ) from None
    if Path(job.output).is_file():
        raise UsageError(f"{path}: `output`: `{job.output}` is a file", "name a folder, which may be new")
    return check_job(job, str(path), workers, devices)


def check_job(job: Job, where: str = "job", workers: int = 1, devices: str = "") -> list[Step]:
    """Make the steps of a job and check them, as far as anything can be known before the first one runs."""
    problems: list[str] = []
    steps: list[Step] = []
    known: Record | None = None
    source: str | Path = job.input
    used: Counter[str] = Counter()
    for number, given in enumerate(job.steps, start=1):
        name = given.get("operator")
        try:
            step = _step(job, given, source, used)
            if steps and name not in steps[-1].followers():
                after = ", ".join(f"`{follower}`" for follower in steps[-1].followers()) or "nothing"
                raise UsageError(f"after `{steps[-1].name}` can come {after}", "put it before, or into another job")
        except UsageError as error:
            problems += _told(number, name, error)
            known = None
            continue
        step.workers, step.devices = workers, devices
        step.before = [added for earlier in steps for added in earlier.added]
        try:
            if number == 1 and Path(job.input, "job.toml").is_file():
                known = next(iter(Dataset(job.input)), None)
            known = step.check(known, first=number == 1)
        except UsageError as error:
            problems += _told(number, name, error)
            known = None
        steps.append(step)
        source = step.folder
    if problems:
        lines = [f"{where}: steps that cannot be right", *(f"  {problem}" for problem in problems)]
        raise UsageError("\n".join(lines), "no step has run; mend the file and give the same command")
    return steps


def _told(number: int, name: object, error: UsageError) -> list[str]:
    """The problems of a step, each with its place and the last one with the hint."""
    lines = []
    for line in error.message.splitlines():
        # What is indented shows the place in a text.
        problem = line and not line.startswith(" ")
        lines.append(f"step {number} ({name}): {line.removeprefix(f'{name}: ')}" if problem else line)
    if error.hint:
        lines[-1] += f"\n    {error.hint}" if lines[-1].startswith(" ") else f"; {error.hint}"
    return lines


def run(
    path: str | Path, *, workers: int = 1, devices: str = "", progress: Progress | None = None, **given: str
) -> Path | str:
    """Run a job file and return the folder, or URL, of its last step; the same call again goes on where it stopped.

    `given` may replace `input` and `output`. Raises UsageError before anything runs when a step cannot be right.
    """
    steps = read_job(path, given, workers, devices)
    for step in steps:
        step.run(progress)
    return steps[-1].place


def _step(job: Job, given: Mapping[str, Any], source: str | Path, used: Counter[str]) -> Step:
    parameters = dict(given)
    name = parameters.pop("operator", None)
    if name not in _STEPS:
        hint = did_you_mean(str(name), _STEPS) or f"operators: {', '.join(_STEPS)}"
        raise UsageError("it names no `operator`" if name is None else f"there is no operator `{name}`", hint)
    kind = _STEPS[name]
    if not kind.makes and (source != job.input or kind is _Score or (Path(source) / "job.toml").is_file()):
        return kind(name, parameters, source, Path(source))
    used[name] += 1
    return kind(name, parameters, source, Path(job.output, f"{name}-{used[name]}" if used[name] > 1 else name))


def _beside(path: Path, name: str, must: bool) -> str:
    """A path of a job file, which is relative to it; what is no path there stays as it is, such as a hub id."""
    near = path.parent / Path(name).expanduser()
    return str(near) if must or near.exists() or Path(name).suffix else name


def _added(report: Report, what: str) -> Outcome:
    return Outcome(f"{report.done:,} {what} added", sum(report.failed.values()))
