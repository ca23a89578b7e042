"""The command that runs job files."""

from __future__ import annotations

from collections.abc import Sequence

from imagemill.commands.shared import add_workers, command_parser
from imagemill.flags import parse
from imagemill.terminal import Meter, Terminal, number


def run(arguments: Sequence[str]) -> int:
    """Run the steps of a job."""
    from imagemill.job import read_job

    parser = command_parser(
        "run",
        epilog="imagemill run curate.toml\n"
        "imagemill run curate.toml --input prompts.csv -o curated\n"
        "imagemill run curate.toml --dry-run\n"
        "The same command again goes on at the step and the image where it stopped.",
    )
    parser.add_argument("job", metavar="JOB.toml", help="an input, steps and an output")
    parser.add_argument("--input", default="", metavar="IN", help="in the place of the job's own input")
    parser.add_argument("-o", "--output", default="", metavar="FOLDER", help="in the place of the job's own output")
    parser.add_argument("--dry-run", action="store_true", help="check all steps and run none")
    parser.add_argument("--json", action="store_true", help="print the steps as JSON on stdout")
    add_workers(parser)
    parsed = parse(parser, arguments)
    terminal = Terminal(parsed.quiet, parsed.json)
    given = {name: value for name in ("input", "output") if (value := getattr(parsed, name))}
    steps = read_job(parsed.job, given, parsed.workers, parsed.devices)
    done = []
    failed = 0
    for place, step in enumerate(steps, start=1):
        title = f"step {place} of {len(steps)}: {step.name} · {step.place}"
        terminal.say(title)
        if parsed.dry_run:
            continue
        with Meter(terminal, 1) as meter:
            outcome = step.run(meter)
        failed += outcome.failed
        terminal.say(f"  {outcome.said}" + (f" · {number(outcome.failed, 'image')} failed" if outcome.failed else ""))
        done.append({"operator": step.name, "folder": str(step.place), "said": outcome.said, "failed": outcome.failed})
    terminal.data({"job": parsed.job, "steps": done}, str(steps[-1].place))
    return 3 if failed else 0
