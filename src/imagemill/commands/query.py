"""The command that asks a dataset, or a table without images, for rows and figures."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from imagemill.commands.shared import command_parser
from imagemill.component import separated
from imagemill.errors import UsageError
from imagemill.flags import Parser, add_parameters, given, parse
from imagemill.terminal import Terminal, duration, number

if TYPE_CHECKING:
    from imagemill.dataset.index import Index, Query
    from imagemill.dataset.index.figures import Histogram

_BELONGING = {
    "offset": {"rows"},
    "limit": {"rows"},
    "by": {"rows"},
    "columns": {"rows", "statistics", "sample"},
    "bins": {"histogram"},
    "seed": {"sample"},
}
"""To which answers a flag belongs."""
_LONG = 10.0
"""Seconds that making an index is spoken of."""
_WIDTH = 60
"""Characters of a text in a table, and of the longest bar."""


def query(arguments: Sequence[str]) -> int:
    """Answer one question."""
    from imagemill.dataset.index import Index, Query

    parser = command_parser(
        "query",
        epilog='imagemill query out --where "image_nsfw < 0.1" --search castle --by alignment\n'
        "imagemill query metadata.parquet --histogram image_nsfw\n"
        "The first question makes an index, later ones read what has changed.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="a dataset, or a Parquet table such as metadata.parquet")
    add_parameters(parser, "the rows", Query)
    _add_answers(parser)
    parser.add_argument(
        "--columns", action="append", metavar="A,B", help="the columns to show [default: a few; as JSON all]"
    )
    parser.add_argument("--cache", metavar="FOLDER", help="where the index lies, instead of beside the data")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    asked = Query.parse(given(parsed, Query), "query")
    _check(parsed)
    start = time.monotonic()
    index = Index(parsed.dataset, parsed.cache)
    if time.monotonic() - start > _LONG:
        terminal.say(f"index of {number(len(index), 'row')} made in {duration(time.monotonic() - start)}")
    if index.left_out:
        names = ", ".join(f"`{name}`" for name in index.left_out)
        terminal.say(f"without {names}: neither texts nor numbers")
    columns = list(separated(parsed.columns)) if parsed.columns else None
    if columns == []:
        raise UsageError("`--columns` names no column", f"columns: {', '.join(index.schema.names)}")
    if parsed.count:
        found = index.count(asked)
        terminal.data({"count": found}, str(found))
    elif parsed.histogram is not None:
        spread = index.histogram(parsed.histogram, asked, 20 if parsed.bins is None else parsed.bins)
        _tell(terminal, asdict(spread), _histogram(spread))
    elif parsed.statistics:
        figures = [asdict(figure) for figure in index.statistics(asked, columns)]
        if not figures:
            terminal.say("no columns")
        _tell(terminal, figures, _table(figures))
    else:
        _tell_rows(terminal, index, asked, parsed, columns)
    return 0


def _add_answers(parser: Parser) -> None:
    """Add what is told of the rows."""
    group = parser.add_argument_group("the answer", "a page of rows, when nothing else is asked for")
    group.add_argument("--offset", type=int, metavar="N", help="rows before the page [default: 0]")
    group.add_argument("--limit", type=int, metavar="N", help="rows of the page [default: 50]")
    one = group.add_mutually_exclusive_group()
    one.add_argument("--count", action="store_true", help="only how many rows")
    one.add_argument("--histogram", metavar="COLUMN", help="how its values are spread; of texts, the most frequent")
    one.add_argument("--statistics", action="store_true", help="of each column its least, greatest and mean value")
    one.add_argument("--sample", type=int, metavar="K", help="exactly so many rows, drawn by `--seed`")
    group.add_argument("--bins", type=int, metavar="N", help="bins or values of `--histogram` [default: 20]")
    group.add_argument("--seed", type=int, metavar="N", help="of `--sample` [default: 0]")


def _check(parsed: Namespace) -> None:
    """Raise UsageError for a flag that would change nothing."""
    said = {name for name, value in vars(parsed).items() if value is not None and value is not False}
    answer = next((name for name in ("count", "histogram", "statistics", "sample") if name in said), "rows")
    for name, answers in _BELONGING.items():
        if name in said and answer not in answers:
            other = f"does not go with `--{answer}`" if answer != "rows" else f"needs `--{next(iter(answers))}`"
            raise UsageError(f"`--{name}` {other}", "leave it out")
    for name, needed in (("ascending", "by"), ("search_column", "search")):
        if name in said and needed not in said:
            raise UsageError(f"`--{name.replace('_', '-')}` needs `--{needed}`", f"add `--{needed}`, or leave it out")


def _tell(terminal: Terminal, value: dict[str, Any] | list[Any], text: str) -> None:
    """Print data, of which JSON gets infinite numbers as texts, and an empty text is no line."""
    if text or terminal.as_json:
        terminal.data(_finite(value), text)


def _finite(value: Any) -> Any:
    """What JSON can say: of numbers that are not finite, `Infinity`, `-Infinity` and `NaN`."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _tell_rows(terminal: Terminal, index: Index, query: Query, options: Any, columns: list[str] | None) -> None:
    total = index.count(query)
    if columns is None and not terminal.as_json:
        columns = _few(index, query)
    if options.sample is not None:
        page = index.sample(options.sample, options.seed or 0, query, columns)
        shown = f"{len(page.records):,} drawn of {number(total, 'row')}"
    else:
        first = options.offset or 0
        page = index.page(query, first, 50 if options.limit is None else options.limit, columns)
        last = first + len(page.records)
        shown = f"{first + 1:,} to {last:,} of {number(total, 'row')}" if page.records else "no rows here"
        shown = shown if total else "no rows"
    terminal.say(shown)
    _tell(terminal, {"total": total, **asdict(page)}, _table(page.records))


def _few(index: Index, query: Query) -> list[str]:
    """The columns that fit a terminal: the name, the prompt, and what was asked for."""
    from imagemill.expressions import Expression

    asked = Expression.parse(query.where).columns if query.where.strip() else []
    wanted = ["file_name", "image_name", query.by, *asked, query.search_column, "prompt"]
    known = [name for name in dict.fromkeys(wanted) if name in index.schema.names]
    return known or index.schema.names[:4]


def _table(records: Sequence[Mapping[str, Any]]) -> str:
    """Rows in aligned columns."""
    if not records:
        return ""
    names = list(records[0])
    lines = [names, *([_shown(record[name]) for name in names] for record in records)]
    right = [any(isinstance(record[name], int | float) for record in records) for name in names]
    widths = [max(len(line[place]) for line in lines) for place in range(len(names))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _shown(value: Any) -> str:
    """A value in one short line."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = " ".join(str(value).split())
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def _histogram(spread: Histogram) -> str:
    rows = [(f"{one.low:.6g} … {one.high:.6g}", one.count) for one in spread.bins]
    rows += [(_shown(one.value), one.count) for one in spread.values]
    most = max((count for _, count in rows), default=1)
    width = max((len(label) for label, _ in rows), default=0)
    lines = [f"{label:<{width}}  {'█' * round(_WIDTH * count / most)} {count:,}" for label, count in rows]
    lines += [f"others: {spread.others:,}"] * (spread.others > 0)
    lines += [f"without a value: {spread.nulls:,}"] * (spread.nulls > 0)
    return "\n".join(lines)
