"""A body says what the small model in it says, at the cost of its own shape."""

from __future__ import annotations

import errno
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from gguf import GGUFReader, GGUFWriter, TokenType

from aded_bench.body.build import SHAPES, Shape, body_dimensions, build, place
from aded_bench.body.placement import random_dimensions
from aded_bench.body.source import Dimensions, Source
from aded_bench.main import main
from aded_local.errors import ModelFormatError, ModelKindError, ModelNotFoundError, OptionError, StoreError

BODY = Shape(width=256, layers=3, kv_width=64, feed_forward=384)
SMALL = Dimensions(width=64, layers=2, heads=4, kv_heads=2, head_dim=32, feed_forward=96)
PROMPT = [5, 17, 200, 33, 90, 41, 8, 120, 250, 77, 31, 9]


def write_llama(path: Path, d: Dimensions = SMALL, *, tied: bool = True, architecture: str = "llama") -> Path:
    """A random Llama network with a byte vocabulary, F32."""
    random = np.random.default_rng(3)
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_vocab_size(259)
    writer.add_context_length(512)
    writer.add_embedding_length(d.width)
    writer.add_block_count(d.layers)
    writer.add_feed_forward_length(d.feed_forward)
    writer.add_head_count(d.heads)
    writer.add_head_count_kv(d.kv_heads)
    writer.add_key_length(d.head_dim)
    writer.add_value_length(d.head_dim)
    writer.add_rope_dimension_count(d.head_dim)
    writer.add_layer_norm_rms_eps(1e-2)  # large, so that a wrong epsilon shows
    writer.add_sampling_temp(0.25)
    writer.add_chat_template("{{ messages[0].content }}")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>"] + [f"<0x{i:02X}>".encode() for i in range(256)])
    writer.add_token_scores([0.0] * 259)
    writer.add_token_types([TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.BYTE] * 256)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, random.normal(0, columns**-0.5, (rows, columns)).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(name, random.uniform(0.5, 1.5, d.width).astype(np.float32))

    matrix("token_embd.weight", 259, d.width)
    norm("output_norm.weight")
    if not tied:
        matrix("output.weight", 259, d.width)
    for i in range(d.layers):
        norm(f"blk.{i}.attn_norm.weight")
        matrix(f"blk.{i}.attn_q.weight", d.heads * d.head_dim, d.width)
        matrix(f"blk.{i}.attn_k.weight", d.kv_heads * d.head_dim, d.width)
        matrix(f"blk.{i}.attn_v.weight", d.kv_heads * d.head_dim, d.width)
        matrix(f"blk.{i}.attn_output.weight", d.width, d.heads * d.head_dim)
        norm(f"blk.{i}.ffn_norm.weight")
        matrix(f"blk.{i}.ffn_gate.weight", d.feed_forward, d.width)
        matrix(f"blk.{i}.ffn_up.weight", d.feed_forward, d.width)
        matrix(f"blk.{i}.ffn_down.weight", d.width, d.feed_forward)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("source") / "tiny.gguf")


def logits(path: Path) -> npt.NDArray[np.float32]:
    """Logits after each token of PROMPT, (len(PROMPT), vocabulary)."""
    llm = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    llm.eval(PROMPT)
    return np.array(llm.scores[: len(PROMPT)], np.float32)


def greedy(path: Path, count: int) -> list[int]:
    llm = llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, verbose=False)
    tokens: list[int] = []
    for token in llm.generate(PROMPT, temp=0.0, repeat_penalty=1.0):
        tokens.append(token)
        if len(tokens) == count:
            break
    return tokens


@pytest.mark.parametrize("tied", [True, False])
def test_f32_body_computes_the_same_logits_within_rounding(tmp_path: Path, tied: bool) -> None:
    source = write_llama(tmp_path / "source.gguf", tied=tied)
    build(source, tmp_path / "body.gguf", BODY, "test", "f32")
    expected, found = logits(source), logits(tmp_path / "body.gguf")
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "kv_width"),
    [(4, 1, 64), (4, 1, 256), (4, 4, 128), (2, 2, 64), (6, 2, 128)],
    ids=["one kv head", "kv head copied", "no groups", "same groups", "group of three over two"],
)
def test_heads_keep_reading_their_own_keys(tmp_path: Path, heads: int, kv_heads: int, kv_width: int) -> None:
    d = Dimensions(width=64, layers=1, heads=heads, kv_heads=kv_heads, head_dim=32, feed_forward=96)
    source = write_llama(tmp_path / "source.gguf", d)
    build(source, tmp_path / "body.gguf", Shape(256, 2, kv_width, 128), "test", "f32")
    np.testing.assert_allclose(logits(tmp_path / "body.gguf"), logits(source), atol=2e-5)


