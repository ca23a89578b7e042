"""A package that adds a model without touching this one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_an_installed_package_adds_a_model(tmp_path: Path) -> None:
    if not importlib.util.find_spec("hatchling"):
        pytest.skip("hatchling is not installed, and the plugin cannot be built without it")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, Path(__file__).parent / "plugin"], check=True, capture_output=True)

    def imagemill(*arguments: object) -> str:
        return subprocess.run(
            [sys.executable, "-m", "imagemill", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(site)},
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    assert "checker" in imagemill("models").split()
    assert "--squares" in imagemill("models", "checker")
    (tmp_path / "prompts.txt").write_text("any\nthing\n")
    made = imagemill("generate", "prompts.txt", "-o", "out", "--model", "checker", "--squares", 8, "--json")
    assert json.loads(made)["done"] == 2
    assert "bit-exact" in imagemill("reproduce", "out", "prompt_1_image_0")
    assert "every file, record, count and seal is right" in imagemill("verify", "out", "--no-reader")
