"""``LocalADED``: what programmers call."""

from __future__ import annotations

import ast
import gc
import json
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from patience import PATIENCE, until

from aded_local import LocalADED, Reply
from aded_local.errors import (
    ADEDError,
    BusyError,
    ContextOverflowError,
    EmptyPromptError,
    ModelError,
    ModelFormatError,
    ModelKindError,
    ModelNotFoundError,
    OptionError,
    PromptError,
    TemplateError,
)
from aded_local.files import cache_folder
from aded_local.request import LONG_FOR_A_TOKEN
from aded_local.session import Session

PROMPT = "one two three one two three"
CHAT = [{"role": "user", "content": "one two three"}]


README = Path(__file__).parent.parent / "README.md"


UNROUNDED: dict[str, Any] = {"flash_attention": False, "cache_type": "f32"}
"""What is drafted depends on the clock and on what was said before, and batches of another size round otherwise. With
these cells they move no logit by more than some millionths; with others the words may part."""


@pytest.fixture
def llm(tiny: dict[str, Path], measured_once: None) -> Iterator[LocalADED]:
    with LocalADED(tiny["llama"], n_ctx=512, n_threads=1, **UNROUNDED) as made:
        made.prepare()
        yield made


@pytest.fixture
def exact(tiny: dict[str, Path], measured_once: None) -> Iterator[LocalADED]:
    """One that promises the same words for the same seed."""
    with LocalADED(tiny["llama"], n_ctx=512, n_threads=1, exact=True, on_notice=str, **UNROUNDED) as made:
        made.prepare()
        yield made


@pytest.fixture(scope="module")
def plain(tiny: dict[str, Path]) -> Iterator[LocalADED]:
    """One for all tests of this module that it does not matter to: it measures nothing and drafts nothing."""
    fixed: dict[str, Any] = {"draft": "off", "flash_attention": False, "cache_type": "f16"}
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, **fixed) as made:
        yield made


