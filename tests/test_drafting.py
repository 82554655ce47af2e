"""Drafts are trees, learning is bounded and deterministic, and observed text comes back as drafts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from drafters import assert_is_a_tree, auto, chances, ids, main_chain, replay
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aded_local.drafters import Drafter, make_drafter
from aded_local.drafters.ngram.drafter import HISTORY_BITS, MOST_NODES, AutoDrafter, Search
from aded_local.drafters.ngram.state import predictor_type
from aded_local.drafters.paper.drafter import PaperDrafter
from aded_local.errors import OptionError
from aded_local.ngrams.table import (
    BUCKET,
    CHECK_SHIFT,
    ORDERS,
    SEED_KEY,
    WIDE_ORDERS,
    check_of,
    count_text,
    extend_hash,
    first_entry,
    new_table,
)
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


def drafters() -> list[Drafter]:
    return [auto(VOCAB), auto(VOCAB, search="puct"), PaperDrafter(n_vocab=VOCAB)]


@pytest.fixture(scope="module")
def three() -> list[Drafter]:
    return drafters()


# Every draft


@SETTINGS
@given(stream=streams, lengths=steps, max_nodes=st.integers(0, 80))
def test_every_draft_is_a_tree_with_probabilities(
    three: list[Drafter], stream: list[int], lengths: list[int], max_nodes: int
) -> None:
    for drafter in three:
        drafter.reset_context()
        for tree in replay(drafter, stream, lengths, max_nodes):
            assert_is_a_tree(tree, min(max_nodes, MOST_NODES), VOCAB)


@SETTINGS
@given(stream=streams, lengths=steps)
def test_predictions_are_distributions(three: list[Drafter], stream: list[int], lengths: list[int]) -> None:
    for drafter in three:
        drafter.reset_context()
        for _ in replay(drafter, stream, lengths, 4):
            tokens, shares = drafter.predict()
            assert tokens.dtype == np.int32 and shares.dtype == np.float32
            assert len(set(tokens.tolist())) == len(tokens) == len(shares)
            assert np.all((tokens >= 0) & (tokens < VOCAB))
            assert np.all(shares >= 0) and np.all(np.diff(shares) <= 0) and shares.sum() <= 1 + 1e-5


@settings(max_examples=8, deadline=None)
@given(stream=streams, lengths=steps)
def test_the_same_seed_and_text_give_the_same_drafts(stream: list[int], lengths: list[int]) -> None:
    for one, other in zip(drafters(), drafters(), strict=True):
        for a, b in zip(replay(one, stream, lengths, 16), replay(other, stream, lengths, 16), strict=True):
            assert np.array_equal(a.tokens, b.tokens)
            assert np.array_equal(a.parents, b.parents)
            assert np.array_equal(a.probabilities, b.probabilities)


def test_a_draft_stays_what_it_was_when_the_next_is_made() -> None:
    for drafter in drafters():
        drafter.begin(ids(*[1, 2, 3, 4, 5, 6, 7, 8] * 4))
        tree = drafter.draft(8)
        kept = [array.copy() for array in (tree.tokens, tree.parents, tree.depths, tree.probabilities)]
        drafter.observe(ids(1, 2, 3))
        assert len(drafter.draft(8)) > 0
        for array, before in zip(
            (tree.tokens, tree.parents, tree.depths, tree.probabilities), kept, strict=True
        ):
            assert np.array_equal(array, before)


def test_a_vocabulary_bounds_every_token(three: list[Drafter]) -> None:
    """Ids that a drafter was told although its model has no such tokens are never proposed."""
    for search in ("best-first", "puct"):
        drafter = auto(50, search=search)
        for tree in replay(drafter, [10, 60, 20, 70, 30] * 12, [1] * 55, 32):
            assert_is_a_tree(tree, 32, 50)


# Stores that lie

SMALL = 40
"""Tokens of a small vocabulary."""


def garbage(seed: int, contexts: Sequence[IntArray], bits: int = 12) -> IntArray:
    """A table of random entries; in the buckets of every context of some texts they pass for its successors."""
    rng = np.random.default_rng(seed)
    table = new_table(bits)
    table[:] = rng.integers(-(2**63), 2**63, 1 << bits, np.int64)
    entries = np.flatnonzero(rng.random(1 << bits) < 0.6)  # of tokens that exist, too
    table[entries] = (table[entries] & ~0xFFFFFF) | rng.integers(0, 2 * SMALL, len(entries))
    for text in contexts:
        for i in range(len(text)):
            key = SEED_KEY
            for k in range(min(ORDERS, i) + 1):
                if k > 0:
                    key = np.uint64(int(extend_hash(key, text[i - k])) % 2**64)
                wide = k <= WIDE_ORDERS
                first = first_entry(table, key, wide)
                mine = slice(first, first + (2 * BUCKET if wide else BUCKET))
                table[mine] = (table[mine] & ((1 << CHECK_SHIFT) - 1)) | np.int64(
                    np.uint64(int(check_of(key)) << CHECK_SHIFT).astype(np.int64)
                )
    return table


@pytest.mark.parametrize("search", ["best-first", "puct"])
@pytest.mark.parametrize("seed", range(4))
def test_corrupted_stores_cost_speed_only(search: Search, seed: int) -> None:
    """Whatever the bytes of a static store or of the shipped phrases: trees of tokens that exist, and no hang."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, SMALL, 60).astype(np.int32) for _ in range(3)]
    static, phrases = garbage(seed, texts), garbage(seed + 100, texts)
    before = static.copy(), phrases.copy()
    drafter = auto(SMALL, search=search, static=static, phrases=phrases)
    proposed = 0
    for text in texts:
        for tree in replay(drafter, text.tolist(), [1, 2, 3] * 10, 64):
            assert_is_a_tree(tree, 64, SMALL)
            proposed += len(tree)
    assert proposed > 0
    assert np.all(np.isfinite(drafter.model.weights)) and np.all(np.isfinite(drafter.model.rates))
    assert np.all((drafter.model.finals[0] >= 0) & (drafter.model.finals[0] <= 1))
    assert np.array_equal(static, before[0]) and np.array_equal(phrases, before[1])


