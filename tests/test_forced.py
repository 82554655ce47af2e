"""What a grammar forces is drafted, and what it forbids is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vocabularies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_schemas import SCHEMAS
from steps import beginning
from trees import draft_trees

from aded_local.decode import Tally, generate
from aded_local.drafters import make_drafter
from aded_local.llama import ContextSettings, Sampling, Steering, Target
from aded_local.llama.forced import GrammarConstraint, Habits
from aded_local.llama.grammar import Grammar
from aded_local.llama.model import Model
from aded_local.llama.vocabulary import Vocabulary
from aded_local.speed.constrained import ConstrainedDrafter, below, without
from aded_local.speed.planner import Limits, PlainPlanner, Planner, WholePlanner
from aded_local.speed.threads import Threads
from aded_local.step import Forced
from aded_local.tree import ROOT, DraftTree, chain

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "full_name": {"type": "string"},
        "age": {"type": "integer"},
        "married": {"type": "boolean"},
    },
    "required": ["full_name", "age", "married"],
}


@pytest.fixture(scope="module", params=["qwen2", "llama-spm"])
def vocabulary(request: pytest.FixtureRequest) -> Iterator[Model]:
    yield Vocabulary(vocabularies.path_of(request.param))


def tokens_of(model: Model, text: str) -> list[int]:
    """The tokens of a text that goes on: without the space that some vocabularies begin a text with."""
    whole = model.tokenize("\n" + text, add_special=False, parse_special=False)
    return whole[next(i for i, token in enumerate(whole) if b"\n" in model.piece(token)) + 1 :]


def text_of(model: Model, tokens: Any) -> str:
    return b"".join(model.piece(int(token)) for token in tokens).decode()


def constraint(model: Model, schema: Any, said: str = "") -> GrammarConstraint:
    Habits._of.pop(model, None)  # nothing is known of what it did before
    found = GrammarConstraint(Grammar.of(model, schema=schema))
    found.advance(tokens_of(model, said) if said else [])
    return found


def test_text_that_must_come_is_drafted_to_its_end(vocabulary: Model) -> None:
    forced = constraint(vocabulary, {"const": "the whole answer is known"}).forced(64)
    assert text_of(vocabulary, forced.tokens[:-1]) == '"the whole answer is known"'
    assert vocabulary.is_end(int(forced.tokens[-1]))
    assert (forced.chances > 0.9).all()


def test_a_name_is_forced_in_few_tokens_though_each_of_its_letters_may_come(vocabulary: Model) -> None:
    forced = constraint(vocabulary, PERSON, '{"f').forced(64)
    assert "ull_name".startswith(text_of(vocabulary, forced.tokens))
    assert len(text_of(vocabulary, forced.tokens)) >= 4
    assert len(forced.tokens) <= 4


def test_nothing_is_forced_within_free_text(vocabulary: Model) -> None:
    assert len(constraint(vocabulary, PERSON, '{"full_name": "Ann').forced(64).tokens) == 0


def test_where_few_ways_are_open_it_goes_on_as_before(vocabulary: Model) -> None:
    found = constraint(vocabulary, {"type": "array", "items": PERSON})
    first = '[{"full_name": "Ann", "age": 41, "married": true}, '
    found.advance(tokens_of(vocabulary, first))
    assert len(found.forced(64).tokens) <= 3
    # Token by token, as an answer is written: it is seen where spaces were put.
    second = '{"full_name": "Bob", "age": 7, "married": false}, {"full_name": "Eve"'
    for token in tokens_of(vocabulary, second):
        found.advance([token])
        found.forced(64)
    found.advance(tokens_of(vocabulary, ","))
    assert text_of(vocabulary, found.forced(64).tokens).startswith(' "age')


def test_what_came_in_other_tokens_is_counted(vocabulary: Model) -> None:
    found = constraint(vocabulary, {"const": "abcdefgh"})
    drafted = found.forced(64).tokens
    found.advance(
        tokens_of(vocabulary, '"') if vocabulary.piece(int(drafted[0])) != b'"' else drafted[:1].tolist()
    )
    found.forced(64)
    found.advance(tokens_of(vocabulary, "a"))
    found.forced(64)
    habits = Habits.of(vocabulary)
    assert habits.misspelt >= 1
    assert habits.right < 30 / 31
    assert habits.tried > habits.came


def test_what_the_grammar_did_not_allow_ends_the_constraint_not_the_answer(vocabulary: Model) -> None:
    found = constraint(vocabulary, PERSON)
    found.advance(tokens_of(vocabulary, "nonsense"))
    assert len(found.forced(64).tokens) == 0
    tree = chain(np.array([1, 2], np.int32), np.array([0.5, 0.2], np.float32))
    assert found.allowed(np.zeros(0, np.int32), tree).all()


TEXTS = (
    "{", '{"', '{"full', '{"full_name": "A', '{"full_name": "A"', '{"full_name": "A", "age": 1',
    '{"full_name": "A", "age": 1, "married": tr',
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(TEXTS))
def test_a_tree_keeps_what_may_come_and_nothing_else(
    vocabulary: Model, data: st.DataObject, said: str
) -> None:
    shape = data.draw(draft_trees(max_nodes=10, n_tokens=12))
    ordinary = ['"', "a", "{", ":", " ", ",", "1", "2", "}", "true", "_name", "age"]
    ids = np.array([tokens_of(vocabulary, text)[0] for text in ordinary], np.int32)
    tree = DraftTree(ids[shape.tokens], shape.parents, shape.depths, shape.probabilities)
    found = constraint(vocabulary, PERSON, said)
    allowed = found.allowed(np.zeros(0, np.int32), tree)
    for node in range(len(tree)):
        state = Grammar.of(vocabulary, schema=PERSON).state()
        for token in tokens_of(vocabulary, said):
            state.accept(token)
        fits = True
        for step in tree.path_to(node):
            fits = fits and state.allows(int(tree.tokens[step]))
            if fits:
                state.accept(int(tree.tokens[step]))
        assert fits == allowed[node]


@settings(max_examples=60, deadline=None)
@given(st.data(), draft_trees())
def test_what_is_left_is_a_tree_with_the_likeliest_first(data: st.DataObject, tree: DraftTree) -> None:
    n = data.draw(st.integers(0, min(3, len(tree))))
    head = chain(np.arange(100, 100 + n, dtype=np.int32), np.ones(n, np.float32))
    shift = np.where(tree.parents == ROOT, n - 1, tree.parents + n).astype(np.int32)
    whole = DraftTree(
        np.concatenate([head.tokens, tree.tokens]),
        np.concatenate([head.parents, shift]),
        np.concatenate([head.depths, tree.depths + n]),
        np.concatenate([head.probabilities, tree.probabilities]),
    )
    rest = below(whole, n)
    assert rest.parents.tolist() == tree.parents.tolist()
    assert rest.depths.tolist() == tree.depths.tolist()
    allowed = np.array([data.draw(st.booleans()) for _ in range(len(tree))], np.bool_)
    for node, parent in enumerate(tree.parents.tolist()):
        allowed[node] &= parent == ROOT or allowed[parent]
    left = without(whole, n, allowed)
    assert left.tokens[:n].tolist() == head.tokens.tolist()
    paths = {tuple(whole.tokens[whole.path_to(node)].tolist()) for node in n + np.flatnonzero(allowed)}
    assert {tuple(left.tokens[left.path_to(node)].tolist()) for node in range(n, len(left))} == paths
    assert (left.parents < np.arange(len(left))).all()
    assert (np.diff(left.probabilities[n:]) <= 1e-6).all()
    for node, parent in enumerate(left.parents.tolist()):
        assert left.depths[node] == (1 if parent == ROOT else left.depths[parent] + 1)
        assert left.probabilities[node] <= (1.0 if parent == ROOT else left.probabilities[parent]) + 1e-6


def test_the_mass_of_what_is_forbidden_goes_to_the_others() -> None:
    tree = DraftTree(
        np.array([1, 2, 3], np.int32),
        np.array([-1, -1, 1], np.int32),
        np.array([1, 1, 2], np.int32),
        np.array([0.5, 0.4, 0.2], np.float32),
    )
    left = without(tree, 0, np.array([False, True, True]))
    assert left.tokens.tolist() == [2, 3]
    assert left.parents.tolist() == [-1, 0]
    assert left.probabilities == pytest.approx([0.8, 0.4])


@pytest.mark.parametrize(("preset", "goes_on"), [("auto", True), ("paper", False)])
def test_drafts_begin_with_what_is_forced(preset: str, goes_on: bool) -> None:
    drafter = make_drafter(preset, n_vocab=64)
    drafter.begin(beginning(*[1, 2, 3, 4, 5, 6, 7, 8] * 6))
    forced = Forced(np.array([1, 2, 3], np.int32), np.array([1.0, 0.9, 0.9], np.float32))
    tree = drafter.draft(8, forced=forced)
    assert tree.tokens[:3].tolist() == [1, 2, 3]
    assert tree.parents[:3].tolist() == [-1, 0, 1]
    assert tree.probabilities[:3] == pytest.approx([1.0, 0.9, 0.81])
    assert (4 in tree.tokens[3:].tolist()) == goes_on
    assert drafter.draft(2, forced=forced).tokens.tolist() == [1, 2]
    drafter.close()


def test_a_drafter_is_not_taught_by_what_it_did_not_predict() -> None:
    """The calibration is the same whether a forced token came or not."""
    forced = Forced(np.array([9, 10], np.int32), np.ones(2, np.float32))
    finals = []
    for told in (False, True):
        drafter: Any = make_drafter("auto", n_vocab=64)
        drafter.begin(beginning(*[1, 2, 3, 4] * 8))
        if told:
            drafter.draft(2, forced=forced)
        from aded_local.step import said

        drafter.observe(said([9, 10]))
        finals.append(np.array(drafter.model.finals))
    assert np.array_equal(*finals)


def test_forbidden_candidates_are_not_drafted(vocabulary: Model) -> None:
    said = json.dumps({"full_name": "Ann", "age": 41, "married": True})
    ids = tokens_of(vocabulary, said)
    drafter = make_drafter("auto", n_vocab=vocabulary.n_vocab)
    # The text before says that words follow each other, where the grammar wants JSON.
    words = tokens_of(vocabulary, "the cat and the dog and the cat and the dog and the")
    drafter.begin(beginning(*words))
    bound = constraint(vocabulary, PERSON)
    drafted = ConstrainedDrafter(drafter, bound).draft(8)
    free = drafter.draft(8)
    assert len(free) > 0
    assert not set(drafted.tokens.tolist()) & set(free.tokens.tolist())
    assert ids
    drafter.close()


# --- whole answers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target(tiny: dict[str, Path]) -> Target:
    """A target whose logits do not depend on the batch (F32 weights, attention without split)."""
    return Target(Model(tiny["llama"]), ContextSettings(512, 1, False, "f32", 8))


def answered(
    target: Target, planner: Planner, schema: Any, sampling: Sampling, n: int = 60
) -> tuple[list[int], Tally]:
    prompt = tokens_of(target.model, "one two three")
    tally = Tally()
    steering = Steering(grammar=Grammar.of(target.model, schema=schema))
    threads = Threads(target.settings.n_threads)
    steps = generate(
        target, planner, threads, sampling, prompt, beginning(*prompt), n, tally, lambda: False, steering=steering
    )  # fmt: skip
    return [token for step in steps for token in step], tally


@pytest.mark.parametrize("preset", ["auto", "paper"])
def test_a_schema_takes_fewer_passes_than_tokens(target: Target, preset: str) -> None:
    names = ("first", "second", "third", "fourth")
    schema = {"properties": {name: {"enum": ["yes", "no"]} for name in names}, "required": list(names)}
    planner = WholePlanner(make_drafter(preset, n_vocab=target.model.n_vocab), Limits(15, 8))
    greedy = Sampling(temperature=0.0)
    plain, _ = answered(target, PlainPlanner(), schema, greedy, 200)
    assert sorted(json.loads(text_of(target.model, plain[:-1]))) == sorted(names)
    for _ in range(2):
        drafted, tally = answered(target, planner, schema, greedy, 200)
        assert drafted == plain
    assert len(drafted) > 2 * tally.passes
    planner.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    SCHEMAS,
    st.sampled_from([{"temperature": 0.0}, {"temperature": 0.8, "seed": 7}, {"temperature": 1.5, "seed": 1}]),
)
def test_drafts_bound_to_a_schema_change_no_token(
    target: Target, schema: Any, sampling: dict[str, Any]
) -> None:
    plain, _ = answered(target, PlainPlanner(), schema, Sampling(**sampling))
    planner = WholePlanner(make_drafter("auto", n_vocab=target.model.n_vocab), Limits(15, 8))
    for _ in range(2):  # the second time it knows how the model spells and puts spaces
        drafted, _ = answered(target, planner, schema, Sampling(**sampling))
        assert drafted == plain
    planner.close()
    if target.model.is_end(plain[-1]):
        json.loads(text_of(target.model, plain[:-1]))
