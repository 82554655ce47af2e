"""Drafting never changes what is said: the same tokens with and without it, for every kind of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samplings import checked, samplings
from steps import beginning
from trees import draft_trees

from aded_local import LocalADED
from aded_local.decode import Tally, generate
from aded_local.llama import ContextSettings, Model, Sampling, Target
from aded_local.speed.planner import PlainPlanner
from aded_local.speed.threads import Threads
from aded_local.tree import EMPTY_TREE, DraftTree

GENERATING = sorted(tiny_models.GENERATING)
PROMPT = "one two three one two three one two"
SAMPLINGS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.8, "seed": 7},
    "penalised": {"temperature": 0.9, "repeat_penalty": 1.3, "top_k": 20, "seed": 11},
}


LEAVES = 8


class AnyPlanner(PlainPlanner):
    """Verifies whatever trees it was given, one after the other: drafts need not be good to be harmless."""

    def __init__(self, trees: list[DraftTree]) -> None:
        self.trees = trees
        self.steps = 0

    def plan(self, n_cells: int, most: int) -> DraftTree:
        tree = self.trees[self.steps % len(self.trees)] if self.trees else EMPTY_TREE
        self.steps += 1
        return tree.first(most).with_leaves(LEAVES)


def answer(target: Target, planner: AnyPlanner, sampling: Sampling, prompt: list[int], n: int) -> list[int]:
    threads = Threads(target.settings.n_threads)
    steps = generate(
        target, planner, threads, sampling, prompt, beginning(*prompt), n, Tally(), lambda: False
    )
    return [token for step in steps for token in step]


@pytest.fixture(scope="module")
def llama(tiny: dict[str, Path]) -> Target:
    """A target whose logits do not depend on the batch (F32 weights, attention without split)."""
    model = Model(tiny["llama"])
    return Target(model, ContextSettings(512, 1, False, "f32", LEAVES))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(draft_trees(max_nodes=12, n_tokens=60), min_size=1, max_size=4),
    st.one_of(st.sampled_from(list(SAMPLINGS.values())), samplings(60)),
    st.integers(1, 40),
)
def test_no_tree_whatever_it_holds_changes_the_answer(
    llama: Target, trees: list[DraftTree], how: dict[str, Any], n: int
) -> None:
    """Trees of random tokens, and the cache they leave behind, against plain decoding with any samplers."""
    sampling = checked(how)
    prompt = llama.model.tokenize(PROMPT, add_special=True, parse_special=False)
    llama.forget()
    plain = answer(llama, AnyPlanner([]), sampling, prompt, n)
    cached = list(llama.cached)
    llama.forget()
    assert answer(llama, AnyPlanner(trees), sampling, prompt, n) == plain
    assert llama.cached == cached == (prompt + plain)[: len(cached)]
    assert llama.context.n_past == len(cached) == len(prompt) + len(plain) - 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draft_trees(max_nodes=14, n_tokens=60), st.data())
def test_every_path_leaves_the_cache_plain_decoding_would(
    llama: Target, tree: DraftTree, data: st.DataObject
) -> None:
    """After accepting any path of any tree, the next logits are those after the same tokens decoded one by one."""
    tree = tree.with_leaves(LEAVES)
    prompt = llama.model.tokenize(PROMPT, add_special=True, parse_special=False)
    llama.forget()
    llama.prefill(prompt)
    layout, _ = llama.verify(5, tree)
    end = data.draw(st.integers(-1, len(tree) - 1))
    path = tree.path_to(end)
    llama.accept(5, tree, layout, path)
    llama.verify(9, EMPTY_TREE)
    drafted = np.array(llama.context.logits(0))
    alone = llama.logits_after(np.array([*prompt, 5, *(int(tree.tokens[n]) for n in path), 9], np.int32))
    np.testing.assert_allclose(drafted, alone, atol=2e-3)


@pytest.mark.usefixtures("measured_once")
@pytest.mark.parametrize("architecture", GENERATING)
@pytest.mark.parametrize("exact", [False, True])
def test_presets_say_what_plain_decoding_says(tiny: dict[str, Path], architecture: str, exact: bool) -> None:
    texts: dict[str, dict[str, list[list[int]]]] = {}
    # One setting for all: which is fastest is a matter of the clock, and another one rounds otherwise. Without `exact`
    # nobody promises the words: cells of F32 let drafts move logits least, in most of these models by a millionth.
    setting = {"flash_attention": exact, "cache_type": "bf16" if exact else "f32"}
    for draft in ("off", "auto", "paper"):
        with LocalADED(
            tiny[architecture], draft=draft, exact=exact, n_threads=1, n_ctx=512, **setting
        ) as llm:
            llm.prepare()
            texts[draft] = {
                how: [
                    llm.generate(prompt, max_tokens=60, **options).tokens for prompt in (PROMPT, "four five")
                ]
                for how, options in SAMPLINGS.items()
            }
    assert texts["auto"] == texts["off"]
    assert texts["paper"] == texts["off"]


@pytest.mark.usefixtures("measured_once")
def test_drafts_are_accepted_at_all(tiny: dict[str, Path]) -> None:
    """Equal texts prove little unless drafts were really verified and taken."""
    with LocalADED(tiny["llama"], draft="paper", n_threads=1, n_ctx=512) as llm:
        llm.prepare()
        stats = [llm.generate(PROMPT, max_tokens=100, temperature=0.0).stats for _ in range(2)][-1]
    assert stats.accepted > 0
    assert stats.target_passes < stats.generated_tokens


class Rotating(Threads):
    """Another number of threads for each pass."""

    passes = 0

    @property
    def count(self) -> int:
        return 1 + self.passes % self.opened

    def observe(self, n: int, n_cells: int, seconds: float) -> None:
        self.passes += 1


@pytest.mark.parametrize("architecture", GENERATING)
def test_threads_that_change_in_mid_answer_change_no_token(tiny: dict[str, Path], architecture: str) -> None:
    model = Model(tiny[architecture])
    prompt = [int(t) for t in model.random_tokens(20, 5)]
    sampling = Sampling(**SAMPLINGS["sampled"])
    said, used = [], []
    for threads in (Threads(3), Rotating(3)):
        target = Target(model, ContextSettings(512, 3, False, "f32", LEAVES))
        tally = Tally()
        steps = generate(
            target, PlainPlanner(), threads, sampling, prompt, beginning(*prompt), 40, tally, lambda: False
        )
        said.append([token for step in steps for token in step])
        used.append(target.context.n_threads)
        assert tally.threads == threads.count
        target.reopen(target.settings)
        assert target.context.n_threads == 3
        target.close()
    assert said[0] == said[1] and len(said[0]) > 5


@pytest.mark.parametrize("architecture", ["llama", "lfm2", "jamba", "mamba"])
@pytest.mark.parametrize("kept", [11, 12, 13])
def test_a_prompt_that_leaves_the_cached_path_is_read_as_from_an_empty_cache(
    tiny: dict[str, Path], architecture: str, kept: int
) -> None:
    # A running state's snapshots reach no further back than its last batch, though llama.cpp says they do.
    model = Model(tiny[architecture])
    tokens = model.random_tokens(40, 3)
    target = Target(model, ContextSettings(512, 1, False, "f16", 1, 8))
    target.prefill([int(t) for t in tokens[:10]])
    for token in tokens[10:14]:
        layout, _ = target.verify(int(token), EMPTY_TREE)
        target.accept(int(token), EMPTY_TREE, layout, [])
    prompt = [int(t) for t in (*tokens[:kept], *tokens[20:23])]
    target.prefill(prompt)
    found = target.context.logits(-1).copy()
    target.forget()
    target.prefill(prompt)
    np.testing.assert_allclose(found, target.context.logits(-1), atol=1e-4)
    target.close()
