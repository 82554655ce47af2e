"""What a processor is called and knows, in the words of each system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aded_local.speed import device
from aded_local.trials import processor
from aded_local.trials.processor import Processor, of_cpuinfo, of_sysctl

X86 = "processor\t: 0\nmodel\t\t: 207\nmodel name\t: Fast: 9000\nflags\t\t: fpu avx2 amx_tile\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd i8mm\nCPU implementer\t: 0x41\n"
INTEL_MAC = (
    "machdep.cpu.brand_string: Intel(R) Core(TM)\nmachdep.cpu.features: FPU SSE4.1\n"
    "machdep.cpu.leaf7_features: AVX2\nhw.optional.avx2_0: 1\nhw.optional.avx512f: 0\n"
)
APPLE = (
    "machdep.cpu.brand_string: Apple M2\nhw.optional.arm.FEAT_BF16: 1\n"
    "hw.optional.neon: 1\nhw.optional.arm.FEAT_SME: 0\n"
)


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (of_cpuinfo, X86, Processor("Fast: 9000", ("fpu", "avx2", "amx_tile"))),
        (of_cpuinfo, ARM, Processor("", ("fp", "asimd", "i8mm"))),
        (of_cpuinfo, "", Processor("", ())),
        (of_sysctl, INTEL_MAC, Processor("Intel(R) Core(TM)", ("FPU", "SSE4.1", "AVX2", "avx2_0"))),
        (of_sysctl, APPLE, Processor("Apple M2", ("FEAT_BF16", "neon"))),
        (of_sysctl, "", Processor("", ())),
    ],
)
def test_each_systems_own_words_are_read(read: object, text: str, expected: Processor) -> None:
    assert read(text.splitlines(keepends=True)) == expected  # type: ignore[operator]


def test_only_the_first_processor_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"{X86}\n{ARM}")
    assert processor._first_block(path) == X86.splitlines(keepends=True)
    assert processor._first_block(tmp_path / "none") == []


def test_the_device_is_named_after_its_processor() -> None:
    assert device.device_name() == processor.processor().name != ""
    assert 1 <= device.physical_threads() == processor.physical_threads()


def test_asking_loads_nothing_but_the_standard_library() -> None:
    program = (
        "import sys; from aded_local.trials import processor; processor.processor()\n"
        "print([name for name in ('numpy', 'psutil', 'llama_cpp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
