"""The command that serves an API."""

from __future__ import annotations

from collections.abc import Sequence

from imagemill.commands.shared import command_parser
from imagemill.errors import UsageError
from imagemill.flags import parse
from imagemill.terminal import Terminal


def serve(arguments: Sequence[str]) -> int:
    """Serve the API until it is interrupted."""
    parser = command_parser(
        "serve",
        epilog="imagemill serve --api\nimagemill serve --api --model shapes --model stabilityai/sdxl-turbo --port 8000",
    )
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="datasets; not needed for the API alone")
    parser.add_argument("--api", action="store_true", help="only the API; there is nothing else so far")
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="what clients may use, the first unless they say [default: shapes]",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [default: 127.0.0.1]")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="0 takes a free one [default: 7860]")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="requests that share a batch; the model's own if not given"
    )
    parser.add_argument("--no-browser", action="store_true", help="open no browser; the API opens none")
    parsed = parse(parser, arguments)
    if not parsed.api:
        raise UsageError("`serve` has only the API so far", "add `--api`")
    from imagemill.server.command import serve

    serve(Terminal(parsed.quiet), parsed.model or ["shapes"], parsed.host, parsed.port, parsed.batch_size)
    return 0
