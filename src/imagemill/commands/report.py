"""The command that puts a dataset on one page."""

from __future__ import annotations

from collections.abc import Sequence

from imagemill.commands.shared import dataset_parser
from imagemill.flags import parse
from imagemill.terminal import Terminal


def report(arguments: Sequence[str]) -> int:
    """Write an HTML page on a dataset."""
    from imagemill.reporting.page import SAMPLES
    from imagemill.reporting.page import report as write_report

    parser = dataset_parser("report")
    parser.add_argument(
        "-o", "--output", default="report.html", metavar="FILE.html", help="the page to write [default: report.html]"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=SAMPLES,
        metavar="N",
        help=f"images shown for each quantile of each score [0…50; default: {SAMPLES}]",
    )
    parser.add_argument("--by", default="", metavar="COLUMN", help="compare scores by the values of a column")
    parsed = parse(parser, arguments)
    written = write_report(parsed.dataset, parsed.output, samples=parsed.samples, by=parsed.by)
    Terminal(as_json=parsed.json).data({"report": str(written.path), **written.figures}, str(written.path))
    return 0
