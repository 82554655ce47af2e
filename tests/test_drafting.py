"""Drafts are trees, learning is bounded and deterministic, and observed text comes back as drafts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from drafters import assert_is_a_tree, auto, begin, chances, ids, main_chain, observe, replay
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aded_local.drafters import Drafter, make_drafter
from aded_local.drafters.ngram.candidates import MODEL
from aded_local.drafters.ngram.drafter import HISTORY_BITS, KNOWN_SESSIONS, MOST_NODES, NgramDrafter, Search
from aded_local.drafters.ngram.state import predictor_type
from aded_local.drafters.paper.drafter import PaperDrafter
from aded_local.errors import OptionError
from aded_local.ngrams.table import (
    BUCKET,
    CHECK_SHIFT,
    LAST,
    ORDERS,
    SEED_KEY,
    STAMP_MASK,
    STAMP_SHIFT,
    WIDE_ORDERS,
    check_of,
    count_text,
    extend_hash,
    first_entry,
    new_table,
)
from aded_local.speed.budget import DRAFT_MARGIN, price
from aded_local.speed.cost_curve import from_measurements
from aded_local.speed.planner import AutoPlanner, Limits
from aded_local.step import Beginning, Likely
from aded_local.tree import EMPTY_TREE, DraftTree, IntArray

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
        for tree in replay(drafter, stream, lengths, max_nodes):
            assert_is_a_tree(tree, min(max_nodes, MOST_NODES), VOCAB)


@SETTINGS
@given(stream=streams, lengths=steps)
def test_predictions_are_distributions(three: list[Drafter], stream: list[int], lengths: list[int]) -> None:
    for drafter in three:
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
        begin(drafter, ids(*[1, 2, 3, 4, 5, 6, 7, 8] * 4))
        tree = drafter.draft(8)
        kept = [array.copy() for array in (tree.tokens, tree.parents, tree.depths, tree.probabilities)]
        observe(drafter, ids(1, 2, 3))
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


def test_a_store_is_asked_before_anything_was_said_and_phrases_where_it_knows_nothing() -> None:
    static, phrases = new_table(12), new_table(12)
    count_text(static, ids(1, 2, 3, 4), 0)
    count_text(phrases, ids(1, 2, 9, 9, 5, 6, 7), 0)
    drafter = auto(static=static, phrases=phrases)
    begin(drafter, ids(1, 2))
    assert next(iter(chances(drafter))) == 3
    begin(drafter, ids(5, 6))
    assert next(iter(chances(drafter))) == 7


# Learning


@pytest.mark.parametrize("preset", ["auto", "paper"])
def test_a_repeated_passage_is_drafted(preset: str) -> None:
    drafter = make_drafter(preset, n_vocab=1000)
    begin(drafter, ids(*range(10, 20), 5, 10, 11, 12, 13, 14))
    tree = drafter.draft(8)
    assert len(tree) > 0
    assert tree.tokens[0] == 15
    assert [int(tree.tokens[i]) for i in tree.path_to(1)] == [15, 16]


def test_another_conversation_keeps_the_memory_but_not_the_context() -> None:
    drafter = auto()
    begin(drafter, ids(1, 2, 3, 4, 5, 6, 7, 8))
    begin(drafter, ids(9, 3, 4, 5))
    assert drafter.draft(1).tokens[0] == 6
    drafter.reset()
    begin(drafter, ids(9, 3, 4, 5))
    assert 6 not in drafter.draft(4).tokens


def test_a_dear_pass_stops_the_search_and_a_cheap_one_does_not() -> None:
    drafter = auto()
    begin(drafter, ids(*range(10, 20), 5, 10, 11, 12, 13, 14))
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
    begin(drafter, ids(*stream))
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
    assert isinstance(drafter, NgramDrafter)
    begin(drafter, ids(*stream))
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
    begin(drafter, ids(*stream))
    cost = np.concatenate(([0.0, 1.0], 1.0 + np.cumsum(rises)))

    def worth(tree: DraftTree) -> float:
        """The most tokens per second among the tree's beginnings."""
        sizes = range(min(len(tree), len(cost) - 2) + 1)
        return max((1.0 + float(tree.probabilities[:n].sum(dtype=np.float64))) / cost[n + 1] for n in sizes)

    priced = drafter.draft(32, cost)
    assert_is_a_tree(priced, 32, VOCAB)
    assert worth(priced) == pytest.approx(worth(drafter.draft(32)), rel=1e-5)


