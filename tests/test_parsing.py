"""Content, thoughts and calls are told apart, and no cut of the text changes the result."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded_local.chat import parsing
from aded_local.chat.parsing import AnswerParser, ParsedAnswer, ToolCall
from aded_local.chat.style import HERMES, LLAMA3, MISTRAL, MISTRAL_NEW, PLAIN, QWEN3_CODER, AnswerStyle

THINK = ("<think>", "</think>")
NAMES = frozenset(["weather", "add"])
TEXTS = frozenset([("weather", "city")])
STYLES = {
    "plain": PLAIN,
    "thinking": AnswerStyle(THINK),
    "thinking since the prompt": AnswerStyle(THINK, reasoning_is_open=True),
    "hermes": AnswerStyle(THINK, calls=HERMES, names=NAMES),
    "qwen3-coder": AnswerStyle(None, calls=QWEN3_CODER, names=NAMES, texts=TEXTS),
    "llama3": AnswerStyle(None, calls=LLAMA3, names=NAMES),
    "mistral": AnswerStyle(("[THINK]", "[/THINK]"), calls=MISTRAL, names=NAMES),
    "mistral-new": AnswerStyle(None, calls=MISTRAL_NEW, names=NAMES),
}
CALL = '{"name": "weather", "arguments": {"city": "Paris"}}'
XML = "<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>"


def read(style: AnswerStyle, cuts: Sequence[str]) -> ParsedAnswer:
    counter = itertools.count()
    parser = AnswerParser(style, lambda: f"call_{next(counter)}")
    deltas = [*map(parser.feed, cuts), parser.finish()]
    calls = [call for delta in deltas for call in delta.calls]
    assert [call.index for call in calls] == list(range(len(calls)))
    return ParsedAnswer(
        "".join(delta.content for delta in deltas),
        "".join(delta.reasoning for delta in deltas),
        tuple(ToolCall(call.id, call.name, call.arguments) for call in calls),
    )


def said(style: str, text: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Content, thoughts, and each call's name and arguments."""
    found = read(STYLES[style], [text])
    return found.content, found.reasoning, [(call.name, call.arguments_json) for call in found.calls]


PARIS = ("weather", '{"city": "Paris"}')


@pytest.mark.parametrize(
    ("style", "text", "content", "reasoning", "calls"),
    [
        ("plain", "<think>a</think> <tool_call>" + CALL, "<think>a</think> <tool_call>" + CALL, "", []),
        ("thinking", "<think>\nhm\n</think>\n\nyes ", "yes ", "hm", []),
        ("thinking", "  <think>hm", "", "hm", []),
        ("thinking", "say <think> or </think>", "say <think> or </think>", "", []),
        ("thinking", "  yes \n", "  yes \n", "", []),
        ("thinking", "<think></think>", "", "", []),
        ("thinking", "<thi", "<thi", "", []),
        ("thinking", "<think>a</think><think>b</think>", "<think>b</think>", "a", []),
        ("thinking since the prompt", "\nhm </think>\nyes", "yes", "hm", []),
        ("thinking since the prompt", "<think>\nhm</think>yes", "yes", "hm", []),
        ("thinking since the prompt", "never closed </thin \n", "", "never closed </thin", []),
        ("hermes", f"<tool_call>\n{CALL}\n</tool_call>", "", "", [PARIS]),
        ("hermes", f"<think>\nhm\n</think>\n\nSure.\n<tool_call>\n{CALL}\n</tool_call>\n", "Sure.", "hm", [PARIS]),
        ("hermes", f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", "", "", [PARIS, PARIS]),
        ("hermes", f"<tool_call>{CALL}\n{CALL}</tool_call>", "", "", [PARIS, PARIS]),
        ("hermes", f"<tool_call>{CALL}", "", "", [PARIS]),
        ("hermes", f"A\n<tool_call>{CALL}</tool_call>\nB ", "A\nB ", "", [PARIS]),
        ("hermes", f"<tool_call>{XML}</tool_call>", "", "", [PARIS]),
        (
            "hermes",
            '<tool_call>{"name": "f", "arguments": {"a": "</tool_call> \\" {"}}</tool_call>',
            "",
            "",
            [("f", '{"a": "</tool_call> \\" {"}')],
        ),
        ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", "", [("f", '{"a": 1}')]),
        ("hermes", '<tool_call>{"name": "f"}</tool_call>', "", "", [("f", "{}")]),
        ("qwen3-coder", f"I look.\n\n<tool_call>\n{XML}\n</tool_call>", "I look.", "", [PARIS]),
        (
            "qwen3-coder",
            "<tool_call>\n<function=add>\n<parameter=a>\n12\n</parameter>\n<parameter=b>\n[1]\n</parameter>\n"
            "<parameter=c>\nx\ny\n</parameter>\n</function>\n</tool_call>",
            "",
            "",
            [("add", '{"a": 12, "b": [1], "c": "x\\ny"}')],
        ),
        (
            "qwen3-coder",
            "<tool_call><function=weather><parameter=city>12</parameter></function></tool_call>",
            "",
            "",
            [("weather", '{"city": "12"}')],
        ),
        ("qwen3-coder", "<tool_call><function=f></function></tool_call>", "", "", [("f", "{}")]),
        ("llama3", '{"name": "weather", "parameters": {"city": "Paris"}}', "", "", [PARIS]),
        ("llama3", f"<|python_tag|>{CALL}; {CALL}", "", "", [PARIS, PARIS]),
        ("llama3", f"\n{CALL}\n", "", "", [PARIS]),
        ("llama3", '{"name": "other", "parameters": {}}', '{"name": "other", "parameters": {}}', "", []),
        ("llama3", '{"city": "Paris"} \n', '{"city": "Paris"} \n', "", []),
        ("llama3", "Paris, of course", "Paris, of course", "", []),
        ("mistral", f"[TOOL_CALLS][{CALL}, {CALL}]", "", "", [PARIS, PARIS]),
        ("mistral", f"[TOOL_CALLS] [{CALL}]\n", "", "", [PARIS]),
        ("mistral-new", '[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]f[ARGS]{}', "", "", [("f", "{}")] * 2),
        ("mistral-new", 'Well.[TOOL_CALLS]weather{"city": "Paris"}', "Well.", "", [PARIS]),
        ("mistral", "[THINK]hm[/THINK]yes", "yes", "hm", []),
    ],
)  # fmt: skip
def test_each_family_is_understood(
    style: str, text: str, content: str, reasoning: str, calls: list[tuple[str, str]]
) -> None:
    assert said(style, text) == (content, reasoning, calls)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {</tool_call>'),
        ("hermes", 'A <tool_call>\n{"name": "f", "arguments": {"a": 1}\n</tool_call> B'),
        ("hermes", "<tool_call> soon </tool_call>"),
        ("hermes", "<tool_call>"),
        ("hermes", " \n<tool_call>\n"),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1e999}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}</tool_call>"),
        ("hermes", "<tool_call>" + "[" * 100_000),
        ("hermes", "<tool_call>{'name': 'f'}</tool_call>"),
        ("hermes", "<tool_call>[]</tool_call>"),
        ("hermes", "<tool_call><function=f><parameter=a>1</function></tool_call> so"),
        ("qwen3-coder", "<tool_call><function=>x</function></tool_call>"),
        ("qwen3-coder", "<tool_call>\n<function=f>\n<parameter=a>\n1"),
        ("llama3", '{"name": "weather", "parameters": {"city": "Par'),
        ("llama3", '<|python_tag|>weather.call(city="Paris")'),
        ("mistral", "[TOOL_CALLS]"),
        ("mistral", "[TOOL_CALLS][ARGS]{}"),
        ("mistral", "[TOOL_CALLS]" + "a" * 1000 + "[ARGS]{}"),
        ("mistral", "[TOOL_CALLS]a b[ARGS]{}"),
        ("mistral", "[TOOL_CALLS]weather[ARGS][1]"),
        ("mistral", f"[TOOL_CALLS][{CALL}, 3] and so on"),
    ],
)
def test_what_is_no_sound_call_stays_content(style: str, text: str) -> None:
    assert said(style, text) == (text, "", [])


