"""Tools, calls and their results reach the template as it wants them, and nothing in them becomes a control token."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import plain_jinja
import pytest
import vocabularies
from families import FAMILIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aded_local.chat.habits import Habits
from aded_local.chat.messages import DEEPEST, LARGEST, MOST_TOOLS
from aded_local.chat.segments import Segment
from aded_local.chat.style import HERMES, LLAMA3, MISTRAL, MISTRAL_NEW, PLAIN, QWEN3_CODER
from aded_local.chat.template import CHATML, ChatTemplate
from aded_local.errors import OptionError, PromptError, TemplateError
from aded_local.llama.vocabulary import Vocabulary

TRIES = int(os.environ.get("TRIES", "6"))
"""Conversations for each family; ``TRIES=1000`` in the environment for more."""

TOLD = [name for name, family in FAMILIES.items() if family.is_told]

Message = dict[str, Any]


@lru_cache(len(FAMILIES))  # each keeps a process
def template(name: str) -> ChatTemplate:
    family = FAMILIES[name]
    return ChatTemplate(
        family.source,
        bos=family.bos,
        eos=family.eos,
        control_texts=family.controls,
        defined_texts=family.defined,
    )


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    for name in FAMILIES:
        template(name).close()
    template.cache_clear()


def text_of(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def controls_in(chat: ChatTemplate, segments: Sequence[Segment]) -> list[str]:
    """Control tokens that a tokenizer would make of the segments: the longest texts, from the left."""
    texts = sorted(chat._controls.texts, key=len, reverse=True)
    anywhere = re.compile("|".join(map(re.escape, texts)))
    return [found for segment in segments for found in anywhere.findall(segment.text)]


def user(content: Any) -> Message:
    return {"role": "user", "content": content}


def answer(content: Any, *calls: Message, **more: Any) -> Message:
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {}), **more}


def call(name: str, arguments: Any, call_id: str | None = "abcDEF123") -> Message:
    made: Message = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return made if call_id is None else {"id": call_id, **made}


def result(content: Any, call_id: str = "abcDEF123") -> Message:
    return {"role": "tool", "content": content, "tool_call_id": call_id}


def tool(name: str, description: str = "d", **properties: Any) -> Message:
    parameters = {"type": "object", "properties": properties}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


WEATHER = tool("weather", city={"type": "string"})


# --- what a template is given ----------------------------------------------------------------------------


def rendered(name: str, messages: list[Message], tools: list[Message] | None = None) -> str:
    return text_of(template(name).render(messages, tools=tools))


@pytest.mark.parametrize("arguments", ['{"city": "Paris"}', {"city": "Paris"}])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hermes", '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'),
        ("qwen3", '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>'),
        ("qwen3-coder", "<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>"),
        ("llama3", '{"name": "weather", "parameters": {"city": "Paris"}}<|eot_id|>'),
        ("mistral", '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris"}, "id": "abcDEF123"}]</s>'),
        ("mistral-new", '[TOOL_CALLS]weather[CALL_ID]abcDEF123[ARGS]{"city": "Paris"}</s>'),
        ("deepseek", '<｜tool▁sep｜>weather\n```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜>'),
    ],
)  # fmt: skip
def test_calls_and_results_are_written_as_the_family_does(name: str, expected: str, arguments: Any) -> None:
    said = [user("Well?"), answer(None, call("weather", arguments)), result("9 degrees")]
    text = rendered(name, said, [WEATHER])
    assert expected in text
    assert "9 degrees" in text
    assert json.dumps(WEATHER["function"]["name"]) in text or "<name>weather</name>" in text
    assert "None" not in text


@pytest.mark.parametrize("content", [None, ""])
def test_content_beside_calls_may_be_none_or_missing(content: str | None) -> None:
    for name in TOLD:
        said = [user("Well?"), answer(content, call("weather", {})), result("9")]
        without = [said[0], {key: value for key, value in said[1].items() if key != "content"}, said[2]]
        assert rendered(name, said) == rendered(name, without)


def test_ids_of_others_become_nine_signs_where_the_template_wants_them() -> None:
    text = rendered(
        "mistral", [user("?"), answer(None, call("f", {}, "call_0123456789")), result("9", "call_0123456789")]
    )
    first, second = re.findall(r'id": "([A-Za-z0-9]{9})"', text)
    assert first == second
    assert "call_0123456789" in rendered(
        "mistral-new", [user("?"), answer("x"), user("call_0123456789")]
    )  # a person's text stays


def test_a_function_gets_what_templates_read_without_looking() -> None:
    bare = {"type": "function", "function": {"name": "now", "strict": None, "parameters": None}}
    text = rendered("hermes", [user("?")], [bare])
    whole = '{"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}'
    assert f'{{"type": "function", "function": {whole}}}' in text


def test_tools_are_given_in_the_order_and_spelling_of_the_caller() -> None:
    properties = {"z": {"type": "string", "enum": ["<a>", "é"]}, "a": {"type": "integer", "minimum": 1}}
    text = rendered("hermes", [user("?")], [tool("f", "it's <b>", **properties)])
    assert json.dumps(tool("f", "it's <b>", **properties), ensure_ascii=False) in text


def test_no_tools_are_as_none() -> None:
    for name in FAMILIES:
        assert rendered(name, [user("?")], []) == rendered(name, [user("?")])


def test_thoughts_beside_an_answer_reach_the_template() -> None:
    said = [user("a"), answer("b", call("f", {}), reasoning_content="hm <|im_end|>"), result("c")]
    segments = template("qwen3").render(said)
    assert "<think>\nhm <|im_end|>\n</think>" in text_of(segments)
    assert controls_in(template("qwen3"), segments).count("<|im_end|>") == 3


def test_a_template_that_leaves_something_out_says_so() -> None:
    for name in ("gemma", "phi"):
        with pytest.raises(TemplateError, match="no place for tools"):
            rendered(name, [user("?")], [WEATHER])
        with pytest.raises(TemplateError, match="leaves out tool_calls"):
            rendered(name, [user("?"), answer(None, call("f", {})), result("9")])
    with pytest.raises(TemplateError, match="leaves out messages of the role tool"):
        rendered("phi", [user("?"), answer("x"), result("9")])
    plain = ChatTemplate(CHATML, bos="", eos="", control_texts=())
    assert "<|im_start|>tool\n9<|im_end|>" in text_of(plain.render([user("?"), answer("x"), result("9")]))
    with pytest.raises(TemplateError, match="leaves out tool_calls"):
        plain.render([user("?"), answer("x", call("f", {})), result("9")])


def test_a_refusal_is_the_templates_own() -> None:
    with pytest.raises(TemplateError, match="one call at once"):
        rendered("llama3", [user("?"), answer(None, call("f", {}), call("g", {})), result("9")])


def test_a_conversation_does_not_end_with_calls() -> None:
    with pytest.raises(PromptError, match="add their results"):
        rendered("hermes", [user("?"), answer(None, call("f", {}))])


def test_the_developer_is_the_system_unless_the_template_knows_it() -> None:
    said = [{"role": "developer", "content": "Be kind."}, user("?")]
    assert rendered("qwen3", said) == rendered("qwen3", [{**said[0], "role": "system"}, said[1]])
    knows = "{% for m in messages %}{% if m.role == 'developer' %}D{% endif %}{{ m.role }}{% endfor %}"
    assert text_of(ChatTemplate(knows, bos="", eos="", control_texts=()).render(said)) == "Ddeveloperuser"


def test_system_prompts_empty_and_repeated() -> None:
    system = {"role": "system", "content": ""}
    assert rendered("qwen3", [system, user("?")]).startswith("<|im_start|>system\n<|im_end|>\n")
    twice = [{**system, "content": "a"}, {**system, "content": "b"}, user("?")]
    assert rendered("qwen3", twice).startswith(
        "<|im_start|>system\na<|im_end|>\n<|im_start|>system\nb<|im_end|>\n"
    )
    assert rendered("gemma", twice).startswith("<bos><start_of_turn>user\na\n\nb\n\n?<end_of_turn>")
    assert rendered("gemma", [system, user("?")]) == rendered("gemma", [user("?")])
    assert rendered("mistral", twice) == "<s>[INST]a\n\nb\n\n?[/INST]"
    with pytest.raises(TemplateError, match="a role too many"):
        rendered("mistral", [user("?"), *twice])


def test_a_name_reaches_the_template() -> None:
    source = "{% for m in messages %}{{ m.name }}:{{ m.content }}{% endfor %}"
    chat = ChatTemplate(source, bos="", eos="", control_texts=("<a>",))
    segments = chat.render([{**user("hi"), "name": "<a>"}])
    assert text_of(segments) == "<a>:hi"
    assert controls_in(chat, segments) == []


# --- what an answer looks like ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("hermes", HERMES),
        ("qwen3", HERMES),
        ("qwen3-coder", QWEN3_CODER),
        ("llama3", LLAMA3),
        ("mistral", MISTRAL),
        ("mistral-new", MISTRAL_NEW),
        ("deepseek", None),
    ],
)
def test_the_format_of_calls_is_found_by_what_the_template_writes(name: str, syntax: Any) -> None:
    style = template(name).answer_style([user("?")], tools=[WEATHER, tool("f", a={"type": "integer"})])
    assert style.calls == syntax
    assert style.names == {"weather", "f"}
    assert style.texts == {("weather", "city")}
    assert template(name).answer_style([user("?")]).calls is None


def test_a_template_that_only_tells_how_to_call_is_understood() -> None:
    for text, syntax in (
        ('<tool_call>{"name": …, "arguments": …}</tool_call>', HERMES),
        ("[TOOL_CALLS]", MISTRAL),
    ):
        source = "{% for t in tools %}{{ t | tojson }} as " + text + "{% endfor %}{{ messages[0].content }}"
        chat = ChatTemplate(source, bos="", eos="", control_texts=())
        assert chat.answer_style([user("?")], tools=[WEATHER]).calls == syntax


def test_thoughts_are_known_by_template_or_vocabulary_and_may_be_open() -> None:
    think = ("<think>", "</think>")
    assert template("llama3").answer_style([user("?")]) == PLAIN
    assert template("qwen3").answer_style([user("?")]).reasoning == think
    assert not template("qwen3").answer_style([user("?")]).reasoning_is_open
    assert template("deepseek").answer_style([user("<think>")]).reasoning_is_open
    bare = ChatTemplate("{{ messages[-1].content }}", bos="", eos="", control_texts=(), defined_texts=think)
    assert bare.answer_style([user("?")]).reasoning == think


@pytest.mark.parametrize(
    ("begun", "is_open"), [("<think>so", True), ("<think>a</think>b", False), ("b", False)]
)
def test_an_answer_that_goes_on_may_be_within_thoughts(begun: str, is_open: bool) -> None:
    assert template("hermes").answer_style([user("?"), answer(begun)]).reasoning_is_open == is_open


# --- what is refused -------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": [value]}
    return value


@pytest.mark.parametrize(
    ("tools", "complaint"),
    [
        ("f", "list of functions, not str"),
        (WEATHER, "list of functions, not dict"),
        ([3], "type 'function'"),
        ([{"type": "retrieval"}], "type 'function'"),
        ([{"type": "function"}], "type 'function'"),
        ([{"type": "function", "function": {}}], "name of a tool is 'None'"),
        ([tool("")], "1 to 128 signs"),
        ([tool("a\nb")], "1 to 128 signs"),
        ([tool("a b")], "1 to 128 signs"),
        ([tool("x" * 129)], "1 to 128 signs"),
        ([WEATHER, WEATHER], "'weather'"),
        ([tool("f", 3)], "description of the tool f"),  # type: ignore[arg-type]
        ([{"type": "function", "function": {"name": "f", "parameters": [1]}}], "JSON schema of an object"),
        ([{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}], "of an object"),
        ([{"type": "function", "function": {"name": "f", "parameters": {"properties": 3}}}], "properties"),
        ([tool("f", a=nested(DEEPEST))], f"deeper than {DEEPEST}"),
        ([tool("f", "x" * LARGEST)], "more than"),
        ([tool("f", a=["x" * 4096] * 300)], "more than"),
        ([tool(f"f{n}") for n in range(MOST_TOOLS + 1)], f"{MOST_TOOLS} are allowed"),
        ([tool("f", a=float("nan"))], "'nan'"),
        ([tool("f", a=1 << 70)], "which JSON has not"),
        ([tool("f", a=b"x")], "bytes"),
        ([tool("f", **{"a": {3: 4}})], "key that is no text"),
    ],
)
def test_tools_that_are_none_are_refused_in_one_line(tools: Any, complaint: str) -> None:
    with pytest.raises(OptionError, match=re.escape(complaint)) as caught:
        template("hermes").render([user("?")], tools=tools)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (user(None), "content is None"),
        (answer(None), "content is None"),
        ({**user("?"), "tool_calls": [call("f", {})]}, "only the assistant"),
        (answer(None, 3), "tool call needs"),  # type: ignore[arg-type]
        (answer(None, {"function": "f"}), "tool call needs"),
        (answer(None, {**call("f", {}), "type": "custom"}), "tool call needs"),
        (answer(None, call("", {})), "1 to 128 signs"),
        (answer(None, call("f", "{")), "arguments of the call of f"),
        (answer(None, call("f", "[1]")), "arguments of the call of f"),
        (answer(None, call("f", [1])), "arguments of the call of f"),
        (answer(None, call("f", {"a": nested(DEEPEST)})), "deeper"),
        (answer(None, call("f", {"a": {1, 2}})), "set"),
        (answer(None, call("f", {}, "")), "1 to 128 signs"),
        ({**answer(""), "tool_calls": {"a": 1}}, "is a list, not dict"),
        ({**answer(""), "function_call": {"name": "f"}}, "tool_calls instead"),
        ({**user("?"), "name": 3}, "name must be text"),
        ({**result("?"), "tool_call_id": 3}, "tool_call_id must be text"),
        ({**answer(""), "reasoning_content": ["x"]}, "reasoning_content must be text"),
    ],
)
def test_a_message_that_is_none_is_refused_in_one_line(message: Message, complaint: str) -> None:
    with pytest.raises(PromptError, match=re.escape(complaint)) as caught:
        template("hermes").render([user("?"), message, result("9")])
    assert "\n" not in str(caught.value)


def test_what_clients_send_along_is_passed_over() -> None:
    more = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}
    said = [user("a"), {**answer("b"), **more}, user("c")]
    assert rendered("qwen3", said) == rendered("qwen3", [user("a"), answer("b"), user("c")])


# --- nothing typed becomes a control token -----------------------------------------------------------------


Texts = Callable[[], str]


def described(texts: Texts, names: Texts, number: int) -> Message:
    """A function in which every text, keys among them, is somebody's."""
    inner = {"type": "object", "properties": {texts(): {"type": texts()}}, texts(): {texts(): texts()}}

    def further() -> Message:
        key = texts()
        return {key + "d" * (key in ("name", "type")): texts()}  # which would take another's place

    first = {"type": "string", "description": texts(), "enum": [texts(), texts()]}
    parameters = {
        "type": "object",
        "properties": {f"{number}{texts()}": first, texts(): inner},
        "required": [texts()],
        f"x{texts()}": texts(),
    }
    function = {
        "name": f"{number}{names()}",
        "description": texts(),
        "parameters": parameters,
        **further(),
    }
    return {"type": "function", "function": function, **further()}


