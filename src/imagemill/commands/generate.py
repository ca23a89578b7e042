"""Commands that make images."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.commands.datasets import write_sheet
from imagemill.commands.shared import (
    add_workers,
    asked_model,
    command_parser,
    dataset_parser,
    finish,
    say_rate,
    status_data,
)
from imagemill.errors import LimitReached, SomeFailed
from imagemill.flags import Parser, add_parameters, given, parse
from imagemill.terminal import Meter, Terminal, duration, number, size

if TYPE_CHECKING:
    from imagemill.making.preparation import Making, Prepared
    from imagemill.records import Request

_CONTINUES = "The same command again continues after any interruption."
_EXAMPLE_COUNT = 3
"""Final prompts that a dry run prints."""
_FIRST = 20
"""Final prompts that it tells to programs."""
_LOOKED_AT = 30_000
"""Images among which they are looked for."""


def generate(arguments: Sequence[str]) -> int:
    """Make a dataset from prompts."""
    from imagemill.operators.generate import Generate

    parser = command_parser(
        "generate",
        epilog="imagemill generate prompts.csv -o out --images-per-prompt 4 --seed 42\n"
        "imagemill generate prompts.csv -o out --dry-run\n" + _CONTINUES,
    )
    parser.add_argument(
        "table", help="CSV, TSV, JSONL, JSON, TXT or Parquet, also .gz or .zst; `-` for stdin; a Hugging Face dataset"
    )
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the dataset, new or to be continued")
    return _make(parser, Generate, arguments, lambda parsed: (parsed.table, Path(parsed.output)))


def augment(arguments: Sequence[str]) -> int:
    """Make a dataset from pictures and captions."""
    from imagemill.operators.augment import Augment

    parser = command_parser(
        "augment",
        epilog="imagemill augment photos -o more --model MODEL --strength 0.8 --images-per-sample 3\n"
        "imagemill augment table.jsonl -o more --caption-column text --drop-original\n" + _CONTINUES,
    )
    return _make(parser, Augment, arguments, _from_pictures(parser, "augmented"))


def edit(arguments: Sequence[str]) -> int:
    """Make a dataset from pictures and instructions."""
    from imagemill.operators.edit import Edit

    parser = command_parser(
        "edit",
        epilog="imagemill edit table.jsonl -o edited --model MODEL --instruction-column instruction\n" + _CONTINUES,
    )
    return _make(parser, Edit, arguments, _from_pictures(parser, "edited"))


def _from_pictures(parser: Parser, made: str) -> Callable[[Namespace], tuple[str, Path]]:
    """Add where pictures come from and go to; returns what reads both."""
    from imagemill.making.intake import output_for

    parser.add_argument("source", metavar="IN", help="a dataset, a folder of images, or a table with a column of paths")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        help="the dataset, new or to be continued [default: IMAGEMILL_OUTPUT_DIR, else beside IN]",
    )
    return lambda parsed: (parsed.source, output_for(parsed.source, parsed.output, made))


def _make(
    parser: Parser,
    operator: type[Making],
    arguments: Sequence[str],
    places: Callable[[Namespace], tuple[str, Path]],
) -> int:
    """Make a dataset; `places` reads from the arguments where it comes from and goes to."""
    from imagemill.making.execution import execute, raise_if_all_failed
    from imagemill.making.preparation import DEFAULT_MODEL, prepare
    from imagemill.models.base import find_model

    name = asked_model(arguments, DEFAULT_MODEL)
    model = type(find_model(operator.family.get(name, name), {}))
    parser.add_argument(
        "--dry-run", action="store_true", help="show the plan and the first final prompts, make nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the plan or the result as JSON on stdout")
    add_workers(parser)
    add_parameters(parser, "the job", operator)
    add_parameters(parser, f"the model `{model.component_name()}`", model, skip=operator.model_fields)
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    source, output = places(parsed)
    prepared = prepare(operator, source, output, given(parsed, operator, model), parsed.workers, parsed.devices)
    for line in prepared.talk:
        terminal.say(line)
    if prepared.info.note and "model" not in vars(parsed):
        terminal.say(prepared.info.note)
    terminal.say(_plan_line(prepared))
    if parsed.dry_run:
        first = _first_prompts(prepared)
        prompts = list(dict.fromkeys(each["prompt"] for each in first))[:_EXAMPLE_COUNT]
        if prompts or parsed.json:
            terminal.data(_plan_data(prepared, first), "\n".join(prompts))
        return 0
    from imagemill.dataset import Dataset

    try:
        with Meter(terminal, prepared.pending) as meter:
            report = execute(prepared, meter)
        dataset = Dataset(output)
        raise_if_all_failed(dataset)
    except (SomeFailed, LimitReached):
        if parsed.json:
            terminal.data(status_data(Dataset(output)), "")
        raise
    say_rate(terminal, report)
    code = finish(terminal, dataset)
    if prepared.quota:
        from imagemill.making.quota import unscored

        count = unscored(dataset, prepared.quota)
        if count:
            terminal.say(f"{number(count, 'image')} not scored, and so neither accepted nor drawn again")
            terminal.say("\nhint: the same command scores them")
            return 3
    return code


def _plan_line(prepared: Prepared) -> str:
    rows, images = len(prepared.plan.rows), len(prepared.plan)
    each = images // rows
    noun = "prompt" if prepared.output.operator == "generate" else "row"
    prompts = number(rows, noun) + (f" × {each}" if each > 1 and images == rows * each else "")
    seconds, total = prepared.estimate()
    address = prepared.output.maker.model_parameters.get("base_url")
    parts = [
        f"{prompts} = {number(images, 'image')}",
        f"{prepared.info.name} at {address}" if address else prepared.info.name,
        "time unknown" if seconds is None else f"~{duration(seconds)}",
        "size unknown" if total is None else size(total),
    ]
    if prepared.info.as_received:
        cost = prepared.cost()
        parts += [number(prepared.calls(), "call"), "cost unknown" if cost is None else f"${cost:,.2f}"]
    counts = _counts(prepared)
    parts += [
        f"{count:,} {said}"
        for count, said in (
            (counts["done"], "done before"),
            (sum(counts["failed"].values()), "failed before"),
            (counts["removed"], "removed"),
        )
        if count
    ]
    if prepared.table.rejects:
        parts.append(f"{number(len(prepared.table.rejects), 'row')} rejected")
    return " · ".join(parts)


def _counts(prepared: Prepared) -> dict[str, Any]:
    """Of the images of a plan, how many have ended before, and how."""
    counts = prepared.counts
    return {
        "done": counts.done if counts else 0,
        "failed": counts.failed if counts else {},
        "removed": counts.removed if counts else 0,
    }


def _kept_requests(prepared: Prepared) -> Iterator[Request]:
    """The requests of a plan without what was removed from its dataset."""
    from imagemill.dataset import Dataset

    if not prepared.found:
        return prepared.plan.requests()
    dataset = Dataset(prepared.output.folder)
    names, rows = dataset.removed, dataset.removed_rows
    return (each for each in prepared.plan.requests() if each.row not in rows and each.name not in names)


def _first_prompts(prepared: Prepared) -> list[dict[str, Any]]:
    """The first prompts as the model gets them, each with what rows or variations set for themselves."""
    plan = prepared.plan
    rows = plan.rows[:_FIRST]
    overrides = [*(row.overrides for row in rows), *(variant.overrides for variant in plan.variants)]
    names = {name for values in overrides for name in values} - {plan.sampling.count_name}
    if any(row.negative_prompt for row in rows):
        names.add("negative_prompt")
    seeded = {row.index for row in rows if "seed" in row.overrides}
    varied = any("seed" in variant.overrides for variant in plan.variants)
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for request in islice(_kept_requests(prepared), _LOOKED_AT):
        if not request.original:
            told = {"prompt": request.prompt, **{name: getattr(request, name) for name in sorted(names)}}
            if not varied and request.row not in seeded:
                # It is drawn, and may be another one next time.
                told.pop("seed", None)
            found.setdefault(tuple(told.values()), told)
        if len(found) == _FIRST:
            break
    return list(found.values())


def _plan_data(prepared: Prepared, first: list[dict[str, Any]]) -> dict[str, Any]:
    seconds, total = prepared.estimate()
    return {
        "prompts": len(prepared.plan.rows),
        "images": len(prepared.plan),
        **_counts(prepared),
        "pending": prepared.pending,
        "model": prepared.info.name,
        "calls": prepared.calls(),
        "cost": prepared.cost(),
        "seconds": seconds,
        "bytes": total,
        "rows_rejected": len(prepared.table.rejects),
        "first_prompts": first,
    }


def retry(arguments: Sequence[str]) -> int:
    """Make failed requests again."""
    from imagemill.dataset import Dataset
    from imagemill.making.retrying import model_of, retry

    parser = dataset_parser("retry")
    parser.add_argument("--reason", action="append", default=[], help="only those that failed so; may be repeated")
    add_workers(parser)
    # How a model can be called is known when its dataset is.
    there = [argument for argument in arguments if (Path(argument) / "job.toml").is_file()]
    model = type(model_of(Dataset(there[0]))) if there else None
    if model:
        written = {name for name, field in model.model_fields.items() if not field.exclude}
        add_parameters(parser, f"how the model `{model.component_name()}` is called this time", model, skip=written)
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    dataset = Dataset(parsed.dataset)
    failed = dataset.counts().failed
    with Meter(terminal, sum(failed.get(reason, 0) for reason in parsed.reason or failed)) as meter:
        settings = given(parsed, model) if model else {}
        report = retry(dataset, parsed.reason, parsed.workers, parsed.devices, meter, **settings)
    terminal.say(f"{number(report.total, 'request')} tried again · {number(report.done, 'image')} made")
    if report.done and dataset.job["steps"][0].get("accept"):
        terminal.say("hint: the command that made the dataset scores them, and says which are accepted")
    return finish(terminal, Dataset(parsed.dataset))


def demo(arguments: Sequence[str]) -> int:
    """Make 24 images with the built-in model."""
    from imagemill.models.shapes import EXAMPLES

    parser = command_parser("demo")
    parser.add_argument("-o", "--output", default="imagemill-demo", metavar="FOLDER", help="default: imagemill-demo")
    parsed = parse(parser, arguments)
    import imagemill

    terminal = Terminal(parsed.quiet)
    terminal.say(
        f"{number(2 * len(EXAMPLES), 'image')} of {number(len(EXAMPLES), 'prompt')}, made by the model `shapes`"
    )
    with Meter(terminal, 2 * len(EXAMPLES)) as meter:
        dataset = imagemill.generate(EXAMPLES, parsed.output, images_per_prompt=2, seed=7, progress=meter)
    folder = Path(parsed.output).resolve()
    sheet = folder.with_name(f"{folder.name}.png")
    write_sheet(dataset, sheet, 2 * len(EXAMPLES), 6)
    terminal.say(f"the dataset is in {parsed.output}, all its images on one sheet in {os.path.relpath(sheet)}")
    print(parsed.output)
    return 0
