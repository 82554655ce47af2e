"""Damaged GGUFs, drawn by a seed, and a program that loads many of them as the product does.

    python tests/mutants.py SEED FIRST COUNT CHILDREN FOLDER

prints a line as it begins a mutant and one with what came of it: ``works``, ``rules`` (refused before llama.cpp saw),
``child`` (a child process did not survive it), ``llama.cpp`` (it refused by itself), ``device``; ``passes`` where the
rules had no objection and CHILDREN had been tried already. If the process ends in between, that mutant ended it.
"""

from __future__ import annotations

import math
import random
import struct
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import gguf.constants
import numpy as np
import tiny_models
from gguf_files import BOOL, FLOAT32, SCALARS, File, Tensor, parse

from aded_local.llama.gguf import ARRAY, STRING, TENSOR_TYPES, UINT32
from aded_local.tree import DraftTree

NUMBERS = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    31,
    32,
    64,
    100,
    255,
    256,
    1000,
    4096,
    65_536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
FLOATS = (0.0, -1.0, 0.5, 1.0, 1e-30, 1e30, math.nan, math.inf, -math.inf)
TEXTS = (
    b"", b"llama", b"gpt2", b"bert", b"t5", b"rwkv", b"plamo2", b"none", b"no_vocab", b"whitespace", b"hybriddna",
    b"default", b"llama-bpe", b"qwen2", b"deepseek-coder", b"falcon", b"linear", b"yarn", b"longrope", b"model",
    b"\xff\xfe", b"\x1b[31m", b"x" * 5000, b"\0", "\u202e\U0001f600".encode(),
)  # fmt: skip
PIECES = (b"", b"<0x00>", b"[EMPTY_5]", b"\0", b"\xff", b"a", b" ", b"\\", b"\xe2\x96\x81", b"x" * 300)
TREE = DraftTree(
    np.zeros(3, np.int32),
    np.array([-1, 0, -1], np.int32),
    np.array([1, 2, 1], np.int32),
    np.full(3, 0.3, np.float32),
)


def _strings_of(holder: type) -> Iterator[str]:
    for name, value in vars(holder).items():
        if isinstance(value, str) and not name.startswith("__"):
            yield value
        elif isinstance(value, type):
            yield from _strings_of(value)


KEYS = sorted(key for key in _strings_of(gguf.constants.Keys) if key.count("{") == key.count("{arch}"))
ARCHITECTURES = sorted(gguf.constants.MODEL_ARCH_NAMES.values())


def bases(folder: Path) -> dict[str, bytes]:
    """The files that are damaged: one of each kind of memory, and the built-in draft model with its own vocabulary."""
    from aded_models.builtin import draft_path

    found = {
        name: write(folder / f"base-{name}.gguf").read_bytes()
        for name, write in tiny_models.GENERATING.items()
    }
    found["builtin"] = draft_path().read_bytes()
    return found


def number(draw: random.Random, kind: int, before: Any) -> Any:
    """A value of a scalar type that somebody might not have thought of."""
    if kind == BOOL:
        return draw.random() < 0.5
    if SCALARS[kind] in "fd":
        return draw.choice((*FLOATS, float(before) * 2, float(before) / 3))
    bits = 8 * struct.calcsize(SCALARS[kind])
    signed = SCALARS[kind].islower()
    value = draw.choice((*NUMBERS, int(before) + 1, int(before) - 1, int(before) * 2, draw.getrandbits(bits)))
    value &= 2**bits - 1
    return value - 2**bits if signed and value >= 2 ** (bits - 1) else value


def _any_value(draw: random.Random) -> tuple[int, Any]:
    kind = draw.choice((UINT32, UINT32, UINT32, FLOAT32, BOOL, STRING, ARRAY, 5, 10, 2))
    if kind == STRING:
        return kind, draw.choice(TEXTS)
    if kind == ARRAY:
        element = draw.choice((UINT32, 5, FLOAT32, BOOL))
        return kind, (element, [number(draw, element, 1) for _ in range(draw.choice((0, 1, 2, 3, 4, 64)))])
    return kind, number(draw, kind, 1)


def change_value(file: File, draw: random.Random) -> None:
    key = draw.choice(sorted(file.keys))
    kind, value = file.keys[key]
    if kind == STRING:
        file.put(key, draw.choice(TEXTS))
    elif kind != ARRAY:
        file.put(key, number(draw, kind, 0 if value != value or abs(value) > 1e18 else value))
    else:
        change_array(file, draw, key)


def change_array(file: File, draw: random.Random, key: str | None = None) -> None:
    arrays = [each for each, (kind, value) in sorted(file.keys.items()) if kind == ARRAY and value[1]]
    key = key or draw.choice(arrays)
    element, values = file.keys[key][1]
    values = list(values)
    if not values:
        return
    at = draw.randrange(len(values))
    how = draw.randrange(5)
    if how == 0:
        del values[at]
    elif how == 1:
        values.insert(at, values[draw.randrange(len(values))])
    elif how == 2:
        del values[at:]
    elif element == STRING:
        values[at] = draw.choice(PIECES)
        if how == 3:
            values[draw.randrange(len(values))] = draw.choice(PIECES)
    else:
        values[at] = number(draw, element, 1)
    file.put(key, (element, values))


def change_type(file: File, draw: random.Random) -> None:
    file.keys[draw.choice(sorted(file.keys))] = _any_value(draw)


def add_key(file: File, draw: random.Random) -> None:
    architecture = file.keys["general.architecture"][1].decode(errors="replace")
    file.keys[draw.choice(KEYS).replace("{arch}", architecture)] = _any_value(draw)


