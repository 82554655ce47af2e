"""What cannot be kept on this machine, told to whoever starts a program."""

from __future__ import annotations

import os
from pathlib import Path

from aded_local import files
from aded_local.files import CACHE_VARIABLE, DATA_VARIABLE, KERNELS_VARIABLE


def complaint(*, kernels: Path | None, memory: bool) -> str | None:
    """One line for whoever starts a program where something cannot be kept; None where all can.

    Args:
        kernels: where compiled kernels are kept; None for nowhere.
        memory: what is said is to be kept.
    """
    place = files.cache()
    found = "" if place.problem is None else f" ({place.problem})"
    late = "so drafting begins some 15 s late each time"
    numba = os.environ.get(KERNELS_VARIABLE)
    meant, variable = (Path(numba), KERNELS_VARIABLE) if numba else (place.path, CACHE_VARIABLE)
    parts = []
    if found and place.path == files.temporary_path():
        parts.append(f"measurements and compiled kernels lie in {place.path}{found}")
    elif found:
        parts.append(
            f"what is measured cannot be kept{found}{'' if kernels else f', nor what is compiled, {late}'}"
        )
    elif kernels is None:
        why = "the disk is full, or others can write to it"
        parts.append(f"compiled kernels cannot be kept in {meant} ({why}), {late}")
    elif kernels.parent == files.temporary_path():
        parts.append(
            f"compiled kernels lie in {kernels.parent}, since {meant} cannot be written, or others can write to it"
        )
    variables = [CACHE_VARIABLE if found else variable] if parts else []
    reason = files.data_problem() if memory else None
    if reason is not None:
        parts.append(f"what is said is not kept ({reason})")
        variables.append(DATA_VARIABLE)
    if not parts:
        return None
    which = "another folder" if len(variables) == 1 else "other folders"
    return f"{'; '.join(parts)}; name {which} with {' and '.join(variables)}"
