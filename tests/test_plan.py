"""Rows × parameters → requests: seeds that stay, parts of a thousand, batches that share a pass."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagemill.errors import UsageError
from imagemill.plan import PART_SIZE, Plan, batches
from imagemill.records import SEED_LIMIT, Request, Sampling
from imagemill.seeds import derive_seed
from imagemill.tables import read_table
from imagemill.tables.columns import PromptTable

FULL = {"seed": 42, "width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 3.0, "scheduler": "euler"}


def plan(rows: Any, sampling: dict[str, Any] | None = None, **options: Any) -> Plan:
    chosen = PromptTable.parse(options)
    return Plan(read_table(rows, chosen).rows, chosen, Sampling.parse({**FULL, **(sampling or {})}))


def requests(rows: Any, sampling: dict[str, Any] | None = None, **options: Any) -> list[Request]:
    made = plan(rows, sampling, **options)
    found = list(made.requests())
    assert len(made) == len(found)
    return found


def seeds(found: list[Request]) -> dict[tuple[str, int], int]:
    return {(request.id, request.image): request.seed for request in found}


def with_ids(count: int) -> list[dict[str, Any]]:
    return [{"id": f"row-{number}", "prompt": f"prompt {number % 7}"} for number in range(count)]


# seeds


def test_every_image_has_a_seed_of_its_own_that_every_reader_keeps() -> None:
    found = requests(["the same prompt"] * 300, {"images_per_prompt": 4})
    assert len({request.seed for request in found}) == 1_200
    assert all(0 <= request.seed < SEED_LIMIT for request in found)


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(40)), images=st.integers(1, 3))
def test_a_shuffled_table_with_ids_keeps_every_seed(order: list[int], images: int) -> None:
    rows = with_ids(40)
    shuffled = requests([rows[number] for number in order], {"images_per_prompt": images})
    assert seeds(shuffled) == seeds(requests(rows, {"images_per_prompt": images}))


@pytest.mark.parametrize("options", [{"limit": 7}, {"sample": 7}, {"sample": 30, "limit": 7}])
def test_a_part_of_the_table_has_the_seeds_and_names_of_the_whole(options: dict[str, Any]) -> None:
    whole = requests(with_ids(50))
    some = requests(with_ids(50), **options)
    assert len(some) == 7
    assert seeds(some).items() <= seeds(whole).items()
    assert {request.name for request in some} <= {request.name for request in whole}


def test_a_limit_takes_the_first_rows() -> None:
    assert [request.id for request in requests(with_ids(9), limit=3)] == ["row-0", "row-1", "row-2"]


def test_a_sample_is_drawn_by_the_seed_and_stays_in_order() -> None:
    rows = with_ids(60)
    drawn = [request.id for request in requests(rows, sample=20)]
    assert drawn == sorted(drawn, key=lambda name: int(name.partition("-")[2]))
    assert drawn == [request.id for request in requests(rows, sample=20)]
    assert drawn != [request.id for request in requests(rows, {"seed": 43}, sample=20)]
    assert set(drawn) == {request.id for request in requests(random.Random(1).sample(rows, 60), sample=20)}
    assert len(requests(rows, sample=100)) == 60


def test_another_job_seed_gives_other_seeds() -> None:
    first, second = seeds(requests(with_ids(50))), seeds(requests(with_ids(50), {"seed": 43}))
    assert not set(first.values()) & set(second.values())


def test_more_images_keep_the_seeds_of_the_first_ones() -> None:
    assert seeds(requests(with_ids(9), {"images_per_prompt": 2})).items() <= (
        seeds(requests(with_ids(9), {"images_per_prompt": 12})).items()
    )


def test_a_seed_that_is_told_is_exact_and_counts_up() -> None:
    rows = [{"prompt": "a", "seed": 7}, {"prompt": "b", "seed": SEED_LIMIT - 1}, {"prompt": "c", "seed": ""}]
    found = requests(rows, {"images_per_prompt": 3}, per_row=True)
    assert [request.seed for request in found[:6]] == [7, 8, 9, SEED_LIMIT - 1, 0, 1]
    assert len({request.seed for request in found}) == 9


def test_a_derived_seed_never_meets_a_told_one() -> None:
    own = requests(with_ids(5))[3].seed
    rows = [*with_ids(5), {"id": "told", "prompt": "x", "seed": own}]
    found = seeds(requests(rows, per_row=True))
    assert found["told", 0] == own
    assert len(set(found.values())) == 6


def test_seeds_that_meet_in_32_bits_are_drawn_again_whatever_the_order() -> None:
    by_seed: dict[int, str] = {}
    meeting: list[tuple[str, str]] = []
    for number in range(150_000):  # of so many, two meet with a probability above 90 %; with this job seed they do
        name = f"row-{number}"
        other = by_seed.setdefault(derive_seed(42, name, 0) >> 32, name)
        if other != name:
            meeting.append((other, name))
    assert meeting
    rows = [{"id": name, "prompt": "p"} for pair in meeting for name in pair]
    found = seeds(requests(rows))
    assert len(set(found.values())) == len(rows)
    assert seeds(requests(rows[::-1])) == found
    assert {seeds(requests(order, limit=1)).popitem() for order in (rows, rows[::-1])} <= set(found.items())


# one row, its images


def test_names_follow_the_rows_of_the_table_rejects_counted() -> None:
    found = requests(["a", "", "c"], {"images_per_prompt": 2})
    assert [request.name for request in found] == [
        "prompt_0_image_0",
        "prompt_0_image_1",
        "prompt_2_image_0",
        "prompt_2_image_1",
    ]


def test_a_row_sets_its_own_parameters() -> None:
    rows = [
        {"prompt": "a", "width": 128, "images_per_prompt": 3, "scheduler": "", "note": "x"},
        {"prompt": "b", "width": None, "images_per_prompt": None, "scheduler": "ddim", "note": "y"},
    ]
    found = requests(rows, {"negative_prompt": "blur"}, per_row=True)
    assert [(request.prompt, request.width, request.scheduler) for request in found] == [
        ("a", 128, "euler"),
        ("a", 128, "euler"),
        ("a", 128, "euler"),
        ("b", 64, "ddim"),
    ]
    assert {request.negative_prompt for request in found} == {"blur"}
    assert found[3].columns == {"note": "y"}


def test_a_rows_negative_prompt_comes_before_the_jobs() -> None:
    rows = [{"prompt": "a", "negative_prompt": "rain"}, {"prompt": "b", "negative_prompt": "nan"}]
    assert [request.negative_prompt for request in requests(rows, {"negative_prompt": "blur"})] == ["rain", "blur"]


@pytest.mark.parametrize(
    ("prefix", "postfix", "expected"),
    [("", "", "a cat"), ("oil of", "", "oil of a cat"), ("", "4k", "a cat 4k"), ("x,", ", y", "x, a cat , y")],
)
def test_prefix_and_postfix_are_joined_by_one_space(prefix: str, postfix: str, expected: str) -> None:
    assert requests(["a cat"], prompt_prefix=prefix, prompt_postfix=postfix)[0].prompt == expected


def test_a_template_is_filled_from_columns() -> None:
    rows = [{"animal": "cat", "n": 2}, {"animal": "{dog}", "n": 3}]
    found = requests(rows, template="{{{n}}} {animal}s", prompt_postfix="end")
    assert [request.prompt for request in found] == ["{2} cats end", "{3} {dog}s end"]
    assert found[0].columns == {"animal": "cat", "n": 2}


# the product


def test_vary_makes_the_product_and_shares_seeds_between_its_points() -> None:
    vary = ["guidance_scale=3,7.5", "num_inference_steps=4,8,16"]
    found = requests(with_ids(5), {"images_per_prompt": 2}, vary=vary)
    assert len(found) == 5 * 2 * 6
    assert [request.image for request in found[:12]] == list(range(12))
    points = [(request.guidance_scale, request.num_inference_steps) for request in found[:12:2]]
    assert points == [(3.0, 4), (3.0, 8), (3.0, 16), (7.5, 4), (7.5, 8), (7.5, 16)]
    # A point differs from its neighbor in what was varied and in nothing else.
    assert {(request.seed, request.image % 2) for request in found[:12]} == {
        (found[0].seed, 0),
        (found[1].seed, 1),
    }
    assert len({request.seed for request in found}) == 10


def test_varied_seeds_are_exact_for_every_row() -> None:
    found = requests(["a", "b"], {"images_per_prompt": 2}, vary=["seed=10,20"])
    assert [request.seed for request in found] == [10, 11, 20, 21] * 2


def test_what_is_varied_comes_before_what_a_row_sets() -> None:
    found = requests([{"prompt": "a", "width": 128, "seed": 5}], per_row=True, vary=["width=32,64"])
    assert [(request.width, request.seed) for request in found] == [(32, 5), (64, 5)]


def test_a_varied_name_fills_the_template_and_is_recorded() -> None:
    found = requests([{"animal": "cat"}], template="{animal} in {style}", vary=["style=oil, ink "])
    assert [(request.prompt, dict(request.columns)) for request in found] == [
        ("cat in oil", {"animal": "cat", "style": "oil"}),
        ("cat in ink", {"animal": "cat", "style": "ink"}),
    ]


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (["images_per_prompt=1,2"], "`images_per_prompt` is not something to vary"),
        (["seed=1,-1"], "a seed of -1 means none"),
        (["guidance_scale=3,much"], "`guidance_scale`"),
        (["width=64,2"], "`width`"),
        ([f"seed={SEED_LIMIT}"], "`seed`"),
        (["seed=1", "seed=2"], "`seed`"),
    ],
)
def test_a_wrong_vary_is_refused(vary: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(["a"], vary=vary)
    assert "vary" in caught.value.message
    assert message in caught.value.message


# parts and batches


def test_a_part_holds_a_thousand_images() -> None:
    found = requests(["p"] * 833, {"images_per_prompt": 3})
    assert PART_SIZE == 1_000
    assert Counter(request.part for request in found) == {1: 1_000, 2: 1_000, 3: 499}
    assert [request.part for request in found] == sorted(request.part for request in found)


KINDS = ["width", "height", "num_inference_steps", "guidance_scale", "scheduler"]


def kind(request: Request) -> tuple[Any, ...]:
    return tuple(getattr(request, name) for name in KINDS)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"prompt": st.just("p")},
            optional={
                "width": st.sampled_from([32, 64]),
                "height": st.sampled_from([32, 64]),
                "num_inference_steps": st.sampled_from([4, 8]),
                "guidance_scale": st.sampled_from([1, 3]),
                "scheduler": st.sampled_from(["euler", "ddim"]),
            },
        ),
        min_size=1,
        max_size=30,
    ),
    size=st.integers(1, 5),
)
def test_only_requests_that_share_a_pass_share_a_batch(rows: list[dict[str, Any]], size: int) -> None:
    found = requests(rows, {"images_per_prompt": 2}, per_row=True)
    # Smaller pictures, larger batches.
    sizes = {pixels: size + (pixels == (32, 32)) for pixels in itertools.product((32, 64), repeat=2)}
    sizes |= {request.size: size for request in found if request.size not in sizes}
    cut = list(batches(found, sizes))
    done = Counter(request.name for batch in cut for request in batch.requests)
    assert done == Counter(request.name for request in found)
    assert all(len({kind(request) for request in batch.requests}) == 1 for batch in cut)
    assert all(batch.size == sizes[batch.requests[0].size] for batch in cut)
    for each in {kind(request) for request in found}:
        lengths = [(len(batch.requests), batch.size) for batch in cut if kind(batch.requests[0]) == each]
        assert all(length == room for length, room in lengths[:-1])
        assert 1 <= lengths[-1][0] <= lengths[-1][1]


def test_guidance_shares_a_pass_where_the_model_can_tell_rows_apart() -> None:
    rows = [{"prompt": "p", "guidance_scale": scale} for scale in (1, 3, 7.5, 0)]
    found = requests(rows, per_row=True)
    sizes = {found[0].size: 4}
    assert len(list(batches(found, sizes))) == 4
    shared = [[request.guidance_scale for request in batch.requests] for batch in batches(found, sizes, True)]
    assert sorted(shared) == [[1.0, 0.0], [3.0, 7.5]]


def test_a_mixed_table_is_cut_like_a_sorted_one() -> None:
    rows = [{"prompt": "p", "width": width} for width in (32, 64, 128)] * 21
    found = requests(rows, per_row=True)
    sizes = {request.size: 4 for request in found}
    mixed = list(batches(found, sizes))
    ordered = list(batches(requests(sorted(rows, key=lambda row: row["width"]), per_row=True), sizes))
    assert len(mixed) == len(ordered) == 3 * 6
    lengths = [Counter(len(batch.requests) for batch in cut) for cut in (mixed, ordered)]
    assert lengths == [{4: 15, 1: 3}] * 2


def test_batches_are_handed_out_as_they_fill() -> None:
    endless = (request for _ in iter(int, 1) for request in requests(["a", "b", "c"]))
    first = next(endless)
    batch = next(batches(itertools.chain([first], endless), {first.size: 2}))
    assert [request.prompt for request in batch.requests] == ["a", "b"]


def test_what_a_model_does_not_take_no_request_has() -> None:
    table = read_table([{"prompt": "p", "negative_prompt": "n", "guidance_scale": 3}], PromptTable(per_row=True))
    sampling = Sampling(seed=1, width=8, height=8, num_inference_steps=1, guidance_scale=5, scheduler="x")
    options = PromptTable(vary=["guidance_scale=2,3"])
    plan = Plan(table.rows, options, sampling, unused=["negative_prompt", "guidance_scale"])
    assert [(r.negative_prompt, r.guidance_scale) for r in plan.requests()] == [("", 0.0)] * 2
    assert [r.negative_prompt for r in Plan(table.rows, options, sampling).requests()] == ["n"] * 2
