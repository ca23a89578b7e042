"""The docs are true: generated parts are current, links lead somewhere, and what a page shows is run."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import get_args
from unittest.mock import patch

import pytest

import imagemill
from imagemill import cli
from imagemill.records import RECORD_KEYS, FailureReason

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
WRITTEN = [page for page in PAGES if REFERENCE not in page.parents]
WEIGHTS = ROOT / "src" / "imagemill" / "weights" / "shapes" / "model_index.json"

RUN = {"cat", "echo", "imagemill", "ls", "printf", "python"}
"""Programs that a console block may run."""
PROGRESS = re.compile(r"[\d,]+/[\d,]+ · .* failed")
"""A line that a slow machine prints every ten seconds, and a fast one never."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str
    content: str


@dataclass(frozen=True)
class Command:
    """A command of a console block and the lines that the page shows below it."""

    line: str
    shown: list[str]


def _blocks(page: Path) -> list[Block]:
    found = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*parts) for parts in found]


def _commands(block: Block) -> list[Command]:
    commands: list[Command] = []
    for line in block.content.splitlines():
        if line.startswith("$ "):
            commands.append(Command(line[2:], []))
        else:
            commands[-1].shown.append(line)
    return commands


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _sessions() -> list[Path]:
    return [page for page in WRITTEN if any(block.language in {"console", "python", "sh"} for block in _blocks(page))]


def _uses_built_in_model(page: Path) -> bool:
    lines = [command.line for block in _blocks(page) if block.language == "console" for command in _commands(block)]
    scripts = [block.content for block in _blocks(page) if block.language == "python" and not block.title]
    return any("imagemill generate " in line and "--model" not in line for line in lines) or any(
        "imagemill.generate(" in script and "model=" not in script for script in scripts
    )


def _reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "docs" / "reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# What is written


def test_the_generated_docs_are_current() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "docs" / "reference.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_in_a_guide(command: str) -> None:
    blocks = [block for page in WRITTEN for block in _blocks(page) if block.language in {"console", "sh"}]
    shown = "\n".join(block.content for block in blocks)
    assert re.search(rf"^(\$ (.* \| )?)?imagemill {command}\b", shown, re.MULTILINE)


@pytest.mark.parametrize("name", imagemill.__all__)
def test_every_public_name_is_in_the_docs(name: str) -> None:
    assert f"## {name}\n" in (REFERENCE / "python.md").read_text()
    assert any(re.search(rf"\b{name}\b", page.read_text()) for page in WRITTEN)


@pytest.mark.parametrize("reason", get_args(FailureReason))
def test_every_failure_reason_is_explained(reason: str) -> None:
    assert f"| `{reason}` |" in (ROOT / "docs" / "errors.md").read_text()


@pytest.mark.parametrize("key", RECORD_KEYS)
def test_every_record_key_is_explained(key: str) -> None:
    assert f"| `{key}` |" in (ROOT / "docs" / "concepts.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings
            }


def test_the_changelog_knows_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.mark.skipif(not importlib.util.find_spec("material"), reason="mkdocs-material is not installed")
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    for page in tmp_path.rglob("*.html"):
        assert not re.search(r"<(script|link|img)\b[^>]*(src|href)=\W?(https?:)?//", page.read_text()), page


# What is run


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("page", _sessions(), ids=_name)
def test_what_a_page_shows_is_what_happens(page: Path, tmp_path: Path) -> None:
    if _uses_built_in_model(page):
        if not WEIGHTS.is_file():
            pytest.skip("the weights of `shapes` are absent")
        if not importlib.util.find_spec("torch"):
            pytest.skip("torch is not installed")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    session = _Session(tmp_path)
    for block in _blocks(page):
        if block.title:
            session.write(block)
        elif block.language == "console":
            session.console(_commands(block))
        elif block.language == "python":
            session.python(block.content)
        elif block.language == "sh":
            _check_shell_lines(block.content.splitlines())


