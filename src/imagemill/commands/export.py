"""The command that writes datasets for other tools."""

from __future__ import annotations

import time
from collections.abc import Sequence

from imagemill.commands.shared import command_parser
from imagemill.flags import add_parameters, given, parse
from imagemill.terminal import Terminal, duration, number


def export(arguments: Sequence[str]) -> int:
    """Write a dataset in a layout."""
    from imagemill.component import component_names, find_component
    from imagemill.operators.export import Export, execute, prepare

    parser = command_parser(
        "export",
        epilog="imagemill export out parquet -o out-parquet\n"
        "imagemill export out imagefolder -o out-plain\n"
        'imagemill export out webdataset -o shards --image-format jpeg --where "alignment > 0.28"\n'
        "What was written is loaded back and compared before it appears.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="a dataset, or a folder of datasets that become splits")
    parser.add_argument("layout", metavar="LAYOUT", help="how it is written, see `imagemill layouts`")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the folder to write")
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
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    parameters = {"layout": parsed.layout, **given(parsed, Export, *layouts.values())}
    prepared = prepare(parsed.dataset, parsed.output, parameters)
    data = {
        "output": str(prepared.output),
        "layout": parsed.layout,
        "parameters": prepared.mark["parameters"],
        "splits": prepared.images,
        "done_before": prepared.done,
    }
    splits = f" · {', '.join(f'{name} {count:,}' for name, count in prepared.images.items())}"
    images = sum(prepared.images.values())
    total = sum(map(len, prepared.datasets.values())) if prepared.options.where else images
    some = f"{images:,} of " if images < total else ""
    terminal.say(f"{some}{number(total, 'image')} · {parsed.layout}{splits if len(prepared.images) > 1 else ''}")
    for dataset in prepared.datasets.values():
        counts = dataset.counts()
        left = counts.pending + sum(counts.failed.values())
        if left:
            terminal.say(f"`{dataset.folder}` lacks {number(left, 'image')}: exported as it stands")
    if not prepared.done and not parsed.dry_run:
        start = time.monotonic()
        for note in execute(prepared):
            terminal.say(note)
        terminal.say(f"written, loaded back and compared in {duration(time.monotonic() - start)}")
    elif prepared.done:
        terminal.say("exported before, and the dataset has not changed since")
    terminal.data(data, str(prepared.output))
    return 0