STEPS = {
    "amx": {1: 1.0, 2: 1.79, 4: 1.97, 8: 2.55, 16: 3.7, 32: 7.1, 64: 13.7},
    "repacked": {1: 1.0, 2: 1.5, 3: 1.9, 4: 1.25, 8: 2.3, 16: 3.7, 32: 7.5, 64: 14.5},
    "cliff": {1: 1.0, 2: 2.0, 8: 2.01, 9: 4.0, 32: 4.1, 64: 9.0},
    "gpu": {1: 1.0, 2: 1.02, 16: 1.15, 64: 1.6},
}
"""Costs that rise in steps: many nodes pay where one does not."""


@SETTINGS
@given(
    stream=streams,
    shape=st.sampled_from(list(STEPS)),
    sizes=st.none() | st.sets(st.integers(2, 33), min_size=1),
    most=st.integers(1, 63),
)
def test_the_search_looks_as_far_as_the_next_step_of_the_costs(
    three: list[Drafter], stream: list[int], shape: str, sizes: set[int] | None, most: int
) -> None:
    """What is planned is worth as much as the best of all beginnings of a draft that nothing stopped."""
    drafter = three[0]
    curve = from_measurements({n: 1e-2 * cost for n, cost in STEPS[shape].items()}, {}, 0)
    allowed = None if sizes is None else (1, *sorted(sizes))
    limits = Limits(63, 64, allowed)
    planner = AutoPlanner(drafter, lambda: curve, limits, top_k=False, clock=lambda: 0.0)
    planner.begin(Beginning(0, ids(), ids(*stream)))
    planned = planner.plan(256, most)
    room = limits.fitting(most)
    every = drafter.draft(room) if room else EMPTY_TREE
    cost = price(curve.seconds(256), allowed).seconds

    def rate(tree: DraftTree) -> float:
        return (1.0 + float(tree.probabilities.sum(dtype=np.float64))) / float(cost[len(tree) + 1])

    best = max(rate(every.first(n)) for n in range(len(every) + 1))
    plain = rate(EMPTY_TREE)
    if best > plain * (1 + DRAFT_MARGIN + 1e-6):
        assert rate(planned) == pytest.approx(best, rel=1e-5)
    else:
        assert len(planned) == 0 or best > plain * (1 + DRAFT_MARGIN - 1e-6)


def test_a_context_goes_on_as_it_did_when_nothing_longer_was_known() -> None:
    """8 opens a word after 5 and closes one after anything new: what comes after 8 depends on which it is."""
    drafter = auto()
    for answer in range(12):
        begin(drafter, ids(5, 8, 20 + answer, 40 + answer, 8))
        tree = drafter.draft(4)
        observe(drafter, ids(9))
    assert int(tree.tokens[0]) == 9
    assert tree.probabilities[0] > 0.4


# Conversations


def history(drafter: NgramDrafter) -> list[int]:
    """The tokens of this context."""
    state, ring = drafter.model.state, drafter.model.history
    places = np.arange(state.start, state.head) & (len(ring) - 1)
    found: list[int] = ring[places].tolist()
    return found


def test_a_continued_conversation_learns_only_what_is_new() -> None:
    text = list(range(50, 90))
    once, twice = auto(), auto()
    begin(once, ids(*text))
    begin(twice, ids(*text[:30]))
    begin(twice, ids(*text[30:]), past=ids(*text[:30]))
    begin(twice, ids(), past=ids(*text))
    assert np.array_equal(once.tables.memory, twice.tables.memory)
    assert history(once) == history(twice) == text