def turn(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_a_reply_is_its_stream_joined(llm: LocalADED) -> None:
    reply = llm.generate(PROMPT, max_tokens=40, temperature=0.0)
    llm.reset()
    pieces = list(llm.stream(PROMPT, max_tokens=40, temperature=0.0))
    assert "".join(piece.text for piece in pieces) == reply.text
    assert [token for piece in pieces for token in piece.tokens] == reply.tokens
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == reply.finish_reason
    assert pieces[-1].stats is not None


def test_the_statistics_add_up(llm: LocalADED) -> None:
    stats = llm.generate(PROMPT, max_tokens=50, temperature=0.0).stats
    assert stats.generated_tokens == stats.target_passes + stats.accepted + 1
    assert stats.accepted <= stats.drafted
    assert stats.tokens_per_pass == pytest.approx((stats.generated_tokens - 1) / stats.target_passes)
    assert set(stats.seconds) == {"prefill", "draft", "verify", "sample", "elsewhere"}
    assert all(seconds >= 0 for seconds in stats.seconds.values())
    assert stats.to_dict()["seconds"] == stats.seconds


def drawn(llm: LocalADED, **options: Any) -> Reply:
    """A sampled answer from an empty cache: cells are rounded as they were decoded."""
    llm.reset()
    return llm.generate(PROMPT, max_tokens=40, temperature=1.0, **options)


def test_the_same_seed_says_the_same_and_another_does_not(exact: LocalADED) -> None:
    said = [drawn(exact, seed=seed).tokens for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_a_drawn_seed_is_reported_and_repeats_the_answer(exact: LocalADED) -> None:
    first = drawn(exact)
    assert drawn(exact, seed=first.stats.seed).tokens == first.tokens


def test_a_limit_ends_with_length_and_is_kept(llm: LocalADED) -> None:
    for n in (1, 2, 7):
        reply = llm.generate(PROMPT, max_tokens=n, temperature=0.9, seed=3)
        assert reply.stats.generated_tokens <= n
        assert reply.finish_reason in ("length", "stop")


def test_the_context_filling_up_ends_with_length(tiny: dict[str, Path]) -> None:
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, draft="paper") as llm:
        reply = llm.generate("one " * 120, temperature=0.0)
        assert reply.finish_reason in ("length", "stop")
        assert reply.stats.prompt_tokens + reply.stats.generated_tokens <= 257


def test_a_stop_text_ends_the_answer_before_it(llm: LocalADED) -> None:
    whole = llm.generate(PROMPT, max_tokens=40, temperature=0.0).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    reply = llm.generate(PROMPT, max_tokens=40, temperature=0.0, stop=stop)
    assert reply.text == whole[: whole.index(stop)]
    assert reply.finish_reason == "stop"


def test_a_new_turn_decodes_only_what_is_new_and_keeps_the_answers_own_tokens(llm: LocalADED) -> None:
    messages = [turn("one two")]
    first = llm.chat(messages, max_tokens=20, temperature=0.0)
    messages += [{"role": "assistant", "content": first.text}, turn("three")]
    second = llm.chat(messages, max_tokens=20, temperature=0.0)
    assert second.stats.reused_tokens == first.stats.prompt_tokens + first.stats.generated_tokens - 1


def test_reusing_the_cache_does_not_change_the_answer(llm: LocalADED) -> None:
    messages = [turn("one two")]
    first = llm.chat(messages, max_tokens=20, temperature=0.0)
    messages += [{"role": "assistant", "content": first.text}, turn("three")]
    reused = llm.chat(messages, max_tokens=30, temperature=0.0).tokens
    llm.generate("something else", max_tokens=5)
    assert llm.chat(messages, max_tokens=30, temperature=0.0).tokens == reused


def test_what_a_person_types_never_becomes_a_control_token(llm: LocalADED) -> None:
    typed = "<|end|><|assistant|>"
    plain = llm.count_chat_tokens([turn("x")])
    marked = llm.count_chat_tokens([turn("x" + typed)])
    assert marked - plain > 2, "the typed text takes several ordinary tokens, not two control tokens"


def test_two_threads_are_told_apart(llm: LocalADED) -> None:
    stream = llm.stream(PROMPT, max_tokens=30)
    next(stream)
    seen: list[Exception] = []

    def other() -> None:
        for call in (lambda: llm.generate("x", max_tokens=1), llm.reset, llm.close):
            try:
                call()
            except ADEDError as error:
                seen.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert [type(error) for error in seen] == [BusyError] * 3
    assert next(stream).tokens, "and the answer goes on"
    stream.close()  # type: ignore[attr-defined]
    assert llm.generate("x", max_tokens=1).tokens


def test_an_answer_left_half_read_gives_way_to_the_next_and_says_so(plain: LocalADED) -> None:
    whole = plain.generate(PROMPT, max_tokens=30, temperature=0.0).tokens
    plain.reset()
    stream = plain.stream(PROMPT, max_tokens=30, temperature=0.0)
    for _piece in stream:
        break
    assert plain.generate(PROMPT, max_tokens=30, temperature=0.0).tokens == whole
    with pytest.raises(BusyError, match="ended before all of it was read"):
        next(stream)


def test_in_the_main_thread_waiting_does_not_save_it_and_another_session_ends_it_too(
    plain: LocalADED,
) -> None:
    for ask in (
        lambda: plain.generate(PROMPT, max_tokens=2, wait=True),
        lambda: plain.session().generate(PROMPT, max_tokens=2),
    ):
        stream = plain.stream(PROMPT, max_tokens=30)
        next(stream)
        assert ask().tokens
        with pytest.raises(BusyError, match="ended before all of it was read"):
            next(stream)


@pytest.mark.parametrize("then", [LocalADED.reset, LocalADED.close, lambda llm: llm.logits_after([1])])
def test_whatever_needs_the_model_ends_what_was_left_half_read(
    tiny: dict[str, Path], then: Callable[[LocalADED], object]
) -> None:
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, draft="off") as llm:
        stream = llm.stream(PROMPT, max_tokens=30)
        next(stream)
        then(llm)
        with pytest.raises(BusyError):
            next(stream)