@pytest.mark.parametrize("entry", [-1, 1, (1 << 63) - 1, -(1 << 63)])
def test_stores_of_one_entry_over_and_over_are_survived(entry: int) -> None:
    table = new_table(12)
    table[:] = entry
    drafter = auto(SMALL, static=table, phrases=table)
    for tree in replay(drafter, [1, 2, 3, 1, 2, 4] * 10, [1] * 50, 64):
        assert_is_a_tree(tree, 64, SMALL)


def test_a_store_speaks_before_anything_was_said_and_phrases_where_it_is_silent() -> None:
    static, phrases = new_table(12), new_table(12)
    count_text(static, ids(1, 2, 3, 4), 0)
    count_text(phrases, ids(1, 2, 9, 9, 5, 6, 7), 0)
    drafter = auto(static=static, phrases=phrases)
    drafter.begin(ids(1, 2))
    assert next(iter(chances(drafter))) == 3
    drafter.begin(ids(5, 6))
    assert next(iter(chances(drafter))) == 7


# Learning


@pytest.mark.parametrize("preset", ["auto", "paper"])
def test_a_repeated_passage_is_drafted(preset: str) -> None:
    drafter = make_drafter(preset, n_vocab=1000)
    drafter.begin(ids(*range(10, 20), 5, 10, 11, 12, 13, 14))
    tree = drafter.draft(8)
    assert len(tree) > 0
    assert tree.tokens[0] == 15
    assert [int(tree.tokens[i]) for i in tree.path_to(1)] == [15, 16]


def test_another_conversation_keeps_the_memory_but_not_the_context() -> None:
    drafter = auto()
    drafter.begin(ids(1, 2, 3, 4, 5, 6, 7, 8))
    drafter.begin(ids(9, 3, 4, 5))
    assert drafter.draft(1).tokens[0] == 6
    drafter.reset()
    drafter.begin(ids(9, 3, 4, 5))
    assert 6 not in drafter.draft(4).tokens


def test_a_dear_pass_stops_the_search_and_a_cheap_one_does_not() -> None:
    drafter = auto()
    drafter.begin(ids(*range(10, 20), 5, 10, 11, 12, 13, 14))
    dear = np.arange(18, dtype=np.float64) ** 2
    cheap = np.concatenate(([0.0], np.linspace(1.0, 1.01, 17)))
    assert len(drafter.draft(16, dear)) == 0
    assert len(drafter.draft(16, cheap)) >= 4


@SETTINGS
@given(stream=streams, max_nodes=st.integers(1, 31))
def test_a_small_draft_is_the_beginning_of_a_large_one(
    three: list[Drafter], stream: list[int], max_nodes: int
) -> None:
    drafter = three[0]
    drafter.begin(ids(*stream))
    large, little = drafter.draft(32), drafter.draft(max_nodes)
    assert np.array_equal(large.first(max_nodes).tokens, little.tokens)
    assert np.array_equal(large.first(max_nodes).parents, little.parents)
    assert np.array_equal(large.first(max_nodes).probabilities, little.probabilities)


@SETTINGS
@given(stream=streams, max_nodes=st.integers(1, 64))
def test_no_tree_of_the_other_search_is_worth_more(
    three: list[Drafter], stream: list[int], max_nodes: int
) -> None:
    drafter = three[0]
    assert isinstance(drafter, AutoDrafter)
    drafter.begin(ids(*stream))
    best = drafter.draft(max_nodes)
    drafter.search = "puct"
    other = drafter.draft(max_nodes)
    drafter.search = "best-first"
    assert_is_a_tree(other, max_nodes, VOCAB)
    assert other.probabilities.sum() <= best.probabilities.sum() + 1e-4


@SETTINGS
@given(stream=streams, rises=st.lists(st.floats(0.0, 0.5), min_size=1, max_size=40))
def test_the_search_stops_only_where_no_further_node_could_pay(
    three: list[Drafter], stream: list[int], rises: list[float]
) -> None:
    drafter = three[0]
    drafter.begin(ids(*stream))
    cost = np.concatenate(([0.0, 1.0], 1.0 + np.cumsum(rises)))

    def worth(tree: DraftTree) -> float:
        """The most tokens per second among the tree's beginnings."""
        sizes = range(min(len(tree), len(cost) - 2) + 1)
        return max((1.0 + float(tree.probabilities[:n].sum(dtype=np.float64))) / cost[n + 1] for n in sizes)

    priced = drafter.draft(32, cost)
    assert_is_a_tree(priced, 32, VOCAB)
    assert worth(priced) == pytest.approx(worth(drafter.draft(32)), rel=1e-5)


def test_a_context_goes_on_as_it_did_when_nothing_longer_was_known() -> None:
    """8 opens a word after 5 and closes one after anything new: what comes after 8 depends on which it is."""
    drafter = auto()
    for answer in range(12):
        drafter.begin(ids(5, 8, 20 + answer, 40 + answer, 8))
        tree = drafter.draft(4)
        drafter.observe(ids(9))
    assert int(tree.tokens[0]) == 9
    assert tree.probabilities[0] > 0.4


# Conversations


def history(drafter: AutoDrafter) -> list[int]:
    """The tokens of this context."""
    state, ring = drafter.model.state, drafter.model.history
    places = np.arange(state.start, state.head) & (len(ring) - 1)
    found: list[int] = ring[places].tolist()
    return found


def test_a_continued_conversation_learns_only_what_is_new() -> None:
    text = list(range(50, 90))
    once, twice = auto(), auto()
    once.begin(ids(*text))
    twice.begin(ids(*text[:30]))
    twice.begin(ids(*text))
    twice.begin(ids(*text))
    assert np.array_equal(once.tables.memory, twice.tables.memory)
    assert history(once) == history(twice) == text


@pytest.mark.parametrize(
    ("prompt", "continues"),
    [
        (list(range(100)), True),
        ([*range(100), 5, 6], True),
        ([*range(90), 5, 6], True),
        (list(range(80)), True),
        ([*range(20), 5, 6], False),
        ([7, *range(100)], False),
        ([], False),
    ],
)
def test_a_prompt_continues_edits_or_begins_a_conversation(prompt: list[int], continues: bool) -> None:
    drafter = auto()
    drafter.begin(ids(*range(60)))
    drafter.observe(ids(*range(60, 100)))
    start = int(drafter.model.state.start)
    drafter.begin(ids(*prompt))
    assert (drafter.model.state.start == start) is np.bool_(continues)
    assert history(drafter) == prompt
    drafter.observe(ids(1, 2, 3))
    assert_is_a_tree(drafter.draft(16), 16, 1000)
    assert history(drafter) == [*prompt, 1, 2, 3]


EXCHANGES = [
    (ids(*range(10, 40)), ids(*range(12, 30)), False),
    (ids(5, 6, 7), ids(*range(14, 20)), True),
    (ids(*range(30, 50)), ids(8, 9, *range(31, 45)), False),
]


