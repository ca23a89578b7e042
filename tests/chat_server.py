"""A chat server with OpenAI's API on a free port of this machine, which answers what a test wants."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Asked:
    """One question as it came."""

    model: str
    prompt: str
    pictures: tuple[bytes, ...]
    kinds: tuple[str, ...]
    """The pictures' media types."""


@dataclass
class ChatServer:
    """What a server is asked."""

    url: str
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def chatting(answer: Callable[[Asked], str | int]) -> Iterator[ChatServer]:
    """Serve while the block runs; `answer` gives a text, or the status of an error."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._say(404, {"error": {"message": "there is no such thing", "code": "not_found"}})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            parts = body["messages"][0]["content"]
            urls = [part["image_url"]["url"].partition(",") for part in parts if part["type"] == "image_url"]
            texts = [part["text"] for part in parts if part["type"] == "text"]
            said = Asked(
                body["model"],
                "\n".join(texts),
                tuple(base64.b64decode(data, validate=True) for _, _, data in urls),
                tuple(head for head, _, _ in urls),
            )
            server.asked.append(said)
            found = answer(said)
            if isinstance(found, int):
                self._say(found, {"error": {"message": "on purpose", "code": "error"}})
            else:
                self._say(200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": found}}]})

        def _say(self, status: int, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = ChatServer(f"http://127.0.0.1:{http.server_address[1]}/v1")
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
