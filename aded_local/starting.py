"""How a program begins and ends: whenever Ctrl-C comes, no traceback is shown. Imports nothing that takes time."""

from __future__ import annotations

import os
import sys

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as a shell reports it."""


def start(module: str) -> None:
    """Import a program's module and call its ``main``, which handles Ctrl-C from there on and ends the process.

    While modules are imported, and while the interpreter ends, an interrupt would be raised at any place in code of
    others, which prints it or loses it. There is nothing to save in either: the process ends at once.
    """
    try:
        import signal
        from importlib import import_module

        handled = (
            signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )  # else it is ignored: nohup, `&`
        if handled:
            signal.signal(signal.SIGINT, _leave)
        main = import_module(module).main
        if handled:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code: object = EXIT_INTERRUPTED
        try:
            sys.exit(main())
        except SystemExit as leaving:
            code = leaving.code
            raise
        finally:
            if handled:  # what is done is done: a late interrupt does not change what the program says of it
                late = code if isinstance(code, int) else 0 if code is None else 1
                signal.signal(signal.SIGINT, lambda *_: os._exit(late))
    except KeyboardInterrupt:
        _leave()


def _leave(*_: object) -> None:
    os._exit(EXIT_INTERRUPTED)
