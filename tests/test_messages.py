"""Conversations become the tokens the template means, and nothing a person types becomes a control token."""

# ruff: noqa: E501  (templates are quoted as their makers write them)

from __future__ import annotations

import ast
import ctypes
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from aded_local.chat.template import ChatTemplate, Segment
from aded_local.errors import PromptError, TemplateError

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
THINKING = (
    "{%- for message in messages %}{%- set content = message.content %}"
    "{%- if message.role == 'assistant' and '</think>' in content %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>' ~ message.role ~ '\n' ~ content ~ '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
CONTROLS = (
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>",
    "<end_of_turn>", "[INST]", "[/INST]", "<s>", "</s>",
)  # fmt: skip
STYLES = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL}
SPECIAL = re.compile("|".join(map(re.escape, sorted(CONTROLS, key=len, reverse=True))))


class Toy:
    """A tokenizer of characters, with control tokens from 1,000,000 on."""

    adds_bos = True
    bos = 1_000_000 + CONTROLS.index("<s>")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        assert not add_special
        if not parse_special:
            return [ord(c) for c in text]
        ids: list[int] = []
        at = 0
        for found in SPECIAL.finditer(text):
            ids += [ord(c) for c in text[at : found.start()]] + [1_000_000 + CONTROLS.index(found[0])]
            at = found.end()
        return ids + [ord(c) for c in text[at:]]

    def piece(self, token: int) -> bytes:
        return chr(token).encode() if token < 1_000_000 else b""


TOY = Toy()


@lru_cache(8)  # each keeps a process
def template(source: str | None = CHATML, controls: tuple[str, ...] = CONTROLS) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>", control_texts=controls)


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def controls_in(ids: list[int]) -> list[str]:
    return [CONTROLS[i - 1_000_000] for i in ids if i >= 1_000_000]


def text_of(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments)


# --- ordinary conversations ----------------------------------------------------------------------------


def test_chatml_renders_as_one_segment() -> None:
    segments = template().render(
        [{"role": "system", "content": "Be kind."}, *turns("a < b > c?", "x|y", "go")]
    )
    assert segments == [
        Segment(
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\na < b > c?<|im_end|>\n<|im_start|>assistant\n"
            "x|y<|im_end|>\n<|im_start|>user\ngo<|im_end|>\n<|im_start|>assistant\n"
        )
    ]


@pytest.mark.parametrize("style", STYLES)
@given(
    contents=st.lists(st.text(max_size=20).filter(lambda t: not SPECIAL.search(t)), min_size=1, max_size=5)
)
@settings(max_examples=25, deadline=None)
def test_ordinary_text_tokenizes_as_if_rendered_in_one_string(style: str, contents: list[str]) -> None:
    import jinja2

    contents = contents if len(contents) % 2 else contents[:-1]
    messages = [{**one, "content": one["content"].replace("\r", "")} for one in turns(*contents)]
    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(STYLES[style])
    expected = plain.render(messages=messages, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
    segments = template(STYLES[style]).render(messages)
    if (
        len(list(SPECIAL.finditer(expected))) == len(list(SPECIAL.finditer(text_of(segments))))
        and len(segments) == 1
    ):
        assert segments == [Segment(expected)]
    assert text_of(segments) == expected


def test_bos_stands_first_exactly_once() -> None:
    for source in STYLES.values():
        chat = template(source)
        ids = chat.to_tokens(chat.render(turns("hi")), TOY)
        assert ids[0] == Toy.bos
        assert controls_in(ids).count("<s>") == 1


def test_a_system_prompt_joins_the_first_question_where_the_template_refuses_it() -> None:
    messages = [{"role": "system", "content": "Be kind."}, *turns("hi")]
    assert "<start_of_turn>user\nBe kind.\n\nhi<end_of_turn>" in text_of(template(GEMMA).render(messages))


def test_a_refusal_carries_the_templates_own_words() -> None:
    with pytest.raises(TemplateError, match="roles must alternate") as caught:
        template(GEMMA).render([*turns("a"), *turns("b")])
    assert "\n" not in str(caught.value)


def test_without_a_template_chatml_serves_where_the_vocabulary_knows_it() -> None:
    assert (
        text_of(template(None).render(turns("hi")))
        == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    with pytest.raises(TemplateError, match="use generate"):
        template(None, ("<s>", "</s>"))


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "u|>x<|a", "content": ""},
        {"role": 3, "content": ""},
    ],
)
def test_a_malformed_message_is_a_prompt_error(message: dict[str, str]) -> None:
    with pytest.raises(PromptError):
        template().render([message])


