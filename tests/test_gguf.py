"""A file that cannot serve is refused in one line, before llama.cpp sees it."""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aded_local.errors import ModelError, ModelFormatError, ModelKindError, ModelNotFoundError
from aded_local.llama.gguf import Array, read_header
from aded_local.llama.soundness import check


def refused(path: Path, kind: type[ModelError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        check(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.fixture
def crafted(tiny: dict[str, Path], tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "crafted.gguf"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture(scope="module")
def llama(tiny: dict[str, Path]) -> bytes:
    return tiny["llama"].read_bytes()


def patched(data: bytes, key: str, fmt: str, value: Any) -> bytes:
    """The file with another value behind ``key``."""
    at = data.index(key.encode()) + len(key) + 4
    raw = struct.pack("<" + fmt, value)
    return data[:at] + raw + data[at + len(raw) :]


def without(data: bytes, key: str) -> bytes:
    """The file with ``key`` under another name."""
    return data.replace(key.encode(), key[:-1].encode() + b"!", 1)


# --- what passes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny_models.GENERATING)
def test_every_kind_of_model_that_writes_text_passes(tiny: dict[str, Path], name: str) -> None:
    header = check(tiny[name])
    assert header.architecture == name
    assert header.chat_template == tiny_models.TEMPLATE
    assert header.file_size == tiny[name].stat().st_size
    assert header.array_length("tokenizer.ggml.tokens") == tiny_models.N_VOCAB


def test_tensors_are_where_gguf_py_says(tiny: dict[str, Path]) -> None:
    header = read_header(tiny["lfm2"])
    theirs = gguf.GGUFReader(tiny["lfm2"]).tensors
    assert [(t.name, tuple(t.shape), t.data_offset, t.n_bytes, int(t.tensor_type)) for t in theirs] == [
        (name, t.shape, t.offset, t.nbytes, t.kind) for name, t in header.tensors.items()
    ]
    assert header.metadata["lfm2.attention.head_count_kv"] == [0, tiny_models.KV_HEADS, 0]


def test_a_large_vocabulary_is_walked_quickly(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "large.gguf"), "llama")
    writer.add_token_list([b"token%d" % i for i in range(128_000)])
    writer.add_token_merges([f"a{i} b{i}" for i in range(280_000)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    started = time.thread_time()
    header = read_header(tmp_path / "large.gguf")
    assert time.thread_time() - started < 0.5  # 0.035 s
    assert isinstance(header.metadata["tokenizer.ggml.merges"], Array)


# --- what is no model file -------------------------------------------------------------------------------


def test_a_missing_file_a_folder_and_a_device_are_not_found(tmp_path: Path) -> None:
    refused(tmp_path / "absent.gguf", ModelNotFoundError, "no file")
    refused(tmp_path, ModelNotFoundError, "folder")
    refused(Path("/dev/null"), ModelNotFoundError, "regular file")
    refused(tmp_path / ("x" * 5000), ModelNotFoundError)
    refused(Path("a\0b"), ModelNotFoundError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    refused(tmp_path / "pipe.gguf", ModelNotFoundError, "regular file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(crafted: Callable[[bytes], Path], llama: bytes) -> None:
    path = crafted(llama)
    path.chmod(0)
    refused(path, ModelNotFoundError, "permissions")


@pytest.mark.parametrize("data", [b"", b"G", b"not a model at all", b"PK\x03\x04" + b"\0" * 100])
def test_other_files_are_no_gguf(crafted: Callable[[bytes], Path], data: bytes) -> None:
    refused(crafted(data), ModelFormatError, "not a GGUF")


@pytest.mark.parametrize(
    "at, raw, word",
    [
        (4, struct.pack("<I", 1), "version 1"),
        (4, struct.pack("<I", 9), "version 9"),
        (4, struct.pack(">I", 3), "big-endian"),
        (8, struct.pack("<Q", 2**60), "claims"),
        (16, struct.pack("<Q", 2**60), "claims"),
        (8, struct.pack("<Q", 999_999), ""),
        (16, struct.pack("<Q", 60_000), ""),
        (24, struct.pack("<Q", 2**63), "claims"),
    ],
)
def test_a_preamble_that_lies_is_refused_at_once(
    crafted: Callable[[bytes], Path], llama: bytes, at: int, raw: bytes, word: str
) -> None:
    started = time.thread_time()
    refused(crafted(llama[:at] + raw + llama[at + len(raw) :]), ModelFormatError, word)
    assert time.thread_time() - started < 1.0


def test_an_array_of_absurd_length_is_refused_at_once(crafted: Callable[[bytes], Path], llama: bytes) -> None:
    for length in (2**60, 2**64 - 1, len(llama)):
        refused(crafted(_with_length(llama, length)), ModelFormatError)


def _with_length(data: bytes, length: int) -> bytes:
    at = data.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    return data[:at] + struct.pack("<Q", length) + data[at + 8 :]


# --- truncation and damage -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_file_truncated_anywhere_is_refused(
    tiny: dict[str, Path], crafted: Callable[[bytes], Path], seed: int
) -> None:
    draw = random.Random(seed)
    data = tiny[draw.choice(sorted(tiny))].read_bytes()
    refused(crafted(data[: draw.randrange(len(data))]), ModelFormatError)


def test_a_file_truncated_by_its_last_byte_is_refused(crafted: Callable[[bytes], Path], llama: bytes) -> None:
    last = max(t.offset + t.nbytes for t in read_header(crafted(llama)).tensors.values())
    refused(crafted(llama[: last - 1]), ModelFormatError, "truncated", str(last))


@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_header_passes_or_is_refused_and_nothing_else(
    crafted: Callable[[bytes], Path], tiny: dict[str, Path], flips: list[tuple[float, int]]
) -> None:
    header_size = 20_000
    data = bytearray(tiny["llama"].read_bytes())
    for where, value in flips:
        data[int(where * header_size)] = value
    try:
        check(crafted(bytes(data)))
    except ModelError as error:
        assert "\n" not in str(error)


# --- models that do not write text -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, word", [("bert", "embedding"), ("embedding", "pooling"), ("vocabulary", "vocabulary only")]
)
def test_models_that_do_not_write_are_refused_by_kind(
    not_writing: dict[str, Path], name: str, word: str
) -> None:
    refused(not_writing[name], ModelKindError, word)


@pytest.mark.parametrize("architecture", ["clip", "dream", "llada"])
def test_other_architectures_that_do_not_write_are_refused(
    crafted: Callable[[bytes], Path], tmp_path: Path, architecture: str
) -> None:
    path = tmp_path / "other.gguf"
    tiny_models._finish(tiny_models._writer(path, architecture, 1), {})
    refused(path, ModelKindError, architecture)


# --- what makes llama.cpp end the process ----------------------------------------------------------------

UNSOUND: list[tuple[str, str, str, Any]] = [
    ("llama", "llama.attention.layer_norm_rms_epsilon", "f", -1.0),
    ("llama", "llama.attention.layer_norm_rms_epsilon", "f", float("nan")),
    ("llama", "llama.block_count", "I", 0),
    ("llama", "llama.block_count", "I", 100_000),
    ("llama", "llama.embedding_length", "I", 0),
    ("llama", "llama.context_length", "I", 0),
    ("llama", "llama.attention.head_count", "I", 0),
    ("llama", "llama.attention.head_count_kv", "I", 3),
    ("llama", "llama.attention.head_count_kv", "I", 8),
    ("gemma3", "gemma3.rope.dimension_count", "I", 0),
    ("gemma3", "gemma3.rope.dimension_count", "I", 7),
    ("gemma3", "gemma3.rope.dimension_count", "I", 1000),
    ("gemma3", "gemma3.attention.sliding_window", "I", 2**31 - 1),
    ("qwen3moe", "qwen3moe.rope.dimension_count", "I", 2),
    ("qwen3moe", "qwen3moe.expert_used_count", "I", 0),
    ("qwen3moe", "qwen3moe.expert_used_count", "I", 9),
    ("lfm2", "lfm2.attention.head_count", "I", 2),
    ("jamba", "jamba.attention.key_length", "I", 8),
    ("jamba", "jamba.ssm.inner_size", "I", 64),
]


@pytest.mark.parametrize("model, key, fmt, value", UNSOUND)
def test_numbers_that_make_llama_cpp_end_the_process_are_refused(
    tiny: dict[str, Path], crafted: Callable[[bytes], Path], model: str, key: str, fmt: str, value: Any
) -> None:
    refused(crafted(patched(tiny[model].read_bytes(), key, fmt, value)), ModelFormatError, "inconsistent")


@pytest.mark.parametrize(
    "key",
    [
        "general.architecture", "llama.block_count", "llama.embedding_length", "llama.context_length",
        "llama.attention.head_count", "tokenizer.ggml.model", "tokenizer.ggml.tokens",
    ],
)  # fmt: skip
def test_a_missing_key_is_named(crafted: Callable[[bytes], Path], llama: bytes, key: str) -> None:
    refused(crafted(without(llama, key)), ModelFormatError, key)


def test_a_vocabulary_that_cannot_spell_every_byte_is_refused(
    crafted: Callable[[bytes], Path], llama: bytes
) -> None:
    refused(crafted(llama.replace(b"<0xE2>", b"<0xZZ>")), ModelFormatError, "0xE2")


def test_a_vocabulary_of_another_length_than_the_embedding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    writer, weights = tiny_models._writer(path, "llama", 1), tiny_models._Weights("llama", 1)
    tiny_models._heads(writer)
    weights.ends()
    weights.tensors["token_embd.weight"] = weights.tensors["token_embd.weight"][:-1]
    tiny_models._finish(writer, weights.tensors)
    refused(path, ModelFormatError, "embedding")


def test_a_tensor_of_unknown_type_or_place_or_shape_is_refused(
    crafted: Callable[[bytes], Path], llama: bytes
) -> None:
    at = llama.index(b"token_embd.weight") + len("token_embd.weight")
    for offset, fmt, value in (
        (0, "I", 0),
        (0, "I", 5),
        (4, "Q", 0),
        (4, "Q", 2**63),
        (20, "I", 99),
        (24, "Q", 7),
    ):
        raw = struct.pack("<" + fmt, value)
        refused(crafted(llama[: at + offset] + raw + llama[at + offset + len(raw) :]), ModelFormatError)


def test_a_tensor_there_twice_is_refused(crafted: Callable[[bytes], Path], llama: bytes) -> None:
    refused(crafted(llama.replace(b"blk.1.attn_q.weight", b"blk.0.attn_q.weight")), ModelFormatError, "twice")


# --- models in several files -----------------------------------------------------------------------------


def split(folder: Path, number: int, count: int = 2) -> Path:
    path = folder / f"model-{number + 1:05d}-of-{count:05d}.gguf"
    writer, weights = tiny_models._writer(path, "llama", 2), tiny_models._Weights("llama", 1)
    writer.add_uint16("split.no", number)
    writer.add_uint16("split.count", count)
    tiny_models._heads(writer)
    weights.ends()
    tiny_models._finish(writer, weights.tensors)
    return path


def test_of_a_model_in_parts_the_first_is_wanted_with_the_others_beside_it(tmp_path: Path) -> None:
    first = split(tmp_path, 0)
    refused(first, ModelFormatError, "model-00002-of-00002.gguf is missing")
    second = split(tmp_path, 1)
    assert check(first).architecture == "llama"
    refused(second, ModelFormatError, "give the first", str(first))
    renamed = first.rename(tmp_path / "renamed.gguf")
    refused(renamed, ModelFormatError, "give it back its name")