def conversation(
    name: str, texts: Texts, names: Texts, n_calls: int, n_tools: int, shape: int, prefill: bool
) -> tuple[list[Message], list[Message] | None]:
    """A conversation in which every text that a person may choose comes from ``texts`` or ``names``."""
    family = FAMILIES[name]
    said: list[Message] = []
    if shape & 1 and name != "gemma":
        said.append({"role": "system", "content": texts(), "name": names()})
    parts = [{"type": "text", "text": texts()} for _ in range(2)]
    said.append({"role": "user", "name": names(), "content": parts})
    if family.is_told:
        calls, results = [], []
        for number in range(min(n_calls, family.most_calls)):
            call_id = names()[:9].ljust(9, "x") if shape & 2 else names()
            inner = {texts(): [texts(), {texts(): 1.5, "type": texts()}, None]}
            arguments = {f"{number}{texts()}": inner}
            calls.append(call(names(), arguments if shape & 4 else json.dumps(arguments), call_id))
            results.append(result(texts(), call_id))
        said += [answer(texts() if shape & 8 else None, *calls), *results]
    tools = [described(texts, names, number) for number in range(n_tools if family.is_told else 0)]
    said += [answer(texts()), user(texts())]
    if prefill:
        said.append(answer(texts()))
    return said, tools or None


