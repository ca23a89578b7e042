"""Where pipelines and LoRAs come from: safe formats only, pinned revisions, the hub over a real connection."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from imagemill.dataset import Dataset
from imagemill.errors import UsageError
from imagemill.hub import Hub, is_pickle, license_of
from imagemill.models.diffusers.folders import Lora

from . import pipelines
from .conftest import Command, Completed

pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("diffusers", reason="the extra `local` is not installed")
pytest.importorskip("transformers", reason="the extra `local` is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.save("stable_diffusion", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def model(source: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(source, tmp_path / "model")
    return tmp_path / "model"


def run(model: object, *more: object) -> tuple[object, ...]:
    size = ("--num-inference-steps", 2, "--seed", 1, "--threads", 1, "--device", "cpu", "--batch-size", 2)
    return ("generate", "prompts.csv", "-o", "out", "--model", model, *size, "--limit", 2, *more)


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def disguises(canary: Path) -> dict[str, bytes]:
    """A pickle as various files would hold it."""
    import torch

    archive, old, zipped = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"weight": Canary(canary)}, archive)
    torch.save({"weight": Canary(canary)}, old, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("data.pkl", pickle.dumps(Canary(canary)))
    plain = {f"protocol {number}": pickle.dumps(Canary(canary), number) for number in range(6)}
    return {"torch": archive.getvalue(), "old torch": old.getvalue(), "zip": zipped.getvalue(), **plain}


NAMES = ["torch", "old torch", "zip", *(f"protocol {number}" for number in range(6))]


@pytest.mark.parametrize("disguise", NAMES)
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"])
def test_a_pickle_is_refused_whatever_it_is_called(
    imagemill: Command, model: Path, prompts: Path, tmp_path: Path, disguise: str, name: str
) -> None:
    canary = tmp_path / "canary"
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (model / "unet" / name).write_bytes(disguises(canary)[disguise])
    ran = imagemill(*run(model))
    assert ran.code == 2
    assert "is a pickle" in ran.err
    assert "safetensors" in ran.err.partition("hint:")[2]
    assert not canary.exists()
    with pytest.raises(UsageError, match="is a pickle"):
        Lora.parse(f"{model / 'unet' / name}:0.5").file(Hub(None, True))


def test_a_pickle_beside_sound_weights_is_not_read(
    imagemill: Command, model: Path, prompts: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(disguises(canary)["torch"])
    assert imagemill(*run(model)).code == 0
    assert not canary.exists()


def test_no_safetensors_file_is_taken_for_a_pickle(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    for length in range(1, 200):
        save_file({"x" * length: torch.zeros(1)}, tmp_path / "w.safetensors")
        assert not is_pickle(tmp_path / "w.safetensors")


def test_code_of_the_model_is_refused_and_allowed_only_by_revision(
    imagemill: Command, model: Path, prompts: Path
) -> None:
    index = json.loads((model / "model_index.json").read_text())
    index["unet"] = ["my_unet", "UNet2DConditionModel"]
    (model / "model_index.json").write_text(json.dumps(index))
    (model / "unet" / "my_unet.py").write_text("raise SystemExit('executed')\n")
    ran = imagemill(*run(model))
    assert ran.code == 2
    assert "code of its own: my_unet" in ran.err
    ran = imagemill(*run(model, "--trust-remote-code"))
    assert ran.code == 2
    assert "needs the exact revision" in ran.err
    revision = ran.err.partition("--revision ")[2][:16]
    code = "from pathlib import Path\nfrom diffusers import UNet2DConditionModel\nPath('executed').touch()\n"
    (model / "unet" / "my_unet.py").write_text(code)
    assert f"is now `--revision {revision}`" not in imagemill(*run(model, "--trust-remote-code")).err, "code counts"
    revision = imagemill(*run(model, "--trust-remote-code")).err.partition("--revision ")[2][:16]
    # In a process of its own, for diffusers is imported here without code.
    command = [sys.executable, "-m", "imagemill", *map(str, run(model, "--trust-remote-code", "--revision", revision))]
    assert subprocess.run(command, check=False).returncode == 0
    assert Path("executed").exists()
    late = "from imagemill.hub import *; import_package('diffusers'); allow_code()"
    ran_late = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True, check=False)
    assert "has imported diffusers without remote code" in ran_late.stderr
    assert f"is now `{revision}`" in imagemill(*run(model, "--revision", "0" * 16)).err


def test_a_pipeline_class_of_its_own_is_refused(imagemill: Command, model: Path, prompts: Path) -> None:
    index = json.loads((model / "model_index.json").read_text())
    index["_class_name"] = ["pipeline", "MyPipeline"]
    (model / "model_index.json").write_text(json.dumps(index))
    ran = imagemill(*run(model))
    assert (ran.code, "wants a pipeline class of its own" in ran.err) == (2, True)


def test_an_index_cannot_bring_in_another_format(imagemill: Command, model: Path, prompts: Path) -> None:
    weights = {"weight_map": {"conv_in.weight": "other.bin"}}
    (model / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(weights))
    ran = imagemill(*run(model))
    assert (ran.code, "names `other.bin`" in ran.err) == (2, True)


def test_a_folder_that_changes_in_the_meantime_is_loaded_again(imagemill: Command, model: Path, prompts: Path) -> None:
    from safetensors.torch import load_file, save_file

    assert imagemill(*run(model)).code == 0
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: -weight for name, weight in load_file(path).items()}, path)
    assert imagemill(*run(model, "-o", "other")).code == 0
    one, other = (next(iter(Dataset(name))) for name in ("out", "other"))
    assert one["model_revision"] != other["model_revision"]
    assert one["sha256"] != other["sha256"]


@pytest.mark.parametrize(("attention", "said"), [("native", "has no choice of attention"), ("x_hub", "from the hub")])
def test_an_attention_that_would_be_ignored_or_run_code_is_refused(
    imagemill: Command, model: Path, prompts: Path, attention: str, said: str
) -> None:
    ran = imagemill(*run(model, "--attention", attention))
    assert (ran.code, said in ran.err) == (2, True)


def test_negative_prompts_without_guidance_are_told_and_not_recorded(
    imagemill: Command, model: Path, prompts: Path
) -> None:
    ran = imagemill(*run(model, "--negative-prompt", "blurry", "--vary", "guidance_scale=1,4"))
    assert "no negative prompt has an effect at a guidance scale of 1 or less" in ran.err
    told = {(record["guidance_scale"], record["negative_prompt"]) for record in Dataset("out")}
    assert told == {(1.0, ""), (4.0, "blurry")}


def lora(path: Path, seed: int = 0) -> Path:
    """Random LoRA weights for the attention of a tiny UNet, in the format of diffusers."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.lora"
    weights = {
        f"{name}_A.weight": torch.randn(2, 16, generator=generator),
        f"{name}_B.weight": torch.randn(16, 2, generator=generator),
    }
    save_file(weights, path)
    return path