@pytest.mark.parametrize(("undone", "kept"), [(0, 100), (10, 90), (40, 60), (100, 0), (500, 0)])
def test_what_no_longer_holds_is_taken_back(undone: int, kept: int) -> None:
    drafter = auto()
    begin(drafter, ids(*range(60)))
    observe(drafter, ids(*range(60, 100)))
    start = int(drafter.model.state.start)
    begin(drafter, ids(5, 6), past=ids(*range(max(1, kept))), undone=undone)
    assert drafter.model.state.start == start
    assert history(drafter) == [*range(kept), 5, 6]
    observe(drafter, ids(1, 2, 3))
    assert_is_a_tree(drafter.draft(16), 16, 1000)
    assert history(drafter) == [*range(kept), 5, 6, 1, 2, 3]


def test_without_a_past_the_same_session_begins_another_conversation() -> None:
    drafter = auto()
    begin(drafter, ids(*range(60)))
    begin(drafter, ids(7, 8))
    assert history(drafter) == [7, 8]
    begin(drafter, ids())
    assert history(drafter) == []


def test_after_the_oldest_turns_were_dropped_nothing_is_counted_again() -> None:
    whole, dropped = auto(), auto()
    text = np.random.default_rng(0).integers(0, 50, 300).astype(np.int32)
    for drafter, first in ((whole, 0), (dropped, 180)):
        begin(drafter, text[:200])
        begin(drafter, text[200:], past=text[first:200])
    for one, other in zip(whole.tables, dropped.tables, strict=True):
        assert np.array_equal(one, other)
    assert history(whole) == history(dropped) == text.tolist()


def test_a_conversation_goes_on_where_it_stood_when_another_came_between() -> None:
    drafter = auto()
    first = ids(*range(100, 130), *range(100, 110))
    begin(drafter, first, session=1)
    begin(drafter, ids(*range(500, 540)), session=2)
    observe(drafter, ids(1, 2))
    memory = drafter.tables.memory.copy()
    begin(drafter, ids(), past=first, session=1)
    assert history(drafter) == first.tolist()
    assert main_chain(drafter.draft(8)) == list(range(110, 118))
    assert np.array_equal(memory, drafter.tables.memory)


def counted(table: IntArray) -> list[int]:
    """What a table counted, wherever it lies: contexts, tokens and counts, without what came last and when."""
    entries = table[table != 0] & ~LAST & ~(STAMP_MASK << STAMP_SHIFT)
    found: list[int] = np.sort(entries).tolist()
    return found


