"""What was filled into a form: read, checked, and turned into a command."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagemill.errors import ImagemillError, UsageError
from imagemill.server.web.making.forms import Field, Form, Part, Values
from imagemill.server.web.making.offered import NOT_OFFERED, model_of


class NotOffered(UsageError):
    """A parameter that nobody sets in a browser, or that there is not."""

    status = 422


class Wrong(UsageError):
    """Values that cannot be right; `problems` has what is wrong by field, under "" what concerns no single one."""

    def __init__(self, problems: Mapping[str, str], hint: str = "") -> None:
        super().__init__("; ".join(problems.values()), hint)
        self.problems = dict(problems)


def given(form: Form, posted: Mapping[str, Sequence[str]]) -> Values:
    """What was set in a form, without what is as it would be anyway.

    Raises NotOffered for what is no field of it or no choice of a field, and Wrong for what is no text.
    """
    fields = form.fields
    values: Values = {}
    problems: dict[str, str] = {}
    for name, texts in posted.items():
        if name in NOT_OFFERED:
            raise NotOffered(f"`{name}` is not set in a browser: {NOT_OFFERED[name]}", "use the command line")
        if name not in fields:
            if any(texts):
                raise NotOffered(f"the form has no field `{name!a:.80}`", "reload the page")
            continue
        value = _value(fields[name], [text.replace("\r\n", "\n") for text in texts])
        if not all(map(_is_text, value if isinstance(value, list) else [str(value)])):
            problems[name] = "Holds characters that are no text"
        elif value is not None:
            values[name] = value
    if problems:
        raise Wrong(problems)
    return values


def _value(field: Field, texts: Sequence[str]) -> str | bool | list[str] | None:
    """What was set in one field; None for nothing, or for what holds anyway. Raises NotOffered."""
    text = texts[-1].strip() if texts else ""
    if field.kind == "yes":
        value = text == "yes"
        return None if value == bool(field.default) else value
    if field.kind == "list":
        return [line.strip() for line in text.split("\n") if line.strip()] or None
    if field.kind == "several":
        chosen = [each for each in dict.fromkeys(texts) if each]
        _check_choices(field, chosen)
        return None if ",".join(chosen) == field.default else chosen
    if field.kind == "choice" and field.completed_by in {"", "pictures"} and text:
        _check_choices(field, [text])
    # Nothing is something where a choice says so.
    nothing = not text and not (field.default and "" in dict(field.choices))
    return None if nothing or text == field.default else text


def _check_choices(field: Field, chosen: Sequence[str]) -> None:
    known = dict(field.choices)
    for each in chosen:
        if each not in known:
            hint = "see `imagemill serve --model`" if field.name == "model" else f"known: {', '.join(known)}"
            raise NotOffered(f"`{field.name}` cannot be {each!a:.80} here", hint)


def _is_text(text: str) -> bool:
    """Whether it can be an argument of a command."""
    return "\0" not in text and (text.isascii() or text == text.encode(errors="replace").decode())


def check(form: Form) -> None:
    """Raise Wrong for values that cannot be right, whatever they are applied to."""
    problems: dict[str, str] = {}
    hint = ""
    for part in form.parts:
        try:
            _parse(form, part)
        except UsageError as error:
            problems |= problems_of(error, form)
            hint = hint or ("" if "--help" in error.hint else error.hint)
    scorers = form.fields.get("scorers")
    if scorers and form.values.get("scorers") == []:
        problems["scorers"] = "Choose at least one"
    if problems:
        raise Wrong(problems, hint)


def _parse(form: Form, part: Part) -> None:
    values = {name: form.values[name] for name in part.names if name in form.values}
    component = part.component
    if part.kind == "models":
        chosen = model_of(form.operator, form.values.get("model", form.fields["model"].default))
        values = {**chosen.model_dump(exclude_unset=True), **values}
    if part.kind == "scorers" and (model := form.values.get(f"{component.component_name()}.model")):
        values["model"] = model
    if "score" in values:
        values["score"] = ",".join(values["score"])
    component.parse(values, form.operator)


_WORDS = {
    "greater than or equal to": "at least",
    "greater than": "more than",
    "less than or equal to": "at most",
    "less than": "less than",
}
_BOUNDS = re.compile(rf"input should be ({'|'.join(_WORDS)}) (-?\d+(?:\.\d+)?)")
_NUMBERS = re.compile(r"input should be a(?: finite| valid)? (integer|number)(?:, [^`]*?)?(?=, got:|$)")
_EXPRESSION = "in the expression: "
_FLAG = re.compile(r"`--([\w-]+)`")
_SAID = re.compile(r"(?:[\w ]+: )?`(\w+)`(?:: )?(.*)", re.DOTALL)


def problems_of(error: ImagemillError, form: Form) -> dict[str, str]:
    """What an error says, by the field it is about; under "" what is about none, with the hint."""
    found: dict[str, list[str]] = {}
    reason, below, _ = error.message.partition("\n\n")
    if below and reason.startswith(_EXPRESSION):
        # Below it the place is marked in the expression, which stands in its field here.
        name = next((name for name in ("where", "accept") if name in form.values), "")
        text = reason.removeprefix(_EXPRESSION)
        return {name: f"{text[:1].upper()}{text[1:]}: {_hint_of(error, form)}"}
    for line in map(_in_words, error.message.split("\n")):
        said = _SAID.fullmatch(line)
        if said and said[1] in form.fields:
            text = said[2] if f"`{said[1]}`: " in line else line.removeprefix(f"{form.operator}: ")
            found.setdefault(said[1], []).append(text[:1].upper() + text[1:])
        else:
            text = line.removeprefix(f"{form.operator}: ")
            found.setdefault("", []).append(text[:1].upper() + text[1:])
    if "" in found and (hint := _hint_of(error, form)):
        found[""][-1] += f": {hint}"
    return {name: "; ".join(texts) for name, texts in found.items()}


def _in_words(said: str) -> str:
    """What a parameter may be, as people say it: `at most 16,384`."""

    def bound(found: re.Match[str]) -> str:
        number = float(found[2])
        return f"{_WORDS[found[1]]} {int(number) if number.is_integer() else number:,}"

    return _NUMBERS.sub(lambda found: f"a {'whole ' * (found[1] == 'integer')}number", _BOUNDS.sub(bound, said))


def _hint_of(error: ImagemillError, form: Form) -> str:
    """The hint of an error with fields in place of flags; empty where the command line is the place for it."""
    labels = {name.replace("_", "-"): field.label for name, field in form.fields.items()}
    hint = _FLAG.sub(lambda flag: f"“{labels[flag[1]]}”" if flag[1] in labels else flag[0], error.hint)
    return "" if "`--" in hint else hint


def arguments_of(form: Form, source: Path, output: Path | None) -> list[str]:
    """The command that does what a form says; no value can become a flag."""
    values, fields = form.values, form.fields
    arguments = [form.operator, str(source)]
    if form.operator == "export":
        arguments.append(values.get("layout") or fields["layout"].choices[0][0])
    if output:
        arguments.append(f"--output={output}")
    if form.operator == "score":
        scorers = values.get("scorers") or fields["scorers"].default.split(",")
        models = [(name, values.get(f"{name}.model")) for name in scorers]
        arguments.append("--with=" + ",".join(f"{name}={model}" if model else name for name, model in models))
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if name == "scorers" or name.endswith(".model") or (name == "layout" and form.operator == "export"):
            continue
        if isinstance(value, bool):
            arguments.append(flag if value else flag.replace("--", "--no-", 1))
        elif fields[name].kind == "several":
            arguments.append(f"{flag}={','.join(value)}")
        else:
            arguments += [f"{flag}={each}" for each in (value if isinstance(value, list) else [value])]
    return arguments