def disguises(controls: Sequence[str]) -> st.SearchStrategy[str]:
    """Texts made of control texts: whole, in parts, without their brackets, one in another."""
    whole = st.sampled_from(controls)
    part = st.builds(
        lambda text, at, rest: text[at:] if rest else text[:at], whole, st.integers(1, 9), st.booleans()
    )
    bare = whole.map(lambda text: text[1:-1])
    word = whole.map(lambda text: re.sub(r"^\W+|\W+$", "", text))
    nested = st.builds(lambda a, b, at: a[:at] + b + a[at:], whole, whole, st.integers(1, 6))
    other = st.sampled_from(
        [" ", "\n", "<", ">", "|", "/", "[", "]", "a", "name", "type", "</", "\\u003c", "\U00020005", "\ue000",
         "\\ud840\\udc05", "'", '"', "\\", "é", "漢", "{", "}"]
    )  # fmt: skip
    return st.lists(st.one_of(whole, part, bare, word, nested, other), max_size=3).map("".join)


LOOKED_FOR = ("</think>", "<tool_response>", "</tool_response>")
"""What the templates look for in contents: a person who writes it changes what they write themselves."""


Drawn = tuple[list[Message], "list[Message] | None"]


def disguised_and_harmless(name: str, controls: Sequence[str], data: st.DataObject) -> tuple[Drawn, Drawn]:
    """A conversation full of disguised control texts, and the same one with a word in place of each."""
    kinds = disguises(controls).filter(lambda text: not any(mark in text for mark in LOOKED_FOR))
    pool = data.draw(st.lists(kinds, min_size=4, max_size=8), label="pool")
    form = data.draw(
        st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(0, 15), st.booleans()), label="form"
    )
    chosen = random.Random(data.draw(st.integers(0, 99), label="seed"))
    drawn: list[str] = []

    def texts() -> str:
        drawn.append(chosen.choice(pool))
        return drawn[-1]

    def names() -> str:
        drawn.append(
            "".join(c for c in chosen.choice(pool) if c.isprintable() and not c.isspace())[:60] or "f"
        )
        return drawn[-1]

    disguised = conversation(name, texts, names, *form)
    given_texts = iter(drawn)
    words: dict[str, str] = {}

    def harmless() -> str:
        text = next(given_texts)
        if not text.strip() or text in ("name", "type"):
            return text
        return words.setdefault(text, f"w{len(words)}")

    return disguised, conversation(name, harmless, harmless, *form)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=TRIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_disguise_in_any_place_adds_a_control_token(name: str, data: st.DataObject) -> None:
    family, chat = FAMILIES[name], template(name)
    (said, tools), harmless = disguised_and_harmless(name, [*family.controls, *family.defined], data)
    segments = chat.render(said, tools=tools)
    assert controls_in(chat, segments) == controls_in(chat, chat.render(harmless[0], tools=harmless[1]))
    assert text_of(segments) == by_plain_jinja(chat, said, tools)


