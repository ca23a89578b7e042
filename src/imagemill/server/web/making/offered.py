"""What forms offer: operators, models, and which of the parameters a browser may set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from imagemill.component import Component, Parameter, component_names, find_component
from imagemill.errors import ImagemillError
from imagemill.models.base import Model, find_model, find_text_model, text_model_name

OPERATORS = ("generate", "augment", "edit", "caption", "score", "select", "export", "import")
"""In the order of the page."""
MAKING = ("generate", "augment", "edit")
"""Those that make images."""

NOT_OFFERED = {
    "attention": "some of its names fetch code and run it",
    "base_url": "whoever chooses the server gets the key",
    "configuration": "it is for datasets on the hub",
    "endpoint_name": "whoever chooses the server gets the key",
    "endpoint_namespace": "whoever chooses the server gets the key",
    "head": "it is a path, or weights from the hub",
    "head_revision": "it goes with `head`",
    "hf_cache_dir": "it is a path",
    "lora": "it is a path, or weights from the hub",
    "memory": "it fills the machine's memory",
    "model_parameters": "they may hold the address of a server",
    "names": "it is a path",
    "offline": "whoever starts the server decides it",
    "provider": "whoever starts the server decides who is paid",
    "revision": "models are those that the server was started with",
    "sign_algorithm": "it goes with `sign_key`",
    "sign_certificate": "it is a path",
    "sign_key": "it is a path",
    "trust_remote_code": "it runs code",
    "variant": "models are those that the server was started with",
}
"""Parameters that nobody sets in a browser, with the reason: paths, addresses, code, and what is paid for."""


@cache
def offered(component: type[Component]) -> tuple[Parameter, ...]:
    """The parameters that a form has fields for."""
    return tuple(parameter for parameter in component.parameters() if _is_offered(component, parameter))


def _is_offered(component: type[Component], parameter: Parameter) -> bool:
    """Whether it may be set in a browser; of a plugin only what can be no path and no address."""
    if parameter.name in NOT_OFFERED or parameter.type == "object":
        return False
    harmless = bool(parameter.choices) or parameter.type in {"integer", "number", "boolean"}
    return harmless or component.__module__.startswith("imagemill.")


@cache
def names_of(kind: str) -> tuple[str, ...]:
    """The components of a kind, which are looked for once: installed packages are many."""
    return tuple(component_names(kind))


@cache
def class_of(kind: str, name: str) -> type[Component]:
    """A component by its name; raises UsageError."""
    return find_component(kind, name)


@cache
def model_of(operator: str, name: str) -> Component:
    """The model that a name stands for in an operator; raises UsageError."""
    find: Callable[[str, Mapping[str, Any]], Component] = find_text_model if operator == "caption" else find_model
    return find(_resolved(operator, name), {})


def models_for(operator: str, named: Sequence[str]) -> list[str]:
    """The models that an operator can use: first those that the server was started with, then those built in."""
    return list(_models_for(operator, tuple(named)))


@cache
def _models_for(operator: str, named: tuple[str, ...]) -> tuple[str, ...]:
    built_in = sorted(names_of("models"), key=lambda name: (name == "fake", name != "shapes", name))
    found: dict[str, str] = {}
    for name in (*named, *built_in):
        if _fits(operator, name, name in named):
            # Of a family one name is enough.
            found.setdefault(_resolved(operator, name), name)
    return tuple(found.values())


def _fits(operator: str, name: str, named: bool) -> bool:
    try:
        model = model_of(operator, name)
        if isinstance(model, Model) and operator in MAKING and not named:
            # What is known of others may have to be fetched.
            _checking(operator).check_model(model.info())
    except ImagemillError:
        return False
    return True


def _resolved(operator: str, name: str) -> str:
    if operator == "caption":
        return text_model_name(name)
    return str(getattr(class_of("operators", operator), "family", {}).get(name, name))


def _checking(operator: str) -> Any:
    return class_of("operators", operator).parse({})