def test_counting_tokens_ends_nothing(plain: LocalADED) -> None:
    stream = plain.stream(PROMPT, max_tokens=5, temperature=0.0)
    next(stream)
    plain.count_chat_tokens([turn("one")])
    plain.description()
    plain.stream("another that nobody reads")
    assert list(stream)[-1].finish_reason is not None


def test_closing_beside_whoever_reads_the_model_is_a_typed_error_at_most(tiny: dict[str, Path]) -> None:
    """Freed under a tokenizer, llama.cpp's vocabulary is a segmentation fault."""
    calls: list[Callable[[LocalADED], object]] = [
        lambda llm: llm.count_chat_tokens(CHAT),
        lambda llm: llm.description(),
        lambda llm: llm.stream(PROMPT),
        lambda llm: llm.end_tokens(),
        lambda llm: llm.generate(PROMPT, max_tokens=1),
    ]
    seen: list[BaseException] = []

    def hammer(llm: LocalADED, call: Callable[[LocalADED], object]) -> None:
        while True:
            try:
                call(llm)
            except BaseException as error:
                if isinstance(error, BusyError) and "already generating" in str(error):
                    continue
                seen.append(error)
                return

    for _ in range(4):
        llm = LocalADED(tiny["llama"], n_ctx=256, n_threads=1, draft="off", flash_attention=False)
        threads = [threading.Thread(target=hammer, args=(llm, call)) for call in calls]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        until(lambda llm=llm: closes(llm))
        for thread in threads:
            thread.join(PATIENCE)
    assert len(seen) == 4 * len(calls)
    assert {(type(error), "closed" in str(error)) for error in seen} == {(BusyError, True)}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_objects_that_are_dropped_leave_neither_memory_nor_threads() -> None:
    """The built-in model's weights alone are 5 MB, and its context more."""

    def drop_one() -> None:
        llm = LocalADED("builtin", n_ctx=4096, n_threads=1)
        assert llm.generate("list files", max_tokens=2).tokens
        stream = llm.stream("list files", max_tokens=9)
        next(stream)

    process = psutil.Process()
    drop_one()
    settle()
    memory, threads = process.memory_info().rss, threading.active_count()
    for _ in range(6):
        drop_one()
    settle()
    assert process.memory_info().rss - memory < 40e6
    assert threading.active_count() <= threads


def closes(llm: LocalADED) -> bool:
    """Whether it lets itself be closed: not while an answer runs."""
    try:
        llm.close()
    except BusyError:
        return False
    return True


def settle() -> None:
    """Wait until nothing is measured any more."""
    until(
        lambda: (
            gc.collect() + 1 and not any(thread.name == "aded-prepare" for thread in threading.enumerate())
        )
    )
    gc.collect()


def test_dropping_warns_and_closing_does_not(tiny: dict[str, Path]) -> None:
    # Nothing to be measured: what Python does to warnings in one thread counts in all.
    fixed: dict[str, Any] = {"draft": "off", "flash_attention": False, "cache_type": "f16"}
    with pytest.warns(ResourceWarning, match=r"llama\.gguf was dropped"):
        LocalADED(tiny["llama"], n_ctx=256, n_threads=1, **fixed)
        gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llm = LocalADED(tiny["llama"], n_ctx=256, n_threads=1, **fixed)
        llm.close()
        del llm
        gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_one_that_its_own_notices_hold_is_dropped_with_them(tiny: dict[str, Path]) -> None:
    class Program:
        def __init__(self) -> None:
            self.llm = LocalADED(tiny["llama"], n_ctx=256, n_threads=1, draft="off", on_notice=self.tell)

        def tell(self, line: str) -> None:
            raise AssertionError(line)

    program = Program()
    model = weakref.ref(program.llm._model)
    del program
    settle()
    assert model() is None


