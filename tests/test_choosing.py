"""How a token is chosen: every sampler, a person's own functions, and how likely the model found it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samplings import samplings

from aded_local import GrammarError, LocalADED, OptionError, Reply
from aded_local.llama import Sampling
from aded_local.logprobs import token_logprob

PROMPT = "one two three one two three one two"
N = 24


@pytest.fixture(scope="module")
def plain(tiny: dict[str, Path]) -> Iterator[LocalADED]:
    fixed: dict[str, Any] = {"draft": "off", "flash_attention": False, "cache_type": "f32"}
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, **fixed) as made:
        yield made


@pytest.fixture(scope="module")
def drafting(tiny: dict[str, Path]) -> Iterator[LocalADED]:
    """One that verifies whole trees, which is quick to open and changes no text with F32 weights."""
    fixed: dict[str, Any] = {"draft": "paper", "flash_attention": False, "cache_type": "f32"}
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, **fixed) as made:
        made.prepare()
        yield made


def said(llm: LocalADED, **options: Any) -> list[int]:
    """An answer from an empty cache."""
    llm.reset()
    return llm.generate(PROMPT, **{"max_tokens": N, "seed": 3, **options}).tokens


# --- llama.cpp's samplers ------------------------------------------------------------------------------

EFFECTS: list[dict[str, Any]] = [
    {"typical_p": 0.05},
    {"presence_penalty": 5.0},
    {"frequency_penalty": 5.0},
    {"repeat_penalty": 3.0},
    {"xtc_probability": 1.0, "xtc_threshold": 0.0},
    {"dry_multiplier": 5.0, "dry_allowed_length": 0, "dry_base": 2.0},
    {"mirostat_mode": 1, "mirostat_tau": 0.5},
    {"mirostat_mode": 2, "mirostat_tau": 0.5},
    {"logit_bias": {7: 50.0}},
]


@pytest.mark.parametrize("options", EFFECTS, ids=lambda options: next(iter(options)))
def test_every_sampler_has_an_effect(plain: LocalADED, options: dict[str, Any]) -> None:
    loose = {"temperature": 1.2, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert said(plain, **loose, **options) != said(plain, **loose)
    assert said(plain, **loose, **options) == said(plain, **loose, **options)


def test_a_bias_forbids_and_forces(plain: LocalADED) -> None:
    usual = said(plain, temperature=0.0)
    assert usual[0] not in said(plain, temperature=0.0, logit_bias={usual[0]: float("-inf")})
    assert set(said(plain, temperature=0.9, logit_bias={9: 200.0})) == {9}


def test_penalties_look_back_over_the_prompt_unless_told_otherwise(plain: LocalADED) -> None:
    prompt = plain._engine.model.tokenize(PROMPT, add_special=True, parse_special=False)
    counted = said(plain, temperature=0.0, presence_penalty=100.0, max_tokens=1)
    assert counted[0] not in prompt
    plain.reset()
    first = plain.generate([counted[0], *prompt], temperature=0.0, presence_penalty=100.0, max_tokens=1)
    assert first.tokens[0] != counted[0]
    apart = {"temperature": 0.0, "presence_penalty": 100.0, "max_tokens": 1, "penalize_prompt": False}
    assert said(plain, **apart) == said(plain, temperature=0.0, max_tokens=1)


def test_a_window_of_nothing_penalizes_nothing(plain: LocalADED) -> None:
    penalties = {"repeat_penalty": 3.0, "presence_penalty": 5.0, "repeat_last_n": 0}
    assert said(plain, temperature=0.0, **penalties) == said(plain, temperature=0.0)
    assert Sampling(temperature=0.0, **penalties).is_plain_greedy
    dry = {"dry_multiplier": 5.0, "dry_allowed_length": 0, "dry_penalty_last_n": 0}
    assert said(plain, temperature=0.0, **dry) == said(plain, temperature=0.0)


PEERS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repeat_penalty": 1.4},
    {"temperature": 0.0, "frequency_penalty": 0.7, "presence_penalty": 0.4},
    {"temperature": 1.3, "top_k": 12},
    {"temperature": 1.3, "typical_p": 0.6},
    {"temperature": 0.9, "min_p": 0.3, "top_p": 0.8, "repeat_penalty": 1.2},
    {"mirostat_mode": 1, "mirostat_tau": 2.0, "frequency_penalty": 0.3},
    {"mirostat_mode": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.3},
]


@pytest.mark.parametrize("options", PEERS, ids=str)
def test_the_chain_chooses_what_llama_cpp_pythons_does(
    tiny: dict[str, Path], plain: LocalADED, options: dict[str, Any]
) -> None:
    from llama_cpp import Llama

    prompt = plain._engine.model.tokenize(PROMPT, add_special=True, parse_special=False)
    # Its mirostat leaves the temperature out, and its penalties the prompt.
    ours = {"temperature": 1.0, "penalize_prompt": False, **options}
    theirs = {name: value for name, value in options.items() if name != "temperature"}
    peer = Llama(
        str(tiny["llama"]),
        n_ctx=256,
        n_threads=1,
        n_threads_batch=1,
        seed=3,
        verbose=False,
        type_k=0,
        type_v=0,
    )
    try:
        tokens = peer.generate(prompt, temp=options.get("temperature", 0.8), **theirs)
        expected = [token for token, _ in zip(tokens, range(N), strict=False)]
    finally:
        peer.close()
    ends = plain.end_tokens()
    stop = next((i for i, token in enumerate(expected) if token in ends), N)
    assert said(plain, **ours) == expected[:stop]


@pytest.mark.parametrize(
    "options",
    [
        {"typical_p": 1.5},
        {"presence_penalty": float("nan")},
        {"frequency_penalty": 101.0},
        {"repeat_last_n": -2},
        {"repeat_last_n": 1.5},
        {"penalize_prompt": "no"},
        {"xtc_probability": -0.1},
        {"xtc_threshold": 2.0},
        {"dry_multiplier": -1.0},
        {"dry_base": 0.5},
        {"dry_allowed_length": -1},
        {"dry_penalty_last_n": 10**9},
        {"dry_sequence_breakers": "\n"},
        {"dry_sequence_breakers": [""]},
        {"dry_sequence_breakers": ["x" * 41]},
        {"dry_sequence_breakers": ["a\0b"]},
        {"dry_sequence_breakers": ["\ud800"]},
        {"dry_sequence_breakers": [b"x"]},
        {"dry_sequence_breakers": ["a"] * 65},
        {"dry_sequence_breakers": 5},
        {"mirostat_mode": 3},
        {"mirostat_tau": -1.0},
        {"mirostat_eta": 7.0},
        {"logit_bias": [1, 2]},
        {"logit_bias": {"1": 2.0}},
        {"logit_bias": {True: 2.0}},
        {"logit_bias": {-1: 2.0}},
        {"logit_bias": {10**9: 2.0}},
        {"logit_bias": {1: float("nan")}},
        {"logit_bias": {1: float("inf")}},
        {"logit_bias": {1: 1e39}},
        {"logit_bias": {1: 10**400}},
        {"logit_bias": {1: "2"}},
        {"logprobs": -1},
        {"logprobs": True},
        {"logprobs": 2.0},
        {"grammar": b"root ::= [a]"},
        {"grammar": "root ::= [a]", "json_schema": {}},
        {"json_schema": b"{}"},
        {"json_schema": [1]},
        {"logits_processor": 5},
        {"logits_processor": "f"},
        {"logits_processor": [None]},
        {"stopping_criteria": {}},
        {"draft": "paper"},
        {"draft": True},
        {"wait": "yes"},
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused_in_one_line(plain: LocalADED, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        plain.generate(PROMPT, **options)
    assert "\n" not in str(caught.value)
    assert next(iter(options)) in str(caught.value)


def test_a_bias_leaves_a_token(plain: LocalADED) -> None:
    every = dict.fromkeys(range(plain._engine.model.n_vocab), float("-inf"))
    with pytest.raises(OptionError, match="leave one"):
        plain.generate(PROMPT, logit_bias=every)


# --- drafted as undrafted -------------------------------------------------------------------------------


def processors() -> st.SearchStrategy[Callable[[Any, Any], Any] | None]:
    """Functions of the tokens so far, so that one that saw others would choose otherwise."""

    def of(step: int) -> Callable[[Any, Any], Any]:
        def process(ids: Any, scores: Any) -> Any:
            scores[int(ids.sum()) * step % len(scores)] += 30.0
            return scores

        return process

    return st.one_of(st.none(), st.integers(1, 5).map(of))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_drafted_answers_are_the_undrafted_ones_with_any_samplers(
    plain: LocalADED, drafting: LocalADED, data: st.DataObject
) -> None:
    options = data.draw(samplings(plain._engine.model.n_vocab))
    options["logits_processor"] = data.draw(processors())
    options["grammar"] = data.draw(st.sampled_from([None, "root ::= [a-z ]{8} [^0-9]*"]))
    options["logprobs"] = data.draw(st.sampled_from([None, 0, 3]))
    end = data.draw(st.integers(1, 60))
    options["stopping_criteria"] = data.draw(st.sampled_from([None, lambda ids, _: len(ids) >= end]))
    found: list[Reply] = []
    for llm in (plain, drafting):
        llm.reset()
        found.append(llm.generate(PROMPT, max_tokens=40, **options))
    assert found[1].tokens == found[0].tokens
    assert (found[1].text, found[1].finish_reason) == (found[0].text, found[0].finish_reason)
    if options["logprobs"] is not None:
        assert found[0].logprobs is not None and found[1].logprobs is not None
        assert [each.token for each in found[1].logprobs] == found[1].tokens
        for one, other in zip(found[0].logprobs, found[1].logprobs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


def seven_eight_nine(ids: Any, scores: Any) -> Any:
    """Makes an answer that is easily drafted."""
    scores[{7: 8, 8: 9}.get(int(ids[-1]), 7)] = 1000.0
    return scores


def test_drafts_are_taken_though_a_function_chooses(drafting: LocalADED) -> None:
    drafting.reset()
    reply = drafting.generate(
        PROMPT, max_tokens=60, temperature=0.0, logits_processor=seven_eight_nine, logprobs=1
    )
    assert reply.tokens == [7, 8, 9] * 20
    assert reply.stats.accepted > 10
    assert reply.logprobs is not None and [each.token for each in reply.logprobs] == reply.tokens


# --- log-probabilities ----------------------------------------------------------------------------------


def test_log_probabilities_are_those_of_the_models_own_logits(drafting: LocalADED) -> None:
    from llama_cpp import Llama

    prompt = drafting._engine.model.tokenize(PROMPT, add_special=True, parse_special=False)
    drafting.reset()
    reply = drafting.generate(
        prompt,
        max_tokens=40,
        temperature=0.0,
        logprobs=4,
        logits_processor=seven_eight_nine,  # what is told comes before these
        logit_bias={5: 3.0},
        repeat_penalty=1.3,
    )
    assert reply.stats.accepted > 0, "rows of accepted drafts are among them"
    assert reply.logprobs is not None and len(reply.logprobs) == len(reply.tokens)
    for i, found in enumerate(reply.logprobs):
        logits = drafting.logits_after([*prompt, *reply.tokens[:i]])
        expected = Llama.logits_to_logprobs(logits)
        assert found.token == reply.tokens[i]
        assert found.logprob == pytest.approx(float(expected[found.token]), abs=1e-3)
        likeliest = np.argsort(-expected, kind="stable")[:4]
        assert [value for _, value in found.top] == pytest.approx(expected[likeliest].tolist(), abs=1e-3)


@given(
    st.lists(st.floats(-50, 50, width=32) | st.just(float("-inf")), min_size=1, max_size=60).filter(
        lambda row: max(row) > float("-inf")
    ),
    st.sampled_from([1, 40]),
    st.data(),
)
def test_they_are_to_the_last_bit_what_llama_cpp_python_computes(
    row: list[float], times: int, data: st.DataObject
) -> None:
    from llama_cpp import Llama

    row = row * times
    logits = np.array(row, np.float32)
    token = data.draw(st.integers(0, len(row) - 1))
    n_top = data.draw(st.integers(0, 30) | st.just(len(row) + 2))
    found = token_logprob(logits, token, n_top)
    expected = Llama.logits_to_logprobs(logits)
    assert found.logprob == float(expected[token])
    order = sorted(range(len(row)), key=lambda each: (-row[each], each))[:n_top]
    assert found.top == tuple((each, float(expected[each])) for each in order)


def test_pieces_carry_them_beside_their_tokens_and_stop_texts_cut_both(plain: LocalADED) -> None:
    whole = plain.generate(PROMPT, max_tokens=40, temperature=0.0)
    stop = whole.text[len(whole.text) // 2 :][:3]
    for options in ({}, {"stop": stop}):
        plain.reset()
        pieces = list(plain.stream(PROMPT, max_tokens=40, temperature=0.0, logprobs=0, **options))
        for piece in pieces:
            assert piece.logprobs is not None
            assert tuple(each.token for each in piece.logprobs) == piece.tokens
            assert all(each.top == () for each in piece.logprobs)


def test_nobody_is_told_who_did_not_ask(plain: LocalADED) -> None:
    assert plain.generate(PROMPT, max_tokens=3).logprobs is None
    assert all(piece.logprobs is None for piece in plain.stream(PROMPT, max_tokens=3))


def test_replies_and_pieces_are_plain_data(plain: LocalADED) -> None:
    reply = plain.generate(PROMPT, max_tokens=3, temperature=0.0, logprobs=2)
    found = json.loads(json.dumps(reply.to_dict()))
    assert found["tokens"] == reply.tokens and found["text"] == reply.text
    assert [each["token"] for each in found["logprobs"]] == reply.tokens
    assert found["logprobs"][0]["top"][0][0] == reply.tokens[0]
    assert found["stats"]["generated_tokens"] == reply.stats.generated_tokens
    pieces = [json.loads(json.dumps(piece.to_dict())) for piece in plain.stream(PROMPT, max_tokens=2)]
    assert pieces[0]["stats"] is None and pieces[0]["logprobs"] is None
    assert pieces[-1]["finish_reason"] in ("stop", "length")


# --- a person's functions -------------------------------------------------------------------------------


def test_functions_see_the_tokens_so_far_and_the_models_logits(plain: LocalADED) -> None:
    seen: list[tuple[list[int], int]] = []

    def look(ids: Any, scores: Any) -> Any:
        assert ids.dtype == np.int32 and scores.dtype == np.float32
        seen.append((ids.tolist(), int(scores.argmax())))
        return scores

    plain.reset()
    tokens = plain.generate([3, 4, 5], max_tokens=6, temperature=0.0, logits_processor=look).tokens
    assert [ids for ids, _ in seen] == [[3, 4, 5, *tokens[:i]] for i in range(len(seen))]
    assert [best for _, best in seen][: len(tokens)] == tokens


def test_functions_follow_one_another_and_change_copies_only(plain: LocalADED) -> None:
    def force(token: int) -> Callable[[Any, Any], Any]:
        def process(ids: Any, scores: Any) -> Any:
            ids[:] = 0
            scores[token] = scores.max() + 10.0
            return scores.astype(np.float64)

        return process

    assert set(said(plain, temperature=0.0, logits_processor=[force(7), force(8)])) == {8}
    reply = plain.generate(PROMPT, max_tokens=1, temperature=0.0, logits_processor=force(8), logprobs=0)
    usual = plain.generate(PROMPT, max_tokens=1, temperature=0.0, logprobs=0)
    assert reply.logprobs is not None and usual.logprobs is not None
    assert reply.logprobs[0].logprob <= usual.logprobs[0].logprob, "the model's own, not the function's"


def test_llama_cpp_pythons_lists_of_functions_are_taken(plain: LocalADED) -> None:
    from llama_cpp import LogitsProcessorList, StoppingCriteriaList

    def force(ids: Any, scores: Any) -> Any:
        scores[7] = 1000.0
        return scores

    plain.reset()
    reply = plain.generate(
        [3, 4, 5],
        max_tokens=20,
        logits_processor=LogitsProcessorList([force]),
        stopping_criteria=StoppingCriteriaList([lambda ids, logits: len(ids) >= 9]),
    )
    assert reply.tokens == [7] * 6
    assert reply.finish_reason == "stop"


@pytest.mark.parametrize("n", [0, 1, 4])
@pytest.mark.parametrize("which", ["plain", "drafting"])
def test_a_criterion_ends_the_answer_before_the_next_token(
    request: pytest.FixtureRequest, which: str, n: int
) -> None:
    llm: LocalADED = request.getfixturevalue(which)
    whole = said(llm, temperature=0.0)
    prompt = llm._engine.model.tokenize(PROMPT, add_special=True, parse_special=False)
    llm.reset()
    reply = llm.generate(
        prompt,
        max_tokens=N,
        temperature=0.0,
        stopping_criteria=[lambda ids, _: False, lambda ids, _: len(ids) >= len(prompt) + n],
    )
    assert reply.tokens == whole[:n]
    assert reply.finish_reason == "stop"
    assert reply.stats.generated_tokens == n
    assert said(llm, temperature=0.0) == whole, "and the next answer is as ever"
    assert llm.generate([*prompt, *reply.tokens], max_tokens=2, temperature=0.0).tokens == whole[n : n + 2]


class Mine(Exception):
    pass


@pytest.mark.parametrize("option", ["logits_processor", "stopping_criteria"])
@pytest.mark.parametrize("when", [0, 5])
@pytest.mark.parametrize("which", ["plain", "drafting"])
def test_what_a_function_raises_reaches_the_caller_and_the_object_goes_on(
    request: pytest.FixtureRequest, which: str, option: str, when: int
) -> None:
    llm: LocalADED = request.getfixturevalue(which)
    whole = said(llm, temperature=0.0)
    mine = Mine("this very one")

    def failing(ids: Any, scores: Any) -> Any:
        if len(calls) == when:
            raise mine
        calls.append(0)
        return scores if option == "logits_processor" else False

    calls: list[int] = []
    with pytest.raises(Mine) as caught:
        said(llm, temperature=0.0, **{option: failing})
    assert caught.value is mine
    assert said(llm, temperature=0.0) == whole


def test_a_grammar_that_leaves_nothing_to_say_is_an_error_and_the_object_goes_on(plain: LocalADED) -> None:
    model = plain._engine.model
    ones = {token: float("-inf") for token in range(model.n_vocab) if model.piece(token) == b"1"}

    def none_of_them(ids: Any, scores: Any) -> Any:
        scores[:] = -np.inf
        scores[7] = 1.0
        return scores

    for options in ({"logits_processor": none_of_them}, {"logit_bias": ones}):
        for temperature in (0.0, 1.0):
            with pytest.raises(GrammarError, match="allows no token"):
                plain.generate(PROMPT, grammar='root ::= "1"', temperature=temperature, **options)
    assert plain.generate(PROMPT, grammar='root ::= "1"').text == "1"


@pytest.mark.parametrize(
    "returned",
    [None, 5.0, np.zeros(3, np.float32), "x", float("nan"), float("inf"), float("-inf")],
    ids=str,
)
def test_what_is_no_logits_is_refused_in_one_line(plain: LocalADED, returned: Any) -> None:
    def process(ids: Any, scores: Any) -> Any:
        if isinstance(returned, float) and not np.isfinite(returned):
            scores[:] = returned
            return scores
        return returned

    with pytest.raises(OptionError, match="logits_processor") as caught:
        plain.generate(PROMPT, max_tokens=3, logits_processor=process)
    assert "\n" not in str(caught.value)
    assert plain.generate(PROMPT, max_tokens=3).tokens


def test_a_function_cannot_ask_the_object_that_calls_it(plain: LocalADED) -> None:
    from aded_local import BusyError

    def asking(ids: Any, scores: Any) -> Any:
        plain.generate("x", max_tokens=1, wait=True)
        return scores

    with pytest.raises(BusyError, match="already generating"):
        plain.generate(PROMPT, max_tokens=3, logits_processor=asking)
    assert plain.generate(PROMPT, max_tokens=3).tokens


# --- one answer undrafted -------------------------------------------------------------------------------


def test_one_answer_can_be_decoded_plainly(drafting: LocalADED) -> None:
    drafting.reset()
    first = drafting.generate(PROMPT, max_tokens=60, temperature=0.0)
    plain = drafting.generate(PROMPT, max_tokens=60, temperature=0.0, draft="off")
    again = drafting.generate(PROMPT, max_tokens=60, temperature=0.0, draft="auto")
    assert plain.stats.drafted == 0 < again.stats.drafted
    assert first.tokens == plain.tokens == again.tokens
