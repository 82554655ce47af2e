"""Whatever a chat template does, rendering it ends soon, in one line, and harms nobody."""

# ruff: noqa: E501  (templates are easier to read on one line)

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plain_jinja
import psutil
import pytest
import tiny_models
from patience import becomes, until

from aded_local import LocalADED
from aded_local.chat import rendering
from aded_local.chat import template as messages
from aded_local.chat.rendering import Renderer, read_template
from aded_local.errors import ModelNotFoundError, OptionError, TemplateError, TemplateLimitError
from aded_local.llama.gguf import read_header
from aded_models import builtin_path, find
from aded_models.builtin import draft_path

HI = plain_jinja.variables([plain_jinja.user("hi")], True)
MEGABYTE = 1 << 20
ECHO = "{{ messages[0].content }}"


def twice(name: str, times: int, what: str, after: str = "") -> str:
    """A template that does something to a value again and again."""
    start = {"text": "'ab'", "list": "['a']", "number": "[0]", "dict": "{'a': 1}"}[name]
    loop = f"{{% for i in range({times}) %}}{{% set n.x = {what} %}}{{% endfor %}}"
    return f"{{% set n = namespace(x={start}) %}}{loop}{after}"


REFUSED = {
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attribute filter": "{{ ('' | attr('__class__')).mro() }}",
    "attribute by map": "{{ ['']|map(attribute='__class__')|map(attribute='mro')|first() }}",
    "attribute in a format": "{{ '{0.__class__}'.format('') }}",
    "item in a format": "{{ '{0[role]}'.format(messages[0]) }}",
    "attribute in a mapped format": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "attribute in a format by filter": "{{ ('{0.__class__}' | attr('format'))(1) }}",
    "formats a mapping wrongly": "{{ '{a}'.format_map() }}",
    "includes": "{% include '/etc/passwd' %}",
    "imports": "{% import 'os' as os %}",
    "no Jinja": "{% for %}",
    "open block": "{% generation %}{{ 1 }}",
    "division": "{{ 1 / 0 }}",
    "odd type": "{{ messages + 3 }}",
    "changes messages": "{{ messages.append(1) }}",
    "long complaint": "{{ raise_exception('a\n' * 1000000) }}",
    "random": "{{ [1, 2] | random }}",
}
"""Refused without having taken anything."""

