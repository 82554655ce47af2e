"""Hit rates, weights and calibration follow the target; parts can be left out."""

from __future__ import annotations

import numpy as np
import pytest
from drafters import assert_is_a_tree, auto, begin, chances, ids, learn_copying, observe, record, replay
from hypothesis import given, settings
from hypothesis import strategies as st

from aded_local.drafters.ngram import calibration
from aded_local.drafters.ngram.calibration import (
    calibrated,
    class_of,
    identity,
    teach,
)
from aded_local.drafters.ngram.candidates import (
    BIAS,
    BUCKETS,
    CELLS,
    EDGES,
    EVIDENCE,
    LONGEST_MEMORY,
    MEMORY,
    MODEL,
    MOST_CANDIDATES,
    MOST_ENTRIES,
    ODDS,
    RATE,
    SEEN,
    SOURCES,
    STATIC,
    Evidence,
    Rates,
    bucket_of_units,
    clear,
    count_cell,
    learn_rate,
    log_odds,
    propose,
)
from aded_local.drafters.ngram.components import COMPONENTS, PARTS, switches
from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.drafters.ngram.mixing import (
    COMMON_SET,
    FIRST_SETS,
    MODEL_COMMON_SET,
    MODEL_FIRST_SETS,
    SECOND_SETS,
    SETS,
    Weights,
    learn_mix,
    mix,
    start_weights,
)
from aded_local.errors import OptionError
from aded_local.ngrams.table import UNIT, count_text, new_table
from aded_local.step import Likely


def no_rates() -> Rates:
    return np.zeros((3, SOURCES, CELLS), np.float32)


def evidence_of(*said: tuple[int, int, int]) -> Evidence:
    """What sources say: (source, token, cell)."""
    evidence: Evidence = record(EVIDENCE)
    clear(evidence)
    evidence.bound = 1000
    evidence.second_set, evidence.common_set = FIRST_SETS, COMMON_SET
    for source, token, cell in said:
        propose(evidence, source, token, cell)
        evidence.absent[source] = 0
    return evidence


def mixed(evidence: Evidence, rates: Rates, weights: Weights) -> dict[int, float]:
    mix(evidence, rates, weights)
    n = evidence.n_candidates
    return dict(zip(evidence.tokens[:n].tolist(), evidence.raw[:n].tolist(), strict=True))


# Evidence


def test_counts_fall_into_buckets_in_order() -> None:
    buckets = [bucket_of_units(units) for units in range(int(EDGES[-1] * UNIT) * 2)]
    assert buckets == sorted(buckets)
    assert set(buckets) == set(range(BUCKETS))
    assert buckets[0] == 0 < buckets[1]  # a trace of evidence is some
    assert buckets[UNIT] < buckets[2 * UNIT]  # once and twice are told apart


@settings(deadline=None)
@given(own=st.integers(0, 4095), others=st.integers(0, 16 * 4095), last=st.integers(0, 1))
def test_cells_stay_within_their_table(own: int, others: int, last: int) -> None:
    assert 0 <= count_cell(own, others, last) < CELLS


def test_candidates_and_entries_are_bounded() -> None:
    evidence = evidence_of()
    for source in range(SOURCES):
        for token in range(3 * MOST_CANDIDATES):
            propose(evidence, source, token, 1)
    assert evidence.n_candidates == MOST_CANDIDATES
    assert evidence.n_entries == MOST_ENTRIES
    n = evidence.n_candidates
    assert len(set(evidence.tokens[:n].tolist())) == n
    clear(evidence)
    assert evidence.n_candidates == evidence.n_entries == 0


def test_tokens_beyond_the_vocabulary_are_no_candidates() -> None:
    evidence = evidence_of((MEMORY, 999, 1), (MEMORY, 1000, 1), (MEMORY, (1 << 24) - 1, 1))
    assert evidence.tokens[: evidence.n_candidates].tolist() == [999]