# --- text that looks like control tokens ---------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
@given(
    contents=st.lists(
        st.lists(
            st.sampled_from([*CONTROLS, "<", ">", "<|", "|>", "im_end", "[", "a", " ", "\ue000"]), max_size=6
        ).map("".join),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_content_ever_adds_a_control_token(style: str, contents: list[str]) -> None:
    contents = contents if len(contents) % 2 else contents[:-1]
    chat = template(STYLES[style])
    ids = chat.to_tokens(chat.render(turns(*contents)), TOY)
    harmless = chat.to_tokens(chat.render(turns(*("x" for _ in contents))), TOY)
    assert controls_in(ids) == controls_in(harmless)
    assert text_of(chat.render(turns(*contents))) == "".join(
        CONTROLS[i - 1_000_000] if i >= 1_000_000 else chr(i)
        for i in ids[ids[0] == Toy.bos and style == "chatml" :]
    )


def test_a_control_text_is_cut_in_two_and_its_surroundings_stay() -> None:
    segments = template().render(turns("say <|im_end|> now"))
    assert segments == [
        Segment("<|im_start|>user\nsay <|im_end"),
        Segment("|> now<|im_end|>\n<|im_start|>assistant\n", continues=True),
    ]


def test_a_control_text_completed_by_the_template_stays_text() -> None:
    chat = template("{{ messages[0].content }}im_end|>{{ messages[1].content }}")
    assert controls_in(chat.to_tokens(chat.render(turns("<|", "x")), TOY)) == ["<s>"]
    chat = template("<|im_end{{ messages[0].content }}")
    assert controls_in(chat.to_tokens(chat.render(turns("|>")), TOY)) == ["<s>"]


def test_a_control_text_put_together_from_two_messages_stays_text() -> None:
    chat = template("{% for message in messages %}{{ message.content }}{% endfor %}")
    messages = [{"role": "user", "content": "<|im"}, {"role": "user", "content": "_end|>"}]
    assert controls_in(chat.to_tokens(chat.render(messages), TOY)) == ["<s>"]


def test_rare_characters_of_the_conversation_survive() -> None:
    odd = "\U00020000\U00020001\U00020002 <|im_end|> \U000f0003"
    assert odd in text_of(template().render(turns(odd)))


def test_a_lone_surrogate_is_replaced_before_anything_is_looked_for() -> None:
    chat = template("{{ messages[0].content }}", ("<?>",))
    assert chat.render(turns("<\ud800>")) == [Segment("<"), Segment("?>", continues=True)]


def test_an_answer_of_which_the_template_deletes_a_part_becomes_no_control_text() -> None:
    chat = template(THINKING)
    harmless = chat.to_tokens(chat.render(turns("q", "x", "r")), TOY)
    for answer in (
        "<|im_<think></think>end|>",
        "</think><|im_end|>",
        "<</think>|im_end|>",
        "a</think><|im_</think>|im_end|>",
    ):
        ids = chat.to_tokens(chat.render(turns("q", answer, "r")), TOY)
        assert controls_in(ids) == controls_in(harmless)


def test_answers_that_the_template_joins_become_no_control_text() -> None:
    chat = template("{% for m in messages %}{{ m.content }}{% endfor %}")
    messages = [{"role": "assistant", "content": "<|im"}, {"role": "assistant", "content": "_end|>"}]
    assert controls_in(chat.to_tokens(chat.render(messages), TOY)) == ["<s>"]


@pytest.mark.parametrize("role", ["im_end", "eot_id", "im_start"])
def test_a_role_completes_no_control_text(role: str) -> None:
    chat = template("{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}")
    segments = chat.render([{"role": role, "content": "x"}])
    assert controls_in(chat.to_tokens(segments, TOY)) == ["<s>"]
    assert text_of(segments) == f"<|{role}|>x"


def test_a_role_the_template_knows_is_its_own_word() -> None:
    chat = template(
        "{% for m in messages %}{% if m.role == 'observation' %}{{ '<|' + m.role + '|>' + m.content }}{% endif %}{% endfor %}",
        ("<|observation|>",),
    )
    assert chat.render([{"role": "observation", "content": "x"}]) == [Segment("<|observation|>x")]


def test_a_printed_list_shows_what_was_said() -> None:
    messages = turns('<|im_end|> "it\'s" \\ é\n')
    for source in ("{{ messages }}", "{{ messages | tojson }}", "{{ messages | tojson(ensure_ascii=true) }}"):
        text = text_of(template(source).render(messages))
        assert (json.loads if "json" in source else ast.literal_eval)(text) == messages


# --- answers' own tokens -------------------------------------------------------------------------------


def test_an_answers_own_ids_take_the_place_of_its_text() -> None:
    chat = template()
    segments = chat.render(turns("q", "the answer", "more"), known_answers={"the answer": [7, 8, 9]})
    assert segments == [
        Segment("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"),
        Segment("", (7, 8, 9), continues=True),
        Segment("<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n", continues=True),
    ]


@pytest.mark.parametrize("style", STYLES)
def test_every_style_takes_ids_for_answers_with_white_space_around(style: str) -> None:
    chat = template(STYLES[style])
    answers = {" one": [7], "two\n": [8, 9]}
    segments = chat.render(turns("a", " one", "b", "two\n", "c"), known_answers=answers)
    assert [segment.tokens for segment in segments if segment.tokens] == [(7,), (8, 9)]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("answer", [" yes", "  yes", "\n\nyes", "yes\n", " \n yes "])
def test_a_turn_extends_the_ids_of_the_turn_before(style: str, answer: str) -> None:
    chat = template(STYLES[style])
    before = [*chat.to_tokens(chat.render(turns("q")), TOY), 7, 8]
    after = chat.to_tokens(chat.render(turns("q", answer, "r"), known_answers={answer: [7, 8]}), TOY)
    assert after[: len(before)] == before


def test_an_answer_the_template_changes_is_taken_as_text() -> None:
    answer = "<think>hm</think>\n\nyes"
    segments = template(THINKING).render(turns("q", answer, "r"), known_answers={answer: [1, 2]})
    assert [segment.tokens for segment in segments if segment.tokens] == []
    assert "assistant\nyes<|im_end|>" in text_of(segments)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content }}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content[1:] }}{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
    ],
)
def test_an_answer_dropped_or_doubled_or_cut_by_the_template_is_taken_as_text(source: str) -> None:
    chat = template(source)
    plain = chat.render(turns("q", "answer", "r"))
    assert chat.render(turns("q", "answer", "r"), known_answers={"answer": [5]}) == plain


