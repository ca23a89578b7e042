"""An export becomes a dataset repository of the Hugging Face hub: by a pull request that is merged when it is whole."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from imagemill.dataset.manifest import MANIFEST, MARK
from imagemill.environment import package_version
from imagemill.errors import ImagemillError, MissingExtra, UsageError
from imagemill.publishing.checks import check_limits, redacted
from imagemill.publishing.target import CARD, Exported, Publish, Say, State, Target, mark_of, parse_manifest

_URL = re.compile(r"hf://(?:datasets/)?([\w-][\w.-]*/[\w-][\w.-]*)/?", re.ASCII)
_NOT_OURS = frozenset({".gitattributes"})
"""What the hub puts into a new repository."""
_TITLE = "imagemill export "
_PATIENCE = 30.0
"""Seconds for the first answer; the library waits forever for the others."""
_LOG_IN = "log in with `hf auth login`, or set `HF_TOKEN`"


class HubRepository(Target):
    """A dataset repository, private unless it is said to be public."""

    def __init__(self, url: str, options: Publish) -> None:
        """Take a URL such as `hf://user/name`; raises UsageError."""
        super().__init__(url, options)
        found = _URL.fullmatch(url)
        if not found:
            raise UsageError(f"`{url}` names no repository of the hub", "write `hf://user/name`")
        self.repository = found[1]
        if not re.fullmatch(r"[\w.-]*", options.tag, re.ASCII):
            raise UsageError(f"`{options.tag}` is no name for a tag", "use letters, digits, `.`, `_` and `-`")

    @property
    def place(self) -> str:
        """Where people look at it, and who can."""
        import_hub()
        return f"{self._api.endpoint}/datasets/{self.repository} ({'public' if self.options.public else 'private'})"

    @property
    def address(self) -> str:
        """How `load_dataset` names it."""
        return self.repository

    @cached_property
    def _api(self) -> Any:
        # The library reads it when it is first imported; who sets it later means it as well.
        return import_hub().HfApi(
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            library_name="imagemill",
            library_version=package_version("imagemill"),
        )

    def look(self, mark: Mapping[str, Any]) -> State:
        """Ask the hub who we are, and what is there."""
        errors = import_hub().errors
        with _explained(self.repository):
            if import_hub().constants.is_offline_mode():
                raise errors.OfflineModeIsEnabled
            role = self._api.whoami().get("auth", {}).get("accessToken", {}).get("role")
            if role == "read":
                raise UsageError("the token may only read", "make one that may write: https://hf.co/settings/tokens")
            try:
                info = self._api.repo_info(self.repository, repo_type="dataset", timeout=_PATIENCE)
            except errors.RepositoryNotFoundError:
                return State("nothing")
            self._check_visibility(info.private)
            return self._state(mark, info.sha)

    def publish(self, exported: Exported, state: State, say: Say) -> None:
        """Upload into a pull request, merge it, and compare what `main` holds."""
        check_limits(exported)
        api, repository = self._api, self.repository
        with _explained(repository):
            if "head" not in state.details:
                api.create_repo(repository, repo_type="dataset", private=not self.options.public, exist_ok=True)
            # Writing the export may have taken hours.
            info = api.repo_info(repository, repo_type="dataset")
            self._check_visibility(info.private)
            state = self._state(mark_of(exported), info.sha)
            if state.holds == "this":
                self._tag()
                return
            title = f"{_TITLE}{exported.fingerprint[:16]}"
            begun = self._begun(title)
            if begun:
                say(f"continuing pull request {begun}")
            info = api.upload_folder(
                repo_id=repository,
                folder_path=exported.folder,
                repo_type="dataset",
                commit_message=title,
                commit_description=(
                    f"Written by imagemill {package_version('imagemill')}. The export's fingerprint: "
                    f"`{exported.fingerprint}`."
                ),
                ignore_patterns=[".imagemill/*"],
                delete_patterns=_patterns(state, exported.files),
                **({"revision": f"refs/pr/{begun}"} if begun else {"create_pr": True}),
            )
            number = begun or info.pr_num
            if number:
                details = api.get_discussion_details(repository, number, repo_type="dataset")
                if details.status == "draft":
                    api.change_discussion_status(repository, number, "open", repo_type="dataset")
                self._check_head(number, state)
                self._merge(number)
            self._compare(exported)
            self._tag()

    def settle(self, mark: Mapping[str, Any], state: State) -> None:
        """Give the export its tag."""
        with _explained(self.repository):
            self._tag()

    def _check_visibility(self, private: bool) -> None:
        if not private and not self.options.public:
            raise UsageError(
                f"`{self.repository}` is public", "say so with `--public`, or make it private in its settings"
            )
        if private and self.options.public:
            raise UsageError(
                f"`{self.repository}` is private", "leave out `--public`, or make it public in its settings"
            )

    def _state(self, mark: Mapping[str, Any], head: str) -> State:
        """What `main` holds; raises UsageError when it is not ours."""
        files = {file.path: file for file in self._tree(head)}
        details = {"head": head, "all": frozenset(files)}
        if MARK not in files:
            if others := sorted(set(files) - _NOT_OURS):
                raise UsageError(
                    f"`{self.repository}` holds other files, such as `{others[0]}`", "choose another repository"
                )
            self._check_tag(None)
            return State("nothing", details=details)
        try:
            there = json.loads(self._read(MARK, head))
            listed = parse_manifest(self._read(MANIFEST, head)) if MANIFEST in files else []
        except ValueError as error:
            raise UsageError(f"`{self.repository}` holds an export that cannot be read: {error}", "delete it") from None
        names = frozenset({MARK, MANIFEST, CARD, *(file.name for file in listed)})
        whole = listed and all(
            # People may edit the card.
            file.name == CARD or (file.name in files and files[file.name].size == file.size)
            for file in listed
        )
        self.check_replaced(there, mark)
        same = bool(whole) and there == mark
        self._check_tag(mark if same else None)
        return State("this" if same else "another", names, details)

    def _check_tag(self, mark: Mapping[str, Any] | None) -> None:
        """Raise UsageError when the tag stands for something else than an export with this mark."""
        if not self.options.tag or self.options.tag not in self._tags():
            return
        try:
            there = json.loads(self._read(MARK, self.options.tag))
        except import_hub().errors.EntryNotFoundError:
            there = None
        if mark is None or there != mark:
            raise UsageError(f"`{self.repository}` has a tag `{self.options.tag}` already", "choose another tag")

    def _tags(self) -> set[str]:
        return {tag.name for tag in self._api.list_repo_refs(self.repository, repo_type="dataset").tags}

    def _tag(self) -> None:
        if self.options.tag and self.options.tag not in self._tags():
            self._api.create_tag(self.repository, tag=self.options.tag, repo_type="dataset")

    def _tree(self, revision: str) -> Iterator[Any]:
        found = self._api.list_repo_tree(self.repository, recursive=True, revision=revision, repo_type="dataset")
        return (file for file in found if hasattr(file, "blob_id"))

    def _read(self, name: str, revision: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = self._api.hf_hub_download(
                self.repository, name, repo_type="dataset", revision=revision, local_dir=folder
            )
            return Path(path).read_bytes()

    def _begun(self, title: str) -> int:
        """The pull request that an interrupted upload has left; those of other exports are closed."""
        begun = 0
        found = self._api.get_repo_discussions(self.repository, discussion_type="pull_request", repo_type="dataset")
        for request in found:
            if request.status in {"open", "draft"} and request.title.startswith(_TITLE):
                if request.title == title and not begun:
                    begun = request.num
                else:
                    self._close(request.num, "A later export replaces it.")
        return begun

    def _merge(self, number: int) -> None:
        try:
            self._api.merge_pull_request(self.repository, number, repo_type="dataset")
        except import_hub().errors.HfHubHTTPError as error:
            if error.response.status_code in {400, 409, 412}:
                # Somebody else has changed `main`: the next call begins from there.
                self._close(number, "`main` has changed meanwhile.")
            raise

    def _check_head(self, number: int, state: State) -> None:
        """Raise ImagemillError when somebody else has changed `main`, of which the hub would make a mixture."""
        if self._api.repo_info(self.repository, repo_type="dataset").sha != state.details["head"]:
            self._close(number, "`main` has changed meanwhile.")
            raise ImagemillError(
                f"`{self.repository}` has changed meanwhile", "the same command looks at it again, and continues"
            )

    def _close(self, number: int, comment: str) -> None:
        self._api.change_discussion_status(self.repository, number, "closed", comment=comment, repo_type="dataset")

    def _compare(self, exported: Exported) -> None:
        """Raise ImagemillError when `main` does not hold what was exported."""
        files = {file.path: file for file in self._tree("main")}
        for name, file in exported.files.items():
            found = files.get(name)
            if found is None:
                problem = "is absent"
            elif found.size != file.size:
                problem = f"has {found.size:,} bytes instead of {file.size:,}"
            elif found.lfs is not None:
                problem = "" if found.lfs.sha256 == file.sha256 else "differs"
            else:
                problem = "" if found.blob_id == _git_hash(exported.folder / name) else "differs"
            if problem:
                raise ImagemillError(
                    f"`{name}` {problem} in `{self.repository}`",
                    "give the same command again: it sends what is missing",
                )


def import_hub() -> Any:
    """The package, with the settings that must stand before."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        raise MissingExtra("huggingface_hub", "imagemill[cloud]") from None
    except ValueError as error:
        # The package reads numbers from its variables when it is imported.
        raise UsageError(
            f"a variable `HF_…` is not what it must be: {error}", "`HF_HUB_…_TIMEOUT` are seconds"
        ) from None
    return huggingface_hub


