"""From a filled form to a job in the queue: the source, the place of what is made, the command, the plan."""

from __future__ import annotations

import re
import secrets
import tempfile
import threading
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from imagemill.dataset import Dataset
from imagemill.errors import ImagemillError, UsageError
from imagemill.records import MADE_KEYS, SOURCE_KEYS, columns_of
from imagemill.server.web.making.filling import Wrong, arguments_of, check, given, problems_of
from imagemill.server.web.making.forms import Form, form_of, label_of
from imagemill.server.web.making.offered import MAKING, OPERATORS
from imagemill.server.web.making.plans import NoPlan
from imagemill.server.web.queue import DISK
from imagemill.server.web.state import Web
from imagemill.server.web.workspace import NotFound
from imagemill.terminal import number

TYPED = "typed"
"""The source that is written into the form: prompts, one a line."""
_TAKEN: dict[str, tuple[str, ...]] = {
    "generate": (TYPED, "table"),
    "augment": ("dataset", "images"),
    "edit": ("dataset", "images"),
    "caption": ("dataset", "images"),
    "score": ("dataset",),
    "select": ("dataset",),
    "export": ("dataset",),
    "import": ("images",),
}
"""What an operator starts from. A table's column could name any picture of this machine: they only give prompts."""
_MADE = {"generate": "", "augment": "augmented", "edit": "edited", "caption": "captioned", "select": "selected"}
"""What is put behind the name of the source for the name of what is made of it."""
_MOVING = {"select", "export", "import"}
"""What computes next to nothing, and only reads and writes files."""
_LONGEST_PROMPTS = 2**20
_LONGEST_NAME = 10_000
"""That is looked at; what is too long for a folder is said at its field."""
_PLACES = {"dataset", "output", "source"}
"""What a dry run says of folders, which is nothing for a browser."""
_READ = 10.0
"""Seconds in which an upload that has just come may be read."""
_queueing = threading.Lock()
"""Held while a form is looked at, so that the same one sent again finds its job."""


class StillRead(UsageError):
    """An upload has not been read yet."""


class Asked(BaseModel):
    """A form as it is sent."""

    source: str = Field("", max_length=100)
    """`typed`, `upload:ID` or `dataset:ID`."""
    prompts: str = Field("", max_length=_LONGEST_PROMPTS)
    """One a line, for the source `typed`."""
    name: str = Field("", max_length=_LONGEST_NAME)
    """Of the dataset that is made."""
    key: str = Field("", max_length=64)
    """Of this form: sent twice, it makes one job."""
    values: dict[str, str | list[str]] = {}
    """Parameters by name, as texts."""

    def posted(self) -> dict[str, list[str]]:
        """All values as lists."""
        return {name: [value] if isinstance(value, str) else value for name, value in self.values.items()}


