"""aded-doctor: tries llama.cpp on this processor, and prints what a bug report needs."""

from __future__ import annotations

import json
import sys

import click

from . import display
from .program import CONTEXT, EXIT_ERROR, OneLine

PROGRAM = "aded-doctor"

EXIT_UNTRIED = 1
"""The check came to no verdict."""


class _Command(OneLine):
    program = PROGRAM


@click.command(cls=_Command, context_settings=CONTEXT)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(as_json: bool) -> int:
    """Try whether llama.cpp, as it was built, works on this processor, and print what a bug report needs.

    Tiny models are made and decoded in a child process, since a broken build ends its process. What is found
    is kept: aded-chat and all others go by it until llama.cpp is built anew.

    The exit code is 0 where llama.cpp works, 2 where it does not, and 1 where it could not be tried.
    """
    from aded_local.trials import preflight

    from .diagnosis import facts, rows

    with display.loading("trying llama.cpp on this processor…", quiet=False):
        examination = preflight.examine(preflight.verdict_path())
        found = facts(examination)
    if as_json:
        display.say(json.dumps(found, indent=2))
    else:
        display.say_rows(rows(found))
    sys.stdout.flush()
    verdict = examination.verdict
    if verdict is None:
        display.error(f"llama.cpp could not be tried: {examination.reason}", program=PROGRAM)
        return EXIT_UNTRIED
    if not verdict.sound:
        display.error(preflight.complaint(verdict), program=PROGRAM)
        return EXIT_ERROR
    return 0


if __name__ == "__main__":
    main()