def test_heads_that_do_not_fill_the_width_compute_the_same(tmp_path: Path) -> None:
    d = Dimensions(width=72, layers=1, heads=3, kv_heads=1, head_dim=24, feed_forward=96)
    source = write_llama(tmp_path / "source.gguf", d)
    build(source, tmp_path / "body.gguf", Shape(256, 2, 64, 128), "test", "f32")
    np.testing.assert_allclose(logits(tmp_path / "body.gguf"), logits(source), atol=2e-5)


def test_a_tokenizer_alone_gets_random_weights(tmp_path: Path, tiny: Path) -> None:
    out = tmp_path / "random.gguf"
    build(tiny, out, Shape(256, 2, 64, 128, head_dim=32), "test", "q4_0", tokenizer_only=True)
    found = Source(out)
    assert found.vocabulary == Source(tiny).vocabulary
    assert found.value("tokenizer.ggml.bos_token_id") == 1
    assert np.abs(found.matrix("blk.1.ffn_down.weight")).max() > 0
    assert np.isfinite(logits(out)).all()
    for wrong, complaint in (
        (["--shape", "1b", "x.gguf"], "brings its own"),
        (["--shape", "same"], "no shape of its own"),
    ):
        bad = CliRunner().invoke(main, ["body", "--tokenizer", str(tiny), *wrong, str(out)])
        assert (bad.exit_code, complaint in bad.stderr) == (2, True)


@pytest.mark.parametrize("file_type", ["q4_0", "q8_0", "bf16"])
def test_a_body_writes_what_the_source_writes_in_the_same_type(
    tmp_path: Path, tiny: Path, file_type: str
) -> None:
    build(tiny, tmp_path / "same.gguf", None, "same", file_type)
    build(tiny, tmp_path / "body.gguf", BODY, "test", file_type)
    assert greedy(tmp_path / "body.gguf", 40) == greedy(tmp_path / "same.gguf", 40)
    np.testing.assert_allclose(logits(tmp_path / "body.gguf"), logits(tmp_path / "same.gguf"), atol=0.1)


def test_source_values_are_quantized_as_by_themselves(tmp_path: Path, tiny: Path) -> None:
    build(tiny, tmp_path / "same.gguf", None, "same", "q4_0")
    build(tiny, tmp_path / "body.gguf", BODY, "test", "q4_0")
    small, big = Source(tmp_path / "same.gguf"), Source(tmp_path / "body.gguf")
    d = SMALL
    for name in ("token_embd.weight", "blk.1.ffn_up.weight", "blk.1.ffn_down.weight"):
        expected = small.matrix(name)
        rows, columns = expected.shape
        np.testing.assert_array_equal(big.matrix(name)[:rows, :columns], expected)
    seats = place(d, big.dimensions).queries
    np.testing.assert_array_equal(
        big.matrix("blk.0.attn_output.weight")[: d.width, seats], small.matrix("blk.0.attn_output.weight")
    )


def test_q4_k_m_goes_through_llama_cpp(tmp_path: Path) -> None:
    source = write_llama(
        tmp_path / "source.gguf",
        Dimensions(width=256, layers=1, heads=4, kv_heads=1, head_dim=64, feed_forward=256),
    )
    build(source, tmp_path / "body.gguf", Shape(512, 2, 64, 512), "test", "q4_k_m", n_threads=1)
    types = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "body.gguf").tensors}
    assert types["blk.0.attn_q.weight"] == "Q4_K"
    assert len(greedy(tmp_path / "body.gguf", 5)) == 5
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_metadata_travels_along(tmp_path: Path, tiny: Path) -> None:
    build(tiny, tmp_path / "body.gguf", BODY, "1b", "q8_0")
    before, after = Source(tiny), Source(tmp_path / "body.gguf")
    changed = {"general.name", "general.size_label", "general.file_type", "general.quantization_version"}
    for key in before.reader.fields:
        if not key.startswith(("llama.", "GGUF.")) and key not in changed:
            assert after.value(key) == before.value(key), key
    assert after.value("general.name") == "tiny in a 1b body"
    assert after.value("general.sampling.temp") == pytest.approx(0.25)
    assert after.dimensions == Dimensions(256, 3, 8, 2, 32, 384)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path, tiny: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build(tiny, tmp_path / name, BODY, "test", "q4_0", seed=seed)
    contents = {name: (tmp_path / name).read_bytes() for name in "abc"}
    assert contents["a"] == contents["b"] != contents["c"]


