"""A chat template writes here what it writes for its maker's own tools, but for what is refused on purpose."""

# ruff: noqa: E501  (templates are easier to read on one line)

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import plain_jinja
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aded_local.chat.bounds import TooMuch
from aded_local.chat.rendering import Renderer
from aded_local.chat.sandbox import Sandbox

UNHURRIED = 60.0
"""Seconds for a rendering: a garbage collection of this whole process's tests counts, too."""

SHARED = Path(__file__).parents[2] / "shared"

TURN = "<|{{ m.role }}|>{{ m.content }}<|end|>"
OURS = {
    "marks what is learnt": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "marks what is learnt, on lines of its own": "{% for m in messages %}\n  {% generation %}\n  {{ m.content }}\n  {% endgeneration %}\n{% endfor %}\n",
    "marks with white space control": "{%- for m in messages %} {%- generation -%} {{ m.content }} {%- endgeneration -%} {% endfor -%}",
    "sets inside a mark": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "loops inside a mark": "{% for m in messages %}{% generation %}{% for c in m.content %}{{ loop.index }}{{ c }}{% endfor %}{{ loop.index }}{% endgeneration %}{% endfor %}",
    "marks in a mark": "{% generation %}a{% generation %}{{ messages|length }}{% endgeneration %}b{% endgeneration %}",
    "format": "{% for m in messages %}{{ '<{}|{:>12}|{0!r:.20}'.replace('{0', '{').format(m.role, m.role, m.content) }}{% endfor %}",
    "numbered format": "{{ '{1}{0}{1:^9}{2:05.1f}{3:,}{{}}'.format('a', 'b', 2.25, 12345) }}",
    "named format": "{{ '{role}: {content}'.format(**messages[0]) }}{{ '{role:_<9}'.format_map(messages[0]) }}",
    "a format of its own width": "{{ '{:>{}}'.format('a', 12) }}",
    "format of escaped text": "{{ ('<{}>'|safe).format('<b>') }}{{ ('%s'|safe) % '<b>' }}",
    "%": "{% for m in messages %}{{ '%s-%-12s-%.3s' % (m.role, m.role, m.content) }}{{ '%s' % m.content }}{% endfor %}{{ '%(a)s%(b)05d%%' % {'a': 1, 'b': 2} }}{{ '%x %+.2f %e %c' % (255, 1.5, 1.5, 'z') }}",
    "% of things": "{{ '%s %r' % (messages, messages) }}{{ '%s' % nothing }}",
    "% too few": "{{ '%s %s' % ('a',) }}",
    "% too many": "{{ '%s' % ('a', 'b') }}",
    "% of the wrong kind": "{{ '%d' % 'a' }}",
    "format filter": "{{ '%s, %s' | format(messages[0].role, 'b') }}{{ '%(a)s' | format(a=1) }}",
    "formats too little": "{{ '{} {}'.format(1) }}",
    "formats badly": "{{ '{'.format(1) }}",
    "a role that is refused": "{% for m in messages %}{% if m.role == 'system' and loop.index0 %}{{ raise_exception('no ' ~ m.role) }}{% endif %}{{ m.content }}{% endfor %}",
    "macros": "{% macro turn(m, end='<|end|>') %}<|{{ m.role }}|>{{ m.content|trim }}{{ end }}{{ caller() if caller else '' }}{% endmacro %}{% for m in messages %}{{ turn(m) }}{% call turn(m, end='') %}!{% endcall %}{% endfor %}",
    "namespace": "{% set n = namespace(i=0, system='') %}{% for m in messages %}{% if m.role == 'system' %}{% set n.system = n.system ~ m.content %}{% else %}{% set n.i = n.i + 1 %}{{ n.i }}{{ m.content }}{% endif %}{% endfor %}{{ n.system }}",
    "loop controls": "{% for m in messages[::-1] %}{% if m.role == 'assistant' %}{% continue %}{% endif %}{{ m.content }}{% if loop.index > 3 %}{% break %}{% endif %}{% endfor %}",
    "loop variables": "{% for m in messages %}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex0 }}{{ loop.previtem.role if loop.previtem is defined }}{{ loop.nextitem.role }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{% else %}none{% endfor %}",
    "loop with a condition": "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% else %}none{% endfor %}",
    "recursive loop": "{% for a in [[1, [2, 3]], [4]] recursive %}{% if a is iterable %}[{{ loop(a) }}]{% else %}{{ a }}{% endif %}{% endfor %}",
    "loop over a dict": "{% for k, v in messages[0].items() %}{{ k }}={{ v }}{% endfor %}{% for k in messages[0] %}{{ k }}{% endfor %}{% for k, v in messages[0]|dictsort(reverse=true) %}{{ k }}{% endfor %}",
    "tojson": "{{ messages|tojson }}{{ messages|tojson(indent=4) }}{{ {'b': [1, 2.5, none, true], 'a': '<é>'}|tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}",
    "written out": "{{ messages }}{{ messages[0] }}{{ [1, 'a', none, 2.5, true] }}{{ ('a',) }}{{ {'a': [1]} }}{{ none }}{{ nothing }}",
    "filters of text": "{% for m in messages %}{% set c = m.content %}{{ c|upper }}{{ c|lower }}{{ c|title }}{{ c|capitalize }}{{ c|trim }}{{ c|length }}{{ c|wordcount }}{{ c|reverse }}{{ c|first }}{{ c|last }}{{ c|truncate(20, true, '…') }}{{ c|center(30) }}{{ c|striptags }}{{ c|escape }}{{ c|urlencode }}{{ c|wordwrap(30) }}{{ c|string }}{{ c|replace('e', 'EE') }}{{ c|replace('o', '', 1) }}{{ c|replace(new='x', old='') }}{% endfor %}",
    "indent": "{% for m in messages %}{{ m.content|indent }}{{ m.content|indent(2, true) }}{{ m.content|indent('> ', blank=true) }}{{ m.content|indent(width=1, first=true, blank=true) }}{% endfor %}",
    "filters of lists": "{{ messages|map(attribute='role')|join(', ') }}{{ messages|join('|', attribute='content') }}{{ messages|map('length')|sum }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ messages|rejectattr('role', 'in', ['user'])|map(attribute='role')|unique|list }}{{ messages|groupby('role')|length }}{{ messages|map(attribute='content')|map('trim')|select|list }}{{ range(7)|batch(3, 'x')|list }}{{ range(7)|slice(3)|list }}{{ [3, 1, 2]|sort }}{{ [3, 1, 2]|max }}{{ [[1], [2]]|sum(start=[]) }}{{ 'abc'|list }}{{ messages[0]|items|list }}",
    "filters of numbers": "{{ 2.567|round(1) }}{{ 1234|round(-2) }}{{ 2.5|round(method='floor') }}{{ '12'|int + '3'|float }}{{ -3|abs }}{{ 'ff'|int(base=16) }}{{ 12345|filesizeformat }}",
    "defaults": "{{ nothing|default('a') }}{{ ''|default('b', true) }}{{ (nothing or 'c') }}{{ nothing is defined }}{{ tools is none }}{{ 'd' if not tools }}",
    "tests": "{% for m in messages %}{{ m is mapping }}{{ m.content is string }}{{ m.role is in ['user'] }}{{ m.content is iterable }}{{ m.name is undefined }}{{ loop.index is odd }}{{ m.content is sequence }}{{ 3 is divisibleby 3 }}{{ m.content is eq 'Hello' }}{{ true is boolean }}{{ 1 is number }}{% endfor %}",
    "methods of text": "{% for m in messages %}{% set c = m.content %}{{ c.strip() }}{{ c.lstrip('\n') }}{{ c.split('</think>')[-1] }}{{ c.split() }}{{ c.startswith('a') }}{{ c.upper() }}{{ c.replace('e', 'EE', 1) }}{{ c.find('l') }}{{ ', '.join(c) }}{{ c.ljust(9) }}{{ c.zfill(3) }}{{ c.center(9, '*') }}{{ c.expandtabs(2) }}{{ c.splitlines() }}{{ c.partition(' ') }}{{ c.title() }}{{ c.removeprefix('H') }}{{ c.isdigit() }}{{ c.count('o') }}{% endfor %}",
    "methods that fail": "{{ 'a'.replace(1, 2) }}",
    "more methods that fail": "{{ ', '.join(1) }}",
    "slices": "{{ messages[0].content[1:3] }}{{ messages[-1].content[::-1] }}{{ messages[1:]|length }}{{ messages[:-1]|length }}",
    "sums": "{{ 7 // 2 + 7 % 2 - 1 * 3 }}{{ 2 ** 8 }}{{ 'ab' * 3 }}{{ [1] + [2] }}{{ 'a' ~ 1 ~ none ~ [2] ~ 2.5 }}{{ (1, 2) + (3,) }}{{ 7 / 2 }}{{ -7 // 2 }}{{ [0] * 3 }}",
    "blocks": "{% set x %}{% for m in messages %}{{ m.content }} {% endfor %}{% endset %}{{ x|trim }}{% filter upper %}{{ x }}{% endfilter %}{% with y = 3 %}{{ y }}{% endwith %}{% raw %}{{ raw }}{% endraw %}{# gone #}",
    "white space": "{% for m in messages %}\n    {% if m.role == 'user' %}\n    {{- m.content -}}\n    {% else %}\n    {{ m.content }}\n    {% endif %}\n{% endfor %}\n\n",
    "escaped text": "{{ '<a>'|safe ~ '<b>' }}{{ ('<a>'|safe) + '<b>' }}{{ '<a>'|e }}{% autoescape true %}{{ messages[0].content }}{{ '<i>'|safe }}{% endautoescape %}",
    "dates": "{{ strftime_now('%Y')|int > 2000 }}{{ strftime_now('%-d. %B, 0:00')|length > 9 }}",
    "cycler and joiner": "{% set c = cycler('a', 'b') %}{% set j = joiner(', ') %}{% for m in messages %}{{ j() }}{{ c.next() }}{% endfor %}",
    "dict": "{{ dict(a=1, **messages[0]) }}{{ dict(messages[0], role='x').role }}{{ messages[0].get('name', 'no') }}{{ 'role' in messages[0] }}",
    "no such thing": "{{ nothing.at.all }}",
    "no such filter": "{{ 1|nothing }}",
    "no such method": "{{ 'a'.nothing() }}",
    "changes a message": "{% for m in messages %}{{ m.update({'role': 'x'}) }}{% endfor %}",
}
"""Written for these tests, of what public templates are made of."""


