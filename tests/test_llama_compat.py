"""``aded_local.Llama`` against ``llama_cpp.Llama``: the same calls on SmolLM2, every key and every text compared.

Both compute with the same attention, cache and threads, and ours keeps the words (``same="exact"``), so that the texts
are equal. ``pytest tests/test_llama_compat.py -s`` prints how many calls, keys and texts were compared.
"""

from __future__ import annotations

import gc
import inspect
import math
import pickle
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_calls
import llama_cpp
import numpy as np
import pytest
from fake_hub import Repository, serving

from aded_local import Llama, LocalADED
from aded_local.errors import BusyError, ContextOverflowError, ModelNotFoundError, OptionError
from aded_local.llama_compat.arguments import answering
from aded_models import names

N_CTX = 256
THREADS = 1


@dataclass(frozen=True)
class Setting:
    """Attention and cache type of both, and how ours drafts."""

    attention: bool
    cache: int
    draft: str


PLAIN = Setting(False, 1, "off")
"""As ``llama_cpp.Llama`` computes by itself."""
DRAFTED = Setting(True, 30, "auto")
"""Attention on and BF16, where larger passes keep the words."""

LOGPROB_TOLERANCE = 0.02
"""Where it is asked for logprobs, ``llama_cpp.Llama`` reads the prompt with all logits, which rounds otherwise."""
EMBEDDING_TOLERANCE = 1e-3
"""Of an embedding's largest number."""


@pytest.fixture(scope="module")
def smollm2() -> Path:
    try:
        return names.smollm2_path()
    except ModelNotFoundError as missing:
        pytest.skip(str(missing))


@dataclass
class Count:
    """What was compared."""

    calls: int = 0
    equal: int = 0
    keys: int = 0
    texts: int = 0


@dataclass
class Pair:
    """The two libraries, opened alike."""

    theirs: Any
    ours: Any
    setting: Setting
    count: Count = field(default_factory=Count)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache folder for the module: what is measured once serves all."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ADED_CACHE_DIR", str(folder))
        environment.setattr("aded_local.speed.probe.contended", lambda waiting, samples: False)
        environment.setattr("aded_local.speed.exactness.EXACT_SECONDS", 0.0)
        yield


def opened(kind: type[Any], path: Path, setting: Setting, **options: Any) -> Any:
    shared = {
        "n_ctx": N_CTX,
        "n_threads": THREADS,
        "n_threads_batch": THREADS,
        "flash_attn": setting.attention,
        "type_k": setting.cache,
        "type_v": setting.cache,
        "verbose": False,
    }
    return kind(str(path), **shared | options)


@pytest.fixture(
    scope="module",
    params=[pytest.param(PLAIN, id="plain"), pytest.param(DRAFTED, id="drafted", marks=pytest.mark.slow)],
)
def pair(request: pytest.FixtureRequest, smollm2: Path, measured: None) -> Iterator[Pair]:
    setting: Setting = request.param
    same = None if setting.draft == "off" else "exact"
    ours = opened(Llama, smollm2, setting, draft=setting.draft, same=same, on_notice=lambda line: None)
    if setting.draft == "off":
        # Measurements multiply row by row, and that switch belongs to the process: theirs would round so, too.
        ours._engine.preparation.close()
    else:
        ours._local.prepare()
    theirs = opened(llama_cpp.Llama, smollm2, setting)
    both = Pair(theirs, ours, setting)
    yield both
    count = both.count
    print(
        f"\n{setting}: {count.equal} of {count.calls} calls equal; {count.keys} keys and {count.texts} texts compared"
    )
    ours.close()
    theirs.close()


@pytest.fixture(scope="module")
def theirs_with_logits(smollm2: Path, pair: Pair) -> Iterator[Any]:
    with_logits = opened(llama_cpp.Llama, smollm2, pair.setting, logits_all=True)
    yield with_logits
    with_logits.close()


@pytest.fixture(scope="module")
def theirs_embedding(smollm2: Path) -> Iterator[Any]:
    with_embeddings = opened(llama_cpp.Llama, smollm2, PLAIN, embedding=True)
    yield with_embeddings
    with_embeddings.close()


