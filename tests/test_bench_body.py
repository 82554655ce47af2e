"""A body says what the small model in it says, at the cost of its own shape."""

from __future__ import annotations

import builtins
import errno
from pathlib import Path

import numpy as np
import pytest
from body_models import BODY, SMALL, greedy, logits, write_llama
from click.testing import CliRunner
from gguf import GGUFWriter

from aded_bench.body.build import build
from aded_bench.body.placement import Shape, place
from aded_bench.body.source import Dimensions, Source
from aded_bench.main import main
from aded_local.errors import ModelFormatError, ModelKindError, ModelNotFoundError, OptionError, StoreError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("source") / "tiny.gguf")


@pytest.mark.parametrize("tied", [True, False])
def test_f32_body_computes_the_same_logits_within_rounding(tmp_path: Path, tied: bool) -> None:
    source = write_llama(tmp_path / "source.gguf", tied=tied)
    build(source, tmp_path / "body.gguf", BODY, "test", "f32")
    expected, found = logits(source), logits(tmp_path / "body.gguf")
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_tokenizer_alone_gets_random_weights(tmp_path: Path, tiny: Path) -> None:
    out = tmp_path / "random.gguf"
    build(tiny, out, Shape(256, 2, 64, 128, head_dim=32), "test", "q4_0", tokenizer_only=True)
    found = Source(out)
    assert found.vocabulary == Source(tiny).vocabulary
    assert found.value("tokenizer.ggml.bos_token_id") == 1
    assert found.global_tensors == ["token_embd.weight", "output_norm.weight", "output.weight"]
    assert np.abs(found.matrix("blk.1.ffn_down.weight")).max() > 0
    assert np.isfinite(logits(out)).all()
    for wrong, complaint in (
        (["--shape", "1b", "x.gguf"], "brings its own"),
        (["--shape", "same"], "no shape of its own"),
    ):
        bad = CliRunner().invoke(
            main, ["body", "--tokenizer", str(tiny), *wrong, str(tmp_path / "none.gguf")]
        )
        assert (bad.exit_code, complaint in bad.stderr) == (2, True)


@pytest.mark.parametrize("file_type", ["q4_0", "q8_0", "bf16"])
def test_a_body_writes_what_the_source_writes_in_the_same_type(
    tmp_path: Path, tiny: Path, file_type: str
) -> None:
    build(tiny, tmp_path / "same.gguf", None, "same", file_type)
    build(tiny, tmp_path / "body.gguf", BODY, "test", file_type)
    assert greedy(tmp_path / "body.gguf", 40) == greedy(tmp_path / "same.gguf", 40)
    np.testing.assert_allclose(logits(tmp_path / "body.gguf"), logits(tmp_path / "same.gguf"), atol=0.1)


@pytest.mark.parametrize("file_type", ["q4_0", "q8_0"])
def test_a_body_four_times_as_wide_rounds_as_the_source_does(
    tmp_path: Path, tiny: Path, file_type: str
) -> None:
    build(tiny, tmp_path / "same.gguf", None, "same", file_type)
    build(tiny, tmp_path / "body.gguf", BODY, "test", file_type)
    np.testing.assert_array_equal(logits(tmp_path / "body.gguf"), logits(tmp_path / "same.gguf"))


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


@pytest.mark.parametrize(
    ("d", "shape", "complaint"),
    [
        (SMALL, Shape(32, 3, 32, 384), "too big for a test body: width 64"),
        (SMALL, Shape(256, 3, 64, 64), "too big for a test body: feed-forward length 96"),
        (Dimensions(80, 1, 2, 2, 32, 96), BODY, "width 80 is not a multiple of 32"),
        (Dimensions(64, 1, 2, 2, 24, 96), BODY, "query heads together 48 is not a multiple of 32"),
        (SMALL, Shape(272, 3, 64, 384), "the body's width 272 is not a multiple of 32"),
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
    def refuse(*_: object, **__: object) -> None:  # as root, permissions refuse nothing
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(ModelNotFoundError, match=r"tiny.gguf may not be read"):
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


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"precious")
    result = CliRunner().invoke(main, ["body", str(mine), "--shape", "360m"])
    assert result.exit_code == 2 and "is there already" in result.output + (result.stderr or "")
    assert mine.read_bytes() == b"precious"