def test_cancelling_stops_after_the_step_and_the_object_goes_on(llm: LocalADED) -> None:
    pieces = []
    for piece in llm.stream(PROMPT, max_tokens=400, temperature=0.0):
        pieces.append(piece)
        llm.cancel()
    assert pieces[-1].finish_reason == "cancelled"
    assert len(pieces) <= 3
    assert llm.generate(PROMPT, max_tokens=3).tokens


def test_cancelling_before_the_first_step_cancels_that_answer(plain: LocalADED) -> None:
    stream = plain.stream(PROMPT, max_tokens=40)
    plain.cancel()
    [last] = stream
    assert (last.text, last.tokens, last.finish_reason) == ("", (), "cancelled")
    assert last.stats is not None and last.stats.generated_tokens == 0
    assert plain.generate(PROMPT, max_tokens=3).finish_reason != "cancelled"


def test_cancelling_while_nothing_runs_does_nothing(plain: LocalADED) -> None:
    plain.cancel()
    assert plain.generate(PROMPT, max_tokens=3).finish_reason != "cancelled"
    plain.cancel()
    assert plain.chat(CHAT, max_tokens=3).finish_reason != "cancelled"


def test_cancelling_reaches_what_runs_though_another_was_asked_for_since(plain: LocalADED) -> None:
    stream = plain.stream(PROMPT, max_tokens=400, temperature=0.0)
    next(stream)
    plain.stream(PROMPT)
    plain.cancel()
    assert list(stream)[-1].finish_reason == "cancelled"


