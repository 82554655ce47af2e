"""Compiling kernels with Numba, once per installation and machine; ``kept`` says where they are kept.

What Python calls is an ``entry``; what an entry calls in turn is a ``kernel``, compiled into it. Nobody should wait for
a compiler, and Numba takes longer the more code it writes, at each level of calls once more. Hence:

- All a drafter remembers beside its tables is one record (``state.Predictor``), and a kernel is handed its address. As
  an argument an array is seven values, counted references and checks; as a field of a record, none of that.
- Scalars are fields too, and scratch is part of the record. To read a field takes three lines of LLVM's language, an
  element of an array 63, and an array made within a kernel a function of its own.
- Entries are few: each is all the code below it, optimised once more. What generation seldom needs is an entry of its
  own, compiled when it is called, or plain Python.

So the kernels of an ordinary start take 11 seconds to compile instead of 43 (one core at 2.1 GHz), and half the time to
run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core import config

from aded_local.errors import DeviceError
from aded_local.kernels import kept

if config.DISABLE_JIT:
    raise DeviceError(
        "NUMBA_DISABLE_JIT is set, and drafts are not to be had from interpreted kernels; unset it"
    )

Function = TypeVar("Function", bound=Callable[..., object])

failures: list[OSError] = []
"""Why kernels could not be kept, since this process began."""


class Kernel:
    """A function for other kernels to call: it is compiled into each of them, and never kept by itself.

    It is compiled once, whatever integers it is called with: Numba would do so anew for each constant and each width.
    And it has none of the wrappers that Python calls a function through, which take as long to compile as itself;
    called from Python nevertheless, by a test, it is compiled once more, with them.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self.py_func = function
        self._compiled = numba.njit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)
        self._for_python: Callable[..., object] | None = None
        find = self._compiled.get_call_template

        def find_widened(arguments: tuple[Any, ...], keywords: Any) -> Any:
            return find(tuple(widened(argument) for argument in arguments), keywords)

        self._compiled.get_call_template = find_widened

    @property
    def _numba_type_(self) -> Any:
        """What Numba takes the name of this kernel for, within another one."""
        return self._compiled._numba_type_

    def __call__(self, *arguments: object) -> object:
        if self._for_python is None:
            self._for_python = entry(self.py_func)
        return self._for_python(*arguments)


def widened(argument: Any) -> Any:
    """The type that a kernel is compiled for where it is handed ``argument``: no constant, and 64 bits if signed."""
    kind = numba.types.unliteral(argument)
    return numba.types.int64 if isinstance(kind, numba.types.Integer) and kind.signed else kind


def kernel(function: Function) -> Function:
    """Compile ``function`` into the kernels that call it."""
    return cast(Function, Kernel(function))


def entry(function: Function) -> Function:
    """Compile ``function`` for Python to call, without the GIL, lazily, through the cache where there is one."""
    before = config.CACHE_DIR
    config.CACHE_DIR = str(kept.FOLDER or before)  # read once, when the dispatcher is made
    try:
        compiled = numba.njit(function, nogil=True, no_cfunc_wrapper=True, cache=kept.FOLDER is not None)
    except RuntimeError:  # Numba found no cache locator after all
        compiled = numba.njit(function, nogil=True, no_cfunc_wrapper=True)
    finally:
        config.CACHE_DIR = before
    if kept.FOLDER is not None:
        forgive(getattr(compiled, "_cache", None))
    return cast(Function, compiled)


def forgive(cache: Any) -> None:
    """Make a kernel's cache one that fails softly: what cannot be read is compiled anew, what cannot be kept is not.

    Numba lets a full disk, or an index that a power cut left empty, end the program.
    """
    if cache is None:
        return
    load, save = cache.load_overload, cache.save_overload

    def load_or_compile(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception:  # whatever unpickling damaged bytes may raise
            with contextlib.suppress(Exception):
                cache.flush()
            return None

    def save_or_leave(*arguments: Any) -> None:
        try:
            save(*arguments)
        except OSError as error:
            failures.append(error)

    cache.load_overload, cache.save_overload = load_or_compile, save_or_leave
