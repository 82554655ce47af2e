"""A draft model beside n-grams: what it says counts, and whatever becomes of it, drafting goes on."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drafters import assert_is_a_tree, auto, begin, ids, main_chain, observe
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE, becomes, until

from aded_local.drafters.model import drafter as model_drafter
from aded_local.drafters.model.branching import KeptHrad
from aded_local.drafters.model.costs import AskingCosts
from aded_local.drafters.model.drafter import SAMPLE, ModelDrafter
from aded_local.drafters.model.modes import FIRST_LOOK, NGRAM, TRIAL, Chooser, Way
from aded_local.drafters.model.outcomes import open_places, outcomes, worth_asking
from aded_local.drafters.model.promises import promise
from aded_local.drafters.statement import Statement
from aded_local.step import StepResult, said
from aded_local.tree import EMPTY_TREE, DraftTree, chain

N_VOCAB = 1000
FLAT = np.concatenate([[0.0], np.full(64, 0.01)])
"""Passes of a target to which a wider one costs nothing more."""


def statement(path: Sequence[int], *named: tuple[int, float]) -> Statement:
    tokens = np.full(8, -1, np.int32)
    probabilities = np.zeros(8, np.float32)
    for i, (token, p) in enumerate(named):
        tokens[i], probabilities[i] = token, p
    return Statement(tuple(path), tokens, probabilities)


class Scripted:
    """A draft model that counts: behind every token it is sure of the next number. It takes its time, or fails."""

    def __init__(self, seconds: float = 0.0, *, fails_after: int | None = None, step: int = 1) -> None:
        self.text: list[int] = []
        self.said: dict[tuple[int, ...], Statement] = {}
        self.decodes = self.asked = self.dropped = 0
        self.unread = 0
        self.closed = threading.Event()
        self.held = threading.Event()
        self.held.set()
        self._seconds, self._fails_after, self._step = seconds, fails_after, step

    @property
    def can_go_on(self) -> bool:
        return bool(self.text)

    def set_threads(self, n: int) -> None:
        pass

    def follow(self, text: np.ndarray) -> None:
        self.text, self.said = text.tolist(), {}

    def read(self) -> int:
        self.unread = 0
        return 1

    def advance(self, tokens: Sequence[int]) -> list[bool]:
        gone, n = tuple(tokens), len(tokens)
        self.text += tokens
        hits = [
            int(s.tokens[0]) == gone[len(p)]
            for p, s in self.said.items()
            if len(p) < n and p == gone[: len(p)]
        ]
        self.said = {p[n:]: s for p, s in self.said.items() if p[:n] == gone}
        return hits

    def ask(self, paths: Sequence[tuple[int, ...]]) -> tuple[list[Statement], int, float]:
        self.held.wait(20)
        time.sleep(self._seconds)
        self.decodes += 1
        if self._fails_after is not None and self.decodes > self._fails_after:
            raise RuntimeError("the draft model fell over")
        found = []
        for path in paths:
            for n in range(len(path) + 1):
                if path[:n] not in self.said:
                    last = (*self.text, *path[:n])[-1]
                    self.said[path[:n]] = statement(path[:n], (last + self._step, 0.95), (1, 0.02))
                    found.append(self.said[path[:n]])
        self.asked += len(found)
        return found, len(found), max(self._seconds, 1e-4)

    def close(self) -> None:
        self.closed.set()


Make = Callable[..., ModelDrafter]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[ModelDrafter] = []

    def make(speaker: Scripted, mode: str = "serial", **options: object) -> ModelDrafter:
        told = options.pop("told", [])
        drafter = ModelDrafter(
            auto(N_VOCAB), speaker, close=lambda: None, mode=mode, threads=1, notice=told.append, **options
        )
        made.append(drafter)
        return drafter

    yield make
    for each in made:
        each.close()


def is_ready(drafter: ModelDrafter) -> bool:
    return becomes(lambda: drafter._worker.ready)


# --- what it says counts ------------------------------------------------------------------------------


def test_what_a_model_says_of_a_place_is_drafted_there() -> None:
    ngrams = auto(N_VOCAB)
    ngrams.hear_model()
    begin(ngrams, ids(5, 6, 7))
    ngrams.tell([5, 6, 7], [statement((), (8, 0.9), (20, 0.05)), statement((8,), (9, 0.8))])
    tree = ngrams.draft(4)
    assert_is_a_tree(tree, 4, N_VOCAB)
    assert main_chain(tree)[:2] == [8, 9]
    assert tree.probabilities[0] > 0.6


def test_a_statement_still_holds_when_the_text_has_gone_that_way() -> None:
    ngrams = auto(N_VOCAB)
    ngrams.hear_model()
    begin(ngrams, ids(5, 6, 7))
    ngrams.tell([5, 6, 7], [statement((8, 9), (10, 0.9))])
    observe(ngrams, ids(8, 9))
    assert main_chain(ngrams.draft(1)) == [10]


def test_a_statement_says_nothing_where_the_text_went_another_way() -> None:
    ngrams = auto(N_VOCAB)
    ngrams.hear_model()
    begin(ngrams, ids(5, 6, 7))
    ngrams.tell([5, 6, 7], [statement((8, 9), (10, 0.9))])
    observe(ngrams, ids(8, 11))
    assert 10 not in ngrams.draft(8).tokens.tolist()


def test_a_model_that_is_wrong_is_believed_less_and_less() -> None:
    ngrams = auto(N_VOCAB)
    ngrams.hear_model()
    text = [5, 6, 7]
    begin(ngrams, ids(*text))
    believed = []
    rng = np.random.default_rng(3)
    for _ in range(300):
        ngrams.tell(text, [statement((), (900, 0.9))])
        tokens, chances = ngrams.predict()
        believed.append(float(chances[tokens == 900].sum()))
        text.append(int(rng.integers(10, 800)))
        observe(ngrams, ids(text[-1]))
    assert believed[0] > 0.5
    assert max(believed[-20:]) < 0.1


def test_without_a_model_nothing_is_looked_up() -> None:
    ngrams = auto(N_VOCAB)
    begin(ngrams, ids(5, 6, 7))
    ngrams.tell([5, 6, 7], [statement((), (8, 0.9))])
    assert 8 not in ngrams.draft(4).tokens.tolist()


# --- which places are asked for -----------------------------------------------------------------------


def test_a_place_whose_answer_is_drafted_already_gains_little() -> None:
    tree = chain(ids(8, 9), np.array([0.9, 0.85], np.float32))
    places = open_places(tree, {}, 0.8)
    assert [place.path for place in places] == [(8, 9), (), (8,)]
    assert places[0].gain == pytest.approx(0.8 * 0.85)
    assert [place.gain for place in places[1:]] == [0.0, 0.0]


def test_what_is_forced_is_not_asked_for() -> None:
    tree = chain(ids(8, 9), np.array([1.0, 1.0], np.float32))
    assert [place.path for place in open_places(tree, {}, 0.8, n_forced=2)] == [(8, 9)]


def known(seconds: float, sureness: float = 0.8) -> AskingCosts:
    costs = AskingCosts()
    costs.decoded(1, seconds, beside=False)
    costs.decoded(1, seconds, beside=True)
    costs.sureness = sureness
    return costs


@pytest.mark.parametrize(("seconds", "pays"), [(0.001, True), (0.02, False)])
def test_a_model_is_asked_where_its_answer_is_worth_the_wait(seconds: float, pays: bool) -> None:
    places = open_places(EMPTY_TREE, {}, 0.8)
    asked = worth_asking(EMPTY_TREE, places, FLAT, 0.0, known(seconds))
    assert asked == ([()] if pays else [])


def test_a_step_in_the_price_of_passes_is_looked_over() -> None:
    """One more token does not pay, four do."""
    cost = np.array([0.0, 0.01, 0.021, 0.021, 0.021, 0.021, 0.05])
    places = open_places(EMPTY_TREE, {}, 0.95)
    assert worth_asking(EMPTY_TREE, places, cost, 0.0, known(0.0005, 0.95)) == [()]
    assert worth_asking(EMPTY_TREE, places, cost[:3], 0.0, known(0.0005, 0.95)) == []


def test_before_anything_was_measured_one_place_is_asked_for() -> None:
    assert worth_asking(EMPTY_TREE, open_places(EMPTY_TREE, {}, 0.8), FLAT, 0.0, AskingCosts()) == [()]


def test_outcomes_are_prepared_by_how_likely_the_text_leaves_the_tree_there() -> None:
    tree = DraftTree(ids(8, 20, 9), ids(-1, -1, 0), ids(1, 1, 2), np.array([0.7, 0.2, 0.65], np.float32))
    verified = frozenset({(8,), (8, 9)})
    asked = outcomes(tree, verified, {(): None, (8,): None}, known(0.001), 1.0)
    assert asked[:2] == [(8, 9), (20,)]  # behind all that is verified, and beside it


def test_no_outcome_is_prepared_that_the_pass_leaves_no_time_for() -> None:
    tree = chain(ids(8), np.array([0.9], np.float32))
    assert outcomes(tree, frozenset(), {}, known(0.01), 0.005) == []


# --- the drafter --------------------------------------------------------------------------------------


def test_a_cheap_model_is_asked_again_and_again(make: Make) -> None:
    drafter = make(Scripted())
    begin(drafter, ids(5, 6, 7))
    assert is_ready(drafter)
    for root in range(7, 40):
        tree = drafter.draft(8, FLAT)
        observe(drafter, ids(root + 1), tree)
    assert main_chain(drafter.draft(8, FLAT))[:4] == [41, 42, 43, 44]
    assert drafter.did().asked > 30


def test_what_the_target_cannot_verify_is_not_asked_for(make: Make) -> None:
    class Unsure(Scripted):
        def ask(self, paths: Sequence[tuple[int, ...]]) -> tuple[list[Statement], int, float]:
            found, n_decoded, seconds = super().ask(paths)
            for i, each in enumerate(found):
                last = (*self.text, *each.path)[-1]
                named = [(last + 1, 0.5), (last + 300, 0.45)]
                found[i] = self.said[each.path] = statement(each.path, *named)
            return found, n_decoded, seconds

    asked = {}
    for leaves in (1, 8):
        speaker = Unsure()
        drafter = make(speaker)
        drafter.fit(leaves)
        begin(drafter, ids(5, 6, 7))
        assert is_ready(drafter)
        for _ in range(2):
            drafter.draft(16, FLAT)
        asked[leaves] = set(speaker.said)
    assert all(token < 100 for path in asked[1] for token in path)
    assert any(token >= 300 for path in asked[8] for token in path)


def test_a_dear_model_is_not_asked_more_than_once(make: Make) -> None:
    speaker = Scripted(0.05)
    drafter = make(speaker)
    begin(drafter, ids(5, 6, 7))
    assert is_ready(drafter)
    for root in range(7, 27):
        observe(drafter, ids(root + 1), drafter.draft(8, FLAT))
    assert speaker.decodes <= 2


def test_in_parallel_what_may_come_is_there_when_the_target_answers(make: Make) -> None:
    speaker = Scripted(0.002)
    drafter = make(speaker, "parallel")
    begin(drafter, ids(5, 6, 7))
    assert is_ready(drafter)
    cost = FLAT * 10
    root = 7
    for _ in range(12):
        tree = drafter.draft(2, cost)
        drafter.verifying(tree)
        assert drafter.beside
        time.sleep(0.05)
        observe(drafter, ids(*range(root + 1, root + 4)), tree)
        assert not drafter.beside
        root += 3
    speaker.held.clear()  # from here on it says nothing new
    try:
        begun = time.monotonic()
        assert main_chain(drafter.draft(2, cost)) == [root + 1, root + 2]
        assert time.monotonic() - begun < 5
    finally:
        speaker.held.set()


def test_a_model_that_fails_is_told_of_once_and_n_grams_go_on(make: Make) -> None:
    told: list[str] = []
    speaker = Scripted(fails_after=3)
    drafter = make(speaker, told=told)
    begin(drafter, ids(*[5, 6, 7, 8] * 10))
    assert is_ready(drafter)
    for i in range(20):
        tree = drafter.draft(8, FLAT)
        observe(drafter, ids([5, 6, 7, 8][i % 4]), tree)
    assert main_chain(tree)[:2] == [8, 5]
    assert len(told) == 1 and "the draft model fell over" in told[0]
    assert speaker.closed.wait(PATIENCE)


def test_a_model_that_stalls_is_not_waited_for_long(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_drafter, "SHORTEST_WAIT", 0.02)
    told: list[str] = []
    speaker = Scripted()
    drafter = make(speaker, told=told)
    begin(drafter, ids(*[5, 6, 7, 8] * 10))
    assert is_ready(drafter)
    observe(drafter, ids(5), drafter.draft(8, FLAT))
    speaker.held.clear()
    try:
        for i in range(1, 12):
            begun = time.monotonic()
            tree = drafter.draft(8, FLAT)
            assert time.monotonic() - begun < 5
            observe(drafter, ids([5, 6, 7, 8][i % 4]), tree)
        assert len(tree)
    finally:
        speaker.held.set()


def test_closing_ends_the_thread(make: Make) -> None:
    speaker = Scripted()
    drafter = make(speaker)
    begin(drafter, ids(5, 6, 7))
    drafter.close()
    assert speaker.closed.is_set()
    drafter.close()


def test_a_dropped_drafter_ends_its_thread() -> None:
    speaker = Scripted()
    drafter = ModelDrafter(auto(N_VOCAB), speaker, close=lambda: None, mode="serial", threads=1, notice=print)
    gone = weakref.ref(drafter)
    begin(drafter, ids(5, 6, 7))
    del drafter
    gc.collect()
    assert gone() is None
    assert speaker.closed.wait(PATIENCE)


def test_a_branch_is_prepared_for_each_likely_token_where_the_model_is_unsure(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_drafter, "SHORTEST_WAIT", 20.0)  # however slow the machine

    class Unsure(Scripted):
        def ask(self, paths: Sequence[tuple[int, ...]]) -> tuple[list[Statement], int, float]:
            found, n_decoded, seconds = super().ask(paths)
            for i, each in enumerate(found):
                if len(self.text) + len(each.path) == 5:
                    named = [(100, 0.3), (200, 0.25), (300, 0.2)]
                    found[i] = self.said[each.path] = statement(each.path, *named)
            return found, n_decoded, seconds

    drafter = make(Unsure(0.001), "branch")
    begin(drafter, ids(5, 6, 7))
    assert is_ready(drafter)
    tree = drafter.draft(8)
    assert tree.tokens.tolist() == [8, 9]
    drafter.verifying(tree)
    until, decodes = time.monotonic() + 10, -1
    while decodes != drafter.did().decodes and time.monotonic() < until:
        decodes = drafter.did().decodes
        time.sleep(0.2)
    observe(drafter, ids(8, 9, 200), tree)
    before = drafter.did().decodes
    assert drafter.draft(8).tokens.tolist() == [201, 202, 203, 204]
    assert drafter.did().decodes == before


# --- the modes ----------------------------------------------------------------------------------------

SERIAL, PARALLEL = Way("serial"), Way("parallel")


def run(chooser: Chooser, pace: Callable[[Way], float], steps: int) -> dict[Way, int]:
    taken: dict[Way, int] = {}
    for _ in range(steps):
        taken[chooser.way] = taken.get(chooser.way, 0) + 1
        chooser.record(chooser.way, 2 * pace(chooser.way), 2)
    return taken


@pytest.mark.parametrize("best", [SERIAL, NGRAM, PARALLEL])
def test_the_fastest_mode_goes_on(best: Way) -> None:
    chooser = Chooser((SERIAL, NGRAM, PARALLEL))
    taken = run(chooser, lambda way: 0.5 if way == best else 0.8, 4000)
    assert chooser.best == best
    assert taken[best] > 3500


def test_n_grams_need_not_be_much_better_to_be_preferred() -> None:
    chooser = Chooser((SERIAL, NGRAM))
    run(chooser, lambda way: 0.5, 200)
    assert chooser.best == NGRAM


def test_trials_that_fail_cost_next_to_nothing() -> None:
    chooser = Chooser((NGRAM, SERIAL, PARALLEL))
    spent = {way: 0.0 for way in (NGRAM, SERIAL, PARALLEL)}
    for _ in range(20_000):
        pace = 1.0 if chooser.way == NGRAM else 3.0
        spent[chooser.way] += pace
        chooser.record(chooser.way, pace, 1)
    lost = (spent[SERIAL] + spent[PARALLEL]) * 2 / 3
    assert lost < 0.03 * sum(spent.values())


def test_a_change_for_the_better_is_noticed() -> None:
    chooser = Chooser((NGRAM, SERIAL))
    run(chooser, lambda way: 0.8 if way == SERIAL else 0.5, 400)
    assert chooser.best == NGRAM
    run(chooser, lambda way: 0.3 if way == SERIAL else 0.5, 3000)
    assert chooser.best == SERIAL


def test_reading_a_text_is_the_price_of_a_trial_and_not_its_pace() -> None:
    chooser = Chooser((NGRAM, SERIAL))
    run(chooser, lambda way: 0.8, TRIAL)
    assert chooser.way == SERIAL
    for _ in range(5):
        chooser.record(SERIAL, 5.0, 1, ready=False)
    assert chooser.way == SERIAL
    run(chooser, lambda way: 0.4 if way == SERIAL else 0.8, TRIAL)
    assert chooser.best == SERIAL


def test_one_mode_is_never_left() -> None:
    chooser = Chooser((SERIAL,))
    assert run(chooser, lambda way: 9.0, 3 * TRIAL) == {SERIAL: 3 * TRIAL}


def test_what_promises_nothing_is_never_tried() -> None:
    chooser = Chooser((NGRAM, SERIAL, PARALLEL), lambda way: 1.0)
    assert run(chooser, lambda way: 0.1 if way == SERIAL else 0.8, 4000) == {NGRAM: 4000}
    assert chooser.says_no


def test_a_trial_ends_as_soon_as_what_was_measured_promises_nothing() -> None:
    promises = {SERIAL: 0.5}
    chooser = Chooser((NGRAM, SERIAL), lambda way: promises.get(way, 1.0))
    run(chooser, lambda way: 0.8, TRIAL)
    assert chooser.way == SERIAL
    assert not chooser.says_no
    promises[SERIAL] = 1.2
    run(chooser, lambda way: 0.8, FIRST_LOOK)
    assert chooser.way == NGRAM
    assert chooser.says_no


def test_a_mode_that_won_is_what_the_next_start_begins_with() -> None:
    first = Chooser((NGRAM, SERIAL, PARALLEL))
    run(first, lambda way: 0.5 if way == SERIAL else 0.8, 1000)
    second = Chooser((NGRAM, SERIAL, PARALLEL))
    second.take(first.kept())
    assert second.way == second.best == SERIAL
    taken = run(second, lambda way: 0.5 if way == SERIAL else 0.8, 200)
    assert taken[SERIAL] > 160
    third = Chooser((NGRAM,))
    third.take(first.kept())
    assert third.way == NGRAM


COSTS = np.concatenate([[0.0], 0.01 * (1.0 + 0.1 * np.arange(64))])


@pytest.mark.parametrize(
    ("sureness", "asking", "lent_slows", "serial", "parallel"),
    [
        (0.9, 0.0005, 1.1, True, True),  # quick and good
        (0.9, 0.008, 1.1, False, True),  # too slow to wait for
        (0.1, 0.0005, 1.4, False, False),  # never right
        (0.9, 0.008, 4.0, False, False),  # both share what passes take
    ],
)
def test_promises_come_of_price_and_hits(
    sureness: float, asking: float, lent_slows: float, serial: bool, parallel: bool
) -> None:
    costs = known(asking, sureness)
    assert promise(SERIAL, costs, COSTS) == np.inf
    costs.n_judged = 10
    costs.passed(0, lent_slows)
    assert (promise(SERIAL, costs, COSTS) < 0.95) is serial
    assert (promise(PARALLEL, costs, COSTS) < 0.95) is parallel
    assert promise(NGRAM, costs, COSTS) == 1.0


@given(
    st.floats(0.0, 1.0), st.floats(1e-5, 1.0), st.floats(1.0, 4.0), st.integers(3, 65), st.floats(0.0, 1.0)
)
def test_a_better_or_quicker_model_promises_no_less(
    sureness: float, asking: float, slowdown: float, n: int, slope: float
) -> None:
    cost = np.concatenate([[0.0], 1.0 + slope * np.arange(n)])

    def promised(sureness: float, asking: float, slowdown: float) -> list[float]:
        costs = known(asking, sureness)
        costs.n_judged = 1
        costs.passed(0, slowdown)
        return [promise(way, costs, cost) for way in (SERIAL, PARALLEL)]

    here = promised(sureness, asking, slowdown)
    for better in (
        promised(min(1.0, sureness + 0.1), asking, slowdown),
        promised(sureness, asking / 2, slowdown),
        promised(sureness, asking, max(1.0, slowdown / 2)),
    ):
        assert all(b <= h + 1e-9 for b, h in zip(better, here, strict=True))


def test_passes_are_expected_to_take_longer_only_where_both_models_share_a_device() -> None:
    assert AskingCosts(4).slowdown(1) == pytest.approx(4 / 3)
    assert AskingCosts(1).slowdown(1) == AskingCosts(4).slowdown(0) > 1.0
    assert AskingCosts(4, shares=False).slowdown(0) == 1.0


def test_a_slowdown_that_forbids_a_mode_fades_from_start_to_start() -> None:
    costs = AskingCosts()
    costs.passed(0, 4.0)
    for _ in range(30):
        before = costs.slowdown(0)
        later = AskingCosts()
        later.take(costs.kept())
        costs = later
        assert AskingCosts().slowdown(0) < costs.slowdown(0) < before
    assert costs.slowdown(0) < 1.6


def test_a_few_answers_tell_how_often_a_model_is_right() -> None:
    costs = AskingCosts()
    costs.judged([False] * 12)
    assert costs.sureness < 0.1
    costs.judged([True] * 60)
    assert costs.sureness > 0.6


def step(drafter: ModelDrafter, token: int) -> DraftTree:
    """A step of the target, in which each pass takes 10 ms."""
    tree = drafter.draft(8, COSTS)
    drafter.verifying(tree)
    drafter.observe(StepResult(tree, [token], [], 0, None, verify_seconds=0.01))
    return tree


@pytest.mark.parametrize("good", [True, False])
def test_a_model_is_judged_by_a_few_tokens_before_it_reads_the_text(make: Make, good: bool) -> None:
    told: list[str] = []
    speaker = Scripted(0.0001, step=1 if good else 7)
    drafter = make(speaker, "auto", told=told)
    begin(drafter, ids(5, 6, 7))
    for root in range(7, 7 + SAMPLE):
        assert speaker.asked == 0
        step(drafter, root + 1)
    assert drafter._worker.costs.n_judged == SAMPLE
    assert (drafter._worker.costs.sureness > 0.9) is good
    assert speaker.text == [5, 6, 7]
    asked = speaker.asked
    for root in range(7 + SAMPLE, 60):
        step(drafter, root + 1)
        time.sleep(0.002)
    if good:
        assert speaker.asked > asked
        assert not told
    else:
        assert drafter.way == NGRAM
        assert speaker.asked == asked
        assert len(told) == 1 and "does not pay" in told[0]


def test_what_was_learnt_of_a_pair_is_there_at_the_next_start(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "pairs" / "one.json"
    first = make(Scripted(0.0001, step=7), "auto", pair=path)
    begin(first, ids(5, 6, 7))
    for root in range(7, 60):
        step(first, root + 1)
    first.close()
    assert path.stat().st_mode & 0o777 == 0o600
    second = make(Scripted(0.0001, step=7), "auto", pair=path)
    assert second._worker.costs.sureness == first._worker.costs.sureness < 0.2
    begin(second, ids(5, 6, 7))
    for root in range(7, 60):
        step(second, root + 1)
    assert second.did().asked == 0


def test_what_was_learnt_is_kept_between_texts_too(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "pairs" / "one.json"
    drafter = make(Scripted(0.0001), "serial", pair=path)
    begin(drafter, ids(5, 6, 7))
    assert not path.exists()
    drafter._worker.costs.judged([True] * 1000)
    begin(drafter, ids(8, 9, 10))
    assert json.loads(path.read_text())["costs"]


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "cut short": lambda kept: json.dumps(kept)[:-40],
    "no numbers": lambda kept: "no file of numbers",
    "deep": lambda kept: "[" * 100_000,
    "another format": lambda kept: {**kept, "format": 0},
    "a count below nothing": lambda kept: {**kept, "finals": (np.array(kept["finals"]) - 40.0).tolist()},
    "a rate above one": lambda kept: {**kept, "rates": (np.array(kept["rates"]) + 2.0).tolist()},
    "weights beyond all": lambda kept: {**kept, "weights": (np.array(kept["weights"]) + 3e38).tolist()},
    "infinite": lambda kept: {**kept, "weights": (np.array(kept["weights"]) + np.inf).tolist()},
    "another shape": lambda kept: {**kept, "weights": kept["weights"][:-1]},
    "words": lambda kept: {**kept, "weights": "words"},
    "a folder": lambda kept: None,
    "too large": lambda kept: {**kept, "more": "x" * (2 << 20)},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_a_pair_means_a_new_beginning(tmp_path: Path, make: Make, damage: str) -> None:
    path = tmp_path / "pairs" / "one.json"
    first = make(Scripted(0.0001), "serial", pair=path)
    begin(first, ids(5, 6, 7))
    assert is_ready(first)
    step(first, 8)
    first._worker.costs.judged([True])
    first.close()
    written = DAMAGE[damage](json.loads(path.read_text()))
    if written is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_text(written if isinstance(written, str) else json.dumps(written))
        path.chmod(0o600)
    second = make(Scripted(0.0001), "serial", pair=path)
    assert second._worker.costs.n_judged == 0
    begin(second, ids(5, 6, 7))
    for root in range(7, 20):
        assert len(step(second, root + 1)) or root < 10


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=12,
    )
    | st.lists(st.tuples(st.integers(-1, 5), st.integers(-2, 80), st.floats()).map(list), max_size=6)
)
def test_whatever_a_file_says_of_costs_and_modes_they_can_be_used(kept: object) -> None:
    costs, chooser = AskingCosts(2), Chooser((NGRAM, SERIAL, PARALLEL))
    costs.take(kept)
    chooser.take(kept)
    assert 0.0 <= costs.sureness <= 1.0 and costs.n_judged >= 0 and costs.reading >= 0.0
    assert 1.0 <= costs.slowdown(0) <= 4.0
    assert all(seconds is None or 0.0 < seconds < 1e4 for seconds in (costs.seconds(1), costs.seconds(40)))
    assert chooser.way in (NGRAM, SERIAL, PARALLEL)
    again = AskingCosts(2)
    again.take(json.loads(json.dumps(costs.kept())))
    assert again.sureness == costs.sureness


def test_a_text_that_takes_too_long_to_read_ends_the_trial() -> None:
    chooser = Chooser((NGRAM, SERIAL))
    run(chooser, lambda way: 0.8, TRIAL)
    assert chooser.way == SERIAL
    for _ in range(200):
        chooser.record(chooser.way, 1.4, 1, ready=chooser.way == NGRAM)
    assert chooser.way == NGRAM


@pytest.mark.parametrize("mode", ["auto", "parallel"])
def test_a_text_that_the_model_cannot_follow_is_drafted_from_n_grams(make: Make, mode: str) -> None:
    class Lost(Scripted):
        can_go_on = False

    drafter = make(Lost(0.0001), mode, target_threads=2)
    begin(drafter, ids(5, 6, 7))
    for root in range(7, 60):
        step(drafter, root + 1)
        assert not drafter.beside
        assert drafter.lent == 0


def test_a_model_that_dies_while_it_is_judged_is_told_of(make: Make) -> None:
    told: list[str] = []
    drafter = make(Scripted(fails_after=0), "auto", told=told)
    begin(drafter, ids(5, 6, 7))
    for root in range(7, 80):
        step(drafter, root + 1)
    assert len(told) == 1 and "the draft model fell over" in told[0]


def test_a_few_late_answers_in_a_long_life_are_no_reason_to_give_up(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_drafter, "SHORTEST_WAIT", 0.05)
    told: list[str] = []
    speaker = Scripted()
    drafter = make(speaker, told=told)
    begin(drafter, ids(5, 6, 7))
    assert is_ready(drafter)
    root = 7
    for _ in range(2 * model_drafter.STALLS):
        speaker.held.clear()
        step(drafter, root := root + 1)
        speaker.held.set()
        until(lambda: drafter._awaited is None or drafter._awaited.done)
        monkeypatch.setattr(model_drafter, "SHORTEST_WAIT", 10.0)
        step(drafter, root := root + 1)
        monkeypatch.setattr(model_drafter, "SHORTEST_WAIT", 0.05)
    assert not told


def test_a_model_that_is_not_asked_need_not_follow_and_still_knows_the_text_when_it_is(make: Make) -> None:
    speaker = Scripted(0.0001, step=7)
    drafter = make(speaker, "auto")
    begin(drafter, ids(5, 6, 7))
    for root in range(7, 50):
        step(drafter, root + 1)
    assert speaker.text == [5, 6, 7]
    speaker._step = 1
    drafter._worker.costs.judged([True] * 100)
    root = 50
    while drafter.way == NGRAM and root < 200:
        step(drafter, root := root + 1)
    assert drafter.way == SERIAL
    for _ in range(20):
        step(drafter, root := root + 1)
        time.sleep(0.002)
    assert speaker.text[-18:] == list(range(root - 17, root + 1))
    assert speaker.asked > SAMPLE + 10


def test_a_wrong_idea_of_a_good_model_does_not_last(make: Make) -> None:
    drafter = make(Scripted(0.0001))
    drafter._worker.costs.judged([False] * 60)
    drafter._worker.costs.timed([1.0])
    begin(drafter, ids(5, 6, 7))
    assert is_ready(drafter)
    root = 7
    for _ in range(20 * model_drafter.UNASKED):
        step(drafter, root := root + 1)
    assert drafter.did().asked > 100
    assert main_chain(drafter.draft(8, COSTS))[:3] == [root + 1, root + 2, root + 3]


def test_what_a_pause_brings_is_no_step(make: Make) -> None:
    drafter = make(Scripted(0.0001), "auto")
    begin(drafter, ids(5, 6, 7))
    for root in range(7, 30):
        step(drafter, root + 1)
    drafter.verifying(drafter.draft(8, COSTS))
    before = drafter._chooser._paces[NGRAM].steps
    drafter.observe(said(list(range(31, 60))))
    assert drafter._chooser._paces[NGRAM].steps == before


def test_with_nobody_waiting_it_leaves_the_processor_to_what_is_measured(make: Make) -> None:
    class Long(Scripted):
        def follow(self, text: np.ndarray) -> None:
            super().follow(text)
            self.unread = 100

    busy = threading.Event()
    busy.set()
    drafter = make(Long(), "serial", yields=busy.is_set)
    begin(drafter, ids(5, 6, 7))
    time.sleep(0.1)
    assert not drafter._worker.ready
    busy.clear()
    step(drafter, 8)
    assert is_ready(drafter)


def test_hrad_learns_where_to_branch(tmp_path: Path) -> None:
    """A model that is sure of what never comes: after some chains nothing of it is verified any more."""
    told: list[str] = []
    kept = KeptHrad(tmp_path / "pair.json", 0)
    drafter = ModelDrafter(
        auto(N_VOCAB),
        Scripted(),
        close=lambda: None,
        mode="branch",
        threads=1,
        notice=told.append,
        hrad=kept,
    )
    lengths = []
    try:
        begin(drafter, ids(5, 6, 7))
        assert is_ready(drafter)
        for i in range(80):
            tree = drafter.draft(8)
            lengths.append(len(tree))
            observe(drafter, ids(400 + 7 * (i % 60)), tree)
    finally:
        drafter.close()
    assert lengths[0] == 4
    assert lengths[-10:] == [0] * 10
    assert kept.hrad.n_seen > 40
    again = KeptHrad(tmp_path / "pair.json", 0)
    assert again.hrad.n_seen == kept.hrad.n_seen
    assert not told
