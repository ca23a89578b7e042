"""What the fault server does wrong, what it notes of each call, and its pictures; nothing here reads or writes."""

from __future__ import annotations

import hashlib
import io
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from PIL import Image

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
        for part in message_parts(given):
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


def message_parts(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The texts and images of a chat call."""
    contents = [message["content"] for message in given.get("messages", [])]
    lists = [[{"text": content}] if isinstance(content, str) else content for content in contents]
    return list(itertools.chain(*lists))