@dataclass(frozen=True, slots=True)
class Source:
    """What a job starts from."""

    value: str
    """As the form sends it."""
    name: str
    kind: str
    path: Path | None = None
    """None for prompts typed in, and where nothing is chosen."""
    columns: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    """Columns that name nothing but its own pictures."""
    prompt_column: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job would do."""

    line: str = ""
    """As the command line says it."""
    data: Mapping[str, Any] | None = None
    """The same for programs; None where nobody can say."""
    said: tuple[str, ...] = ()
    own: Mapping[str, Any] | None = None
    """What the model takes by itself."""


def check_operator(operator: str) -> str:
    """An operator that has a form; raises NotFound."""
    if operator not in OPERATORS:
        raise NotFound(f"there is no form for `{operator!a:.40}`", f"there are: {', '.join(OPERATORS)}")
    return operator


def sources_of(web: Web, operator: str) -> dict[str, list[tuple[str, str]]]:
    """What a form offers as its source, with the name shown, in groups."""
    taken = _TAKEN[operator]
    found: dict[str, list[tuple[str, str]]] = {}
    if TYPED in taken:
        found["Here"] = [(TYPED, "Prompts typed below")]
    uploads = [each for each in web.uploads.list() if each.state != "refused" and each.kind in taken]
    if uploads:
        found["Uploads"] = [(f"upload:{each.id}", each.name) for each in uploads]
    if "dataset" in taken and (datasets := web.workspace.datasets()):
        found["Datasets"] = [(f"dataset:{each.id}", each.name) for each in datasets]
    return found


def source_of(web: Web, operator: str, value: str, wait: float = _READ) -> Source:
    """What a form has chosen; raises NotFound and UsageError.

    Nothing is done with an upload before it has been read, within limits: that is waited for, so many seconds at most.
    """
    kind, _, name = value.partition(":")
    taken = _TAKEN[operator]
    if value == TYPED and TYPED in taken:
        return Source(value, "prompts", TYPED)
    if kind == "dataset" and kind in taken:
        entry = web.workspace.find(name)
        return Source(value, Path(entry.name).name, kind, entry.folder, _columns(operator, entry.folder), id=entry.id)
    if kind == "upload":
        upload = web.uploads.wait(name, wait)
        if upload.kind not in taken:
            raise UsageError(
                f"{operator}: `{upload.name:.80}` is {'a table' if upload.kind == 'table' else 'a set of pictures'}",
                f"choose {' or '.join(taken)}",
            )
        if upload.state == "refused" or (upload.state == "reading" and wait):
            kind_of = UsageError if upload.state == "refused" else StillRead
            why = "cannot be used" if upload.state == "refused" else "is still being read"
            raise kind_of(f"`{upload.name:.80}` {why}", "its page says more")
        columns, pictures = tuple(upload.columns), tuple(upload.picture_columns)
        return Source(value, upload.name, upload.kind, upload.path, columns, pictures, upload.prompt_column, upload.id)
    if value:
        raise UsageError(f"{operator}: starts from {' or '.join(taken)}", "choose what is offered")
    return Source("", "", "")


def taken(operator: str, kind: str) -> bool:
    """Whether an operator starts from such a source."""
    return kind in _TAKEN[operator]


def _columns(operator: str, folder: Path) -> tuple[str, ...]:
    """The columns of a dataset that an operator can use, as the first record tells them."""
    record = next(iter(Dataset(folder)), {})
    if operator in MAKING:
        return ("prompt", *(name for name in columns_of(record) if name not in {*MADE_KEYS, *SOURCE_KEYS}))
    return tuple(name for name in record if name != "file_name")


def drawn(web: Web, operator: str, source: Source, posted: Mapping[str, Sequence[str]]) -> Form:
    """The form with the parameters of what was chosen in it; nothing else is filled in."""
    choosing = {name: list(texts) for name, texts in posted.items() if name in {"model", "layout", "scorers"}}
    values: dict[str, Any] = {name: texts[-1] for name, texts in choosing.items() if texts}
    if "scorers" in choosing:
        values["scorers"] = [text for text in choosing["scorers"] if text]
    return form_of(operator, values, web.models, source.columns, source.pictures, web.plans.devices or ("cpu",))


def filled(web: Web, operator: str, source: Source, posted: Mapping[str, Sequence[str]]) -> Form:
    """The form with what was set in it and what is wrong of that; raises NotOffered."""
    form = drawn(web, operator, source, posted)
    try:
        form.values = given(form, posted)
        check(form)
    except Wrong as wrong:
        form.problems = wrong.problems
    return form


def writes_new(operator: str, source: Source) -> bool:
    """Whether something new is made, which needs a name; else columns are added to the dataset."""
    return operator != "score" and not (operator == "caption" and source.kind in {"dataset", ""})


def suggested_name(web: Web, form: Form, source: Source) -> str:
    """A free name for what is made."""
    plain = unicodedata.normalize("NFKD", source.name or form.operator).encode("ascii", "ignore").decode()
    stem = re.sub(r"(\.(csv|tsv|jsonl?|ndjson|txt|parquet|gz|zst|zip))+$", "", plain.lower())
    stem = re.sub(r"[^a-z0-9.]+", "-", stem).strip("-.")[:60] or "dataset"
    made = form.values.get("layout") or form.fields["layout"].choices[0][0] if form.operator == "export" else ""
    name = "-".join(part for part in (stem, made or _MADE.get(form.operator, "")) if part)
    promised = web.promised()
    number = 1
    while (
        folder := web.workspace.folder / (name if number == 1 else f"{name}-{number}")
    ) in promised or folder.exists():
        number += 1
    return folder.name


def plan(web: Web, form: Form, source: Source, prompts: str, key: str = "") -> Plan:
    """What a form would do, as the dry run of its command says; of those with one key only the last is made.

    Raises Wrong and NoPlan.
    """
    if form.operator == "caption" and source.kind == "images":
        raise NoPlan("the pictures become a dataset first, and then it is known what there is to do")
    chosen = form.fields.get("model")
    model = form.values.get("model") or (chosen.default if chosen else "")
    with _readable(source, prompts) as path:
        output = (
            web.workspace.folder / f".planned-{secrets.token_hex(4)}" if writes_new(form.operator, source) else None
        )
        arguments = arguments_of(form, path, output)
        answer = web.plans.ask(arguments, form.operator, model if form.operator in MAKING else "", key)
    if "error" in answer:
        told = ImagemillError(*(_hidden(web, answer[part], path, source) for part in ("error", "hint")))
        raise Wrong(problems_of(told, form), told.hint)
    said = [_hidden(web, line, path, source) for line in answer["said"]]
    if form.operator == "export" and (pending := len(web.edits(source.id).state().pending)):
        behind = f"edits of {number(pending, 'image')} are not applied and stay behind"
        said.insert(0, f"{behind}; the export of the gallery takes them along")
    data = {name: value for name, value in (answer["data"] or {}).items() if name not in _PLACES}
    return Plan(said[-1] if said else "", data, tuple(said[:-1]), answer["own"])


def _hidden(web: Web, text: str, path: Path, source: Source) -> str:
    """What a command says, with names in place of paths."""
    return text.replace(str(path), source.name).replace(f"{web.workspace.folder}/", "")


@contextmanager
def _readable(source: Source, prompts: str) -> Iterator[Path]:
    """A file or a folder that a command can read; for typed prompts one that goes away again."""
    if source.kind != TYPED:
        if source.path is None:
            raise Wrong({"_source": "Choose what to start from"})
        yield source.path
        return
    if not prompts.strip():
        raise Wrong({"_prompts": "Write a prompt a line"})
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="replace", suffix=".txt") as file:
        file.write(prompts)
        file.flush()
        yield Path(file.name)


def queue(web: Web, operator: str, asked: Asked) -> int:
    """Put the job of a form into the queue and return its number; the same form twice is one job.

    Raises Wrong, NotOffered and NotFound.
    """
    with _queueing:
        if asked.key:
            for job in web.queue.jobs():
                if job.kind == operator and job.settings.get("key") == asked.key:
                    return job.id
        source = source_of(web, operator, asked.source)
        form = filled(web, operator, source, asked.posted())
        problems = dict(form.problems)
        new = writes_new(operator, source)
        if new:
            problems |= problems_of_name(web, asked.name)
        try:
            if not problems:
                plan(web, form, source, asked.prompts)
        except Wrong as wrong:
            problems |= wrong.problems
        except NoPlan:
            # What cannot be foreseen can be tried.
            pass
        if problems:
            raise Wrong(problems)
        with web.queueing:
            output = web.new_folder(asked.name or suggested_name(web, form, source)) if new else None
            shown = output.name if output else source.name
            if source.kind == TYPED:
                # From now on it is a table like any other.
                upload = web.uploads.add_text(f"{shown}.txt", asked.prompts.encode(errors="replace"))
                source = replace(source, value=f"upload:{upload.id}", path=upload.path, id=upload.id)
            path = source.path or Path()
            return web.queue.add(
                operator,
                f"{label_of(operator)} {shown}",
                arguments_of(form, path, output),
                output=output or path,
                source=source.id,
                settings={"operator": operator, "source": source.value, "values": form.values, "key": asked.key},
                device=_device(web, form),
            )


def problems_of_name(web: Web, name: str) -> dict[str, str]:
    """What is wrong of the name of something new; none is chosen for whoever writes none."""
    try:
        if name:
            web.new_folder(name)
    except UsageError as error:
        return {"_name": f"{error.message[:1].upper()}{error.message[1:]}: {error.hint}"}
    return {}


def _device(web: Web, form: Form) -> str:
    """Where a job computes: those on different ones run at the same time."""
    if form.operator in _MOVING:
        return DISK
    components = [part.component for part in form.parts[1:]]
    if not any("device" in component.model_fields for component in components):
        return "remote" if any("base_url" in component.model_fields for component in components) else "cpu"
    told = form.values.get("device", "auto")
    if told == "auto":
        return (web.plans.devices or ("cpu",))[0]
    return "cuda:0" if told == "cuda" else str(told)
