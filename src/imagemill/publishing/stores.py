"""An export becomes objects of S3, Google Cloud Storage or Azure under a prefix: its mark is the last that comes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from imagemill.dataset.manifest import MANIFEST, MARK
from imagemill.errors import ImagemillError, MissingExtra, UsageError
from imagemill.publishing.checks import redacted
from imagemill.publishing.target import (
    CARD,
    Exported,
    File,
    Publish,
    Say,
    State,
    Target,
    mark_of,
    parse_manifest,
    without_password,
)
from imagemill.terminal import number, size

_CLAIM = ".imagemill-upload.json"
"""The first object of an upload, gone after its last: whose the prefix is while there is no mark."""
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_KEY",
}
_CHUNK = 8 << 20
"""Bytes of a part of a large object; S3 knows objects of parts by their hashes."""
_AT_ONCE = 4
"""Files, and parts of each."""
_SAID_EVERY = 10.0
"""Seconds."""


class StorePrefix(Target):
    """A prefix of an object store, such as `s3://bucket/prefix`."""

    def __init__(self, url: str, options: Publish) -> None:
        """Take a URL; raises UsageError."""
        super().__init__(url, options)
        if not re.fullmatch(r"\w+://[^/?#@]+(/[^?#]*)?", url):
            raise UsageError(f"`{without_password(url)}` names no bucket", "write `s3://bucket/prefix`")
        if {"", ".", ".."} & set(url.rstrip("/").split("/")[3:]):
            raise UsageError(f"`{url}` has an empty name, `.` or `..` in its path", "write the prefix as it shall be")
        if options.public or options.tag:
            given = "public" if options.public else "tag"
            raise UsageError(
                f"`--{given}` has no effect on `{url}`", "an object store decides by itself who may read what"
            )

    @property
    def place(self) -> str:
        """Where programs read it."""
        return self.url

    @cached_property
    def _store(self) -> Any:
        endpoints = [os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")]
        options = {"allow_http": True} if any(url.startswith("http://") for url in endpoints) else {}
        retries = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
        with self._explained():
            return _import_obstore().store.from_url(self.url.rstrip("/"), client_options=options, retry_config=retries)

    def look(self, mark: Mapping[str, Any]) -> State:
        """List the prefix."""
        found = self._list()
        if MARK not in found and _CLAIM not in found:
            if found:
                raise UsageError(
                    f"`{self.url}` holds other objects, such as `{min(found)}`", "choose another prefix, or empty it"
                )
            return State("nothing")
        claimed = self._version(_CLAIM) if _CLAIM in found else {}
        claim = self._read_json(_CLAIM) if _CLAIM in found else {}
        if MARK in found:
            self.check_replaced(self._read_json(MARK), mark)
        if _CLAIM in found:
            self.check_replaced(claim.get("mark"), mark)
        names = {MARK, MANIFEST, CARD, *claim.get("names", ())}
        whole = MARK in found and MANIFEST in found
        if MANIFEST in found:
            try:
                files = parse_manifest(self._read(MANIFEST))
            except ValueError:
                files, whole = [], False
            names |= {file.name for file in files}
            whole = whole and all(file.name in found and found[file.name]["size"] == file.size for file in files)
        same = whole and not claim and self._read_json(MARK) == mark
        earlier: Literal["another", "half"] = "another" if MARK in found else "half"
        return State("this" if same else earlier, frozenset(names), {"claim": claim, "claimed": claimed})

    def publish(self, exported: Exported, state: State, say: Say) -> None:
        """Send the claim, all data, then card and manifest, then the mark; last what an earlier export has left."""
        mark = mark_of(exported)
        state = self.look(mark)
        if state.holds == "this":
            return
        names = sorted(state.names | set(exported.files))
        claim = {"fingerprint": exported.fingerprint, "names": names, "mark": mark}
        continued = state.details.get("claim", {}).get("fingerprint") == exported.fingerprint
        content = json.dumps(claim).encode()
        with self._explained():
            if not continued:
                # Where two begin at once, one is told so.
                there = state.details.get("claimed")
                self._store.put(_CLAIM, content, mode=there or "create")
            found = self._list()
            if (MARK in found) != (state.holds == "another"):
                raise ImagemillError(f"`{self.url}` has changed meanwhile", "give the same command again")
            self._delete([MARK] if state.holds == "another" else [])
            own = self._read(_CLAIM)
            checked = _Checked(found[_CLAIM], own)
            there = {
                name
                for name, file in exported.files.items()
                if name in found and checked.is_sent(exported.folder / name, file, found[name], continued)
            }
            if continued and there:
                say(f"continuing: {number(len(there), 'file')} of {len(exported.files):,} there already")
            last = [CARD, MANIFEST, MARK]
            data = [file for name, file in exported.files.items() if name not in last and name not in there]
            self._send(exported, data, say)
            self._check(exported, [name for name in exported.files if name not in last], checked)
            self._send(exported, [exported.files[name] for name in (CARD, MANIFEST)], None)
            self._check(exported, [CARD, MANIFEST], checked)
            self._check_claim(own)
            self._store.put(MARK, (exported.folder / MARK).read_bytes(), mode="create")
            self._check_claim(own)
            self._delete(sorted((state.names - set(exported.files)) & set(found)))
            self._delete([_CLAIM])

    def _check_claim(self, own: bytes) -> None:
        """Raise ImagemillError when another upload has begun in the same place."""
        if _CLAIM not in self._list() or self._read(_CLAIM) != own:
            raise ImagemillError(
                f"another upload to `{self.url}` has begun meanwhile", "wait for it, then give the same command again"
            )

    def _list(self) -> dict[str, Any]:
        with self._explained():
            return {found["path"]: found for found in self._store.list().collect()}

    def _version(self, name: str) -> dict[str, Any]:
        """What tells an object from a later one of its name."""
        with self._explained():
            found = self._store.head(name)
        return {key: found[key] for key in ("e_tag", "version") if found.get(key)}

    def _read(self, name: str) -> bytes:
        with self._explained():
            return bytes(self._store.get(name).bytes())

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self._read(name))
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def _delete(self, names: list[str]) -> None:
        with self._explained():
            if names:
                self._store.delete(names)

    def _send(self, exported: Exported, files: list[File], say: Say | None) -> None:
        """Send files, several at once; each appears whole."""
        progress = _Progress(files, say)

        def send(file: File) -> None:
            self._store.put(
                file.name, exported.folder / file.name, chunk_size=_CHUNK, max_concurrency=_AT_ONCE, mode="overwrite"
            )
            progress.sent(file)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                list(pool.map(send, files))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _check(self, exported: Exported, names: list[str], checked: _Checked) -> None:
        """Raise ImagemillError for an object that is not as it was sent."""
        found = self._list()
        for name in names:
            if name not in found:
                problem = "is absent"
            elif found[name]["size"] != exported.files[name].size:
                problem = f"has {found[name]['size']:,} bytes instead of {exported.files[name].size:,}"
            elif checked.differs(exported.folder / name, found[name]):
                problem = "differs"
            else:
                continue
            raise ImagemillError(
                f"`{name}` {problem} in `{self.url}`", "give the same command again: it sends what is missing"
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the library raises into our errors, which hold no credentials."""
        exceptions = _import_obstore().exceptions
        again = "the same command continues"
        try:
            yield
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise ImagemillError(f"another upload to `{self.url}` is under way", again) from None
        except (exceptions.BaseError, ValueError, OSError) as error:
            refused = isinstance(error, (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError))
            # What listings raise has no type of its own.
            if refused or re.search(r"\b(401 Unauthorized|403 Forbidden)\b", str(error)):
                raise UsageError(
                    f"`{self.url}` refuses the credentials{_code(error)}",
                    f"check those in the environment, such as `{_VARIABLES[self.url[:2]]}`, and what they may do there",
                ) from None
            if "NoSuchBucket" in _code(error):
                raise UsageError(f"`{self.url}` is in no bucket that there is: NoSuchBucket", "make it first") from None
            raise ImagemillError(
                f"`{self.url}` cannot be used: {_code(error).removeprefix(': ') or _brief(error)}",
                f"check the network, the credentials and the store's address; {again}",
            ) from None


