"""A seeded server that speaks OpenAI's image, chat and batch API and Hugging Face's, and fails on purpose.

In a test: `with serving(Faults(kinds=("500", "reset"))) as server:`; as a program, which prints its URL:
`python -m tests.faults.server --port 0 --faults 0.3 --seed 1`. A picture is a function of its prompt and its number, so
that loss and mix-up show. Beside the API there are `GET /log` and `PUT /rate_limit`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import math
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from email.utils import formatdate
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from starlette.datastructures import Headers
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from .batches import Batches
from .exchange import Exchange, Receive, Send, form_of
from .plan import KINDS, NO_LINES, STATUSES, Answer, Call, Faults, Refused, expected_color, message_parts, picture

__all__ = ["KINDS", "FaultServer", "Faults", "expected_color", "picture", "program", "serving"]


@cache
def _bomb(size: int) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(size)), packer.flush()])


def _retry_after(kind: str, wait: float) -> dict[str, str]:
    match kind:
        case "429_seconds":
            return {"retry-after": str(math.ceil(wait))}
        case "429_date":
            return {"retry-after": formatdate(time.time() + math.ceil(wait), usegmt=True)}
        case "429_ms":
            return {"retry-after-ms": str(math.ceil(wait * 1000))}
        case "rate_limit":
            return _retry_after("429_seconds", wait) | _retry_after("429_ms", wait)
    return {}


class FaultServer:
    """The ASGI app with its log."""

    def __init__(self, faults: Faults, port: int = 0) -> None:
        self.faults = faults
        self.rate_limit = faults.rate_limit
        """May be changed at any time."""
        self.calls: list[Call] = []
        self.paid = self.in_flight = self.max_in_flight = 0
        self.pictures: dict[str, bytes] = {}
        self.batches = Batches(faults, self._line)
        self._attempts: Counter[tuple[object, ...]] = Counter()
        self._made: Counter[str] = Counter()
        self._ids = itertools.count(1)
        self._tokens, self._refilled = faults.burst, time.monotonic()
        self._socket = socket.create_server(("127.0.0.1", port), backlog=2048)
        # Head and body are two writes; without this the second waits 40 ms for the first to be acknowledged.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._state = ServerState()
        self._ended = asyncio.Event()

    async def run(self, started: Callable[[asyncio.AbstractEventLoop], None]) -> None:
        """Serve until the end. Uvicorn's own loop looks ten times a second whether it shall end, which adds up."""
        config = uvicorn.Config(
            self, http="h11", ws="none", lifespan="off", interface="asgi3", proxy_headers=False, access_log=False,
            log_config=None, log_level="critical", timeout_keep_alive=75,
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: H11Protocol(config, self._state, {}), sock=self._socket)
        started(loop)
        await self._ended.wait()
        server.close()
        self.cut()
        while self._state.connections:
            await asyncio.sleep(0)

    def end(self) -> None:
        """End `run`, called in its loop; whoever waits for an answer is cut off."""
        self._ended.set()

    def cut(self, client: object = None) -> None:
        """Reset the connection of one client, or of all."""
        for connection in list(self._state.connections):
            if isinstance(connection, H11Protocol) and client in {None, connection.client}:
                # A socket that does not linger sends a reset in place of what is left to send.
                plain = connection.transport.get_extra_info("socket")
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.transport.abort()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one call."""
        exchange, headers, path = Exchange(receive, send), Headers(raw=scope["headers"]), scope["path"]
        body = await exchange.body()
        if path in {"/log", "/rate_limit"}:
            if path == "/rate_limit":
                self.rate_limit = json.loads(body)
            told = self._log() if path == "/log" else b"{}"
            await exchange.start(200, "application/json", len(told), {})
            return await exchange.end(told)
        call = Call(path, headers.get("authorization", ""))
        self.calls.append(call)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            given, call.uploads = await form_of(headers, body)
            call.read(given)
            query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
            if not await self._serve(scope["method"], call, given | query, exchange):
                self.cut(scope["client"] or "gone")
                # Uvicorn asks for an answer until it has noticed.
                await exchange.pause(5)
        finally:
            self.in_flight -= 1
            call.seconds = time.time() - call.time
        return None

    def _log(self) -> bytes:
        calls = [{**vars(call), "uploads": len(call.uploads)} for call in self.calls]
        return json.dumps({"calls": calls, "paid": self.paid, "max_in_flight": self.max_in_flight}).encode()

    async def _serve(self, method: str, call: Call, given: dict[str, Any], exchange: Exchange) -> bool:
        """Answer; False where the connection is to be reset, unless the client has left before."""
        faults, wait = self.faults, 0.0
        if faults.key and call.authorization != f"Bearer {faults.key}":
            call.fault = "401"
        elif wait := self._wait(call.asked or int("messages" in given)):
            call.fault = "rate_limit"
        else:
            self._draw(call, method)
        if call.fault == "reset":
            return False
        status, kind, body = self._result(method, call, given)
        headers = _retry_after(call.fault, wait or faults.wait)
        delay = faults.latency * (1 + faults.jitter * (2 * faults.drawn("latency", call.prompt, call.attempt) - 1))
        if call.fault == "hang":
            delay = faults.hang
        elif call.fault == "gzip_bomb":
            headers, body = {"content-encoding": "gzip"}, _bomb(faults.endless)
        if (status != 429 and not await exchange.pause(delay)) or call.fault == "reset_paid":
            return False
        if call.fault == "endless_body":
            await exchange.start(200, kind, None, {})
            pieces = itertools.repeat(b"A" * 2**16, faults.endless * 16)
            await exchange.more(itertools.chain([b'{"data": [{"b64_json": "'], pieces), 1e-6)
            return False
        await exchange.start(status, kind, len(body), headers)
        if call.fault == "slow_body":
            if not await exchange.more((body[place : place + 16] for place in range(0, len(body), 16)), faults.trickle):
                return False
            body = b""
        # Noted first: whoever has the answer may look at the log at once.
        call.answered(status)
        await exchange.end(body)
        return True

    def _wait(self, images: int) -> float:
        """Take tokens for the images, or say in how many seconds there will be enough."""
        if not images or self.rate_limit is None:
            return 0
        now, burst, images = time.monotonic(), self.faults.burst, min(images, int(self.faults.burst))
        self._tokens = min(burst, self._tokens + (now - self._refilled) * self.rate_limit)
        self._refilled = now
        if self._tokens < images:
            return (images - self._tokens) / self.rate_limit
        self._tokens -= images
        return 0

    def _draw(self, call: Call, method: str = "POST") -> None:
        """Decide what fault a call gets; independent of time and of other requests."""
        identity = (call.prompt, call.seed) if call.prompt else (method, call.path)
        self._attempts[identity] += 1
        call.attempt, call.fault = self._attempts[identity], "ok"
        if call.path.startswith(self.faults.paths):
            call.fault = self.faults.kind(call.prompt, str(identity), call.attempt)

    def _result(self, method: str, call: Call, given: dict[str, Any]) -> tuple[int, str, bytes]:
        """Status, content type and body of an answer."""
        number = call.fault.partition("_")[0]
        try:
            if call.fault in STATUSES:
                raise Refused(*STATUSES[call.fault])
            if number.isdecimal():
                raise Refused(int(number), "rate_limit_exceeded" if number == "429" else "server_error")
            if call.fault == "html":
                return 200, "text/html", b"<!doctype html><title>Sign in</title>"
            found = self._answer(method, call, given)
            kind, body = found if isinstance(found, tuple) else ("application/json", json.dumps(found).encode())
        except Refused as refused:
            status, code = refused.args
            call.fault = code if call.fault == "ok" else call.fault
            error = {"message": f"{code}, on purpose", "type": "mock", "param": None, "code": code}
            # Hugging Face says it in one text.
            short = error["message"] if call.path.startswith("/models") else error
            return status, "application/json", json.dumps({"error": short}).encode()
        return 200, kind, body[: len(body) // 2] if call.fault == "bad_json" else body

    def _answer(self, method: str, call: Call, given: dict[str, Any]) -> Answer:
        match method, call.path.strip("/").split("/"):
            case "POST", ["v1", "images", "generations" | "edits" as verb]:
                if verb == "edits" and not any(upload[0] in {"image", "image[]"} for upload in call.uploads):
                    raise Refused(400, "missing_image")
                return self._images(call, given)
            case "POST", ["v1", "chat", "completions"] | ["models", _, "v1", "chat", "completions"]:
                images = sum(part.get("type") == "image_url" for part in message_parts(given))
                message = {"role": "assistant", "content": f"{images} images: {call.prompt}"}
                choices = [{"index": 0, "message": message, "finish_reason": "stop"}][call.fault == "no_data" :]
                about = {"id": f"chat-{next(self._ids)}", "model": given.get("model", ""), "created": int(call.time)}
                return {**about, "object": "chat.completion", "choices": choices}
            case "POST", ["models", *_]:
                options = given.get("parameters", {})
                pictures = self._pictures(call, {"size": f"{options.get('width', 64)}x{options.get('height', 64)}"})
                body = b"".join(pictures)
                return "image/png", base64.b64encode(body) if call.fault == "bad_base64" else body
            case "GET", ["v1", "models"]:
                return {"object": "list", "data": [{"id": "mock", "object": "model", "created": 0, "owned_by": "mock"}]}
            case "GET", ["files", name] if name in self.pictures:
                body = self.pictures[name]
                return "image/png", body[: len(body) // 2] if call.fault == "truncated_png" else body
            case _, ["v1", "files" | "batches" as part, *rest]:
                return self.batches.answer(method, [part, *rest], call, given)
        raise Refused(404, "not_found")

    def _pictures(self, call: Call, options: Mapping[str, Any]) -> list[bytes]:
        """Make and charge what was asked for, as far as the fault lets it."""
        if not call.prompt or set(options) & set(self.faults.rejects):
            raise Refused(400, "unknown_parameter" if call.prompt else "missing_prompt")
        size = str(options.get("size") or "auto")
        width, height = map(int, size.split("x")) if "x" in size else (64, 64)
        kind = str(options.get("output_format") or "png")
        pictures = []
        call.paid = 0 if call.fault == "no_data" else call.asked - (call.fault == "n_mismatch")
        for index in range(call.paid):
            spoiled = call.fault if index == call.asked - 1 else ""
            number = self._made[call.prompt]
            self._made[call.prompt] += 1
            if call.seed is not None and self.faults.takes_seed:
                number = call.seed + index
            shrink = 2 if spoiled == "wrong_size" else 1
            data = picture(call.prompt, number, width // shrink, height // shrink, kind)
            pictures.append(data[: len(data) // 2] if spoiled == "truncated_png" else data)
        self.paid += call.paid
        return pictures

    def _images(self, call: Call, options: Mapping[str, Any]) -> dict[str, Any]:
        data = []
        shape = str(options.get("response_format") or "b64_json") if self.faults.shape == "asked" else self.faults.shape
        if shape == "either":
            shape = "url" if self.faults.drawn("shape", call.prompt, call.attempt) < 0.5 else "b64_json"
        for index, body in enumerate(self._pictures(call, options), 1):
            spoiled = call.fault == "bad_base64" and index == call.asked
            if shape == "url":
                name = f"{next(self._ids)}.png"
                if not spoiled:
                    self.pictures[name] = body
                item = {"url": f"{self.url}/files/{name}"}
            else:
                text = base64.b64encode(body).decode()
                item = {"b64_json": text[: len(text) // 2] + "%&" if spoiled else text}
            if self.faults.drawn("revised", call.prompt) < 0.5:
                item["revised_prompt"] = f"{call.prompt}, in detail"
            data.append(item)
        return {"created": int(call.time), "data": data}

    def _line(self, line: dict[str, Any], batch: str) -> tuple[bool, dict[str, Any]]:
        """Run a line of a batch: whether it is good, and what is said of it."""
        call = Call(line["url"], batch=batch)
        self.calls.append(call)
        call.read(line["body"])
        self._draw(call)
        if call.fault in NO_LINES:
            return False, {"response": None, "error": {"code": "internal_error", "message": call.fault}}
        status, _, body = self._result("POST", call, line["body"])
        call.answered(status)
        response = {"status_code": status, "request_id": f"req_{next(self._ids)}", "body": json.loads(body)}
        return status == 200, {"response": response, "error": None}


@contextmanager
def serving(faults: Faults | None = None) -> Iterator[FaultServer]:
    """A server in a thread of this process."""
    server = FaultServer(faults or Faults(rate=0))
    loops: queue.Queue[asyncio.AbstractEventLoop] = queue.Queue()
    thread = threading.Thread(target=lambda: asyncio.run(server.run(loops.put)), daemon=True)
    thread.start()
    loop = loops.get(timeout=10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(server.end)
        thread.join()


@contextmanager
def program(*arguments: str) -> Iterator[str]:
    """A server in a process of its own; its URL."""
    command = [sys.executable, "-m", "tests.faults.server", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main() -> None:
    """Serve with what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    for option in fields(Faults):
        name = "--faults" if option.name == "rate" else f"--{option.name.replace('_', '-')}"
        if isinstance(option.default, bool):
            parser.add_argument(name, dest=option.name, action=argparse.BooleanOptionalAction, default=option.default)
        elif isinstance(option.default, tuple):
            parser.add_argument(
                name, dest=option.name, type=lambda text: tuple(text.split(",")), default=option.default
            )
        else:
            kind = float if option.default is None else type(option.default)
            parser.add_argument(name, dest=option.name, type=kind, default=option.default)
    chosen = vars(parser.parse_args())
    server = FaultServer(port=chosen.pop("port"), faults=Faults(**chosen))
    with suppress(KeyboardInterrupt):
        asyncio.run(server.run(lambda _: print(server.url, flush=True)))


if __name__ == "__main__":
    main()
