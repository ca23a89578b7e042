"""Write docs/reference/ and the marked blocks of README and docs from the code; with `--check`, only compare."""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import imagemill
from imagemill import cli, errors
from imagemill.component import Component, Parameter, component_names, find_component
from imagemill.dataset.card.columns import MEANINGS
from imagemill.downloading.options import Download
from imagemill.making.preparation import Making
from imagemill.models.diffusers.schedulers import SCHEDULERS
from imagemill.operators.augment import Augment
from imagemill.operators.caption import Caption
from imagemill.operators.edit import Edit
from imagemill.operators.export import Export
from imagemill.operators.generate import Generate
from imagemill.operators.import_ import Import
from imagemill.operators.select import Select
from imagemill.tables.columns import PictureTable, TableOptions

ROOT = Path(__file__).resolve().parents[1]
TYPES = {"string": "text", "array": "text, may be repeated", "boolean": "yes or no"}
TAKES = {
    "": "[parameter of the job]({0}.md) and for every [parameter of the model](models.md) that `--model` names",
    "score": "[parameter of the scorers](scorers.md) that `--with` names",
    "select": "[parameter of the selection](select.md)",
    "export": "[parameter of the export](export.md) and of the [layout](layouts.md)",
    "import": "[parameter of the import](import.md)",
    "download": "[parameter of the download](download.md)",
}
"""Parameters that are flags of a command: those of an operator that makes images, or of another one."""
NOTE = "<!-- Written by docs/reference.py from the code: change the code, then run `make docs`. -->"
_BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


class _SeenError(Exception):
    """Carries a command's parser out of the command."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(command: str, arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of a command as it is when the command parses `arguments`."""
    parse = argparse.ArgumentParser.parse_known_args

    def see(parser: argparse.ArgumentParser, *values: Any) -> Any:
        # A parser without help looks for one flag only, before the command's own is made.
        if parser.add_help:
            raise _SeenError(parser)
        return parse(parser, *values)

    with patch.object(argparse.ArgumentParser, "parse_known_args", see):
        try:
            cli.command(command)(list(arguments))
        except _SeenError as seen:
            return seen.parser
    raise AssertionError(f"`{command}` has parsed nothing")


def own_components(kind: str) -> dict[str, type[Component]]:
    """Return the components of a kind that the package itself brings, without those of plugins."""
    found = {name: find_component(kind, name) for name in component_names(kind)}
    return {name: component for name, component in found.items() if component.__module__.startswith("imagemill.")}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


# Commands


def _commands_page() -> str:
    sections = [_command_section(command) for command in cli.COMMANDS]
    return _page(
        "Commands",
        "Data goes to stdout; plans, progress and errors go to stderr. "
        "The [exit codes](../errors.md#exit-codes) are the same for all commands.",
        *sections,
    )


def _command_section(command: str) -> str:
    parser = parser_of(command)
    arguments = [action for action in parser._actions if not action.option_strings]
    flags = [action for action in _own_flags(parser) if "--help" not in action.option_strings]
    usage = ["imagemill", command]
    usage += [f"[{_name(action)}]" if action.nargs == "?" else _name(action) for action in arguments]
    usage += [f"{action.option_strings[0]} {action.metavar}" for action in flags if action.required]
    text = [f"## {command}", f"{_sentence(cli.COMMANDS[command][1])}", f"```text\n{' '.join(usage)} [flags]\n```"]
    rows = [[f"`{_name(action)}`", _help(action)] for action in [*arguments, *flags]]
    text.append(_table(["argument", "meaning"], rows))
    if command in TAKES or command in {"generate", "augment", "edit", "caption"}:
        text.append(f"It also takes a flag for every {TAKES.get(command, TAKES['']).format(command)}.")
    return "\n\n".join(text)


def _own_flags(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield a command's flags without those drawn from components, which have pages of their own."""
    titled = {
        id(action)
        for group in parser._action_groups
        if group.title not in {"positional arguments", "options"}
        for action in group._group_actions
    }
    yield from (action for action in parser._actions if action.option_strings and id(action) not in titled)


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return action.dest.upper() + (" …" if action.nargs == "+" else "")
    flags = ", ".join(action.option_strings)
    takes_value = action.nargs != 0
    return flags + (f" {action.metavar or action.dest.upper()}" if takes_value else "")


def _help(action: argparse.Action) -> str:
    return _sentence((action.help or "").replace("%%", "%"))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "]")) else ".")


