"""Judge and attributes: what is asked, and that only an answer of the right form becomes a score."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagemill.errors import ModelError, UsageError
from imagemill.images import encode
from imagemill.judging import TEMPLATES, AnswerStyle, Judgement, filled, read_judgement, read_yes_or_no
from imagemill.scorers.base import Scored, Seen, find_scorer

from . import text_models
from .chat_server import Asked, ChatServer, chatting

GOOD: dict[str, Any] = {
    "elements": [
        {"element": "brown horse", "kind": "object", "present": 1},
        {"element": "two riders", "kind": "count", "present": 0},
    ],
    "reason": "There is one rider only.",
    "score": 3,
}
ELEMENTS = ("brown horse (object): 1", "two riders (count): 0")
LINES = "brown horse (object): 1\ntwo riders (count): 0\nReason: There is one rider only.\nFinal Score: 3"


def read(text: str, style: AnswerStyle = "json", template: str | None = None) -> Judgement:
    return read_judgement(text, style, TEMPLATES[style] if template is None else template, 1, 5)


def changed(**values: Any) -> str:
    return json.dumps({**GOOD, **values})


def element(**values: Any) -> str:
    return changed(elements=[{**GOOD["elements"][0], **values}])


def without(name: str) -> str:
    return json.dumps({key: value for key, value in GOOD.items() if key != name})


# answers


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        json.dumps(GOOD, indent=2),
        f"```json\n{json.dumps(GOOD)}\n```",
        f"```\n{json.dumps(GOOD)}\n```",
        f"Here is what I see:\n```json\n{json.dumps(GOOD, indent=1)}\n```\nAsk me for more.",
        f"Sure! {json.dumps(GOOD)} That is all.",
        f"<think>A {{score}} of 2? No, {{'score': 3}}.</think>\n{json.dumps(GOOD)}",
        f'{{"steps": ["look", "count"]}}\n{json.dumps(GOOD)}',
        changed(confidence=0.9, notes=["extra keys say nothing"]),
        changed(score=3.0),
        changed(elements=[{**GOOD["elements"][0], "present": True}, {**GOOD["elements"][1], "present": False}]),
    ],
)
def test_a_json_answer_is_read(text: str) -> None:
    assert read(text) == Judgement(3.0, "There is one rider only.", ELEMENTS)
    assert isinstance(read(text).score, float)


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        LINES.replace("Final Score: 3", "**Final Score: 3**"),
        LINES.replace("Final Score: 3", "### Final Score: **3.0**."),
        LINES.replace("brown", "1. brown").replace("two", "- two"),
        LINES.replace("brown horse (object): 1", "* **brown horse (object)**: 1"),
        LINES.replace("\n", "\r\n\r\n"),
        LINES.replace("Reason: ", ""),
        LINES.replace("Reason", "**Reason**"),
    ],
)
def test_an_answer_that_ends_with_a_final_score_is_read(text: str) -> None:
    assert read(text, "final_score") == Judgement(3.0, "There is one rider only.", ELEMENTS)


MALFORMED = {
    "nothing": "",
    "blank": " \n\t",
    "refusal": "I'm sorry, I can't help with that.",
    "a number": "3",
    "a text": '"3"',
    "null": "null",
    "a list": json.dumps([GOOD]),
    "two objects": json.dumps(GOOD) + "\n" + changed(score=4),
    "the same twice": json.dumps(GOOD) + json.dumps(GOOD),
    "cut off": json.dumps(GOOD)[:-9],
    "cut off in an element": json.dumps(GOOD)[:40],
    "cut off in a fence": "```json\n" + json.dumps(GOOD)[:-1],
    "single quotes": str(GOOD),
    "a comment": json.dumps(GOOD).replace('"score"', '// good\n"score"'),
    "a comma too many": json.dumps(GOOD)[:-1] + ",}",
    "braces in prose": "{I think} " + json.dumps(GOOD),
    "a score inside": json.dumps({"result": GOOD}),
    "an empty object": "{}",
    "no score": without("score"),
    "no reason": without("reason"),
    "no elements": without("elements"),
    "null score": changed(score=None),
    "score as text": changed(score="3"),
    "score in words": changed(score="three"),
    "score of five": changed(score="3/5"),
    "score as list": changed(score=[3]),
    "score as object": changed(score={"value": 3}),
    "true": changed(score=True),
    "NaN": changed(score=math.nan),
    "infinite": changed(score=math.inf),
    "huge": changed(score=3).replace("3}", "1e999}"),
    "hundreds of digits": changed(score=3).replace("3}", f"{'3' * 400}}}"),
    "thousands of digits": changed(score=3).replace("3}", f"{'3' * 9000}}}"),
    "0": changed(score=0),
    "too low": changed(score=0.99),
    "too high": changed(score=5.01),
    "negative": changed(score=-3),
    "percent": changed(score=60),
    "score twice": json.dumps(GOOD)[:-1] + ', "score": 4}',
    "reason as list": changed(reason=["one", "two"]),
    "reason null": changed(reason=None),
    "elements as text": changed(elements="brown horse (object): 1"),
    "elements as object": changed(elements={"brown horse": 1}),
    "elements as texts": changed(elements=["brown horse"]),
    "present in words": element(present="yes"),
    "present as text": element(present="1"),
    "present in between": element(present=0.5),
    "present of two": element(present=2),
    "present null": element(present=None),
    "present NaN": element(present=math.nan),
    "element empty": element(element=" "),
    "element a number": element(element=3),
    "no kind": element(kind=None),
    "deep": "[" * 100_000,
    "deep object": '{"score":' * 100_000,
    "the other form": LINES,
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_json_answer_is_no_score(case: str) -> None:
    found = read(MALFORMED[case])
    assert (found.score, found.elements) == (None, ())
    assert found.reason.startswith("no score: ")
    assert len(found.reason) < 500
    begins = " ".join(MALFORMED[case].split())[:200]
    assert not begins or found.reason.endswith(f"; the model answered: {begins}")


MALFORMED_LINES = {
    "nothing": "",
    "refusal": "I cannot judge pictures of people.",
    "no final score": LINES.rpartition("\n")[0],
    "cut off": LINES[:-2],
    "empty": LINES[:-1],
    "two": LINES + "\nFinal Score: 3",
    "two that differ": LINES + "\nFinal Score: 4",
    "of five": LINES + "/5",
    "or": LINES + " or 4",
    "a range": LINES + "-4",
    "in words": LINES[:-1] + "three",
    "a letter": LINES + "a",
    "out of range": LINES[:-1] + "0",
    "above": LINES + "0",
    "negative": LINES[:-1] + "-3",
    "NaN": LINES[:-1] + "nan",
    "comma": LINES + ",5",
    "in a sentence": LINES.replace("\nFinal", " My final"),
    "element of two": LINES.replace("(object): 1", "(object): 2"),
    "element in words": LINES.replace("(object): 1", "(object): yes"),
    "element without": LINES.replace("(object): 1", "(object):"),
    "element both": LINES.replace("(object): 1", "(object): 0 or 1"),
    "the other form": json.dumps(GOOD),
}


@pytest.mark.parametrize("case", MALFORMED_LINES)
def test_malformed_lines_are_no_score(case: str) -> None:
    found = read(MALFORMED_LINES[case], "final_score")
    assert (found.score, found.elements) == (None, ())
    assert found.reason.startswith("no score: ")


def test_only_what_the_template_asks_for_must_be_there() -> None:
    assert read('{"score": 4}', template='How good is it? {{"score": 1}} to {{"score": 5}}') == Judgement(4.0, "")
    asked = 'Say "reason" and "score".'
    assert read('{"score": 4}', template=asked).score is None
    assert read('{"score": 4, "reason": "so"}', template=asked) == Judgement(4.0, "so")
    assert read('{"score": 4, "elements": "none"}', template="").score is None


def test_what_is_kept_can_be_written_down() -> None:
    found = read(changed(reason="half \ud83d\n\n a   line"))
    assert found.reason == "half ? a line"
    read("\ud83d").reason.encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", True),
        ("No", False),
        (" YES.\n", True),
        ("**No**", False),
        ('"yes"', True),
        ("Yes, the street is empty.", True),
        ("**No**, it is full of cars.", False),
        ("no - full of cars", False),
        ("<think>yes or no?</think>No", False),
        ("", None),
        ("yes and no", None),
        ("yes/no", None),
        ("Yes, there are no cars.", None),
        ("No, yes", None),
        ("No one can tell", None),
        ("No idea", None),
        ("no-one is there", None),
        ("nope", None),
        ("Yesterday", None),
        ("maybe", None),
        ("1", None),
        ("true", None),
        ("The answer is yes", None),
        ("I cannot see the picture.", None),
    ],
)
def test_yes_is_yes_and_what_is_neither_is_nothing(text: str, expected: bool | None) -> None:
    assert read_yes_or_no(text) is expected


# scorers


def seen(number: int, **columns: Any) -> Seen:
    pixels = np.random.default_rng(number).integers(0, 255, (30, 40, 3), np.uint8)
    record = {"file_name": f"prompt_{number}_image_0.png", "prompt": f"horse {number}", **columns}
    return Seen(Path(record["file_name"]), record, encode(pixels, "png", None, False), Image.fromarray(pixels))


def by_number(scored: Iterable[Scored]) -> dict[int, Scored]:
    return {int(found.seen.record["file_name"].split("_")[1]): found for found in scored}


def on(server: ChatServer, **parameters: Any) -> dict[str, Any]:
    """A model on a server, as scorers take it."""
    return {"model": "openai:mock", "model_parameters": {"base_url": server.url, "max_retries": 2}, **parameters}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a key for tests")


def test_a_server_judges_every_picture_and_what_it_says_wrongly_is_no_score() -> None:
    answers = [json.dumps(GOOD), *MALFORMED.values()]

    def answer(asked: Asked) -> str:
        return answers[int(asked.prompt.partition("horse ")[2].split()[0])]

    images = [seen(number) for number in range(len(answers))]
    with chatting(answer) as server:
        judge = find_scorer("judge", on(server)).resolve({}, 1)
        judge.ready(1)
        judge.check(images[0].record)
        found = by_number(judge.score(iter(images)))
        assert len(server.asked) == len(images)
        assert {said.model for said in server.asked} == {"mock"}
        assert {said.kinds for said in server.asked} == {("data:image/png;base64",)}
        by_prompt = {said.prompt.partition("horse ")[2].split()[0]: said.pictures for said in server.asked}
        assert all(by_prompt[str(number)] == (image.data,) for number, image in enumerate(images))
    assert found[0].columns == {
        "judge_score": 3.0,
        "judge_reason": "There is one rider only.",
        "judge_elements": list(ELEMENTS),
    }
    for number in range(1, len(answers)):
        columns = found[number].columns
        assert (columns["judge_score"], columns["judge_elements"]) == (None, [""])
        assert columns["judge_reason"].startswith("no score: ")
    assert [scored for scored in found.values() if scored.reason] == []


def test_what_a_server_refuses_fails_and_is_no_score() -> None:
    statuses: dict[int, int] = {1: 401, 2: 400, 3: 500}

    def answer(asked: Asked) -> str | int:
        return statuses.get(int(asked.prompt.partition("horse ")[2].split()[0]), json.dumps(GOOD))

    with chatting(answer) as server:
        parameters = {"base_url": server.url, "max_retries": 0, "concurrency": 1}
        judge = find_scorer("judge", {"model": "openai:mock", "model_parameters": parameters}).resolve({}, 1)
        found = by_number(judge.score(seen(number) for number in (0, 2, 3)))
        assert found[0].columns["judge_score"] == 3.0
        assert {number: scored.reason for number, scored in found.items()} == {
            0: None,
            2: "bad_request",
            3: "server_error",
        }
        assert all(not found[number].columns and found[number].message for number in (2, 3))
        with pytest.raises(ModelError, match="refuses every call, the last with auth"):
            list(judge.score([seen(1)]))


def test_the_question_holds_what_the_template_names() -> None:
    def answer(asked: Asked) -> str:
        return "Final Score: 0.5"

    with chatting(answer) as server:
        judge = find_scorer(
            "judge",
            on(
                server,
                template="{prompt}|{style}|{count}|{tags}|{none}|{{x}}|{lowest}…{highest}",
                answer="final_score",
                lowest=0,
                highest=1,
                text_column="caption",
                column="fit",
            ),
        )
        record = {"caption": "a {horse}", "style": "oil", "count": 3.0, "tags": ["a", "b"], "none": None}
        judge.check({"prompt": "", **record})
        (found,) = judge.score([seen(0, **record)])
        assert [said.prompt for said in server.asked] == ["a {horse}|oil|3|a, b||{x}|0…1"]
    assert found.columns == {"fit_score": 0.5, "fit_reason": "", "fit_elements": [""]}
    assert list(judge.columns()) == list(found.columns)


def test_a_picture_without_text_is_not_asked_about() -> None:
    images = [seen(number, prompt="" if number % 3 else f"horse {number}") for number in range(100)]
    with chatting(lambda _: json.dumps(GOOD)) as server:
        found = by_number(find_scorer("judge", on(server)).score(iter(images)))
        assert len(server.asked) == 34
    assert len(found) == 100
    assert found[1].columns["judge_reason"] == "no score: the column `prompt` is empty"
    assert {scored.columns["judge_score"] for number, scored in found.items() if number % 3} == {None}
    assert {scored.columns["judge_score"] for number, scored in found.items() if not number % 3} == {3.0}


def test_the_default_templates_ask_for_what_is_read() -> None:
    for style, template in TEMPLATES.items():
        asked = filled(template, {"prompt": "a brown horse", "lowest": 1, "highest": 5})
        assert "a brown horse" in asked
        assert "from 1 (not at all) to 5" in asked
        assert ('"score": the number' in asked) == (style == "json")
        assert ("Final Score: " in asked) == (style == "final_score")


@pytest.mark.parametrize(
    ("parameters", "message", "hint"),
    [
        ({"template": "{promt}"}, "there is no column `promt`", "did you mean `prompt`?"),
        ({"template": "{stile}"}, "there is no column `stile`", "did you mean `style`?"),
        ({"template": '{"score": 1}'}, "only plain names", "{{ and }}"),
        ({"template": "{prompt"}, "`template`: ", "{{ and }}"),
        ({"template": "{}"}, "nothing between two braces", "{{ and }}"),
        ({"text_column": "captoin"}, "`text_column`: there is no column `captoin`", "did you mean `caption`?"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(parameters: dict[str, Any], message: str, hint: str) -> None:
    judge = find_scorer("judge", {"model": "fake", **parameters})
    with pytest.raises(UsageError) as caught:
        judge.check({"prompt": "a", "caption": "b", "style": "c"})
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "`model`"),
        ({"model": ""}, "`model`"),
        ({"model": "fake", "lowest": 5}, "`lowest` must be below `highest`"),
        ({"model": "fake", "highest": math.nan}, "`highest`"),
        ({"model": "fake", "answer": "xml"}, "`answer`"),
        ({"model": "fake", "column": "no column"}, "`column`"),
        ({"model": "fake", "base_url": "x"}, "no such parameter"),
        ({"model": "fake", "model_parameters": {"latenzy": 1}}, "`latenzy`: there is no such parameter"),
        ({"model": "nowhere"}, "there is no `nowhere`"),
        ({"model": "shapes_editor"}, "makes no text"),
    ],
)
def test_parameters_that_cannot_be_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_scorer("judge", parameters).info()
    assert message in str(caught.value)


def test_a_missing_key_is_told_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    judge = find_scorer("judge", {"model": "openai:gpt-5", "model_parameters": {"takes": ["size"]}})
    with pytest.raises(UsageError, match="`OPENAI_API_KEY` is not set"):
        judge.ready(1)


def test_what_decides_the_answers_is_written_down_and_nothing_else() -> None:
    parameters = {"model": "openai:gpt-5", "model_parameters": {"takes": ["size"], "concurrency": 3, "own_size": "8x8"}}
    judge = find_scorer("judge", parameters)
    resolved: Any = judge.resolve({}, 1)
    assert resolved.text_model().concurrency == 3
    written = resolved.to_table()
    assert "concurrency" not in written["model_parameters"]
    assert written["model_parameters"]["base_url"] == "https://api.openai.com/v1"
    again = find_scorer("judge", json.loads(json.dumps(written)))
    assert again.to_table() == written
    for known in (written, {**written, **written["model_parameters"]}):
        assert again.resolve(known, 1).to_table() == written
    assert resolved.info().model == "openai:gpt-5"
    assert pickle.loads(pickle.dumps(resolved)).text_model().concurrency == 3


# attributes


def test_each_attribute_is_asked_for_by_itself() -> None:
    said = {
        "traffic: empty": "Yes.",
        "weather: rain": "no",
        "time: night": "It is hard to say.",
        "traffic: full": "Yes, the street is full.",
        "weather: sun": "**No**",
    }

    def answer(asked: Asked) -> str:
        return said[asked.prompt.partition("? ")[2].partition("\n")[0]]

    images = [
        seen(0, traffic="empty", weather="rain", time="night"),
        seen(1, traffic="full", weather="", time=None),
        seen(2, traffic="", weather=" ", time="night"),
        seen(3, traffic="", weather="", time=""),
        seen(4, traffic="empty", weather="sun", time=""),
    ]
    with chatting(answer) as server:
        scorer = find_scorer("attributes", on(server, attributes=["traffic, weather", "time", "traffic"]))
        scorer.check(images[0].record)
        found = by_number(scorer.resolve({}, 1).score(iter(images)))
        assert len(server.asked) == 7
    columns = {number: scored.columns for number, scored in found.items()}
    assert list(scorer.columns()) == list(columns[0])
    assert columns[0] == {
        "attributes_agree": 0.5,
        "attributes_answers": ["traffic: yes", "weather: no", "time: neither yes nor no: It is hard to say."],
        "traffic_agrees": 1.0,
        "weather_agrees": 0.0,
        "time_agrees": None,
    }
    assert columns[1]["attributes_agree"] == 1.0
    assert columns[1]["attributes_answers"][1] == "weather: not asked, its row says nothing"
    assert columns[2]["attributes_agree"] is None
    assert (columns[3]["attributes_agree"], columns[3]["traffic_agrees"]) == (None, None)
    assert (columns[4]["attributes_agree"], columns[4]["weather_agrees"]) == (0.5, 0.0)


def test_an_image_with_a_question_that_failed_has_no_score() -> None:
    def answer(asked: Asked) -> str | int:
        return 400 if "weather" in asked.prompt else "yes"

    with chatting(answer) as server:
        scorer = find_scorer("attributes", on(server, attributes="traffic,weather"))
        found = by_number(scorer.score([seen(0, traffic="a", weather="b"), seen(1, traffic="a", weather="")]))
    assert (found[0].reason, found[0].columns) == ("bad_request", {})
    assert found[1].columns["attributes_agree"] == 1.0


@pytest.mark.parametrize(
    ("parameters", "message", "hint"),
    [
        ({"attributes": "trafic"}, "there is no column `trafic`", "did you mean `traffic`?"),
        ({"attributes": []}, "names no column", "traffic"),
        ({"attributes": "traffic", "template": "{atribute}"}, "no column `atribute`", "did you mean `attribute`?"),
    ],
)
def test_attributes_must_be_columns(parameters: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_scorer("attributes", {"model": "fake", **parameters}).check({"prompt": "a", "traffic": "b"})
    assert message in caught.value.message
    assert hint in caught.value.hint


# local models


@pytest.mark.parametrize("style", ["json", "final_score"])
def test_a_local_model_that_says_nonsense_gives_no_score(tmp_path: Path, style: str) -> None:
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    pytest.importorskip("transformers", reason="the extra `local` is not installed")
    folder = text_models.save("llava", tmp_path / "llava")
    parameters = {"model": str(folder), "template": "Fits {prompt}?", "answer": style}
    judge = find_scorer("judge", parameters).resolve({}, 1)
    images = [seen(number, prompt=f"horse {number // 2}") for number in range(5)]
    found = by_number(judge.score(iter(images)))
    assert len(found) == 5
    for scored in found.values():
        assert scored.reason is None
        assert scored.columns["judge_score"] is None
        assert scored.columns["judge_reason"].startswith("no score: ")
    assert judge.to_table()["model_parameters"]["max_new_tokens"] == 1024
    # The default template is longer than all that this model can read.
    long = find_scorer("judge", {"model": str(folder)}).resolve({}, 1)
    assert [scored.reason for scored in long.score(images[:1])] == ["model_error"]


def test_a_model_that_names_things_is_no_judge() -> None:
    (found,) = find_scorer("judge", {"model": "fake"}).score([seen(0)])
    assert found.columns["judge_score"] is None
    assert "the model answered: " in found.columns["judge_reason"]
    (failed,) = find_scorer("judge", {"model": "fake", "model_parameters": {"fail_text": " "}}).score([seen(0)])
    assert (failed.reason, failed.columns) == ("model_error", {})
