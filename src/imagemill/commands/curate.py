"""Commands that take datasets apart, put them together, write edits into them, and take images down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.commands.shared import command_parser
from imagemill.errors import UsageError
from imagemill.flags import add_parameters, given, parse
from imagemill.terminal import Terminal, number

if TYPE_CHECKING:
    from imagemill.operators.remove import Found


def remove(arguments: Sequence[str]) -> int:
    """Take images down."""
    from imagemill.dataset import Dataset
    from imagemill.operators.remove import Remove, execute, find, finding

    parser = command_parser(
        "remove",
        epilog='imagemill remove out --id prompt_12_image_0 --reason "reported by the person shown"\n'
        "imagemill remove out --from-file reported.txt\n"
        'imagemill remove out --prompt "a portrait of somebody" --dry-run\n'
        "An id of a row means all of its images. What is removed cannot be brought back.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="the dataset's folder")
    parser.add_argument(
        "--id",
        nargs="+",
        action="extend",
        default=[],
        metavar="ID",
        help="images by their file names, with or without extension, or rows by their ids",
    )
    parser.add_argument(
        "--from-file", metavar="FILE", help="the same, one on each line of a text file; `# ` begins a comment"
    )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="rows by their prompt, letter by letter; can be given several times",
    )
    parser.add_argument("--reason", default="", metavar="TEXT", help="why; it stays on file")
    parser.add_argument(
        "--ignore-unknown",
        action="store_true",
        help="pass over what this dataset has no image or row of, such as in a list for several datasets",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be removed, and remove nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    ids = [*parsed.id, *(_lines(parsed.from_file) if parsed.from_file else ())]
    asked = {"ids": ids, "prompts": parsed.prompt, "reason": parsed.reason, "ignore_unknown": parsed.ignore_unknown}
    options = Remove.parse(asked, "remove")
    dataset = Dataset(parsed.dataset)
    if parsed.dry_run:
        found = find(dataset, options)
        _tell(terminal, found, "would be removed")
    else:
        with finding(dataset, options) as found:
            execute(dataset, found)
        _tell(terminal, found, "removed")
        if found.images:
            terminal.say("datasets selected, merged or exported from this one before still have what they took over")
    data = {
        "dataset": str(dataset.folder),
        "images": list(found.images),
        "failures": list(found.failures),
        "made_from": list(found.made_from),
        "same_bytes": list(found.same_bytes),
        "left_out": list(found.left_out),
        "sources": found.sources,
        "removed_before": list(found.before),
        "rows": sorted(event["row"] for event in found.removal["events"] if "row" in event),
        "unknown": list(found.unknown),
    }
    terminal.data(data, str(dataset.folder))
    return 0


def _lines(path: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {error.strerror}", "name a text file, one id on a line") from None
    except ValueError:
        raise UsageError(f"`{path}` is not UTF-8 text", "name a text file, one id on a line") from None
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("# ")]
    if not lines:
        raise UsageError(f"`{path}` names nothing", "write one id on a line")
    return lines


def _tell(terminal: Terminal, found: Found, what: str) -> None:
    """Say what goes, and what does not go by itself."""
    parts = [number(len(found.images), "image")]
    parts += [number(len(found.failures), "failed request")] if found.failures else []
    parts += [number(found.sources, "source picture")] if found.sources else []
    parts += [f"{number(len(found.left_out), 'line')} on what was left out"] if found.left_out else []
    terminal.say(f"{', '.join(parts)} {what}")
    if found.unmade:
        terminal.say(f"{number(len(found.unmade), 'row')} without an image yet {what}: of them none is made")
    if found.made_from:
        terminal.say(f"among them, since they were made from one that goes: {', '.join(found.made_from)}")
    if found.before:
        terminal.say(f"removed before: {number(len(found.before), 'name')}: {', '.join(found.before)}")
    if found.unknown:
        terminal.say(f"passed over, since nobody knows them here: {', '.join(found.unknown)}")
    if found.same_bytes:
        terminal.warn(f"these have the same bytes as an image that goes, and stay: {', '.join(found.same_bytes)}")


def apply(arguments: Sequence[str]) -> int:
    """Write edits into the records, or take them out again."""
    from imagemill.dataset import Dataset
    from imagemill.dataset.applying import apply, last_applied, pending, take_back

    parser = command_parser(
        "apply",
        epilog="imagemill apply out --dry-run\n"
        "imagemill apply out\n"
        "imagemill apply out --undo\n"
        "What people decide in the web app lies beside a dataset until then. All images stay:\n"
        "`imagemill select out -o new --edits` makes a new dataset without those that are rejected.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="the dataset's folder")
    parser.add_argument(
        "--undo",
        nargs="?",
        type=int,
        const=0,
        metavar="NUMBER",
        help="take what was applied last out again, where it is pending then; with a number only if it is that batch",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be changed, and change nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    dataset = Dataset(parsed.dataset)
    undo = parsed.undo is not None
    if parsed.dry_run:
        batch = last_applied(dataset) if undo else pending(dataset)
    else:
        batch = take_back(dataset, parsed.undo or None) if undo else apply(dataset)
    verb = "taken back" if undo else "applied"
    if batch:
        columns = ", ".join(f"`{name}`" for name in batch.columns)
        told = f"{'would be ' if parsed.dry_run else ''}{verb}"
        terminal.say(f"edits of {number(batch.images, 'image')} {told}: {columns}")
        if batch.added and not undo:
            terminal.say(f"new columns: {', '.join(f'`{name}`' for name in batch.added)}")
    else:
        terminal.say("nothing to take back" if undo else "no edits to apply")
    data = {
        "dataset": str(dataset.folder),
        "images": batch.images if batch else 0,
        "columns": batch.columns if batch else [],
        "added": list(batch.added) if batch else [],
    }
    terminal.data(data, str(dataset.folder))
    return 0


def merge(arguments: Sequence[str]) -> int:
    """Put datasets together."""
    from imagemill.operators.merge import Merge, prepare, write

    parser = command_parser(
        "merge",
        epilog="imagemill merge first second third -o all\n"
        "imagemill merge drawn photographed -o both --columns common\n"
        "Equal images stay as often as they come: `imagemill select --deduplicate exact` keeps one of each.",
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="the datasets, in order; they stay as they are")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the dataset to write")
    parser.add_argument("--dry-run", action="store_true", help="check everything, and write nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    add_parameters(parser, "the merge", Merge)
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    prepared = prepare(parsed.datasets, parsed.output, given(parsed, Merge))
    merging = prepared.merging
    images = {own.name: own.images for own in merging.inputs}
    told = " · ".join(f"{name} {count:,}" for name, count in images.items())
    terminal.say(f"{number(sum(images.values()), 'image')} of {len(images)} datasets: {told}")
    for own in merging.inputs:
        counts = own.dataset.counts()
        if left := counts.pending + sum(counts.failed.values()):
            terminal.say(f"`{own.dataset.folder}` lacks {number(left, 'image')}: merged as it stands")
    for name, count in prepared.renamed.items():
        verb = "means" if count == 1 else "mean"
        terminal.say(f"{number(count, 'id')} of `{name}` {verb} another prompt elsewhere: `{name}:` stands before it")
    if merging.dropped:
        terminal.say(f"left out, since not common to all: {', '.join(merging.dropped)}")
    if prepared.done:
        terminal.say("done before")
    elif not parsed.dry_run:
        write(prepared)
    data = {
        "dataset": str(prepared.folder),
        "images": images,
        "columns": list(merging.columns),
        "left_out": list(merging.dropped),
        "renamed_ids": prepared.renamed,
        "done_before": prepared.done,
    }
    terminal.data(data, str(prepared.folder))
    return 0


def split(arguments: Sequence[str]) -> int:
    """Divide a dataset."""
    from imagemill.commands.select import select
    from imagemill.dataset import Dataset

    parser = command_parser(
        "split",
        epilog="imagemill split out -o parted train=0.9 test=0.1\n"
        "imagemill split out -o shares --into 4\n"
        "The same as `imagemill select --split`, for all images of a dataset.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="where the images come from; it stays as it is")
    shares = parser.add_argument(
        "shares",
        nargs="+",
        metavar="NAME=SHARE",
        help="the datasets with their shares of the images, which add up to 1",
    )
    shares.required = False
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the folder for the datasets")
    parser.add_argument(
        "--into", type=int, metavar="N", help="so many datasets with equal shares, such as for several machines"
    )
    parser.add_argument("--seed", default="0", metavar="N", help="decides which prompt goes where [default: 0]")
    parser.add_argument("--dry-run", action="store_true", help="show the counts, and write nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    parsed = parse(parser, arguments)
    if bool(parsed.shares) == (parsed.into is not None):
        raise UsageError("split: one of shares and `--into` says how", "give train=0.9 test=0.1, or --into 4")
    if parsed.into is not None and not 2 <= parsed.into <= _MOST:
        raise UsageError(f"split: `--into`: from 2 to {_MOST:,}, got: `{parsed.into}`", "give a number in that range")
    named = parsed.shares or [f"split_{place}" for place in range(parsed.into)]
    flags = [flag for name in ("quiet", "json", "dry_run") if getattr(parsed, name) for flag in [_flag(name)]]
    counts = Dataset(parsed.dataset).counts()
    if left := counts.pending + sum(counts.failed.values()):
        terminal = Terminal(parsed.quiet, parsed.json)
        terminal.say(f"`{parsed.dataset}` lacks {number(left, 'image')}: divided as it stands")
    return select([parsed.dataset, "-o", parsed.output, "--split", ",".join(named), "--seed", parsed.seed, *flags])


_MOST = 1_000


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
