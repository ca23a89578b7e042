"""The command that serves the web app, or the API."""

from __future__ import annotations

from collections.abc import Sequence

from imagemill.commands.shared import command_parser
from imagemill.errors import UsageError
from imagemill.flags import parse
from imagemill.terminal import Terminal


def serve(arguments: Sequence[str]) -> int:
    """Serve the web app or the API until it is interrupted."""
    parser = command_parser(
        "serve",
        epilog="imagemill serve\n"
        "imagemill serve datasets --port 8000 --no-browser\n"
        "imagemill serve --api --model shapes --model stabilityai/sdxl-turbo",
    )
    parser.add_argument(
        "folder", nargs="?", default=".", metavar="FOLDER", help="a folder of datasets, or one dataset [default: .]"
    )
    parser.add_argument("--api", action="store_true", help="the image API, and no web app")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="what browsers and clients may use beside the built-in models; the API's first is what it uses unless "
        "they say; may be repeated",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [default: 127.0.0.1]")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="0 takes a free one [default: 7860]")
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="requests of the API that share a batch; the model's own if not given",
    )
    parser.add_argument("--no-browser", action="store_true", help="open no browser; the API opens none")
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet)
    if parsed.api:
        from imagemill.server.api.command import serve as serve_api

        serve_api(terminal, parsed.model or ["shapes"], parsed.host, parsed.port, parsed.batch_size)
        return 0
    if parsed.batch_size is not None:
        raise UsageError("`--batch-size` is of the API", "add `--api`, or leave it out")
    from imagemill.server.web.command import serve as serve_web

    serve_web(terminal, parsed.folder, parsed.model, parsed.host, parsed.port, not parsed.no_browser)
    return 0
