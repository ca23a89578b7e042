"""Any pipeline folder goes through one path: a tiny Stable Diffusion with random weights, saved in the real format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from imagemill.dataset import Dataset
from imagemill.dataset.verify import verify

from . import pipelines
from .conftest import Command

pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("diffusers", reason="the extra `local` is not installed")
pytest.importorskip("transformers", reason="the extra `local` is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.save("stable_diffusion", tmp_path_factory.mktemp("models") / "tiny")


def common(model: Path) -> tuple[object, ...]:
    return ("--model", model, "--seed", 1, "--num-inference-steps", 3, "--threads", 1, "--device", "cpu")


def test_a_pipeline_folder_makes_a_dataset_and_its_records_can_be_reproduced(
    imagemill: Command, model: Path, prompts: Path
) -> None:
    ran = imagemill("generate", prompts, "-o", "out", *common(model), "--limit", 3, "--images-per-prompt", 2)
    assert ran.code == 0, ran.err
    records = list(Dataset("out"))
    assert [(record["width"], record["height"], record["scheduler"]) for record in records] == [(32, 32, "ddim")] * 6
    assert len({record["sha256"] for record in records}) == 6
    parameters: dict[str, Any] = json.loads(records[0]["model_parameters"])
    assert (parameters["dtype"], parameters["threads"], parameters["device"]) == ("float32", 1, "cpu")
    assert verify(Dataset("out")) == []
    (result,) = imagemill("reproduce", "out", "prompt_1_image_1", "--json").json
    assert result["verdict"] == "bit-exact", result


def test_an_image_depends_on_its_request_and_not_on_its_neighbors_or_workers(
    imagemill: Command, model: Path, tmp_path: Path
) -> None:
    table = tmp_path / "prompts.csv"
    rows = [f"row-{number},picture number {number}" for number in range(6)]
    table.write_text("\n".join(["id,prompt", *rows]))
    turned = tmp_path / "turned.csv"
    turned.write_text("\n".join(["id,prompt", *reversed(rows)]))
    arguments = (*common(model), "--batch-size", 4)
    imagemill("generate", table, "-o", "whole", *arguments)
    imagemill("generate", turned, "-o", "turned", *arguments)
    imagemill("generate", table, "-o", "part", *arguments, "--limit", 1)
    imagemill("generate", table, "-o", "two", *arguments, "--workers", 2)
    whole, turned_, part, two = (
        {record["id"]: record["sha256"] for record in Dataset(name)} for name in ("whole", "turned", "part", "two")
    )
    assert len(whole) == 6
    assert whole == turned_ == two
    assert part == {"row-0": whole["row-0"]}


def test_rows_of_different_sizes_steps_and_schedulers_share_a_job(
    imagemill: Command, model: Path, tmp_path: Path
) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text(
        "prompt,width,num_inference_steps,scheduler,negative_prompt\n"
        "a,32,2,euler,\nb,48,3,dpmpp_2m,blue\nc,32,2,unipc,\nd,32,2,euler_ancestral,\n"
    )
    ran = imagemill("generate", table, "-o", "out", *common(model), "--per-row")
    assert ran.code == 0, ran.err
    assert [(record["width"], record["scheduler"]) for record in Dataset("out")] == [
        (32, "euler"),
        (48, "dpmpp_2m"),
        (32, "unipc"),
        (32, "euler_ancestral"),
    ]
    for record in list(Dataset("out"))[1::2]:
        assert "bit-exact" in imagemill("reproduce", "out", record["file_name"]).out


def test_what_the_model_cannot_do_is_said_before_it_is_loaded(imagemill: Command, model: Path, prompts: Path) -> None:
    ran = imagemill("generate", prompts, "-o", "out", *common(model), "--width", 33)
    assert ran.code == 2
    assert "`width`: 33 is not a multiple of 8" in ran.err
    assert "the nearest are 32 and 40" in ran.err
    ran = imagemill("generate", prompts, "-o", "out", *common(model), "--scheduler", "eular")
    assert ran.err.endswith("hint: did you mean `euler`?\n")
    assert not Path("out").exists()


def test_other_weights_are_another_model(imagemill: Command, model: Path, prompts: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    imagemill("generate", prompts, "-o", "out", *common(copy), "--limit", 1)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    ran = imagemill("generate", prompts, "-o", "out", *common(copy), "--limit", 2)
    assert ran.code == 2
    assert "`model_revision` was" in ran.err
    assert "cannot: the model is now" in imagemill("reproduce", "out", "prompt_0_image_0").out


def test_a_damaged_or_missing_model_is_explained(
    imagemill: Command, model: Path, prompts: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    ran = imagemill("generate", prompts, "-o", "out", "--model", tmp_path / "empty")
    assert ran.code == 2
    assert "holds no diffusers pipeline" in ran.err
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    ran = imagemill("generate", prompts, "-o", "out", *common(copy))
    assert ran.code == 1
    assert "cannot be loaded" in ran.err
    assert "Traceback" not in ran.err
