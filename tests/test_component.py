"""Components: parameters as fields, one description for every surface, found by name."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import tomli_w
from pydantic import Field, ValidationError

from imagemill.component import Component, Parameter, component_names, find_component
from imagemill.errors import ImagemillError, UsageError, did_you_mean
from imagemill.models.fake import Fake
from imagemill.operators.generate import Generate
from imagemill.records import Sampling


class OilPainter(Component):
    """Paints, for these tests."""

    strokes: int = Field(3, ge=1, le=9)
    """How many strokes,
    at most nine."""
    thickness: float | None = Field(None, gt=0)
    """In millimeters."""
    brush: Literal["flat", "round"] = "flat"
    """Its shape."""
    signed: bool = True
    """Whether it is signed."""
    colors: list[str] = []
    """Those it may use."""
    title: str
    """What stands under it."""
    amount: int | Literal["auto"] = "auto"
    """How much paint."""


def refused(call: Callable[[], object]) -> UsageError:
    with pytest.raises(UsageError) as caught:
        call()
    return caught.value


# parameters


def test_a_component_is_called_by_its_class_in_snake_case() -> None:
    assert OilPainter.component_name() == "oil_painter"


def test_a_component_cannot_be_changed() -> None:
    painter = OilPainter(title="sea")
    with pytest.raises(ValidationError):
        painter.strokes = 4  # type: ignore[misc]
    assert painter.strokes == 3


def test_a_misspelt_parameter_is_refused_with_a_suggestion() -> None:
    error = refused(lambda: OilPainter.parse({"title": "sea", "stroks": 4}))
    assert error.message == "oil_painter: `stroks`: there is no such parameter, got: `4`"
    assert error.hint == "did you mean `strokes`?"
    assert error.exit_code == 2


def test_a_parameter_like_no_other_gets_the_list() -> None:
    error = refused(lambda: OilPainter.parse({"title": "sea", "zzz": 4}))
    assert error.hint == "known: strokes, thickness, brush, signed, colors, title, amount"


def test_all_problems_are_named_at_once() -> None:
    error = refused(lambda: OilPainter.parse({"strokes": 10, "brush": "wide", "stroks": 1, "colour": "x"}, "step 2"))
    lines = error.message.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("step 2: `") for line in lines)
    for name, got in (("strokes", "10"), ("brush", "wide"), ("stroks", "1"), ("colour", "x"), ("title", "")):
        assert any(f"`{name}`" in line and got in line for line in lines)


def test_a_value_of_any_length_gives_a_short_message() -> None:
    assert len(refused(lambda: OilPainter.parse({"title": "sea", "strokes": "x" * 10_000})).message) < 300


def test_a_parameter_with_two_types_is_named_as_the_user_wrote_it() -> None:
    message = refused(lambda: OilPainter.parse({"title": "sea", "amount": "much"})).message
    assert "`amount`" in message
    assert "amount.int" not in message


@pytest.mark.parametrize(
    "values",
    [
        {"title": "sea"},
        {"title": 'a "b"\nü🐱', "strokes": 9, "thickness": 0.1, "brush": "round", "signed": False, "colors": ["a"]},
        {"title": "", "amount": 3},
    ],
)
def test_what_is_written_down_is_read_back(values: dict[str, Any]) -> None:
    painter = OilPainter.parse(values)
    assert OilPainter.parse(painter.to_table()) == painter
    assert OilPainter.parse(tomllib.loads(tomli_w.dumps(painter.to_table()))) == painter
    assert OilPainter.parse(json.loads(json.dumps(painter.to_table()))) == painter


def test_what_is_none_is_not_written_down() -> None:
    assert "thickness" not in OilPainter(title="sea").to_table()


def test_every_surface_draws_the_same_parameters() -> None:
    assert OilPainter.parameters() == [
        Parameter("strokes", "integer", 3, "How many strokes, at most nine.", (), "1…9"),
        Parameter("thickness", "number", None, "In millimeters.", (), ">0…"),
        Parameter("brush", "string", "flat", "Its shape.", ("flat", "round")),
        Parameter("signed", "boolean", True, "Whether it is signed."),
        Parameter("colors", "array", [], "Those it may use."),
        Parameter("title", "string", None, "What stands under it."),
        Parameter("amount", "integer", "auto", "How much paint."),
    ]


def test_a_flag_is_the_name_with_dashes() -> None:
    assert Parameter("prompt_postfix", "string", "", "").flag == "--prompt-postfix"


def test_bounds_name_values_that_are_allowed() -> None:
    seed = next(parameter for parameter in Sampling.parameters() if parameter.name == "seed")
    low, high = seed.bounds.split("…")
    assert Sampling.parse({"seed": low}).seed == -1
    assert Sampling.parse({"seed": high}).seed == int(high)
    assert "`seed`" in refused(lambda: Sampling.parse({"seed": int(high) + 1})).message


def test_the_json_schema_tells_a_form_everything() -> None:
    schema = OilPainter.model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["title"]
    strokes = {"default": 3, "description": "How many strokes,\nat most nine.", "maximum": 9, "minimum": 1}
    assert schema["properties"]["strokes"].items() >= strokes.items()
    assert schema["properties"]["brush"]["enum"] == ["flat", "round"]
    json.dumps(schema, allow_nan=False)


# the registry


def plugin(folder: Path, entries: str, code: str = "", name: str = "plugin_of_a_test") -> None:
    """Install a plugin into a folder of the path, as pip would."""
    (folder / f"{name}.py").write_text(code)
    information = folder / f"{name}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[imagemill]\n{entries}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("plugin_of_a_test", "plugin_of_another"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


CODE = 'from imagemill.models.fake import Fake\nclass Sketch(Fake):\n    """Draws nothing new."""\n'


def test_the_packages_own_components_are_found_by_name() -> None:
    assert {"fake", "shapes", "diffusers"} <= set(component_names("models"))
    assert component_names("models") == sorted(component_names("models"))
    assert find_component("models", "fake") is Fake
    assert find_component("operators", "generate") is Generate
    assert "base" not in component_names("models")


@pytest.mark.parametrize(("name", "hint"), [("Shape", "did you mean `shapes`?"), ("zzz", "known: ")])
def test_an_unknown_component_is_refused_with_a_suggestion(name: str, hint: str) -> None:
    error = refused(lambda: find_component("models", name))
    assert error.message == f"there is no `{name}` in models"
    assert error.hint.startswith(hint)


@pytest.mark.parametrize("name", ["base", "__init__", "fake.Fake", ""])
def test_what_is_no_component_is_not_found(name: str) -> None:
    assert "there is no" in refused(lambda: find_component("models", name)).message


def test_a_plugin_stands_beside_the_packages_own(site: Path) -> None:
    plugin(site, "models.sketch = plugin_of_a_test:Sketch\nexecutors.other = nowhere:Other", CODE)
    assert "sketch" in component_names("models")
    assert "other" not in component_names("models")
    found = find_component("models", "sketch")
    assert issubclass(found, Fake)
    assert found.component_name() == "sketch"
    assert refused(lambda: find_component("models", "sketsh")).hint == "did you mean `sketch`?"


def test_two_components_of_one_name_are_refused(site: Path) -> None:
    plugin(site, "models.fake = plugin_of_a_test:Sketch\nmodels.sketch = plugin_of_a_test:Sketch", CODE)
    plugin(site, "models.sketch = plugin_of_another:Sketch", CODE, "plugin_of_another")
    for name in ("fake", "sketch"):
        error = refused(lambda name=name: find_component("models", name))  # type: ignore[misc]
        assert f"more than one component is called `{name}`" in error.message
        assert "plugin_of_a_test:Sketch" in error.message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_package_at_all", "no_such_package_at_all"),
        ("class Other: pass", "Sketch"),
        ("Sketch = 3", "is not a Component"),
        ("class Sketch: pass", "is not a Component"),
    ],
)
def test_a_broken_plugin_is_named(site: Path, code: str, message: str) -> None:
    plugin(site, "models.sketch = plugin_of_a_test:Sketch", code)
    with pytest.raises(ImagemillError, match=r"(?i)sketch") as caught:
        find_component("models", "sketch")
    assert message in caught.value.message


# suggestions


@pytest.mark.parametrize(
    ("name", "expected"),
    [("GUIDANCE_SCALE", "guidance_scale"), ("guidence_scale", "guidance_scale"), ("titel", "Title"), ("qqq", "")],
)
def test_a_suggestion_ignores_case_and_small_slips(name: str, expected: str) -> None:
    hint = did_you_mean(name, ["seed", "guidance_scale", "Title"])
    assert hint == (f"did you mean `{expected}`?" if expected else "")
