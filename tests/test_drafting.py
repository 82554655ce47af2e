"""Drafts are trees, learning is bounded and deterministic, and observed text comes back as drafts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aded_local.drafting import Drafter, make_drafter
from aded_local.drafting.auto import MOST_NODES, AutoDrafter
from aded_local.drafting.paper import PaperDrafter
from aded_local.errors import OptionError
from aded_local.tree import DraftTree, IntArray

VOCAB = 256_000
SETTINGS = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# Few distinct tokens, so that contexts repeat; the largest id of a large vocabulary among them.
streams = st.lists(st.sampled_from([0, 1, 2, 3, 4, VOCAB - 1]), min_size=1, max_size=120)
steps = st.lists(st.integers(1, 6), min_size=1, max_size=20)


def ids(*tokens: int) -> IntArray:
    return np.array(tokens, np.int32)


def drafters() -> list[Drafter]:
    return [
        AutoDrafter(n_vocab=VOCAB),
        AutoDrafter(n_vocab=VOCAB, search="puct"),
        PaperDrafter(n_vocab=VOCAB),
    ]


@pytest.fixture(scope="module")
def three() -> list[Drafter]:
    return drafters()


def assert_is_a_tree(tree: DraftTree, limit: int) -> None:
    n = len(tree)
    assert n <= limit
    assert len(tree.parents) == len(tree.depths) == len(tree.probabilities) == n
    assert np.all(tree.probabilities >= 0) and np.all(tree.probabilities <= 1)
    assert np.all(np.diff(tree.probabilities) <= 0)
    children: dict[int, float] = {}
    seen = set()
    for i in range(n):
        parent = int(tree.parents[i])
        assert -1 <= parent < i
        assert tree.depths[i] == (1 if parent < 0 else tree.depths[parent] + 1)
        assert (parent, int(tree.tokens[i])) not in seen
        seen.add((parent, int(tree.tokens[i])))
        children[parent] = children.get(parent, 0.0) + float(tree.probabilities[i])
    for parent, total in children.items():
        assert total <= (1.0 if parent < 0 else float(tree.probabilities[parent])) + 1e-5


def replay(drafter: Drafter, stream: list[int], lengths: list[int], max_nodes: int) -> Iterator[DraftTree]:
    """Draft and observe through a stream in steps of the given lengths."""
    drafter.begin(ids(*stream[:1]))
    at = 1
    for length in lengths:
        yield drafter.draft(max_nodes)
        if stream[at : at + length]:
            drafter.observe(ids(*stream[at : at + length]))
        at += length


@SETTINGS
@given(stream=streams, lengths=steps, max_nodes=st.integers(0, 80))
def test_every_draft_is_a_tree_with_probabilities(
    three: list[Drafter], stream: list[int], lengths: list[int], max_nodes: int
) -> None:
    for drafter in three:
        drafter.reset_context()
        for tree in replay(drafter, stream, lengths, max_nodes):
            assert_is_a_tree(tree, min(max_nodes, MOST_NODES))


@settings(max_examples=8, deadline=None)
@given(stream=streams, lengths=steps)
def test_the_same_seed_and_text_give_the_same_drafts(stream: list[int], lengths: list[int]) -> None:
    for one, other in zip(drafters(), drafters(), strict=True):
        for a, b in zip(replay(one, stream, lengths, 16), replay(other, stream, lengths, 16), strict=True):
            assert np.array_equal(a.tokens, b.tokens)
            assert np.array_equal(a.parents, b.parents)
            assert np.array_equal(a.probabilities, b.probabilities)


@pytest.mark.parametrize("preset", ["auto", "paper"])
def test_a_repeated_passage_is_drafted(preset: str) -> None:
    drafter = make_drafter(preset, n_vocab=1000)
    drafter.begin(ids(*range(10, 20), 5, 10, 11, 12, 13, 14))
    tree = drafter.draft(8)
    assert len(tree) > 0
    assert tree.tokens[0] == 15
    assert [int(tree.tokens[i]) for i in tree.path_to(1)] == [15, 16]


def test_calibration_follows_what_the_target_says() -> None:
    """Candidates that never come true lose their probability; those that do gain it."""
    fooled, served = AutoDrafter(n_vocab=100_000), AutoDrafter(n_vocab=100_000)
    rng = np.random.default_rng(0)
    for i in range(60):
        passage = rng.integers(1000, 90_000, 6)
        for drafter in (fooled, served):
            drafter.begin(ids(*passage, 7, *passage[:5]))
            drafter.draft(4)
        fooled.observe(ids(99_000 + i))
        served.observe(ids(int(passage[5])))
    question = ids(*passage, 7, *passage[:5])
    likeliest = []
    for drafter in (fooled, served):
        drafter.reset_context()
        drafter.model.memory["key"] = 0
        drafter.begin(question)
        likeliest.append(float(drafter.draft(1).probabilities[0]))
    assert likeliest[0] < 0.35 < 0.8 < likeliest[1]


def test_a_continued_conversation_learns_only_what_is_new() -> None:
    text = list(range(50, 90))
    once, twice = AutoDrafter(n_vocab=1000), AutoDrafter(n_vocab=1000)
    once.begin(ids(*text))
    twice.begin(ids(*text[:30]))
    twice.begin(ids(*text))
    twice.begin(ids(*text))
    assert np.array_equal(once.model.memory["total"], twice.model.memory["total"])
    assert np.array_equal(once.model.memory["counts"], twice.model.memory["counts"])


def test_another_conversation_keeps_the_memory_but_not_the_context() -> None:
    drafter = AutoDrafter(n_vocab=1000)
    drafter.begin(ids(1, 2, 3, 4, 5, 6, 7, 8))
    drafter.begin(ids(9, 3, 4, 5))
    assert drafter.draft(1).tokens[0] == 6
    drafter.reset()
    drafter.begin(ids(9, 3, 4, 5))
    assert len(drafter.draft(4)) == 0


def test_a_dear_pass_stops_the_search_and_a_cheap_one_does_not() -> None:
    drafter = AutoDrafter(n_vocab=1000)
    drafter.begin(ids(*range(10, 20), 5, 10, 11, 12, 13, 14))
    dear = np.arange(18, dtype=np.float64) ** 2
    cheap = np.concatenate(([0.0], np.linspace(1.0, 1.01, 17)))
    assert len(drafter.draft(16, dear)) == 0
    assert len(drafter.draft(16, cheap)) >= 4


def test_the_greatest_history_and_prompt_are_survived() -> None:
    drafter = AutoDrafter(n_vocab=VOCAB)
    rng = np.random.default_rng(1)
    long = rng.integers(0, VOCAB, 200_000).astype(np.int32)
    drafter.begin(long)
    for start in range(0, 150_000, 50_000):
        drafter.observe(long[start : start + 50_000])
        assert_is_a_tree(drafter.draft(16), 16)
    assert drafter.model.memory.shape == (1 << 18,)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(OptionError, match="magic"):
        make_drafter("magic", n_vocab=10)


def test_kernels_compile_where_no_cache_can_be_written() -> None:
    """A process whose cache folder cannot exist still drafts; only one small kernel is compiled here."""
    program = (
        "from aded_local.drafting import compiling, statistics as s\n"
        "assert compiling.CACHE_FOLDER is None\n"
        "t = s.new_table(4)\n"
        "s.find(t, s.np.uint64(3))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"NUMBA_CACHE_DIR": "/dev/null/nowhere", "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_word_taken_up_again_after_a_break_is_drafted() -> None:
    """Answers of the form "8 w … 8 9 w": what followed the first 8 comes back after "8 9", though w is new."""
    drafter = AutoDrafter(n_vocab=1000)
    start = 20
    for answer in range(12):
        word = start + answer
        tokens = [5, 8, word, 60 + answer, 61 + answer, 8, 9]
        drafter.begin(np.array(tokens, np.int32))
        tree = drafter.draft(4)
        drafter.observe(np.array([word, 7], np.int32))
    first_level = {
        int(tree.tokens[n]): float(tree.probabilities[n]) for n in range(len(tree)) if tree.parents[n] < 0
    }
    assert first_level.get(word, 0.0) > 0.3


def test_a_context_goes_on_as_it_did_when_nothing_longer_was_known() -> None:
    """8 opens a word after 5 and closes one after anything new: what comes after 8 depends on which it is."""
    drafter = AutoDrafter(n_vocab=1000)
    for answer in range(12):
        drafter.begin(np.array([5, 8, 20 + answer, 40 + answer, 8], np.int32))
        tree = drafter.draft(4)
        drafter.observe(np.array([9], np.int32))
    assert int(tree.tokens[0]) == 9
    assert tree.probabilities[0] > 0.5
