"""A server on this machine, for as long as a test needs it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol


class State(Protocol):
    """What every faulty server holds."""

    calls: list[str]
    released: threading.Event

    @property
    def fault(self) -> Callable[[int, str], int | str | None]: ...


class Answer(Exception):
    """What a request ends with."""

    def __init__(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.body = body
        self.headers = headers or {}


class Faulty(BaseHTTPRequestHandler):
    """Notes each call and misbehaves as its state says: `close` hangs up, `wait` answers at the end; else `answer`."""

    state: State
    protocol_version = "HTTP/1.1"
    lock = threading.RLock()

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, call: str, body: bytes, fault: int | str | None) -> Answer:
        raise NotImplementedError

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = f"{self.command} {self.path}"
        with self.lock:
            self.state.calls.append(call)
            fault = self.state.fault(len(self.state.calls), call)
        if fault == "close":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "wait":
            self.state.released.wait(30)
            self.close_connection = True
            return
        try:
            answer = self.answer(call, body, fault)
        except Answer as raised:
            answer = raised
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815


@contextmanager
def served(handler: type[BaseHTTPRequestHandler], **attributes: Any) -> Iterator[str]:
    """Yield the address of a server whose handlers have these attributes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), attributes))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
