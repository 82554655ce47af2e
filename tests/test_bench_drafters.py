"""Published drafters as their papers have them, and a bench that asks a model once what it finds likely."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from click.testing import CliRunner
from drafters import ids
from hypothesis import given
from hypothesis import strategies as st
from steps import FixedDrafter

from aded_bench.drafters import racer, real, virtual
from aded_bench.drafters.logitspec import LogitSpec
from aded_bench.drafters.published import AsPublished, Published, Rated, Sketch
from aded_bench.drafters.racer import Passages, Racer
from aded_bench.drafters.real import RealText, Remembered, Speaker
from aded_bench.drafters.token_recycling import NODES, TokenRecycling
from aded_bench.main import main
from aded_bench.replay.curves import NamedCurve
from aded_local import LocalADED
from aded_local.drafters import make_drafter
from aded_local.errors import OptionError, StoreError
from aded_local.step import NO_TOKENS, Beginning, Likely, StepResult, said
from aded_local.tree import EMPTY_TREE, ROOT, DraftTree

CURVE = NamedCurve("even", {1: 1.0, 2: 1.2, 4: 1.4, 16: 2.0}, 0.02, Path("even.json"))


def likely(*rows: list[int]) -> Likely:
    tokens = np.full((len(rows), 8), -1, np.int32)
    for row, found in zip(tokens, rows, strict=True):
        row[: len(found)] = found
    return Likely(tokens, (tokens >= 0).astype(np.float32) / 8)


def begin(way: Published, *tokens: int) -> None:
    way.begin(Beginning(0, NO_TOKENS, ids(*tokens)))


def paths(sketch: Sketch) -> list[tuple[int, ...]]:
    """Of every node, the tokens that lead to it."""
    found: list[tuple[int, ...]] = []
    for parent, token in zip(sketch.parents, sketch.tokens, strict=True):
        found.append((*(found[parent] if parent != ROOT else ()), token))
    return found


def know_everything(way: Published) -> None:
    """Each token has eight successors."""
    tokens = list(range(20_000))
    way.read_prompt(tokens, likely(*[[(8 * token + i) % 20_000 for i in range(1, 9)] for token in tokens]))


def test_token_recycling_fills_the_published_shape() -> None:
    way = TokenRecycling()
    know_everything(way)
    begin(way, 5, 0)
    levels = Counter(len(path) for path in paths(way.sketch()))
    assert [levels[depth] for depth in range(1, 8)] == [8, 21, 25, 15, 8, 3, 0]
    assert levels.total() == NODES


def test_token_recycling_keeps_what_was_seen_last_at_rejected_nodes_too() -> None:
    way = TokenRecycling()
    begin(way, 1)
    rejected = DraftTree(ids(7), ids(-1), ids(1), np.ones(1, np.float32))
    way.observe(StepResult(rejected, [2], [], 0, likely([2, 3], [9, 8])))
    way.observe(StepResult(EMPTY_TREE, [7], [], 0, likely([7, 4])))
    assert paths(way.sketch())[:2] == [(9,), (8,)]
    way.observe(StepResult(EMPTY_TREE, [7], [], 0, likely([6])))
    assert paths(way.sketch()) == [(6,)]


def test_racer_goes_on_as_the_text_did_and_fills_up_with_successors() -> None:
    way = Racer()
    passage = list(range(100, 112))
    begin(way, *passage, 1, 2, *passage[:2])
    assert (102,) in paths(way.sketch()) and tuple(passage[2:10]) in paths(way.sketch())
    begin(way, 9, 100)  # one token is no passage
    assert paths(way.sketch()) == []
    know_everything(way)
    begin(way, *passage, 1, 2, *passage[:2])
    found = paths(way.sketch())
    assert len(found) == racer.NODES
    assert (102,) in found and all((8 * 101 + i,) in found for i in range(1, 9))


def test_racer_gives_later_siblings_half_the_breadth() -> None:
    way = Racer()
    know_everything(way)
    begin(way, 0)
    children = Counter(path[0] for path in paths(way.sketch()) if len(path) == 2)
    assert [children[token] for token in range(1, 9)] == [8, 4, 2, 1, 1, 1, 1, 1]


@given(st.lists(st.integers(0, 5), min_size=30, max_size=120))
def test_of_rarely_used_passages_the_ends_give_way_first(text: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(racer, "TRIE_NODES", 60)
        passages = Passages()
        for at in range(len(text) - 9):
            passages.insert(tuple(text[at : at + 10]))
            assert len(passages._counts) <= 60
            assert all(len(kept) == 1 or kept[:-1] in passages for kept in passages._counts)
            assert tuple(text[at : at + 10]) in passages


def test_logitspec_guesses_what_was_not_chosen_and_what_followed_it() -> None:
    way = LogitSpec()
    begin(way, 5, 6, 7, 8, 9, 1)
    way.observe(StepResult(EMPTY_TREE, [2], [], 0, likely([2, 6, 3])))
    assert paths(way.sketch()) == [(6,), (6, 7), (6, 7, 8), (6, 7, 8, 9), (3,)]
    way.observe(said([5]))  # nothing was read: the passage alone
    assert paths(way.sketch()) == [tuple([6, 7, 8, 9, 1, 2, 5][:n]) for n in range(1, 8)]


@pytest.mark.parametrize("make", [TokenRecycling, Racer, LogitSpec])
def test_rated_drafts_come_likeliest_first_and_learn_what_comes_true(make: type[Published]) -> None:
    drafter = Rated(make)
    drafter.begin(Beginning(0, NO_TOKENS, ids(*[1, 2, 3, 4] * 12)))
    for _ in range(40):
        for token in (1, 2, 3, 4):
            tree = drafter.draft(64)
            assert (np.diff(tree.probabilities) <= 0).all()
            assert (tree.parents < np.arange(len(tree))).all()
            rows = [[token, 50, 60]] + [[node % 4 + 1] for node in tree.tokens.tolist()]
            drafter.observe(StepResult(tree, [token], [], 0, likely(*rows)))
    tree = drafter.draft(64)
    assert tree.tokens[0] == 1 and tree.probabilities[0] > 0.9
    assert make is TokenRecycling or float(tree.probabilities[-1]) < 0.5
    drafter.reset()
    drafter.begin(Beginning(0, NO_TOKENS, ids(9)))
    assert len(drafter.draft(64)) == 0


# On a model


@pytest.fixture(scope="module")
def speaker(tiny: dict[str, Path]) -> Iterator[Speaker]:
    speaker, close = virtual.open_speaker(tiny["llama"], 512, 1)
    yield speaker
    close()


@pytest.fixture(scope="module")
def text(speaker: Speaker, tiny: dict[str, Path]) -> RealText:
    prompt = speaker.target.model.tokenize(
        "one two three one two three one", add_special=True, parse_special=False
    )
    return speaker.write("a", "all", prompt, 40)


def test_an_answer_is_what_plain_decoding_says(text: RealText, tiny: dict[str, Path]) -> None:
    with LocalADED(
        tiny["llama"], draft="off", n_threads=1, n_ctx=512, flash_attention=True, cache_type="bf16"
    ) as llm:
        said = list(llm.generate(text.tokens[: text.start], max_tokens=40, temperature=0.0).tokens)
    assert text.tokens[text.start :][: len(said)] == said


def wide_tree(text: RealText, at: int) -> DraftTree:
    """Two true tokens behind twenty wrong ones, each with a child."""
    right = text.tokens[at : at + 2]
    tokens, parents, depths = [], [], []
    for token in range(20):
        tokens += [token + 300, token + 301]
        parents += [-1, len(parents)]
        depths += [1, 2]
    tokens, parents, depths = [*tokens, *right], [*parents, -1, 40], [*depths, 1, 2]
    return DraftTree(ids(*tokens), ids(*parents), ids(*depths), np.full(42, np.nan, np.float32))


def test_what_is_likely_is_decoded_once_in_small_passes_and_is_what_one_token_at_a_time_gives(
    speaker: Speaker, text: RealText
) -> None:
    at = text.start + 4
    tree = wide_tree(text, at)
    world = Remembered(speaker, text)
    found = world.look(text.tokens[:at], tree)
    passes = speaker.passes
    again = world.look(text.tokens[:at], tree)
    assert speaker.passes == passes and np.array_equal(found.tokens, again.tokens)
    for node in (-1, 0, 1, 39, 40, 41):
        path = tree.tokens[tree.path_to(node)].tolist() if node >= 0 else []
        logits = speaker.target.logits_after(ids(*text.tokens[:at], *path))
        assert found.tokens[node + 1, 0] == int(logits.argmax())
    assert not speaker.parted


def test_texts_are_kept(tmp_path: Path, speaker: Speaker, text: RealText) -> None:
    Remembered(speaker, text).look(text.tokens[: text.start + 4], wide_tree(text, text.start + 4))
    real.save(
        tmp_path / "kept", [text, RealText("b", "other", [1, 2, 3], 1, {(3, ()): text.rows[1, ()]})], "here"
    )
    found, other = real.load(tmp_path / "kept", "here")
    assert (found.id, found.category, found.tokens, found.start) == ("a", "all", text.tokens, text.start)
    assert found.rows.keys() == text.rows.keys() and other.tokens == [1, 2, 3]
    for key, (tokens, shares) in text.rows.items():
        assert np.array_equal(found.rows[key][0], tokens) and np.array_equal(found.rows[key][1], shares)
    with pytest.raises(OptionError, match="of here, not of there"):
        real.load(tmp_path / "kept", "there")


@pytest.mark.parametrize("content", [b"", b"nothing", b'{"kind": "run"}', b"PK\x03\x04nothing"])
def test_another_file_holds_no_logits(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kept").write_bytes(content)
    with pytest.raises(StoreError, match="kept is no file of --logits; name another"):
        real.load(tmp_path / "kept", "here")


@pytest.mark.parametrize("name", ["mamba", "lfm2"])
def test_a_model_on_which_drafts_cannot_branch_is_refused(tiny: dict[str, Path], name: str) -> None:
    with pytest.raises(OptionError, match=f"drafts cannot branch on {name}.gguf"):
        virtual.open_speaker(tiny[name], 512, 1)


def make(preset: str) -> object:
    return make_drafter(preset, n_vocab=1 << 15)


@pytest.mark.parametrize("name", virtual.ways(lambda preset: FixedDrafter()))
def test_every_way_says_what_the_model_says_in_the_passes_that_are_counted(
    speaker: Speaker, text: RealText, name: str
) -> None:
    bench = virtual.Bench(speaker, [text, text], make, 40)  # type: ignore[arg-type]
    rows = list(bench.rows([name], [CURVE]))
    assert [row.phase for row in rows] == list(virtual.PHASES)
    assert all(row.different == 0 and row.tokens_per_pass >= 1.0 and row.speed > 0.0 for row in rows)
    if name == "off":
        assert all(row.speed == pytest.approx(1.0) and row.nodes_per_pass == 0.0 for row in rows)
    if name != "token-recycling":  # wider than a pass of the engine
        assert bench.decoded([name], CURVE, 1) == {name: (0, 0)}


def test_a_published_tree_is_whole_and_a_budgeted_one_is_not(speaker: Speaker, text: RealText) -> None:
    bench = virtual.Bench(speaker, [text], make, 40)  # type: ignore[arg-type]
    whole, budgeted = (
        row for row in bench.rows(["racer", "racer-budget"], [CURVE]) if row.phase == virtual.FRESH
    )
    assert whole.nodes_per_pass > 2 * budgeted.nodes_per_pass
    assert isinstance(virtual.ways(lambda preset: FixedDrafter())["racer"](CURVE).published, AsPublished)


def test_the_command_prints_a_line_for_each_way(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = tmp_path / "even.json"
    curve.write_text('{"ratio": {"1": 1.0, "2": 1.2, "16": 2.0}}')
    suite = tmp_path / "suite.jsonl"
    suite.write_text('{"id": "x", "prompt": "one two three one two three"}\n')
    call = [
        "drafters", str(tiny["llama"]), "--suite", str(suite), "--curve", str(curve), "-n", "12",
        "-t", "1", "-c", "512", "--ways", "off,auto,logitspec", "--logits", str(tmp_path / "logits"), "--decode", "1",
    ]  # fmt: skip
    first, second = CliRunner().invoke(main, call), CliRunner().invoke(main, call)
    assert first.exit_code == second.exit_code == 0, first.output
    assert "logitspec" in second.stdout and "of 1 answers decoded tree by tree 0 are others" in second.stdout
    wrong = CliRunner().invoke(main, [*call, "--ways", "nothing"])
    assert wrong.exit_code == 2 and "token-recycling-budget" in wrong.output
    empty = CliRunner().invoke(main, [*call, "--ways", ""])
    assert (empty.exit_code, empty.stderr.count("\n")) == (2, 1) and "the list is empty" in empty.stderr

    def full(file: BinaryIO, **_: object) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.iterdir() if path.is_file())
    monkeypatch.setattr(np, "savez_compressed", full)
    unkept = CliRunner().invoke(main, call)
    assert unkept.exit_code == 2 and "logitspec" in unkept.stdout
    assert "No space left on device" in unkept.stderr and "printed above" in unkept.stderr
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.iterdir() if path.is_file()) == before
