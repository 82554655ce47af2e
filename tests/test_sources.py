"""A drafted token carries what foresaw it, from the drafter to the statistics of the answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drafters import auto, begin, ids, observe
from hypothesis import given
from hypothesis import strategies as st
from trees import draft_trees

from aded_local import LocalADED
from aded_local.drafters.ngram.components import COMPONENTS, KIND_OF_SOURCE
from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.drafters.paper.drafter import PaperDrafter
from aded_local.ngrams.table import new_table
from aded_local.step import Forced, Likely
from aded_local.tree import EMPTY_TREE, DraftTree, Source

TEXT = ids(*range(10, 40))


def sources(tree: DraftTree) -> set[Source]:
    assert tree.sources is not None and tree.sources.dtype == np.uint8 and len(tree.sources) == len(tree)
    return {Source(source) for source in tree.sources.tolist()}


@given(draft_trees(), st.integers(0, 24), st.integers(1, 8))
def test_a_tree_that_is_cut_keeps_what_foresaw_its_nodes(tree: DraftTree, n: int, leaves: int) -> None:
    marked = replace(tree, sources=np.arange(len(tree), dtype=np.uint8))
    for cut in (marked.first(n), marked.with_leaves(leaves)):
        assert cut.sources is not None
        assert np.array_equal(marked.tokens[cut.sources], cut.tokens)
    padded = marked.padded(len(tree) + 2)
    assert padded.sources is not None and len(padded.sources) == len(padded)
    assert marked.sources_of(list(range(len(tree)))) == list(range(len(tree)))


@given(draft_trees())
def test_a_tree_without_sources_stays_without(tree: DraftTree) -> None:
    assert (
        tree.first(3).sources is None
        and tree.with_leaves(1).sources is None
        and tree.padded(9).sources is None
    )
    assert tree.sources_of([0] * min(1, len(tree))) == [Source.UNKNOWN] * min(1, len(tree))


def test_every_part_that_knows_tokens_has_a_name() -> None:
    unnamed = {place for place, kind in enumerate(KIND_OF_SOURCE) if kind == Source.UNKNOWN}
    parts = {
        place for name, places in COMPONENTS.items() for place in places if place < len(KIND_OF_SOURCE) - 1
    }
    assert unnamed.isdisjoint(parts)


@pytest.mark.parametrize("search", ["best-first", "puct"])
def test_a_passage_that_repeats_itself_is_named(search: str) -> None:
    drafter = NgramDrafter(n_vocab=1000, search=search)  # type: ignore[arg-type]
    begin(drafter, np.concatenate((TEXT, ids(500), TEXT[:12])))
    tree = drafter.draft(8)
    assert tree.tokens[0] == TEXT[12]
    assert sources(tree) <= {Source.PASSAGE, Source.CONVERSATION, Source.MEMORY, Source.GAPS, Source.FREQUENT}
    assert tree.sources_of([0]) != [Source.UNKNOWN]


@pytest.mark.parametrize(
    ("kept", "source"),
    [("passages", Source.PASSAGE), ("conversation", Source.CONVERSATION), ("memory", Source.MEMORY)],
)
def test_what_is_known_to_one_part_alone_is_that_part_s(kept: str, source: Source) -> None:
    others = {"conversation", "memory", "static", "soft", "longest", "gaps", "unigram", "passages"} - {kept}
    drafter = auto(without=others)
    begin(drafter, np.concatenate((TEXT, ids(500), TEXT[:12])))
    observe(drafter, TEXT[12:16])
    assert sources(drafter.draft(4)) == {source}


def test_what_the_target_found_likely_is_named() -> None:
    others = {"conversation", "memory", "static", "longest", "gaps", "unigram", "passages"}
    drafter = auto(without=others)
    begin(drafter, ids(1, 2, 3, 7))
    likely = Likely(np.array([[9, 8]], np.int32), np.array([[0.7, 0.3]], np.float32))
    observe(drafter, ids(3), EMPTY_TREE, likely)
    begin(drafter, ids(5, 6, 1, 7), session=1)
    assert sources(drafter.draft(2)) == {Source.LIKELY}


def test_the_paper_knows_pairs_and_a_grammar_forces() -> None:
    drafter = PaperDrafter(n_vocab=100)
    begin(drafter, ids(*[1, 2, 3, 4] * 4))
    assert sources(drafter.draft(4)) == {Source.PAIRS}
    forced = Forced(ids(5, 6), np.ones(2, np.float32))
    assert sources(forced.tree(2)) == {Source.FORCED}
    ngram = NgramDrafter(n_vocab=1000, phrases=new_table(4))
    begin(ngram, np.concatenate((TEXT, TEXT[:9])))
    tree = ngram.draft(6, None, Forced(ids(700, 701), np.ones(2, np.float32)))
    assert tree.sources_of([0, 1]) == [Source.FORCED] * 2


def test_the_statistics_name_a_source_for_each_accepted_token(
    tiny: dict[str, Path], quiet_machine: None
) -> None:
    with LocalADED(tiny["llama"], n_ctx=512, draft="paper", n_threads=1) as llm:
        llm.prepare()
        stats = llm.generate("again and again " * 12, max_tokens=48, temperature=0.0).stats
    assert len(stats.sources) == stats.accepted == sum(kept - 1 for _, kept in stats.pass_sizes)
    assert set(stats.sources) <= {"pairs"}
    assert "sources" not in stats.to_dict()