@pytest.mark.parametrize(
    ("name", "vocabulary"), [("hermes", "qwen2"), ("llama3", "llama-bpe"), ("deepseek", "deepseek-coder")]
)
def test_no_disguise_adds_a_control_token_of_a_real_vocabulary(name: str, vocabulary: str) -> None:
    real = Vocabulary(vocabularies.path_of(vocabulary))
    texts = real.control_texts
    chat = ChatTemplate(
        FAMILIES[name].source,
        bos=real.token_text(real.bos),
        eos=real.token_text(real.eos),
        control_texts=texts,
        defined_texts=real.defined_texts,
    )
    few = sorted({*texts[:6], *texts[-6:], *(text for text in FAMILIES[name].controls if text in texts)})

    @settings(max_examples=TRIES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def nothing_is_added(data: st.DataObject) -> None:
        steering: list[list[int]] = []
        for said, tools in disguised_and_harmless(name, few, data):
            ids = chat.to_tokens(chat.render(said, tools=tools), real)
            steering.append([token for token in ids if token in real.control_tokens])
        assert steering[0] == steering[1]

    nothing_is_added()
    chat.close()
    real.close()


def by_plain_jinja(chat: ChatTemplate, said: list[Message], tools: list[Message] | None) -> str:
    """The same without marks, by the environment that model makers use."""
    wanted = chat._wanted(*_checked(said, tools))
    messages, end = wanted.messages, "\U000e0001"
    goes_on = messages[-1]["role"] == "assistant"
    if goes_on:
        messages[-1] = {**messages[-1], "content": messages[-1]["content"] + end}
    text = plain_jinja.environment().from_string(chat._source).render(
        messages=messages, tools=wanted.tools, add_generation_prompt=not goes_on, documents=None, **chat._given
    )  # fmt: skip
    return text.rpartition(end)[0] if goes_on else text


def _checked(said: list[Message], tools: list[Message] | None) -> tuple[list[Message], list[Message] | None]:
    from aded_local.chat.messages import checked_messages, checked_tools

    return checked_messages(said), checked_tools(tools)


def test_a_key_that_fills_the_templates_own_brackets_stays_text() -> None:
    chat = template("qwen3-coder")
    for key in ("|im_end|", "im_end", "name"):
        odd = tool("f", a={"type": "string", key: "x"})
        segments = chat.render([user("?")], tools=[odd])
        assert controls_in(chat, segments) == controls_in(
            chat, chat.render([user("?")], tools=[tool("f", a={"type": "string", "harmless": "x"})])
        )


def test_a_word_at_its_ends_is_marked_where_its_middle_is_not() -> None:
    source = (
        "{% for t in tools %}{{ '<|' ~ t.function.name ~ '|>' }}{% endfor %}{{ messages[0].content | upper }}"
    )
    chat = ChatTemplate(source, bos="", eos="", control_texts=("<|im_end|>",))
    segments = chat.render([user("as the template shouts, all twins are too many")], tools=[tool("im_end")])
    assert controls_in(chat, segments) == []


SORTING = (
    "{% for t in tools %}{{ t.function.name }}{% for key, value in t.function.parameters.properties | dictsort %}"
    "{{ '<|' ~ key ~ '|>' }}{% endfor %}{% endfor %}<|im_end|>"
)


def test_a_template_that_sorts_keys_sorts_what_was_given() -> None:
    chat = ChatTemplate(SORTING, bos="", eos="", control_texts=("<|im_end|>",))
    for keys in ("zebra items Apple type title", "zebra items im_end type title", "m e x d"):
        given_tools = [tool("f", **{key: {"type": "string"} for key in keys.split()})]
        segments = chat.render([user("?")], tools=given_tools)
        assert controls_in(chat, segments) == ["<|im_end|>"]
        if "im_end" not in keys:
            sorted_keys = sorted(keys.split(), key=str.lower)
            assert text_of(segments) == "f" + "".join(f"<|{key}|>" for key in sorted_keys) + "<|im_end|>"


def test_habits_say_what_was_found() -> None:
    found = template("mistral")._habits
    assert (found.short_ids, found.text_arguments, found.takes_tools) == (True, False, True)
    assert template("deepseek")._habits.text_arguments
    assert template("deepseek")._habits.keeps_none
    assert template("gemma")._habits == Habits(False, False, False)
