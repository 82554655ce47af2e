"""Starts a program and ends it, so that Ctrl-C never shows a traceback. Imports nothing that takes time."""

from __future__ import annotations

import os
import sys

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as a shell reports it."""


def start(module: str) -> None:
    """Import a program's module and call its ``main``, which handles Ctrl-C from then on; then end the process.

    While modules are imported, and while the interpreter ends, Ctrl-C would raise an exception somewhere in library
    code, which prints or loses it. There is nothing to save at those times, so the process ends at once.
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
            if handled:  # a Ctrl-C that comes now does not change the exit code
                late = code if isinstance(code, int) else 0 if code is None else 1
                signal.signal(signal.SIGINT, lambda *_: os._exit(late))
    except KeyboardInterrupt:
        _leave()


def _leave(*_: object) -> None:
    os._exit(EXIT_INTERRUPTED)
