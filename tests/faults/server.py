"""A seeded server that speaks OpenAI's image, chat and batch API and Hugging Face's, and fails on purpose.

In a test: `with serving(Faults(kinds=("500", "reset"))) as server:`; as a program, which prints its URL:
`python -m tests.faults.server --port 0 --faults 0.3 --seed 1`. A picture is a function of its prompt and its number, so
that loss and mix-up show. Beside the API there are `GET /log` and `PUT /rate_limit`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import io
import itertools
import json
import math
import queue
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from email.utils import formatdate
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from PIL import Image
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartParser
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Uploads = list[tuple[str, str, bytes]]
Answer = dict[str, Any] | tuple[str, bytes]
"""JSON, or a content type and bytes."""

REFUSALS = ("429_seconds", "429_date", "429_ms", "408", "409", "500", "502", "503", "529")
"""An error that a retry mends; nothing is paid."""
STOPS = ("moderation", "401", "402", "404")
"""An error that no retry mends; `moderation` holds for all attempts of a prompt."""
CONTENTS = ("html", "bad_json", "no_data", "bad_base64", "truncated_png", "wrong_size", "n_mismatch")
"""Status 200 with a wrong body; of several images the last is the bad one."""
CONNECTIONS = ("reset", "reset_paid", "slow_body", "endless_body", "gzip_bomb", "hang")
KINDS = (*REFUSALS, *STOPS, *CONTENTS, *CONNECTIONS)
NO_LINES = (*CONNECTIONS, "html", "bad_json")
"""What a line of a batch cannot get; it is an error of the line instead."""
STATUSES = {
    "rate_limit": (429, "rate_limit_exceeded"),
    "moderation": (400, "moderation_blocked"),
    "401": (401, "invalid_api_key"),
    "402": (402, "insufficient_quota"),
    "404": (404, "model_not_found"),
}


@dataclass(frozen=True)
class Faults:
    """What the server does wrong, and how it behaves otherwise."""

    rate: float = 0.3
    """Share of the calls that get a fault."""
    seed: int = 1
    kinds: tuple[str, ...] = REFUSALS
    attempts: int = 0
    """How many attempts of a request can get a fault (`moderation` aside); 0 for all."""
    text: str = ""
    """Only prompts with this text get faults."""
    paths: tuple[str, ...] = ("/v1/images", "/v1/chat", "/models")
    """How the paths that get faults begin; others are `/files`, `/v1/files`, `/v1/batches`, `/v1/models`."""
    latency: float = 0.0
    jitter: float = 0.0
    """Share of the latency by which a call may be faster or slower."""
    wait: float = 0.05
    """Seconds that the 429 kinds ask to wait, rounded up where the form has whole seconds only."""
    hang: float = 30.0
    """Seconds until `hang` answers."""
    trickle: float = 0.05
    """Seconds between 16 bytes of `slow_body`."""
    endless: int = 256
    """MiB after which `endless_body` breaks off, and what `gzip_bomb` unpacks to."""
    rate_limit: float | None = None
    """Images or chat calls a second."""
    burst: float = 10.0
    """Images that may come at once within the rate limit."""
    takes_seed: bool = True
    """Whether a request's seed is the number of its picture; otherwise the pictures of a prompt are counted."""
    rejects: tuple[str, ...] = ()
    """Parameters answered by 400 unknown_parameter."""
    shape: str = "asked"
    """How images come: as `asked`, always as `b64_json` or `url`, or `either`."""
    key: str = ""
    """The only API key that is good; empty for any."""
    polls: int = 2
    """How often a batch is looked at until it ends."""
    batch_end: str = "completed"
    """Or `expired`, with half of the lines done, or `failed`, with none."""

    def __post_init__(self) -> None:
        assert set(self.kinds) <= set(KINDS), set(self.kinds) - set(KINDS)

    def drawn(self, *parts: object) -> float:
        """A number from 0 to 1 that depends on the parts and the seed, and not on time."""
        digest = hashlib.sha256("\x1f".join(map(str, (self.seed, *parts))).encode()).digest()
        return int.from_bytes(digest[:6]) / 2**48

    def kind(self, prompt: str, identity: str, attempt: int) -> str:
        """The fault of one attempt, or `ok`."""
        if not self.kinds or not self.rate or self.text not in prompt:
            return "ok"
        each = self.rate / len(self.kinds)
        if "moderation" in self.kinds and self.drawn("moderation", prompt) < each:
            return "moderation"
        others = [kind for kind in self.kinds if kind != "moderation"]
        number = int(self.drawn(identity, attempt) / each)
        return others[number] if number < len(others) and not 0 < self.attempts < attempt else "ok"


