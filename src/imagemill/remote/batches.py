"""OpenAI's Batch API: hand in files of calls, come back later, also after a restart.

https://platform.openai.com/docs/api-reference/batch. A batch carries a token of ours in its metadata, which stands in
the journal before the batch exists: whenever the process ends, the next one finds on the server what was handed in.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imagemill.errors import LimitReached, ModelError
from imagemill.models.base import Result
from imagemill.records import Request
from imagemill.remote.client import CallFailed, Client, told
from imagemill.remote.engine import Journal, run_once

if TYPE_CHECKING:
    from imagemill.remote.model import Remote

_MOST = 500
"""Calls of a batch: its answer is a file with all their images."""
_AT_ONCE = 32
"""Lines of an answer that are in memory."""
_ENDED = {"completed", "failed", "expired", "cancelled"}
_ENDPOINT = "/v1/images/generations"

Found = TypeVar("Found")
Body = Callable[[Sequence[Request]], Any]
Read = Callable[[Client, Sequence[Request], Any], Awaitable[Sequence[Result | CallFailed]]]


class Batches:
    """One run that goes through the Batch API."""

    def __init__(self, model: Remote, body: Body, read: Read, poll: float, journal: Journal) -> None:
        """`body` says what a call for a request says, `read` what came of it, `poll` the seconds between questions."""
        self._model = model
        self._body, self._read, self._poll = body, read, poll
        self._journal = journal
        self._requests: dict[str, Request] = {}
        self._tries: dict[str, int] = {}
        self._committed = 0.0

    def make(self, requests: Sequence[Request]) -> Iterator[Result]:
        """Hand in what is not handed in yet, wait, and yield what came of every request; raises ModelError."""
        self._requests = {request.name: request for request in requests}
        running = self._taken_up()
        there = {name for names in running.values() for name in names}
        waiting = [name for name in self._requests if name not in there]
        while running or waiting:
            while waiting:
                chunk, waiting = waiting[:_MOST], waiting[_MOST:]
                running[self._hand_in(chunk)] = chunk
            for batch_id in list(running):
                batch = self._patient(partial(self._batch, batch_id=batch_id))
                if batch["status"] not in _ENDED:
                    continue
                names = [name for name in running.pop(batch_id) if name in self._requests]
                for name, outcome in self._outcomes(batch, names):
                    if isinstance(outcome, Result):
                        yield outcome
                    elif outcome.again and self._tries.get(name, 0) < self._model.max_retries:
                        self._journal.closed([name], outcome.paid)
                        self._tries[name] = self._tries.get(name, 0) + 1
                        waiting.append(name)
                    else:
                        self._journal.closed([name], outcome.paid)
                        yield Result(self._requests[name], reason=outcome.reason, message=outcome.message)
            if running and not waiting:
                time.sleep(self._poll)

    def _taken_up(self) -> dict[str, list[str]]:
        """The batches of earlier runs that the server has, by id; what it never got is to be handed in again."""
        open_batches = dict(self._journal.batches())
        there = self._patient(partial(self._listed, wanted=open_batches)) if open_batches else {}
        for token, names in open_batches.items():
            if token not in there:
                self._journal.closed(list(names), False)
        return {there[token]: list(names) for token, names in open_batches.items() if token in there}

    def _hand_in(self, names: Sequence[str]) -> str:
        """Make a batch and return its id."""
        costs = [self._model.cost(self._requests[name]) for name in names]
        cost = sum(known) if len(known := [cost for cost in costs if cost is not None]) == len(costs) else None
        most = self._model.max_cost
        if most is not None and self._committed + (cost or 0.0) > most + 1e-9:
            raise LimitReached(
                f"the next batch would exceed `max_cost`: ${self._committed:.2f} of ${most:.2f} are committed",
                "everything made or handed in is kept; the same command goes on",
            )
        self._committed += cost or 0.0
        lines = [
            {"custom_id": name, "method": "POST", "url": _ENDPOINT, "body": self._body([self._requests[name]])}
            for name in names
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        address, token = self._model.address(), secrets.token_hex(12)

        async def create(client: Client) -> Any:
            file = ("batch.jsonl", content, "application/jsonl")
            uploaded = await client.call("POST", f"{address}/files", data={"purpose": "batch"}, files={"file": file})
            body = {
                "input_file_id": uploaded.json()["id"],
                "endpoint": _ENDPOINT,
                "completion_window": "24h",
                "metadata": {"imagemill": token},
            }
            return (await client.call("POST", f"{address}/batches", json=body)).json()["id"]

        self._journal.opened(names, cost, token)
        try:
            # Not tried again here: after a broken connection only the server knows whether it has the batch.
            return str(run_once(self._model.client, create))
        except CallFailed as error:
            if error.paid is not None:
                self._journal.closed(list(names), False)
            raise ModelError(
                f"the batch was not taken: {error.reason}: {error.message}", "the same command continues"
            ) from None

    async def _listed(self, client: Client, wanted: Collection[str]) -> dict[str, str]:
        """The ids of batches by their tokens."""
        found: dict[str, str] = {}
        after = ""
        while len(found) < len(wanted):
            page = (await client.call("GET", f"{self._model.address()}/batches?limit=100{after}")).json()
            for batch in page["data"]:
                token = (batch.get("metadata") or {}).get("imagemill")
                if token in wanted:
                    found[str(token)] = str(batch["id"])
            if not page.get("has_more") or not page["data"]:
                break
            after = f"&after={page['data'][-1]['id']}"
        return found

    async def _batch(self, client: Client, batch_id: str) -> Any:
        return (await client.call("GET", f"{self._model.address()}/batches/{batch_id}")).json()

    def _outcomes(self, batch: dict[str, Any], names: Sequence[str]) -> Iterator[tuple[str, Result | CallFailed]]:
        """What came of each call of a batch that has ended."""
        left = dict.fromkeys(names)
        for kind in ("output_file_id", "error_file_id"):
            if not batch.get(kind):
                continue
            with tempfile.TemporaryDirectory(prefix="imagemill-") as folder:
                path = Path(folder) / "answers.jsonl"
                url = f"{self._model.address()}/files/{batch[kind]}/content"
                self._patient(partial(Client.download, url=url, path=path))
                with path.open("rb") as lines:
                    while some := list(islice(lines, _AT_ONCE)):
                        for name, outcome in self._patient(partial(self._outcomes_of, lines=some)):
                            if name in left:
                                del left[name]
                                yield name, outcome
        errors = (batch.get("errors") or {}).get("data") or [{}]
        text = errors[0].get("message") or f"the batch is {batch['status']}"
        for name in left:
            if batch["status"] == "failed":
                yield name, CallFailed("bad_request", text)
            else:
                yield name, CallFailed("timeout", text, again=batch["status"] == "expired")

    async def _outcomes_of(self, client: Client, lines: Sequence[bytes]) -> list[tuple[str, Result | CallFailed]]:
        return [await self._outcome(client, line) for line in lines]

    async def _outcome(self, client: Client, line: bytes) -> tuple[str, Result | CallFailed]:
        answer = json.loads(line)
        name = str(answer.get("custom_id"))
        response = answer.get("response") or {}
        request = self._requests.get(name)
        if request is None:
            return "", CallFailed("server_error", "not asked for")
        if response.get("status_code") != 200:
            body = json.dumps(response.get("body") or {"error": answer.get("error")}).encode()
            return name, told(response.get("status_code") or 500, {}, body)
        try:
            (outcome,) = await self._read(client, [request], response["body"])
        except CallFailed as error:
            return name, error
        return name, outcome

    def _patient(self, ask: Callable[[Client], Awaitable[Found]]) -> Found:
        """Ask the server something that costs nothing, again when that may help; raises ModelError."""
        for attempt in range(self._model.max_retries + 1):
            try:
                return run_once(self._model.client, ask)
            except CallFailed as error:
                if not error.again or attempt == self._model.max_retries:
                    raise ModelError(
                        f"the server does not tell about batches: {error.reason}: {error.message}",
                        "what was handed in goes on there; the same command continues",
                    ) from None
                time.sleep(max(error.retry_after, min(30.0, 0.5 * 2**attempt)))
        raise AssertionError
