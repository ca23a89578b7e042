"""The command that fetches parts, subsets and tables of DiffusionDB, and of what is in its layout."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imagemill.commands.shared import command_parser
from imagemill.flags import add_parameters, given, parse
from imagemill.terminal import Terminal, duration, number, size

if TYPE_CHECKING:
    from imagemill.downloading.work import Outcome, Prepared, Progress

_LINE_EVERY = 10.0
"""Seconds between lines of progress where there is no terminal."""
_SHOWN = 20
"""Files that could not be had and are named."""


def download(arguments: Sequence[str]) -> int:
    """Fetch a dataset in the layout of DiffusionDB."""
    from imagemill.downloading.options import Download
    from imagemill.downloading.work import Outcome, connected, execute, prepare

    parser = command_parser(
        "download",
        epilog="imagemill download poloclub/diffusiondb -o diffusiondb --parts 1-20 --unzip\n"
        "imagemill download poloclub/diffusiondb -o random-1k --subset random-1k --seed 7\n"
        "imagemill download poloclub/diffusiondb -o prompts --metadata-only --large\n"
        "The same command again fetches what is missing.",
    )
    parser.add_argument("repository", metavar="REPO", help="a dataset on the Hugging Face hub, in DiffusionDB's layout")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the folder to write")
    parser.add_argument("--dry-run", action="store_true", help="show what there is to fetch, and fetch nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    add_parameters(parser, "the download", Download)
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    options = Download.parse(given(parsed, Download), "download")
    with connected(parsed.repository, options) as repository:
        prepared = prepare(repository, parsed.output, options)
        terminal.say(_planned(prepared))
        outcome = Outcome()
        if not prepared.done and not parsed.dry_run:
            start = time.monotonic()
            with _Meter(terminal) as meter:
                outcome = execute(prepared, meter)
            told = f"{number(len(outcome.fetched), 'file')} in {duration(time.monotonic() - start)}"
            terminal.say("\n".join([f"{told}, {size(outcome.received)}", *outcome.notes]))
    return _finish(terminal, prepared, outcome, parsed.dry_run)


def _planned(prepared: Prepared) -> str:
    options = prepared.options
    if prepared.done:
        return f"everything is there already, of commit {prepared.repository.commit[:12]}"
    wanted = [number(len(prepared.parts), "part")] if prepared.parts else []
    if options.chosen:
        kind = "drawn" if options.chosen.random else "first"
        wanted = [f"{options.chosen.count:,} {kind} images of {len(prepared.contents.parts):,} parts"]
    wanted += [f"`{file.path}`" for file in prepared.files]
    about = "about " if options.chosen else ""
    there = f" · {len(prepared.there):,} there already" if prepared.there else ""
    return f"{', '.join(wanted)} · {about}{size(prepared.size)} · {size(prepared.free)} free{there}"


def _finish(terminal: Terminal, prepared: Prepared, outcome: Outcome, dry_run: bool) -> int:
    """Say what is there and what is not; the exit code."""
    from imagemill.foreign.diffusiondb import TABLES

    failed = outcome.failed
    if failed:
        lines = [f"  {name}: {reason}" for name, reason in list(failed.items())[:_SHOWN]]
        more = [f"  and {len(failed) - _SHOWN:,} more"] if len(failed) > _SHOWN else []
        terminal.warn("\n".join([f"{number(len(failed), 'file')} could not be had:", *lines, *more]))
        terminal.say("\nhint: the same command tries these again")
    elif not dry_run:
        only, output = prepared.options.metadata_only, prepared.output
        table = output / TABLES[prepared.options.large]
        use = f"query {shlex.quote(str(table))}" if only else f"import {shlex.quote(str(output))} -o DATASET"
        terminal.say(f"\nhint: imagemill {use}")
    data: dict[str, Any] = {
        "output": str(prepared.output),
        "repository": prepared.repository.name,
        "commit": prepared.repository.commit,
        "wanted": {
            "files": [file.path for file in prepared.files],
            "parts": list(prepared.parts),
            "images": prepared.options.chosen.count if prepared.options.chosen else None,
            "bytes": prepared.size,
        },
        "there_before": list(prepared.there),
        "fetched": outcome.fetched,
        "bytes_received": outcome.received,
        "failed": [{"file": name, "reason": reason} for name, reason in failed.items()],
    }
    terminal.data(data, str(prepared.output))
    return 3 if failed else 0


class _Meter:
    """Shows how far a download is: a line that moves on a terminal, plain lines elsewhere."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._last = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty() and not terminal.quiet:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                BarColumn(bar_width=24), TextColumn("{task.description}"), console=Console(stderr=True), transient=True
            )

    def __enter__(self) -> _Meter:
        if self._bar:
            self._bar.start()
            self._bar.add_task("", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show it."""
        if self._bar:
            self._bar.update(0, total=progress.size, completed=progress.received, description=_line(progress))
        elif time.monotonic() - self._last >= _LINE_EVERY:
            self._last = time.monotonic()
            self._terminal.say(_line(progress))


def _line(progress: Progress) -> str:
    """For instance `3/20 files · 1.2 GB of 14 GB · 35 MB/s · 6:12 left · 0 failed`."""
    rate = progress.received / progress.seconds if progress.seconds else 0.0
    left = duration((progress.size - progress.received) / rate) if rate else "?"
    ended = progress.files_done + progress.failed
    bytes_ = f"{size(progress.received)} of {size(progress.size)} · {size(rate)}/s"
    return f"{ended:,}/{progress.files:,} files · {bytes_} · {left} left · {progress.failed:,} failed"
