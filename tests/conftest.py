"""What the tests share: a way to run the command line, and a few tables."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imagemill.cli import run

os.environ["HF_HUB_OFFLINE"] = "1"
# Before torch is imported: threads that wait for work busily starve each other on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@dataclass(frozen=True)
class Completed:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Completed]


@pytest.fixture
def imagemill(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `imagemill ARGUMENTS…` in this process."""

    def command(*arguments: object) -> Completed:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Completed(code, captured.out, captured.err)

    return command


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A table of twelve rows with ids and one more column."""
    path = tmp_path / "prompts.csv"
    lines = ["id,prompt,topic", *(f"row-{number},picture number {number},t{number % 3}" for number in range(12))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path) -> Iterator[None]:
    """Commands that write beside themselves write here."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)


def contents(folder: Path) -> dict[str, str]:
    """Every published file of a dataset with the hash of its bytes; also what our own state says of parts."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".imagemill" not in path.parts]
    paths += [folder / ".imagemill" / "rejects.jsonl"]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)
    }


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Any]:
    """The web app over an empty folder."""
    from tests.web_server import served

    with served(tmp_path / "served") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests of a file; skips where there is none.

    While it is open its thread has a running event loop, which tests of other files would stumble over.
    """
    from tests.web_server import chromium

    with chromium() as running:
        yield running


@pytest.fixture
def browser_page(browser: Any, web: Any) -> Iterator[Any]:
    """A page that is logged in to `web`."""
    from tests.web_server import opened

    with opened(browser, web) as page:
        yield page