@dataclass
class Call:
    """One call as the server saw it, or one line of a batch."""

    path: str
    authorization: str = ""
    batch: str = ""
    prompt: str = ""
    seed: int | None = None
    asked: int = 0
    """Images asked for."""
    attempt: int = 0
    """Counted for the same prompt and seed; 0 where the rate limit or a wrong key stopped the call."""
    fault: str = ""
    """`ok`, a kind, `rate_limit`, or the code of a mistake of the client."""
    time: float = field(default_factory=time.time)
    seconds: float = 0.0
    status: int = 0
    """0 as long as there is no whole answer."""
    images: int = 0
    """Good images sent."""
    paid: int = 0
    """Images made, also for an answer that was cut."""
    uploads: Uploads = field(default_factory=list, repr=False)
    """Field, file name and bytes of each file."""

    def read(self, given: Mapping[str, Any]) -> None:
        """Find prompt, seed and number of images among the parameters."""
        options = given.get("parameters", given)
        self.prompt = str(given.get("prompt") or given.get("inputs") or "")
        self.seed = None if options.get("seed") is None else int(options["seed"])
        if self.path.startswith(("/v1/images", "/models")):
            self.asked = int(given.get("n") or 1)
        for part in _parts(given):
            self.prompt = part.get("text", self.prompt)

    def answered(self, status: int) -> None:
        """Note that the whole answer has been sent."""
        self.status, self.images = status, self.paid
        if self.fault in {"bad_json", "gzip_bomb"}:
            self.images = 0
        elif self.fault in {"bad_base64", "truncated_png", "wrong_size"}:
            self.images = max(0, self.paid - 1)


class Refused(Exception):
    """A mistake of the client: status and code of the answer."""


def expected_color(prompt: str) -> tuple[int, int, int]:
    """The color of a prompt's pictures, outside of the 8×8 pixels in the top left corner."""
    red, green, blue = hashlib.sha256(prompt.encode()).digest()[:3]
    return red, green, blue


@lru_cache(maxsize=4096)
def picture(prompt: str, number: int, width: int = 64, height: int = 64, kind: str = "png") -> bytes:
    """The prompt's color, with a pattern in the corner that depends on the number."""
    red, green, blue = expected_color(prompt)
    image = Image.new("RGB", (width, height), (red, green, blue))
    pattern = Image.frombytes("1", (8, 8), hashlib.sha256(str(number).encode()).digest()[:8])
    image.paste((red ^ 128, green ^ 128, blue ^ 128), (0, 0), pattern)
    buffer = io.BytesIO()
    image.save(buffer, kind, compress_level=1)
    return buffer.getvalue()


@cache
def _bomb(size: int) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(size)), packer.flush()])