BOUNDED = {
    "long loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "wide recursion": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "endless recursion of a loop": "{% for a in range(2) recursive %}{{ loop(range(9999)) }}{% endfor %}",
    "huge range": "{% for a in range(10**9) %}{% endfor %}",
    "huge list": "{{ range(10**9) | list }}",
    "list of lists": "{% for i in range(100000) %}{{ range(100000)|list }}{% endfor %}",
    "multiplied text": "{{ ('a' * 1000000000) | length }}",
    "multiplied list": "{{ ([0] * 1000000000) | length }}",
    "doubled by ~": twice("text", 60, "n.x ~ n.x"),
    "doubled by +": twice("text", 60, "n.x + n.x"),
    "doubled by join": twice("text", 60, "[n.x, n.x]|join"),
    "doubled by .join": twice("text", 60, "n.x.join(['a', 'b', 'c'])"),
    "doubled by replace": twice("text", 60, "n.x.replace('a', n.x)"),
    "doubled by replace filter": twice("text", 60, "n.x|replace(new=n.x, old='a')"),
    "doubled by format": twice("text", 60, "'{0}{0}'.format(n.x)"),
    "doubled by format_map": twice("text", 60, "'{a}{a}'.format_map({'a': n.x})"),
    "doubled by %": twice("text", 60, "'%s%s' % (n.x, n.x)"),
    "doubled by named %": twice("text", 60, "'%(a)s%(a)s' % {'a': n.x}"),
    "doubled by format filter": twice("text", 60, "'%s%s'|format(n.x, n.x)"),
    "doubled in a block": twice("text", 60, "n.x ~ y", "").replace(
        "{% set n.x", "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x"
    ),
    "doubled by filter blocks": twice("text", 60, "y").replace(
        "{% set n.x", "{% set y %}{% filter upper %}{{ n.x }}{{ n.x }}{% endfilter %}{% endset %}{% set n.x"
    ),
    "nested lists": twice("list", 60, "[n.x, n.x]", "{{ n.x }}"),
    "nested dicts": twice("dict", 60, "{'a': n.x, 'b': n.x}", "{{ n.x }}"),
    "dicts by dict()": twice("dict", 60, "dict(n.x, a=n.x, b=n.x)", "{{ n.x }}"),
    "nested by tojson": twice("list", 60, "[n.x] * 2", "{{ n.x|tojson }}"),
    "deep tojson": twice("list", 99999, "[n.x]", "{{ n.x|tojson }}"),
    "compared lists": "{% set n = namespace(x=[0], y=[0]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
    "summed lists": "{{ ([range(1000)|list] * 10000) | sum(start=[]) }}",
    "padding": "{{ 'a'.ljust(1000000000) }}",
    "zeros": "{{ 'a'.zfill(1000000000) }}",
    "tabs": "{{ ('\t' * 10000).expandtabs(100000) }}",
    "centre": "{{ 'a' | center(1000000000) }}",
    "indent": "{{ ('a\n' * 10000)|indent(1000000) }}",
    "batch": "{{ [1]|batch(1000000000, 'x')|list }}",
    "named batch": "{{ [1]|batch(linecount=1000000000, fill_with='x')|list }}",
    "slice": "{{ [1]|slice(1000000000)|list }}",
    "%": "{{ '%1000000000d' % 1 }}",
    "% precision": "{{ '%.1000000000f' % 1 }}",
    "% of a computed width": "{{ '%*d' % (1000000000, 1) }}",
    "% after an odd name": "{{ '%(a(b)c)1000000000d' % {'a(b)c': 1} }}",
    "format filter": "{{ '%1000000000s' | format('a') }}",
    "format": "{{ '{:>1000000000}'.format(1) }}",
    "format precision": "{{ '{:.1000000000f}'.format(1.0) }}",
    "format of a computed width": "{{ '{:{}}'.format(1, 1000000000) }}",
    "format of a width in other digits": "{{ '{:>\u0661\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660}'.format(1) }}",
    "format of escaped text": "{{ ('{:>1000000000}'|safe).format(1) }}",
    "powers": "{{ 9 ** 9 ** 9 }}",
    "rounded": "{{ 12|round(-10**9) }}",
    "rounded the other way": "{{ 12|round(10**9, 'floor') }}",
    "large numbers": twice("number", 60, "[n.x[0] * 2 + 10**1000, n.x[0] * 10**1000]", "{{ n.x }}"),
    "number of many digits": "{{ ('f' * 4000000)|int(base=16) }}",
    "endless output": "{% for a in range(99999) %}{% for b in range(9) %}{{ 'abcdefghij' * 1000 }}{% endfor %}{% endfor %}",
    "long date": "{{ strftime_now('%9999999d') }}",
    "bytes": "{{ 'a'.encode().ljust(8*10**9) }}",
    "bytes of a number": "{{ (1).to_bytes(4*10**9, 'big') }}",
    "punycode": "{{ ('a'*1000000).encode().decode('punycode') }}",
    "translated": "{{ 'aaaa'.translate({97: 'b' * 10000000}) }}",
}
"""Bounded by the sandbox, which says what was too much."""

FENCED = {
    "large text in a loop": "{% for i in range(100000) %}{% if ('a'*16000000)|upper == 'b' %}{% endif %}{% endfor %}",
    "the same unrolled": "{% if ('a'*16000000)|upper == 'b' %}{% endif %}" * 300,
    "slices in a loop": "{% set n = namespace(x='a'*16000000) %}{% for i in range(99999) %}{% set n.x = n.x[1:] %}{% endfor %}",
    "searching in a loop": "{% set a = 'a'*16000000 %}{% for i in range(99999) %}{% if 'b' in a %}{% endif %}{% endfor %}",
    "sorted text": "{{ ('ba'*8000000)|sort|length }}",
    "split text": "{{ ('a '*8000000).split(' ')|length }}",
    "words": "{{ ('ab '*5000000)|wordcount }}" * 9,
    "tags": "{{ ('<!--'*4000000)|striptags|length }}" * 9,
    "wrapped": "{{ ('ab '*5000000)|wordwrap(2)|length }}",
}
"""What only the process around it ends, or what it ends sooner."""