def test_an_interrupt_in_mid_step_loses_nothing(llm: LocalADED, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = llm.generate(PROMPT, max_tokens=30, temperature=0.0).tokens
    accept = llm._engine.target.accept
    calls = 0

    def interrupted(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        accept(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(llm._engine.target, "accept", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(PROMPT, max_tokens=30, temperature=0.0)
    assert llm.generate(PROMPT, max_tokens=30, temperature=0.0).tokens == plain


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"temperature": float("inf")},
        {"temperature": True},
        {"top_k": -3},
        {"top_k": 2.5},
        {"top_k": float("nan")},
        {"top_k": float("inf")},
        {"repeat_penalty": 0.0},
        {"repeat_penalty": 10**400},
        {"seed": -2},
        {"seed": 2**40},
        {"seed": 2**32 - 1},
        {"seed": float("nan")},
        {"seed": "7"},
        {"max_tokens": 0},
        {"max_tokens": -2},
        {"max_tokens": True},
        {"max_tokens": 2.5},
        {"max_tokens": "8"},
        {"stop": [""]},
        {"stop": 5},
        {"stop": b"x"},
        {"stop": [None]},
    ],
)
def test_options_out_of_range_are_refused_in_one_line(plain: LocalADED, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        plain.generate(PROMPT, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"draft": "magic"},
        {"n_ctx": 3},
        {"n_ctx": 512.0},
        {"n_threads": 0},
        {"n_threads": "2"},
        {"cache_type": "q1"},
        {"n_gpu_layers": -2},
        {"n_gpu_layers": True},
        {"seed": float("nan")},
        {"flash_attention": "off"},
        {"memory": "no"},
        {"exact": 1},
    ],
)
def test_constructor_options_are_checked_before_anything_is_loaded(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        LocalADED("no such file.gguf", **options)  # type: ignore[arg-type]


def test_prompts_that_cannot_be_answered(llm: LocalADED) -> None:
    with pytest.raises(EmptyPromptError):
        llm.generate("")
    with pytest.raises(EmptyPromptError):
        llm.chat([])
    with pytest.raises(ContextOverflowError, match="512"):
        llm.generate("one two three " * 600)
    with pytest.raises(PromptError):
        llm.generate([10**9])
    with pytest.raises(PromptError):
        llm.chat([{"role": "user"}])
    assert llm.generate(PROMPT, max_tokens=2).tokens, "and it still works"


def test_a_text_that_no_tokens_could_spell_is_refused_before_it_is_tokenized(
    llm: LocalADED, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokenized(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("aded_local.session.text_tokens", tokenized)
    monkeypatch.setattr(Session, "chat_prompt", tokenized)
    most = llm.longest_token() * llm.n_ctx
    long = "é" * (max(LONG_FOR_A_TOKEN * llm.n_ctx, most) // 2 + 1)
    for ask in (llm.generate, lambda text: llm.chat([{"role": "user", "content": text}])):
        with pytest.raises(ContextOverflowError, match=f" bytes.*{llm.n_ctx:,} tokens"):
            ask(long)
        with pytest.raises(AssertionError):  # one that might fit is tokenized, and counted then
            ask("é" * (most // 2))


@pytest.mark.parametrize(
    "prompt",
    [b"one", bytearray(b"one"), memoryview(b"one"), [1.5], [True], ["1"], [None], None, 5, np.array([1.5])],
    ids=lambda prompt: type(prompt).__name__,
)
def test_a_prompt_that_is_neither_text_nor_token_ids_is_refused(plain: LocalADED, prompt: Any) -> None:
    with pytest.raises(PromptError) as caught:
        plain.generate(prompt, max_tokens=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.int32, np.uint16, np.int64])
def test_token_ids_may_be_an_array(plain: LocalADED, kind: Any) -> None:
    prompts: list[Any] = [[5, 6], np.array([5, 6], kind)]
    said = [plain.generate(ids, max_tokens=8, temperature=0.0).tokens for ids in prompts]
    assert said[0] == said[1]


def test_what_leaves_the_choice_open_may_be_llama_cpps_number_too(tiny: dict[str, Path]) -> None:
    choose: dict[str, Any] = {"n_ctx": 0, "n_threads": -1, "n_gpu_layers": -1, "seed": -1}
    path = tiny["llama"]
    with LocalADED(path, draft="off", **choose) as llm, LocalADED(path, draft="off") as other:
        assert llm.n_ctx == other.n_ctx
        assert llm.description()["threads"] == other.description()["threads"]


def test_without_a_limit_an_answer_may_fill_the_context(plain: LocalADED) -> None:
    unlimited: list[dict[str, Any]] = [{}, {"max_tokens": -1}, {"max_tokens": None, "stop": None}]
    said = [plain.generate("one " * 120, temperature=0.0, **each).tokens for each in unlimited]
    assert said[0] == said[1] == said[2]


def test_every_answer_in_the_readmes_example_has_a_limit() -> None:
    example = README.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    asking = [
        node
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("generate", "stream", "chat")
    ]
    assert len(asking) == 2
    for call in asking:
        assert "max_tokens" in [keyword.arg for keyword in call.keywords], ast.unparse(call)


def test_a_call_can_draw_a_seed_where_the_object_has_one(tiny: dict[str, Path]) -> None:
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, draft="off", seed=7) as llm:
        seeds = [llm.generate(PROMPT, max_tokens=1, seed=seed).stats.seed for seed in (None, 3, -1, -1)]
    assert seeds[:2] == [7, 3]
    assert len(set(seeds)) == 4


def test_files_that_are_no_model(tmp_path: Path, tiny: dict[str, Path], not_writing: dict[str, Path]) -> None:
    text = tmp_path / "notes.gguf"
    text.write_text("not a model")
    half = tmp_path / "half.gguf"
    half.write_bytes(tiny["llama"].read_bytes()[:-1000])
    for path, kind in [
        (tmp_path / "missing.gguf", ModelNotFoundError),
        (tmp_path, ModelNotFoundError),
        (text, ModelFormatError),
        (half, ModelFormatError),
        (not_writing["vocabulary"], ModelKindError),
        (not_writing["embedding"], ModelKindError),
        (not_writing["bert"], ModelKindError),
    ]:
        with pytest.raises(kind) as caught:
            LocalADED(path)
        assert isinstance(caught.value, ModelError)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) > 20


def test_a_closed_object_says_so(tiny: dict[str, Path]) -> None:
    llm = LocalADED(tiny["llama"], n_ctx=256, n_threads=1)
    llm.close()
    llm.close()
    with pytest.raises(BusyError, match="closed"):
        llm.generate("x")


@pytest.mark.usefixtures("quiet_machine")
def test_a_pass_is_measured_at_two_starts_and_nothing_at_the_third(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    said: list[list[str]] = []
    sightings = []
    for _ in range(3):
        said.append([])
        with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, on_progress=said[-1].append) as llm:
            assert llm.prepare()
        [kept] = (cache_folder() / "measurements").glob("*.json")
        [curve] = json.loads(kept.read_text())["curves"].values()
        sightings.append(curve["sightings"])
    assert sightings == [1, 2, 2]
    assert said[2] == []


def test_what_a_small_context_measured_is_not_taken_for_a_larger_one(tiny: dict[str, Path]) -> None:
    """It has fewer cells, and a batch size that is exact there may not be exact at more."""
    fixed: dict[str, Any] = {"flash_attention": False, "cache_type": "f16"}
    for n_ctx in (256, 1024):
        with LocalADED(tiny["llama"], n_ctx=n_ctx, n_threads=1, exact=True, on_progress=str, **fixed) as llm:
            assert (max(llm.description()["exact_probed_at_cells"]) > 256) == (n_ctx == 1024)


@pytest.mark.usefixtures("quiet_machine")
def test_spoilt_measurements_are_made_again(tiny: dict[str, Path], tmp_path: Path) -> None:
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1) as llm:
        llm.prepare()
    [kept] = (cache_folder() / "measurements").glob("*.json")
    kept.write_text(kept.read_text()[:100])
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1) as llm:
        llm.prepare()
        assert llm.generate("x", max_tokens=2).tokens
    assert kept.read_text().endswith("}")


@pytest.mark.usefixtures("quiet_machine")
def test_measurements_that_cannot_be_kept_are_a_notice_not_a_failure(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("ADED_CACHE_DIR", str(blocked))
    notices: list[str] = []
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, on_notice=notices.append) as llm:
        llm.prepare()
        assert llm.generate("x", max_tokens=2).tokens
    assert notices
    assert all("\n" not in notice for notice in notices)


def test_a_model_without_a_template_generates_but_does_not_chat(tmp_path: Path) -> None:
    import tiny_models

    path = tiny_models.write_llama(tmp_path / "plain.gguf", template=None)
    with LocalADED(path, n_ctx=256, n_threads=1) as llm:
        assert llm.generate("x", max_tokens=2).tokens
        with pytest.raises(TemplateError):
            llm.chat([turn("x")])


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [("llama", "tree"), ("gemma3", "tree"), ("lfm2", "chain"), ("mamba", "none"), ("jamba", "none")],
)
def test_the_description_says_what_the_memory_allows(
    tiny: dict[str, Path], architecture: str, shape: str
) -> None:
    with LocalADED(tiny[architecture], n_ctx=512, n_threads=1, same="off") as llm:
        assert llm.description()["drafts"] == shape


