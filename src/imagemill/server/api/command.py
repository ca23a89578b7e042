"""`imagemill serve --api`: models behind a socket, and an end in good order."""

from __future__ import annotations

import atexit
import os
import secrets
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from imagemill.errors import MissingExtra, UsageError
from imagemill.models.base import Model, find_model
from imagemill.server.guard import is_loopback
from imagemill.server.listening import Listening
from imagemill.terminal import Terminal

KEY_VARIABLE = "IMAGEMILL_API_KEY"
_INTERRUPTED = 130
"""The exit code."""


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


class Server(Listening):
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
        from imagemill.server.api.openai_api import application

        self.app, self._models = application(models, key, host, batch_size)
        super().__init__(self.app, host, port)
        self.url = f"{self.address}/v1"
        self.busy = False
        """Whether a model was still at work when the server had ended."""

    def stopping(self) -> None:
        """Let running batches end, and refuse what waits."""
        self.busy = not self._models.stop(self.patience)
