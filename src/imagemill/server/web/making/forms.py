"""Forms drawn from the fields of components: an operator's, and those of the model, scorers or layout it uses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from imagemill.component import Component, Parameter
from imagemill.errors import ImagemillError
from imagemill.server.web.making.offered import (
    MAKING,
    class_of,
    model_of,
    models_for,
    names_of,
    offered,
)

Completed = Literal["", "columns", "pictures", "schedulers", "devices"]
Kind = Literal["text", "long", "number", "choice", "several", "yes", "list"]
Values = dict[str, Any]
"""What was set, by field: a text, a yes or no, or a list of texts."""

_SAMPLING = ("model", "seed", "num_inference_steps", "guidance_scale", "scheduler")
_GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "generate": {
        "Texts": ("prompt_column", "negative_prompt_column", "prompt_postfix", "negative_prompt"),
        "Images": ("images_per_prompt", "width", "height"),
        "How they are made": _SAMPLING,
    },
    "augment": {
        "Pictures and texts": ("caption_column", "captioner", "prompt_postfix"),
        "Images": ("images_per_sample", "strength", "keep_original"),
        "How they are made": _SAMPLING,
    },
    "edit": {
        "Pictures and instructions": ("instruction_column", "template", "prompt_postfix"),
        "Images": ("images_per_sample", "strength"),
        "How they are made": _SAMPLING,
    },
    "caption": {
        "Captions": ("model", "column", "prompt", "captions_per_image", "keep_candidates", "seed"),
    },
    "score": {"What scores": ("scorers",)},
    "select": {"What to keep": ("where", "deduplicate", "top", "by", "per", "sample", "balance", "split")},
    "export": {
        "What is written": ("layout", "where"),
        "Pictures": ("image_format", "quality", "max_side"),
        "Card": ("pretty_name", "license", "language"),
    },
    "import": {"Pictures": ("layout",)},
}
"""What comes first in the form of an operator; the rest stands under "More"."""
_LONG = {"accept", "citation", "negative_prompt", "prompt", "prompt_postfix", "prompt_prefix", "template", "where"}
_FOUND = re.compile("found by name|when the table has it")
_PICTURES = {"image_column", "mask_column"}
"""Parameters that name a column of files: what others hold could be any file of this machine."""
_COLUMNS = {"by", "per", "balance"}
"""Parameters that name a column without saying so."""
_CALLED = {("edit", "template"): "Instruction for all pictures"}
"""Parameters that have another name in a form."""
_BESIDES = {("edit", "template"): "What is to be changed in all of them, when the source has no instructions."}
"""What helps in a form, before the help of a parameter."""


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter in a form."""

    name: str
    label: str
    help: str
    kind: Kind
    default: str = ""
    """What holds when nothing is given; empty where others decide that."""
    choices: tuple[tuple[str, str], ...] = ()
    """Values and what is shown for them."""
    low: str = ""
    high: str = ""
    step: str = ""
    explained: Mapping[str, str] = field(default_factory=dict)
    """What choices mean, by value."""
    completed_by: Completed = ""
    """What the choices come from, where they change with the source or the model."""


@dataclass(frozen=True, slots=True)
class Group:
    """Fields under one heading."""

    title: str
    fields: tuple[Field, ...] = ()
    more: tuple[Field, ...] = ()
    """Those that are folded away."""


@dataclass(frozen=True, slots=True)
class Part:
    """A component whose parameters stand in the form, and which of them under which name."""

    component: type[Component]
    names: tuple[str, ...]
    kind: str = ""
    """`scorers`, for instance; empty for the operator itself."""


@dataclass(slots=True)
class Form:
    """A form, with what was filled in and what is wrong of it."""

    operator: str
    summary: str
    groups: list[Group]
    chosen: list[Group]
    """Those of the model, the scorers or the layout that is chosen."""
    parts: list[Part]
    values: Values = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """What is wrong, by field; under "" what concerns no single one."""

    @property
    def fields(self) -> dict[str, Field]:
        """All fields by name."""
        return {each.name: each for group in (*self.groups, *self.chosen) for each in (*group.fields, *group.more)}


