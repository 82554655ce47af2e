"""The drafter hears what the target would have said at every verified node, as long as that is cheap."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from test_planning import STEEP, FixedDrafter, sure_chain

from aded_local.decode import Tally, generate
from aded_local.errors import DeviceError
from aded_local.kernels.top_k import NO_TOKEN, TOP_K, fill_rows
from aded_local.llama import ContextSettings, Model, Sampling, Target
from aded_local.speed.cost_curve import from_measurements
from aded_local.speed.planner import (
    FIRST_TOP_K_PAUSE,
    LONGEST_TOP_K_PAUSE,
    TOP_K_SHARE_LIMIT,
    AutoPlanner,
    PaperPlanner,
    PlainPlanner,
    TopKSwitch,
    make_planner,
)
from aded_local.tree import EMPTY_TREE, DraftTree, FloatArray, IntArray
from aded_models.builtin import builtin_path

PLAIN = STEEP[1]
BRANCHED = DraftTree(
    np.array([5, 6, 7, 8], np.int32),
    np.array([-1, -1, 0, 2], np.int32),
    np.array([1, 1, 2, 3], np.int32),
    np.array([0.9, 0.09, 0.85, 0.8], np.float32),
)


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Listener(FixedDrafter):
    """Keeps what it is told, in order; learning takes as long as is set."""

    def __init__(self, tree: DraftTree, clock: Clock | None = None, seconds: float = 0.0) -> None:
        super().__init__(tree)
        self.clock = clock or Clock()
        self.seconds = seconds
        self.told: list[tuple[DraftTree, IntArray, FloatArray]] = []
        self.calls: list[str] = []

    def learn_distributions(self, tree: DraftTree, tokens: IntArray, shares: FloatArray) -> None:
        self.told.append((tree, tokens, shares))
        self.calls.append("learn_distributions")
        self.clock.now += self.seconds

    def observe(self, accepted: IntArray) -> None:
        super().observe(accepted)
        self.calls.append("observe")


def planner_for(drafter: Listener, *, top_k: bool = True) -> AutoPlanner:
    return AutoPlanner(
        drafter,
        from_measurements(STEEP, {}, 0),
        largest=63,
        chain_only=False,
        allowed=None,
        top_k=top_k,
        clock=drafter.clock,
    )


def peaked(*likeliest: int, n_vocab: int = 300) -> FloatArray:
    """Rows whose likeliest token is the one given, and whose next is the token after it."""
    logits = np.zeros((len(likeliest), n_vocab), np.float32)
    for row, token in enumerate(likeliest):
        logits[row, token] = 9
        logits[row, token + 1] = 8
    return logits


def step(planner: AutoPlanner, tokens: list[int], n_nodes: int = 0) -> None:
    """One step of the loop, right on schedule, with ``n_nodes`` verified."""
    planner.plan(256, 60)
    tree = sure_chain(n_nodes) if n_nodes else EMPTY_TREE
    planner.see(tree, list(range(1, n_nodes + 1)), lambda: peaked(*range(10, 11 + n_nodes)))
    seconds = float(from_measurements(STEEP, {}, 0).seconds(256)[n_nodes + 1])
    planner.observe(tokens, n_nodes=n_nodes, n_cells=256, verify_seconds=seconds, step_seconds=seconds)


# --- what the drafter is told --------------------------------------------------------------------------


def test_every_node_gets_the_row_the_batch_gave_it() -> None:
    drafter = Listener(BRANCHED)
    planner = planner_for(drafter)
    planner.plan(256, 60)
    planner.see(BRANCHED, [1, 4, 2, 3], lambda: peaked(20, 30, 40, 50, 60))
    ((tree, tokens, shares),) = drafter.told
    assert tree is BRANCHED
    assert tokens.shape == shares.shape == (5, TOP_K)
    assert tokens.dtype == np.int32
    assert shares.dtype == np.float32
    assert tokens[:, 0].tolist() == [20, 30, 60, 40, 50]
    assert tokens[:, 1].tolist() == [21, 31, 61, 41, 51]
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-6)


def test_a_plain_step_tells_of_the_root() -> None:
    drafter = Listener(EMPTY_TREE)
    planner = planner_for(drafter)
    step(planner, [10])
    ((tree, tokens, _),) = drafter.told
    assert len(tree) == 0
    assert tokens.shape == (1, TOP_K)
    assert tokens[0, 0] == 10


def test_padding_is_skipped() -> None:
    """Two sure tokens and one that only makes the batch cheaper."""
    drafter = Listener(sure_chain(2))
    planner = planner_for(drafter)
    tree = planner.plan(256, 60)
    assert tree.probabilities.tolist()[2:] == [0.0]
    planner.see(tree, [1, 2, 3], lambda: peaked(20, 30, 40, 50))
    ((_, tokens, shares),) = drafter.told
    assert tokens[:3, 0].tolist() == [20, 30, 40]
    assert (tokens[3] == NO_TOKEN).all()
    assert (shares[3] == 0).all()


def test_it_comes_before_the_tokens_of_the_same_step_and_after_those_of_the_last() -> None:
    drafter = Listener(EMPTY_TREE)
    planner = planner_for(drafter)
    for token in range(3):
        step(planner, [token])
    assert drafter.calls == ["learn_distributions", "observe"] * 3


@pytest.mark.parametrize("limit", [0, 60])
def test_after_a_pause_the_drafter_has_heard_the_root_first(limit: int) -> None:
    """Even where the first step after it has no room for a draft."""
    drafter = Listener(sure_chain(8))
    planner = planner_for(drafter)
    while not planner._guard.paused:
        step(planner, [99], len(planner.plan(256, 60)))
    drafter.calls.clear()
    while planner._guard.paused:
        step(planner, [99])
    assert drafter.calls == []  # nothing within the pause
    planner.plan(256, limit)
    planner.see(EMPTY_TREE, [], lambda: peaked(20))
    assert drafter.calls == ["observe", "learn_distributions"]


def test_nothing_is_read_that_nobody_wants() -> None:
    def refuse() -> FloatArray:
        raise AssertionError("the logits were asked for")

    drafter = Listener(EMPTY_TREE)
    curve = from_measurements(STEEP, {}, 0)
    shape = {"chain_only": False, "largest": 63}
    planners = [
        PlainPlanner(),
        PaperPlanner(drafter, allowed=None, **shape),
        planner_for(drafter, top_k=False),
        make_planner("auto", drafter, curve, exact=False, top_k=False, **shape),
    ]
    for planner in planners:
        planner.plan(256, 60)
        planner.see(EMPTY_TREE, [], refuse)
    assert drafter.told == []


# --- whether it pays -----------------------------------------------------------------------------------


def test_cheap_reading_goes_on_for_ever() -> None:
    clock = Clock()
    drafter = Listener(EMPTY_TREE, clock, 0.9 * TOP_K_SHARE_LIMIT * PLAIN)
    planner = planner_for(drafter)
    for _ in range(400):
        step(planner, [1])
    assert len(drafter.told) == 400


def test_dear_reading_stops_and_is_tried_again_ever_more_seldom() -> None:
    clock = Clock()
    drafter = Listener(EMPTY_TREE, clock, 3 * TOP_K_SHARE_LIMIT * PLAIN)
    planner = planner_for(drafter)
    at = []
    for number in range(6000):
        told = len(drafter.told)
        step(planner, [1])
        if len(drafter.told) > told:
            at.append(number)
    begin = [number for number in at if number < FIRST_TOP_K_PAUSE]
    assert 1 < len(begin) < 10
    gaps = np.diff(at[len(begin) - 1 :]).tolist()
    pauses = [FIRST_TOP_K_PAUSE * 2**i for i in range(4)]
    assert gaps[:4] == pauses
    assert set(gaps[4:]) == {LONGEST_TOP_K_PAUSE}


def test_a_pause_ends_when_it_became_cheap() -> None:
    clock = Clock()
    drafter = Listener(EMPTY_TREE, clock, 3 * TOP_K_SHARE_LIMIT * PLAIN)
    planner = planner_for(drafter)
    for _ in range(20):
        step(planner, [1])
    heard = len(drafter.told)
    assert heard < 10
    drafter.seconds = 0.1 * TOP_K_SHARE_LIMIT * PLAIN
    for _ in range(FIRST_TOP_K_PAUSE + 100):
        step(planner, [1])
    assert len(drafter.told) > heard + 100


def steps_off(switch: TopKSwitch, *, already: bool = False) -> int:
    """Make it too dear, unless it is off ``already``; steps until it is tried again."""
    if not already:
        while switch.due():
            switch.record(0.04, 1.0)
    return next(n for n in range(2 if not already else 1, 10_000) if switch.due())


def test_one_interruption_does_not_stop_it_and_a_long_good_spell_forgives() -> None:
    switch = TopKSwitch()
    for _ in range(50):
        assert switch.due()
        switch.record(0.5 * TOP_K_SHARE_LIMIT, 1.0)
    switch.record(10.0, 1.0)
    assert switch.due()
    assert steps_off(switch) == FIRST_TOP_K_PAUSE
    switch.record(0.04, 1.0)  # the trial is as dear
    assert steps_off(switch, already=True) == 2 * FIRST_TOP_K_PAUSE
    for _ in range(3 * FIRST_TOP_K_PAUSE):
        switch.record(0.0, 1.0)
        assert switch.due()
    assert steps_off(switch) == FIRST_TOP_K_PAUSE


def test_forgetting_everything_forgets_that_it_was_dear() -> None:
    drafter = Listener(EMPTY_TREE, seconds=3 * TOP_K_SHARE_LIMIT * PLAIN)
    planner = planner_for(drafter)
    for _ in range(20):
        step(planner, [1])
    heard = len(drafter.told)
    planner.reset()
    step(planner, [1])
    assert len(drafter.told) == heard + 1


def test_a_step_that_drafts_has_to_earn_the_time_and_the_yardstick_of_plain_steps_stays_clean() -> None:
    reading = 0.5 * TOP_K_SHARE_LIMIT * PLAIN
    drafter = Listener(sure_chain(1), seconds=reading)
    planner = planner_for(drafter)
    recorded: list[dict[str, float]] = []
    planner._guard.record = lambda **found: recorded.append(found)  # type: ignore[method-assign]
    for n_nodes in (0, 1):
        planner.plan(256, 60)
        planner.see(sure_chain(n_nodes), list(range(1, n_nodes + 1)), lambda: peaked(10, 11))
        planner.observe([1], n_nodes=n_nodes, n_cells=256, verify_seconds=0.03, step_seconds=0.03 + reading)
    assert [found["seconds"] for found in recorded] == pytest.approx([0.03, 0.03 + reading])
    assert [found["draft_seconds"] for found in recorded] == [0.0, 0.0]


def test_an_answers_tally_counts_it_as_drafting(tiny: dict[str, Path]) -> None:
    class Slow(PlainPlanner):
        def see(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> None:
            time.sleep(0.005)

    target = Target(Model(tiny["llama"]), ContextSettings(256, 1, False, "f32", 8))
    tally = Tally()
    list(generate(target, Slow(), Sampling(temperature=0.0), [3, 4, 5], 6, tally, lambda: False))
    assert tally.passes > 0
    assert tally.draft >= 0.005 * tally.passes
    assert min(tally.draft_times) >= 0.005
    target.close()


# --- with a real target --------------------------------------------------------------------------------


class Given:
    """Verifies the trees it was given and keeps what it sees, as ``AutoPlanner`` would hand it on."""

    def __init__(self, trees: list[DraftTree]) -> None:
        self.trees = trees
        self.context: list[int] = []
        self.seen: list[tuple[list[int], int]] = []  # a context, and its likeliest next token

    def begin(self, context: IntArray) -> None:
        self.context = context.tolist()

    def plan(self, n_cells: int, limit: int) -> DraftTree:
        return self.trees.pop(0).first(limit) if self.trees else EMPTY_TREE

    def see(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> None:
        drafter = Listener(tree)
        planner = planner_for(drafter)
        planner.plan(256, 0)
        planner.see(tree, row_of, logits)
        tokens = drafter.told[0][1]
        self.seen.append((list(self.context), int(tokens[0, 0])))
        for node in range(len(tree)):
            path = [int(tree.tokens[i]) for i in tree.path_to(node)]
            self.seen.append((self.context + path, int(tokens[node + 1, 0])))

    def observe(self, tokens: list[int], **_: object) -> None:
        self.context += tokens

    def reset_context(self) -> None:
        pass

    def reset(self) -> None:
        pass


def contexts_seen(target: Target, sampling: Sampling, prompt: list[int], n: int, rng_seed: int) -> Given:
    rng = np.random.default_rng(rng_seed)
    target.forget()
    plain = [
        token
        for step in generate(target, PlainPlanner(), sampling, prompt, n, Tally(), lambda: False)
        for token in step
    ]
    trees = []
    for start in range(1, n - 6, 3):
        # What plain decoding says behind a wrong guess, so that accepted nodes lie on a side branch too.
        wrong = rng.integers(0, min(200, target.model.n_vocab), 3).tolist()
        right = plain[start : start + 2]
        tokens = np.array([wrong[0], right[0], wrong[1], right[1], wrong[2]], np.int32)
        trees.append(
            DraftTree(
                tokens,
                np.array([-1, -1, 0, 1, 1], np.int32),
                np.array([1, 1, 2, 2, 2], np.int32),
                np.full(5, 0.5, np.float32),
            )
        )
    if target.drafting_shape == "chain":
        trees = [
            DraftTree(
                t.tokens[[1, 3]], *(np.array(a, np.int32) for a in ([-1, 0], [1, 2])), t.probabilities[:2]
            )
            for t in trees
        ]
    given = Given(trees)
    target.forget()
    steps = generate(target, given, sampling, prompt, n, Tally(), lambda: False)
    assert [token for step in steps for token in step] == plain
    return given


def check_against_plain_decoding(target: Target, given: Given, atol: float) -> None:
    """Every context's likeliest token is the one plain decoding finds, or as good to rounding."""
    assert given.seen
    for context, token in given.seen:
        logits = target.logits_after(np.array(context, np.int32))
        assert logits[token] >= logits.max() - atol


