"""A small Hugging Face hub on this machine: dataset repositories with branches, pull requests and tags, over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from . import loopback

TOKEN = "hf_" + "canaryTokenThatMustNeverLeave" + "X" * 8
NAME = "someone"
_DATE = "2026-01-01T00:00:00.000Z"
_LARGE = {"png", "jpg", "jpeg", "webp", "parquet", "tar", "zip"}

Tree = dict[str, bytes]


@dataclass
class PullRequest:
    title: str
    description: str
    status: str
    base: str


@dataclass
class Repository:
    private: bool
    commits: dict[str, Tree] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    requests: dict[int, PullRequest] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def tree(self, revision: str = "main") -> Tree:
        return self.commits[self.resolve(revision)]

    def resolve(self, revision: str) -> str:
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.references:
                return self.references[name]
        if revision in self.commits:
            return revision
        raise Answer(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})

    def commit(self, reference: str, tree: Tree) -> str:
        content = repr((reference, len(self.commits), sorted(tree.items()))).encode()
        name = hashlib.sha1(content).hexdigest()
        self.commits[name] = tree
        self.references[reference] = name
        return name


class Answer(loopback.Answer):
    """What a request ends with, as JSON where it is not bytes."""

    def __init__(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        super().__init__(status, content, {"Content-Type": "application/json"} | (headers or {}))


@dataclass
class Hub:
    """What the server holds, and how it misbehaves."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """Files by SHA-256."""
    calls: list[str] = field(default_factory=list)
    """Method and path of each request."""
    fault: Callable[[int, str], int | str | None] = lambda number, call: None
    """By number and text of a call: a status to answer, `close` to hang up, `wait` never to answer."""
    role: str = "write"
    small: bool = False
    """Whether all files are taken as they are, none as large ones."""
    released: threading.Event = field(default_factory=threading.Event)

    def add(self, name: str, files: Tree | None = None, private: bool = True) -> Repository:
        repository = self.repositories[name] = Repository(private)
        repository.commit("refs/heads/main", {".gitattributes": b"*.png filter=lfs\n", **(files or {})})
        return repository

    def writes(self) -> list[str]:
        return [call for call in self.calls if not call.startswith(("GET", "HEAD"))]


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub while the block runs; what waits is answered at its end."""
    hub = Hub()
    with loopback.served(_Handler, state=hub) as hub.url:
        try:
            yield hub
        finally:
            hub.released.set()


