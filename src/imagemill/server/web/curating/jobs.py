"""Jobs that save, apply and export what people decided."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.component import component_names, find_component
from imagemill.dataset.applying import last_applied
from imagemill.dataset.edits import key_of
from imagemill.dataset.edits.columns import CAPTION
from imagemill.dataset.files import write_file
from imagemill.dataset.manifest import MARK, read_mark
from imagemill.errors import UsageError
from imagemill.server.web.queue import DISK
from imagemill.server.web.state import Web
from imagemill.server.web.workspace import Entry, NotFound

if TYPE_CHECKING:
    from imagemill.server.web.queue import Job

_AN_HOUR = 3600.0


def rejected_of(web: Web, entry: Entry, images: Sequence[str] | None) -> int:
    """How many of some images, or of all, are rejected, whether that was applied or not."""
    known = web.edits(entry.id).state().known
    chosen = known.values() if images is None else (known.get(key_of(image)) for image in images)
    return sum(edited is not None and edited.decision == "reject" for edited in chosen)


def save_as(
    web: Web, entry: Entry, name: str, images: Sequence[str] | None, keep_rejected: bool = False
) -> tuple[int, Path]:
    """Queue a new dataset of some images, or of all, with what people decided; its job and its folder."""
    if images is not None:
        if not images:
            raise UsageError("no image is chosen", "choose some, or all")
        if not keep_rejected and rejected_of(web, entry, images) == len(images):
            raise UsageError(
                "nothing would be left: all of these images are rejected", "keep some, or choose other images"
            )
    with web.queueing:
        output = web.new_folder(name)
        arguments = ["select", str(entry.folder), f"--output={output}", "--edits"]
        arguments += ["--keep-rejected"] if keep_rejected else []
        arguments += [] if images is None else [f"--names={_names_file(web, images)}"]
        title = f"{entry.name} → {output.name}"
        settings = _settings("select", entry, edits=True, **({"keep_rejected": True} if keep_rejected else {}))
        job = web.queue.add("select", title, arguments, output=output, source=entry.id, settings=settings, device=DISK)
    return job, output


def export(
    web: Web,
    entry: Entry,
    name: str,
    layout: str,
    images: Sequence[str] | None,
    keep_rejected: bool = False,
    caption_column: str = "",
) -> list[int]:
    """Queue an export; of some images, or with edits, or without the rejected ones, a new dataset is saved before."""
    if layout not in component_names("layouts"):
        raise UsageError(f"there is no layout `{layout:.40}`", f"layouts: {', '.join(component_names('layouts'))}")
    if caption_column and layout not in captioned_layouts():
        raise UsageError(f"the layout `{layout}` has no captions", "leave out `caption_column`")
    edited = bool(web.edits(entry.id).state().pending) or (not keep_rejected and rejected_of(web, entry, None) > 0)
    jobs = []
    folder = entry.folder
    with web.queueing:
        if images is None and not edited:
            output = web.new_folder(name)
        else:
            output = web.new_folder(f"{name.strip()}-{layout}")
            job, folder = save_as(web, entry, name, images, keep_rejected)
            jobs.append(job)
        source = web.workspace.id_of(folder)
        chosen = {"caption_column": caption_column} if caption_column else {}
        settings = _settings("export", entry, layout=layout, **chosen)
        title = f"{folder.name} → {output.name} as {layout}"
        arguments = ["export", str(folder), layout, f"--output={output}"]
        arguments += [f"--caption-column={caption_column}"] if caption_column else []
        job = web.queue.add("export", title, arguments, output=output, source=source, settings=settings, device=DISK)
        jobs.append(job)
    return jobs


def captioned_layouts() -> list[str]:
    """The layouts in which a column can be the text of each image."""
    return [
        name for name in component_names("layouts") if "caption_column" in find_component("layouts", name).model_fields
    ]


def has_captions(web: Web, entry: Entry) -> bool:
    """Whether a dataset has captions beside prompts, or would with what people decided, and no column `text`."""
    record = next(iter(web.workspace.open(entry.id)), {})
    if "text" in record:
        return False
    return CAPTION in record or any(CAPTION in edited.texts for edited in web.edits(entry.id).state().pending.values())


def apply(web: Web, entry: Entry, undo: bool) -> int:
    """Queue that what people decided is written into the dataset itself, or taken back."""
    arguments = ["apply", str(entry.folder)]
    if undo:
        batch = last_applied(web.workspace.open(entry.id))
        if not batch:
            raise UsageError("nothing was applied", "edits are undone one by one, with Undo")
        # By its number, so that a job that is run again takes nothing else back.
        arguments.append(f"--undo={batch.number}")
    title = f"{'Undo what was applied to' if undo else 'Apply edits to'} {entry.name}"
    return web.queue.add("apply", title, arguments, output=entry.folder, source=entry.id, device=DISK)


def exported(web: Web, entry: Entry) -> list[dict[str, Any]]:
    """The exports of a dataset, the last first."""
    jobs = [
        job for job in web.queue.jobs() if job.kind == "export" and job.settings.get("source") == f"dataset:{entry.id}"
    ]
    return [
        {
            "job": job.id,
            "name": job.output.name if job.output else "",
            "layout": (read_mark(job.output) or {}).get("layout", "") if job.output else "",
            "state": job.state,
            "ended": job.ended,
            "download": f"/downloads/{job.id}" if _exported(web, job) else None,
        }
        for job in sorted(jobs, key=lambda job: job.id, reverse=True)
    ]


def finished_export(web: Web, job: int) -> Path:
    """The folder of an export; raises NotFound where it is none, or not finished, or gone."""
    found = web.queue.get(job)
    folder = _exported(web, found) if found.kind == "export" else None
    if not folder:
        raise NotFound("there is no finished export here", "it may not have ended yet, or be deleted: see /executions")
    return folder


def _exported(web: Web, job: Job) -> Path | None:
    """What an export has written, if it is there."""
    folder = job.output
    if job.state != "done" or not folder or folder.parent != web.workspace.folder or folder.is_symlink():
        return None
    return folder if (folder / MARK).is_file() else None


def _names_file(web: Web, images: Sequence[str]) -> Path:
    """A list of images that a job reads; lists of jobs that are no longer there go."""
    folder = web.workspace.state / "names"
    folder.mkdir(exist_ok=True)
    used = {argument for job in web.queue.jobs() for argument in job.arguments}
    for path in folder.iterdir():
        if f"--names={path}" not in used and path.stat().st_mtime < time.time() - _AN_HOUR:
            path.unlink(missing_ok=True)
    path = folder / f"{secrets.token_hex(8)}.txt"
    write_file(path, "".join(f"{image}\n" for image in images).encode())
    return path


def _settings(operator: str, entry: Entry, **values: Any) -> dict[str, Any]:
    """What the form of an operator is filled with again."""
    return {"operator": operator, "source": f"dataset:{entry.id}", "values": values}


def free_name(web: Web, entry: Entry) -> str:
    """A name that a new dataset could have."""
    taken = {path.name.casefold() for path in web.workspace.folder.iterdir()}
    taken |= {job.output.name.casefold() for job in web.queue.jobs() if job.output}
    names = (f"{entry.folder.name[:60]}-curated{f'-{number}' if number > 1 else ''}" for number in count(1))
    return next(name for name in names if name.casefold() not in taken)