class _Session:
    """The current folder, in which the blocks of one page are run, from top to bottom.

    Plain commands of `imagemill`, and scripts that import it, are run in this process, which has imported what they
    need; pipes, other programs, an interrupt, and everything once the page has installed a package need their own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.installed = False
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(folder / ".cache"),
            "OMP_WAIT_POLICY": "PASSIVE",
        }

    def write(self, block: Block) -> None:
        """Put a titled block into the folder; a package is installed as far as entry points go."""
        (self.folder / block.title).write_text(block.content)
        if block.title == "pyproject.toml":
            self.installed = True
            project = tomllib.loads(block.content)["project"]
            folder = self.folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
            )
            lines = [
                line
                for group, entries in project["entry-points"].items()
                for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
            ]
            (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")

    def console(self, commands: Sequence[Command]) -> None:
        code = 0
        for command, after in zip(commands, [*commands[1:], None], strict=True):
            if command.line == "echo $?":
                assert command.shown == [str(code)]
                continue
            programs = {part.split()[0] for part in command.line.split(" | ")}
            assert programs <= RUN, f"a console block cannot run {programs - RUN}"
            interrupt = "^C" in command.shown
            if programs == {"imagemill"} and not (self.installed or interrupt or set(command.line) & set("|<>&;$`")):
                code, printed = _here(lambda: cli.run(shlex.split(command.line)[1:]))  # noqa: B023
            else:
                code, printed = self.run(["bash", "-c", command.line], interrupt)
            if not (after and after.line == "echo $?"):
                refused = any(line.startswith("error: ") for line in command.shown)
                assert (code != 0) == refused, f"$ {command.line}\n{printed}\nexit code {code}"
            if command.shown:
                _compare(command, printed)

    def python(self, script: str) -> None:
        if "import imagemill" in script.splitlines() and not self.installed:
            _here(lambda: exec(script, {"__name__": "__main__"}))
            return
        code, printed = self.run([sys.executable, "-c", script])
        assert code == 0, printed

    def run(self, command: Sequence[str], interrupt: bool = False) -> tuple[int, str]:
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        if interrupt:
            time.sleep(2)
            os.killpg(process.pid, signal.SIGINT)
        try:
            printed, _ = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        return process.returncode, printed


def _here(action: Callable[[], int | None]) -> tuple[int, str]:
    """Run an action in this process and return its exit code and what it prints."""
    printed = StringIO()
    with patch.dict(os.environ), redirect_stdout(printed), redirect_stderr(printed):
        code = action()
    return code or 0, printed.getvalue()


def _compare(command: Command, printed: str) -> None:
    shown = ["" if line == "^C" else line for line in command.shown]
    pattern = "".join(
        r"(?:.*\n)*?" if line == "…" else re.escape(_settled(line)).replace("…", ".*") + r"\n" for line in shown
    )
    lines = [line for line in printed.splitlines() if not PROGRESS.fullmatch(line)]
    actual = "".join(_settled(line) + "\n" for line in lines)
    assert re.fullmatch(pattern, actual), "\n".join([f"$ {command.line}", "shows", *shown, "", "prints", printed])


def _settled(line: str) -> str:
    """Replace what differs from run to run and from machine to machine."""
    line = re.sub(r"\d+:\d\d(:\d\d)?\b", "0:00", line.rstrip())
    line = re.sub(r"[\d.,]+ (images|scores)/s", r"0 \1/s", line)
    line = re.sub(r"\b[\d.]+ (bytes|kB|MB|GB|TB)\b", "0 kB", line)
    line = re.sub(r"\bprocess \d+ on \S+", "process 0 on host", line)
    return re.sub(r"\b[0-9a-f]{16,}\b", "0", line)


def _check_shell_lines(lines: Sequence[str]) -> None:
    """Check that what is shown and not run exists: targets, files, extras, commands, flags."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in lines:
        words = line.split()
        match words:
            case ["make", target]:
                assert target in targets, line
            case ["pip", "install", *rest]:
                for file in re.findall(r"-c (\S+)", line):
                    assert (ROOT / file).is_file(), line
                for names in re.findall(r"\[([\w,]+)\]", " ".join(rest)):
                    assert set(names.split(",")) <= extras.keys(), line
            case ["imagemill", command, *rest]:
                assert {word for word in rest if word.startswith("-")} <= set(_flags(command, rest)), line
            case ["python", script, *_] if script.endswith(".py"):
                assert (ROOT / script).is_file(), line
            case ["python3", "-m", "venv", _] | [".", ".venv/bin/activate"]:
                pass
            case _:
                pytest.fail(f"an sh block cannot show `{line}`")


def _flags(command: str, arguments: Sequence[str] = ()) -> Iterator[str]:
    for action in _reference().parser_of(command, arguments)._actions:
        yield from action.option_strings
