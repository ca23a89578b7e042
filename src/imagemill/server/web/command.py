"""`imagemill serve`: the web app on a socket, and the link that opens it."""

from __future__ import annotations

import os
import secrets
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Self
from urllib.parse import quote

from imagemill.dataset.folder import is_dataset
from imagemill.errors import ImagemillError, MissingExtra, UsageError
from imagemill.models.base import find_model, find_text_model, text_model_name
from imagemill.server.guard import is_loopback
from imagemill.server.listening import Listening
from imagemill.terminal import Terminal, number

TOKEN_VARIABLE = "IMAGEMILL_TOKEN"  # noqa: S105 - its name


def serve(terminal: Terminal, folder: str, models: Sequence[str], host: str, port: int, browser: bool) -> None:
    """Serve a folder until interrupted; prints the link with the token on stdout when browsers can connect."""
    for package in ("fastapi", "jinja2", "uvicorn", "apsw", "python_multipart"):
        if not find_spec(package):
            raise MissingExtra(package, "imagemill[serve]")
    for name in models:
        try:
            find_model(name, {})
        except UsageError:
            # It may be one that only describes pictures.
            find_text_model(text_model_name(name), {})
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise UsageError(f"`{folder}` is a file", "name a folder of datasets, which may be new")
    one = is_dataset(path)
    own = os.environ.get(TOKEN_VARIABLE, "").strip()
    token = own or secrets.token_urlsafe(32)
    server = WebServer(path.resolve().parent if one else path, token, models, host, port)
    if not is_loopback(host):
        terminal.warn(
            f"`{host}` can be reached from other machines, with the address of this one in the link: whoever has the "
            "token can use it, and nothing is encrypted"
        )
    start = f"/datasets/{server.web.workspace.id_of(path.resolve())}" if one else "/"
    link = f"{server.address}{start}?token={quote(token, safe='', errors='surrogateescape')}"
    with server:
        if own:
            terminal.say(f"serving {server.web.workspace.folder} with the token in {TOKEN_VARIABLE}")
            shown = f"{server.address}{start}"
            terminal.data({"url": shown}, shown)
        else:
            terminal.say(f"serving {server.web.workspace.folder}; open this link, which holds the token:")
            terminal.data({"url": link}, link)
        if browser:
            webbrowser.open(_way_in(server.web.workspace.state / "open.html", link).as_uri())
        try:
            server.wait()
        finally:
            if running := server.web.queue.running:
                terminal.say(f"{number(running, 'job')} still running, which the next `imagemill serve` takes up")


def _way_in(path: Path, link: str) -> Path:
    """A page that leads to the link: what a browser is started with, everybody on the machine can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f'<!doctype html><title>imagemill</title><meta http-equiv="refresh" content="0; url={link}">')
    return path


class WebServer(Listening):
    """The web app on a socket, running in a thread of its own between `with` and its end."""

    def __init__(
        self, folder: str | Path, token: str, models: Sequence[str] = (), host: str = "127.0.0.1", port: int = 0
    ) -> None:
        """Take the folder to serve; raises UsageError when it cannot listen there."""
        from imagemill.server.web.app import application
        from imagemill.server.web.workspace import Workspace

        app, self.web = application(Workspace(folder), token, host, models)
        super().__init__(app, host, port)

    def __enter__(self) -> Self:
        # Here, since another server of the same folder is told on the command line.
        try:
            self.web.start()
        except ImagemillError:
            self.socket.close()
            raise
        return super().__enter__()

    def stopping(self) -> None:
        """End the streams of events, which would go on for ever."""
        self.web.events.close()

    def stopped(self) -> None:
        """Let go of everything; jobs go on by themselves."""
        self.web.close()
