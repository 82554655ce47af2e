"""The drafter hears what the target would have said at every verified node, as long as that is cheap."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from steps import FixedDrafter, beginning, take
from test_planning import STEEP, sure_chain

from aded_local.decode import Tally, generate
from aded_local.errors import DeviceError
from aded_local.kernels.top_k import NO_TOKEN, TOP_K, fill_rows
from aded_local.llama import ContextSettings, Model, Sampling, Target
from aded_local.speed.cost_curve import from_measurements
from aded_local.speed.planner import (
    AutoPlanner,
    Limits,
    PlainPlanner,
    Planner,
    WholePlanner,
    make_planner,
)
from aded_local.speed.threads import Threads
from aded_local.speed.top_k_switch import (
    FIRST_TOP_K_PAUSE,
    LEARNING,
    LONGEST_TOP_K_PAUSE,
    TOP_K_GAIN,
    TopKSwitch,
)
from aded_local.step import Beginning, Likely, StepResult
from aded_local.tree import EMPTY_TREE, DraftTree, FloatArray
from aded_models.builtin import builtin_path

PLAIN = STEEP[1]
LIMIT = TOP_K_GAIN / (1 + LEARNING)
"""What reading one row may take, as a share of a plain pass, so that learning it is paid too."""
BRANCHED = DraftTree(
    np.array([5, 6, 7, 8], np.int32),
    np.array([-1, -1, 0, 2], np.int32),
    np.array([1, 1, 2, 3], np.int32),
    np.array([0.9, 0.09, 0.85, 0.8], np.float32),
)


def cost(n: int) -> float:
    return float(from_measurements(STEEP, {}, 0).seconds(256)[n])


def planner_for(drafter: FixedDrafter, *, top_k: bool = True) -> AutoPlanner:
    curve = from_measurements(STEEP, {}, 0)
    return AutoPlanner(drafter, lambda: curve, Limits(63, 8), top_k=top_k, clock=lambda: 0.0)


def peaked(*likeliest: int, n_vocab: int = 300) -> FloatArray:
    """Rows whose likeliest token is the one given, and whose next is the token after it."""
    logits = np.zeros((len(likeliest), n_vocab), np.float32)
    for row, token in enumerate(likeliest):
        logits[row, token] = 9
        logits[row, token + 1] = 8
    return logits


def plain_step(planner: AutoPlanner, read_seconds: float = 0.0) -> None:
    take(planner, [1], cost, tree=EMPTY_TREE, logits=peaked(10), read_seconds=read_seconds)


# --- what the drafter is told --------------------------------------------------------------------------


def test_every_node_gets_the_row_the_batch_gave_it() -> None:
    planner = planner_for(FixedDrafter(BRANCHED))
    planner.plan(256, 60)
    likely = planner.read(BRANCHED, [1, 4, 2, 3], lambda: peaked(20, 30, 40, 50, 60))
    assert likely is not None
    assert likely.tokens.shape == likely.shares.shape == (5, TOP_K)
    assert likely.tokens.dtype == np.int32
    assert likely.shares.dtype == np.float32
    assert likely.tokens[:, 0].tolist() == [20, 30, 60, 40, 50]
    assert likely.tokens[:, 1].tolist() == [21, 31, 61, 41, 51]
    np.testing.assert_allclose(likely.shares.sum(axis=1), 1.0, atol=1e-6)


def test_a_plain_step_tells_of_the_root() -> None:
    drafter = FixedDrafter()
    plain_step(planner_for(drafter))
    ((tree, likely),) = drafter.likely
    assert len(tree) == 0
    assert likely.tokens.shape == (1, TOP_K)
    assert likely.tokens[0, 0] == 10


def test_padding_is_skipped() -> None:
    """Two sure tokens and one that only makes the batch cheaper."""
    planner = planner_for(FixedDrafter(sure_chain(2)))
    tree = planner.plan(256, 60)
    assert len(tree) == 3 and tree.padding == 1
    likely = planner.read(tree, [1, 2, 3], lambda: peaked(20, 30, 40, 50))
    assert likely is not None
    assert likely.tokens[:3, 0].tolist() == [20, 30, 40]
    assert (likely.tokens[3] == NO_TOKEN).all()
    assert (likely.shares[3] == 0).all()


@pytest.mark.parametrize("most", [0, 60])
def test_after_a_pause_the_drafter_has_heard_the_root_first(most: int) -> None:
    """Even where the first step after it has no room for a draft."""
    drafter = FixedDrafter(sure_chain(8))
    planner = planner_for(drafter)
    while not planner._guard.paused:
        take(planner, [99], cost)
    drafter.seen.clear()
    while planner._guard.paused:
        take(planner, [99], cost, logits=peaked(*range(20)))
    assert drafter.seen == drafter.likely == []  # nothing within the pause
    take(planner, [7], cost, tree=EMPTY_TREE, logits=peaked(20), most=most)
    assert set(drafter.seen[0]) == {99} and drafter.seen[1:] == [[7]] and len(drafter.likely) == 1


def test_nothing_is_read_that_nobody_wants() -> None:
    def refuse() -> FloatArray:
        raise AssertionError("the logits were asked for")

    drafter, limits = FixedDrafter(), Limits(63, 8)
    curve = from_measurements(STEEP, {}, 0)
    planners = [
        PlainPlanner(),
        WholePlanner(drafter, limits),
        planner_for(drafter, top_k=False),
        make_planner("auto", drafter, lambda: curve, limits, top_k=False),
    ]
    for planner in planners:
        planner.plan(256, 60)
        assert planner.read(EMPTY_TREE, [], refuse) is None


# --- whether it pays -----------------------------------------------------------------------------------


def test_cheap_reading_goes_on_for_ever() -> None:
    drafter = FixedDrafter()
    planner = planner_for(drafter)
    for _ in range(400):
        plain_step(planner, 0.9 * LIMIT * PLAIN)
    assert len(drafter.likely) == 400


def test_what_is_too_dear_for_one_row_is_cheap_for_ten() -> None:
    """Wide drafts gain from what was learnt, narrow ones hardly."""
    narrow, wide = TopKSwitch(), TopKSwitch()
    for step in range(60):
        if narrow.due():
            narrow.record(0.0 if step < 30 else 5 * LIMIT, 1.0, 1)
        assert wide.due()
        wide.record(0.0 if step < 30 else 5 * LIMIT, 1.0, 10)
    assert not narrow.due()


def test_dear_reading_stops_and_is_tried_again_ever_more_seldom() -> None:
    drafter = FixedDrafter()
    planner = planner_for(drafter)
    at = []
    for number in range(6000):
        heard = len(drafter.likely)
        plain_step(planner, 3 * LIMIT * PLAIN)
        if len(drafter.likely) > heard:
            at.append(number)
    begin = [number for number in at if number < FIRST_TOP_K_PAUSE]
    assert 1 < len(begin) < 10
    gaps = np.diff(at[len(begin) - 1 :]).tolist()
    pauses = [FIRST_TOP_K_PAUSE * 2**i for i in range(4)]
    assert gaps[:4] == pauses
    assert set(gaps[4:]) == {LONGEST_TOP_K_PAUSE}


def test_a_pause_ends_when_it_became_cheap() -> None:
    drafter = FixedDrafter()
    planner = planner_for(drafter)
    for _ in range(20):
        plain_step(planner, 3 * LIMIT * PLAIN)
    heard = len(drafter.likely)
    assert heard < 10
    for _ in range(FIRST_TOP_K_PAUSE + 100):
        plain_step(planner, 0.1 * LIMIT * PLAIN)
    assert len(drafter.likely) > heard + 100


def test_what_a_greedy_step_saves_by_reading_is_no_cost() -> None:
    """Looking for the likeliest token takes as long as reading it: reading goes on, after one pause at most."""
    planner = planner_for(FixedDrafter())
    reading = 3 * LIMIT * PLAIN
    read = []
    for _ in range(1000):
        planner.plan(256, 60)
        likely = planner.read(EMPTY_TREE, [], lambda: peaked(10))
        read.append(likely is not None)
        times = {"read_seconds": reading} if read[-1] else {"sample_seconds": 0.9 * reading}
        whole = {"verify_seconds": PLAIN, "total_seconds": PLAIN + sum(times.values())}
        planner.observe(StepResult(EMPTY_TREE, [10], [], 256, likely, **times, **whole))
    assert all(read[200:])


def steps_off(switch: TopKSwitch, *, already: bool = False) -> int:
    """Make it too dear, unless it is off ``already``; steps until it is tried again."""
    if not already:
        while switch.due():
            switch.record(10 * LIMIT, 1.0, 1)
    return next(n for n in range(2 if not already else 1, 10_000) if switch.due())


def test_one_interruption_does_not_stop_it_and_a_long_good_spell_forgives() -> None:
    switch = TopKSwitch()
    for _ in range(50):
        assert switch.due()
        switch.record(0.5 * LIMIT, 1.0, 1)
    switch.record(10.0, 1.0, 1)
    assert switch.due()
    assert steps_off(switch) == FIRST_TOP_K_PAUSE
    switch.record(10 * LIMIT, 1.0, 1)  # the trial is as dear
    assert steps_off(switch, already=True) == 2 * FIRST_TOP_K_PAUSE
    for _ in range(3 * FIRST_TOP_K_PAUSE):
        switch.record(0.0, 1.0, 1)
        assert switch.due()
    assert steps_off(switch) == FIRST_TOP_K_PAUSE


def test_forgetting_everything_forgets_that_it_was_dear() -> None:
    drafter = FixedDrafter()
    planner = planner_for(drafter)
    for _ in range(20):
        plain_step(planner, 3 * LIMIT * PLAIN)
    heard = len(drafter.likely)
    planner.reset()
    plain_step(planner)
    assert len(drafter.likely) == heard + 1


def test_a_step_that_drafts_has_to_earn_the_time_and_the_yardstick_of_plain_steps_stays_clean() -> None:
    reading = 0.5 * LIMIT * PLAIN
    planner = planner_for(FixedDrafter(sure_chain(1)))
    recorded: list[dict[str, float]] = []
    planner._guard.record = lambda **found: recorded.append(found)  # type: ignore[method-assign]
    for n_nodes in (0, 1):
        take(
            planner,
            [1],
            lambda n: 0.03,
            tree=sure_chain(n_nodes),
            logits=peaked(10, 11),
            read_seconds=reading,
        )
    assert [found["seconds"] for found in recorded] == pytest.approx([0.03, 0.03 + reading])
    assert [found["draft_seconds"] for found in recorded] == [0.0, 0.0]


def run(
    target: Target, planner: Planner, sampling: Sampling, prompt: list[int], n: int, tally: Tally
) -> list[int]:
    """Tokens of an answer."""
    start = beginning(*prompt)
    steps = generate(
        target, planner, Threads(target.settings.n_threads), sampling, prompt, start, n, tally, lambda: False
    )
    return [token for step in steps for token in step]


def test_an_answers_tally_counts_it_as_drafting(tiny: dict[str, Path]) -> None:
    class Slow(PlainPlanner):
        def read(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> Likely | None:
            time.sleep(0.005)
            return None

    target = Target(Model(tiny["llama"]), ContextSettings(256, 1, False, "f32", 8))
    tally = Tally()
    run(target, Slow(), Sampling(temperature=0.0), [3, 4, 5], 6, tally)
    assert tally.passes > 0
    assert tally.draft >= 0.005 * tally.passes
    assert min(tally.draft_times) >= 0.005
    target.close()


# --- with a real target --------------------------------------------------------------------------------


class Given(PlainPlanner):
    """Verifies the trees it was given and keeps what it sees, as ``AutoPlanner`` would hand it on."""

    def __init__(self, trees: list[DraftTree]) -> None:
        self.trees = trees
        self.context: list[int] = []
        self.seen: list[tuple[list[int], int]] = []  # a context, and its likeliest next token

    def begin(self, beginning: Beginning) -> None:
        self.context = beginning.new.tolist()

    def plan(self, n_cells: int, most: int) -> DraftTree:
        return self.trees.pop(0).first(most) if self.trees else EMPTY_TREE

    def read(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> Likely | None:
        likely = planner_for(FixedDrafter(tree)).read(tree, row_of, logits)
        assert likely is not None
        self.seen.append((list(self.context), int(likely.tokens[0, 0])))
        for node in range(len(tree)):
            path = [int(tree.tokens[i]) for i in tree.path_to(node)]
            self.seen.append((self.context + path, int(likely.tokens[node + 1, 0])))
        return likely

    def observe(self, result: StepResult) -> None:
        self.context += result.tokens


def contexts_seen(target: Target, sampling: Sampling, prompt: list[int], n: int, rng_seed: int) -> Given:
    rng = np.random.default_rng(rng_seed)
    target.forget()
    plain = run(target, PlainPlanner(), sampling, prompt, n, Tally())
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
    assert run(target, given, sampling, prompt, n, Tally()) == plain
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
        run(target, given, Sampling(temperature=0.0), prompt, 12, Tally())
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
    layout, _ = target.verify(6, BRANCHED)
    rows = target.verified_logits()
    assert rows.shape == (5, target.model.n_vocab)
    for row in range(5):
        assert rows[row].ctypes.data == target.context.logits(row).ctypes.data
    target.accept(6, BRANCHED, layout, [0])
    assert target.verified_logits() is rows
    layout, _ = target.verify(9, EMPTY_TREE)
    assert target.verified_logits().shape == (1, target.model.n_vocab)
    target.accept(9, EMPTY_TREE, layout, [])
    target.prefill([*target.cached, 10])
    with pytest.raises(DeviceError):
        target.verified_logits()
    target.close()


def test_llamas_rows_need_no_second_compilation(tiny: dict[str, Path]) -> None:
    """A type the warm-up did not meet would cost an answer seconds."""
    target = Target(Model(tiny["llama"]), ContextSettings(256, 1, False, "f32", 8))
    target.prefill([3, 4, 5])
    planner = planner_for(FixedDrafter(BRANCHED))
    compiled = list(fill_rows.signatures)  # type: ignore[attr-defined]
    layout, _ = target.verify(6, BRANCHED)
    assert planner.read(BRANCHED, layout.row_of, target.verified_logits) is not None
    assert fill_rows.signatures == compiled  # type: ignore[attr-defined]
    target.close()