# Rates


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 48)), max_size=60))
def test_a_rate_is_a_probability_whatever_comes(seen: list[tuple[int, int]]) -> None:
    rates = no_rates()
    for hits, more in seen:
        learn_rate(rates, 3, 7, float(hits), float(hits + more))
        if rates[SEEN, 3, 7] == 0:
            assert not rates.any()
            continue
        assert 0 <= rates[RATE, 3, 7] <= 1
        assert 0 <= rates[SEEN, 3, 7] <= LONGEST_MEMORY
        assert rates[ODDS, 3, 7] == pytest.approx(log_odds(float(rates[RATE, 3, 7])), abs=1e-3)
    rates[:, 3, 7] = 0
    assert not rates.any()


def test_a_rate_becomes_the_frequency_and_follows_a_change() -> None:
    rates = no_rates()
    for i in range(3000):
        learn_rate(rates, 0, 0, 1.0 if i % 4 == 0 else 0.0, 1.0)
    assert rates[RATE, 0, 0] == pytest.approx(0.25, abs=0.02)
    for _ in range(3000):
        learn_rate(rates, 0, 0, 1.0, 1.0)
    assert rates[RATE, 0, 0] > 0.9


# Weights


def lesson(weights: Weights, rates: Rates, weigh: int, rate: int, times: int = 300) -> dict[int, float]:
    """One source always right, another always wrong, both with the same hit rate; the probabilities afterwards."""
    rng = np.random.default_rng(0)
    for _ in range(times):
        right, wrong = rng.choice(1000, 2, replace=False).tolist()
        evidence = evidence_of((MEMORY, right, 5), (STATIC, wrong, 5))
        mix(evidence, rates, weights)
        learn_mix(evidence, rates, weights, right, weigh, rate)
    return mixed(evidence_of((MEMORY, 1, 5), (STATIC, 2, 5)), rates, weights)


def some_rates() -> Rates:
    rates = no_rates()
    for cell, rate in ((5, 0.8), (0, 0.05)):
        rates[RATE, :, cell], rates[SEEN, :, cell], rates[ODDS, :, cell] = (
            rate,
            50.0,
            np.log(rate / (1 - rate)),
        )
    return rates


def test_a_source_that_is_always_wrong_loses_its_weight() -> None:
    weights, rates = start_weights(), some_rates()
    before = mixed(evidence_of((MEMORY, 1, 5), (STATIC, 2, 5)), rates, weights)
    assert before[1] == pytest.approx(before[2])
    after = lesson(weights, rates, weigh=1, rate=0)
    assert after[1] > before[1] and after[2] < before[2] and after[1] > 0.8 > 0.2 > after[2]
    for chosen in (0, FIRST_SETS, COMMON_SET):
        assert weights[chosen, MEMORY] > 0.1 > weights[chosen, STATIC]
    assert np.array_equal(rates, some_rates())


def test_the_hit_rate_of_a_source_that_is_always_wrong_falls() -> None:
    weights, rates = start_weights(), some_rates()
    after = lesson(weights, rates, weigh=0, rate=1)
    assert after[1] > after[2]
    assert rates[RATE, MEMORY, 5] > 0.9 > 0.2 > rates[RATE, STATIC, 5]
    assert np.array_equal(weights, start_weights())


def test_only_the_chosen_sets_are_taught() -> None:
    weights = start_weights()
    evidence = evidence_of((MEMORY, 1, 5))
    evidence.first_set, evidence.second_set = 3, FIRST_SETS + 4
    mix(evidence, some_rates(), weights)
    learn_mix(evidence, some_rates(), weights, 1, 1, 1)
    changed = set(np.flatnonzero((weights != start_weights()).any(axis=1)).tolist())
    assert changed == {3, FIRST_SETS + 4, COMMON_SET}
    silent = [source for source in range(SOURCES) if source not in (MEMORY, BIAS)]
    assert np.array_equal(weights[:, silent], start_weights()[:, silent])
    assert FIRST_SETS + SECOND_SETS + 1 == COMMON_SET + 1 == MODEL_FIRST_SETS
    assert SETS == MODEL_COMMON_SET + 1