@pytest.fixture(scope="module")
def builtin() -> Iterator[Target]:
    model = Model(builtin_path())
    target = Target(model, ContextSettings(512, 2, False, "f16", 8))
    yield target
    target.close()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(temperature=0.0), Sampling(temperature=0.9, repeat_penalty=1.3, top_k=20, seed=11)],
    ids=["greedy", "penalised"],
)
def test_at_every_verified_node_the_first_token_is_the_targets_own(
    builtin: Target, sampling: Sampling
) -> None:
    """Accepted or not, on the main chain or beside it; and a penalty on the sampler changes nothing."""
    prompt = builtin.model.tokenize(
        "Show the files here, newest first.", add_special=True, parse_special=False
    )
    given = contexts_seen(builtin, sampling, prompt, 30, 3)
    assert len(given.seen) > 40
    # Q8_0 rounds differently by batch size: up to 0.15 (field notes, section 5), each side once.
    check_against_plain_decoding(builtin, given, atol=0.3)


@pytest.mark.parametrize("architecture", sorted(tiny_models.GENERATING))
def test_every_kind_of_memory_tells_the_truth(tiny: dict[str, Path], architecture: str) -> None:
    """Chains alone where memory cannot branch; no drafts at all where it does not roll back."""
    model = Model(tiny[architecture])
    target = Target(model, ContextSettings(512, 1, False, "f32", 8, 8))
    prompt = model.tokenize("one two three one two three", add_special=True, parse_special=False)
    if target.drafting_shape == "none":
        given = Given([])
        list(generate(target, given, Sampling(temperature=0.0), prompt, 12, Tally(), lambda: False))
    else:
        given = contexts_seen(target, Sampling(temperature=0.0), prompt, 24, 5)
    check_against_plain_decoding(target, given, atol=2e-3)
    target.close()