def _parts(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    contents = [message["content"] for message in given.get("messages", [])]
    lists = [[{"text": content}] if isinstance(content, str) else content for content in contents]
    return list(itertools.chain(*lists))


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


async def _form(headers: Headers, body: bytes) -> tuple[dict[str, Any], Uploads]:
    """The parameters and the files of a call."""
    if not headers.get("content-type", "").startswith("multipart/"):
        with suppress(ValueError):
            return json.loads(body), []
        return {}, []

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    form = await MultiPartParser(headers, stream()).parse()
    items = form.multi_items()
    uploads = [(name, item.filename or "", await item.read()) for name, item in items if isinstance(item, UploadFile)]
    await form.close()
    return {name: item for name, item in items if isinstance(item, str)}, uploads


class Exchange:
    """The connection of one call."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send

    async def body(self) -> bytes:
        """All that the client sends."""
        body, more = b"", True
        while more:
            message = await self._receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return body

    async def pause(self, seconds: float) -> bool:
        """Wait, and say whether the client is still there."""
        if seconds <= 0:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
            return False
        return True

    async def start(self, status: int, kind: str, length: int | None, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        headers = {"content-type": kind, **headers} | ({} if length is None else {"content-length": str(length)})
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def more(self, pieces: Iterable[bytes], seconds: float) -> bool:
        """Send pieces of a body with pauses, and say whether the client took them all."""
        for piece in pieces:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            if not await self.pause(seconds):
                return False
        return True

    async def end(self, body: bytes = b"") -> None:
        """Send the rest of the body."""
        await self._send({"type": "http.response.body", "body": body})


class Batches:
    """Files and the batch API; a line is run by whoever is given."""

    def __init__(self, faults: Faults, run: Callable[[dict[str, Any], str], tuple[bool, dict[str, Any]]]) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self._faults, self._run = faults, run
        self._polled: Counter[str] = Counter()

    def answer(self, method: str, parts: list[str], call: Call, given: dict[str, Any]) -> Answer:
        """Answer a call of the two APIs."""
        match method, parts:
            case "POST", ["files"] if call.uploads:
                return self._about(self._keep(call.uploads[0][2]))
            case "GET", ["files", name, "content"] if name in self.files:
                return "application/octet-stream", self.files[name]
            case "GET", ["files", name] if name in self.files:
                return self._about(name)
            case "DELETE", ["files", name] if self.files.pop(name, None) is not None:
                return {"id": name, "object": "file", "deleted": True}
            case "POST", ["batches"] if given.get("input_file_id") in self.files:
                return self._start(given)
            case "GET", ["batches"]:
                return self._list(int(given.get("limit", 20)), given.get("after"))
            case "GET" | "POST", ["batches", name, *rest] if name in self.batches:
                return self._look_at(self.batches[name], cancel=rest == ["cancel"])
        raise Refused(404, "not_found")

    def _keep(self, body: bytes) -> str:
        name = f"file-{len(self.files) + 1}-{hashlib.sha256(body).hexdigest()[:8]}"
        self.files[name] = body
        return name

    def _about(self, name: str) -> dict[str, Any]:
        about = {"id": name, "object": "file", "filename": f"{name}.jsonl", "bytes": len(self.files[name])}
        return {**about, "created_at": int(time.time()), "purpose": "batch", "status": "processed"}

    def _start(self, given: dict[str, Any]) -> dict[str, Any]:
        counts = {"total": len(self.files[given["input_file_id"]].splitlines()), "completed": 0, "failed": 0}
        empty = {"errors": None, "output_file_id": None, "error_file_id": None, "metadata": None}
        name = f"batch_{len(self.batches) + 1}"
        about = {"id": name, "object": "batch", "created_at": int(time.time()), "status": "validating"}
        self.batches[name] = {**about, "request_counts": counts, **empty, **given}
        return self.batches[name]

    def _list(self, limit: int, after: str | None) -> dict[str, Any]:
        names = list(self.batches)[::-1]
        names = names[names.index(after) + 1 if after in names else 0 :]
        data = [self.batches[name] for name in names[:limit]]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return {"object": "list", "data": data, "has_more": len(names) > limit, **ends}

    def _look_at(self, batch: dict[str, Any], cancel: bool) -> dict[str, Any]:
        """A batch goes on each time that it is looked at."""
        if batch["status"] == "cancelling":
            self._end(batch, "cancelled")
        elif batch["status"] in {"validating", "in_progress"}:
            self._polled[batch["id"]] += not cancel
            batch["status"] = "cancelling" if cancel else "in_progress"
            if not cancel and self._polled[batch["id"]] >= self._faults.polls:
                self._end(batch, self._faults.batch_end)
        return batch

    def _end(self, batch: dict[str, Any], status: str) -> None:
        """Run all lines of a batch, or half of them where it was stopped, and write the two files."""
        batch["status"] = status
        if status == "failed":
            batch["errors"] = {"object": "list", "data": [{"code": "invalid_json_line", "message": "", "line": 1}]}
            return
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        until = len(lines) if status == "completed" else len(lines) // 2
        outcomes = [self._run(line, batch["id"]) for line in lines[:until]]
        outcomes += [(False, {"response": None, "error": {"code": f"batch_{status}"}})] * (len(lines) - until)
        files: dict[bool, list[str]] = {True: [], False: []}
        for number, (line, (good, outcome)) in enumerate(zip(lines, outcomes, strict=True)):
            about = {"id": f"batch_req_{number}", "custom_id": line["custom_id"]}
            files[good].append(json.dumps({**about, **outcome}) + "\n")
        for good, name in ((True, "output_file_id"), (False, "error_file_id")):
            random.Random(f"{self._faults.seed} {batch['id']}").shuffle(files[good])
            batch[name] = self._keep("".join(files[good]).encode()) if files[good] else None
        batch["request_counts"] |= {"completed": len(files[True]), "failed": len(files[False])}


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
            given, call.uploads = await _form(headers, body)
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
            case "POST", ["models", *_]:
                options = given.get("parameters", {})
                pictures = self._pictures(call, {"size": f"{options.get('width', 64)}x{options.get('height', 64)}"})
                body = b"".join(pictures)
                return "image/png", base64.b64encode(body) if call.fault == "bad_base64" else body
            case "POST", ["v1", "chat", "completions"]:
                images = sum(part.get("type") == "image_url" for part in _parts(given))
                message = {"role": "assistant", "content": f"{images} images: {call.prompt}"}
                choices = [{"index": 0, "message": message, "finish_reason": "stop"}][call.fault == "no_data" :]
                about = {"id": f"chat-{next(self._ids)}", "model": given.get("model", ""), "created": int(call.time)}
                return {**about, "object": "chat.completion", "choices": choices}
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
