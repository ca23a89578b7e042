"""Dry runs one after the other in one process, which has to start and to import only once."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from functools import cache
from keyword import iskeyword
from typing import Any

from imagemill.commands import COMMANDS
from imagemill.errors import ImagemillError

_MOST_DATA = 8 << 30
"""Bytes that it may hold while it works."""
_MOST_KEPT = 1 << 20
"""Kilobytes from which on it makes place for a fresh process."""
_OWN = ("width", "height", "num_inference_steps", "guidance_scale", "scheduler", "strength", "schedulers", "note")


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """The dry run of a command, with what is known of the model it uses and of this machine."""
    operator, model = asked.get("operator", ""), asked.get("model", "")
    return {"devices": _devices(), "own": _own(operator, model) if model else {}, **_dry_run(asked["arguments"])}


def _dry_run(arguments: list[str]) -> dict[str, Any]:
    if not arguments:
        return {}
    printed, said = io.StringIO(), io.StringIO()
    name = arguments[0]
    module = importlib.import_module(f"imagemill.commands.{COMMANDS[name][0]}")
    command = getattr(module, f"{name}_" if iskeyword(name) else name)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            command([*arguments[1:], "--dry-run", "--json"])
    except ImagemillError as error:
        return {"error": error.message, "hint": error.hint, "said": said.getvalue().splitlines()}
    except Exception as error:  # noqa: BLE001 - the next question may be a better one
        return {"error": f"{type(error).__name__}: {error}", "hint": "", "said": said.getvalue().splitlines()}
    return {"data": json.loads(printed.getvalue() or "null"), "said": said.getvalue().splitlines()}


@cache
def _devices() -> list[str]:
    """Where models can run here, the best first."""
    from imagemill.environment import cuda_devices

    return [*(f"cuda:{number}" for number in range(len(cuda_devices()))), "cpu"]


@cache
def _own(operator: str, name: str) -> dict[str, Any]:
    """What a model takes when nothing is said."""
    from imagemill.component import find_component
    from imagemill.models.base import find_model

    try:
        info = find_model(getattr(find_component("operators", operator), "family", {}).get(name, name), {}).info()
    except ImagemillError:
        return {}
    pointless = {
        name
        for name, taken in (
            ("num_inference_steps", info.takes_steps),
            ("guidance_scale", info.takes_guidance),
            ("scheduler", info.takes_scheduler),
        )
        if not taken
    }
    return {key: value for key, value in asdict(info).items() if key in _OWN and key not in pointless}


def main() -> None:
    """Answer questions, a line of JSON each, until there are no more."""
    # An interrupt is for the server, and ends this by ending its questions.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_DATA, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Nothing that a library prints is taken for an answer.
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _MOST_KEPT:
            return


if __name__ == "__main__":
    main()