def compared(theirs: Any, ours: Any, count: Count, where: str = "", *, near: float = 0.0) -> None:
    """Assert that two results are equal, key by key, save ids and times.

    Args:
        near: what numbers may differ by.
    """
    if isinstance(theirs, dict):
        assert isinstance(ours, dict), where
        assert ours.keys() == theirs.keys(), where
        for key, value in theirs.items():
            count.keys += 1
            if key == "created":
                assert type(ours[key]) is type(value), where
            elif key == "id":
                assert _kind_of(ours[key]) == _kind_of(value), where
            else:
                compared(value, ours[key], count, f"{where}.{key}", near=near)
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), f"{where}: {ours!r} and {theirs!r}"
        for index, (value, other) in enumerate(zip(theirs, ours, strict=True)):
            compared(value, other, count, f"{where}[{index}]", near=near)
    elif isinstance(theirs, (float, np.floating)):
        assert math.isclose(float(theirs), float(ours), rel_tol=0.0, abs_tol=near), where
    else:
        assert ours == theirs, where
        count.texts += isinstance(theirs, str)


def _kind_of(id_: str) -> str:
    """An id without what is drawn for each answer."""
    *kind, _drawn = id_.split("cmpl-")
    return "cmpl-".join(kind)


def make(call: llama_calls.Call, llm: Any) -> Any:
    """What a call gives on an empty cache: cells are rounded as they were decoded."""
    llm.reset()
    return call(llm)


@pytest.mark.parametrize(
    "name",
    [
        name if name in llama_calls.OFTEN else pytest.param(name, marks=pytest.mark.slow)
        for name in llama_calls.CALLS
    ],
)
def test_a_call_gives_the_same_on_both(pair: Pair, name: str) -> None:
    call = llama_calls.CALLS[name]
    pair.count.calls += 1
    compared(make(call, pair.theirs), make(call, pair.ours), pair.count, name)
    pair.count.equal += 1


def test_what_is_called_often_is_among_the_calls() -> None:
    assert llama_calls.CALLS.keys() > llama_calls.OFTEN


@pytest.mark.parametrize("name", llama_calls.WITH_LOGPROBS)
def test_a_call_with_logprobs_gives_the_same_on_both(pair: Pair, theirs_with_logits: Any, name: str) -> None:
    call = llama_calls.WITH_LOGPROBS[name]
    pair.count.calls += 1
    theirs = make(call, theirs_with_logits)
    compared(theirs, make(call, pair.ours), pair.count, name, near=LOGPROB_TOLERANCE)
    pair.count.equal += 1


@pytest.mark.parametrize("name", llama_calls.EMBEDDINGS)
def test_an_embedding_is_the_same_on_both(pair: Pair, theirs_embedding: Any, name: str) -> None:
    call = llama_calls.EMBEDDINGS[name]
    pair.count.calls += 1
    theirs = make(call, theirs_embedding)
    compared(theirs, make(call, pair.ours), pair.count, name, near=EMBEDDING_TOLERANCE * _largest(theirs))
    pair.count.equal += 1


def _largest(found: Any) -> float:
    """The largest number in a result."""
    if isinstance(found, dict):
        return max(map(_largest, found.values()), default=0.0)
    if isinstance(found, (list, tuple)):
        return max(map(_largest, found), default=0.0)
    return abs(found) if isinstance(found, float) else 0.0


def test_several_texts_are_embedded_as_each_alone(pair: Pair) -> None:
    """(llama-cpp-python reads the vectors of all but the first from a wrong place.)"""
    texts = ["One text.", "Another text, a little longer."]
    assert pair.ours.embed(texts) == [pair.ours.embed(text) for text in texts]


def test_embedding_leaves_a_conversation_as_it_is(pair: Pair) -> None:
    pair.ours.reset()
    first = pair.ours.create_completion(llama_calls.TALE, max_tokens=8, temperature=0.0)
    stream = pair.ours.create_completion(llama_calls.LIST, max_tokens=24, temperature=0.0, stream=True)
    half = [next(stream) for _ in range(4)]
    pair.ours.embed("A text beside it.")
    text = "".join(chunk["choices"][0]["text"] for chunk in [*half, *stream])
    pair.ours.reset()
    again = pair.ours.create_completion(llama_calls.LIST, max_tokens=24, temperature=0.0)
    assert text == again["choices"][0]["text"]
    assert first["usage"]["completion_tokens"] == 8


# --- without the peer ------------------------------------------------------------------------------


OWN = {"draft", "same", "memory", "store", "chat_template", "on_progress", "on_notice"}
OTHER_DEFAULTS = {"flash_attn": None}
"""None measures which attention suits."""


def _signature(function: Any) -> dict[str, Any]:
    found = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in found if each.kind is not each.VAR_KEYWORD}