def test_a_text_known_as_an_answer_is_text_when_a_person_says_it() -> None:
    segments = template().render(turns("yes"), known_answers={"yes": [5]})
    assert all(not segment.tokens for segment in segments)


def test_a_template_that_refuses_control_texts_in_answers_takes_the_models_own() -> None:
    refusing = CHATML.replace(
        "{{'<|im",
        "{% if '<|eot_id|>' in message.content %}{{ raise_exception('tags') }}{% endif %}{{'<|im",
        1,
    )
    answer = "<|start_header_id|>final<|eot_id|>yes"
    segments = template(refusing).render(turns("q", answer, "r"), known_answers={answer: [7, 8]})
    assert [segment.tokens for segment in segments] == [(), (7, 8), ()]


# --- an answer that goes on ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("chatml", "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n  so far \n"),
        ("llama3", "<s><|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>"
         "<|start_header_id|>assistant<|end_header_id|>\n\nso far \n"),
        ("gemma", "<s><start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\nso far \n"),
        ("mistral", "<s>[INST] q [/INST] so far \n"),
    ],
)  # fmt: skip
def test_the_assistants_last_message_goes_on(style: str, expected: str) -> None:
    assert template(STYLES[style]).render(turns("q", "  so far \n")) == [Segment(expected)]


def test_an_empty_answer_goes_on_where_it_begins() -> None:
    chat = template()
    assert chat.render(turns("q", "")) == chat.render(turns("q"))


def test_a_control_text_at_the_end_of_an_answer_that_goes_on_stays_text() -> None:
    chat = template()
    ids = chat.to_tokens(chat.render(turns("q", "so<|im_end|>")), TOY)
    assert controls_in(ids) == ["<s>", "<|im_start|>", "<|im_end|>", "<|im_start|>"]


def test_an_answer_that_goes_on_keeps_its_own_ids() -> None:
    chat = template()
    segments = chat.render(turns("q", " so \n"), known_answers={" so \n": [7, 8]})
    assert segments == [
        Segment("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"),
        Segment("", (7, 8), continues=True),
    ]
    twice = chat.render(turns("a", "b", "c", "b"), known_answers={"b": [7]})
    assert [segment.tokens for segment in twice] == [(), (7,), (), (7,)]


def test_thoughts_of_an_answer_that_goes_on_are_the_templates_matter() -> None:
    assert text_of(template(THINKING).render(turns("q", "<think>hm</think>\n\nso"))).endswith("assistant\nso")


def test_without_a_generation_prompt_no_answer_goes_on() -> None:
    assert text_of(template().render(turns("q", "so"), False)).endswith("assistant\nso<|im_end|>\n")


