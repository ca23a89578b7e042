"""A component: parameters as fields, found by name in a folder or through an entry point."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from keyword import iskeyword
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from imagemill.errors import ImagemillError, UsageError, did_you_mean

ENTRY_POINT_GROUP = "imagemill"
"""A plugin names its component `KIND.NAME` here, for instance `models.checker = "my_package:Checker"`."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One field of a component, as every surface draws it."""

    name: str
    type: str
    """`integer`, `number`, `string`, `boolean` or `array`, as in JSON Schema."""
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    bounds: str = ""
    """For instance `0…1`; empty when every value of the type is allowed."""

    @property
    def flag(self) -> str:
        """The command-line spelling."""
        return "--" + self.name.replace("_", "-")


class Component(BaseModel):
    """Parameters are fields, the string under each field is its help, unknown names are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )

    @classmethod
    def component_name(cls) -> str:
        """The name it is found by: the class name in snake case."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Make one from plain values; raises UsageError that lists every problem at once."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _usage_error(cls, error, where or cls.component_name()) from None

    def to_table(self) -> dict[str, Any]:
        """Plain values for TOML or JSON; what is None is left out."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def parameters(cls) -> list[Parameter]:
        """Describe every field once, for flags, help, docs and forms."""
        properties = cls.model_json_schema()["properties"]
        return [_parameter(name, schema) for name, schema in properties.items()]


def _parameter(name: str, schema: Mapping[str, Any]) -> Parameter:
    variants = [variant for variant in schema.get("anyOf", [schema]) if variant.get("type") != "null"]
    first = {**schema, **variants[0]}
    low = first.get("minimum", f">{first['exclusiveMinimum']}" if "exclusiveMinimum" in first else "")
    high = first.get("maximum", f"<{first['exclusiveMaximum']}" if "exclusiveMaximum" in first else "")
    bounds = "" if (low, high) == ("", "") else f"{low}…{high}"
    return Parameter(
        name=name,
        type=first.get("type", "string"),
        default=schema.get("default"),
        help=" ".join(schema.get("description", "").split()),
        choices=tuple(str(choice) for choice in first.get("enum", ())),
        bounds=bounds,
    )


def _usage_error(cls: type[Component], error: ValidationError, where: str) -> UsageError:
    known = list(cls.model_fields)
    reasons: dict[str, list[str]] = {}
    inputs: dict[str, Any] = {}
    hint = ""
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        reason = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            reason = "there is no such parameter"
            hint = hint or did_you_mean(name, known) or f"known: {', '.join(known)}"
        # A field of several types has a problem with each of them.
        reasons.setdefault(name, []).append(reason[:1].lower() + reason[1:])
        inputs[name] = problem["input"]
    lines = [
        # What concerns several parameters has no value of its own.
        f"{where}: {' or '.join(said)}"
        if name == ""
        else f"{where}: `{name}`: {' or '.join(said)}, got: `{inputs[name]!s:.80}`"
        for name, said in ((name, dict.fromkeys(said)) for name, said in reasons.items())
    ]
    return UsageError("\n".join(lines), hint or "see the parameters with `--help`")


def separated(value: Any) -> Any:
    """Names in a text or in several, each with commas between them, once each; what is neither stays as it is."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    names = (name.strip() for text in value for name in str(text).split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def component_names(kind: str) -> list[str]:
    """List the components of a kind (`models`, `executors`, …): the package's own files, then plugins."""
    return sorted({*_own_names(kind), *(name for name, _ in _plugins(kind))})


def find_component(kind: str, name: str) -> type[Component]:
    """Find a component class by name; raises UsageError with a suggestion when there is none."""
    plugins = [entry for plugin, entry in _plugins(kind) if plugin == name]
    own = name in _own_names(kind)
    if (own and plugins) or len(plugins) > 1:
        raise UsageError(
            f"more than one component is called `{name}` in {kind}: {', '.join(entry.value for entry in plugins)}",
            "uninstall one of the plugins",
        )
    if own:
        # Python keeps some words to itself, such as `import`.
        module = importlib.import_module(f"imagemill.{kind}.{name}{'_' * iskeyword(name)}")
        return _checked(getattr(module, "".join(word.capitalize() for word in name.split("_"))), kind, name)
    if plugins:
        try:
            return _checked(plugins[0].load(), kind, name)
        except (ImportError, AttributeError) as error:
            raise ImagemillError(f"the plugin `{plugins[0].value}` cannot be imported: {error}") from error
    known = component_names(kind)
    hint = did_you_mean(name, known) or f"known: {', '.join(known)}"
    raise UsageError(f"there is no `{name}` in {kind}", hint)


def _own_names(kind: str) -> list[str]:
    package = importlib.import_module(f"imagemill.{kind}")
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base"]
    return [name.removesuffix("_") for name in names]


def _plugins(kind: str) -> Iterator[tuple[str, EntryPoint]]:
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        entry_kind, _, name = entry.name.partition(".")
        if entry_kind == kind:
            yield name, entry


def _checked(found: object, kind: str, name: str) -> type[Component]:
    if not (isinstance(found, type) and issubclass(found, Component)):
        raise ImagemillError(f"`{name}` in {kind} is not a Component", "a plugin's entry point must name its class")
    return found
