"""The same words by quantization: `lossless` over several versions of one model.

llama.cpp's own quantizer makes each version in a temporary folder, from the given file by way of BF16; it is removed
when it was measured. What was measured of a version is one result of kind "lossless" without its answers.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aded_bench.results import ResultFile, provenance, resume, taking_over
from aded_bench.run import lossless
from aded_bench.run.methods import check_names
from aded_bench.run.start import Step

RAW = "bf16"
"""What every version is made from: dequantized values hardly lose by it."""

ASKED_FOR = {
    "bf16": ("BF16",),
    "q8_0": ("Q8_0",),
    "q6_k": ("Q6_K",),
    "q5_k_m": ("Q5_K", "Q6_K"),
    "q4_k_m": ("Q4_K", "Q6_K"),
    "q4_1": ("Q4_1", "Q6_K"),
    "q4_0": ("Q4_0", "Q6_K"),
}
"""The file types that are compared, and the types of tensors that llama.cpp's mixture for each means to have
(llama-quant.cpp); the output layer is Q6_K in all small ones. Where a matrix has another type, its rows are no whole
blocks of the one that was meant."""

UNQUANTIZED = ("F32", "F16")
"""Types of tensors that are no matrices (norms), or that llama.cpp leaves alone."""


@dataclass(frozen=True, kw_only=True)
class Plan(lossless.Plan):
    """What to compare, in each version of ``model``.

    Attributes:
        types: of ``ASKED_FOR``.
    """

    types: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """The part of the plan that a resumed run must share."""
        return super().settings() | {"types": list(self.types)}

    def of(self, model: Path) -> lossless.Plan:
        """The same for one version."""
        shared = {name: getattr(self, name) for name in lossless.Plan.__dataclass_fields__}
        return lossless.Plan(**shared | {"model": model})


class _Part(ResultFile):
    """The result of one version, inside the file of all."""

    def __init__(self, whole: ResultFile, result: dict[str, Any], file_type: str) -> None:
        super().__init__(None)
        self.path = whole.path
        self._whole, self._result, self._type = whole, result, file_type

    def load(self) -> dict[str, Any] | None:
        """What an earlier run left of it."""
        found: dict[str, Any] | None = self._result["types"].get(self._type)
        return found

    def save(self, result: Any, *, now: bool = False) -> None:
        """Put it into the whole, which is written if it is time."""
        self._result["types"][self._type] = result
        self._whole.save(self._result, now=now)


def check_types(types: Sequence[str]) -> tuple[str, ...]:
    """The file types named, each once.

    Raises:
        OptionError: none, or an unknown one.
    """
    return check_names("file type", types, ASKED_FOR)


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``, if no prompt is left out and nothing was done before."""
    return len(plan.types) * lossless.total_steps(plan)


def run(plan: Plan, file: ResultFile, step: Step = lambda note: None) -> dict[str, Any]:
    """Make each version and compare; the result as plain data, with ``complete`` False after Ctrl-C.

    Raises:
        ADEDError: a version cannot be made or used, no prompt fits, or ``file`` holds another run.
    """
    result: dict[str, Any] = {"kind": "sameness", "complete": False, "suite": plan.suite, "types": {}}
    here = provenance(plan.settings(), model=plan.model, inputs=plan.inputs)
    if earlier := resume(file, "sameness", here):
        with taking_over(file):
            result["types"] = {name: dict(part) for name, part in earlier["types"].items()}
    result["provenance"] = here
    result["source"] = {"tensors": tensors_of(plan.model)}
    try:
        with tempfile.TemporaryDirectory(prefix="aded-sameness-") as folder:
            for file_type in plan.types:
                if not _is_done(result, file_type):
                    _measure(plan, Path(folder), file_type, _Part(file, result, file_type), step)
                if not _is_done(result, file_type):
                    break
        result["complete"] = all(_is_done(result, file_type) for file_type in plan.types)
    except KeyboardInterrupt:
        pass
    for key in ("missing", "skipped"):
        parts = result["types"].items()
        result[key] = {
            f"{name}: {what}": why for name, part in parts for what, why in part.get(key, {}).items()
        }
    file.save(result, now=True)
    return result


def _is_done(result: dict[str, Any], file_type: str) -> bool:
    return bool(result["types"].get(file_type, {}).get("complete"))


def _measure(plan: Plan, folder: Path, file_type: str, part: _Part, step: Step) -> None:
    model = make(plan.model, folder, file_type)
    try:
        found = lossless.run(plan.of(model), part, step)
        found["tensors"] = tensors_of(model)
        found["replaced"] = replaced(found["tensors"], file_type)
        if found["complete"]:
            found["answers"], found["prompts"] = {}, []  # a million lines for seven versions
        part.save(found, now=True)
    finally:
        if file_type != RAW:
            model.unlink(missing_ok=True)


def make(source: Path, folder: Path, file_type: str) -> Path:
    """The model in ``file_type``, by way of BF16, which stays in the folder for the next one.

    Raises:
        StoreError: llama.cpp cannot read the source, or not write the file.
    """
    from aded_local.llama.quantize import quantize

    raw = folder / f"{source.stem}-{RAW}.gguf"
    if not raw.exists():
        quantize(source, raw, RAW, requantize=True)
    if file_type == RAW:
        return raw
    made = folder / f"{source.stem}-{file_type}.gguf"
    quantize(raw, made, file_type)
    return made


def tensors_of(path: Path) -> dict[str, dict[str, int]]:
    """By type, how many tensors a file has, and how many weights they hold; the most weights first."""
    from math import prod

    import gguf

    from aded_local.llama.gguf import read_header

    counts: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for tensor in read_header(path).tensors.values():
        name = gguf.GGMLQuantizationType(tensor.kind).name
        counts[name] += 1
        weights[name] += prod(tensor.shape)
    return {name: {"tensors": counts[name], "weights": held} for name, held in weights.most_common()}


def replaced(tensors: dict[str, dict[str, int]], file_type: str) -> dict[str, float]:
    """Types that llama.cpp took instead of those asked for, and their share of all weights."""
    total = sum(each["weights"] for each in tensors.values())
    meant = (*ASKED_FOR[file_type], *UNQUANTIZED)
    return {name: each["weights"] / total for name, each in tensors.items() if name not in meant}