def test_a_template_that_leaves_the_last_answer_out_cannot_go_on() -> None:
    chat = template("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    assert text_of(chat.render(turns("q", "so", "r"))) == "qr"
    with pytest.raises(TemplateError, match="end the conversation with a user message"):
        chat.render(turns("q", "so"))


# --- OpenAI's parts --------------------------------------------------------------------------------------


def test_text_parts_become_lines() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two <|im_end|>"}]
    assert template().render([{"role": "user", "content": parts}]) == template().render(
        turns("one\ntwo <|im_end|>")
    )
    assert template().render([{"role": "user", "content": parts[:1]}]) == template().render(turns("one"))


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "'image_url'"),
        ({"content": ["text"]}, "'str'"),
        ({"content": [{"type": "text"}]}, "no text"),
        ({"content": [{"type": "text", "text": 3}]}, "no text"),
        ({"content": {"type": "text", "text": "x"}}, "dict"),
        ({"content": None}, "None"),
    ],
)
def test_what_is_no_text_is_refused_by_name(message: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PromptError, match=complaint) as caught:
        template().render([{"role": "assistant", **message}])
    assert "\n" not in str(caught.value)


# --- templates that are refused ------------------------------------------------------------------------


def test_an_overlong_template_is_refused() -> None:
    with pytest.raises(TemplateError, match="characters"):
        template("a" * 2_000_000)


# --- through llama.cpp ---------------------------------------------------------------------------------


class Vocabulary:
    """A GGUF's vocabulary in llama.cpp."""

    def __init__(self, path: Path) -> None:
        from llama_cpp import llama_cpp as lib

        self._lib = lib
        params = lib.llama_model_default_params()
        params.vocab_only = True
        self.model = lib.llama_model_load_from_file(str(path).encode(), params)
        self._vocab = lib.llama_model_get_vocab(self.model)
        self.adds_bos = bool(lib.llama_vocab_get_add_bos(self._vocab))
        self.bos = int(lib.llama_vocab_bos(self._vocab))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        raw = text.encode()
        buffer = (self._lib.llama_token * (len(raw) + 8))()
        n = self._lib.llama_tokenize(
            self._vocab, raw, len(raw), buffer, len(buffer), add_special, parse_special
        )
        return list(buffer[:n])

    def piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        n = self._lib.llama_token_to_piece(self._vocab, token, buffer, 64, 0, True)
        return buffer.raw[:n]


@pytest.fixture(scope="module")
def vocabulary(tiny: dict[str, Path]) -> Iterator[Vocabulary]:
    from llama_cpp import llama_cpp as lib

    silent = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(silent, ctypes.c_void_p(0))
    lib.llama_backend_init()
    found = Vocabulary(tiny["llama"])
    yield found
    lib.llama_model_free(found.model)
    lib.llama_log_set(lib.llama_log_callback(), ctypes.c_void_p(0))


def tiny_template() -> ChatTemplate:
    return ChatTemplate(tiny_models.TEMPLATE, bos="<s>", eos="</s>", control_texts=tiny_models.CONTROL)


@given(
    contents=st.lists(
        st.lists(
            st.sampled_from([*tiny_models.CONTROL, "<", ">", "<|", "|>", "end", "find", " "]), max_size=5
        ).map("".join),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=40, deadline=None)
def test_llama_cpp_reads_no_control_token_from_content(vocabulary: Vocabulary, contents: list[str]) -> None:
    chat = tiny_template()
    ids = chat.to_tokens(chat.render(turns(*contents)), vocabulary)
    expected = [tiny_models.BOS]
    for i in range(len(contents)):
        expected += [tiny_models.ASSISTANT, tiny_models.END] if i % 2 else [tiny_models.USER]
    # The last answer goes on; behind a question one begins.
    expected = [*expected, tiny_models.ASSISTANT] if len(contents) % 2 else expected[:-1]
    assert [i for i in ids if i < len(tiny_models.CONTROL)] == expected
    assert b"".join(map(vocabulary.piece, ids[1:])).decode() == text_of(chat.render(turns(*contents)))


def test_llama_cpp_gives_the_same_ids_as_for_one_string(vocabulary: Vocabulary) -> None:
    chat = tiny_template()
    messages = turns("how do I find a file?", "find . -name <x> | less", "and é🙂 then?")
    one = chat.render(messages)
    assert len(one) == 1
    assert chat.to_tokens(one, vocabulary) == vocabulary.tokenize(
        one[0].text, add_special=True, parse_special=True
    )


class Prefixing(Toy):
    """Puts a space in front of every text, as SentencePiece vocabularies do, after control tokens too."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        ids: list[int] = []
        special = True
        for token in super().tokenize(text, add_special=add_special, parse_special=parse_special):
            ids += [32, token] if special and token < 1_000_000 else [token]
            special = token >= 1_000_000
        return ids


def test_a_tokenizer_that_puts_spaces_in_front_does_so_at_the_start_of_running_text_only() -> None:
    chat = template()
    tokenizer = Prefixing()
    segments = chat.render(turns("say <|im_end|> now"))
    ids = chat.to_tokens(segments, tokenizer)
    said = "".join(chr(i) if i < 1_000_000 else "\0" for i in ids)
    assert said == "\0\0 user\nsay <|im_end|> now\0 \n\0 assistant\n"
