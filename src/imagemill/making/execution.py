"""A prepared job is run: pictures taken in, what the model tells measured, images made."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from imagemill.committing import Progress, Report
from imagemill.dataset import Dataset
from imagemill.dataset.differences import check_same
from imagemill.dataset.files import write_file
from imagemill.dataset.journal import ColumnJournal, blanks_of
from imagemill.dataset.removal import remove_rest
from imagemill.dataset.sources import Sources
from imagemill.environment import cuda_devices, environment
from imagemill.errors import LimitReached, SomeFailed
from imagemill.executors.base import Sink
from imagemill.making.fitting import unused_of
from imagemill.making.intake import with_pictures
from imagemill.making.preparation import Making, Prepared, later_columns, prepare, sizes_of
from imagemill.making.quota import Quota, fill
from imagemill.models.base import Measured, Model
from imagemill.output import Output
from imagemill.plan import Plan
from imagemill.produce import pending_requests, produce
from imagemill.records import Size

_MEASURED = 8
"""Sizes whose batch size is measured, the most frequent ones: pictures to start from can have any."""


def make(
    operator: type[Making],
    source: str | Path | Iterable[Any],
    output: str | Path,
    parameters: Mapping[str, Any],
    workers: int,
    devices: str,
    progress: Progress | None,
) -> Dataset:
    """Prepare and execute; raises SomeFailed when every request of the dataset failed."""
    execute(prepare(operator, source, output, parameters, workers, devices), progress)
    dataset = Dataset(output)
    raise_if_all_failed(dataset)
    return dataset


def execute(prepared: Prepared, progress: Progress | None = None) -> Report:
    """Make what is still to be made; the same call after any interruption continues.

    Raises LockedError, OutOfSpace, ModelError and LimitReached.
    """
    folder = prepared.output.folder
    prepared.model.ready(prepared.executor.workers)
    with Dataset.create(folder):
        if (folder / "job.toml").is_file():
            # Another process may have made or changed the dataset since the job was prepared.
            there = Dataset(folder).job
            check_same(folder, there, prepared.job)
            prepared.job["steps"][1:] = there["steps"][1:]
        # Pictures first: what is known of them only now decides sizes.
        plan = _taken_in(prepared)
        output = replace(_measured(prepared, plan), later_columns=later_columns(prepared.job))
        Dataset.write_rejects(folder, prepared.table.rejects)
        Dataset.write_job(folder, prepared.job)
        dataset = Dataset(folder)
        dataset.recover()
        remove_rest(dataset, plan.of_rows(dataset.removed_rows))
        with dataset.lock_held():
            for step in prepared.job["steps"][1:]:
                # An interrupted step may have left it to some parts.
                if blanks := blanks_of(step):
                    ColumnJournal(dataset, blanks).settle()
        if prepared.quota:
            return _filled(prepared, prepared.quota, plan, dataset, output, progress)
        pending = pending_requests(dataset, plan)
        now = pending.first(prepared.options.max_images)
        report = produce(dataset, now, prepared.model, output, prepared.executor, progress)
        _check_limit(report, len(pending) - len(now))
        return report


def _filled(
    prepared: Prepared, quota: Quota, plan: Plan, dataset: Dataset, output: Output, progress: Progress | None
) -> Report:
    """Draw and score until the quota is filled."""
    for scorer in quota.scorers:
        scorer.ready(prepared.executor.workers)
    with dataset.lock_held():
        report, left = fill(
            dataset, plan, quota, prepared.model, output, prepared.executor, prepared.options.max_images, progress
        )
    _check_limit(report, left)
    return report


def _check_limit(report: Report, left: int) -> None:
    """Raise LimitReached when images are still to be made."""
    if left:
        raise LimitReached(
            f"`max_images` is reached: {report.done:,} made, {left:,} still to make", "the same command goes on"
        )


def raise_if_all_failed(dataset: Dataset) -> None:
    """Raise SomeFailed when a finished dataset has no image at all."""
    counts = dataset.counts()
    if counts.failed and not counts.done and not counts.pending:
        failed = sum(counts.failed.values())
        first = next(iter(dataset.failures().values()))
        if counts.failed.keys() == {"not_accepted"}:
            raise SomeFailed(
                f"no image was accepted for any of {failed:,} requests, the first of the row `{first['id']}`, "
                f"{first['request']['prompt']!r:.100}: {first['message']}",
                "ask for less, or give the same command with more `--max-tries`",
            )
        raise SomeFailed(
            f"all {failed:,} requests failed, the first with {first['reason']}: {first['message']}",
            f"the reasons stand in `{dataset.failures_file}`",
        )


def _taken_in(prepared: Prepared) -> Plan:
    """The plan with the pictures brought into the dataset, and with what has been seen in them."""
    options, plan, folder = prepared.options, prepared.plan, prepared.output.folder
    if not plan.pictorial:
        return plan
    # Of what `limit` and `sample` leave out nothing is needed but its seeds.
    removed = Dataset(folder).removed_rows if (folder / "job.toml").is_file() else set()
    chosen = replace(prepared.table, rows=[row for row in plan.rows if row.index not in removed])
    rows = with_pictures(chosen, Sources(folder), prepared.base, options, prepared.info, take=True)
    rows = options.described(rows, prepared.job["steps"][0], folder, prepared.executor)
    by_id = {row.id: row for row in rows}
    rows = [by_id.get(row.id, row) for row in prepared.table.rows]
    return Plan(rows, options, plan.sampling, unused_of(prepared.info), prepared.info.guided_above)


def _measured(prepared: Prepared, plan: Plan) -> Output:
    """Complete the output and the job with the batch sizes, and write down the environment.

    What the dataset's files say of this machine already is not measured again.
    """
    output, batch_size = prepared.output, prepared.options.batch_size
    path = output.folder / ".imagemill" / "environment.json"
    known = json.loads(path.read_text())["environments"] if path.is_file() else []
    device = str(output.maker.model_parameters.get("device", "cpu"))
    here = {**environment(), "device": device, **({"gpus": cuda_devices()} if device.startswith("cuda") else {})}
    # What was chosen once stays.
    sizes = sizes_of(prepared.found["steps"][0]["batch_sizes"]) if prepared.found else {}
    wanted = plan.sizes()
    if batch_size != "auto":
        sizes = dict.fromkeys(wanted, batch_size) | sizes
    measured_sizes = dict(sorted(wanted.items(), key=lambda item: (-item[1], item[0]))[:_MEASURED])
    if set(measured_sizes) - set(sizes) or not any(here.items() <= entry.items() for entry in known):
        found: list[Measured] = []
        prepared.executor.run(partial(_measure, prepared.model, sizes), [measured_sizes], found.append)
        (measured,) = found
        sizes = {**measured.batch_sizes, **sizes}
        here |= {"reproducibility": measured.reproducibility, **measured.environment}
        # In order; more than one environment means that bits may differ.
        if not known or known[-1] != here:
            _write_if_changed(path, (json.dumps({"environments": [*known, here]}, indent=1) + "\n").encode())
    for size in wanted.keys() - sizes.keys():
        sizes[size] = _alike(size, wanted[size], {known: sizes[known] for known in measured_sizes})
    prepared.job["steps"][0]["batch_sizes"] = {f"{w}x{h}": count for (w, h), count in sorted(sizes.items())}
    return replace(output, batch_sizes=sizes)


def _alike(size: Size, count: int, measured: Mapping[Size, int]) -> int:
    """The batch size of images of a size that is not measured: as many pixels as in the nearest one that is."""
    pixels = size[0] * size[1]
    near = min(measured, key=lambda known: (abs(math.log(known[0] * known[1] / pixels)), known))
    return max(1, min(count, measured[near] * near[0] * near[1] // pixels))


def _measure(model: Model, chosen: Mapping[Size, int], work: Iterable[Mapping[Size, int]], sink: Sink) -> None:
    for sizes in work:
        sink(model.measure(sizes, chosen))


def _write_if_changed(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        write_file(path, content)