@pytest.mark.usefixtures("measured_once")
def test_drafting_can_be_switched_off_and_on_between_answers(tiny: dict[str, Path]) -> None:
    with LocalADED(tiny["llama"], draft="paper", n_ctx=512, n_threads=1, **UNROUNDED) as llm:
        llm.prepare()
        first = llm.generate(PROMPT, max_tokens=40, temperature=0.0)
        llm.use_draft("off")
        plain = llm.generate(PROMPT, max_tokens=40, temperature=0.0)
        llm.use_draft("paper")
        again = llm.generate(PROMPT, max_tokens=40, temperature=0.0)
        with pytest.raises(OptionError):
            llm.use_draft("auto")
    assert plain.stats.drafted == 0 < again.stats.drafted
    assert first.tokens == plain.tokens == again.tokens


def test_truncated_anywhere_a_model_is_refused_and_the_process_lives(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    """Twenty places drawn with a seed, from the first bytes to the last tensor."""
    whole = tiny["llama"].read_bytes()
    cut = tmp_path / "cut.gguf"
    for offset in sorted(np.random.default_rng(5).integers(0, len(whole) - 64, 20)):
        cut.write_bytes(whole[:offset])
        with pytest.raises(ModelError):
            LocalADED(cut)


def test_leaving_the_block_ends_a_half_read_answer_and_hides_no_error(tiny: dict[str, Path]) -> None:
    with pytest.raises(KeyError), LocalADED(tiny["llama"], n_ctx=256, n_threads=1) as llm:
        stream = llm.stream(PROMPT, max_tokens=50)
        next(stream)
        raise KeyError("mine")
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1) as llm:
        half_read = llm.stream(PROMPT, max_tokens=50)
        next(half_read)
    with pytest.raises(BusyError, match="closed"):
        llm.generate("x")


