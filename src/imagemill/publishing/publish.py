"""An export is written on this machine, checked, and only then sent to where others read it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagemill.dataset import Dataset
from imagemill.dataset.files import explained
from imagemill.dataset.lock import locked
from imagemill.dataset.manifest import check_manifest
from imagemill.errors import UsageError, together
from imagemill.operators import export as exporting
from imagemill.publishing.checks import check_card, check_files, check_records, restrictions
from imagemill.publishing.target import Publish, Say, State, Target, find_target, is_url, read_export
from imagemill.records import Record, files_of
from imagemill.terminal import number, size


@dataclass(frozen=True, slots=True)
class Upload:
    """An export to somewhere else that has been checked before anything is written or sent."""

    prepared: exporting.Prepared
    """Its output is a folder beside the dataset, which is deleted when everything has arrived."""
    target: Target
    state: State
    notes: list[str]
    """What the user should know, a sentence each."""

    @property
    def done(self) -> bool:
        """Whether the target holds this export already."""
        return self.state.holds == "this"

    @property
    def written(self) -> bool:
        """Whether an earlier call has written it, and could not send it."""
        return self.prepared.done

    def measure(self) -> tuple[int, int]:
        """Files and bytes of the export where it is written, else of the pictures that it will hold."""
        if self.written:
            exported = read_export(self.prepared.output, self.prepared.fingerprint)
            return len(exported.files), exported.size
        sizes = [
            _size(part.folder / name)
            for split, dataset in self.prepared.datasets.items()
            for part in dataset.parts
            for record in part.records()
            if _kept(self.prepared, split, record)
            for name in files_of(record)
        ]
        return len(sizes), sum(sizes)


def split_options(parameters: Mapping[str, Any]) -> tuple[Publish, dict[str, Any]]:
    """What parameters say of the upload, and those of the export itself; raises UsageError."""
    options = Publish.parse(
        {name: value for name, value in parameters.items() if name in Publish.model_fields}, "export"
    )
    return options, {name: value for name, value in parameters.items() if name not in Publish.model_fields}


def prepare(source: Dataset | str | Path, url: str, parameters: Mapping[str, Any]) -> Upload:
    """Check what there is to export, that it may leave, and where it goes; nothing is written or sent.

    Raises UsageError for everything that stands against it, and ImagemillError where the target cannot be reached.
    """
    options, others = split_options(parameters)
    target = find_target(url, options)
    root = Path(source.folder if isinstance(source, Dataset) else source).resolve()
    work = root.with_name(f".{root.name}.upload")
    prepared = exporting.prepare(source, work / "export", others)
    address = target.address
    called = hashlib.sha256(f"{prepared.fingerprint} {address}".encode()).hexdigest()[:16]
    prepared = replace(prepared, output=work / called, address=address)
    front, text = prepared.card
    problems = [*check_card(_license(front), front + text), *check_records(_records(prepared))]
    if problems:
        raise together(problems)
    steps = [step for dataset in prepared.datasets.values() for step in dataset.job["steps"]]
    return Upload(prepared, target, target.look(prepared.mark), restrictions(steps))


def execute(upload: Upload, say: Say = lambda _: None) -> None:
    """Write, load back, compare, check every file, and send; the same call after any interruption continues.

    Raises UsageError for secrets in files, and ImagemillError where the target stops taking them.
    """
    prepared = upload.prepared
    work = prepared.output.parent
    if upload.done:
        upload.target.settle(prepared.mark, upload.state)
        if work.exists():
            with locked(work):
                shutil.rmtree(work)
        return
    with locked(work):
        _clear(work, prepared.output)
        for note in exporting.execute(prepared):
            say(note)
        exported = read_export(prepared.output, prepared.fingerprint)
        check_files(exported)
        say(f"uploading {number(len(exported.files), 'file')}, {size(exported.size)}")
        upload.target.publish(exported, upload.state, say)
        with explained(work):
            shutil.rmtree(work)


def export(dataset: Dataset | str | Path, layout: str, output: str | Path, **parameters: Any) -> Path | str:
    """Write a dataset in a layout that other tools read, and return its folder, or the URL it was sent to.

    `output` is a folder, or a URL: `hf://user/name`, `s3://bucket/prefix`, `gs://…`, `az://…`. `layout` is a name as
    `imagemill layouts` lists it, and `parameters` are its own and those of `Export`, for the hub also `public` and
    `tag`; a folder of datasets, such as `train` and `test`, becomes splits. What was written is loaded back and
    compared before it appears. The same call again does nothing while the dataset is the same. Raises UsageError for
    anything that cannot be right, LockedError and OutOfSpace.
    """
    if not is_url(output):
        check_local(output, parameters)
        return exporting.export(dataset, layout, output, **split_options(parameters)[1])
    execute(prepare(dataset, str(output), {"layout": layout, **parameters}))
    return str(output)


def check_local(output: str | Path, parameters: Mapping[str, Any]) -> None:
    """Raise UsageError for what only an upload knows."""
    options, _ = split_options(parameters)
    found = re.match(r"(hf|s3|gs|az|azz|file|https?):/*", str(output), re.IGNORECASE)
    if found:
        raise UsageError(
            f"`{output}` is neither a folder nor a place to send it to",
            f"write `{found[1].lower()}://…`, or `./{output}`",
        )
    given = next((name for name, value in options.to_table().items() if value), "")
    if given:
        raise UsageError(f"`{given}` has no effect on the folder `{output}`", "export to `hf://user/name`")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise UsageError(f"`{path}` is absent", "`imagemill verify` tells what else is wrong") from None


def _license(front: str) -> str:
    found = re.search(r"^license:[ \t]*(.*)$", front, re.MULTILINE)
    value = found[1].strip() if found else ""
    return str(json.loads(value)) if value.startswith('"') else value


def _records(prepared: exporting.Prepared) -> dict[str, Iterator[Record]]:
    """The records of each split that are exported."""
    return {
        split: (record for record in dataset if _kept(prepared, split, record))
        for split, dataset in prepared.datasets.items()
    }


def _kept(prepared: exporting.Prepared, split: str, record: Record) -> bool:
    kept = prepared.kept[split]
    return kept is None or record["file_name"] in kept


def _clear(work: Path, output: Path) -> None:
    """Delete what earlier calls have left: exports of the dataset as it was, and this one where it is not whole."""
    with explained(work):
        for path in work.iterdir():
            if path.name != ".imagemill" and path != output:
                shutil.rmtree(path, ignore_errors=True)
        try:
            if output.exists():
                check_manifest(output)
        except UsageError:
            shutil.rmtree(output)