def _import_obstore() -> Any:
    try:
        import obstore.exceptions
        import obstore.store
    except ImportError:
        raise MissingExtra("obstore", "imagemill[cloud]") from None
    return obstore


class _Checked:
    """Whether objects hold what was sent, as far as a store tells."""

    def __init__(self, claim: Mapping[str, Any], content: bytes) -> None:
        self._begun = claim["last_modified"]
        # Amazon's are, unless the bucket has a key of its own; other stores count versions.
        self._md5 = _tag(claim) == hashlib.md5(content).hexdigest()

    def is_sent(self, path: Path, file: File, found: Mapping[str, Any], continued: bool) -> bool:
        """Whether a file need not be sent again."""
        if found["size"] != file.size:
            return False
        if self._md5:
            return not self.differs(path, found)
        # Objects appear whole, so that one that is younger than this upload is one of its own.
        return continued and bool(found["last_modified"] > self._begun)

    def differs(self, path: Path, found: Mapping[str, Any]) -> bool:
        """Whether the store says another hash than the file has."""
        tag = _tag(found)
        if not self._md5 or not re.fullmatch(r"[0-9a-f]{32}(-\d+)?", tag):
            return False
        return tag != _md5(path, parts="-" in tag)


class _Progress:
    """Tells every ten seconds how much has been sent."""

    def __init__(self, files: list[File], say: Say | None) -> None:
        self._say = say
        self._files = len(files)
        self._bytes = sum(file.size for file in files)
        self._sent_files = self._sent_bytes = 0
        self._last = time.monotonic()
        self._lock = threading.Lock()

    def sent(self, file: File) -> None:
        """Count a file."""
        with self._lock:
            self._sent_files += 1
            self._sent_bytes += file.size
            if self._say and time.monotonic() - self._last >= _SAID_EVERY:
                self._last = time.monotonic()
                self._say(
                    f"{self._sent_files:,}/{self._files:,} files · {size(self._sent_bytes)} of {size(self._bytes)} sent"
                )


def _tag(found: Mapping[str, Any]) -> str:
    return str(found.get("e_tag") or "").strip('"')


def _md5(path: Path, parts: bool) -> str:
    """A file's hash as S3 says it: for an object of parts the hash of the parts' hashes, with their number."""
    with path.open("rb") as file:
        if not parts:
            return hashlib.file_digest(file, "md5").hexdigest()
        read: Callable[[], bytes] = lambda: file.read(_CHUNK)  # noqa: E731
        hashes = [hashlib.md5(part).digest() for part in iter(read, b"")]
    return f"{hashlib.md5(b''.join(hashes)).hexdigest()}-{len(hashes)}"


def _code(error: Exception) -> str:
    """The store's own word for an error, such as `NoSuchBucket`."""
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return f": {found[1]}" if found else ""


def _brief(error: Exception) -> str:
    """The first line of an error, without secrets."""
    line = redacted(str(error)).strip().partition("\n")[0]
    return line if len(line) <= 300 else f"{line[:300]}…"
