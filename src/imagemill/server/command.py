"""`imagemill serve`: a socket, a thread for the event loop, and an end in good order."""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from imagemill.errors import MissingExtra, UsageError
from imagemill.models.base import Model, find_model
from imagemill.server.guard import is_loopback, is_wildcard
from imagemill.terminal import Terminal

KEY_VARIABLE = "IMAGEMILL_API_KEY"
_INTERRUPTED = 130
"""The exit code."""
_PATIENCE = 4.0
"""Seconds that running requests have to end when the server stops."""


def serve(
    terminal: Terminal,
    models: Sequence[str],
    host: str,
    port: int,
    batch_size: int | None,
) -> None:
    """Serve models until interrupted; prints the base URL on stdout when clients can connect."""
    for package in ("starlette", "uvicorn", "python_multipart"):
        if not find_spec(package):
            raise MissingExtra(package, "imagemill[serve]")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"`--batch-size` is at least 1, got: `{batch_size}`", "leave it out for the model's own")
    found = {name: find_model(name, {}).resolve({}, 1) for name in models}
    own = os.environ.get(KEY_VARIABLE, "").strip()
    key = own or secrets.token_urlsafe(32)
    server = Server(found, key, host, port, batch_size)
    if not is_loopback(host):
        terminal.warn(
            f"`{host}` can be reached from other machines: whoever has the key can use the models, and nothing is "
            "encrypted"
        )
    if own:
        terminal.say(f"serving {', '.join(found)} with the key in {KEY_VARIABLE}")
    else:
        terminal.warn(f"serving {', '.join(found)} on {server.url} with the key {key}")
    try:
        with server:
            terminal.data({"url": server.url}, server.url)
            server.wait()
    finally:
        if server.busy:
            # No model can be stopped within a batch, and torch aborts a process that ends meanwhile.
            atexit.register(os._exit, _INTERRUPTED)


class Server:
    """The API on a socket, running in a thread of its own between `with` and its end."""

    def __init__(
        self,
        models: Mapping[str, Model],
        key: str,
        host: str = "127.0.0.1",
        port: int = 0,
        batch_size: int | None = None,
    ) -> None:
        """Take models by the names that clients give them; raises UsageError when it cannot listen there."""
        import uvicorn

        from imagemill.server.openai_api import application

        self.app, self._models = application(models, key, host, batch_size)
        self._socket = _listen(host, port)
        shown = ("::1" if ":" in host else "127.0.0.1") if is_wildcard(host) else host
        shown = f"[{shown}]" if ":" in shown else shown
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}/v1"
        config = uvicorn.Config(
            self.app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            # It logs what clients do wrong; what we do wrong, the guard says in one line.
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=int(_PATIENCE) + 1,
        )
        self._server = uvicorn.Server(config)
        self.busy = False
        """Whether a model was still at work when the server had ended."""
        self._ended = threading.Event()
        # In a thread of its own it leaves signals to the command line.
        self._thread = threading.Thread(target=self._run, name="imagemill-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self.busy = not self._models.stop(_PATIENCE)
        self._ended.wait(2 * _PATIENCE)

    def wait(self) -> None:
        """Wait until the server ends, or the main thread is interrupted."""
        # Not `join`: Python 3.11 takes a thread for ended when an interrupt has ended the waiting for it.
        self._ended.wait()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._ended.set()


def _listen(host: str, port: int) -> socket.socket:
    """Open a listening socket, so that clients can connect from now on."""
    if not 0 <= port < 2**16:
        raise UsageError(f"`--port` is a number from 0 to 65535, got: `{port}`", "0 takes a free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(
            f"cannot listen on `{host}`, port {port}: {error.strerror}", "give an address of this machine"
        ) from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        reason = (error.strerror or str(error)).lower()
        raise UsageError(
            f"cannot listen on `{host}`, port {port}: {reason}",
            "give another `--port`; 0 takes a free one",
        ) from None
    return listening
