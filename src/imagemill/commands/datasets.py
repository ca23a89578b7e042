"""Commands that look at a dataset."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.commands.shared import by_reason, dataset_parser, status_data
from imagemill.errors import UsageError
from imagemill.flags import parse
from imagemill.terminal import Terminal, number

if TYPE_CHECKING:
    from imagemill.dataset import Dataset


def status(arguments: Sequence[str]) -> int:
    """Tell how far a dataset is."""
    from imagemill.dataset import Dataset

    parsed = parse(dataset_parser("status"), arguments)
    dataset = Dataset(parsed.dataset)
    data = status_data(dataset)
    made = data["model"] or ("merged" if dataset.job["steps"][0]["operator"] == "merge" else "as they came")
    reasons = by_reason(data["failed"])
    lines = [
        f"{data['dataset']} · {made} · {number(data['requests'], 'image')} asked for",
        (
            f"{data['done']:,} done · {sum(data['failed'].values()):,} failed{f' ({reasons})' if reasons else ''}"
            f"{f' · {removed:,} removed' if (removed := data['removed']) else ''} · {data['pending']:,} pending"
        ),
        (
            f"{number(data['rows_read'], 'row')} read · {data['rows_accepted']:,} accepted"
            f" · {data['rows_rejected']:,} rejected"
        ),
    ]
    unknown = data["unknown_outcome"]
    lines += [f"{number(count, 'image')} without `{name}` yet" for name, count in data["unfilled"].items()]
    if unknown["images"]:
        cost = "at a price nobody knows" if unknown["cost"] is None else f"up to ${unknown['cost']:.2f}"
        now = "in flight, or " if data["writer"] else ""
        lines.append(f"{number(unknown['images'], 'image')} {now}that did not come: may have been charged, {cost}")
    if data["writer"]:
        lines.append(f"being written by {data['writer']}")
    Terminal(as_json=parsed.json).data(data, "\n".join(lines))
    return 0


def verify(arguments: Sequence[str]) -> int:
    """Check a dataset."""
    from imagemill.dataset import Dataset
    from imagemill.dataset.verify import repair, verify

    parser = dataset_parser("verify")
    parser.add_argument("--no-reader", action="store_true", help="do not also load it with `datasets.load_dataset`")
    parser.add_argument(
        "--repair", action="store_true", help="first give up damaged images, for the next `generate` to make them again"
    )
    parsed = parse(parser, arguments)
    dataset = Dataset(parsed.dataset)
    terminal = Terminal(parsed.quiet, parsed.json)
    if parsed.repair:
        lost = repair(dataset)
        again = "`imagemill generate` as before makes them again"
        if any(step["operator"] == "select" for step in dataset.job["steps"]):
            again = "delete this selection and select again, or select into another folder"
        if dataset.job["steps"][0]["operator"] == "merge":
            again = "delete this merge and merge again, or merge into another folder"
        terminal.say(f"{number(lost, 'image')} given up; {again}")
    problems = verify(dataset, reader=not parsed.no_reader)
    counts = dataset.counts()
    if dataset.writer:
        terminal.say(f"being written by {dataset.writer}: not loaded with `datasets`")
    elif not parsed.no_reader and not importlib.util.find_spec("datasets"):
        terminal.say("the package `datasets` is not installed: not loaded with it")
    text = f"{number(counts.done, 'image')}: every file, record, count and seal is right"
    if counts.pending > 0:
        text += f" · {counts.pending:,} still to make"
    terminal.data({"images": counts.done, "problems": problems}, "\n".join(problems) or text)
    return 3 if problems else 0


def reproduce(arguments: Sequence[str]) -> int:
    """Make images again."""
    from imagemill.dataset import Dataset
    from imagemill.reproduction import reproduce

    parser = dataset_parser("reproduce")
    parser.add_argument("name", nargs="+", help="file names of images, such as `prompt_0_image_0.png`")
    parsed = parse(parser, arguments)
    dataset = Dataset(parsed.dataset)
    results = [reproduce(dataset, name) for name in parsed.name]
    text = "\n".join(f"{result.file_name}: {result.verdict}: {result.detail}" for result in results)
    Terminal(as_json=parsed.json).data([asdict(result) for result in results], text)
    return 3 if any(result.verdict == "cannot" for result in results) else 0


def sheet(arguments: Sequence[str]) -> int:
    """Put images on one picture."""
    from imagemill.dataset import Dataset

    parser = dataset_parser("sheet")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.png", help="the picture to write")
    parser.add_argument("--limit", type=int, default=24, metavar="N", help="images shown [default: 24]")
    parser.add_argument("--columns", type=int, default=6, metavar="N", help="images in a row [default: 6]")
    parsed = parse(parser, arguments)
    write_sheet(Dataset(parsed.dataset), Path(parsed.output), parsed.limit, parsed.columns)
    Terminal(as_json=parsed.json).data({"sheet": parsed.output}, parsed.output)
    return 0


def write_sheet(dataset: Dataset, path: Path, limit: int, columns: int) -> None:
    """Write a contact sheet; raises UsageError."""
    from imagemill.contact_sheet import contact_sheet
    from imagemill.dataset.files import make_folder, write_file
    from imagemill.images import decode, encode

    if path.suffix.lower() != ".png":
        raise UsageError(f"a sheet is a PNG, got: `{path}`", f"call it `{path.with_suffix('.png')}`")
    if limit < 1 or columns < 1:
        raise UsageError("a sheet has at least one image and one column", "give `--limit` and `--columns` from 1")

    tiles = []
    pairs = ((part, record) for part in dataset.parts for record in part.records())
    for part, record in islice(pairs, limit):
        shown = [(record["file_name"], record["prompt"])]
        if "input_image_file_name" in record:
            shown.insert(0, (record["input_image_file_name"], "before" if record["turn"] == 1 else ""))
        tiles += [(decode((part.folder / name).read_bytes()), text) for name, text in shown]
    if not tiles:
        raise UsageError(f"`{dataset.folder}` has no image yet", "generate some first")
    make_folder(path.parent)
    write_file(path, encode(contact_sheet(tiles, columns), "png", None, mark=True))
