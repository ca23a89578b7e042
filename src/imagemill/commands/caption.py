"""The command that describes images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.commands.shared import add_workers, asked_model, by_reason, command_parser, say_rate
from imagemill.errors import SomeFailed, UsageError
from imagemill.flags import add_parameters, given, parse
from imagemill.terminal import Meter, Terminal, number

if TYPE_CHECKING:
    from imagemill.operators.caption import Prepared


def caption(arguments: Sequence[str]) -> int:
    """Fill a column with texts."""
    from imagemill.making.collecting import dataset_of
    from imagemill.models.base import find_text_model
    from imagemill.operators.caption import DEFAULT_MODEL, Caption, check_parameters, execute, prepare

    chosen = Caption.parse({"model": asked_model(arguments, DEFAULT_MODEL)}, "caption")
    model = type(find_text_model(chosen.model_name(), {}))
    parser = command_parser(
        "caption",
        epilog="imagemill caption out\n"
        "imagemill caption out --model Salesforce/blip-image-captioning-base\n"
        'imagemill caption out --model openai:NAME --column style --prompt "Which style is this?"\n'
        "The same command again continues after any interruption, and tries failed images again.",
    )
    parser.add_argument(
        "source", metavar="IN", help="a dataset, which gets a column; or a folder of images, or a table with paths"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        help="the dataset that other sources become [default: IMAGEMILL_OUTPUT_DIR, else beside IN]",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what there is to do, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    add_workers(parser)
    add_parameters(parser, "the captions", Caption)
    add_parameters(parser, f"the model `{model.component_name()}`", model, skip=Caption.model_fields)
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    # Before pictures are taken in, so that a wrong parameter leaves nothing behind.
    check_parameters(given(parsed, Caption, model))
    if parsed.dry_run and (parsed.output or not (Path(parsed.source) / "job.toml").is_file()):
        raise UsageError("`--dry-run` looks at a dataset, and other pictures become one first", "leave it out")
    dataset = dataset_of(parsed.source, parsed.output, "captioned")
    prepared = prepare(dataset, given(parsed, Caption, model), parsed.workers, parsed.devices)
    counts = dataset.counts()
    taken_in = not dataset.job["steps"][0]["model"]
    if taken_in and (counts.rows_rejected or counts.failed):
        bad = counts.rows_rejected + sum(counts.failed.values())
        terminal.warn(f"{number(bad, 'picture')} not taken in: see {dataset.rejects_file} and {dataset.failures_file}")
    terminal.say(_plan_line(prepared))
    if parsed.dry_run:
        terminal.data(_data(prepared), str(dataset.folder))
        return 0
    try:
        with Meter(terminal, prepared.pending) as meter:
            report = execute(prepared, meter)
    except SomeFailed:
        if parsed.json:
            terminal.data(_data(prepared), "")
        raise
    say_rate(terminal, report)
    data = _data(prepared)
    if data["failed"]:
        terminal.say(f"{number(sum(data['failed'].values()), 'image')} not described ({by_reason(data['failed'])})")
        terminal.say("\nhint: the same command tries them again")
    terminal.data(data, str(dataset.folder))
    return 3 if data["failed"] or (taken_in and counts.failed) else 0


def _plan_line(prepared: Prepared) -> str:
    each = prepared.options.captions_per_image
    parts = [
        f"{number(prepared.pending, 'image')} to describe" + (f" × {each}" if each > 1 else ""),
        prepared.info.name,
        f"column `{prepared.options.column}`",
    ]
    if prepared.pending < prepared.images:
        parts.append(f"{prepared.images - prepared.pending:,} done before")
    return " · ".join(parts)


def _data(prepared: Prepared) -> dict[str, Any]:
    """How the column stands, as programs read it."""
    from imagemill.dataset.journal import ColumnJournal

    journal = ColumnJournal(prepared.dataset, prepared.options.blanks())
    pending = sum(map(journal.is_pending, prepared.dataset))
    failed = Counter(failure["reason"] for failure in journal.failures())
    return {
        "dataset": str(prepared.dataset.folder),
        "column": prepared.options.column,
        "model": prepared.info.name,
        "captions_per_image": prepared.options.captions_per_image,
        "images": prepared.images,
        "done": prepared.images - pending,
        "failed": dict(failed),
        "pending": pending - failed.total(),
    }
