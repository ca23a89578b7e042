"""The command line: every flag is drawn from a component's fields."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from imagemill.errors import ImagemillError, SomeFailed, UsageError, did_you_mean
from imagemill.flags import Parser, add_parameters, given, parameter_help, parse
from imagemill.terminal import Meter, Terminal, duration, number, size

if TYPE_CHECKING:
    from imagemill.dataset import Dataset
    from imagemill.operators.generate import Prepared

_EXAMPLE_COUNT = 3
"""Final prompts that a dry run shows."""


def _parser(command: str, **options: Any) -> Parser:
    parser = Parser(
        prog=f"imagemill {command}",
        description=COMMANDS[command][1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no talk and no progress, only data and errors")
    return parser


def _add_workers(parser: Parser) -> None:
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that make images [default: 1]")
    parser.add_argument(
        "--devices", default="", metavar="0,1|all", help="CUDA devices: one process on each, instead of `--workers`"
    )


# generate


def _generate(arguments: Sequence[str]) -> int:
    from imagemill.models.base import find_model
    from imagemill.operators.generate import DEFAULT_MODEL, Generate, execute, prepare, raise_if_all_failed

    early = Parser(add_help=False, allow_abbrev=False)
    early.add_argument("--model", default=DEFAULT_MODEL)
    model = type(find_model(early.parse_known_args(arguments)[0].model, {}))
    parser = _parser(
        "generate",
        epilog="imagemill generate prompts.csv -o out --images-per-prompt 4 --seed 42\n"
        "imagemill generate prompts.csv -o out --dry-run\n"
        "The same command again continues after any interruption.",
    )
    parser.add_argument(
        "table", help="CSV, TSV, JSONL, JSON, TXT or Parquet, also .gz or .zst; `-` for stdin; a Hugging Face dataset"
    )
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the dataset, new or to be continued")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the plan and the first final prompts, make nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the plan or the result as JSON on stdout")
    _add_workers(parser)
    add_parameters(parser, "the job", Generate)
    add_parameters(parser, f"the model `{model.component_name()}`", model, skip=Generate.model_fields)
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    prepared = prepare(parsed.table, parsed.output, given(parsed, Generate, model), parsed.workers, parsed.devices)
    for line in prepared.talk:
        terminal.say(line)
    if prepared.info.note and "model" not in vars(parsed):
        terminal.say(prepared.info.note)
    terminal.say(_plan_line(prepared))
    if parsed.dry_run:
        first = islice(prepared.plan.requests(), _EXAMPLE_COUNT * (len(prepared.plan) // len(prepared.plan.rows)))
        prompts = list(dict.fromkeys(request.prompt for request in first))
        terminal.data(_plan_data(prepared, prompts), "\n".join(prompts))
        return 0
    with Meter(terminal, prepared.pending) as meter:
        report = execute(prepared, meter)
    from imagemill.dataset import Dataset

    dataset = Dataset(parsed.output)
    try:
        raise_if_all_failed(dataset)
    except SomeFailed:
        if parsed.json:
            terminal.data(_status_data(dataset), "")
        raise
    if report.done:
        rate = report.done / report.seconds
        terminal.say(f"{number(report.done, 'image')} in {duration(report.seconds)}, {rate:.1f} images/s")
    return _finish(terminal, dataset)


def _plan_line(prepared: Prepared) -> str:
    rows, images = len(prepared.plan.rows), len(prepared.plan)
    each = images // rows
    prompts = number(rows, "prompt") + (f" × {each}" if each > 1 and images == rows * each else "")
    seconds, total = prepared.estimate()
    parts = [
        f"{prompts} = {number(images, 'image')}",
        prepared.info.name,
        "time unknown" if seconds is None else f"~{duration(seconds)}",
        "size unknown" if total is None else size(total),
    ]
    if prepared.counts and prepared.counts.done:
        parts.append(f"{prepared.counts.done:,} done before")
    if prepared.table.rejects:
        parts.append(f"{number(len(prepared.table.rejects), 'row')} rejected")
    return " · ".join(parts)


def _plan_data(prepared: Prepared, prompts: list[str]) -> dict[str, Any]:
    seconds, total = prepared.estimate()
    return {
        "prompts": len(prepared.plan.rows),
        "images": len(prepared.plan),
        "pending": prepared.pending,
        "model": prepared.info.name,
        "seconds": seconds,
        "bytes": total,
        "rows_rejected": len(prepared.table.rejects),
        "first_prompts": prompts,
    }


def _finish(terminal: Terminal, dataset: Dataset) -> int:
    """Say how a dataset stands at the end of a run; the exit code."""
    counts = dataset.counts()
    if counts.rows_rejected:
        terminal.warn(f"{number(counts.rows_rejected, 'row')} rejected: see {dataset.rejects_file}")
    if counts.failed:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.failed.items()))
        terminal.say(f"{number(sum(counts.failed.values()), 'request')} failed ({reasons})")
        terminal.say(f"\nhint: imagemill retry {shlex.quote(str(dataset.folder))}")
    terminal.data(_status_data(dataset), str(dataset.folder))
    return 3 if counts.failed else 0


# one dataset


def _dataset_parser(command: str) -> Parser:
    parser = _parser(command)
    parser.add_argument("dataset", help="the dataset's folder")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    return parser


def _status_data(dataset: Dataset) -> dict[str, Any]:
    counts = dataset.counts()
    return {
        "dataset": str(dataset.folder),
        "model": dataset.job["steps"][0]["model"],
        "requests": counts.requests,
        "done": counts.done,
        "failed": counts.failed,
        "pending": counts.pending,
        "rows_read": counts.rows_read,
        "rows_accepted": counts.rows_accepted,
        "rows_rejected": counts.rows_rejected,
        "writer": dataset.writer,
    }


def _status(arguments: Sequence[str]) -> int:
    from imagemill.dataset import Dataset

    parsed = parse(_dataset_parser("status"), arguments)
    data = _status_data(Dataset(parsed.dataset))
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(data["failed"].items()))
    lines = [
        f"{data['dataset']} · {data['model']} · {number(data['requests'], 'image')} asked for",
        (
            f"{data['done']:,} done · {sum(data['failed'].values()):,} failed{f' ({reasons})' if reasons else ''}"
            f" · {data['pending']:,} pending"
        ),
        (
            f"{number(data['rows_read'], 'row')} read · {data['rows_accepted']:,} accepted"
            f" · {data['rows_rejected']:,} rejected"
        ),
    ]
    if data["writer"]:
        lines.append(f"being written by {data['writer']}")
    Terminal(as_json=parsed.json).data(data, "\n".join(lines))
    return 0


def _retry(arguments: Sequence[str]) -> int:
    from imagemill.dataset import Dataset
    from imagemill.operators.generate import retry

    parser = _dataset_parser("retry")
    parser.add_argument("--reason", action="append", default=[], help="only those that failed so; may be repeated")
    _add_workers(parser)
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    dataset = Dataset(parsed.dataset)
    failed = dataset.counts().failed
    with Meter(terminal, sum(failed.get(reason, 0) for reason in parsed.reason or failed)) as meter:
        report = retry(dataset, parsed.reason, parsed.workers, parsed.devices, meter)
    terminal.say(f"{number(report.total, 'request')} tried again · {number(report.done, 'image')} made")
    return _finish(terminal, Dataset(parsed.dataset))


def _verify(arguments: Sequence[str]) -> int:
    from imagemill.dataset import Dataset
    from imagemill.dataset.verify import repair, verify

    parser = _dataset_parser("verify")
    parser.add_argument("--no-reader", action="store_true", help="do not also load it with `datasets.load_dataset`")
    parser.add_argument(
        "--repair", action="store_true", help="first give up damaged images, for the next `generate` to make them again"
    )
    parsed = parse(parser, arguments)
    dataset = Dataset(parsed.dataset)
    terminal = Terminal(parsed.quiet, parsed.json)
    if parsed.repair:
        lost = repair(dataset)
        terminal.say(f"{number(lost, 'image')} given up; `imagemill generate` as before makes them again")
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


def _reproduce(arguments: Sequence[str]) -> int:
    from dataclasses import asdict

    from imagemill.dataset import Dataset
    from imagemill.reproduction import reproduce

    parser = _dataset_parser("reproduce")
    parser.add_argument("name", nargs="+", help="file names of images, such as `prompt_0_image_0.png`")
    parsed = parse(parser, arguments)
    dataset = Dataset(parsed.dataset)
    results = [reproduce(dataset, name) for name in parsed.name]
    text = "\n".join(f"{result.file_name}: {result.verdict}: {result.detail}" for result in results)
    Terminal(as_json=parsed.json).data([asdict(result) for result in results], text)
    return 3 if any(result.verdict == "cannot" for result in results) else 0


def _sheet(arguments: Sequence[str]) -> int:
    from imagemill.dataset import Dataset

    parser = _dataset_parser("sheet")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.png", help="the picture to write")
    parser.add_argument("--limit", type=int, default=24, metavar="N", help="images shown [default: 24]")
    parser.add_argument("--columns", type=int, default=6, metavar="N", help="images in a row [default: 6]")
    parsed = parse(parser, arguments)
    _write_sheet(Dataset(parsed.dataset), Path(parsed.output), parsed.limit, parsed.columns)
    Terminal(as_json=parsed.json).data({"sheet": parsed.output}, parsed.output)
    return 0


def _write_sheet(dataset: Dataset, path: Path, limit: int, columns: int) -> None:
    from imagemill.dataset.files import make_folder, write_file
    from imagemill.images import contact_sheet, decode, encode

    if path.suffix.lower() != ".png":
        raise UsageError(f"a sheet is a PNG, got: `{path}`", f"call it `{path.with_suffix('.png')}`")
    if limit < 1 or columns < 1:
        raise UsageError("a sheet has at least one image and one column", "give `--limit` and `--columns` from 1")

    tiles = [
        (decode((part.folder / record["file_name"]).read_bytes()), record["prompt"])
        for part, record in islice(((part, record) for part in dataset.parts for record in part.records()), limit)
    ]
    if not tiles:
        raise UsageError(f"`{dataset.folder}` has no image yet", "generate some first")
    make_folder(path.parent)
    write_file(path, encode(contact_sheet(tiles, columns), "png", None, mark=True))


# the rest


def _demo(arguments: Sequence[str]) -> int:
    from imagemill.models.shapes import EXAMPLES

    parser = _parser("demo")
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
    _write_sheet(dataset, sheet, 2 * len(EXAMPLES), 6)
    terminal.say(f"the dataset is in {parsed.output}, all its images on one sheet in {os.path.relpath(sheet)}")
    print(parsed.output)
    return 0


def _models(arguments: Sequence[str]) -> int:
    from imagemill.component import component_names, find_component

    parser = _parser("models")
    parser.add_argument("name", nargs="?", help="one model: its parameters")
    parser.add_argument("--json", action="store_true", help="print JSON; for one model, its JSON Schema")
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    if parsed.name:
        found = find_component("models", parsed.name)
        lines = [f"{parsed.name}: {_summary(parsed.name)}", ""]
        for parameter in found.parameters():
            kind = "|".join(parameter.choices) or parameter.type
            lines.append(f"  {parameter.flag} {kind}\n      {parameter_help(parameter)}")
        terminal.data(found.model_json_schema(), "\n".join(lines))
        return 0
    summaries = {name: _summary(name) for name in component_names("models")}
    width = max(map(len, summaries))
    terminal.data(summaries, "\n".join(f"{name:<{width}}  {text}" for name, text in summaries.items()))
    return 0


def _summary(name: str) -> str:
    """What a model is in one line; a broken plugin does not hide the others."""
    from imagemill.component import find_component

    try:
        return (find_component("models", name).__doc__ or "").partition("\n")[0]
    except ImagemillError as error:
        return f"cannot be used: {error.message}"


def _doctor(arguments: Sequence[str]) -> int:
    from imagemill.doctor import findings

    parser = _parser("doctor")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parsed = parse(parser, arguments)
    found = findings(Path.cwd())
    width = max(map(len, found))
    Terminal(as_json=parsed.json).data(found, "\n".join(f"{name:<{width}}  {text}" for name, text in found.items()))
    return 0


Command = Callable[[Sequence[str]], int]
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COMMANDS: dict[str, tuple[Command, str]] = {
    "demo": (_demo, "make 24 images with the built-in model: no GPU, no key, no network"),
    "generate": (_generate, "a prompt table becomes an image dataset"),
    "status": (_status, "how far a dataset is"),
    "retry": (_retry, "make failed requests again"),
    "verify": (_verify, "check every promise of a dataset again"),
    "reproduce": (_reproduce, "make images again from their records and say how equal they are"),
    "sheet": (_sheet, "put images with their prompts on one picture"),
    "models": (_models, "what can make images, and its parameters"),
    "doctor": (_doctor, "what this machine can run, and why not"),
}


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: imagemill COMMAND …",
            "",
            "A table of prompts becomes an image dataset that anyone can load, trust and make again.",
            "",
            *lines,
            "",
            "`imagemill COMMAND --help` tells more. Start with `imagemill demo`.",
        ]
    )


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors a user can cause are printed without a traceback."""
    try:
        if not arguments or arguments[0] in {"-h", "--help", "help"}:
            print(_overview())
            return 0 if arguments else 2
        if arguments[0] == "--version":
            from imagemill.environment import package_version

            print(f"imagemill {package_version('imagemill')}")
            return 0
        for argument in arguments:
            if not argument.isascii() and argument != argument.encode(errors="replace").decode():
                raise UsageError(f"the argument {argument!a} is not UTF-8 text", "write it in UTF-8")
        if arguments[0] not in COMMANDS:
            raise UsageError(
                f"there is no command `{arguments[0]}`",
                did_you_mean(arguments[0], COMMANDS) or f"commands: {', '.join(COMMANDS)}",
            )
        return COMMANDS[arguments[0]][0](arguments[1:])
    except ImagemillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # Writing has errors of its own; this is a file that cannot be read.
        named = f"`{error.filename}`" if error.filename else "a file"
        print(f"error: {named} cannot be read: {error.strerror}\n\nhint: check its permissions", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        told = ""
        if arguments[0] in {"demo", "generate", "retry"}:
            told = f"; nothing is lost. Continue: {shlex.join(['imagemill', *arguments])}"
        print(f"\ninterrupted{told}", file=sys.stderr)
        return 130


def _interrupt(*_: object) -> NoReturn:
    """Stop in good order at the first signal; the next one has its usual, immediate effect."""
    for signum in _SIGNALS:
        if signal.getsignal(signum) is _interrupt:
            signal.signal(signum, signal.SIG_DFL)
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command line and exit."""
    for signum in _SIGNALS:
        # `nohup` and `&` in a script mean what they say.
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _interrupt)
    sys.exit(run(sys.argv[1:]))