def test_the_built_in_model_fits_every_shape() -> None:
    built_in = Dimensions(width=256, layers=6, heads=4, kv_heads=1, head_dim=64, feed_forward=768)
    for name, shape in SHAPES.items():
        body = body_dimensions(built_in, shape, name)
        assert body.heads * body.head_dim == body.width
        assert random_dimensions(shape).kv_heads * random_dimensions(shape).head_dim == shape.kv_width


@pytest.mark.parametrize(
    ("d", "shape", "complaint"),
    [
        (SMALL, Shape(32, 3, 32, 384), "too big for a test body: width 64"),
        (SMALL, Shape(256, 1, 64, 384), "too big for a test body: layers 2"),
        (SMALL, Shape(256, 3, 64, 64), "too big for a test body: feed-forward length 96"),
        (SMALL, Shape(256, 3, 32, 384), "too big for a test body: key-value heads 2"),
        (SMALL, Shape(256, 3, 16, 384), "wider than a test body's keys"),
        (Dimensions(80, 1, 2, 2, 32, 96), BODY, "not a multiple of 32"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, d: Dimensions, shape: Shape, complaint: str) -> None:
    source = write_llama(tmp_path / "source.gguf", d)
    with pytest.raises(OptionError, match=complaint):
        build(source, tmp_path / "body.gguf", shape, "test", "q4_0")
    assert not (tmp_path / "body.gguf").exists()


def test_other_files_are_refused(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "text.gguf").write_text("not a model")
    (tmp_path / "cut.gguf").write_bytes(tiny.read_bytes()[:3000])
    qwen = write_llama(tmp_path / "qwen.gguf", architecture="qwen2")
    for path, error in (
        (tmp_path / "text.gguf", ModelFormatError),
        (tmp_path / "cut.gguf", ModelFormatError),
        (tmp_path / "absent.gguf", ModelNotFoundError),
        (tmp_path, ModelNotFoundError),
        (qwen, ModelKindError),
    ):
        with pytest.raises(error):
            build(path, tmp_path / "body.gguf", BODY, "test", "q4_0")


def test_a_model_that_may_not_be_read_is_one_line(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: object) -> None:  # as root, permissions refuse nothing
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelNotFoundError, match=r"tiny.gguf cannot be read: Permission denied"):
        build(tiny, tmp_path / "body.gguf", BODY, "test", "q4_0")


def test_any_truncation_is_refused(tmp_path: Path, tiny: Path) -> None:
    whole, cut = tiny.read_bytes(), tmp_path / "cut.gguf"
    for offset in np.random.default_rng(1).integers(0, len(whole) - 1, 20):
        cut.write_bytes(whole[: int(offset)])
        with pytest.raises(ModelFormatError):
            build(cut, tmp_path / "body.gguf", BODY, "test", "q4_0")


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(GGUFWriter, "write_tensor_data", refuse)
    with pytest.raises(StoreError, match="the disk is full"):
        build(tiny, tmp_path / "body.gguf", BODY, "test", "q4_0")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_wrote_and_complains_in_one_line(tmp_path: Path, tiny: Path) -> None:
    same = tmp_path / "same.gguf"
    good = CliRunner().invoke(main, ["body", str(tiny), "--shape", "same", "--type", "q8_0", str(same)])
    assert (good.exit_code, same.exists()) == (0, True)
    assert "2 layers" in good.stdout
    threads = ["body", str(tiny), "--shape", "same", "-t", "2", str(same)]  # of no use to q4_0
    for arguments in (threads, ["body", str(tiny)], ["body", "--shape", "9b", "x"], ["nonsense"]):
        bad = CliRunner().invoke(main, arguments)
        assert bad.exit_code == 2
        assert bad.stderr.startswith("aded-bench: ")
        assert bad.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="no /dev/null here")
def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(b"GGUF")
    with pytest.raises(OptionError, match="device"):
        build(source, Path("/dev/null"), None, "same", "q8_0")
