"""The part of the fault server that keeps files and batches."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from .plan import Answer, Call, Faults, Refused


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
