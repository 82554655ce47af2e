"""Stand-ins for libllama that break in a chosen way, and are llama.cpp in all else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aded_local.trials import library

SOURCES = {
    "dies": "int llama_decode(void) { __builtin_trap(); }",
    "hangs": "#include <unistd.h>\nint llama_decode(void) { for (;;) pause(); }",
    "miscomputes": (
        "#include <math.h>\nstatic float row[1 << 20];\n"
        "float *llama_get_logits_ith(void) { for (int i = 0; i < 1 << 20; i++) row[i] = NAN; return row; }"
    ),
}

DEATHS = ("SIGILL", "SIGTRAP")
"""What a trap instruction is on x86 and on ARM."""


def make(folder: Path, how: str) -> Path:
    """Fill a folder for LLAMA_CPP_LIB_PATH; skips the test where that cannot be done."""
    compiler, real = shutil.which("cc"), library.folder()
    soname = "libllama.so.0"
    if not sys.platform.startswith("linux") or compiler is None or real is None:
        pytest.skip("needs Linux and a C compiler")
    folder.mkdir()
    for path in real.iterdir():
        if path.name != "libllama.so":
            (folder / path.name).symlink_to(path)
    if not (folder / soname).exists():
        (folder / soname).symlink_to(real / "libllama.so")
    source = folder / "standin.c"
    source.write_text(SOURCES[how])
    # What the stand-in does not define, dlsym finds in the library it needs.
    linking = ["-Wl,--no-as-needed", str(folder / soname), f"-Wl,-rpath,{folder}"]
    command = [compiler, "-shared", "-fPIC", "-w", "-o", str(folder / "libllama.so"), str(source), *linking]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder
