"""Images are taken down: out of every file of their dataset, and never to be made again."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from imagemill.component import Component
from imagemill.dataset.files import parse_lines, read_lines
from imagemill.dataset.folder import Dataset
from imagemill.dataset.removal import begin_removal, removal_of
from imagemill.errors import UsageError
from imagemill.records import files_of, order_of, to_json

_IMAGE = re.compile(r"prompt_\d+_image_\d+(\.\w+)?")
_ROW = re.compile(r"(?:prompt_)?(0|[1-9]\d{0,17})", re.ASCII)
_TELLING = 10_000
"""Images that are looked at for a hint, and to tell whether a table has ids of its own."""
_FEW = 32
"""Texts for which a part is searched before its records are read; of more, reading them all is quicker."""


class Remove(Component):
    """Take-downs: images, with all that a dataset knows of them."""

    ids: tuple[str, ...] = ()
    """Images by their file names, with or without extension, or rows of the table by their ids."""
    prompts: tuple[str, ...] = ()
    """Rows of the table by their prompts, letter by letter as the records say them."""
    reason: str = ""
    """Why; it stays on file."""
    ignore_unknown: bool = False
    """Pass over what this dataset has no image or row of, such as in a list for several datasets."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a removal takes away."""

    images: tuple[str, ...]
    """Names, without extension, in plan order."""
    failures: tuple[str, ...]
    """Names of requests that failed, whose prompts are on file."""
    made_from: tuple[str, ...]
    """Those of the images that were not named, and were made from one of them."""
    unmade: tuple[int, ...]
    """Rows of the table without an image or a failure, of which none will be made."""
    same_bytes: tuple[str, ...]
    """Images that stay, with the same bytes as one that goes."""
    left_out: tuple[str, ...]
    """Names of images that a selection has left out, and remembers."""
    sources: int
    """Pictures that no other image was made from."""
    before: tuple[str, ...]
    """What was asked for and has been removed before."""
    unknown: tuple[str, ...]
    """What was asked for and is passed over, since nobody knows it here."""
    removal: Mapping[str, Any]
    """What `begin_removal` takes."""


@contextmanager
def finding(dataset: Dataset, options: Remove) -> Iterator[Found]:
    """Lock a dataset and find what is to be removed, to `execute` it.

    An interrupted removal is gone through with first; what was asked for there is not unknown. Raises as `find` does,
    and LockedError.
    """
    begun = removal_of(dataset).get("asked", ())
    with dataset.lock():
        dataset.recover()
        yield find(dataset, options, begun)


def find(dataset: Dataset, options: Remove, begun: Iterable[str] = ()) -> Found:
    """Find what is to be removed; nothing is written. `begun` was asked for before, and goes or is gone already.

    Raises UsageError that names everything nobody knows, or that can mean an image or another image's row.
    """
    if not options.ids and not options.prompts:
        raise UsageError("remove: nothing says what to remove", "give `--id`, `--from-file` or `--prompt`")
    folder = dataset.folder.resolve()
    if any((place / ".imagemill" / "import").is_dir() for place in (folder, folder.parent)):
        raise UsageError(
            f"`{dataset.folder}` is not imported as a whole yet", "give its `imagemill import` again first"
        )
    asked = _asked(dataset, options, {*begun, *removal_of(dataset).get("asked", ())})
    rows = [_start(row) for row in asked.rows]
    targets = {
        item.name: item
        for item in _items(dataset, [*map(_named, asked.images), *rows])
        if item.name in asked.images or item.row in asked.rows
    }
    whole = {item.row for item in targets.values()}
    made_from = _made_from(dataset, targets)
    hashes = {item.sha256 for item in targets.values()} - {""}
    sources = {source for item in targets.values() for source in item.sources} | hashes
    ids, prompts = ({getattr(item, key) for item in targets.values()} - {""} for key in ("id", "prompt"))
    twins = []
    shared = [*map(to_json, {*hashes, *sources, *ids, *prompts}), *map(_start, whole)]
    for item in _items(dataset, shared):
        if item.name in targets:
            continue
        sources -= {*item.sources, item.sha256}
        ids.discard(item.id)
        prompts.discard(item.prompt)
        whole.discard(item.row)
        if item.sha256 in hashes:
            twins.append(item.name)
    if dataset.counts().pending:
        # Nobody knows here which rows have images still to be made.
        whole = asked.rows
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    told = {"reason": options.reason, "time": now}
    ordered = sorted(targets.values(), key=lambda item: order_of(item.name))
    events = [{"event": "remove", "name": item.name, "part": item.part, **told} for item in ordered]
    events += [{"event": "remove", "name": name, "left_out": True, **told} for name in asked.left_out]
    events += [{"event": "remove", "row": row, **told} for row in sorted(whole | asked.rows)]
    numbers = {item.part for item in ordered}
    for part in map(dataset.part, sorted(numbers)):
        if any(record is None for record, _ in parse_lines(part.metadata)):
            raise UsageError(
                f"`{part.metadata}` has damaged lines, and nobody knows of which images",
                "`imagemill verify --repair` gives them up first",
            )
    files: dict[str, list[str]] = {}
    for item in ordered:
        part = dataset.part(item.part)
        files.setdefault(str(item.part), []).extend(part.path(name).name for name in item.files)
    kept = dataset.folder / ".imagemill" / "sources"
    return Found(
        images=tuple(item.name for item in ordered if item.sha256),
        failures=tuple(item.name for item in ordered if not item.sha256),
        made_from=tuple(made_from),
        unmade=tuple(sorted(asked.rows - {item.row for item in ordered})),
        same_bytes=tuple(twins),
        left_out=tuple(asked.left_out),
        sources=sum(any(kept.glob(f"{sha256}.*")) for sha256 in sources),
        before=tuple(asked.before),
        unknown=tuple(asked.unknown),
        removal={
            "asked": [*options.ids, *options.prompts],
            "events": events,
            "files": files,
            "sealed": sorted(number for number in numbers if dataset.part(number).sealed),
            "sources": sorted(sources),
            "ids": sorted(ids),
            "prompts": sorted(prompts),
        },
    )


