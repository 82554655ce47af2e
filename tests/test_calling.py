"""Which functions an answer may or must call, and that an answer that must call one does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES

from aded_local import LocalADED
from aded_local.chat.calling import Calling, call_grammar
from aded_local.chat.detokenize import showing
from aded_local.chat.parsing import parsed
from aded_local.chat.style import HERMES, LLAMA3, MISTRAL, MISTRAL_NEW, QWEN3_CODER, AnswerStyle
from aded_local.errors import OptionError
from aded_local.llama.gbnf import check


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}


def named(name: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


WEATHER = tool(
    "weather", city={"enum": ["Paris", "Rome"]}, days={"type": "integer", "minimum": 1, "maximum": 7}
)
CLOCK = tool('clo"ck', zone={"$ref": "#/$defs/zone"})
CLOCK["function"]["parameters"]["$defs"] = {"zone": {"type": "boolean"}}
TOOLS = [WEATHER, CLOCK]
THINK = ("<think>", "</think>")


# --- what may be chosen ----------------------------------------------------------------------------------


def test_the_choice_says_what_is_offered_and_what_is_required() -> None:
    def names(tools: list[dict[str, Any]] | None) -> list[str] | None:
        return None if tools is None else [each["function"]["name"] for each in tools]

    both = ["weather", 'clo"ck']
    for choice, offered, required in (
        (None, both, None),
        ("auto", both, None),
        ("none", None, None),
        ("required", both, both),
        (named("weather"), both, ["weather"]),
    ):
        calling = Calling.of(TOOLS, choice)  # type: ignore[arg-type]
        assert (names(calling.tools), names(calling.required)) == (offered, required)
    for choice in (None, "auto", "none"):
        assert Calling.of(None, choice) == Calling.of([], choice) == Calling(None)


@pytest.mark.parametrize(
    ("tools", "choice", "complaint"),
    [
        (TOOLS, "any", "must be 'auto', 'none', 'required'"),
        (TOOLS, 3, "must be"),
        (TOOLS, {"type": "function"}, "must be"),
        (TOOLS, named(3), "must be"),
        (TOOLS, {"type": "custom", "function": {"name": "weather"}}, "must be"),
        (TOOLS, named("other"), "none of the tools"),
        (None, "required", "there are no tools"),
        ([], named("weather"), "there are no tools"),
    ],
)
def test_a_choice_that_is_none_is_refused_in_one_line(tools: Any, choice: Any, complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint) as caught:
        Calling.of(tools, choice)
    assert "\n" not in str(caught.value)


# --- what must be called ---------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [HERMES, LLAMA3, MISTRAL, MISTRAL_NEW])
@pytest.mark.parametrize("reasoning", [None, THINK, ("[THINK]", "[/THINK]")])
@pytest.mark.parametrize("is_open", [False, True])
def test_every_family_has_a_grammar_that_llama_cpp_can_follow(
    syntax: Any, reasoning: tuple[str, str] | None, is_open: bool
) -> None:
    grammar = call_grammar(Calling.of(TOOLS, "required"), AnswerStyle(reasoning, is_open, syntax))
    assert grammar is not None
    check(grammar)


def test_a_free_choice_has_no_grammar() -> None:
    assert call_grammar(Calling.of(TOOLS, "auto"), AnswerStyle(calls=HERMES)) is None


@pytest.mark.parametrize("syntax", [None, QWEN3_CODER])
def test_a_format_that_is_not_json_cannot_be_required(syntax: Any) -> None:
    with pytest.raises(OptionError, match="use 'auto'"):
        call_grammar(Calling.of(TOOLS, "required"), AnswerStyle(calls=syntax))


@pytest.fixture(scope="module", params=["hermes", "llama3", "mistral", "mistral-new"])
def llm(request: pytest.FixtureRequest, tiny: dict[str, Path]) -> Iterator[LocalADED]:
    fixed: dict[str, Any] = {"draft": "off", "flash_attention": False, "cache_type": "f16"}
    source = FAMILIES[request.param].source
    with LocalADED(tiny["llama"], n_ctx=2048, n_threads=1, chat_template=source, **fixed) as made:
        yield made


@pytest.mark.parametrize("choice", ["required", named("weather")])
def test_an_answer_that_must_call_does(llm: LocalADED, choice: Any) -> None:
    said = [{"role": "user", "content": "one two"}]
    style = llm.answer_style(said, tools=TOOLS, tool_choice=choice)
    for seed in range(2):
        reply = llm.chat(said, tools=TOOLS, tool_choice=choice, seed=seed, max_tokens=300)
        found = parsed(reply.text, style)
        assert (found.content, reply.finish_reason) == ("", "stop")
        (call,) = found.calls
        arguments = json.loads(call.arguments_json)
        if call.name == "weather":
            assert arguments["city"] in ("Paris", "Rome")
            assert arguments["days"] in range(1, 8)
        else:
            assert (call.name, choice) == ('clo"ck', "required")
            assert isinstance(arguments["zone"], bool)


def test_what_was_called_goes_on_with_its_result(llm: LocalADED) -> None:
    said: list[dict[str, Any]] = [{"role": "user", "content": "one two"}]
    reply = llm.chat(said, tools=TOOLS, tool_choice="required", seed=1, max_tokens=300)
    (call,) = parsed(reply.text, llm.answer_style(said, tools=TOOLS)).calls
    function = {"name": call.name, "arguments": call.arguments_json}
    said += [
        {"role": "assistant", "tool_calls": [{"id": call.id, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": call.id, "content": "nine"},
    ]
    assert llm.chat(said, tools=TOOLS, max_tokens=4).stats.generated_tokens >= 1


def test_tools_that_may_not_be_called_stay_out_of_the_prompt(llm: LocalADED) -> None:
    said = [{"role": "user", "content": "one two"}]
    without = llm.count_chat_tokens(said)
    assert llm.count_chat_tokens(said, TOOLS) > without
    assert llm.chat(said, tools=TOOLS, tool_choice="none", max_tokens=1).stats.prompt_tokens == without
    assert llm.chat(said, tools=TOOLS, max_tokens=1).stats.prompt_tokens > without


def test_a_call_that_is_required_and_a_grammar_exclude_each_other(llm: LocalADED) -> None:
    with pytest.raises(OptionError, match="no grammar or schema"):
        llm.chat([{"role": "user", "content": "?"}], tools=TOOLS, tool_choice="required", json_schema={})


# --- markers that are control tokens ---------------------------------------------------------------------


class Hidden:
    """A vocabulary in which ``[TOOL_CALLS]`` is a control token."""

    adds_bos = False
    bos = -1

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return [999] if text == "[TOOL_CALLS]" and parse_special else [ord(c) for c in text]

    def piece(self, token: int) -> bytes:
        return b"" if token == 999 else chr(token).encode()


def test_a_marker_that_is_a_control_token_is_shown_where_it_is_looked_for() -> None:
    tokens = [ord("a"), 999, ord("b")]
    for texts, expected in (((), b"ab"), (("[TOOL_CALLS]", "[ARGS]", "a"), b"a[TOOL_CALLS]b")):
        piece_of = showing(Hidden(), texts)
        assert b"".join(map(piece_of, tokens)) == expected