def test_the_rows_are_a_view_of_the_logits_without_a_copy(tiny: dict[str, Path]) -> None:
    target = Target(Model(tiny["llama"]), ContextSettings(256, 1, False, "f32", 8))
    with pytest.raises(DeviceError):
        target.verified_logits()
    target.prefill([3, 4, 5])
    with pytest.raises(DeviceError):
        target.verified_logits()
    tree, layout, _ = target.verify(6, BRANCHED)
    rows = target.verified_logits()
    assert rows.shape == (5, target.model.n_vocab)
    for row in range(5):
        assert rows[row].ctypes.data == target.context.logits(row).ctypes.data
    target.accept(6, tree, layout, [0])
    assert target.verified_logits() is rows
    plain, layout, _ = target.verify(9, EMPTY_TREE)
    assert target.verified_logits().shape == (1, target.model.n_vocab)
    target.accept(9, plain, layout, [])
    target.prefill([*target.cached, 10])
    with pytest.raises(DeviceError):
        target.verified_logits()
    target.close()


def test_llamas_rows_need_no_second_compilation(tiny: dict[str, Path]) -> None:
    """A type the warm-up did not meet would cost an answer seconds."""
    target = Target(Model(tiny["llama"]), ContextSettings(256, 1, False, "f32", 8))
    target.prefill([3, 4, 5])
    drafter = Listener(BRANCHED)
    planner = planner_for(drafter)
    compiled = list(fill_rows.signatures)  # type: ignore[attr-defined]
    planner.plan(3, 0)
    tree, layout, _ = target.verify(6, BRANCHED)
    planner.see(tree, layout.row_of, target.verified_logits)
    assert len(drafter.told) == 1
    assert fill_rows.signatures == compiled  # type: ignore[attr-defined]
    target.close()
