"""The forms of the web app: drawn from components, planned by dry runs, queued as commands."""

from __future__ import annotations

import io
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from imagemill.component import component_names, find_component
from imagemill.terminal import size
from tests.web_server import Served, barriers, ended, opened, served, until

pytest.importorskip("fastapi", reason="the web app needs the extra `serve`")

from imagemill.server.web.making.filling import arguments_of, given
from imagemill.server.web.making.forms import form_of
from imagemill.server.web.making.offered import MAKING, NOT_OFFERED, OPERATORS, models_for, offered
from imagemill.server.web.making.plans import Overtaken

PROMPTS = "prompt,animal\na red circle,cat\na blue star,dog\n,none\n"


class Page(HTMLParser):
    """What a page says: its texts, and its fields with what is filled in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.values: dict[str, list[str]] = {}
        self._select = self._area = ""
        self.feed(text)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        name = found.get("name", "")
        if tag == "input":
            if found.get("type") not in {"checkbox", "radio"} or "checked" in found:
                self.values.setdefault(name, []).append(found.get("value", ""))
            else:
                self.values.setdefault(name, [])
        elif tag == "select":
            self._select = name
            self.values[name] = []
        elif tag == "option" and self._select and ("selected" in found or not self.values[self._select]):
            self.values[self._select] = [found["value"]]
        elif tag == "textarea":
            self._area = name
            self.values[name] = [""]

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        elif tag == "textarea":
            self._area = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.values[self._area][0] += data
        self.texts.append(data)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests here, whose child that plans starts once."""
    with served(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="module")
def table(web: Served) -> str:
    """An upload with two prompts and a row without."""
    upload = web.state.uploads.add_text("Two prompts.csv", PROMPTS.encode())
    assert web.state.uploads.wait(upload.id).state == "ready"
    return f"upload:{upload.id}"


@pytest.fixture(scope="module")
def dataset(web: Served) -> str:
    """A dataset of four images."""
    import imagemill

    folder = web.folder / "four"
    imagemill.generate(
        ["a red circle", "a blue star"], folder, model="fake", images_per_prompt=2, seed=7, width=64, height=48
    )
    return f"dataset:{web.workspace.id_of(folder)}"


