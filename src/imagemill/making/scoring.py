"""Scorers at work: found by name, written down as steps of a job, fed with images that are decoded once for all."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagemill.annotate import Item
from imagemill.component import find_component
from imagemill.dataset.journal import Annotation
from imagemill.environment import cores
from imagemill.errors import ImagemillError, ModelError, UsageError, did_you_mean
from imagemill.executors.base import Sink
from imagemill.images import upright
from imagemill.scorers.base import Scored, Scorer, Seen, find_scorer

_AHEAD = 48
"""Decoded images that wait for one scorer at most."""
_DIGITS = 6
"""Places of a score behind the point: what lies beyond them is noise of the arithmetic."""


def find_scorers(names: Sequence[str], parameters: Mapping[str, Any]) -> list[tuple[str, Scorer]]:
    """Make scorers by name, each with those of the parameters that it has; raises UsageError for what nobody has."""
    models = {name: model for name, _, model in (text.strip().partition("=") for text in names)}
    if len(models) < len(names) or not names:
        raise UsageError(f"score: `scorers`: each once, got: `{', '.join(names)}`", "see `imagemill scorers`")
    classes = {name: find_component("scorers", name) for name in models}
    with_model = [name for name, found in classes.items() if "model" in found.model_fields]
    without = [name for name, model in models.items() if model and name not in with_model]
    if without:
        raise UsageError(f"score: `{without[0]}` has no model to choose", f"write `{without[0]}` alone")
    if "model" in parameters and len(with_model) > 1:
        raise UsageError(
            f"score: `model`: which is it for: {', '.join(with_model)}?", f"write `--with {with_model[0]}=MODEL`"
        )
    # What asks a model hands it the rest.
    open_ended = [name for name, found in classes.items() if "model_parameters" in found.model_fields]
    known = {key for found in classes.values() for key in found.model_fields}
    rest = {key: value for key, value in parameters.items() if key not in known}
    if rest and not open_ended:
        wrong = next(iter(rest))
        raise UsageError(
            f"score: `{wrong}`: none of {', '.join(models)} has such a parameter, got: `{rest[wrong]!s:.80}`",
            did_you_mean(wrong, known) or f"known: {', '.join(sorted(known))}",
        )
    scorers = []
    for name, found in classes.items():
        own = {key: value for key, value in parameters.items() if key in found.model_fields}
        if models[name]:
            own["model"] = models[name]
        if name in with_model and found.model_fields["model"].is_required() and "model" not in own:
            raise UsageError(f"score: `{name}` has no model of its own", f"write `--with {name}=MODEL`")
        if rest and name in open_ended:
            own["model_parameters"] = {**own.get("model_parameters", {}), **rest}
        scorers.append((name, find_scorer(name, own)))
    return scorers


def step_of(name: str, scorer: Scorer) -> dict[str, Any]:
    """A scorer as the step of a job."""
    info, columns, parameters = scorer.info(), scorer.columns(), scorer.to_table()
    model = parameters.pop("model", "")
    return {
        "operator": "score",
        "scorer": name,
        "scores": {key: column.meaning for key, column in columns.items() if column.blank is None},
        "columns": {key: column.blank for key, column in columns.items() if column.blank is not None},
        "meanings": {key: column.meaning for key, column in columns.items() if column.blank is not None},
        "model": model,
        "model_revision": info.revision,
        "license": info.license,
        "model_parameters": {**parameters.pop("model_parameters", {}), **parameters},
    }


def score_images(scorers: Sequence[Scorer], work: Iterable[Sequence[Item]], sink: Sink) -> None:
    """Decode each image once and hand it to the scorers, each in a thread of its own. This is what a worker does."""
    feeds: list[queue.Queue[Seen | None]] = [queue.Queue(_AHEAD) for _ in scorers]
    waiting: list[dict[Path, Item]] = [{} for _ in scorers]
    errors: list[ImagemillError] = []
    ended: set[int] = set()

    def fed(group: int) -> Iterator[Seen]:
        yield from iter(feeds[group].get, None)
        ended.add(group)

    def run(group: int) -> None:
        try:
            for scored in scorers[group].score(fed(group)):
                sink(_annotation(waiting[group].pop(scored.seen.path), scored, group))
        except Exception as error:  # noqa: BLE001 - raised again where the scorers are waited for
            stopped = ModelError(f"`{scorers[group].component_name()}` stopped: {type(error).__name__}: {error}")
            stopped.__cause__ = error
            errors.append(error if isinstance(error, ImagemillError) else stopped)
        # Whoever feeds it must not wait for room.
        while group not in ended and feeds[group].get() is not None:
            pass

    threads = [threading.Thread(target=run, args=(group,), daemon=True) for group in range(len(scorers))]
    for thread in threads:
        thread.start()
    try:
        for item, seen in _seen(work):
            if errors:
                break
            if isinstance(seen, str):
                for group in item.wanted:
                    sink(item.failed("bad_image", seen, group))
                continue
            for group in item.wanted:
                waiting[group][seen.path] = item
                feeds[group].put(seen)
    except BaseException:
        # Nobody waits for what has not begun.
        for feed in feeds:
            with suppress(queue.Empty):
                while True:
                    feed.get_nowait()
        raise
    finally:
        for feed in feeds:
            feed.put(None)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _seen(work: Iterable[Sequence[Item]]) -> Iterator[tuple[Item, Seen | str]]:
    """Images of items, decoded on several threads, or what is wrong with them."""
    with ThreadPoolExecutor(min(8, cores()), "imagemill-decode") as pool:
        for batch in work:
            yield from zip(batch, pool.map(_opened, batch), strict=True)


def _opened(item: Item) -> Seen | str:
    try:
        data = Path(item.path).read_bytes()
        return Seen(Path(item.path), item.record, data, upright(data))
    except OSError as error:
        return f"its file cannot be read: {error.strerror}"
    except ValueError as error:
        return str(error)


def _annotation(item: Item, scored: Scored, group: int) -> Annotation:
    """What a scorer has said of an image."""
    if scored.reason:
        return item.failed(scored.reason, scored.message, group)
    columns = {}
    for name, value in scored.columns.items():
        if isinstance(value, float) and not math.isfinite(value):
            return item.failed("model_error", f"`{name}` is {value}", group)
        columns[name] = round(value, _DIGITS) if isinstance(value, float) else value
    return item.found(columns, group)