def test_a_source_that_knows_the_context_but_not_the_candidate_makes_it_less_likely() -> None:
    rates, weights = some_rates(), start_weights()
    alone = mixed(evidence_of((MEMORY, 1, 5)), rates, weights)[1]
    evidence = evidence_of((MEMORY, 1, 5))
    evidence.absent[STATIC] = 0
    assert mixed(evidence, rates, weights)[1] < alone


# Calibration


@settings(max_examples=50, deadline=None)
@given(p=st.floats(0.001, 0.999), kind=st.integers(0, calibration.CLASSES - 1))
def test_the_curve_changes_nothing_at_first(p: float, kind: int) -> None:
    assert calibrated(identity(), kind, log_odds(p)) == pytest.approx(p, abs=0.008)


@settings(max_examples=50, deadline=None)
@given(
    taught=st.lists(
        st.tuples(st.integers(0, calibration.CLASSES - 1), st.floats(0, 1), st.booleans()), max_size=100
    ),
    p=st.floats(0, 1),
)
def test_curves_stay_probabilities(taught: list[tuple[int, float, bool]], p: float) -> None:
    finals = identity()
    for kind, said, hit in taught:
        teach(finals, kind, log_odds(said), hit)
    assert np.all((finals[0] > 0) & (finals[0] < 1)) and np.all(finals[1] >= calibration.TRUST)
    for kind in range(calibration.CLASSES):
        assert 0 <= calibrated(finals, kind, log_odds(p)) <= 1
    untaught = set(range(calibration.CLASSES)) - {kind for kind, _, _ in taught}
    assert np.array_equal(finals[:, list(untaught)], identity()[:, list(untaught)])


def test_a_probability_becomes_its_hit_rate() -> None:
    finals = identity()
    for i in range(4000):
        teach(finals, 3, log_odds(0.8), i % 2 == 0)
    assert calibrated(finals, 3, log_odds(0.8)) == pytest.approx(0.5, abs=0.05)
    assert calibrated(finals, 3, log_odds(0.2)) == pytest.approx(0.2, abs=0.01)


def test_classes_of_candidates_are_told_apart() -> None:
    classes = {
        class_of(depth, first, matched, spoke)
        for depth in range(1, 65)
        for first in (False, True)
        for matched in range(64)
        for spoke in (0, 1)
    }
    assert classes == set(range(calibration.CLASSES))


def test_predictions_follow_what_the_target_says() -> None:
    """Candidates that never come true lose their probability; those that do gain it."""
    fooled, served = auto(100_000), auto(100_000)
    rng = np.random.default_rng(0)
    for i in range(60):
        passage = rng.integers(1000, 90_000, 6)
        for drafter in (fooled, served):
            begin(drafter, ids(*passage, 7, *passage[:5]))
            drafter.draft(4)
        observe(fooled, ids(99_000 + i))
        observe(served, ids(int(passage[5])))
    unseen = rng.integers(1000, 90_000, 6)
    heard = []
    for drafter in (fooled, served):
        begin(drafter, ids(*unseen, 7, *unseen[:5]))
        heard.append(chances(drafter).get(int(unseen[5]), 0.0))
    assert heard[0] < 0.1 < 0.8 < heard[1]


def test_what_is_said_with_three_quarters_comes_true_in_three_of_four() -> None:
    """A source of text whose best guess is right with 0.75 is predicted so, not more surely and not less."""
    drafter = auto(without=("unigram",))
    rng = np.random.default_rng(0)
    follows = rng.permutation(50)
    token = 0
    said, came = [], []
    begin(drafter, ids(token))
    for i in range(4000):
        heard = chances(drafter)
        expected = int(follows[token])
        token = expected if rng.random() < 0.75 else int(rng.integers(50))
        if i > 2500:
            said.append(heard.get(expected, 0.0))
            came.append(token == expected)
        observe(drafter, ids(token))
    assert np.mean(said) == pytest.approx(np.mean(came), abs=0.05)