def test_loras_change_the_picture_and_are_pinned(
    imagemill: Command, model: Path, prompts: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="the extra `local` is not installed")
    one, two = lora(tmp_path / "one.safetensors"), lora(tmp_path / "two.safetensors", 1)

    def pixels(folder: str) -> bytes:
        dataset = Dataset(folder)
        return b"".join(dataset.image(record["file_name"]).tobytes() for record in dataset)

    found = []
    for number, loras in enumerate([(), (f"{one}:0",), (f"{one}",), (f"{one}:0.5",), (f"{one}", f"{two}:0.3")]):
        flags = [part for text in loras for part in ("--lora", text)]
        ran = imagemill(*run(model, "-o", f"out-{number}", *flags))
        assert ran.code == 0, ran.err
        found.append(pixels(f"out-{number}"))
    assert found[0] == found[1]
    assert len(set(found[1:])) == 4
    digest = hashlib.sha256(one.read_bytes()).hexdigest()[:16]
    assert Dataset("out-3").job["steps"][0]["model_parameters"]["lora"] == [f"{one}@{digest}:0.5"]
    assert "bit-exact" in imagemill("reproduce", "out-4", "prompt_0_image_0").out
    lora(one, 2)
    ran = imagemill(*run(model, "-o", "out-3", "--lora", f"{one}:0.5"))
    assert ran.code == 2
    assert "`lora` was" in ran.err
    again = imagemill("reproduce", "out-3", "prompt_0_image_0")
    assert again.code == 3
    assert "is now" in again.out