class _Handler(loopback.Faulty):
    state: Hub

    def answer(self, call: str, body: bytes, fault: int | str | None) -> Answer:
        if isinstance(fault, int):
            return Answer(fault, {"error": f"fault; the request said {self.headers.get('Authorization')}"})
        with self.lock:
            self._route(body)
        return Answer(404, {"error": f"the fake hub has no {call}"})

    def _route(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        path = parts.path
        if stored := re.fullmatch(r"/large/([0-9a-f]{64})", path):
            if hashlib.sha256(body).hexdigest() != stored[1]:
                raise Answer(400, {"error": "these are other bytes"})
            self.state.large[stored[1]] = body
            raise Answer(200)
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if path == "/api/whoami-v2":
            if not allowed:
                raise Answer(401, {"error": "Invalid username or password."})
            token = {"role": self.state.role, "displayName": "test"}
            raise Answer(200, {"type": "user", "name": NAME, "auth": {"type": "access_token", "accessToken": token}})
        if path == "/api/validate-yaml":
            raise Answer(200, {"warnings": [], "errors": []})
        if path == "/api/repos/create":
            self._create(json.loads(body), allowed)
        found = re.fullmatch(r"/(?:api/)?datasets/([\w.-]+/[\w.-]+?)(?:\.git)?(?:/(.*))?", path)
        if not found:
            return
        repository = self.state.repositories.get(found[1])
        if repository is None or (repository.private and not allowed):
            raise Answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if self.command not in {"GET", "HEAD"} and not allowed:
            raise Answer(403, {"error": "not yours"})
        self._repository(found[1], repository, (found[2] or ""), query, body)

    def _create(self, wanted: dict[str, Any], allowed: bool) -> None:
        name = f"{wanted.get('organization') or NAME}/{wanted['name']}"
        if not allowed or not name.startswith(f"{NAME}/"):
            raise Answer(403, {"error": "You don't have the rights to create a dataset there"})
        if name in self.state.repositories:
            raise Answer(
                409, {"error": "You already created this dataset repo", "url": f"{self.state.url}/datasets/{name}"}
            )
        self.state.add(name, private=wanted.get("visibility") == "private")
        raise Answer(200, {"url": f"{self.state.url}/datasets/{name}"})

    def _repository(
        self, name: str, repository: Repository, rest: str, query: dict[str, list[str]], body: bytes
    ) -> None:
        verb, _, more = rest.partition("/")
        more = unquote(more)
        if verb in {"", "revision"}:
            revision = more or "main"
            tree = repository.tree(revision)
            raise Answer(
                200,
                {
                    "id": name,
                    "sha": repository.resolve(revision),
                    "private": repository.private,
                    "siblings": [{"rfilename": path} for path in tree],
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "lastModified": _DATE,
                },
            )
        if verb == "tree":
            revision, path = self._split(repository, more)
            files = [self._file(at, data) for at, data in sorted(repository.tree(revision).items())]
            if path or "recursive" not in query or query["recursive"][0].lower() != "true":
                files = self._inside(repository.tree(revision), path)
            raise Answer(200, files)
        if verb == "paths-info":
            wanted = json.loads(body)["paths"] if self.headers["Content-Type"].startswith("application/json") else []
            wanted = wanted or parse_qs(body.decode()).get("paths", [])
            tree = repository.tree(more)
            raise Answer(200, [self._file(path, tree[path]) for path in wanted if path in tree])
        if verb == "refs":
            found: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": []}
            for reference, commit in repository.references.items():
                kind = {"heads": "branches", "tags": "tags"}.get(reference.split("/")[1])
                if kind:
                    found[kind].append({"name": reference.split("/", 2)[2], "ref": reference, "targetCommit": commit})
            raise Answer(200, found)
        if verb == "preupload":
            tree = repository.tree(more)
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if self._is_large(file["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": self._object(tree[file["path"]], file["path"]) if file["path"] in tree else None,
                }
                for file in json.loads(body)["files"]
            ]
            raise Answer(200, {"files": files})
        if rest == "info/lfs/objects/batch":
            objects = [
                {
                    **wanted,
                    **(
                        {}
                        if wanted["oid"] in self.state.large
                        else {"actions": {"upload": {"href": f"{self.state.url}/large/{wanted['oid']}"}}}
                    ),
                }
                for wanted in json.loads(body)["objects"]
            ]
            raise Answer(200, {"transfer": "basic", "objects": objects})
        if verb == "commit":
            self._commit(name, repository, more, "create_pr" in query, body)
        if verb == "tag":
            tag = f"refs/tags/{json.loads(body)['tag']}"
            if tag in repository.references:
                raise Answer(409, {"error": "Tag reference exists already"})
            repository.references[tag] = repository.resolve(more)
            raise Answer(200)
        if verb == "discussions":
            self._discussions(name, repository, more, body)
        if verb == "resolve":
            revision, path = self._split(repository, more)
            tree = repository.tree(revision)
            if path not in tree:
                raise Answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            data = tree[path]
            headers = {
                "ETag": f'"{self._object(data, path)}"',
                "X-Repo-Commit": repository.resolve(revision),
                "Content-Length": str(len(data)),
                "Content-Type": "application/octet-stream",
                "Accept-Ranges": "bytes",
            }
            if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start, end = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
                headers |= {"Content-Range": f"bytes {start}-{end}/{len(data)}", "Content-Length": str(end + 1 - start)}
                raise Answer(206, data[start : end + 1], headers)
            raise Answer(200, data, headers)

    def _commit(self, name: str, repository: Repository, revision: str, create: bool, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        header, *operations = ((line["key"], line["value"]) for line in lines)
        tree = dict(repository.tree(revision))
        for key, value in operations:
            if key == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.state.large:
                    raise Answer(400, {"error": f"{value['path']} has not been uploaded"})
                tree[value["path"]] = self.state.large[value["oid"]]
            elif key == "deletedFile":
                if value["path"] not in tree:
                    raise Answer(
                        404, {"error": "A file with this name doesn't exist"}, {"X-Error-Code": "EntryNotFound"}
                    )
                del tree[value["path"]]
            else:
                raise Answer(400, {"error": key})
        title, description = header[1]["summary"], header[1]["description"]
        repository.messages.append(f"{title}\n{description}")
        url = ""
        if create:
            number = self._request(repository, title, description, "open", revision)
            revision, url = f"refs/pr/{number}", f"{self.state.url}/datasets/{name}/discussions/{number}"
        reference = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        commit = repository.commit(reference, tree)
        commit_url = f"{self.state.url}/datasets/{name}/commit/{commit}"
        raise Answer(200, {"success": True, "commitOid": commit, "commitUrl": commit_url, "pullRequestUrl": url})

    def _request(self, repository: Repository, title: str, description: str, status: str, base: str) -> int:
        number = len(repository.requests) + 1
        commit = repository.resolve(base)
        repository.requests[number] = PullRequest(title, description, status, commit)
        repository.references[f"refs/pr/{number}"] = commit
        return number

    def _discussions(self, name: str, repository: Repository, rest: str, body: bytes) -> None:
        wanted = json.loads(body) if body else {}
        if not rest and self.command == "POST":
            number = self._request(repository, wanted["title"], wanted["description"], "draft", "main")
            raise Answer(200, {"num": number})
        if not rest:
            found = [self._told(name, number, request) for number, request in repository.requests.items()]
            raise Answer(200, {"discussions": found, "count": len(found), "start": 0})
        number = int(rest.split("/", maxsplit=1)[0])
        request = repository.requests[number]
        if rest.endswith("/status"):
            request.status = wanted["status"]
            event = {"id": "1", "type": "status-change", "createdAt": _DATE, "data": {"status": request.status}}
            raise Answer(200, {"newStatus": event})
        if rest.endswith("/merge"):
            if request.status != "open":
                raise Answer(403, {"error": f"this pull request is {request.status}"})
            if request.base != repository.resolve("main"):
                raise Answer(409, {"error": "main has changed"})
            repository.commit("refs/heads/main", repository.tree(f"refs/pr/{number}"))
            request.status = "merged"
            raise Answer(200)
        raise Answer(
            200,
            {
                **self._told(name, number, request),
                "events": [],
                "changes": {"base": "refs/heads/main"},
                "filesWithConflicts": [],
            },
        )

    def _told(self, name: str, number: int, request: PullRequest) -> dict[str, Any]:
        return {
            "title": request.title,
            "num": number,
            "author": {"name": NAME},
            "createdAt": _DATE,
            "status": request.status,
            "repo": {"name": name, "type": "dataset"},
            "isPullRequest": True,
        }

    def _split(self, repository: Repository, rest: str) -> tuple[str, str]:
        """A revision, which may have slashes, and a path after it."""
        words = rest.split("/")
        for count in (1, 3):
            revision = "/".join(words[:count])
            try:
                repository.resolve(revision)
            except Answer:
                continue
            return revision, "/".join(words[count:])
        raise Answer(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})

    def _is_large(self, path: str) -> bool:
        return not self.state.small and path.rpartition(".")[2] in _LARGE

    def _object(self, data: bytes, path: str) -> str:
        if self._is_large(path):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def _file(self, path: str, data: bytes) -> dict[str, Any]:
        told: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
        told["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if self._is_large(path):
            told["lfs"] = {"oid": self._object(data, path), "size": len(data), "pointerSize": 130}
        return told

    def _inside(self, tree: Tree, folder: str) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in tree if path.startswith(prefix)]
        if folder and not inside:
            raise Answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        folders = sorted({prefix + path[len(prefix) :].split("/")[0] for path in inside if "/" in path[len(prefix) :]})
        told: list[dict[str, Any]] = [
            {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
            for path in folders
        ]
        return told + [self._file(path, tree[path]) for path in inside if "/" not in path[len(prefix) :]]


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.01)