def _patterns(state: State, files: Iterable[str]) -> list[str] | None:
    """Which files of the repository are deleted: those of an earlier export that this one does not have."""
    gone = state.names.difference(files)
    if not gone:
        return None
    # One pattern for all instead of one for each, which the library would try on each file; what is uploaded stays.
    if state.details["all"] <= state.names.union(files, _NOT_OURS):
        return ["*"]
    return [glob.escape(name) for name in sorted(gone)]


def _git_hash(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turn what the library raises into our errors, which hold no token."""
    import httpx2

    try:
        yield
    except (ValueError, RuntimeError, OSError, httpx2.HTTPError) as error:
        raise _told(error, repository) from None


def _told(error: BaseException, repository: str) -> ImagemillError:
    """What an error of the library, or of what lies below it, means."""
    import httpx2

    errors = import_hub().errors
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UsageError("the hub is not asked while offline", "unset `HF_HUB_OFFLINE`")
    if isinstance(error, errors.LocalTokenNotFoundError):
        return UsageError("nobody is logged in to the hub", _LOG_IN)
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"the hub has no such names as `{repository}`", "use letters, digits and `-`")
    if isinstance(error, errors.HfHubHTTPError):
        return _answer(error, repository)
    if isinstance(error, httpx2.HTTPError):
        return ImagemillError(
            f"the hub cannot be reached: {redacted(str(error)) or type(error).__name__}",
            "check the network and `HF_ENDPOINT`; the same command continues",
        )
    if error.__cause__ is not None:
        return _told(error.__cause__, repository)
    return ImagemillError(f"`{repository}` cannot be written: {redacted(str(error))}", "the same command continues")


def _answer(error: Any, repository: str) -> ImagemillError:
    """What an answer of the hub means."""
    status = error.response.status_code if error.response is not None else 0
    said = redacted(str(getattr(error, "server_message", "") or "")).strip()
    more = f": {said}" if said else ""
    again = "the same command continues; readers see nothing of it until then"
    known = {
        401: ("the hub does not know the token", _LOG_IN),
        403: (f"the token may not write `{repository}`{more}", "use a token that may write there"),
        404: (f"the hub has no `{repository}`, or does not show it to this token{more}", _LOG_IN),
    }
    if status in known:
        return UsageError(*known[status])
    if status == 409:
        return ImagemillError(f"`{repository}` has changed meanwhile{more}", again)
    if status == 429:
        return ImagemillError("the hub takes no more requests for now", f"wait some minutes; {again}")
    return ImagemillError(f"the hub answers {status or 'nothing'}{more}", again)