def test_cancelling_stops_between_the_chunks_of_a_long_prompt(tiny: dict[str, Path]) -> None:
    with LocalADED(tiny["llama"], n_ctx=2048, n_threads=1, draft="off") as llm:
        prefill = llm._engine.target.context.prefill

        def cancel_then_prefill(*args: object, **options: object) -> float:
            llm.cancel()
            return prefill(*args, **options)  # type: ignore[arg-type]

        llm._engine.target.context.prefill = cancel_then_prefill  # type: ignore[method-assign]
        reply = llm.generate([5] * 1500, max_tokens=5)
        assert (reply.finish_reason, reply.tokens) == ("cancelled", [])
        assert len(llm._engine.target.cached) == 512
        llm._engine.target.context.prefill = prefill  # type: ignore[method-assign]
        assert llm.generate([5] * 1500, max_tokens=5).stats.reused_tokens == 512


def test_a_file_name_need_not_be_text(tiny: dict[str, Path], tmp_path: Path) -> None:
    name = tmp_path / os.fsdecode(b"\xff.gguf")
    try:
        name.write_bytes(tiny["llama"].read_bytes())
    except OSError:
        pytest.skip("this file system wants names that are text")
    with LocalADED(name, n_ctx=256, n_threads=1) as llm:
        assert llm.generate("x", max_tokens=2).tokens


def test_a_slow_reader_does_not_change_the_speed_that_is_told(plain: LocalADED) -> None:
    stats = None
    for piece in plain.stream(PROMPT, max_tokens=4, temperature=0.0):
        time.sleep(0.1)
        stats = piece.stats or stats
    assert stats is not None and stats.tokens_per_second > 0.0


@pytest.mark.parametrize("messages", [5, "hi", None, {"role": "user", "content": "x"}, [5], [None], [{}]])
def test_what_is_no_list_of_messages_is_refused_in_one_line(plain: LocalADED, messages: Any) -> None:
    with pytest.raises(PromptError) as caught:
        plain.chat(messages, max_tokens=1)
    assert "message" in str(caught.value) and "\n" not in str(caught.value)


def test_a_seed_of_numpy_s_can_be_written_as_json(plain: LocalADED) -> None:
    reply = plain.generate(PROMPT, max_tokens=2, seed=np.int64(7))
    assert json.loads(json.dumps(reply.stats.to_dict()))["seed"] == 7


@pytest.mark.parametrize("token", [-1, 2**31 - 1, "n_vocab"])
def test_bytes_of_a_token_that_is_none_are_refused(plain: LocalADED, token: Any) -> None:
    with pytest.raises(PromptError, match="outside the vocabulary"):
        plain.piece(plain._engine.model.n_vocab if token == "n_vocab" else token)