def test_the_constructor_has_their_arguments_and_defaults() -> None:
    ours, theirs = _signature(Llama.__init__), _signature(llama_cpp.Llama.__init__)
    assert ours.keys() - theirs.keys() == OWN
    assert theirs.keys() <= ours.keys()
    differing = {name: ours[name] for name, default in theirs.items() if ours[name] != default}
    assert differing == OTHER_DEFAULTS


@pytest.mark.parametrize(
    "name",
    [
        "__call__", "create_completion", "create_chat_completion", "create_embedding", "embed", "tokenize",
        "detokenize", "eval", "sample", "generate", "set_seed", "set_cache", "reset", "save_state", "load_state",
        "n_ctx", "n_embd", "n_vocab", "tokenizer", "token_bos", "token_eos", "token_nl", "close", "from_pretrained",
    ],
)  # fmt: skip
def test_a_method_has_their_arguments_and_defaults(name: str) -> None:
    ours, theirs = _signature(getattr(Llama, name)), _signature(getattr(llama_cpp.Llama, name))
    assert list(ours) == list(theirs)
    for argument, default in theirs.items():
        assert ours[argument] == default or (default == [] and ours[argument] == ()), argument


@pytest.fixture(scope="module")
def small(tiny: dict[str, Path]) -> Path:
    return tiny["llama"]


def quiet(path: Path, **options: Any) -> Llama:
    return Llama(path, **{"verbose": False, "draft": "off", "n_ctx": 256} | options)


def test_what_changes_no_answer_is_passed_over_with_one_notice(small: Path) -> None:
    told: list[str] = []
    quiet(small, logits_all=True, draft_model=object(), numa=True, on_notice=told.append).close()
    assert len(told) == 1
    for name in ("logits_all", "draft_model", "numa"):
        assert name in told[0]


def test_what_their_constructor_has_not_either_is_told_as_not_known(small: Path) -> None:
    told: list[str] = []
    quiet(small, n_ctxx=5, n_gqa=8, use_mlock=True, on_notice=told.append).close()
    known, unknown = told
    assert "changes no answer here: use_mlock" in known and "n_ctxx" not in known
    assert "not known" in unknown and "n_ctxx, n_gqa" in unknown and "use_mlock" not in unknown


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("lora_path", "adapter.gguf"),
        ("lora_base", "base.gguf"),
        ("chat_handler", object()),
        ("tokenizer", object()),
        ("split_mode", 2),
        ("main_gpu", 1),
        ("tensor_split", [0.5, 0.5]),
        ("vocab_only", True),
        ("kv_overrides", {"a": 1}),
        ("rope_freq_base", 10_000.0),
        ("yarn_orig_ctx", 4096),
        ("chat_format", "vicuna"),
        ("type_k", 2),
        ("pooling_type", 9),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(small: Path, argument: str, value: Any) -> None:
    with pytest.raises(OptionError, match=argument):
        quiet(small, **{argument: value})