def test_a_lora_of_another_family_is_refused(imagemill: Command, model: Path, prompts: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    name = "transformer.blocks.0.attn.to_q.lora"
    save_file({f"{name}_{half}.weight": torch.ones(2, 2) for half in "AB"}, tmp_path / "other.safetensors")
    ran = imagemill(*run(model, "--lora", tmp_path / "other.safetensors"))
    assert (ran.code, "has no weights for this pipeline" in ran.err) == (2, True)


@pytest.mark.parametrize("name", ["absent.safetensors", "./absent.safetensors", "/absent/x.safetensors:0.5"])
def test_a_lora_that_is_not_there_is_named(imagemill: Command, model: Path, prompts: Path, name: str) -> None:
    ran = imagemill(*run(model, "--lora", name))
    assert (ran.code, "`lora`: there is no file" in ran.err) == (2, True)


def test_a_parameter_that_cannot_have_an_effect_is_refused(imagemill: Command, model: Path, prompts: Path) -> None:
    ran = imagemill(*run(model, "--offload", "model", "--dry-run"))
    assert (ran.code, "`device` is `cpu`" in ran.err) == (2, True)
    ran = imagemill(*run("./absent"))
    assert (ran.code, "there is no folder `./absent`" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("style.safetensors", Lora("style.safetensors", "", 1.0)),
        ("user/style:0.5", Lora("user/style", "", 0.5)),
        ("user/style@main:-1", Lora("user/style", "main", -1.0)),
        ("C:\\style.safetensors", Lora("C:\\style.safetensors", "", 1.0)),
    ],
)
def test_how_a_lora_is_written(text: str, expected: Lora) -> None:
    assert Lora.parse(text) == expected
    assert Lora.parse(str(expected)) == expected


# the hub


class _Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that fetching a repository needs."""

    protocol_version = "HTTP/1.1"
    folders: dict[str, Path]
    main: str
    asked: list[str]
    tokens: set[str] = set()

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        self.asked.append(f"{self.command} {self.path}")
        self.tokens.add(self.headers.get("Authorization", "none"))
        path = self.path.partition("?")[0]
        words = path.strip("/").split("/")
        if words[:1] == ["api"]:
            revision = words[5] if len(words) > 5 else "main"
            commit = self.main if revision == "main" else revision
            if commit not in self.folders or words[2:4] != ["someone", "tiny"]:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound", "Content-Type": "application/json"}, body)
                return
            folder = self.folders[commit]
            files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
            if words[4] == "tree":
                entries = [
                    {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": "0" * 40}
                    for name in files
                ]
                data = json.dumps(entries).encode()
            else:
                told = {"id": "someone/tiny", "sha": commit, "siblings": [{"rfilename": name} for name in files]}
                data = json.dumps(told).encode()
            self._send(200, data, {"Content-Type": "application/json"}, body)
            return
        commit = self.main if words[3] == "main" else words[3]
        file = self.folders[commit].joinpath(*words[4:])
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, body)
            return
        data = file.read_bytes()
        tag = hashlib.sha256(data).hexdigest()
        self._send(200, data, {"ETag": f'"{tag}"', "X-Repo-Commit": commit}, body)

    def _send(self, code: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


_COMMANDS = """
import contextlib, io, json, sys, traceback
from imagemill.cli import run

for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run(json.loads(line))
        except Exception:
            code = 1
            traceback.print_exc()
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
"""Runs one command after the other in a process that has imported everything once."""


@dataclass(frozen=True)
class Served:
    """A hub on loopback, and a process whose commands use it: the hub's address is read at import."""

    handler: type[_Hub]
    process: subprocess.Popen[str]

    def generate(self, *arguments: object) -> Completed:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps([str(argument) for argument in arguments]), file=self.process.stdin, flush=True)
        return Completed(*json.loads(self.process.stdout.readline()))


