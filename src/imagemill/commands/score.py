"""The command that scores images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imagemill.commands.shared import add_workers, by_reason, command_parser, say_rate
from imagemill.errors import SomeFailed
from imagemill.flags import Parser, add_parameters, given, parse
from imagemill.terminal import Meter, Terminal, number

if TYPE_CHECKING:
    from imagemill.component import Component
    from imagemill.operators.score import Prepared, Scoring


def score(arguments: Sequence[str]) -> int:
    """Fill columns with scores."""
    from imagemill.dataset import Dataset
    from imagemill.operators.score import execute, prepare

    names, components = _named(arguments)
    parser = command_parser(
        "score",
        epilog="imagemill score out\n"
        "imagemill score out --with alignment,quality,hashes\n"
        "imagemill score out --with alignment=openai/clip-vit-base-patch32,judge=openai:NAME --base-url URL\n"
        "The same command again continues after any interruption, and tries failed images again.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="the dataset that gets the columns")
    parser.add_argument(
        "--with",
        dest="scorers",
        default="alignment",
        metavar="NAME[=MODEL],…",
        help="what scores, see `imagemill scorers` [default: alignment]",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what there is to do, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    add_workers(parser)
    drawn = {"model_parameters"}
    for title, component in components:
        add_parameters(parser, title, component, skip=drawn)
        drawn |= set(component.model_fields)
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    parameters = given(parsed, *(component for _, component in components))
    prepared = prepare(Dataset(parsed.dataset), names, parameters, parsed.workers, parsed.devices)
    images, pending = len(prepared.dataset), prepared.pending()
    for scoring, left in zip(prepared.scorings, pending, strict=True):
        terminal.say(_plan_line(scoring, left, images))
    if parsed.dry_run:
        terminal.data(_data(prepared), str(prepared.dataset.folder))
        return 0
    try:
        with Meter(terminal, sum(pending)) as meter:
            report = execute(prepared, meter)
    except SomeFailed:
        if parsed.json:
            terminal.data(_data(prepared), "")
        raise
    say_rate(terminal, report, "score")
    data = _data(prepared)
    failed = False
    for name, found in data["scorers"].items():
        if found["failed"]:
            failed = True
            count = number(sum(found["failed"].values()), "image")
            terminal.say(f"{count} not scored by {name} ({by_reason(found['failed'])})")
        if found["without"]:
            terminal.say(f"{number(found['without'], 'image')} looked at by {name} and without a score")
    if failed:
        terminal.say("\nhint: the same command tries them again")
    terminal.data(data, str(prepared.dataset.folder))
    return 3 if failed else 0


def _named(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, type[Component]]]]:
    """The scorers that arguments name, and the components whose parameters they can set, with titles."""
    from imagemill.component import find_component
    from imagemill.models.base import find_text_model, text_model_name

    early = Parser(add_help=False, allow_abbrev=False)
    early.add_argument("--with", dest="scorers", default="alignment")
    early.add_argument("--model", default="")
    found, _ = early.parse_known_args(arguments)
    names = [name.strip() for name in found.scorers.split(",")]
    components: list[tuple[str, type[Component]]] = []
    for text in names:
        name, _, model = text.partition("=")
        scorer = find_component("scorers", name)
        components.append((f"the scorer `{name}`", scorer))
        chosen = model or found.model
        if "model_parameters" in scorer.model_fields and chosen:
            asked = type(find_text_model(text_model_name(chosen), {}))
            components.append((f"the model `{asked.component_name()}`", asked))
    return names, components


def _plan_line(scoring: Scoring, pending: int, images: int) -> str:
    parts = [
        f"{scoring.name}: {number(pending, 'image')} to score",
        str(scoring.step["model"] or "arithmetic"),
        "columns " + ", ".join(f"`{name}`" for name in (*scoring.step["scores"], *scoring.step["columns"])),
    ]
    if pending < images:
        parts.append(f"{images - pending:,} done before")
    return " · ".join(parts)


def _data(prepared: Prepared) -> dict[str, Any]:
    """How the columns stand, as programs read it."""
    from imagemill.dataset.journal import ColumnJournal, blanks_of

    journals = [ColumnJournal(prepared.dataset, blanks_of(scoring.step)) for scoring in prepared.scorings]
    images, pending, without = 0, [0] * len(journals), [0] * len(journals)
    for images, record in enumerate(prepared.dataset, start=1):  # noqa: B007 - how many there are
        for place, (journal, scoring) in enumerate(zip(journals, prepared.scorings, strict=True)):
            if journal.is_pending(record):
                pending[place] += 1
            elif scoring.step["scores"]:
                without[place] += all(record[name] is None for name in scoring.step["scores"])
    found: dict[str, Any] = {}
    for place, (journal, scoring) in enumerate(zip(journals, prepared.scorings, strict=True)):
        failed = Counter(failure["reason"] for failure in journal.failures())
        found[scoring.name] = {
            "columns": list(blanks_of(scoring.step)),
            "model": scoring.step["model"],
            "model_revision": scoring.step["model_revision"],
            "done": images - pending[place],
            "without": without[place],
            "failed": dict(failed),
            "pending": pending[place] - failed.total(),
        }
    return {"dataset": str(prepared.dataset.folder), "images": images, "scorers": found}