turns = st.lists(
    st.tuples(
        st.booleans(), st.lists(st.integers(0, 6), max_size=8), st.lists(st.integers(0, 6), max_size=8)
    ),
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(turns=turns)
def test_two_conversations_by_turns_teach_what_each_would_alone(
    turns: list[tuple[bool, list[int], list[int]]],
) -> None:
    """Their tokens differ, so that neither knows a context of the other."""

    def taught(order: list[tuple[bool, list[int], list[int]]]) -> NgramDrafter:
        drafter = auto()
        said = [ids(), ids()]
        for session in (0, 1):
            begin(drafter, ids(20 + session), session=session)
            said[session] = ids(20 + session)
        for second, prompt, answer in order:
            prompted, answered = (ids(*text) + (10 if second else 0) for text in (prompt, answer))
            begin(drafter, prompted.astype(np.int32), past=said[second], session=int(second))
            drafter.draft(8)
            observe(drafter, answered.astype(np.int32))
            said[second] = np.concatenate((said[second], prompted, answered))
        return drafter

    by_turns, apart = taught(turns), taught(sorted(turns, key=lambda turn: turn[0]))
    assert counted(by_turns.tables.memory) == counted(apart.tables.memory)
    assert counted(by_turns.tables.context) == counted(apart.tables.context)


def test_a_session_that_is_not_known_is_learnt_whole() -> None:
    late, early = auto(), auto()
    text = ids(*range(40))
    begin(late, text[30:], past=text[:30], session=7)
    begin(early, text)
    assert np.array_equal(late.tables.memory, early.tables.memory)
    for session in range(100, 100 + KNOWN_SESSIONS):
        begin(late, ids(session), session=session)
    before = late.tables.memory.copy()
    begin(late, ids(), past=text, session=7)
    assert not np.array_equal(late.tables.memory, before)
    begin(late, ids(), past=ids(99 + KNOWN_SESSIONS), session=99 + KNOWN_SESSIONS)
    assert history(late) == [99 + KNOWN_SESSIONS]


EXCHANGES = [
    (ids(*range(10, 40)), ids(*range(12, 30)), False),
    (ids(5, 6, 7), ids(*range(14, 20)), True),
    (ids(*range(30, 50)), ids(8, 9, *range(31, 45)), False),
]


def lived_through() -> NgramDrafter:
    drafter = auto()
    said = ids()
    for prompt, answer, continues in EXCHANGES:
        said = said if continues else ids()
        begin(drafter, prompt, past=said)
        drafter.draft(8)
        observe(drafter, answer)
        said = np.concatenate((said, prompt, answer))
    begin(drafter, ids())
    return drafter


def test_recalling_counts_what_living_through_it_counted() -> None:
    recalled, lived = auto(), lived_through()
    recalled.recall(EXCHANGES)
    assert np.array_equal(recalled.tables.memory, lived.tables.memory)
    assert np.array_equal(recalled.model.history, lived.model.history)
    assert np.array_equal(recalled.model.positions, lived.model.positions)
    assert recalled.model.weights.std() > 0  # the mixing was taught as well


def test_recalling_nothing_changes_nothing() -> None:
    drafter = auto()
    drafter.recall([])
    drafter.recall([(ids(), ids(), False)])
    assert not drafter.tables.memory.any()
    assert len(drafter.draft(8)) == 0
    begin(drafter, ids(1, 2, 1, 2, 1))
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
        begin(new, np.concatenate((prompt, answer)))
    assert np.array_equal(old.tables.memory, new.tables.memory)
    assert old.model.rates[:, :MODEL].any() and not new.model.rates[:, :MODEL].any()


@pytest.mark.parametrize("search", ["best-first", "puct"])
def test_reset_forgets_everything(search: Search) -> None:
    fresh = auto(search=search)
    used = auto(search=search)
    used.recall(EXCHANGES)
    observe(used, ids(1), likely=Likely(ids(1, 2).reshape(1, 2), np.full((1, 2), 0.5, np.float32)))
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


def arrays(drafter: NgramDrafter) -> list[npt.NDArray[Any]]:
    return [drafter.model.nodes, drafter.model.history, *drafter.tables]


@pytest.mark.parametrize("search", ["best-first", "puct"])
def test_nothing_grows(search: Search) -> None:
    drafter = auto(search=search)
    before = arrays(drafter)
    sizes = [(array.ctypes.data, array.nbytes) for array in before]
    stream = np.random.default_rng(0).integers(0, 20, 900).tolist()
    for tree in replay(drafter, stream, [3] * 300, 64):
        rows = np.tile(ids(3, 4), (len(tree) + 1, 1))
        observe(drafter, ids(), tree, Likely(rows, np.full(rows.shape, 0.5, np.float32)))
        drafter.predict()
    after = arrays(drafter)
    assert sizes == [(array.ctypes.data, array.nbytes) for array in after]


TINY = predictor_type(history_bits=6, position_bits=3, pool_size=256)


def small(drafter: NgramDrafter, table_bits: int = 5) -> NgramDrafter:
    """The same with next to no memory, so that everything is overwritten all the time."""
    drafter.block_type = TINY
    drafter.reset()
    return with_tables(drafter, table_bits)


def with_tables(drafter: NgramDrafter, bits: int) -> NgramDrafter:
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
        st.tuples(st.just("change"), st.integers(0, 2)),
        st.tuples(st.just("draft"), st.integers(-1, 70)),
        st.tuples(st.just("soften"), st.integers(1, 4)),
        st.just(("predict", 0)),
        st.just(("end", 0)),
    ),
    max_size=30,
)


@pytest.fixture(scope="module")
def two() -> list[NgramDrafter]:
    return [small(auto(5)), small(auto(5, search="puct"))]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls=calls, table_bits=st.integers(4, 8))
