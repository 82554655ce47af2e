"""A kept conversation goes on: without being read again where its state fits, and from its text where it does not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from patience import PATIENCE

from aded_local import Llama, LocalADED, resuming
from aded_local.conversations import conversations_folder, read, state_path
from aded_local.errors import BusyError, EmptyPromptError, ModelNotFoundError, OptionError, StoreError
from aded_local.llama import Context
from aded_models.names import smollm2_path

OPTIONS: dict[str, Any] = {
    "n_ctx": 512,
    "n_threads": 1,
    "draft": "off",
    "flash_attention": False,
    "cache_type": "f32",
}
FIRST = [{"role": "system", "content": "one two"}, {"role": "user", "content": "two three one " * 10}]
NEXT = {"role": "user", "content": "three two"}


@pytest.fixture(params=["llama", "mamba"])
def model(tiny: dict[str, Path], request: pytest.FixtureRequest) -> Path:
    """A model with a KV cache, and one whose memory is a running state."""
    return tiny[request.param]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def opened(told: list[str]) -> Iterator[Callable[..., LocalADED]]:
    """Opens models that are closed at the end."""
    objects = []

    def open_one(model: Path, **options: Any) -> LocalADED:
        objects.append(LocalADED(model, **{**OPTIONS, "on_notice": told.append, **options}))
        return objects[-1]

    yield open_one
    for one in objects:
        one.close()


def go_on(llm: Any, **options: Any) -> tuple[list[int], int, int]:
    reply = llm.chat([*llm.messages, NEXT], max_tokens=8, temperature=0.0, **options)
    return reply.tokens, reply.stats.prompt_tokens, reply.stats.reused_tokens


def saved(llm: LocalADED, tmp_path: Path) -> tuple[Path, tuple[list[int], int, int]]:
    """A conversation of one turn in a file, and how its next turn goes where it was not left."""
    llm.chat(FIRST, max_tokens=12, temperature=0.0)
    path = tmp_path / "chat.json"
    assert llm.save(path) is None
    return path, go_on(llm)


def test_a_conversation_goes_on_without_being_read_again(
    model: Path, opened: Callable[..., LocalADED], told: list[str], tmp_path: Path
) -> None:
    path, (answer, prompt, reused) = saved(opened(model), tmp_path)
    with LocalADED.load(path, **OPTIONS, on_notice=told.append) as llm:
        assert [message["role"] for message in llm.messages] == ["system", "user", "assistant"]
        assert go_on(llm) == (answer, prompt, reused)
        assert reused > 40 and prompt - reused < 12
    assert told == []


def test_a_session_goes_on_with_what_another_one_kept(
    model: Path, opened: Callable[..., LocalADED], tmp_path: Path
) -> None:
    llm = opened(model)
    path, after = saved(llm, tmp_path)
    session = llm.session()
    resumed = session.load(path)
    assert resumed.refusal is None and resumed.cached > 40
    assert go_on(session) == after


class NoText:
    """A path of bytes, which no path of ours is."""

    def __fspath__(self) -> bytes:
        return b"chat.json"


@pytest.mark.parametrize("path", ["a\0b", "", "\ud800", 5, None, True, b"chat.json", ["chat.json"], NoText()])
def test_what_is_no_path_is_refused_in_one_line_wherever_one_is_asked_for(
    tiny: dict[str, Path], opened: Callable[..., LocalADED], path: Any
) -> None:
    llm = opened(tiny["llama"])
    llm.chat(FIRST, max_tokens=2)
    calls: list[Callable[[], object]] = [
        lambda: llm.save(path),
        lambda: llm.session().save(path, FIRST),
        lambda: llm.resume(path),
        lambda: llm.session().load(path),
        lambda: LocalADED.load(path),
    ]
    if path is not None:
        calls += [
            lambda: LocalADED(path),
            lambda: LocalADED(tiny["llama"], store=path),
            lambda: LocalADED(tiny["llama"], draft_model=path),
            lambda: Llama(path, verbose=False),
            lambda: Llama(path, n_ctx=0, verbose=False),
            lambda: Llama.from_pretrained("someone/tiny", "*", local_dir=path),
            lambda: Llama.from_pretrained("someone/tiny", "*", cache_dir=path),
        ]
    for call in calls:
        with pytest.raises(OptionError, match=r" is .*path of") as refused:
            call()
        assert "\n" not in str(refused.value) and "\0" not in str(refused.value)
    assert len(llm.messages) == 3


@pytest.mark.parametrize("path", [Path("a\0b.jinja"), Path("\ud800"), NoText()])
def test_a_template_s_path_is_refused_likewise(tiny: dict[str, Path], path: Any) -> None:
    with pytest.raises(OptionError, match=r"chat_template is .* path of a template"):
        LocalADED(tiny["llama"], chat_template=path)


def test_an_answer_s_ids_are_used_where_they_say_its_text_and_nothing_hidden(
    tiny: dict[str, Path], opened: Callable[..., LocalADED], tmp_path: Path
) -> None:
    llm = opened(tiny["llama"])
    path, _ = saved(llm, tmp_path)
    content = json.loads(path.read_text())
    honest, end = content["messages"][-1]["tokens"], tiny_models.END

    def asked(tokens: list[int], tokenizer: str = content["model"]["tokenizer"]) -> list[int]:
        content["messages"][-1]["tokens"], content["model"]["tokenizer"] = tokens, tokenizer
        path.write_text(json.dumps(content))
        session = llm.session()
        session.load(path)
        return session.chat_tokens([*session.messages, NEXT])

    text_alone = asked([])
    assert asked(honest) == llm.chat_tokens([*read(path).messages, NEXT])
    hidden = [*honest[:2], end, tiny_models.USER, *honest[2:]]
    beyond = [*honest, 2**31 - 1]
    for tokens in (hidden, beyond, honest[:-1], [honest[-1], *honest], [end]):
        assert asked(tokens) == text_alone
    assert asked(honest, "0" * 64) == text_alone


@pytest.mark.parametrize("reason", ["model", "build", "attention", "cache", "memory", "damaged", "llama"])
def test_where_the_state_does_not_fit_the_text_is_read_again_and_it_is_said_why(
    tiny: dict[str, Path],
    opened: Callable[..., LocalADED],
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
) -> None:
    path, (answer, prompt, _) = saved(opened(tiny["llama"]), tmp_path)
    options, words = dict(OPTIONS), ""
    if reason == "model":
        other = tmp_path / "other.gguf"
        data = bytearray(tiny["llama"].read_bytes())
        data[-1] ^= 1
        other.write_bytes(data)
        options["model_path"], words = other, "another model"
    elif reason == "build":
        monkeypatch.setattr(resuming.library, "build", lambda: "newer")
        words = "another build"
    elif reason == "attention":
        options["flash_attention"], words = True, "flash attention off, and on was asked for"
    elif reason == "cache":
        options["cache_type"], words = "f16", "the cache type f32, and f16 was asked for"
    elif reason == "memory":
        monkeypatch.setattr(resuming, "SAVED_SHARE", 0.0)
        words = "of memory may be used"
    elif reason == "damaged":
        data = bytearray(state_path(path).read_bytes())
        data[len(data) // 2] ^= 255
        state_path(path).write_bytes(data)
        words = "damaged"
    else:

        def refused(context: Context, *_: Any) -> bool:
            context.clear()
            return False

        monkeypatch.setattr(Context, "restore", refused)
        words = "llama.cpp did not take its state"
    with LocalADED.load(path, **options, on_notice=told.append) as llm:
        assert words in told[-1] and told[-1].startswith("the conversation is read again from its text: ")
        again, n, reused = go_on(llm)
        assert (n, reused) == (prompt, 0)
        if reason not in ("model", "attention", "cache"):
            assert again == answer


def test_a_state_of_another_attention_or_cache_is_taken_where_none_was_asked_for(
    tiny: dict[str, Path], opened: Callable[..., LocalADED], tmp_path: Path
) -> None:
    llm = opened(tiny["llama"], flash_attention=True, cache_type="bf16")
    path, after = saved(llm, tmp_path)
    with LocalADED.load(path, **{**OPTIONS, "flash_attention": None, "cache_type": None}) as other:
        setting = other.description()
        assert (setting["flash_attention"], setting["cache_type"]) == (True, "bf16")
        assert go_on(other) == after


def test_a_larger_or_smaller_context_takes_it_as_long_as_it_fits(
    tiny: dict[str, Path], opened: Callable[..., LocalADED], told: list[str], tmp_path: Path
) -> None:
    path, after = saved(opened(tiny["llama"]), tmp_path)
    for n_ctx in (300, 1024):
        with LocalADED.load(path, **{**OPTIONS, "n_ctx": n_ctx}) as llm:
            assert go_on(llm) == after


def test_what_is_kept_is_the_last_chat_with_its_answer_as_far_as_it_got(
    tiny: dict[str, Path], opened: Callable[..., LocalADED], tmp_path: Path
) -> None:
    llm = opened(tiny["llama"])
    with pytest.raises(EmptyPromptError, match="nothing was asked"):
        llm.save(tmp_path / "chat.json")
    assert llm.messages == []
    stream = llm.stream_chat(FIRST, max_tokens=50, temperature=0.0)
    said = ""
    with stream:
        for piece in stream:
            said += piece.text
            if len(said) > 10:
                break
    assert llm.messages[-1]["role"] == "assistant" and llm.messages[-1]["content"].startswith(said)
    goes_on = [*FIRST, {"role": "assistant", "content": "one"}]
    reply = llm.chat(goes_on, max_tokens=4, temperature=0.0)
    assert llm.messages == [*FIRST, {"role": "assistant", "content": "one" + reply.text}]
    llm.generate("one", max_tokens=2)
    assert llm.messages == []  # no chat


def test_messages_of_the_caller_s_are_kept_instead(
    tiny: dict[str, Path], opened: Callable[..., LocalADED], tmp_path: Path
) -> None:
    llm = opened(tiny["llama"])
    llm.chat(FIRST, max_tokens=4, temperature=0.0)
    path = tmp_path / "chat.json"
    llm.save(path, [{"role": "user", "content": "only this"}], settings={"temperature": 0.5})
    found = read(path)
    assert found.title == "only this" and found.settings == {"temperature": 0.5}
    assert found.model is not None and found.model.file == str(tiny["llama"])


def test_nothing_is_written_while_an_answer_is_computed(
    tiny: dict[str, Path], opened: Callable[..., LocalADED], tmp_path: Path
) -> None:
    llm = opened(tiny["llama"])
    llm.chat(FIRST, max_tokens=4, temperature=0.0)
    stream = llm.session().stream_chat(FIRST, max_tokens=50)
    next(stream)
    refused = []

    def in_another_thread() -> None:
        with pytest.raises(BusyError):
            llm.save(tmp_path / "chat.json")
        refused.append(True)

    thread = threading.Thread(target=in_another_thread)
    thread.start()
    thread.join(PATIENCE)
    stream.close()
    assert refused and not state_path(tmp_path / "chat.json").exists()


def test_without_memory_for_a_copy_the_text_is_kept_alone(
    tiny: dict[str, Path], opened: Callable[..., LocalADED], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = opened(tiny["llama"])
    llm.chat(FIRST, max_tokens=4, temperature=0.0)
    path = conversations_folder() / "chat.json"
    with monkeypatch.context() as patched:
        patched.setattr(resuming, "SAVED_SHARE", 0.0)
        assert "no memory" in (llm.save(path) or "")
    monkeypatch.setattr("aded_local.conversations.folder.LARGEST_STATES", 10)
    assert "all that are kept may take" in (llm.save(path) or "")
    assert read(path).title and not state_path(path).exists()


def test_what_cannot_be_loaded_leaves_what_was_said(
    tiny: dict[str, Path], opened: Callable[..., LocalADED], tmp_path: Path
) -> None:
    llm = opened(tiny["llama"])
    llm.chat(FIRST, max_tokens=4, temperature=0.0)
    before = llm.messages
    with pytest.raises(StoreError, match="there is no conversation"):
        llm.resume(tmp_path / "missing.json")
    assert llm.messages == before
    path = tmp_path / "chat.json"
    llm.save(path)
    content = json.loads(path.read_text())
    content["model"]["file"] = str(tmp_path / "gone.gguf")
    path.write_text(json.dumps(content))
    with pytest.raises(ModelNotFoundError, match=r"gone\.gguf"):
        LocalADED.load(path, **OPTIONS)
    with LocalADED.load(path, tiny["llama"], **OPTIONS) as other:
        assert other.messages == before


def test_a_real_conversation_goes_on_where_it_was_left_word_for_word(
    opened: Callable[..., LocalADED], tmp_path: Path
) -> None:
    try:
        smollm2 = smollm2_path()
    except ModelNotFoundError as missing:
        pytest.skip(str(missing))
    text = " ".join(f"Parcel {n} from Lyon weighs {n % 7} kg." for n in range(20))
    options: dict[str, Any] = {"n_ctx": 1024, "draft": "off"}
    chat = {"max_tokens": 24, "temperature": 0.0}
    with LocalADED(smollm2, **options) as llm:
        llm.chat([{"role": "user", "content": f"{text} Which is the heaviest?"}], **chat)
        path = tmp_path / "chat.json"
        assert llm.save(path) is None
        asked = [*llm.messages, {"role": "user", "content": "And the lightest?"}]
        there = llm.chat(asked, **chat)
    with LocalADED.load(path, **options) as llm:
        again = llm.chat([*llm.messages, asked[-1]], **chat)
    assert (again.text, again.tokens) == (there.text, there.tokens)
    assert again.stats.prompt_tokens > 250
    assert again.stats.prompt_tokens - again.stats.reused_tokens < 30
