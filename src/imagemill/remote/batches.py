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
from imagemill.remote.engine import Journal, run_once, total

if TYPE_CHECKING:
    from imagemill.remote.model import Remote

_MOST = 500
"""Calls of a batch: its answer is a file with all their images."""
_AT_ONCE = 32
"""Lines of an answer that are in memory."""
_REFUSED = {"auth", "bad_request", "model_gone", "no_credit", "rate_limited"}
"""Reasons after which the server surely has not done it."""
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
            while waiting and (chunk := self._affordable(waiting[:_MOST], wait=bool(running))):
                waiting = waiting[len(chunk) :]
                running[self._hand_in(chunk)] = chunk
            for batch_id in list(running):
                batch = self._patient(partial(self._batch, batch_id=batch_id))
                if batch["status"] not in _ENDED:
                    continue
                names = [name for name in running.pop(batch_id) if name in self._requests]
                for name, outcome in self._ended(batch, names):
                    if isinstance(outcome, Result):
                        yield outcome
                        continue
                    self._journal.closed([name], outcome.paid)
                    if outcome.paid is False:
                        self._committed -= self._cost([name]) or 0.0
                    self._tries[name] = self._tries.get(name, 0) + 1
                    if outcome.again and self._tries[name] <= self._model.max_retries:
                        waiting.append(name)
                    else:
                        yield Result(self._requests[name], reason=outcome.reason, message=outcome.message)
            if running:
                time.sleep(self._poll)

    def _taken_up(self) -> dict[str, list[str]]:
        """The batches of earlier runs that the server has, by id; what it never got is to be handed in again."""
        open_batches = dict(self._journal.batches())
        there = self._patient(partial(self._listed, wanted=open_batches)) if open_batches else {}
        for token, names in open_batches.items():
            if token not in there:
                self._journal.closed(list(names), False)
        return {there[token]: list(names) for token, names in open_batches.items() if token in there}

    def _cost(self, names: Sequence[str]) -> float | None:
        return total(self._model.cost(self._requests[name]) for name in names)

    def _affordable(self, names: Sequence[str], wait: bool) -> list[str]:
        """As many as the budget bears; raises LimitReached when it bears none and nothing is to be waited for."""
        most = self._model.max_cost
        if most is None:
            return list(names)
        cost, chosen = 0.0, []
        for name in names:
            each = self._cost([name])
            if each is None:
                raise LimitReached("`max_cost`: nobody knows what the next call costs", "say it with `--price`")
            cost += each
            if self._committed + cost > most + 1e-9:
                break
            chosen.append(name)
        if not chosen and not wait:
            raise LimitReached(
                f"the next call would exceed `max_cost`: ${self._committed:.2f} of ${most:.2f} are committed",
                "everything made is kept; the same command goes on",
            )
        return chosen

    def _hand_in(self, names: Sequence[str]) -> str:
        """Make a batch and return its id."""
        cost = self._cost(names)
        self._committed += cost or 0.0
        lines = [
            {"custom_id": name, "method": "POST", "url": _ENDPOINT, "body": self._body([self._requests[name]])}
            for name in names
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        address, token = self._model.address(), secrets.token_hex(12)

        async def upload(client: Client) -> Any:
            file = ("batch.jsonl", content, "application/jsonl")
            answer = await client.call("POST", f"{address}/files", data={"purpose": "batch"}, files={"file": file})
            return answer.json()["id"]

        async def create(client: Client) -> Any:
            body = {
                "input_file_id": uploaded,
                "endpoint": _ENDPOINT,
                "completion_window": "24h",
                "metadata": {"imagemill": token},
            }
            return (await client.call("POST", f"{address}/batches", json=body)).json()["id"]

        uploaded = self._patient(upload)
        self._journal.opened(names, cost, token)
        try:
            # Not tried again here: after a broken connection only the server knows whether it has the batch.
            return str(run_once(self._model.client, create))
        except CallFailed as error:
            if error.reason in _REFUSED:
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

    def _ended(self, batch: dict[str, Any], names: Sequence[str]) -> Iterator[tuple[str, Result | CallFailed]]:
        """What came of every call of a batch that has ended, failures last; raises ModelError when all were refused."""
        errors = (batch.get("errors") or {}).get("data") or [{}]
        text = errors[0].get("message") or f"the batch is {batch['status']}"
        if batch["status"] == "failed":
            self._journal.closed(list(names), False)
            raise ModelError(f"the server has refused the batch: {text}", "the same command hands it in again")
        left = dict.fromkeys(names)
        failures: dict[str, CallFailed] = {}
        for kind in ("output_file_id", "error_file_id"):
            if not batch.get(kind):
                continue
            with tempfile.TemporaryDirectory(prefix="imagemill-") as folder:
                path = Path(folder) / "answers.jsonl"
                url = f"{self._model.address()}/files/{batch[kind]}/content"
                most = 2**20 + self._model.most_bytes([self._requests[name] for name in names])
                self._patient(partial(Client.download, url=url, path=path, most=most))
                with path.open("rb") as lines:
                    while some := list(islice(lines, _AT_ONCE)):
                        for name, outcome in self._patient(partial(self._outcomes, lines=some)):
                            if name not in left:
                                continue
                            del left[name]
                            if isinstance(outcome, Result):
                                yield name, outcome
                            else:
                                failures[name] = outcome
        refused = [failure for failure in failures.values() if failure.reason in _REFUSED - {"bad_request"}]
        if refused and len(refused) == len(names):
            self._journal.closed(list(names), False)
            raise ModelError(f"the server refuses every call: {refused[0].message}", "the same command continues")
        again = batch["status"] in {"expired", "completed"}
        failures |= dict.fromkeys(left, CallFailed("timeout", f"no answer: {text}", again=again))
        yield from failures.items()

    async def _outcomes(self, client: Client, lines: Sequence[bytes]) -> list[tuple[str, Result | CallFailed]]:
        return [await self._outcome(client, line) for line in lines]

    async def _outcome(self, client: Client, line: bytes) -> tuple[str, Result | CallFailed]:
        try:
            answer = json.loads(line)
            name = str(answer["custom_id"])
            response = answer.get("response") or {}
            status, body = response.get("status_code") or 500, response.get("body") or {"error": answer.get("error")}
            request = self._requests[name]
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            # A line of nobody; whose it was, has no answer.
            return "", CallFailed("server_error", "the line makes no sense")
        try:
            if status != 200:
                raise told(int(status), {}, json.dumps(body).encode())
            (outcome,) = await self._read(client, [request], body)
        except CallFailed as error:
            outcome = error
        if isinstance(outcome, CallFailed):
            outcome.message = client.redacted(outcome.message)
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
