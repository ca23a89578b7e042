"""A component's parameters drawn as command-line flags."""

from __future__ import annotations

import argparse
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from imagemill.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from imagemill.component import Component, Parameter


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(message, f"see `{self.prog} --help`")


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse arguments; raises UsageError that suggests a flag for a misspelt one."""
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        wrong = unknown[0].partition("=")[0]
        raise UsageError(
            f"there is no argument `{wrong}`" if wrong.startswith("-") else f"`{wrong}` is one argument too many",
            (wrong.startswith("-") and did_you_mean(wrong, flags)) or f"see `{parser.prog} --help`",
        )
    return parsed


def add_parameters(
    parser: argparse.ArgumentParser, title: str, component: type[Component], skip: Container[str] = ()
) -> None:
    """Draw the fields of a component as a group of flags; those not given stay out of the result."""
    group = parser.add_argument_group(title)
    for parameter in component.parameters():
        if parameter.name in skip:
            continue
        options: dict[str, Any] = {
            "dest": parameter.name,
            "default": argparse.SUPPRESS,
            "help": parameter_help(parameter).replace("%", "%%"),
        }
        if parameter.type == "boolean":
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = "|".join(parameter.choices) or {"integer": "N", "number": "X"}.get(
                parameter.type, "TEXT"
            )
            if parameter.type == "array":
                options["action"] = "append"
        group.add_argument(parameter.flag, **options)
        if parameter.type == "boolean" and parameter.name.startswith("keep_"):
            # The word for it, beside the `--no-keep-…` that every flag has.
            words = {
                **options,
                "action": "store_false",
                "help": f"the same as {parameter.flag.replace('--', '--no-', 1)}",
            }
            group.add_argument(parameter.flag.replace("--keep-", "--drop-"), **words)


def parameter_help(parameter: Parameter) -> str:
    """The help of a field with its bounds and default."""
    shown = "" if parameter.default in (None, "", [], False) else f"default: {parameter.default}"
    notes = "; ".join(note for note in (parameter.bounds, shown) if note)
    return parameter.help + (f" [{notes}]" if notes else "")


def given(arguments: argparse.Namespace, *components: type[Component]) -> dict[str, Any]:
    """Return the parsed values that belong to components."""
    names = {parameter.name for component in components for parameter in component.parameters()}
    return {name: value for name, value in vars(arguments).items() if name in names}
