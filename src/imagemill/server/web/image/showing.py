"""What the page of one image shows: its columns in groups, and what the file itself carries."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imagemill.dataset.edits import Edited, editable_columns
from imagemill.dataset.edits.columns import CAPTION, decided_columns
from imagemill.dataset.journal import blanks_of
from imagemill.records import MADE_KEYS, RECORD_KEYS, SOURCE_KEYS, Record, files_of
from imagemill.server.web.gallery import open_file
from imagemill.server.web.gallery.views import VERSION
from imagemill.server.web.image.locating import Located

_FILE_KEYS = ("file_name", "sha256")
_RECIPE = (*(name for name in RECORD_KEYS if name not in _FILE_KEYS), *SOURCE_KEYS, *MADE_KEYS)
_LONG = ("prompt", "negative_prompt", "edit_prompt", "revised_prompt")
"""Texts that people wrote, which are shown whole and above the rest."""
_MAKERS = ("generate", "augment", "edit")


@dataclass(frozen=True, slots=True)
class Text:
    """A column of texts that people may edit."""

    column: str
    text: str
    """As it is after all edits."""
    own: str
    """As it stands in the dataset."""


@dataclass(frozen=True, slots=True)
class Field:
    """A column that is shown as it is."""

    name: str
    value: Any
    meaning: str = ""

    @property
    def lines(self) -> list[str]:
        """The value as texts: one, or one for each item of a list; none where there is nothing."""
        return list(_lines(self.value))


@dataclass(frozen=True, slots=True)
class Shown:
    """One image, as its page shows it."""

    texts: Sequence[Text]
    prompts: Sequence[Field]
    recipe: Sequence[Field]
    scores: Sequence[Field]
    others: Sequence[Field]
    command: str
    """What makes it again."""
    operator: str
    """Whose form takes its settings again."""


def texts_of(located: Located, edited: Edited) -> list[Text]:
    """The editable texts of an image; its prompt is the caption of one that has none."""
    record = located.record
    texts = []
    for column in sorted(editable_columns(located.part.dataset), key=lambda column: column != CAPTION):
        own = str((record["prompt"] if column == CAPTION and CAPTION not in record else record.get(column)) or "")
        texts.append(Text(column, edited.texts.get(column, own), own))
    return texts


def shown(located: Located, edited: Edited, name: str) -> Shown:
    """Group the columns of an image; `name` is that of its dataset."""
    dataset, record = located.part.dataset, located.record
    texts = texts_of(located, edited)
    steps = dataset.job["steps"]
    meanings = _meanings(steps)
    scored = [column for step in steps if step.get("operator") == "score" for column in blanks_of(step)]
    files = {key for key in record if key.endswith(("file_name", "file_names"))}
    told = {
        *_RECIPE,
        *_FILE_KEYS,
        *files,
        *scored,
        *(text.column for text in texts),
        *decided_columns(dataset, record).values(),
    }

    def fields(names: Sequence[str]) -> list[Field]:
        return [Field(each, record[each], meanings.get(each, "")) for each in names if each in record]

    operator = next((step["operator"] for step in steps if step.get("operator") in _MAKERS), _MAKERS[0])
    return Shown(
        texts=texts,
        prompts=_said_once(fields(_LONG)),
        recipe=[field for field in fields(_RECIPE) if field.name not in (*_LONG, *files)],
        scores=fields(list(dict.fromkeys(scored))),
        others=fields([each for each in record if each not in told]),
        command=shlex.join(["imagemill", "reproduce", name, located.file_name.rsplit(".", 1)[0]]),
        operator=operator,
    )


def recipe_of(record: Record) -> dict[str, Any]:
    """Everything that is known of how an image was made, to be copied."""
    recipe = {name: record[name] for name in _RECIPE if name in record}
    return {**recipe, "model_parameters": _parsed(recipe.get("model_parameters"))}


def picture_url(dataset: str, located: Located) -> str:
    """Where the file of an image is shown; another place for another file, so that browsers may keep it."""
    sha256 = str(located.record.get("sha256", ""))
    return f"/images/{dataset}/{located.id}/full" + (f"?v={sha256[:VERSION]}" if sha256.isalnum() else "")


def pictures_of(located: Located) -> list[str]:
    """The files that the record names beside its own."""
    return [name for name in files_of(located.record) if name != located.file_name]


def decided(located: Located, edited: Edited) -> dict[str, Any]:
    """What people have decided of an image, as scripts read it."""
    texts = texts_of(located, edited)
    return {
        "id": located.id,
        "texts": {text.column: text.text for text in texts},
        "own": {text.column: text.own for text in texts},
        "decision": edited.decision,
        "rating": edited.rating,
        "tags": list(edited.tags),
        "revision": edited.revision,
    }


@dataclass(frozen=True, slots=True)
class Carried:
    """What the file of an image says by itself."""

    format: str
    width: int
    height: int
    bytes: int
    sha256: bool
    """Whether it has the bytes that the record tells of."""
    marked: bool
    """Whether it says that an AI made it."""
    recipe: Mapping[str, Any] | None


def carried(located: Located) -> Carried:
    """Look into the file of an image; raises OSError and ValueError where it cannot be read."""
    import hashlib

    from imagemill.images import MAX_BYTES, embedded_recipe, is_marked, open_image

    with open_file(located.part.path(located.file_name)) as file:
        data = file.read(MAX_BYTES + 1)
    image = open_image(data)
    recipe = embedded_recipe(image)
    return Carried(
        str(image.format),
        *image.size,
        len(data),
        hashlib.sha256(data).hexdigest() == located.record.get("sha256"),
        is_marked(image),
        recipe and {**recipe, "model_parameters": _parsed(recipe.get("model_parameters"))},
    )


def _said_once(fields: Sequence[Field]) -> list[Field]:
    """The prompt, and further texts that say something else."""
    return [field for field in fields if field.name == "prompt" or field.value not in ("", None, fields[0].value)]


def _meanings(steps: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {name: str(said) for step in steps for name, said in step.get("meanings", {}).items()}


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _lines(item)
    elif isinstance(value, bool):
        yield "yes" if value else "no"
    elif isinstance(value, str):
        found = _parsed(value) if value.startswith("{") else None
        if isinstance(found, dict):
            yield from (f"{key}: {_plain(item)}" for key, item in found.items())
        elif value:
            yield value
    elif value is not None:
        yield _plain(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parsed(text: Any) -> Any:
    """The value of a JSON text; other texts as they are."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text