def outcome(render: Any, variables: dict[str, Any]) -> str | None:
    """What is written; None where the conversation is refused."""
    try:
        return str(render(copy.deepcopy(variables)))
    except TooMuch:
        raise
    except Exception:
        return None


def both(source: str, variables: dict[str, Any]) -> tuple[str | None, str | None]:
    sandbox, plain = Sandbox(UNHURRIED), plain_jinja.environment()
    ours = outcome(lambda given: sandbox.render_within_bounds(sandbox.from_string(source), given), variables)
    return ours, outcome(lambda given: plain.from_string(source).render(**given), variables)


@pytest.mark.parametrize("name", OURS)
def test_a_template_writes_what_plain_jinja_writes(name: str) -> None:
    sandbox, plain = Sandbox(UNHURRIED), plain_jinja.environment()
    for shape, variables in plain_jinja.conversations():
        ours = outcome(
            lambda given: sandbox.render_within_bounds(sandbox.from_string(OURS[name]), given), variables
        )
        theirs = outcome(lambda given: plain.from_string(OURS[name]).render(**given), variables)
        assert ours == theirs, shape


def test_a_process_writes_the_same() -> None:
    renderer = Renderer(OURS["filters of text"])
    sandbox = Sandbox(UNHURRIED)
    template = sandbox.from_string(OURS["filters of text"])
    for shape, variables in plain_jinja.conversations():
        assert renderer.render(variables) == sandbox.render_within_bounds(template, variables), shape
    renderer.close()


