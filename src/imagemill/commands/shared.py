"""What commands share: their parsers, and how they tell of a dataset."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from imagemill.commands import COMMANDS
from imagemill.flags import Parser
from imagemill.terminal import Terminal, duration, number

if TYPE_CHECKING:
    from imagemill.committing import Report
    from imagemill.dataset import Dataset

_SHOWN = 10
"""Rows that are named."""


def command_parser(command: str, **options: Any) -> Parser:
    """The parser of a command, with what every command takes."""
    parser = Parser(
        prog=f"imagemill {command}",
        description=COMMANDS[command][1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no talk and no progress, only data and errors")
    return parser


def asked_model(arguments: Sequence[str], default: str) -> str:
    """The model that arguments name, whose parameters are not known before."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", default=default)
    return str(parser.parse_known_args(arguments)[0].model)


def add_workers(parser: Parser) -> None:
    """Add where work runs."""
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that work [default: 1]")
    parser.add_argument(
        "--devices", default="", metavar="0,1|all", help="CUDA devices: one process on each, instead of `--workers`"
    )


def dataset_parser(command: str) -> Parser:
    """The parser of a command over one dataset."""
    parser = command_parser(command)
    parser.add_argument("dataset", help="the dataset's folder")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    return parser


def status_data(dataset: Dataset) -> dict[str, Any]:
    """How a dataset stands, as programs read it."""
    counts = dataset.counts()
    return {
        "dataset": str(dataset.folder),
        "model": dataset.job["steps"][0]["model"],
        "requests": counts.requests,
        "done": counts.done,
        "failed": counts.failed,
        "removed": counts.removed,
        "pending": counts.pending,
        "rows_read": counts.rows_read,
        "rows_accepted": counts.rows_accepted,
        "rows_rejected": counts.rows_rejected,
        "unknown_outcome": asdict(dataset.unknown_outcome()),
        "unfilled": _unfilled(dataset),
        "writer": dataset.writer,
    }


def _unfilled(dataset: Dataset) -> dict[str, int]:
    """How many images have no value yet in what later steps have added, by the first column of each step."""
    from imagemill.dataset.journal import ColumnJournal, blanks_of, count_pending

    # What people have not decided is no work that is left.
    steps = [step for step in dataset.job["steps"][1:] if step["operator"] not in {"apply", "select"}]
    journals = [ColumnJournal(dataset, blanks) for step in steps if (blanks := blanks_of(step))]
    counts = count_pending(dataset, journals)
    return {journal.name: count for journal, count in zip(journals, counts, strict=True) if count}


def say_rate(terminal: Terminal, report: Report, noun: str = "image") -> None:
    """Say how much a run has done, and how fast."""
    if report.done:
        rate = report.done / report.seconds
        terminal.say(f"{number(report.done, noun)} in {duration(report.seconds)}, {rate:.1f} {noun}s/s")


def by_reason(failed: Mapping[str, int]) -> str:
    """How many have failed for each reason."""
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(failed.items()))


def finish(terminal: Terminal, dataset: Dataset) -> int:
    """Say how a dataset stands at the end of a run; the exit code."""
    counts = dataset.counts()
    if counts.rows_rejected:
        terminal.warn(f"{number(counts.rows_rejected, 'row')} rejected: see {dataset.rejects_file}")
    if counts.failed:
        terminal.say(f"{number(sum(counts.failed.values()), 'request')} failed ({by_reason(counts.failed)})")
        failures = dataset.failures().values()
        never = {line["id"]: line["request"]["prompt"] for line in failures if line["reason"] == "not_accepted"}
        if never:
            terminal.say(f"{number(len(never), 'row')} without all accepted images:")
            shown = list(never.items())[:_SHOWN]
            terminal.say("\n".join(f"  {name}: {prompt:.100}" for name, prompt in shown))
            if len(never) > _SHOWN:
                terminal.say(f"  and {len(never) - _SHOWN:,} more: see {dataset.failures_file}")
        hints = ["the same command with more `--max-tries` draws on"] if never else []
        others = [line for line in failures if line["reason"] != "not_accepted"]
        if others:
            lost = all(not line["request"].get("source_sha256") for line in others)
            looks = lost and dataset.job["steps"][0]["operator"] != "generate"
            again = "the same command looks for the pictures again"
            hints.append(again if looks else f"imagemill retry {shlex.quote(str(dataset.folder))}")
        terminal.say(f"\nhint: {'; '.join(hints)}")
    terminal.data(status_data(dataset), str(dataset.folder))
    return 3 if counts.failed else 0