def lived_through() -> AutoDrafter:
    drafter = auto()
    said: list[int] = []
    for prompt, answer, continues in EXCHANGES:
        said = [*(said if continues else []), *prompt]
        drafter.begin(ids(*said))
        drafter.draft(8)
        drafter.observe(answer)
        said += answer.tolist()
    drafter.reset_context()
    return drafter


def test_recalling_counts_what_living_through_it_counted() -> None:
    recalled, lived = auto(), lived_through()
    recalled.recall(EXCHANGES)
    assert np.array_equal(recalled.tables.memory, lived.tables.memory)
    assert np.array_equal(recalled.model.history, lived.model.history)
    assert np.array_equal(recalled.model.positions, lived.model.positions)
    for name in ("places", "documents"):
        one, other = (getattr(drafter.model.conversations, name) for drafter in (recalled, lived))
        assert np.array_equal(one, other)
    assert recalled.model.weights.std() > 0  # the mixing was taught as well


def test_recalling_nothing_changes_nothing() -> None:
    drafter = auto()
    drafter.recall([])
    drafter.recall([(ids(), ids(), False)])
    assert not drafter.tables.memory.any()
    assert len(drafter.draft(8)) == 0
    drafter.begin(ids(1, 2, 1, 2, 1))
    assert int(drafter.draft(8).tokens[0]) == 2


def test_long_memories_are_counted_and_only_the_newest_answers_teach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aded_local.drafters.ngram.drafter.TAUGHT_TOKENS", 30)
    rng = np.random.default_rng(0)
    exchanges = [
        (rng.integers(0, 9, 20).astype(np.int32), rng.integers(0, 9, 20).astype(np.int32), False)
    ] * 3
    old, new = auto(), auto()
    old.recall(exchanges)
    for prompt, answer, _ in exchanges:
        new.begin(np.concatenate((prompt, answer)))
        new.reset_context()
    assert np.array_equal(old.tables.memory, new.tables.memory)
    assert old.model.rates.any() and not new.model.rates.any()


@pytest.mark.parametrize("search", ["best-first", "puct"])
def test_reset_forgets_everything(search: Search) -> None:
    fresh = auto(search=search)
    used = auto(search=search)
    used.recall(EXCHANGES)
    used.learn_distributions(used.draft(0), ids(1, 2).reshape(1, 2), np.full((1, 2), 0.5, np.float32))
    stream = np.random.default_rng(0).integers(0, 9, 100).tolist()
    list(replay(used, stream, [3] * 30, 16))
    used.reset()
    assert bytes(used.model) == bytes(fresh.model)
    for one, other in zip(used.tables, fresh.tables, strict=True):
        assert np.array_equal(one, other)
    for a, b in zip(replay(used, stream, [3] * 30, 16), replay(fresh, stream, [3] * 30, 16), strict=True):
        assert np.array_equal(a.tokens, b.tokens)
        assert np.array_equal(a.probabilities, b.probabilities)


# Bounds


def arrays(drafter: AutoDrafter) -> list[npt.NDArray[Any]]:
    return [drafter.model.nodes, drafter.model.history, *drafter.tables]


@pytest.mark.parametrize("search", ["best-first", "puct"])
def test_nothing_grows(search: Search) -> None:
    drafter = auto(search=search)
    before = arrays(drafter)
    sizes = [(array.ctypes.data, array.nbytes) for array in before]
    stream = np.random.default_rng(0).integers(0, 20, 900).tolist()
    for tree in replay(drafter, stream, [3] * 300, 64):
        rows = np.tile(ids(3, 4), (len(tree) + 1, 1))
        drafter.learn_distributions(tree, rows, np.full(rows.shape, 0.5, np.float32))
        drafter.predict()
    after = arrays(drafter)
    assert sizes == [(array.ctypes.data, array.nbytes) for array in after]


TINY = predictor_type(history_bits=6, position_bits=3, pool_size=256)


def small(drafter: AutoDrafter, table_bits: int = 5) -> AutoDrafter:
    """The same with next to no memory, so that everything is overwritten all the time."""
    drafter.block_type = TINY
    drafter.reset()
    return with_tables(drafter, table_bits)


def with_tables(drafter: AutoDrafter, bits: int) -> AutoDrafter:
    """The same with empty tables of another size."""
    drafter.tables = drafter.tables._replace(
        memory=new_table(bits), context=new_table(bits), soft=new_table(bits)
    )
    return drafter


