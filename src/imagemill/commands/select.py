"""The command that keeps some images of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imagemill.commands.shared import command_parser
from imagemill.flags import add_parameters, given, parse
from imagemill.terminal import Terminal, number


def select(arguments: Sequence[str]) -> int:
    """Make a smaller dataset."""
    from imagemill.operators.select import Select, choose, prepare, selected, selection_of, write

    parser = command_parser(
        "select",
        epilog='imagemill select out -o good --where "alignment > 0.28 and image_nsfw < 0.1"\n'
        "imagemill select out -o best --top 1 --per prompt --by alignment\n"
        "imagemill select out -o parted --deduplicate perceptual --split train=0.9,test=0.1\n"
        "Steps follow each other in this order: where, deduplicate, top, balance, sample, split.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="where the images come from; it stays as it is")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        help="the dataset to write [default: IMAGEMILL_OUTPUT_DIR, else beside DATASET]",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be kept, and write nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    add_parameters(parser, "the selection", Select)
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    prepared = prepare(parsed.dataset, parsed.output, given(parsed, Select))

    def tell(kept: dict[str, int], left_out: dict[str, int]) -> dict[str, Any]:
        total = sum(kept.values()) + sum(left_out.values())
        terminal.say(f"{sum(kept.values()):,} of {number(total, 'image')} kept")
        for kind, count in left_out.items():
            terminal.say(f"  {count:,} left out: {kind}")
        splits = {name: count for name, count in kept.items() if name}
        if splits:
            terminal.say(" · ".join(f"{name} {count:,}" for name, count in splits.items()))
        return {
            "dataset": str(prepared.folder),
            "source": str(prepared.dataset.folder),
            "images": total,
            "kept": sum(kept.values()),
            "left_out": left_out,
            "splits": splits,
        }

    if prepared.done:
        found = selected(prepared)
        datasets = found if isinstance(found, dict) else {"": found}
        left_out = selection_of(next(iter(datasets.values())))["left_out"]
        data = tell({name: len(dataset) for name, dataset in datasets.items()}, left_out)
        terminal.say("done before")
    else:
        chosen = choose(prepared)
        data = tell(chosen.counts, chosen.choice.left_out())
        if not parsed.dry_run:
            write(prepared, chosen)
    terminal.data(data, str(prepared.folder))
    return 0
