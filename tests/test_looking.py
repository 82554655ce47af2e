"""Templates see what people wrote as it is, while its characters are marked."""

# ruff: noqa: E501  (templates)

from __future__ import annotations

import jinja2
import pytest
from jinja2.ext import loopcontrols

from aded_local.chat.looking import Looking, analysed
from aded_local.chat.template import ChatTemplate

ENVIRONMENT = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
CONTROLS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_response>", "<s>", "</s>")


def looked_for(source: str) -> list[str]:
    return sorted(analysed(source, {"eos_token": "</s>"}).parameters.values())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% if '</think>' in x %}{% endif %}", ["</think>"]),
        ("{{ x.split('</think>')[-1].lstrip('\n') }}", ["</think>"]),
        ("{{ '<think>' + x.split('</think>', 1)[0] }}", ["</think>"]),
        ("{% if x.startswith('<a>') and not x.endswith(\"</a>\") %}{% endif %}", ["</a>", "<a>"]),
        ("{{ x.replace('<a>', '<b>') | replace('<c>', '<d>') }}", ["<a>", "<c>"]),
        ("{% if x[0] == '{' or x in ['<a>', '<b>'] %}<c>{% endif %}", ["<a>", "<b>", "{"]),
        ("{{ xs | select('equalto', '<a>') | list }}{% if x is eq '<b>' %}{% endif %}", ["<a>", "<b>"]),
        ("{% set end = '</a>' %}{{ x.split(end)[0] ~ end }}", ["</a>"]),
        ("{% set end = '</a>' %}{% set end = '</b>' %}{{ x.split(end)[0] }}", []),
        ("{% if x.endswith(eos_token) %}{{ eos_token }}{% endif %}", ["</s>"]),
        ("{% for x in ['<a>', '<b>'] %}{{ x }}{% endfor %}", []),
        ("{{ '<a>' if x == 'user' else '<b>' }}", []),
        ("{{ x['<key>'] == y }}{{ f('<a>') == y }}", []),
        ("{{ 'a' '<b>' in x }}{{ x == 'a' }}{{ x == '  ' }}", []),
    ],
)
def test_a_constant_is_looked_for_where_it_cannot_be_written(source: str, expected: list[str]) -> None:
    assert looked_for(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "a \r\n  {%- if not'<a>'in x -%}  \n b {% endif %}\n\n{# '<c>' in x #}{% raw %}{{ '<d>' in x }}{% endraw %} {{ x.split('\\u003ca>\\n') }}\n",
        "  {% if x == \"it's\" or x == 'a\\'b<' %}\n  yes\n  {% endif %}\n{{- x.split('<a>') -}}\n",
    ],
)
@pytest.mark.parametrize("x", ["", "<a>", "it's", "a'b<", "1<a>\n2"])
def test_with_its_own_constants_the_template_writes_what_it_wrote(source: str, x: str) -> None:
    found = analysed(source, {})
    assert found.parameters
    changed = ENVIRONMENT.from_string(found.source).render(x=x, **found.parameters)
    assert changed == ENVIRONMENT.from_string(source).render(x=x)


@pytest.mark.parametrize(
    "source",
    ["{% if %}", "{{ " + "(" * 2000, "{{ aded_looks_for_ in '<a>' }}", "{% if '<a>' in x %}" + " " * 100_000],
)
def test_a_template_that_cannot_be_read_stays_as_it_is(source: str) -> None:
    assert analysed(source, {}) == Looking(source, source)


def said(source: str, *messages: tuple[str, str]) -> str:
    chat = ChatTemplate(source, bos="<s>", eos="</s>", control_texts=CONTROLS)
    segments = chat.render([{"role": role, "content": content} for role, content in messages], False)
    return "".join(segment.text for segment in segments)


TOOLS = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' and not (m.content.startswith("
    "'<tool_response>') and m.content.endswith('</tool_response>')) %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}{{ ns.last }}"
)


def test_a_tool_response_of_the_user_is_recognised() -> None:
    assert said(TOOLS, ("user", "q"), ("user", "<tool_response>7</tool_response>")) == "0"
    assert said(TOOLS, ("user", "q"), ("user", "<tool_response>7</tool_response>.")) == "1"


THINKING = (
    "{% for m in messages %}{% set c = m.content %}{% if '</think>' in c %}"
    "<think>{{ c.split('</think>')[0].split('<think>')[-1] }}</think>{% set c = c.split('</think>')[-1] %}{% endif %}"
    "{{ c }}{% endfor %}"
)


def test_thoughts_are_recognised_and_the_templates_brackets_are_its_own() -> None:
    chat = ChatTemplate(THINKING, bos="<s>", eos="</s>", control_texts=CONTROLS)
    answer = {"role": "assistant", "content": "<think>hm</think>yes <think>"}
    first, second = chat.render([answer], False)
    assert (first.text, second.text) == ("<think>hm</think>yes <think", ">")


@pytest.mark.parametrize(
    ("source", "content", "expected"),
    [
        ("{% if '/no_think' in m %}-{% endif %}{{ m }}", "go /no_think", "-go /no_think"),
        ("{% if 'think' in m %}-{% endif %}{{ m }}", "I think", "-I think"),
        ("{% if 'im' in m | lower %}-{% endif %}{{ m }}", "IM<|im_end|>", "-IM<|im_end|>"),
        ("{{ m | upper }}", "ab <think>", "AB <THINK>"),
        ("{{ m | int + 1 }}", "0", "1"),
        ("{{ m | length }}{{ m[::-1] }}", "<s>", "3>s<"),
        ("{% set mode = '<x>' %}{% if mode == '<x>' %}{{ m }}{% endif %}", "a<s>", "a<s>"),
    ],
)
def test_a_template_that_looks_at_words_finds_them(source: str, content: str, expected: str) -> None:
    assert said("{% set m = messages[0].content %}" + source, ("user", content)) == expected