calls = st.lists(
    st.one_of(
        st.tuples(st.just("observe"), st.lists(st.integers(0, 5), max_size=9)),
        st.tuples(st.just("begin"), st.lists(st.integers(0, 5), max_size=150)),
        st.tuples(st.just("continue"), st.lists(st.integers(0, 5), max_size=20)),
        st.tuples(st.just("shorten"), st.integers(0, 100)),
        st.tuples(st.just("draft"), st.integers(-1, 70)),
        st.tuples(st.just("soften"), st.integers(1, 4)),
        st.just(("predict", 0)),
        st.just(("end", 0)),
    ),
    max_size=30,
)


@pytest.fixture(scope="module")
def two() -> list[AutoDrafter]:
    return [small(auto(5)), small(auto(5, search="puct"))]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls=calls, table_bits=st.integers(4, 8))
def test_any_calls_in_any_order_on_the_smallest_memory(
    two: list[AutoDrafter], calls: list[tuple[str, Any]], table_bits: int
) -> None:
    for drafter in two:
        drafter.reset_context()
        drafter.model.state.head = drafter.model.state.start = drafter.model.state.asked = 0
        drafter.model.history[:] = drafter.model.positions[:] = 0
        with_tables(drafter, table_bits)
        said: list[int] = []
        tree = drafter.draft(4)
        for name, value in calls:
            if name == "observe":
                said += value
                drafter.observe(ids(*value))
            elif name == "begin":
                said = list(value)
                drafter.begin(ids(*said))
            elif name == "continue":
                said = said + value
                drafter.begin(ids(*said))
            elif name == "shorten":
                said = said[: len(said) * value // 100]
                drafter.begin(ids(*said))
            elif name == "draft":
                tree = drafter.draft(value)
                assert_is_a_tree(tree, min(max(0, value), MOST_NODES), 5)
                continue
            elif name == "soften":
                rows = np.arange((len(tree) + 1) * value, dtype=np.int32).reshape(-1, value) % 7 - 1
                drafter.learn_distributions(tree, rows, np.full(rows.shape, 1 / value, np.float32))
                continue
            elif name == "predict":
                assert sum(chances(drafter).values()) <= 1 + 1e-5
            else:
                said = []
                drafter.reset_context()
            tree = drafter.draft(0)


def test_a_history_that_overflows_forgets_its_beginning() -> None:
    drafter = small(auto(), table_bits=16)
    drafter.begin(ids(*range(100, 200)))
    for first in range(300, 700, 50):
        drafter.observe(ids(*range(first, first + 50)))
        assert_is_a_tree(drafter.draft(16), 16, 1000)
    drafter.observe(ids(*range(690, 695)))
    assert main_chain(drafter.draft(4))[:1] == [695]
    drafter.begin(ids(1, 2, 3))
    assert_is_a_tree(drafter.draft(16), 16, 1000)


def test_the_greatest_prompt_and_history_are_survived() -> None:
    drafter = auto(VOCAB)
    rng = np.random.default_rng(1)
    long = rng.integers(0, VOCAB, 200_000).astype(np.int32)
    drafter.begin(long)
    for start in range(0, 60_000, 20_000):
        drafter.observe(long[start : start + 20_000])
        assert_is_a_tree(drafter.draft(16), 16, VOCAB)


@pytest.mark.slow
def test_more_tokens_than_the_history_holds_are_survived() -> None:
    drafter = auto(VOCAB)
    rng = np.random.default_rng(1)
    long = rng.integers(0, VOCAB, (1 << HISTORY_BITS) + 1000).astype(np.int32)
    drafter.begin(long)
    drafter.observe(long[:1000])
    drafter.begin(np.concatenate((long, long)))
    for start in range(0, len(long), 50_000):
        drafter.observe(long[start : start + 50_000])
        assert_is_a_tree(drafter.draft(16), 16, VOCAB)


# Presets and kernels


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(OptionError, match="magic"):
        make_drafter("magic", n_vocab=10)


def test_kernels_compile_where_no_cache_can_be_written() -> None:
    """A process whose cache folder cannot exist still drafts; only one small kernel is compiled here."""
    program = (
        "import tempfile; tempfile.tempdir = '/dev/null/nowhere'\n"
        "from aded_local.drafters import kept, statistics as s\n"
        "assert kept.FOLDER is None\n"
        "s.extend_hash(s.SEED_KEY, 3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"NUMBA_CACHE_DIR": "/dev/null/nowhere", "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