# Parameters


def _parameters(parameters: Iterable[Parameter]) -> str:
    rows = []
    for parameter in parameters:
        flag = parameter.flag
        if parameter.type == "boolean":
            flag += f"`, `--no-{flag.removeprefix('--')}"
        values = ", ".join(f"`{choice}`" for choice in parameter.choices) or " ".join(
            part for part in (TYPES.get(parameter.type, parameter.type), parameter.bounds) if part
        )
        default = "" if parameter.default in (None, "", []) else f"`{parameter.default}`"
        rows.append([f"`{parameter.name}`", f"`{flag}`", values, default, parameter.help])
    return _table(["parameter", "flag", "values", "default", "meaning"], rows)


def _operator_page(operator: type[Making], function: str) -> str:
    table = {*TableOptions.model_fields, *PictureTable.model_fields}
    table |= {name for name in operator.model_fields if name.endswith("_column")}
    image = operator.sampling.model_fields
    groups = {
        "The table": table,
        "The image": image,
        "The model and the files": {name for name in operator.model_fields if name not in {*table, *image}},
    }
    sections = [
        f"## {title}\n\n{_parameters(parameter for parameter in operator.parameters() if parameter.name in names)}"
        for title, names in groups.items()
    ]
    return _page(
        f"Parameters of {function}",
        f"They are the flags of `imagemill {function}` and the keyword arguments of `imagemill.{function}`. "
        "`job.toml` keeps their values. A parameter of the [model](models.md) is given in the same way.",
        *sections,
    )


def _plain_page(operator: type[Component], more: str = "") -> str:
    name = operator.component_name()
    return _page(
        f"Parameters of {name}",
        f"They are the flags of `imagemill {name}` and the keyword arguments of `imagemill.{name}`. "
        f"`job.toml` keeps their values.{more}",
        _parameters(operator.parameters()),
    )


def _components_page(title: str, kind: str, text: str) -> str:
    sections = []
    for name, component in own_components(kind).items():
        description = inspect.cleandoc(component.__doc__ or "")
        sections.append(f"## {name}\n\n{description}\n\n{_parameters(component.parameters())}")
    return _page(title, text, *sections)


# Python


def _python_page() -> str:
    functions, classes, exceptions = [], [], []
    for name in imagemill.__all__:
        value = getattr(imagemill, name)
        if inspect.isfunction(value):
            functions.append(name)
        elif issubclass(value, Exception):
            exceptions.append(name)
        else:
            classes.append(name)
    return _page(
        "Python",
        "The public names of `imagemill`; everything else may change. "
        "The keyword arguments of `generate` are its [parameters](generate.md).",
        *(_function_section(name) for name in functions),
        *(_class_section(name) for name in classes),
        *(_class_section(name) for name in exceptions),
    )


def _node(name: str) -> ast.FunctionDef | ast.ClassDef:
    """Return the definition of a public name as it is written: attribute docstrings stand only there."""
    module = importlib.import_module(getattr(imagemill, name).__module__)
    tree = ast.parse(inspect.getsource(module))
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name)


def _function_section(name: str) -> str:
    node = _node(name)
    if not isinstance(node, ast.FunctionDef):
        raise TypeError(name)
    return f"## {name}\n\n{_signature(node, name)}\n\n{ast.get_docstring(node) or ''}"


def _class_section(name: str) -> str:
    node = _node(name)
    text = [f"## {name}"]
    made = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    if made:
        text.append(_signature(made[0], name, drop_self=True))
    text.append(ast.get_docstring(node) or "")
    if made and ast.get_docstring(made[0]):
        text.append(ast.get_docstring(made[0]) or "")
    code = getattr(getattr(imagemill, name), "exit_code", None)
    if code is not None:
        text.append(f"Exit code {code}.")
    fields = list(_fields(node))
    if fields:
        text.append(_table(["attribute", "type", "meaning"], fields))
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")]
    return "\n\n".join(part for part in [*text, *(_method(name, item) for item in methods)] if part)


