"""The command that takes in what others have written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from imagemill.commands.shared import command_parser
from imagemill.flags import add_parameters, given, parse
from imagemill.terminal import Terminal, number

_LINE_EVERY = 10.0
"""Seconds between lines of progress."""


def import_(arguments: Sequence[str]) -> int:
    """Make a dataset of what others have written."""
    from imagemill.operators.import_ import Import, count, execute, prepare

    parser = command_parser(
        "import",
        epilog="imagemill import pictures -o out\n"
        "imagemill import shards -o out --layout webdataset\n"
        "imagemill import hf://datasets/user/name -o out\n"
        "The same command again continues.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder or an archive of pictures, an export, a table with pictures in it, or a dataset on the hub",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the dataset to write")
    parser.add_argument("--dry-run", action="store_true", help="show what there is to do, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    add_parameters(parser, "the import", Import)
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    prepared = prepare(parsed.source, parsed.output, given(parsed, Import))
    data = {"output": str(prepared.output), "layout": prepared.source.layout, "splits": list(prepared.source.splits)}
    if parsed.dry_run:
        found = count(prepared)
        terminal.say(_line(sum(found.values()), prepared.source.layout, found))
        terminal.data({**data, "splits": found, "bytes": _bytes(Path(parsed.source))}, str(prepared.output))
        return 0
    last = time.monotonic()

    def tell(what: str, pictures: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_EVERY:
            last = time.monotonic()
            terminal.say(f"{number(pictures, 'picture')} {what}")

    outcome = execute(prepared, tell)
    images = {split: dataset.counts().done for split, dataset in outcome.datasets.items()}
    terminal.say(_line(outcome.taken, prepared.source.layout, images))
    if outcome.restored:
        terminal.say("the records are those that were exported")
    for note in outcome.notes:
        terminal.say(note)
    if outcome.done_before:
        terminal.say("imported before, and the source has not changed since")
    if outcome.rejected:
        paths = [str(Path(folder, ".imagemill", "rejects.jsonl")) for folder in outcome.folders.values()]
        terminal.warn(f"{number(outcome.rejected, 'picture')} not taken in: see {', '.join(paths)}")
    told = {"rejected": outcome.rejected, "restored": outcome.restored, "done_before": outcome.done_before}
    terminal.data({**data, "splits": images, **told, "notes": outcome.notes}, str(prepared.output))
    return 3 if outcome.rejected else 0


def _bytes(source: Path) -> int | None:
    """What a source takes on the disk; None where it is elsewhere."""
    if not source.exists():
        return None
    files = [source] if source.is_file() else source.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _line(pictures: int, layout: str, splits: dict[str, int]) -> str:
    """For instance `12 pictures · imagefolder · train 10, test 2`."""
    told = ", ".join(f"{split} {count:,}" for split, count in splits.items())
    return f"{number(pictures, 'picture')} · {layout}{f' · {told}' if len(splits) > 1 else ''}"