def test_a_broken_call_does_not_hide_the_next() -> None:
    broken = '<tool_call>{"name": "f"'
    assert said("hermes", f"{broken}</tool_call>\n<tool_call>{CALL}</tool_call>") == (
        f"{broken}</tool_call>",
        "",
        [PARIS],
    )


def test_ids_are_the_models_or_new_and_unlike() -> None:
    listed = '[TOOL_CALLS][{"name": "f", "arguments": {}, "id": "abcDEF123"}, {"name": "g", "arguments": {}}]'
    assert [call.id for call in read(STYLES["mistral"], [listed]).calls] == ["abcDEF123", "call_0"]
    named = "[TOOL_CALLS]f[CALL_ID]abcDEF123[ARGS]{}"
    assert [call.id for call in read(STYLES["mistral"], [named]).calls] == ["abcDEF123"]
    found = parsing.parsed(f"<tool_call>{CALL}{CALL}</tool_call>", STYLES["hermes"]).calls
    assert len({call.id for call in found}) == 2
    assert all(call.id.startswith("call_") for call in found)


def test_arguments_hold_no_lone_surrogate() -> None:
    ((_, arguments),) = said("hermes", '<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>')[
        2
    ]
    assert json.loads(arguments) == {"a": "?"}


def test_content_is_passed_on_as_it_comes() -> None:
    parser = AnswerParser(STYLES["hermes"])
    assert [parser.feed(text).content for text in ("Good ", "mor", "ning. <tool", "box>")] == [
        "Good",
        " mor",
        "ning.",
        " <toolbox>",
    ]


PARTS = (
    "<think>", "</think>", "[THINK]", "[/THINK]", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]",
    "<|python_tag|>", "<function=", "weather", ">", "</function>", "<parameter=city>", "</parameter>", CALL, XML, "{",
    "}", "[", "]", '"', "\\", ",", ";", ":", " ", "\n", "a", "abc123def", '{"city": "x"}', "é", '"name"', "<", "1",
)  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=12), data=st.data())
def test_no_cut_changes_the_result(style: str, parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=20).map(sorted))
    cuts = [text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])]
    for each in (STYLES[style], replace(STYLES[style], reasoning=THINK, reasoning_is_open=True)):
        whole = read(each, [text])
        assert read(each, cuts) == whole
        assert read(each, list(text)) == whole


@pytest.mark.parametrize("style", [name for name in STYLES if not STYLES[name].reasoning_is_open])
@given(parts=st.lists(st.sampled_from(PARTS), max_size=12))
def test_what_is_neither_thought_nor_call_is_content_to_the_last_sign(style: str, parts: list[str]) -> None:
    text = "".join(parts)
    found = read(STYLES[style], [text])
    if not found.calls and not text.lstrip().startswith(("<think>", "[THINK]")):
        assert (found.content, found.reasoning) == (text, "")
    for call in found.calls:
        assert isinstance(json.loads(call.arguments_json), dict)


def test_markers_are_those_to_be_shown() -> None:
    assert PLAIN.markers == ()
    assert STYLES["mistral"].markers == ("[THINK]", "[/THINK]", "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")
