"""The command line: finds the command, and turns what ends it into words and an exit code."""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from keyword import iskeyword
from typing import NoReturn, cast

from imagemill.commands import COMMANDS
from imagemill.errors import ImagemillError, UsageError, did_you_mean
from imagemill.terminal import progress_file

Command = Callable[[Sequence[str]], int]
_ONE = 1.0
"""Seconds within which signals are one."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def command(name: str) -> Command:
    """The function of a command, imported when it is asked for."""
    module = importlib.import_module(f"imagemill.commands.{COMMANDS[name][0]}")
    return cast("Command", getattr(module, f"{name}_" if iskeyword(name) else name))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: imagemill COMMAND …",
            "",
            "A table of prompts becomes an image dataset that anyone can load, trust and make again.",
            "",
            *lines,
            "",
            "`imagemill COMMAND --help` tells more. Start with `imagemill demo`.",
        ]
    )


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors a user can cause are printed without a traceback."""
    try:
        if not arguments or arguments[0] in {"-h", "--help", "help"}:
            print(_overview())
            return 0 if arguments else 2
        if arguments[0] == "--version":
            from imagemill.environment import package_version

            print(f"imagemill {package_version('imagemill')}")
            return 0
        for argument in arguments:
            if not argument.isascii() and argument != argument.encode(errors="replace").decode():
                raise UsageError(f"the argument {argument!a} is not UTF-8 text", "write it in UTF-8")
        if arguments[0] not in COMMANDS:
            raise UsageError(
                f"there is no command `{arguments[0]}`",
                did_you_mean(arguments[0], COMMANDS) or f"commands: {', '.join(COMMANDS)}",
            )
        return command(arguments[0])(arguments[1:])
    except ImagemillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # Writing has errors of its own; this is a file that cannot be read.
        named = f"`{error.filename}`" if error.filename else "a file"
        print(f"error: {named} cannot be read: {error.strerror}\n\nhint: check its permissions", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        told = ""
        if arguments[0] in {
            "demo",
            "generate",
            "augment",
            "edit",
            "caption",
            "score",
            "select",
            "split",
            "merge",
            "remove",
            "apply",
            "export",
            "import",
            "download",
            "run",
            "retry",
        }:
            told = f"; nothing is lost. Continue: {shlex.join(['imagemill', *arguments])}"
        print(f"\ninterrupted{told}", file=sys.stderr)
        return 130


def _interrupt(*_: object) -> NoReturn:
    """Stop in good order at the first signal; the next one has its usual, immediate effect."""
    first = time.monotonic()

    def again(signum: int, _: object) -> None:
        # `timeout` sends its signal to a process and to its group.
        if time.monotonic() - first > _ONE:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    for signum in _SIGNALS:
        if signal.getsignal(signum) is _interrupt:
            signal.signal(signum, again)
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command line and exit."""
    for signum in _SIGNALS:
        # `nohup` and `&` in a script mean what they say.
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _interrupt)
    progress_file.open()
    code = 1
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
        raise
    finally:
        progress_file.close(code)
    sys.exit(code)
