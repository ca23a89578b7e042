"""A socket that listens, and an application served on it in a thread of its own."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from imagemill.errors import UsageError
from imagemill.server.guard import is_wildcard

if TYPE_CHECKING:
    from starlette.types import ASGIApp


class Listening:
    """An application on a socket, running between `with` and its end."""

    patience = 4.0
    """Seconds that running requests have to end when the server stops."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        """Take an application; raises UsageError when it cannot listen there."""
        import uvicorn

        self.socket = _listen(host, port)
        shown = ("::1" if ":" in host else "127.0.0.1") if is_wildcard(host) else host
        shown = f"[{shown}]" if ":" in shown else shown
        self.address = f"http://{shown}:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            # It logs what clients do wrong; what we do wrong, we say in one line.
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=int(self.patience) + 1,
        )
        self._server = uvicorn.Server(config)
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
        self.stopping()
        self._ended.wait(2 * self.patience)
        self.stopped()
        self.socket.close()

    def stopping(self) -> None:
        """End what requests wait for, now that the server takes no more of them."""

    def stopped(self) -> None:
        """Let go of what requests needed."""

    def wait(self) -> None:
        """Wait until the server ends, or the main thread is interrupted."""
        # Not `join`: Python 3.11 takes a thread for ended when an interrupt has ended the waiting for it.
        self._ended.wait()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self.socket])
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