def execute(dataset: Dataset, found: Found) -> None:
    """Remove what was found; the caller has held the lock since before. A kill ends in the removal all the same."""
    if found.removal["events"]:
        begin_removal(dataset, found.removal)


def remove(
    dataset: Dataset | str | Path,
    ids: str | Iterable[str] = (),
    *,
    prompts: str | Iterable[str] = (),
    reason: str = "",
    ignore_unknown: bool = False,
) -> list[str]:
    """Take images down and return their names: file, record, scores, and whatever else the dataset knows of them.

    `ids` are file names or ids of rows, whose images then go all; `prompts` name rows by their text. Images made from
    one of them go with it. An event with `reason` remains in `.imagemill/events.jsonl`, and nothing of it is made
    again. Raises UsageError that names everything unknown, unless it is to be ignored; then nothing is removed. Raises
    LockedError.
    """
    dataset = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    options = Remove.parse(
        {"ids": _several(ids), "prompts": _several(prompts), "reason": reason, "ignore_unknown": ignore_unknown},
        "remove",
    )
    with finding(dataset, options) as found:
        execute(dataset, found)
    return [*found.images, *found.failures]


@dataclass(frozen=True, slots=True)
class _Item:
    """An image, or a request that failed."""

    name: str
    """Without extension."""
    part: int
    id: str
    prompt: str
    sha256: str
    """Empty for a failure."""
    sources: tuple[str, ...]
    """Hashes of the pictures that it was made from."""
    files: tuple[str, ...]

    @property
    def row(self) -> int:
        """The position of its row in the table."""
        return order_of(self.name)[0]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the user has named, by kind."""

    rows: set[int] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def _items(dataset: Dataset, texts: Collection[str] = ()) -> Iterator[_Item]:
    """Images and failed requests; where texts are given, parts without any of them may be passed over."""
    wanted = [text.encode(errors="replace") for text in texts] if len(texts) <= _FEW else []
    for part in dataset.parts:
        if wanted and not _holds(part.metadata, wanted):
            continue
        for record in part.records():
            yield _item(Path(record["file_name"]).stem, part.number, record, files_of(record))
    for name, failure in dataset.failures().items():
        request = {**failure["request"], "id": failure["id"], "sha256": ""}
        yield _item(name, failure["part"], request, [])


def _holds(path: Path, texts: Iterable[bytes]) -> bool:
    content = path.read_bytes() if path.is_file() else b""
    return any(text in content for text in texts)


def _named(name: str) -> str:
    """How the name of an image stands in its record, without its extension."""
    return f'"{name}.'


def _start(row: int) -> str:
    """How the names of a row's images begin in their records."""
    return f'"prompt_{row}_'


def _item(name: str, part: int, record: Mapping[str, Any], files: Iterable[str]) -> _Item:
    sources = [*record.get("source_sha256", ()), *([record["mask_sha256"]] if "mask_sha256" in record else ())]
    return _Item(name, part, record["id"], record["prompt"], record["sha256"], tuple(sources), tuple(files))


