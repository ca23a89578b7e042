"""The command that writes datasets for other tools, and sends them to where others read."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imagemill.commands.shared import command_parser
from imagemill.flags import add_parameters, given, parse
from imagemill.terminal import Terminal, duration, number, size

if TYPE_CHECKING:
    from imagemill.operators.export import Prepared


def export(arguments: Sequence[str]) -> int:
    """Write a dataset in a layout."""
    from imagemill.component import component_names, find_component
    from imagemill.operators.export import Export, execute, prepare
    from imagemill.publishing.publish import check_local, split_options
    from imagemill.publishing.target import Publish, is_url

    parser = command_parser(
        "export",
        epilog="imagemill export out parquet -o out-parquet\n"
        "imagemill export out imagefolder -o out-plain\n"
        'imagemill export out webdataset -o shards --image-format jpeg --where "alignment > 0.28"\n'
        "imagemill export out parquet -o hf://user/name --license cc-by-4.0\n"
        "What was written is loaded back and compared before it appears.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="a dataset, or a folder of datasets that become splits")
    parser.add_argument("layout", metavar="LAYOUT", help="how it is written, see `imagemill layouts`")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="the folder to write, or where to send it: hf://user/name, s3://bucket/prefix, gs://…, az://…",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what there is to do, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    known = component_names("layouts")
    layouts = {name: find_component("layouts", name) for name in known if name in arguments}
    layouts = layouts or {name: find_component("layouts", name) for name in known}
    add_parameters(parser, "the export", Export, skip={"layout"})
    drawn = set(Export.model_fields)
    for name, layout in layouts.items():
        add_parameters(parser, f"the layout `{name}`", layout, skip=drawn)
        drawn |= set(layout.model_fields)
    add_parameters(parser, "the upload", Publish)
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    parameters = {"layout": parsed.layout, **given(parsed, Export, Publish, *layouts.values())}
    if is_url(parsed.output):
        if parsed.quiet:
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        return _publish(parsed.dataset, parsed.output, parameters, parsed.dry_run, terminal)
    check_local(parsed.output, parameters)
    prepared = prepare(parsed.dataset, parsed.output, split_options(parameters)[1])
    data = {
        "output": str(prepared.output),
        "layout": parsed.layout,
        "parameters": prepared.mark["parameters"],
        "splits": prepared.images,
        "bytes": prepared.bytes(),
        "done_before": prepared.done,
    }
    _tell(prepared, terminal)
    if not prepared.done and not parsed.dry_run:
        start = time.monotonic()
        for note in execute(prepared):
            terminal.say(note)
        terminal.say(f"written, loaded back and compared in {duration(time.monotonic() - start)}")
    elif prepared.done:
        terminal.say("exported before, and the dataset has not changed since")
    terminal.data(data, str(prepared.output))
    return 0


def _publish(dataset: str, url: str, parameters: dict[str, Any], dry_run: bool, terminal: Terminal) -> int:
    """Send an export to where others read it."""
    from imagemill.publishing.publish import execute, prepare

    upload = prepare(dataset, url, parameters)
    prepared = upload.prepared
    _tell(prepared, terminal)
    for note in upload.notes:
        terminal.warn(note)
    files, count = upload.measure()
    what = f"{number(files, 'file' if upload.written else 'picture')}, {size(count)}"
    data = {
        "output": url,
        "place": upload.target.place,
        "layout": parameters["layout"],
        "parameters": prepared.mark["parameters"],
        "splits": prepared.images,
        "files": files,
        "bytes": count,
        "holds": upload.state.holds,
        "done_before": upload.done,
    }
    if upload.done:
        terminal.say(f"uploaded before, and the dataset has not changed since: {upload.target.place}")
    if dry_run:
        before = {"another": ", in place of an earlier export", "half": ", where an upload was interrupted"}
        if not upload.done:
            terminal.say("nothing stands against it: there is a license, no secret was found, no image is rejected")
            terminal.say(f"would upload {what}, to {upload.target.place}{before.get(upload.state.holds, '')}")
    else:
        start = time.monotonic()
        execute(upload, terminal.say)
        if not upload.done:
            terminal.say(
                f"written, uploaded and compared in {duration(time.monotonic() - start)}: {upload.target.place}"
            )
    terminal.data(data, url)
    return 0


def _tell(prepared: Prepared, terminal: Terminal) -> None:
    """Say what is exported."""
    splits = f" · {', '.join(f'{name} {count:,}' for name, count in prepared.images.items())}"
    images = sum(prepared.images.values())
    total = sum(map(len, prepared.datasets.values())) if prepared.options.where else images
    some = f"{images:,} of " if images < total else ""
    layout = prepared.layout.component_name()
    terminal.say(f"{some}{number(total, 'image')} · {layout}{splits if len(prepared.images) > 1 else ''}")
    for dataset in prepared.datasets.values():
        counts = dataset.counts()
        left = counts.pending + sum(counts.failed.values())
        if left:
            terminal.say(f"`{dataset.folder}` lacks {number(left, 'image')}: exported as it stands")