def _fields(node: ast.FunctionDef | ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    following: list[Any] = [*node.body[1:], None]
    for item, after in zip(node.body, following, strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            meaning = " ".join(str(after.value.value).split()) if told else ""
            yield f"`{item.target.id}`", f"`{ast.unparse(item.annotation)}`", meaning


def _method(owner: str, node: ast.FunctionDef) -> str:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    text = ast.get_docstring(node) or ""
    if decorators & {"property", "cached_property"}:
        kind = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"### {owner}.{node.name}\n\n```python\n{owner.lower()}.{node.name}{kind}\n```\n\n{text}"
    caller = owner if decorators & {"classmethod", "staticmethod"} else owner.lower()
    static = "staticmethod" in decorators
    signature = _signature(node, f"{caller}.{node.name}", not static, "contextmanager" in decorators)
    return f"### {owner}.{node.name}\n\n{signature}\n\n{text}"


def _signature(node: ast.FunctionDef, name: str, drop_self: bool = False, context: bool = False) -> str:
    arguments = node.args
    if drop_self:
        arguments = ast.arguments(**{**dict(ast.iter_fields(arguments)), "args": arguments.args[1:]})
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    shown = f"{'with ' if context else ''}{name}({ast.unparse(arguments)})"
    return f"```python\n{shown}{':' if context else returns}\n```"


# Blocks in written pages


def _command_table() -> str:
    return _table(
        ["command", "what it does"],
        ([f"`imagemill {name}`", _sentence(text)] for name, (_, text) in cli.COMMANDS.items()),
    )


def _scheduler_table() -> str:
    rows = (
        [f"`{name}`", f"`{class_name}`", ", ".join(f"`{key}={value!r}`" for key, value in options.items())]
        for name, (class_name, options) in SCHEDULERS.items()
    )
    return _table(["`scheduler`", "class in diffusers", "with"], rows)


def _error_tree() -> str:
    tree = inspect.cleandoc(errors.__doc__ or "").split("\n\n")[1]
    return f"```text\n{tree}\n```"


def _column_table() -> str:
    return _table(["column", "meaning"], ([f"`{name}`", _sentence(text)] for name, text in MEANINGS.items()))


BLOCKS: dict[str, Callable[[], str]] = {
    "columns": _column_table,
    "commands": _command_table,
    "error-tree": _error_tree,
    "schedulers": _scheduler_table,
}


# All files


def _page(title: str, *sections: str) -> str:
    return "\n\n".join([NOTE, f"# {title}", *sections]) + "\n"


def expected() -> dict[Path, str]:
    """Return every generated file, and every page with generated blocks, as the code says it must be."""
    folder = ROOT / "docs" / "reference"
    files = {
        folder / "commands.md": _commands_page(),
        **{
            folder / f"{operator.component_name()}.md": _operator_page(operator, operator.component_name())
            for operator in (Generate, Augment, Edit)
        },
        folder / "caption.md": _plain_page(Caption, " A parameter of the [model](models.md) is given in the same way."),
        **{
            folder / f"{component.component_name()}.md": _plain_page(component)
            for component in (Select, Export, Import, Download)
        },
        folder / "scorers.md": _components_page(
            "Scorers",
            "scorers",
            "`imagemill score --with` names them; their parameters are flags of the command then, and keyword "
            "arguments of `imagemill.score`.",
        ),
        folder / "layouts.md": _components_page(
            "Layouts",
            "layouts",
            "`imagemill export DATASET LAYOUT` names one; its parameters are flags of the command then, and keyword "
            "arguments of `imagemill.export`.",
        ),
        folder / "models.md": _components_page(
            "Models",
            "models",
            "`--model` names one; its parameters are flags of the command then. [Plugins](../guides/plugins.md) "
            "add more, and `imagemill models` lists all that are installed.",
        ),
        folder / "executors.md": _components_page(
            "Executors", "executors", "Where work runs. `--workers` sets the one parameter there is today."
        ),
        folder / "python.md": _python_page(),
    }
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        if page not in files:
            content = page.read_text()
            if _BLOCK.search(content):
                files[page] = _BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n\n{found[3]}", content)
    return files


def main() -> int:
    """Write what is not current, or with `--check` say what is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when something is not current")
    check = parser.parse_args().check
    stale = 0
    for path, content in expected().items():
        current = path.read_text() if path.is_file() else ""
        if current == content:
            continue
        stale += 1
        name = str(path.relative_to(ROOT))
        if check:
            print(f"{name} is not current; run `python docs/reference.py`", file=sys.stderr)
            difference = difflib.unified_diff(current.splitlines(), content.splitlines(), name, "from the code", n=1)
            sys.stderr.writelines(f"{line.rstrip()}\n" for line in list(difference)[:40])
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            print(f"wrote {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