@pytest.fixture
def hub(source: Path, tmp_path: Path) -> Iterator[Served]:
    """A hub with one repository of two commits."""
    old = tmp_path / "old-model"
    shutil.copytree(source, old)
    (old / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    handler = type("Handler", (_Hub,), {"folders": {"a" * 40: source, "b" * 40: old}, "asked": [], "main": "a" * 40})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_secret",
    }
    command = [sys.executable, "-c", _COMMANDS]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Served(handler, process)
    server.shutdown()
    server.server_close()


def test_a_hub_id_is_resolved_to_its_commit_and_stays_there(hub: Served, prompts: Path, tmp_path: Path) -> None:
    ran = hub.generate(*run("someone/tiny", "--dry-run"))
    assert ran.code == 0, ran.err
    assert not any("safetensors" in path for path in hub.handler.asked), "a dry run fetches no weights"
    ran = hub.generate(*run("someone/tiny"))
    assert ran.code == 0, ran.err
    record = next(iter(Dataset("out")))
    assert (record["model"], record["model_revision"]) == ("someone/tiny", "a" * 40)
    assert "Bearer hf_secret" in hub.handler.tokens
    hub.handler.main = "b" * 40
    ran = hub.generate(*run("someone/tiny", "--limit", 3))
    assert ran.code == 0, ran.err
    assert {record["model_revision"] for record in Dataset("out")} == {"a" * 40}
    ran = hub.generate(*run("someone/tiny", "-o", "new", "--hf-cache-dir", tmp_path / "cache"))
    assert ran.code == 0, ran.err
    assert {record["model_revision"] for record in Dataset("new")} == {"b" * 40}
    assert Dataset("new").job["steps"][0]["license"] == "cc0-1.0"
    assert "cache" not in Path("new/job.toml").read_text()
    hub.handler.asked.clear()
    ran = hub.generate(*run("someone/tiny", "--offline", "--limit", 4))
    assert ran.code == 0, ran.err
    assert not any("someone" in path for path in hub.handler.asked)


def test_a_lora_comes_from_the_hub_and_stays_the_same(hub: Served, model: Path, prompts: Path) -> None:
    for folder in hub.handler.folders.values():
        lora(folder / "style.safetensors", seed=len(str(folder)))
    ran = hub.generate(*run(model, "--lora", "someone/tiny/style.safetensors:0.5"))
    assert ran.code == 0, ran.err
    pinned = [f"someone/tiny/style.safetensors@{'a' * 40}:0.5"]
    assert Dataset("out").job["steps"][0]["model_parameters"]["lora"] == pinned
    hub.handler.main = "b" * 40
    ran = hub.generate(*run(model, "--lora", "someone/tiny/style.safetensors:0.5", "--limit", 3))
    assert ran.code == 0, ran.err
    assert Dataset("out").job["steps"][0]["model_parameters"]["lora"] == pinned
    ran = hub.generate(*run(model, "-o", "new", "--lora", "someone/tiny/absent.safetensors"))
    assert (ran.code, "Traceback" in ran.err) == (2, False)


def test_a_model_that_is_nowhere_is_explained(hub: Served, prompts: Path) -> None:
    for model, more in (("someone/nothing", ()), ("someone/tiny", ("--offline",))):
        ran = hub.generate(*run(model, *more))
        assert ran.code == 2
        assert f"`{model}` is neither here nor " in ran.err
        assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        (
            "---\nlicense: other\nlicense_name: flux-1-dev-non-commercial-license\n---\n",
            "flux-1-dev-non-commercial-license",
        ),
        ("---\nlicense: other\n---\n", "other"),
        ("Without front matter.\n", "unknown"),
    ],
)
def test_a_license_without_an_id_goes_by_its_name(tmp_path: Path, card: str, expected: str) -> None:
    (tmp_path / "README.md").write_text(card)
    assert license_of(tmp_path) == expected