# Parts


def lively(drafter: NgramDrafter) -> set[int]:
    """A life in which every part has something to say; the sources that said it."""
    heard: set[int] = set()
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 30, 30).astype(np.int32) for _ in range(3)]
    for _ in range(2):
        for text in texts:
            begin(drafter, text)
            said = [
                np.concatenate((text[5:15], ids(40), text[16:22], ids(*[8, 9] * 4), rng.integers(0, 30, 4)))
            ]
            for token in np.concatenate(said).astype(np.int32):
                tree = drafter.draft(6)
                assert_is_a_tree(tree, 6, 1000)
                chances(drafter)
                evidence = drafter.model.evidence
                heard |= set(evidence.source[: evidence.n_entries].tolist())
                heard |= set(np.flatnonzero(evidence.absent >= 0).tolist())
                tree = drafter.draft(6)
                rows = np.tile(ids(int(token), 50), (len(tree) + 1, 1))
                observe(drafter, ids(int(token)), tree, Likely(rows, np.full(rows.shape, 0.5, np.float32)))
    return heard


def with_stores(*without: str) -> NgramDrafter:
    rng = np.random.default_rng(0)
    static, phrases = new_table(12), new_table(12)
    count_text(static, rng.integers(0, 30, 60).astype(np.int32), 0)
    count_text(phrases, rng.integers(0, 30, 60).astype(np.int32), 0)
    return auto(without=without, static=static, phrases=phrases)


def test_every_source_has_its_say() -> None:
    assert set(range(SOURCES)) - lively(with_stores()) == {BIAS, MODEL}


@pytest.mark.parametrize("part", COMPONENTS)
def test_a_part_left_out_is_silent_and_the_rest_drafts_on(part: str) -> None:
    drafter = with_stores(part)
    heard = lively(drafter)
    assert heard and not heard & set(COMPONENTS[part])
    drafter.reset()
    assert not lively(drafter) & set(COMPONENTS[part])


def test_what_is_left_out_of_learning_stays_as_it_was() -> None:
    for part, names in {
        "mixing": ["weights"],
        "rates": ["rates"],
        "calibration": ["finals"],
    }.items():
        drafter = with_stores(part)
        before = {name: getattr(drafter.model, name).copy() for name in ("weights", "rates", "finals")}
        lively(drafter)
        same = [name for name, array in before.items() if np.array_equal(getattr(drafter.model, name), array)]
        assert set(names) <= set(same) and "finals" not in set(same) - set(names)


def test_with_everything_left_out_nothing_is_drafted() -> None:
    drafter = auto(without=COMPONENTS)
    for tree in replay(drafter, [1, 2, 3] * 20, [2] * 25, 16):
        assert len(tree) == 0


def test_an_unknown_part_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(OptionError, match=r"'spells'.*passages"):
        switches(["spells"])
    assert switches([]).tolist() == [part != MODEL for part in range(PARTS)]  # it is none before it is heard


def test_what_was_learnt_before_shipping_can_be_left_out() -> None:
    shipped, blank = NgramDrafter(n_vocab=1000), auto()
    assert shipped.model.rates[:, :MODEL].any() and not blank.model.rates[:, :MODEL].any()
    for drafter in (shipped, blank):
        learn_copying(drafter, times=2)
        drafter.reset()
    fresh = NgramDrafter(n_vocab=1000)
    for name in ("rates", "weights", "finals"):  # a drafter learns in its own copy
        assert np.array_equal(getattr(shipped.model, name), getattr(fresh.model, name))