def _asked(dataset: Dataset, options: Remove, begun: set[str]) -> _Asked:
    """What the names, ids and prompts mean; raises UsageError."""
    names: dict[str, list[str]] = {}
    for text in options.ids:
        names.setdefault(Path(text).stem if _IMAGE.fullmatch(Path(text).name) else text, []).append(text)
    asked = _Asked()
    known = set(begun)
    by_name: dict[str, int] = {}
    by_id: dict[str, set[int]] = {}
    texts = [*map(_named, names), *map(to_json, {*options.ids, *options.prompts})]
    for item in _items(dataset, texts):
        for text in names.get(item.name, ()):
            if _is_called(text, dataset.part(item.part).folder, item.files):
                by_name[text] = item.row
                asked.images.add(item.name)
        if item.id in options.ids:
            by_id.setdefault(item.id, set()).add(item.row)
        if item.prompt in options.prompts:
            known.add(item.prompt)
            asked.rows.add(item.row)
    for line in read_lines(dataset.folder / ".imagemill" / "tries.jsonl"):
        # Drawn and not accepted, and none has been accepted yet.
        if line["id"] in options.ids:
            by_id.setdefault(line["id"], set()).add(order_of(line["file_name"])[0])
        if line["prompt"] in options.prompts:
            known.add(line["prompt"])
            asked.rows.add(order_of(line["file_name"])[0])
    for line in read_lines(dataset.folder / ".imagemill" / "left_out.jsonl"):
        name = Path(line["file_name"]).stem
        if name in names or line["id"] in options.ids:
            known.update({*names.get(name, ()), line["id"]})
            asked.left_out.append(name)
    for text in by_name.keys() & by_id.keys():
        if by_id[text] != {by_name[text]}:
            raise UsageError(
                f"remove: `{text}` is an image, and the id of another one's row",
                "name the images of either by their files",
            )
    asked.rows.update(*by_id.values())
    removed = dataset.removed
    asked.before.extend(text for name, found in names.items() if name in removed for text in found)
    known |= {*by_name, *by_id, *asked.before}
    unknown = [text for text in dict.fromkeys([*options.ids, *options.prompts]) if text not in known]
    unknown = _without_rows(dataset, asked, unknown, options.ids)
    if unknown and not options.ignore_unknown:
        raise UsageError(
            f"`{dataset.folder}` has no image or row {', '.join(f'`{text}`' for text in unknown)}: nothing was removed",
            _hint(dataset, unknown[0]),
        )
    asked.unknown.extend(unknown)
    return asked


def _is_called(text: str, folder: Path, files: Collection[str]) -> bool:
    """Whether a name that a user gives, perhaps with its folder, is that of an image; failures have no files."""
    *places, name = Path(text).parts
    if places and list(folder.resolve().parts[-len(places) :]) != places:
        return False
    return not Path(name).suffix or not files or name in files


def _without_rows(dataset: Dataset, asked: _Asked, unknown: list[str], ids: Collection[str]) -> list[str]:
    """Take those for rows that name one by its position, without an image to tell of it; returns the others."""
    numbers = {text: int(found[1]) for text in unknown if text in ids and (found := _ROW.fullmatch(text))}
    if not numbers:
        return unknown
    # Without ids of its own, a table's rows are called as they are counted.
    first = list(islice(_items(dataset), _TELLING))
    counted = bool(first) and all(item.id == str(item.row) for item in first)
    alike = any(item.id.startswith("prompt_") for item in first)
    numbers = {text: row for text, row in numbers.items() if (counted if text.isdigit() else not alike)}
    removed, rows = dataset.removed_rows, dataset.job["plan"]["rows_read"]
    pending = dataset.counts().pending
    there = {item.row for item in _items(dataset)} if set(numbers.values()) - removed and pending else set()
    for text, row in numbers.items():
        if row in removed:
            asked.before.append(text)
        elif pending and row < rows and row not in there:
            asked.rows.add(row)
    return [text for text in unknown if numbers.get(text, -1) not in removed | asked.rows]


def _hint(dataset: Dataset, unknown: str) -> str:
    """What may help; never the name of another image, which would go for good."""
    known = (text for item in islice(_items(dataset), _TELLING) for text in (item.name, item.id, item.prompt))
    same = {text for text in known if text.casefold() == unknown.casefold()}
    if len(same) == 1:
        return f"letters are compared exactly: `{same.pop()}`"
    if _IMAGE.fullmatch(unknown.split(",", maxsplit=1)[0].strip()) and "," in unknown:
        return "put blanks between names, no commas"
    if _IMAGE.fullmatch(unknown) and dataset.counts().pending:
        row = order_of(Path(unknown).stem)[0]
        return (
            f"what is not made yet goes with its row, if none of it is made: `prompt_{row}`; see `imagemill remove -h`"
        )
    return (
        "`--ignore-unknown` passes over what is not there; rows that were removed are not known by their ids any more"
    )


def _made_from(dataset: Dataset, targets: dict[str, _Item]) -> list[str]:
    """Add to the targets what was made from one of them, as no picture of theirs may stay; returns those names.

    A picture that another image of the dataset holds as well stays, and what was made from it.
    """
    found: list[str] = []
    if not (dataset.folder / ".imagemill" / "sources").is_dir():
        return found
    new = {item.sha256 for item in targets.values()} - {""}
    while new:
        others = [
            item
            for item in _items(dataset, [*map(to_json, new)])
            if item.name not in targets and (item.sha256 in new or item.sources)
        ]
        new -= {item.sha256 for item in others}
        made = [item for item in others if new.intersection(item.sources)]
        targets.update((item.name, item) for item in made)
        found += [item.name for item in made]
        new = {item.sha256 for item in made} - {""}
    return found


def _several(texts: str | Iterable[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)