TEMPLATES = sorted((SHARED / "templates").glob("*.jinja"))


@pytest.mark.skipif(not TEMPLATES, reason="there are no public templates in ../shared/templates")
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_public_template_writes_what_plain_jinja_writes(path: Path) -> None:
    source = path.read_bytes().decode()
    for shape, variables in plain_jinja.conversations():
        ours, theirs = both(source, variables)
        assert ours == theirs, shape


# --- formats, whatever they are ------------------------------------------------------------------------

VALUES = st.one_of(
    st.text(max_size=5),
    st.integers(-(10**6), 10**6),
    st.floats(-1e6, 1e6),
    st.none(),
    st.booleans(),
    st.just([1, "a"]),
)
SPECS = st.text("<>^=+- #0,_.123456789sdxXobeEfFgGnc%", max_size=6)


@given(
    parts=st.lists(
        st.tuples(st.sampled_from(["", "0", "1", "a"]), st.sampled_from(["", "!r", "!s"]), SPECS), max_size=3
    ),
    values=st.lists(VALUES, max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_format_is_pythons_or_is_refused(parts: list[tuple[str, str, str]], values: list[Any]) -> None:
    text = "-".join(f"{{{name}{conversion}:{spec}}}" for name, conversion, spec in parts)
    variables = {"text": text, "values": values}
    source = "{{ text.format(*values, a=1) }}"
    try:
        ours, theirs = both(source, variables)
    except TooMuch:
        return
    assert ours == theirs


@given(
    text=st.lists(
        st.one_of(
            st.sampled_from(
                [
                    "%s",
                    "%r",
                    "%d",
                    "%5.2f",
                    "%%",
                    "%c",
                    "%x",
                    "%(a)s",
                    "%-3s",
                    "%+d",
                    "%03d",
                    "%.1s",
                    "%",
                    "ab",
                ]
            ),
            st.text("%sd()a*.0123456789#-+ lhL", max_size=5),
        ),
        max_size=3,
    ).map("".join),
    values=st.one_of(VALUES, st.lists(VALUES, max_size=3).map(tuple), st.just({"a": 1})),
)
@settings(max_examples=200, deadline=None)
def test_percent_is_pythons_or_is_refused(text: str, values: Any) -> None:
    try:
        ours, theirs = both("{{ text % values }}", {"text": text, "values": values})
    except TooMuch:
        return
    assert ours == theirs