def test_any_calls_in_any_order_on_the_smallest_memory(
    two: list[NgramDrafter], calls: list[tuple[str, Any]], table_bits: int
) -> None:
    for drafter in two:
        begin(drafter, ids())
        drafter.model.state.head = drafter.model.state.start = 0
        drafter.model.history[:] = drafter.model.positions[:] = 0
        with_tables(drafter, table_bits)
        session = 0
        said: list[list[int]] = [[], [], []]
        tree = drafter.draft(4)
        for name, value in calls:
            if name == "observe":
                said[session] += value
                observe(drafter, ids(*value))
            elif name == "begin":
                said[session] = list(value)
                begin(drafter, ids(*value), session=session)
            elif name == "continue":
                begin(drafter, ids(*value), past=ids(*said[session]), session=session)
                said[session] += value
            elif name == "change":
                session = value
                begin(drafter, ids(), past=ids(*said[session]), session=session)
            elif name == "shorten":
                left = len(said[session]) * value // 100
                undone = len(said[session]) - left
                said[session] = said[session][:left]
                begin(drafter, ids(), past=ids(*said[session]), session=session, undone=undone)
            elif name == "draft":
                tree = drafter.draft(value)
                assert_is_a_tree(tree, min(max(0, value), MOST_NODES), 5)
                continue
            elif name == "soften":
                rows = np.arange((len(tree) + 1) * value, dtype=np.int32).reshape(-1, value) % 7 - 1
                observe(drafter, ids(), tree, Likely(rows, np.full(rows.shape, 1 / value, np.float32)))
            elif name == "predict":
                assert sum(chances(drafter).values()) <= 1 + 1e-5
            else:
                said = [[], [], []]
                drafter.reset()
                with_tables(drafter, table_bits)
            tree = drafter.draft(0)


def test_a_history_that_overflows_forgets_its_beginning() -> None:
    drafter = small(auto(), table_bits=16)
    begin(drafter, ids(*range(100, 200)))
    for first in range(300, 700, 50):
        observe(drafter, ids(*range(first, first + 50)))
        assert_is_a_tree(drafter.draft(16), 16, 1000)
    observe(drafter, ids(*range(690, 695)))
    assert main_chain(drafter.draft(4))[:1] == [695]
    begin(drafter, ids(1, 2, 3))
    assert_is_a_tree(drafter.draft(16), 16, 1000)


def test_the_greatest_prompt_and_history_are_survived() -> None:
    drafter = auto(VOCAB)
    rng = np.random.default_rng(1)
    long = rng.integers(0, VOCAB, 200_000).astype(np.int32)
    begin(drafter, long)
    for start in range(0, 60_000, 20_000):
        observe(drafter, long[start : start + 20_000])
        assert_is_a_tree(drafter.draft(16), 16, VOCAB)


@pytest.mark.slow
def test_more_tokens_than_the_history_holds_are_survived() -> None:
    drafter = auto(VOCAB)
    rng = np.random.default_rng(1)
    long = rng.integers(0, VOCAB, (1 << HISTORY_BITS) + 1000).astype(np.int32)
    begin(drafter, long)
    observe(drafter, long[:1000])
    begin(drafter, np.concatenate((long, long)))
    begin(drafter, long, past=np.concatenate((long, long)), session=1)
    begin(drafter, long[:1000], past=np.concatenate((long, long)))
    for start in range(0, len(long), 50_000):
        observe(drafter, long[start : start + 50_000])
        assert_is_a_tree(drafter.draft(16), 16, VOCAB)


# Presets and kernels


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(OptionError, match="magic"):
        make_drafter("magic", n_vocab=10)


def test_kernels_compile_where_no_cache_can_be_written() -> None:
    """A process whose cache folder cannot exist still drafts; only one small kernel is compiled here."""
    program = (
        "import tempfile; tempfile.tempdir = '/dev/null/nowhere'\n"
        "from aded_local.kernels import kept\nfrom aded_local.ngrams import table as s\n"
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
