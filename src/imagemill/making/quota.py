"""Images are drawn again until enough of them are accepted: draw, score, ask, leave out, draw with other seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.annotate import annotate
from imagemill.committing import Progress, Report
from imagemill.dataset.files import append_lines, drop_torn, encode_lines, read_lines, write_file
from imagemill.dataset.folder import Dataset, failure_line
from imagemill.dataset.journal import ColumnJournal, blanks_of
from imagemill.errors import UsageError, did_you_mean
from imagemill.executors.base import Executor
from imagemill.expressions import Expression
from imagemill.making.scoring import find_scorers, score_images, step_of
from imagemill.models.base import Model
from imagemill.output import Output
from imagemill.plan import Plan
from imagemill.produce import pending_requests, produce
from imagemill.records import NO_SEED, Record, Request
from imagemill.scorers.base import Scorer, scored_columns
from imagemill.seeds import derive_seed

if TYPE_CHECKING:
    import pyarrow as pa

TRIES_FILE = "tries.jsonl"
"""In `.imagemill`: the records of images that were not accepted, each with its part and the reason."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What an image must be to be accepted, and how often it is drawn at most."""

    accept: Expression
    max_tries: int
    scorers: tuple[Scorer, ...]
    steps: tuple[dict[str, Any], ...]
    """The scorers as steps of the job."""


def find_quota(
    accept: str,
    max_tries: int,
    scorers: Sequence[str],
    expected: Record,
    known: Sequence[Mapping[str, Any]],
    workers: int,
) -> Quota:
    """Check what is to be accepted, and find what scores it.

    `expected` is a record as images will have, `known` are the later steps of the job as it stands.
    Raises UsageError for an expression that cannot be right.
    """
    expression = Expression.parse(accept)
    record = {**expected, "tries": 1}
    chosen = find_scorers(list(scorers) or _scorers_of(expression.columns, record), {})
    resolved, steps = [], []
    for name, scorer in chosen:
        scorer.check(record)
        before = [step for step in known if step.get("scorer") == name and step["model"] == _model(scorer)]
        scorer = scorer.resolve(before[0]["model_parameters"] if before else {}, workers)  # noqa: PLW2901
        resolved.append(scorer)
        steps.append(step_of(name, scorer))
    expression.check(schema_of(record, _blanks(steps)))
    return Quota(expression, max_tries, tuple(resolved), tuple(steps))


def fill(
    dataset: Dataset,
    plan: Plan,
    quota: Quota,
    model: Model,
    output: Output,
    executor: Executor,
    most: int | None,
    progress: Progress | None,
) -> tuple[Report, int]:
    """Draw and score until every request has an accepted image or its tries are spent, or `most` have been drawn.

    The caller holds the lock. Returns what was done and how many requests are still open.
    """
    tries = _Tries(dataset)
    tries.take_back_failures(quota.max_tries)
    groups = [blanks_of(step) for step in quota.steps]
    accepted: set[tuple[str, int]] = set()
    total = Report(0)
    while True:
        tries.leave_out()
        pending = pending_requests(dataset, plan, tries.next_of)
        spent = [request for request in pending if tries.count[request.name] >= quota.max_tries]
        if spent:
            dataset.append_failures(failure_line(request, "not_accepted", tries.last(request)) for request in spent)
            # Once more, since parts may be complete by it.
            pending = pending_requests(dataset, plan, tries.next_of)
        now = pending.first(None if most is None else max(0, most - total.total))
        # Without any to draw it tidies up, and the last interrupted run may have left some without scores.
        _add(total, produce(dataset, now, model, output, executor, progress))
        if len(dataset):
            annotate(dataset, groups, partial(score_images, quota.scorers), executor, None)
        if not tries.add(_refused(dataset, quota, groups, accepted)):
            return total, len(pending) - len(now)