def label_of(name: str) -> str:
    """A parameter's name in words: `num_inference_steps` is "Inference steps"."""
    words = name.removeprefix("num_").replace("_", " ")
    return words[:1].upper() + words[1:]


def form_of(
    operator: str,
    values: Values,
    models: Sequence[str] = (),
    columns: Sequence[str] = (),
    pictures: Sequence[str] = (),
    devices: Sequence[str] = (),
) -> Form:
    """Draw the form of an operator, with the parameters of what `values` choose; raises UsageError.

    `models` are those that the server was started with, `columns` those of the source, and `pictures` those of them
    that name nothing but pictures of the source.
    """
    draw = _Drawing(operator, models, columns, pictures, devices)
    component = class_of("operators", operator)
    own = {parameter.name: parameter for parameter in offered(component)}
    first = _GROUPS[operator]
    groups = [
        Group(title, tuple(draw.field(component, own[name]) for name in names if name in own))
        for title, names in first.items()
    ]
    named = {name for names in first.values() for name in names}
    more = tuple(draw.field(component, parameter) for name, parameter in own.items() if name not in named)
    if more:
        groups.append(Group("More", more=_in_order(more)))
    form = Form(operator, component_summary(component), groups, [], [Part(component, tuple(own))], values)
    drawn = {*component.model_fields, "model", "model_parameters"}
    for title, part, kind in _chosen(operator, form):
        parameters = [each for each in offered(part) if each.name not in drawn]
        drawn |= {each.name for each in parameters}
        fields = [draw.field(part, each) for each in parameters]
        if kind == "scorers" and "model" in part.model_fields:
            fields.insert(0, draw.scorer_model(part))
        form.parts.append(Part(part, tuple(each.name for each in parameters), kind))
        if kind == "layouts":
            form.chosen += [Group(title, tuple(fields))] * bool(fields)
            continue
        where = tuple(each for each in fields if each.completed_by == "devices")
        if where and kind == "scorers":
            # It holds for all of them.
            form.chosen.append(Group("Where they run", where))
            where = ()
        more = _in_order(each for each in fields if each.completed_by != "devices")
        form.chosen += [Group(title, where, more)] * bool(where or more)
    return form


def _in_order(fields: Iterable[Field]) -> tuple[Field, ...]:
    """Broad ones, then those that stand beside each other, then what is switched on."""
    places = {"long": 0, "list": 0, "yes": 2, "several": 3}
    return tuple(sorted(fields, key=lambda each: places.get(each.kind, 1)))


def component_summary(component: type[Component]) -> str:
    """What a component is, in one line."""
    return (component.__doc__ or "").partition("\n")[0]


def _chosen(operator: str, form: Form) -> list[tuple[str, type[Component], str]]:
    """The components that the values of a form choose, each with a title and its kind."""
    fields, values = form.fields, form.values

    def value(name: str) -> Any:
        return values.get(name) or fields[name].default or fields[name].choices[0][0]

    if operator in (*MAKING, "caption"):
        name = value("model")
        if name not in dict(fields["model"].choices):
            return []
        found = type(model_of(operator, name))
        return [(f"The model `{name}`", found, "models")]
    if operator == "score":
        names = values.get("scorers", fields["scorers"].default.split(","))
        known = dict(fields["scorers"].choices)
        return [(f"The scorer `{name}`", class_of("scorers", name), "scorers") for name in names if name in known]
    if operator == "export":
        name = value("layout")
        if name not in dict(fields["layout"].choices):
            return []
        return [(f"The layout `{name}`", class_of("layouts", name), "layouts")]
    return []


