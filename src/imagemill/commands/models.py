"""Commands that tell what can make, score and export images, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imagemill.commands.shared import command_parser
from imagemill.errors import ImagemillError, UsageError
from imagemill.flags import add_parameters, given, parameter_help, parse
from imagemill.terminal import Terminal


def models(arguments: Sequence[str]) -> int:
    """List models, show one, or probe a server."""
    from imagemill.component import component_names
    from imagemill.models.base import find_model

    parser = command_parser("models")
    parser.add_argument("name", nargs="?", help="one model: its parameters")
    parser.add_argument("--json", action="store_true", help="print JSON; for one model, its JSON Schema")
    parser.add_argument(
        "--probe",
        action="store_true",
        help="ask the server of `openai:NAME` or `hf:NAME`, with two small calls that may "
        "be charged, what it honours, and remember it",
    )
    known = set(component_names("models"))
    named = [argument for argument in arguments if ":" in argument and argument.partition(":")[0] in known]
    model = type(find_model(named[0], {})) if named and "--probe" in arguments else None
    if model:
        add_parameters(parser, f"the model `{model.component_name()}`", model)
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    if parsed.probe:
        return _probe(terminal, parsed.name, given(parsed, model) if model else {})
    return _told(terminal, "models", parsed.name and parsed.name.partition(":")[0])


def scorers(arguments: Sequence[str]) -> int:
    """List scorers, or show one."""
    parser = command_parser("scorers")
    parser.add_argument("name", nargs="?", help="one scorer: its parameters")
    parser.add_argument("--json", action="store_true", help="print JSON; for one scorer, its JSON Schema")
    parsed = parse(parser, arguments)
    return _told(Terminal(parsed.quiet, parsed.json), "scorers", parsed.name)


def layouts(arguments: Sequence[str]) -> int:
    """List layouts, or show one."""
    parser = command_parser("layouts")
    parser.add_argument("name", nargs="?", help="one layout: its parameters")
    parser.add_argument("--json", action="store_true", help="print JSON; for one layout, its JSON Schema")
    parsed = parse(parser, arguments)
    return _told(Terminal(parsed.quiet, parsed.json), "layouts", parsed.name)


def _told(terminal: Terminal, kind: str, name: str | None) -> int:
    """Tell of one component with its parameters, or of all of a kind."""
    from imagemill.component import component_names, find_component

    if name:
        found = find_component(kind, name)
        lines = [f"{name}: {_summary(kind, name)}", ""]
        for parameter in found.parameters():
            choice = "|".join(parameter.choices) or parameter.type
            lines.append(f"  {parameter.flag} {choice}\n      {parameter_help(parameter)}")
        terminal.data(found.model_json_schema(), "\n".join(lines))
        return 0
    summaries = {name: _summary(kind, name) for name in component_names(kind)}
    width = max(map(len, summaries))
    terminal.data(summaries, "\n".join(f"{name:<{width}}  {text}" for name, text in summaries.items()))
    return 0


def _probe(terminal: Terminal, name: str | None, parameters: dict[str, Any]) -> int:
    from imagemill.models.base import find_model
    from imagemill.remote.model import Remote
    from imagemill.remote.servers import probe

    model = find_model(name, parameters) if name else None
    if not isinstance(model, Remote):
        raise UsageError("`--probe` asks a server", "name its model: `openai:NAME` or `hf:NAME`")
    model.ready(workers=1)
    found = probe(model)
    takes = ", ".join(found.takes) or "nothing of what can be asked"
    terminal.data(asdict(found), f"{name} at {model.address()} honours: {takes}; its size: {found.own_size}")
    return 0


def _summary(kind: str, name: str) -> str:
    """What a component is in one line; a broken plugin does not hide the others."""
    from imagemill.component import find_component

    try:
        return (find_component(kind, name).__doc__ or "").partition("\n")[0]
    except ImagemillError as error:
        return f"cannot be used: {error.message}"


def doctor(arguments: Sequence[str]) -> int:
    """Say what this machine can run."""
    from imagemill.doctor import findings

    parser = command_parser("doctor")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parsed = parse(parser, arguments)
    found = findings(Path.cwd())
    width = max(map(len, found))
    Terminal(as_json=parsed.json).data(found, "\n".join(f"{name:<{width}}  {text}" for name, text in found.items()))
    return 0