class _Tries:
    """The images that were drawn and not accepted."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.path = dataset.folder / ".imagemill" / TRIES_FILE
        drop_torn(self.path)
        self._reasons = {(_name(line), line["tries"]): line["reason"] for line in read_lines(self.path)}
        self.count = Counter(name for name, _ in self._reasons)

    def next_of(self, request: Request) -> Request:
        """The request as it is drawn next: the same at first, then with a seed that follows from it and the try."""
        before = self.count[request.name]
        seed = request.seed
        if before and seed != NO_SEED:
            # Below 0, where no attempt to make seeds of a plan distinct goes.
            seed = derive_seed(seed, request.id, request.image, -before) >> 32
        return replace(request, seed=seed, columns={"tries": before + 1, **request.columns})

    def last(self, request: Request) -> str:
        """Why the last image of a request was not accepted, in words."""
        before = self.count[request.name]
        return f"{before} tries, the last one with {self._reasons[request.name, before]}"

    def add(self, refused: Iterable[tuple[Record, int, str]]) -> bool:
        """Write down images that are not accepted, and why; whether there are any."""
        lines = [{**record, "part": part, "reason": reason} for record, part, reason in refused]
        if lines:
            append_lines(self.path, lines)
            for line in lines:
                self._reasons[_name(line), line["tries"]] = line["reason"]
                self.count[_name(line)] += 1
        return bool(lines)

    def leave_out(self) -> None:
        """Take images that are not accepted out of the dataset."""
        for part in self._dataset.parts:
            names = [
                record["file_name"]
                for record in part.records()
                if (_name(record), record.get("tries")) in self._reasons
            ]
            if names:
                part.remove(names)

    def take_back_failures(self, max_tries: int) -> None:
        """Forget that the tries of a request were spent when there are more of them now."""
        lines = read_lines(self._dataset.failures_file)
        left = [line for line in lines if line["reason"] != "not_accepted" or self.count[line["name"]] >= max_tries]
        if len(left) < len(lines):
            write_file(self._dataset.failures_file, encode_lines(left))


def unscored(dataset: Dataset, quota: Quota) -> int:
    """How many images could not be scored, so that nobody knows whether they are accepted."""
    journals = [ColumnJournal(dataset, blanks_of(step)) for step in quota.steps]
    return sum(any(journal.is_pending(record) for journal in journals) for record in dataset)


def _refused(
    dataset: Dataset, quota: Quota, groups: Sequence[Mapping[str, Any]], accepted: set[tuple[str, int]]
) -> Iterator[tuple[Record, int, str]]:
    """The images that are not accepted, each with its part and the reason; not those that could not be scored.

    `accepted` holds those that were asked about before, by name and number of tries, and gets the new ones.
    """
    import pyarrow as pa

    journals = [ColumnJournal(dataset, blanks) for blanks in groups]
    for part in dataset.parts:
        records = [
            record
            for record in part.records()
            if (_name(record), record["tries"]) not in accepted
            and not any(journal.is_pending(record) for journal in journals)
        ]
        if not records:
            continue
        schema = schema_of(records[0], _blanks(quota.steps))
        table = pa.Table.from_pylist([{name: record.get(name) for name in schema.names} for record in records], schema)
        passed = [bool(value) for value in quota.accept.mask(table).to_pylist()]
        accepted.update((_name(record), record["tries"]) for record, good in zip(records, passed, strict=True) if good)
        refused = [place for place, good in enumerate(passed) if not good]
        causes = quota.accept.causes(table.take(refused)) if refused else []
        for place, cause in zip(refused, causes, strict=True):
            yield records[place], part.number, cause.text


def _scorers_of(columns: Sequence[str], record: Record) -> list[str]:
    """The scorers that fill columns, found by the columns they have when nobody gives them parameters."""
    found = scored_columns()
    for column in columns:
        if column not in record and column not in found:
            raise UsageError(
                f"generate: `accept`: there is no column `{column}`, and no scorer that needs nothing else fills it",
                did_you_mean(column, [*record, *found]) or "name what scores with `--score`, as for `imagemill score`",
            )
    names = list(dict.fromkeys(found[column] for column in columns if column not in record))
    if not names:
        raise UsageError(
            "generate: `accept`: asks for nothing that is known only of a finished image",
            "leave such rows out of the table, or ask for a score, such as `alignment > 0.28`",
        )
    return names


def schema_of(record: Record, blanks: Mapping[str, Any]) -> pa.Schema:
    """The columns of records, and of those still to be added, with their types: a score is a number."""
    import pyarrow as pa

    values = {**record, **blanks}
    table = pa.Table.from_pylist([values])
    fields = [pa.field(f.name, pa.float64() if values[f.name] is None else f.type) for f in table.schema]
    return pa.schema(fields)


def _blanks(steps: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: blank for step in steps for name, blank in blanks_of(step).items()}


def _model(scorer: Scorer) -> str:
    return str(scorer.to_table().get("model", ""))


def _name(record: Record) -> str:
    return Path(record["file_name"]).stem


def _add(total: Report, report: Report) -> None:
    total.total += report.total
    total.done += report.done
    total.failed += report.failed
    total.seconds += report.seconds