def test_their_errors_are_caught_as_there(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        quiet(tmp_path / "nothing.gguf")
    with quiet(small) as llm:
        with pytest.raises(ValueError, match="context") as caught:
            llm([1] * 300)
        assert isinstance(caught.value, ContextOverflowError)
        with pytest.raises(ValueError):
            llm.create_chat_completion([{"role": "user", "content": "a"}], response_format={"type": "odd"})
        with pytest.raises(ValueError, match="get_time"):
            llm.create_chat_completion(
                [{"role": "user", "content": "a"}],
                tools=[llama_calls.TOOL],
                tool_choice={"type": "function", "function": {"name": "get_time"}},
            )


def test_context_lengths_are_rounded_up_and_taken_from_the_model_as_there(small: Path) -> None:
    with quiet(small, n_ctx=300) as llm:
        theirs = llama_cpp.Llama(str(small), n_ctx=300, verbose=False)
        assert llm.n_ctx() == theirs.n_ctx()
        theirs.close()
    with quiet(small, n_ctx=0) as llm:
        theirs = llama_cpp.Llama(str(small), n_ctx=0, verbose=False)
        assert llm.n_ctx() == theirs.n_ctx()
        theirs.close()


def test_it_can_be_pickled(small: Path) -> None:
    with quiet(small, seed=7) as llm:
        said = llm([1, 2, 3], max_tokens=4, temperature=0.0)["choices"][0]["text"]
        copy = pickle.loads(pickle.dumps(llm))
        with copy:
            assert copy([1, 2, 3], max_tokens=4, temperature=0.0)["choices"][0]["text"] == said


def test_a_state_holds_what_was_evaluated_and_not_sampled_yet(small: Path) -> None:
    with quiet(small) as llm:
        llm.reset()
        llm.eval([1, 2, 3])
        expected = next(llm.generate([4], temp=0.0, reset=False))
        llm.reset()
        llm.eval([1, 2, 3])
        state = pickle.loads(pickle.dumps(llm.save_state()))
        llm.reset()
        llm.load_state(state)
        assert llm.input_ids.tolist() == [1, 2, 3] and llm.n_tokens == state.n_tokens == 3
        assert next(llm.generate([4], temp=0.0, reset=False)) == expected
        llm([7, 8], max_tokens=3)
        llm.load_state(state)
        assert isinstance(llm.sample(temp=0.0), int)


def test_states_can_be_pickled_and_fit_another_object(small: Path) -> None:
    with quiet(small) as llm, quiet(small) as other:
        llm([1, 2, 3, 4, 5], max_tokens=4, temperature=0.0)
        state = pickle.loads(pickle.dumps(llm.save_state()))
        other.load_state(state)
        assert other.input_ids.tolist() == state.input_ids.tolist()
        llm.reset()
        prompt = [*state.input_ids.tolist(), 6]
        assert (
            other(prompt, max_tokens=4, temperature=0.0)["choices"]
            == (llm(prompt, max_tokens=4, temperature=0.0)["choices"])
        )


def test_one_that_is_dropped_is_closed_without_a_warning(small: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llm = quiet(small)
        engine = llm._engine
        del llm
        gc.collect()
    with pytest.raises(BusyError):
        engine.access.require_open()


def test_chunks_keep_an_object_open_that_nobody_else_holds(small: Path) -> None:
    chunks = quiet(small)([1, 2, 3], max_tokens=8, temperature=0.0, stream=True)
    gc.collect()
    assert list(chunks)[-1]["choices"][0]["finish_reason"] in ("stop", "length")


def test_a_stream_that_is_closed_frees_the_model(small: Path) -> None:
    with quiet(small) as llm:
        chunks = llm([1, 2, 3], max_tokens=64, temperature=0.0, stream=True)
        next(chunks)
        chunks.close()
        assert llm([1, 2, 3], max_tokens=2, temperature=0.0)["usage"]["completion_tokens"] <= 2


def test_the_seeds_are_theirs(small: Path) -> None:
    """Sampled answers differ from call to call, and are the same from start to start, as there."""
    with quiet(small, seed=3) as llm, quiet(small, seed=3) as again:
        first, second = (llm([1, 2, 3], max_tokens=16)["choices"] for _ in range(2))
        assert again([1, 2, 3], max_tokens=16)["choices"] == first
        assert again([1, 2, 3], max_tokens=16)["choices"] == second
        assert (
            llm([1, 2, 3], max_tokens=16, seed=5)["choices"]
            == llm([1, 2, 3], max_tokens=16, seed=5)["choices"]
        )


def test_a_negative_temperature_draws_from_the_softmax_alone(small: Path) -> None:
    with quiet(small) as llm:
        drawn = llm([1, 2, 3], max_tokens=16, temperature=-1.0, top_k=1, seed=5)["choices"]
        alike = llm([1, 2, 3], max_tokens=16, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=5)[
            "choices"
        ]
        assert drawn == alike


def test_a_models_name_and_its_files_come_from_the_hub(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    options = {"verbose": False, "draft": "off", "n_ctx": 256}
    files = {
        "README.md": b"#",
        "tiny-q4.gguf": small.read_bytes(),
        "tiny-q8.gguf": b"GGUF",
        "vocab.txt": b"a",
    }
    with serving({"someone/tiny": Repository(files)}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        with Llama.from_pretrained("someone/tiny", "*q4.gguf", **options) as llm:
            assert Path(llm.model_path).read_bytes() == files["tiny-q4.gguf"]
            assert (tmp_path / "hf") in Path(llm.model_path).parents
        folder = tmp_path / "here"
        with Llama.from_pretrained("someone/tiny", "*q4.gguf", ["vocab.txt"], folder, **options) as llm:
            assert llm.model_path == str(folder / "tiny-q4.gguf")
        assert (folder / "vocab.txt").read_bytes() == b"a"
        with pytest.raises(OptionError, match=r"2 files fit .*tiny-q4\.gguf, tiny-q8\.gguf"):
            Llama.from_pretrained("someone/tiny", "*.gguf", **options)
        with pytest.raises(OptionError, match="no file fits"):
            Llama.from_pretrained("someone/tiny", "*f16.gguf", **options)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(OptionError, match=r"aded-local\[hub\]"):
        Llama.from_pretrained("someone/tiny", "*q4.gguf", **options)


def test_infill_puts_the_suffix_where_the_vocabulary_says_so_else_behind(small: Path) -> None:
    with quiet(small) as llm:
        plain = llm([1, 2, 3], max_tokens=4, temperature=0.0)["choices"][0]["text"]
        behind = llm([1, 2, 3], suffix=" END", max_tokens=4, temperature=0.0)["choices"][0]["text"]
        assert behind == plain + " END"
        llm._engine.model.infill = (4, 5, 6)
        tokens, is_filled_in = llm._prompt_tokens([1, 2, 3], "")
        assert (tokens[:4], tokens[-2:], is_filled_in) == ([4, 1, 2, 3], [5, 6], True)


def test_an_echoed_prompt_has_logprobs_of_its_own_tokens(small: Path) -> None:
    prompt = [3, 4, 5, 6, 7]
    with quiet(small) as llm:
        found = llm(prompt, echo=True, logprobs=2, max_tokens=2, temperature=0.0)["choices"][0]
        told = found["logprobs"]
        assert {len(values) for values in told.values()} == {len(prompt) + 2}
        assert (told["token_logprobs"][0], told["top_logprobs"][0], told["text_offset"][0]) == (None, None, 0)
        for end in range(1, len(prompt)):
            logits = llm._local.logits_after(prompt[:end])
            expected = logits[prompt[end]] - np.log(np.exp(logits).sum())
            assert told["token_logprobs"][end] == pytest.approx(expected, abs=1e-3)
            assert len(told["top_logprobs"][end]) in (1, 2, 3)


def test_results_have_the_types_of_openais_client(small: Path) -> None:
    pytest.importorskip("openai")
    messages = [{"role": "user", "content": "a"}]
    with quiet(small, chat_format="chatml") as llm:
        found = llm.create_chat_completion_openai_v1(messages, max_tokens=3)
        assert found.usage.completion_tokens <= 3
        chunks = list(llm.create_chat_completion_openai_v1(messages, max_tokens=3, stream=True))
        assert chunks[0].choices[0].delta.role == "assistant"


def test_tools_that_a_template_has_no_place_for_are_refused_unless_one_is_chosen(small: Path) -> None:
    messages = [{"role": "user", "content": "a"}]
    with quiet(small, chat_format="chatml") as llm:
        with pytest.raises(ValueError, match="tools"):
            llm.create_chat_completion(messages, tools=[llama_calls.TOOL], max_tokens=3)
        found = llm.create_chat_completion(
            messages, tools=[llama_calls.TOOL], tool_choice=llama_calls.NAMED, max_tokens=3
        )
        assert found["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


def test_ids_that_are_sent_come_behind_the_last_one(small: Path) -> None:
    with quiet(small) as llm:
        stream = llm.generate([1, 2, 3], temp=0.0)
        first = next(stream)
        second = stream.send([7, 8])
        stream.close()
        llm.reset()
        llm.eval([1, 2, 3, first, 7, 8])
        assert second == llm.sample(temp=0.0)


@pytest.mark.parametrize("mode", [1, 2])
@pytest.mark.parametrize("seed", [7, pytest.param(11, marks=pytest.mark.slow)])
def test_mirostat_says_what_it_says_there(pair: Pair, mode: int, seed: int) -> None:
    """There it looks at no temperature, here at that of the call."""
    options: Any = {"mirostat_mode": mode, "seed": seed, "max_tokens": 12, "temperature": 0.8}
    said = []
    for llm in (pair.theirs, pair.ours):
        llm.reset()
        said.append(llm(llama_calls.TALE, **options)["choices"][0]["text"])
    assert said[0] == said[1]


@pytest.mark.usefixtures("measured_once")
def test_greedy_calls_draft(small: Path) -> None:
    # What `auto` drafts depends on what passes take at the moment.
    with quiet(small, draft="paper", flash_attn=False, type_k=0, type_v=0) as llm:
        llm._local.prepare()
        asked = _signature(Llama.create_completion) | {"temperature": 0.0}
        pieces = llm._answer(
            [1, 2, 3, 4, 5, 6] * 8,
            64,
            None,
            None,
            answering(asked),
        )
        assert [piece.stats.drafted > 0 for piece in pieces if piece.stats is not None] == [True]


def test_ours_answers_like_localaded(small: Path) -> None:
    with quiet(small) as llm, LocalADED(small, draft="off", n_ctx=256) as local:
        assert llm([1, 2, 3], max_tokens=8, temperature=0.0)["choices"][0]["text"] == (
            local.generate([1, 2, 3], max_tokens=8, temperature=0.0).text
        )
