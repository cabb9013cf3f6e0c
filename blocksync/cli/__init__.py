"""The command: it parses, calls one function of the API, and prints.

Only what parsing needs is imported at the top of these modules; the rest comes when a command runs, so that
``--help``, ``--version`` and a mistyped option answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        the exit code, as section "Exit codes" of ``--help`` lists them.
    """
    from blocksync.cli.program import program
    from blocksync.cli.session import run

    return run(program, list(sys.argv[1:] if arguments is None else arguments))


def command() -> NoReturn:
    """The process of the command: :func:`main`, and an end that no further signal turns into something else."""
    from blocksync.cli.signals import INTERRUPTED_EXIT_CODE, ending

    try:
        code = main()
    except KeyboardInterrupt:  # behind its last line
        code = INTERRUPTED_EXIT_CODE
    ending(code)
    sys.exit(code)