COMPILED = {
    "deep": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "very deep": "{{ " + "[" * 200000 + "1" + "]" * 200000 + " }}",
    "nested blocks": "{% if 1 %}" * 50000 + "{% endif %}" * 50000,
    "long sum": "{{ 1" + "+1" * 200000 + " }}",
    "long chain": "{{ a" + ".a" * 200000 + " }}",
    "many outputs": "{{ a }}" * 140000,
    "many raw blocks": "{% raw %}" * 100000,
    "spaces": ("{%" + " " * 1000) * 1000,
}
"""Ended while they are compiled."""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less time than outside tests: what takes too long does so sooner."""
    monkeypatch.setattr(rendering, "SECONDS", 0.05)
    monkeypatch.setattr(rendering, "MORE_SECONDS", 0.05)
    monkeypatch.setattr(rendering, "COMPILING_SECONDS", 0.2)


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)


def ends_in_one_line(source: str, kind: type[TemplateError] = TemplateError) -> Renderer:
    """Compiling and rendering it ends in an error of that kind."""
    renderer = Renderer(source)
    with pytest.raises(kind) as caught:
        renderer.render(HI)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 500
    return renderer


def pid_of(renderer: Renderer) -> int:
    assert renderer._child is not None
    return renderer._child._process.pid


def peak_of(renderer: Renderer) -> int:
    """Bytes its process has taken at most."""
    status = Path(f"/proc/{pid_of(renderer)}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def is_there(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def gone(pid: int) -> bool:
    """Whether a process ends before long."""
    return becomes(lambda: not is_there(pid))


# --- hostile templates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_template_may_not_do_is_refused_in_one_line(name: str, no_process: None) -> None:
    ends_in_one_line(REFUSED[name])


@pytest.mark.parametrize("name", BOUNDED)
def test_what_is_too_much_is_refused_before_it_is_made(name: str, no_process: None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering.Sandbox.__init__, "__defaults__", (0.1,))
        ends_in_one_line(BOUNDED[name])


@pytest.mark.parametrize("name", FENCED)
def test_a_template_that_passes_the_sandboxs_bounds_is_stopped(name: str, short: None) -> None:
    renderer = ends_in_one_line(FENCED[name], TemplateLimitError)
    if renderer._child is not None and sys.platform == "linux":
        assert peak_of(renderer) < 500 * MEGABYTE
    renderer.close()


@pytest.mark.parametrize("name", COMPILED)
def test_a_template_that_is_endless_to_compile_is_stopped(name: str, short: None) -> None:
    ends_in_one_line(COMPILED[name])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux refuses memory")
def test_more_memory_than_it_may_have_is_refused_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("SECONDS", "COMPILING_SECONDS"):
        # A slow machine writes so much in more than the usual second.
        monkeypatch.setattr(rendering, limit, 60.0)
    renderer = Renderer("".join(f"{{% set a{i} = '\U0001f642' * 16000000 %}}" for i in range(8)) + ECHO)
    with pytest.raises(TemplateLimitError, match="memory"):
        renderer.render(HI)
    assert peak_of(renderer) < 500 * MEGABYTE
    renderer.close()


def test_where_the_system_does_not_bind_memory_this_process_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    look = psutil.Process.memory_info

    def swollen(process: psutil.Process) -> Any:
        return look(process)._replace(rss=rendering.CHILD_MEMORY + 1)

    renderer = Renderer(FENCED["wrapped"])
    renderer.compile()
    monkeypatch.setattr(psutil.Process, "memory_info", swollen)
    with pytest.raises(TemplateLimitError, match="memory"):
        renderer.render(HI)
    renderer.close()


def test_a_limit_is_no_reason_to_try_again_without_the_system_prompt(short: None) -> None:
    template = messages.ChatTemplate(BOUNDED["long loop"], bos="", eos="", control_texts=())
    asked: list[int] = []
    render = template._renderer.render
    template._renderer.render = lambda given: (asked.append(1), render(given))[1]  # type: ignore[method-assign]
    with pytest.raises(TemplateLimitError):
        template.render([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
    assert len(asked) == 1
    template.close()


# --- the process ---------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[Renderer]:
    renderer = Renderer(ECHO)
    yield renderer
    renderer.close()


def said(text: str) -> dict[str, Any]:
    return plain_jinja.variables([plain_jinja.user(text)], True)


def test_a_process_renders_as_this_one_would(echo: Renderer) -> None:
    for text in ("", "é 🙂 \x00 \u2028\r\n", "\ud800 alone", "long " * 50_000):
        assert echo.render(said(text)) == text
    assert echo._compiled is None


def test_a_template_that_was_stopped_can_be_asked_again(short: None) -> None:
    renderer = Renderer(
        "{% if messages[0].content == 'x' %}{{ ('a b '*4000000)|wordwrap(2) }}{% endif %}" + ECHO
    )
    assert renderer.render(said("a")) == "a"
    first = pid_of(renderer)
    with pytest.raises(TemplateLimitError):
        renderer.render(said("x"))
    assert gone(first)
    assert renderer.render(said("b")) == "b"
    renderer.close()


def test_a_refusal_costs_no_process(echo: Renderer) -> None:
    echo.compile()
    before = pid_of(echo)
    with pytest.raises(TemplateError, match="refused"):
        echo.render({"messages": [1]} | {"messages": None})
    assert echo.render(said("a")) == "a" and pid_of(echo) == before


def test_a_process_that_died_meanwhile_is_replaced(echo: Renderer) -> None:
    echo.compile()
    child = echo._child
    assert child is not None
    os.kill(pid_of(echo), signal.SIGKILL)
    until(lambda: not child.is_ours_and_alive)
    assert echo.render(said("a")) == "a"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_template_that_ends_its_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        rendering,
        "_SERVE",
        rendering._SERVE.replace(
            "; rendering_child.serve",
            "; import os, signal; rendering_child.Sandbox.render_within_bounds = lambda *a: os.kill(os.getpid(), signal.SIGSEGV)"
            "; rendering_child.serve",
        ),
    )
    ends_in_one_line(ECHO, TemplateLimitError).close()
    with pytest.raises(TemplateLimitError, match="SIGSEGV"):
        Renderer(ECHO).render(HI)


def test_the_process_ends_when_closed_or_dropped() -> None:
    for close in (Renderer.close, lambda renderer: None):
        renderer = Renderer(ECHO)
        renderer.compile()
        pid = pid_of(renderer)
        close(renderer)
        del renderer
        gc.collect()
        assert not psutil.pid_exists(pid), "not even a zombie is left"


def run_program(source: str) -> subprocess.Popen[str]:
    begin = "import sys, os, time, threading\nfrom aded_local.chat import rendering\nfrom aded_local.chat.rendering import Renderer\n"
    return subprocess.Popen(
        [sys.executable, "-c", begin + textwrap.dedent(source)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("at_work", [False, True])
def test_the_process_ends_with_a_parent_that_is_killed(at_work: bool) -> None:
    program = run_program(
        f"""
        rendering.SECONDS, rendering.CHILD_PATIENCE, rendering.MORE_SECONDS = 60, 0.5, 0.1
        renderer = Renderer("{{% for i in range(100) %}}{{{{ ('ab '*5000000)|wordwrap(2) }}}}{{% endfor %}}")
        renderer.compile()
        if {at_work}: threading.Thread(target=renderer.render, args=({{}},), daemon=True).start()
        print(renderer._child._process.pid, flush=True)
        time.sleep(60)
        """
    )
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    program.kill()
    program.communicate()
    assert gone(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_in_the_terminal_does_not_reach_the_process(echo: Renderer) -> None:
    assert echo.render(said("a")) == "a"
    pid = pid_of(echo)
    assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pid, signal.SIGINT)
    assert echo.render(said("b")) == "b" and pid_of(echo) == pid


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_while_it_renders_takes_effect_and_the_next_answer_is_the_next_ones() -> None:
    renderer = Renderer(
        "{% if messages[0].content == 'x' %}{{ ('ab '*5000000)|wordwrap(2)|length }}{% endif %}" + ECHO
    )
    assert renderer.render(said("a")) == "a"
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        renderer.render(said("x"))
    assert renderer.render(said("b")) == "b"
    renderer.close()


def test_threads_take_turns(echo: Renderer) -> None:
    wrong: list[str] = []

    def ask(name: str) -> None:
        wrong.extend(name for _ in range(20) if echo.render(said(name)) != name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("a", "b" * 100_000, "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_a_process_of_its_own(echo: Renderer) -> None:
    assert echo.render(said("a")) == "a"
    before = pid_of(echo)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            fine = echo.render(said("b")) == "b" and pid_of(echo) != before
            echo.close()
            os._exit(0 if fine else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert echo.render(said("c")) == "c" and pid_of(echo) == before


@pytest.mark.parametrize("why", ["no interpreter", "frozen", "it cannot be started", "it dies at once"])
def test_without_a_process_templates_are_rendered_here(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "no interpreter":
        monkeypatch.setattr(sys, "executable", "")
    elif why == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    elif why == "it cannot be started":
        monkeypatch.setattr(sys, "executable", "/no/such/python")
    else:
        monkeypatch.setattr(rendering, "_SERVE", "raise SystemExit(3)")
    renderer = Renderer(ECHO)
    renderer.compile()
    assert renderer.render(said("a")) == "a"
    assert renderer._child is None
    ends_in_one_line("{% for %}")
    ends_in_one_line(BOUNDED["powers"], TemplateLimitError)


def test_modules_in_the_users_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "jinja2", "faulthandler", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    renderer = Renderer(ECHO)
    assert renderer.render(said("a")) == "a"
    assert renderer._child is not None
    renderer.close()


def test_the_process_loads_nothing_heavy(echo: Renderer) -> None:
    echo.compile()
    if sys.platform == "linux":
        mapped = Path(f"/proc/{pid_of(echo)}/maps").read_text()
        assert not any(name in mapped for name in ("numpy", "llvmlite", "llama"))
    assert psutil.Process(pid_of(echo)).memory_info().rss < 60 * MEGABYTE


def test_a_model_is_closed_with_its_process(tiny: dict[str, Path]) -> None:
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, draft="off", chat_template=ECHO) as llm:
        assert llm.count_chat_tokens([plain_jinja.user("hi")])
        assert llm._engine._template is not None
        pid = pid_of(llm._engine._template._renderer)
        assert is_there(pid)
    assert not psutil.pid_exists(pid)


# --- templates that are known --------------------------------------------------------------------------


def test_the_templates_of_our_own_models_are_known_and_need_no_process() -> None:
    paths = [builtin_path(), draft_path()]
    with contextlib.suppress(ModelNotFoundError):
        paths.append(find("smollm2").path)
    known = {messages.CHATML, *(read_header(path).chat_template or "" for path in paths)}
    assert {hashlib.sha256(source.encode()).hexdigest() for source in known} <= rendering.VOUCHED
    for source in known:
        for renderer in (Renderer(source), Renderer("{{ 1 }}", source)):
            assert renderer.render(HI)
            assert renderer._child is None


def test_smollm2s_prompts_are_the_same_through_a_process() -> None:
    try:
        path = find("smollm2").path
    except ModelNotFoundError:
        pytest.skip("SmolLM2 is not installed")
    source = read_header(path).chat_template or ""
    prompts: list[list[list[int]]] = []
    for given in (None, source + "{# not known #}"):
        with LocalADED(path, n_ctx=256, n_threads=1, draft="off", chat_template=given) as llm:
            prompts.append([llm.chat_tokens(said) for said, _ in plain_jinja.SHAPES.values()])
            assert llm._engine._template is not None
            assert (llm._engine._template._renderer._child is None) == (given is None)
    assert prompts[0] == prompts[1]


# --- templates that somebody chose ---------------------------------------------------------------------


def test_a_template_is_its_text_or_the_path_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "é.jinja"
    file.write_bytes(b"\xef\xbb\xbf" + "ü {{ 1 }}\r\n".encode())
    assert read_template("ü {{ 1 }}") == "ü {{ 1 }}"
    assert read_template(file) == "ü {{ 1 }}\r\n"


def a_pipe(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: path.write_bytes(b"{{ \xff }}"), "UTF-8"),
        (lambda path: path.write_bytes(b"{{ 1 }}" * 200_000), "characters"),
        (lambda path: path.write_bytes("{{ é }}".encode() * 2_000_000), "characters"),
        (lambda path: path.write_bytes(b"plain text"), "no Jinja"),
        (lambda path: path.write_bytes(b""), "no Jinja"),
        (a_pipe, "characters"),
    ],
)
def test_a_file_that_is_no_template_is_refused_in_one_line(
    make: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jinja"
    make(path)
    with pytest.raises(OptionError, match=says) as caught:
        read_template(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["model.jinja", "", b"{{ 1 }}", 3])
def test_what_is_no_template_is_refused(given: Any) -> None:
    with pytest.raises(OptionError):
        read_template(given)


def test_a_template_given_takes_the_place_of_the_models(tiny: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "short.jinja"
    file.write_text("{{ messages[0].content }}!")
    for given in (file, file.read_text()):
        with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, draft="off", chat_template=given) as llm:
            told = llm.chat_tokens([plain_jinja.user("one two")])
            assert told[1:] == llm._model.tokenize("one two!", add_special=False, parse_special=True)
            assert tiny_models.USER not in told


def test_a_template_given_is_read_before_the_model() -> None:
    with pytest.raises(OptionError, match="chat template"):
        LocalADED("no such model", chat_template=Path("no such file"))
