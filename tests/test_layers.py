"""Who may import whom: the arrows of the architecture, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import imagemill

ROOT = Path(imagemill.__file__).parent
HEAVY = {
    "torch", "PIL", "pyarrow", "diffusers", "transformers", "datasets", "numpy", "ray", "openai", "fastapi", "rich",
    "starlette", "uvicorn", "httpx2", "obstore", "c2pa", "duckdb", "jinja2", "apsw",
}  # fmt: skip

LAYERS = [
    {"errors"},
    {"component", "environment", "images"},
    {"records", "hub", "licenses"},
    {"embedded"},
    {"devices", "hashing"},
    {"pretrained"},
    {"classifiers", "encoders", "expressions"},
    {"captions", "committing", "contact_sheet"},
    {"tables"},
    {"seeds"},
    {"plan", "judging"},
    {"models.base", "scorers.base", "layouts.base", "executors.base", "dataset"},
    {"asking", "remote"},
    {"foreign"},
    {"models", "scorers", "layouts", "executors"},
    {"output"},
    {"derived"},
    {"annotate", "produce", "reproduction"},
    {"selecting"},
    {"exporting", "making"},
    {"operators", "downloading"},
    {"terminal"},
    {"doctor", "flags"},
    {"publishing", "reporting"},
    {"job"},
    {"server"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up: a module imports only from layers below its own, or from its own folder if that is one room."""

ROOMS = {
    "commands", "dataset", "downloading", "exporting", "expressions", "foreign", "making", "publishing", "remote",
    "reporting", "selecting", "server", "tables",
}  # fmt: skip
"""Folders whose modules work together; in the others, files stand beside each other and know only their base."""

BESIDE = {
    ("models.shapes", "models.diffusers"),
    ("models.shapes_editor", "models.diffusers"),
    ("models.shapes_captioner", "models.transformers"),
}
"""The built-in models are ones that these load."""


@dataclass(frozen=True, slots=True)
class Import:
    module: str
    """Who imports, without the package's name: `models.fake`."""
    target: str
    line: int
    runs_at_import: bool
    """Neither in a function nor only for type checkers."""

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def found_imports(tree: ast.AST, module: str, at_import: bool = True) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        now = at_import and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno, now) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                inside = whole.removeprefix("imagemill.") in MODULES
                yield Import(module, whole if inside else str(node.module), node.lineno, now)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from found_imports(ast.Module(node.body, []), module, at_import=False)
            yield from found_imports(ast.Module(node.orelse, []), module, at_import)
        else:
            yield from found_imports(node, module, now)


IMPORTS = [
    found
    for module, path in MODULES.items()
    for found in found_imports(ast.parse(path.read_text(encoding="utf-8")), module)
]
OWN = [
    Import(found.module, found.target.removeprefix("imagemill").removeprefix("."), found.line, found.runs_at_import)
    for found in IMPORTS
    if found.target.partition(".")[0] == "imagemill" and found.module != "__init__"
]
"""Imports of the package's own modules; the package itself only names what is public."""


def layer(module: str) -> int:
    for number, names in enumerate(LAYERS):
        if module in names:
            return number
    folder, dot, _ = module.partition(".")
    assert dot, f"say in LAYERS where `{module}` stands"
    return layer(folder)


def room(module: str) -> str:
    return module.partition(".")[0]


def package(module: str) -> str:
    """The folder of a component that is more than a file: `models.diffusers` for its parts and itself."""
    return ".".join(module.split(".")[:2])


def allowed(found: Import) -> bool:
    if not found.target:
        # `import imagemill` gives everything there is: for the demo, or to find the package's folder.
        return found.module in {"commands.generate", "models.shapes", "models.shapes_captioner"}
    if room(found.module) == room(found.target) and room(found.module) in ROOMS:
        return True
    inside = package(found.module) == package(found.target) and "." in found.target
    return inside or layer(found.target) < layer(found.module) or (found.module, found.target) in BESIDE


def test_the_source_has_been_read() -> None:
    assert {"cli", "models.fake", "dataset.folder", "dataset", "__main__"} <= set(MODULES)
    assert len(OWN) > 60
    assert any(not found.runs_at_import for found in OWN)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__"])
def test_imports_go_down(module: str) -> None:
    wrong = [str(found) for found in OWN if found.module == module and not allowed(found)]
    assert wrong == []


def crossing(sources: set[str], targets: set[str]) -> list[str]:
    return [
        str(found)
        for found in OWN
        if ({found.module, room(found.module)} & sources) and ({found.target, room(found.target)} & targets)
    ]


def test_a_dataset_knows_no_model_and_a_model_no_dataset() -> None:
    assert crossing({"dataset"}, {"models", "executors", "operators", "produce"}) == []
    assert crossing({"models", "remote"}, {"dataset", "executors", "operators", "produce", "tables", "plan"}) == []


def test_an_executor_knows_nothing_of_what_it_runs() -> None:
    assert crossing({"executors"}, {"models", "dataset", "produce", "operators", "plan", "records", "images"}) == []


def test_only_the_command_line_knows_a_model_by_name() -> None:
    concrete = {name for name in MODULES if name.startswith("models.") and name != "models.base"}
    others = {module for module in MODULES if room(module) not in {"commands", "models"}}
    assert len(concrete) >= 3
    assert crossing(others, concrete) == []


def test_no_operator_knows_another() -> None:
    names = {name for name in MODULES if name.startswith("operators.")}
    assert [str(found) for found in OWN if found.module in names and found.target in names] == []


def test_nothing_knows_the_command_line() -> None:
    assert crossing(set(MODULES) - {"__main__"}, {"cli", "__main__"}) == []
    assert crossing({module for module in MODULES if room(module) not in {"cli", "commands"}}, {"commands"}) == []


def test_only_the_command_that_starts_it_knows_the_server() -> None:
    others = {module for module in MODULES if room(module) not in {"commands", "server"}}
    assert crossing(others, {"server"}) == []
    knowing = [found for found in OWN if found.module == "commands.serve" and room(found.target) == "server"]
    assert len(knowing) == 2
    assert not any(found.runs_at_import for found in knowing)


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    heavy = [found for found in IMPORTS if found.target.partition(".")[0] in HEAVY]
    assert len(heavy) > 10
    # FastAPI reads the types of routes when they are defined; only `serve` imports these.
    web = {"fastapi", "starlette", "jinja2"}
    wrong = [found for found in heavy if found.runs_at_import]
    wrong = [
        found
        for found in wrong
        if not (found.module.startswith("server.web.") and found.target.partition(".")[0] in web)
    ]
    assert [str(found) for found in wrong] == []