class _Drawing:
    """Makes fields of parameters."""

    def __init__(
        self,
        operator: str,
        models: Sequence[str],
        columns: Sequence[str],
        pictures: Sequence[str],
        devices: Sequence[str],
    ) -> None:
        self._operator = operator
        self._models = models
        self._columns = columns
        self._pictures = pictures
        self._devices = devices

    def field(self, component: type[Component], parameter: Parameter) -> Field:
        name, default = parameter.name, _text(parameter.default)
        kind: Kind = "text"
        choices: list[tuple[str, str]] = []
        completed_by: Completed = ""
        explained: dict[str, str] = {}
        low, _, high = (end.strip("<>") for end in parameter.bounds.partition("…"))
        if parameter.type == "boolean":
            kind = "yes"
        elif parameter.choices:
            kind, choices = "choice", [(choice, choice) for choice in parameter.choices]
        elif name in {"scorers", "score"} and component is class_of("operators", self._operator):
            kind, choices = "several", [(scorer, scorer) for scorer in self._scorers()]
            explained = {scorer: component_summary(class_of("scorers", scorer)) for scorer, _ in choices}
        elif name in {"model", "captioner"}:
            models = models_for("caption" if name == "captioner" else self._operator, self._models)
            kind, choices = "choice", [(model, model) for model in models]
        elif name == "layout":
            kind, choices = (
                "choice",
                [(layout, layout) for layout in sorted(names_of("layouts"), key=lambda each: each != "imagefolder")],
            )
        elif name == "device":
            kind, completed_by = "choice", "devices"
            choices = [("auto", "The best there is"), *((device, device) for device in self._devices)]
        elif parameter.type == "array":
            kind = "list"
        elif name in _PICTURES:
            kind, completed_by = "choice", "pictures"
            choices = [(column, column) for column in self._pictures]
        elif name.endswith("_column") or name in _COLUMNS:
            kind, completed_by = "choice", "columns"
            choices = [(column, column) for column in self._columns if column != ""]
        elif name == "scheduler":
            completed_by = "schedulers"
        elif parameter.type in {"integer", "number"}:
            kind = "number"
        elif name in _LONG:
            kind = "long"
        if kind == "choice" and not parameter.default and (name != "layout" or self._operator == "import"):
            choices.insert(0, ("", "Found by name" if _FOUND.search(parameter.help) else "—"))
        if completed_by == "columns" and default and default not in dict(choices):
            choices.append((default, default))
        if completed_by == "columns" and default and "mpty for none" in parameter.help:
            choices.insert(0, ("", "None"))
        if kind == "choice" and name in {"model", "layout"} and choices and default not in dict(choices):
            default = ""
        return Field(
            name=name,
            label=_CALLED.get((self._operator, name)) or label_of(name),
            help=" ".join(filter(None, (_BESIDES.get((self._operator, name)), parameter.help))),
            kind=kind,
            default=default,
            choices=tuple(choices),
            explained=explained,
            low=low,
            high=high,
            step="1" if parameter.type == "integer" else "any",
            completed_by=completed_by,
        )

    def scorer_model(self, scorer: type[Component]) -> Field:
        """The model of one scorer, which `imagemill score` takes together with its name."""
        (parameter,) = (each for each in scorer.parameters() if each.name == "model")
        name = scorer.component_name()
        own = _text(parameter.default)
        others = models_for("caption", self._models) if not own else self._models
        choices = [("", f"{own} (its own)")] * bool(own) + [(model, model) for model in others if model != own]
        return Field(f"{name}.model", "Model", parameter.help, "choice", choices=tuple(choices))

    def _scorers(self) -> list[str]:
        answering = models_for("caption", self._models)
        names = []
        for name in names_of("scorers"):
            try:
                model = class_of("scorers", name).model_fields.get("model")
            except ImagemillError:
                continue
            asked = self._operator == "score" and bool(answering)
            if not (model and model.is_required()) or asked:
                names.append(name)
        return names


def _text(value: Any) -> str:
    """A default as a form shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
