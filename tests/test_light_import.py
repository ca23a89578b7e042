"""What everybody pays for at every start: almost nothing."""

from __future__ import annotations

import ast
import inspect
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import imagemill

HEAVY = ("torch", "PIL", "pyarrow", "numpy", "pydantic", "diffusers", "transformers", "datasets", "rich", "tomli_w")
REPORT = f"import sys; print('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])"


def python(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


def seconds(*arguments: str) -> float:
    """CPU seconds of a run, the best of three."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python(*arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def test_the_help_takes_less_than_a_third_of_a_second() -> None:
    assert seconds("-m", "imagemill", "--help") <= 0.3


def test_the_import_takes_less_than_a_third_of_a_second() -> None:
    assert seconds("-c", "import imagemill") <= 0.3


@pytest.mark.parametrize(
    "code",
    [
        "import imagemill",
        "import imagemill.cli",
        "from imagemill.cli import run; run(['--help'])",
        "from imagemill.cli import run; run(['--version'])",
        "from imagemill.cli import run; run(['no-such-command'])",
        "import imagemill; imagemill.UsageError",
    ],
)
def test_a_start_loads_nothing_heavy(code: str) -> None:
    assert python("-c", f"{code}\n{REPORT}").splitlines()[-1].split() == ["loaded:"]


@pytest.mark.parametrize("arguments", [["generate", "--help", "--model", "fake"], ["models"], ["models", "shapes"]])
def test_looking_at_parameters_loads_no_library_of_models_or_images(arguments: list[str]) -> None:
    code = f"from imagemill.cli import run\ntry:\n    run({arguments!r})\nexcept SystemExit:\n    pass\n{REPORT}"
    loaded = set(python("-c", code).splitlines()[-1].split())
    assert "pydantic" in loaded
    assert not loaded & {"torch", "PIL", "pyarrow", "numpy", "diffusers", "transformers", "datasets"}


def test_the_help_names_every_command_and_where_to_start() -> None:
    from imagemill.cli import COMMANDS

    text = python("-m", "imagemill", "--help")
    assert all(f"  {name} " in text for name in COMMANDS)
    assert "imagemill demo" in text


@pytest.mark.parametrize("name", imagemill.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    found = getattr(imagemill, name)
    assert found.__name__ == name
    assert inspect.getdoc(found)
    scope: dict[str, object] = {}
    exec(f"from imagemill import {name}", scope)
    assert scope[name] is found


def test_the_public_names_are_sorted_and_all_there_is() -> None:
    assert list(imagemill.__all__) == sorted(imagemill.__all__)
    scope: dict[str, object] = {}
    exec("from imagemill import *", scope)
    assert set(scope) - {"__builtins__"} == set(imagemill.__all__)
    own = {name for name, value in vars(imagemill).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert own - set(imagemill.__all__) - {"TYPE_CHECKING", "Any", "annotations"} == set()


def test_what_type_checkers_see_is_what_there_is() -> None:
    path = Path(str(imagemill.__file__))
    guarded = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.If)]
    seen = {
        alias.name for node in guarded for line in node.body if isinstance(line, ast.ImportFrom) for alias in line.names
    }
    assert seen == set(imagemill.__all__)
    assert path.with_name("py.typed").is_file()


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'genrate'"):
        imagemill.genrate  # noqa: B018
