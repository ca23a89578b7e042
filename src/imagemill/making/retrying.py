"""Make failed requests of a dataset again, from what the dataset alone says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from imagemill.committing import Progress, Report
from imagemill.dataset.folder import Dataset
from imagemill.errors import UsageError, did_you_mean
from imagemill.making.preparation import local_executor, output_of, sizes_of
from imagemill.models.base import Model, find_model
from imagemill.output import Output
from imagemill.produce import Pending, produce
from imagemill.records import Maker, Request


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
        # Those were made, and drawn again as often as they may be.
        failures = {name: line for name, line in failures.items() if line["reason"] != "not_accepted"}
        known = {failure["reason"] for failure in failures.values()}
        for reason in sorted(reasons - known):
            hint = did_you_mean(reason, known) or f"reasons: {', '.join(sorted(known)) or 'none, nothing has failed'}"
            raise UsageError(f"no request failed with `{reason}`", hint)
        requests = [
            _again(dataset, failure) for failure in failures.values() if not reasons or failure["reason"] in reasons
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
        return produce(dataset, Pending.of(requests), model, output, executor, progress)


def model_of(dataset: Dataset, settings: Mapping[str, Any] | None = None) -> Model:
    """The model that a dataset was made with; raises UsageError when `settings` has what is written down already."""
    step = dataset.job["steps"][0]
    if not step["model"]:
        if step["operator"] == "merge":
            raise UsageError(f"`{dataset.folder}` is a merge, which has no failed requests", "retry in its datasets")
        raise UsageError(
            f"`{dataset.folder}` holds pictures as they came: no model made them", "give the same command again"
        )
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
    return model, output_of(dataset.folder, maker, dataset.job, info, sizes_of(step["batch_sizes"]))


def _again(dataset: Dataset, failure: Mapping[str, Any]) -> Request:
    """The request of a failure, one attempt later."""
    request = dataset.failed_request(failure)
    if dataset.job["steps"][0]["operator"] == "generate" or request.images or request.turn > 1:
        return request
    # Nobody knows here where the picture was; the command that made the dataset looks again.
    return replace(request, problem=(failure["reason"], failure["message"]))