def planned(web: Served, operator: str, **asked: Any) -> dict[str, Any]:
    answer = web.client.post(f"/api/make/{operator}/plan", json=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def dry_run(arguments: list[str]) -> tuple[dict[str, Any], str]:
    """What the command line says: data, and the last line of its talk."""
    from imagemill.cli import run

    printed, said = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(said):
        assert run([*arguments, "--dry-run", "--json"]) == 0
    return json.loads(printed.getvalue()), said.getvalue().splitlines()[-1]


def chosen_parts(operator: str) -> Iterator[dict[str, str | list[str]]]:
    """Everything that a form can choose, one after the other."""
    if operator == "score":
        yield {"scorers": component_names("scorers")}
    elif operator == "export":
        yield from ({"layout": layout} for layout in component_names("layouts"))
    elif operator in (*MAKING, "caption"):
        yield from ({"model": model} for model in models_for(operator, []))
    else:
        yield {}


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_form_has_a_field_with_its_help_for_every_parameter_that_is_offered(web: Served, operator: str) -> None:
    own = find_component("operators", operator)
    for chosen in chosen_parts(operator):
        answer = web.client.get(f"/make/{operator}", params=chosen)
        assert answer.status_code == 200
        page = Page(answer.text)
        parts = form_of(operator, dict(chosen)).parts
        assert parts[0].component is own
        assert len(parts) == 1 or parts[1].component is not own
        for part in parts:
            for parameter in offered(part.component):
                name = parameter.name
                if part.kind == "scorers" and name == "model":
                    name = f"{part.component.component_name()}.model"
                assert name in page.values, f"{part.component.component_name()}: {name}"
                if part.component is own or name in part.names:
                    assert re.sub("[` ]", "", parameter.help) in re.sub("[` ]", "", page.said)
        assert not NOT_OFFERED.keys() & page.values.keys()


def test_what_can_be_set_in_a_browser_has_been_looked_at() -> None:
    texts = {
        parameter.name
        for kind in ("operators", "models", "scorers", "layouts")
        for name in component_names(kind)
        if kind != "operators" or name in OPERATORS
        for component in [find_component(kind, name)]
        if component.__module__.startswith("imagemill.")
        for parameter in offered(component)
        if parameter.type in {"string", "array"} and not parameter.choices
    }
    # A new parameter that is a text stands either here or in NOT_OFFERED: can it be a path, an address, or code?
    assert texts == LOOKED_AT


LOOKED_AT = {
    "accept",
    "after_column",
    "attributes",
    "background",
    "balance",
    "before_column",
    "by",
    "caption_column",
    "captioner",
    "citation",
    "class_column",
    "column",
    "device",
    "fail_text",
    "image_column",
    "instruction_column",
    "labels",
    "language",
    "layout",
    "license",
    "license_link",
    "mask_column",
    "model",
    "negative_prompt",
    "negative_prompt_column",
    "output_format",
    "own_size",
    "per",
    "pretty_name",
    "price",
    "prompt",
    "prompt_column",
    "prompt_postfix",
    "prompt_prefix",
    "quality",
    "scheduler",
    "score",
    "scorers",
    "split",
    "style",
    "subsets",
    "takes",
    "template",
    "text_column",
    "timestamp_column",
    "user_column",
    "vary",
    "where",
}


def test_a_form_offers_the_columns_of_its_source(web: Served, table: str) -> None:
    upload = table.partition(":")[2]
    text = web.client.get("/make/generate", params={"upload": upload}).text
    select = text.partition('name="prompt_column"')[2].partition("</select>")[0]
    assert re.findall('value="(.*?)"', select) == ["", "prompt", "animal"]
    assert planned(web, "generate", source=table)["columns"] == ["prompt", "animal"]


def test_a_plan_is_what_the_command_line_says(web: Served, table: str) -> None:
    values = {"images_per_prompt": "3", "width": "32", "prompt_postfix": "--seed 3", "metadata": ["no"], "vary": ""}
    found = planned(web, "generate", source=table, values=values)
    path = web.state.uploads.find(table.partition(":")[2]).path
    arguments = ["generate", str(path), "--output=/nowhere/new", "--images-per-prompt=3", "--width=32"]
    data, line = dry_run([*arguments, "--prompt-postfix=--seed 3", "--no-metadata"])
    assert (found["data"], found["line"]) == (data, line)
    assert found["problems"] == {}
    shown = found["shown"]
    assert shown["headline"] == "6 images"
    assert dict(shown["facts"])["Prompts"] == "2 × 3"
    assert dict(shown["facts"])["Rejected"] == "1 row"
    assert shown["prompts"] == [{"prompt": f"{text} --seed 3", "set": ""} for text in ("a red circle", "a blue star")]
    assert found["name"] == "two-prompts"
    assert found["own"]["width"] == 64
    assert "euler" in found["own"]["schedulers"]
    assert "cpu" in found["devices"]


def test_typed_prompts_are_a_table_as_well(web: Served) -> None:
    found = planned(web, "generate", source="typed", prompts="a red circle\n\n“quoted”, with commas\n")
    assert [each["prompt"] for each in found["shown"]["prompts"]] == ["a red circle", "“quoted”, with commas"]
    assert planned(web, "generate", source="typed")["problems"] == {"_prompts": "Write a prompt a line"}


def test_a_plan_shows_the_first_prompts_and_what_their_rows_set(web: Served) -> None:
    lines = [f"picture {n},{'dull' * (n % 2)},{32 * (1 + n % 2)},{'7' * (n == 2)}" for n in range(30)]
    lines.insert(0, "prompt,negative_prompt,width,seed")
    upload = web.state.uploads.add_text("rows.csv", "\n".join(lines).encode())
    assert web.state.uploads.wait(upload.id).state == "ready"
    values = {"images_per_prompt": "2", "per_row": "yes", "model": "fake", "prompt_postfix": "in oil"}
    unset = planned(web, "generate", source=f"upload:{upload.id}", values={**values, "per_row": "no"})["shown"]
    assert "The columns `width`, `seed` are kept but not used; “Per row” lets them set their row" in unset["notes"]
    prompts = planned(web, "generate", source=f"upload:{upload.id}", values=values)["shown"]["prompts"]
    assert len(prompts) == 20
    assert prompts[0] == {"prompt": "picture 0 in oil", "set": "Width: 32"}
    assert prompts[1] == {"prompt": "picture 1 in oil", "set": "Negative prompt: dull · Width: 64"}
    assert [each["set"] for each in prompts[2:4]] == ["Seed: 7 · Width: 32", "Seed: 8 · Width: 32"]


@pytest.mark.parametrize(
    ("operator", "values", "headline", "fact"),
    [
        ("caption", {}, "4 images without a text", "unknown before it runs"),
        ("caption", {"captions_per_image": "3"}, "4 images without a text", "3"),
        ("score", {"scorers": ["hashes", "quality"]}, "4 images", "4 to score: pixels_sha256, perceptual_hash"),
        ("select", {"top": "1", "per": "prompt", "by": "seed"}, "2 of 4 images kept", "2"),
        ("select", {"where": 'prompt contains "star"'}, "2 of 4 images kept", "next to nothing: files are hard links"),
        ("export", {"layout": "parquet"}, "4 images", "about BYTES"),
        ("export", {"layout": "parquet", "where": 'prompt contains "star"'}, "2 images", "about HALF"),
        ("export", {"layout": "parquet", "image_format": "jpeg"}, "4 images", "unknown, since pictures are converted"),
        ("augment", {"keep_original": "no", "images_per_sample": "3"}, "12 images", "4 × 3"),
    ],
)
def test_every_operator_has_a_plan_with_what_matters_there(
    web: Served, dataset: str, operator: str, values: Mapping[str, str], headline: str, fact: str
) -> None:
    found = planned(web, operator, source=dataset, values=values)
    assert (found["problems"], found["shown"]["headline"]) == ({}, headline)
    total = sum(path.stat().st_size for path in (web.folder / "four").rglob("*.png"))
    fact = fact.replace("BYTES", size(total)).replace("HALF", size(total / 2))
    assert fact in dict(found["shown"]["facts"]).values()
    assert str(web.folder) not in json.dumps(found)


def test_what_is_wrong_is_said_at_its_field(web: Served, table: str, dataset: str) -> None:
    values = {"width": "3", "images_per_prompt": "many", "vary": "seed", "prompt_column": "absent"}
    found = planned(web, "generate", source=table, values=values)
    assert found["problems"].keys() == {"width", "images_per_prompt", "vary"}
    assert found["problems"]["width"] == "At least 8, got: `3`"
    assert found["problems"]["images_per_prompt"] == "A whole number, got: `many`"
    more = planned(web, "augment", source=dataset, values={"strength": "1.5"})["problems"]
    assert more == {"strength": "At most 1, got: `1.5`"}
    assert planned(web, "generate", source=table, values={"width": "99999999999"})["problems"] == {
        "width": "At most 16,384, got: `99999999999`"
    }
    found = planned(web, "generate", source=table, values={"prompt_column": "absent"})
    assert found["problems"].keys() == {"prompt_column"}
    found = planned(web, "select", source=dataset, values={"where": "absent > 1"})["problems"]
    assert found["where"].startswith("There is no column `absent`: columns: ")
    found = planned(web, "generate", source=table, values={"accept": "alignment >"})["problems"]
    assert found["accept"].startswith("Expected a column or a value, got the end: for instance: ")
    assert planned(web, "select", source=dataset)["problems"].keys() == {""}
    assert planned(web, "score", source=dataset, values={"scorers": [""]})["problems"].keys() == {"scorers"}
    answer = web.client.post("/api/make/generate", json={"source": table, "name": "../out", "values": values})
    assert answer.status_code == 422
    assert answer.json()["problems"].keys() == {"width", "images_per_prompt", "vary", "_name"}
    # A browser without scripts gets the form back, with what it sent.
    sent = {"_source": table, "_name": "new", "_do": "queue", "width": "3", "prompt_postfix": "in oil"}
    answer = web.client.post("/make/generate", data=sent)
    assert answer.status_code == 422
    page = Page(answer.text)
    assert page.values["prompt_postfix"] == ["in oil"]
    assert "2 images" in web.client.post("/make/generate", data={"_source": table, "_do": "plan"}).text
    assert "At least 8, got" in page.said


@pytest.mark.parametrize("name", sorted(NOT_OFFERED))
@pytest.mark.parametrize(
    "route", ["/api/make/generate", "/api/make/generate/plan", "/api/make/export", "/api/make/score"]
)
def test_what_is_not_offered_is_refused_by_hand_too(web: Served, table: str, name: str, route: str) -> None:
    source = table if "generate" in route else ""
    answer = web.client.post(route, json={"source": source, "name": "new", "values": {name: "x"}})
    assert answer.status_code == 422
    assert NOT_OFFERED[name] in answer.json()["error"]


@pytest.mark.parametrize(
    ("operator", "values"),
    [
        ("generate", {"model": "/etc"}),
        ("generate", {"model": "openai:gpt-image-1"}),
        ("generate", {"model": "somebody/sd-turbo"}),
        ("augment", {"captioner": "somebody/blip"}),
        ("caption", {"model": "transformers:/etc"}),
        ("score", {"scorers": ["alignment=/etc"]}),
        ("score", {"scorers": ["alignment"], "alignment.model": "/etc"}),
        ("generate", {"accept": "alignment > 0.2", "score": ["alignment=/etc"]}),
        ("export", {"layout": "../parquet"}),
        ("augment", {"image_column": "prompt"}),
        ("edit", {"mask_column": "prompt"}),
        ("generate", {"workers": "9"}),
        ("generate", {"--dry-run": "x"}),
        ("generate", {"output": "/etc/new"}),
    ],
)
def test_no_path_address_or_flag_comes_in(
    web: Served, table: str, dataset: str, operator: str, values: dict[str, Any]
) -> None:
    source = table if operator == "generate" else dataset
    for route in (f"/api/make/{operator}", f"/api/make/{operator}/plan"):
        answer = web.client.post(route, json={"source": source, "name": "new", "values": values})
        assert answer.status_code == 422, answer.text


def test_a_table_gives_prompts_and_no_pictures(web: Served, dataset: str) -> None:
    upload = web.state.uploads.add_text("paths.csv", b"image,prompt\n/etc/hostname,a cat\n")
    web.state.uploads.wait(upload.id)
    for operator in ("augment", "edit", "caption", "import"):
        answer = web.client.post(f"/api/make/{operator}/plan", json={"source": f"upload:{upload.id}"})
        assert answer.status_code == 400
        assert upload.id not in web.client.get(f"/make/{operator}").text
    answer = web.client.post("/api/make/generate/plan", json={"source": dataset})
    assert answer.status_code == 400


def test_values_that_begin_like_flags_stay_values() -> None:
    form = form_of("generate", {})
    form.values = given(form, {"prompt_postfix": ["--output=/etc"], "template": ["-o"], "vary": ["--limit=1\n-q=2"]})
    arguments = arguments_of(form, Path("/in"), Path("/out"))
    flags = ["--prompt-postfix=--output=/etc", "--template=-o", "--vary=--limit=1", "--vary=-q=2"]
    assert arguments == ["generate", "/in", "--output=/out", *flags]


def test_a_form_becomes_a_job_and_the_job_a_dataset_with_its_parameters(web: Served) -> None:
    upload = web.state.uploads.add_text("Two prompts.csv", PROMPTS.encode())
    values = {"model": "fake", "images_per_prompt": "2", "seed": "5", "prompt_postfix": "--limit 1", "metadata": "no"}
    asked = {"source": f"upload:{upload.id}", "name": "made", "key": "k1", "values": values}
    answer = web.client.post("/api/make/generate", json=asked)
    assert answer.status_code == 200, answer.text
    job = answer.json()["job"]
    # A double click, or a second try where the answer was lost.
    assert web.client.post("/api/make/generate", json=asked).json()["job"] == job
    assert [each.id for each in web.state.queue.jobs() if each.kind == "generate"] == [job]
    taken = web.client.post("/api/make/generate", json={**asked, "key": "k2"})
    assert taken.status_code == 422
    assert taken.json()["problems"].keys() == {"_name"}
    found = ended(web.state.queue, job)
    assert (found.state, found.device) == ("done", "cpu"), found
    made = tomllib.loads((web.folder / "made" / "job.toml").read_text())
    step = made["steps"][0]
    assert (step["model"], step["images_per_prompt"], step["seed"], step["metadata"]) == ("fake", 2, 5, False)
    assert made["plan"]["requests"] == 4
    dataset = web.workspace.id_of(web.folder / "made")
    records = list(web.workspace.open(dataset))
    assert {record["prompt"] for record in records} == {"a red circle --limit 1", "a blue star --limit 1"}
    # The same settings again.
    page = Page(web.client.get("/make/generate", params={"job": job}).text)
    assert page.values["_source"] == [f"upload:{upload.id}"]
    assert page.values["model"] == ["fake"]
    assert (page.values["images_per_prompt"], page.values["metadata"]) == (["2"], ["no"])
    assert page.values["_name"] == ["two-prompts"]
    # Those of one image make the same image.
    image = records[3]
    page = Page(web.client.get("/make/generate", params={"dataset": dataset, "image": "1-1"}).text)
    values = {name: texts for name, texts in page.values.items() if not name.startswith("_")}
    asked = {"source": page.values["_source"][0], "prompts": page.values["_prompts"][0], "name": "again"}
    job = web.client.post("/api/make/generate", json={**asked, "values": values}).json()["job"]
    assert ended(web.state.queue, job).state == "done"
    (same,) = web.workspace.open(web.workspace.id_of(web.folder / "again"))
    known = ("prompt", "seed", "width", "height", "num_inference_steps", "guidance_scale", "scheduler")
    assert {name: same[name] for name in known} == {name: image[name] for name in known}


def test_settings_again_are_those_of_the_job_with_its_own_model_and_its_source(web: Served, dataset: str) -> None:
    values = {"model": "shapes", "strength": "0.4", "images_per_sample": "2", "keep_original": "yes", "seed": "3"}
    values["num_inference_steps"] = "1"
    asked = {"source": dataset, "name": "augmented", "values": values}
    job = web.client.post("/api/make/augment", json=asked).json()["job"]
    assert ended(web.state.queue, job).state == "done"
    web.state.models.insert(0, "fake")
    try:
        made = web.workspace.id_of(web.folder / "augmented")
        ways = [{"job": job}, {"dataset": made, "image": "0-1"}]
        pages = [web.client.get("/make/augment", params=way).text for way in ways]
        # Without its job the dataset itself says the same.
        web.state.queue.remove(job)
        pages.append(web.client.get("/make/augment", params=ways[1]).text)
    finally:
        web.state.models.remove("fake")
    for page in map(Page, pages):
        assert page.values["_source"] == [dataset]
        assert page.values["keep_original"] == ["no", "yes"]
        assert {name: page.values[name][0] for name in values if name != "keep_original"} == {
            name: text for name, text in values.items() if name != "keep_original"
        }


def test_a_name_is_looked_at_before_anything_is_queued(web: Served, table: str, dataset: str) -> None:
    for name, said in (
        ("four", "already"),
        ("../out", "cannot be the name"),
        (".hidden", "cannot be the name"),
        ("n" * 81, "at most 80"),
        ("n" * 300, "at most 80"),
    ):
        found = planned(web, "generate", source=table, name=name)
        assert found["problems"].keys() == {"_name"}
        assert said in found["problems"]["_name"]
        assert found["shown"]["headline"] == "2 images"
        answer = web.client.post("/api/make/generate", json={"source": table, "name": name})
        assert (answer.status_code, answer.json()["problems"]) == (422, found["problems"])
    assert planned(web, "generate", source=table, name="n" * 80)["problems"] == {}
    assert planned(web, "score", source=dataset, name="../out", values={"scorers": ["hashes"]})["problems"] == {}


def test_one_instruction_may_hold_for_all_pictures(web: Served) -> None:
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    sent = [("files", (name, picture.getvalue(), "image/png")) for name in ("a.png", "b.png")]
    (upload,) = web.client.post("/api/uploads", files=sent).json()["uploads"]
    source = f"upload:{upload['id']}"
    assert web.state.uploads.wait(upload["id"]).state == "ready"
    form = web.client.get("/make/edit", params={"upload": upload["id"]}).text
    assert form.index("Instruction for all pictures") < form.index("Images per sample") < form.index("<details")
    said = planned(web, "edit", source=source)["problems"][""]
    assert said.startswith("No column is called `instruction`")
    assert "“Instruction for all pictures”" in said
    assert "--" not in said
    values = {"template": "make the circle blue"}
    found = planned(web, "edit", source=source, values=values)
    assert (found["problems"], found["shown"]["headline"]) == ({}, "2 images")
    assert found["shown"]["prompts"] == [{"prompt": "make the circle blue", "set": ""}]
    asked = {"source": source, "name": "edited", "values": {**values, "model": "fake"}}
    assert ended(web.state.queue, web.client.post("/api/make/edit", json=asked).json()["job"]).state == "done"
    made = list(web.workspace.open(web.workspace.id_of(web.folder / "edited")))
    assert [record["edit_prompt"] for record in made] == ["make the circle blue"] * 2


def test_a_link_fills_a_form(web: Served, dataset: str) -> None:
    id_ = dataset.partition(":")[2]
    page = Page(web.client.get("/make/generate", params={"dataset": id_}).text)
    assert page.values["_source"] == ["typed"]
    assert page.values["_prompts"] == ["a red circle\na blue star"]
    found = {name: page.values[name] for name in ("model", "images_per_prompt", "seed", "width", "height")}
    assert found == {"model": ["fake"], "images_per_prompt": ["2"], "seed": ["7"], "width": ["64"], "height": ["48"]}
    page = Page(web.client.get("/make/export", params={"dataset": id_, "layout": "parquet", "where": "seed > 1"}).text)
    assert (page.values["layout"], page.values["where"], page.values["_source"]) == (
        ["parquet"],
        ["seed > 1"],
        [dataset],
    )
    answer = web.client.get("/make/generate", params={"upload": "0" * 16, "model": "/etc", "lora": "/etc"})
    assert answer.status_code == 200
    assert "There is no upload" in answer.text
    assert web.client.get("/make/conquer").status_code == 404


def test_columns_come_into_the_dataset_itself(web: Served) -> None:
    import imagemill

    imagemill.generate(["a red circle"], web.folder / "one", model="fake")
    source = f"dataset:{web.workspace.id_of(web.folder / 'one')}"
    values = {"scorers": ["hashes", "quality"]}
    job = web.client.post("/api/make/score", json={"source": source, "values": values}).json()["job"]
    assert ended(web.state.queue, job).state == "done"
    assert "perceptual_hash" in next(iter(web.workspace.open(source.partition(":")[2])))
    sent = {
        "_source": source,
        "_name": "plain",
        "_do": "queue",
        "layout": "imagefolder",
        "caption_files": ["no", "yes"],
    }
    answer = web.client.post("/make/export", data=sent)
    assert (answer.status_code, answer.headers["location"]) == (303, "/executions")
    (job,) = (job.id for job in web.state.queue.jobs() if job.kind == "export")
    assert ended(web.state.queue, job).state == "done"
    assert list((web.folder / "plain").rglob("*.txt"))


def test_the_child_that_plans_comes_back_when_it_has_died(web: Served, table: str) -> None:
    assert planned(web, "generate", source=table)["problems"] == {}
    web.state.plans._process.kill()
    assert planned(web, "generate", source=table)["shown"]["headline"] == "2 images"


def test_of_one_form_only_the_last_plan_is_made(web: Served) -> None:
    plans = web.state.plans
    arguments = ["generate", "/nowhere/table.csv", "--output=/nowhere/new"]
    with ThreadPoolExecutor() as pool:
        with plans._lock:
            first = pool.submit(plans.ask, arguments, form="one")
            other = pool.submit(plans.ask, arguments, form="two")
            until(lambda: plans._waiting == 2)
            last = pool.submit(plans.ask, arguments, form="one")
            until(lambda: plans._waiting == 3)
        assert isinstance(first.exception(), Overtaken)
        assert "no file" in last.result()["error"]
        assert "no file" in other.result()["error"]


def test_a_form_in_a_browser(browser: Any, web: Served) -> None:
    with opened(browser, web) as page:
        fill_by_hand(page)
        page.keyboard.press("Control+Enter")
        page.wait_for_url("**/executions")
    (job,) = (each for each in web.state.queue.jobs() if each.output.name == "by-keys")
    assert ended(web.state.queue, job.id).state == "done"
    assert {record["width"] for record in web.workspace.open(web.workspace.id_of(web.folder / "by-keys"))} == {32}


def fill_by_hand(page: Any) -> None:
    page.goto("/make/generate")
    # What nobody has been asked for yet is not wrong.
    page.wait_for_selector("#plan:has-text('Write a prompt a line')")
    assert page.locator(".wrong:visible").count() == 0
    page.keyboard.press("Tab")
    page.focus("#prompts")
    page.keyboard.type("a red circle\na blue star\na cat\na dog")
    page.get_by_text("1 more", exact=True).click()
    page.wait_for_selector("li:visible:has-text('a dog')")
    page.fill("#prompts", "a red circle\na blue star")
    page.wait_for_selector("text=2 images")
    assert page.get_attribute("#field-width", "placeholder") == "64"
    assert page.locator("#list-scheduler option[value=euler]").count() == 1
    page.fill("#field-width", "3")
    page.wait_for_selector("#wrong-width:visible")
    assert page.get_attribute("#field-width", "aria-invalid") == "true"
    page.fill("#field-width", "32")
    page.wait_for_selector("#wrong-width", state="hidden")
    page.click("button[data-dice]")
    assert 0 <= int(page.input_value("#field-seed")) < 2**32
    # Another model brings its own parameters, and what was set elsewhere stays.
    page.select_option("#field-model", "fake")
    page.wait_for_selector("#field-latency", state="attached")
    # Who goes elsewhere and comes back finds it as it was left.
    page.goto("/executions")
    page.go_back()
    page.wait_for_selector("text=2 images")
    page.wait_for_selector("#field-latency", state="attached")
    assert page.locator("#field-offload").count() == 0
    assert page.input_value("#field-width") == "32"
    page.fill("#name", "a/b")
    page.wait_for_selector("#wrong-_name:visible")
    page.fill("#name", "by-keys")
    page.wait_for_selector("#wrong-_name", state="hidden")
    page.wait_for_selector("text=2 images")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_forms_are_accessible(browser: Any, web: Served, dataset: str, theme: str) -> None:
    id_ = dataset.partition(":")[2]
    with opened(browser, web, viewport={"width": 390, "height": 844}, color_scheme=theme) as page:
        for address in ("generate", f"score?dataset={id_}&scorers=hashes&scorers=judge", f"export?dataset={id_}"):
            page.goto(f"/make/{address}")
            page.wait_for_selector("#plan:not(:empty, [aria-busy])")
            page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
            assert barriers(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
