"""What is seen in pictures, asked once and written down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from imagemill.captions import said
from imagemill.dataset.files import append_lines, drop_torn, read_lines
from imagemill.executors.base import Executor, Sink
from imagemill.models.base import Question, Reply, TextModel
from imagemill.records import FailureReason
from imagemill.seeds import derive_seed

Described = tuple[tuple[str, ...], tuple[FailureReason, str] | None]
"""Captions, or why there are none."""


def describe(
    model: TextModel, files: Sequence[str], count: int, seed: int, folder: Path, executor: Executor
) -> dict[str, Described]:
    """Caption pictures of a dataset's sources, `count` times each; what an earlier run has seen is not asked again."""
    path = folder / ".imagemill" / "captions.jsonl"
    drop_torn(path)
    found: dict[str, Described] = {}
    by_name = {Path(file).name: file for file in files}
    for line in read_lines(path):
        if line["file"] in by_name and line["count"] == count:
            found[by_name[line["file"]]] = tuple(line["texts"]), None
    left = [file for file in files if file not in found]
    if not left:
        return found
    model.ready(1)

    def questions() -> Iterator[Question]:
        for file in left:
            chosen = derive_seed(seed, Path(file).stem, 0) >> 32
            yield Question(Path(file).name, "", (Path(file).read_bytes(),), count, chosen)

    def written(reply: Reply) -> None:
        name, texts = reply.question.name, said(reply.texts)
        reason, message = reply.reason, reply.message
        if reason is None and not texts:
            reason, message = "model_error", "the model said nothing"
        if reason is None:
            append_lines(path, [{"file": name, "count": count, "texts": texts}])
        found[by_name[name]] = tuple(texts), (reason, f"no caption: {message}") if reason else None

    executor.run(partial(_answer, model), questions(), written)
    return found


def _answer(model: TextModel, work: Iterable[Question], sink: Sink) -> None:
    for reply in model.answer(work):
        # What was asked is known where the reply goes.
        sink(replace(reply, question=replace(reply.question, images=())))