def add_number(file: File, draw: random.Random) -> None:
    architecture = file.keys["general.architecture"][1].decode(errors="replace")
    key = draw.choice([key for key in KEYS if key.startswith("{arch}.")]).replace("{arch}", architecture)
    kind = draw.choice((UINT32, UINT32, FLOAT32))
    file.keys[key] = (kind, number(draw, kind, 1))


def drop_key(file: File, draw: random.Random) -> None:
    file.drop(draw.choice(sorted(file.keys)))


def rename(file: File, draw: random.Random) -> None:
    file.renamed(draw.choice(ARCHITECTURES))


def retokenize(file: File, draw: random.Random) -> None:
    file.keys["tokenizer.ggml.model"] = (STRING, draw.choice(TEXTS[:11]))
    if draw.random() < 0.5:
        file.keys["tokenizer.ggml.pre"] = (STRING, draw.choice(TEXTS))
    if draw.random() < 0.5:
        file.keys["tokenizer.ggml.merges"] = (ARRAY, (STRING, [b"t h", b"a b", b"xy"][: draw.randrange(4)]))


def recast_tensor(file: File, draw: random.Random) -> None:
    draw.choice(file.tensors).kind = draw.choice(sorted(TENSOR_TYPES))


def reshape_tensor(file: File, draw: random.Random) -> None:
    tensor = draw.choice(file.tensors)
    shape = list(tensor.shape)
    at = draw.randrange(len(shape))
    how = draw.randrange(4)
    if how == 0:
        shape[at] = draw.choice((1, 2, 32, 64, 256, shape[at] * 2, max(1, shape[at] // 2), shape[at] + 32))
    elif how == 1 and len(shape) < 4:
        shape.append(draw.choice((1, 2)))
    elif how == 2 and len(shape) > 1:
        shape.pop()
    else:
        draw.shuffle(shape)
    tensor.shape = tuple(shape)


def lose_tensor(file: File, draw: random.Random) -> None:
    tensors = file.tensors
    at = draw.randrange(len(tensors))
    if draw.random() < 0.5:
        del tensors[at]
    else:
        other = draw.choice(tensors)
        tensors[at].name, other.name = other.name, tensors[at].name


def add_tensor(file: File, draw: random.Random) -> None:
    like = draw.choice(file.tensors)
    name = draw.choice(
        ("rope_freqs.weight", "output.bias", "position_embd.weight", like.name.replace("weight", "bias"))
    )
    if all(tensor.name != name for tensor in file.tensors):
        file.tensors.append(
            Tensor(name, draw.choice((like.shape, like.shape[:1], (8,))), like.kind, like.data)
        )


CHANGES: tuple[Callable[[File, random.Random], None], ...] = (
    *(change_value,) * 3, *(add_number,) * 3, *(recast_tensor,) * 2, retokenize, change_array, reshape_tensor, add_key,
    change_type, drop_key, rename, lose_tensor, add_tensor,
)  # fmt: skip
"""As often as they have something to find: a missing tensor is refused, an unforeseen number is not."""


def mutant(files: dict[str, File], seed: int, number: int) -> bytes:
    """The damaged file of this seed and number."""
    draw = random.Random(f"{seed} {number}")
    file = deepcopy(files[draw.choice(sorted(files))])
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        if file.tensors and file.keys.get("general.architecture", (0, 0))[0] == STRING:
            draw.choice(CHANGES)(file, draw)
    data = file.dump()
    if draw.random() < 0.1:
        header = bytearray(data)
        for _ in range(draw.randrange(1, 5)):
            header[draw.randrange(min(len(data), 30_000))] = draw.randrange(256)
        data = bytes(header)
    if draw.random() < 0.02:
        data = data[: draw.randrange(len(data))]
    return data


def use(path: Path) -> str:
    """Load a file and make everything of it that the product does; what came of it."""
    from aded_local.errors import ADEDError, DeviceError, ModelError
    from aded_local.llama import ContextSettings, Model, Sampling, Target

    try:
        model = Model(path)
    except ModelError as error:
        text = str(error)
        assert "\n" not in text, text
        return "child" if "child process" in text else "llama.cpp" if "could not load" in text else "rules"
    try:
        target = Target(model, ContextSettings(256, 1, False, "f16", 8, 8))
    except DeviceError:
        model.close()
        return "device"
    try:
        for special in (True, False):
            tokens = model.tokenize("List files: größe 漢字 \n", add_special=special, parse_special=special)
        tokens = [token for token in tokens if 0 <= token < model.n_vocab] or [0]
        assert model.end_tokens is not None and model.control_texts is not None
        assert model.chat_template is None or model.quantization
        for token in range(min(model.n_vocab, 300)):
            model.piece(token)
        target.prefill((tokens * 40)[:80])
        sampler = target.sampler(Sampling(seed=1), tokens)
        root = sampler.sample(-1)
        if target.drafting_shape == "tree":
            target.verify(root, TREE)
        target.trim(10)
        sampler.close()
    except DeviceError:
        return "device"
    except ADEDError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        target.close()
    return "works"


def main(arguments: list[str]) -> None:
    seed, first, count, children = map(int, arguments[:4])
    folder = Path(arguments[4])
    from aded_local.errors import ModelError
    from aded_local.llama.soundness import check

    files = {name: parse(data) for name, data in bases(folder).items()}
    for index in range(first, first + count):
        path = folder / f"mutant-{index}.gguf"
        path.write_bytes(mutant(files, seed, index))
        print(index, "begins", flush=True)
        started = time.perf_counter()
        try:
            check(path)
        except ModelError:
            outcome = "rules"
        else:
            outcome = use(path) if children > 0 else "passes"
            children -= 1
        print(index, f"{time.perf_counter() - started:.2f}", outcome, flush=True)
        path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
