"""What a person is shown of others' text holds nothing that a terminal obeys."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pandas
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from aded_bench.main import main as bench
from aded_bench.options import note, say
from aded_bench.tables import console, literal, show
from aded_local import shown
from aded_local.llama import logs
from aded_local.shown import json_text, one_line, visible

BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
OBEYED = [chr(code) for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"] + list(BIDI)
SURROGATES = [chr(code) for code in (0xD800, 0xDBFF, 0xDC80, 0xDFFF)]

any_text = st.text(st.one_of(st.characters(), st.sampled_from(OBEYED + SURROGATES)), max_size=40)
ordinary_text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters=OBEYED), max_size=40)


@given(any_text)
def test_nothing_that_a_terminal_obeys_is_left_and_all_of_it_can_be_written(text: str) -> None:
    shown = visible(text)
    assert not set(shown) & set(OBEYED)
    assert all(unicodedata.category(c) not in ("Cc", "Cs") or c in "\t\n" for c in shown)
    shown.encode("utf-8")
    assert visible(shown) == shown


@given(ordinary_text)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "tab\tand line\nfeed",
        "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER} ❤\N{VARIATION SELECTOR-16}",
        "می\N{ZERO WIDTH NON-JOINER}خواهم",
        "שלום (עולם)\N{RIGHT-TO-LEFT MARK}! \N{ARABIC LETTER MARK}مرحبا",
        "e\N{COMBINING ACUTE ACCENT} 漢字 \N{NO-BREAK SPACE}\N{SOFT HYPHEN}",
    ],
)
def test_scripts_and_emoji_are_unharmed(text: str) -> None:
    assert visible(text) == text


@given(any_text, any_text)
def test_pieces_are_shown_as_the_whole_would_be(first: str, second: str) -> None:
    assert visible(first) + visible(second) == visible(first + second)


@given(any_text)
def test_one_line_is_one(text: str) -> None:
    shown = one_line(text)
    assert shown == visible(shown)
    assert len(shown.splitlines()) <= 1 and "\t" not in shown


@given(any_text, st.sampled_from(["UTF-8", "utf8", "latin-1", None]))
def test_json_says_the_same_and_nothing_that_a_terminal_obeys(text: str, encoding: str | None) -> None:
    value = {"text": text, text: [1, None, text]}
    written = json_text(value, encoding)
    assert json.loads(written) == json.loads(json.dumps(value))
    assert visible(written) == written and "\n" not in written
    assert written.isascii() or encoding in ("UTF-8", "utf8")


def test_readable_characters_stay_readable_in_json() -> None:
    assert json_text({"text": "grüß\x9b\u202edich"}, "utf-8") == '{"text": "grüß\\u009b\\u202edich"}'


HOSTILE = "a\x1b]0;title\x07b\x9b31mc\u202ed\u2066\udcff\x7f"
SHOWN = "a]0;titleb31mcd?"


def test_what_the_bench_prints_is_shown_by_the_same_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = console()
    out.print(literal(HOSTILE))
    show(pandas.DataFrame({HOSTILE: [HOSTILE], "b": ["[\x1bbold]"]}), HOSTILE, caption=HOSTILE, console=out)
    note(HOSTILE)
    say(HOSTILE)
    shown = capsys.readouterr()
    assert shown.out.count(SHOWN) == 6 and shown.err == f"aded-bench: {SHOWN}\n"
    assert "[bold]" in shown.out
    assert visible(shown.out) == shown.out
    refused = CliRunner().invoke(bench, ["report", "no\x1b[31m\u202esuch.json", "-o", "out"])
    assert (refused.exit_code, visible(refused.stderr)) == (2, refused.stderr)
    assert "no[31msuch.json" in refused.stderr


def test_warnings_of_the_library_are_shown_by_the_same_rule() -> None:
    with pytest.warns(RuntimeWarning) as warned:
        shown.warn(HOSTILE)
    assert str(warned[0].message) == SHOWN


def test_llama_cpps_log_is_shown_by_the_same_rule(capsys: pytest.CaptureFixture[str]) -> None:
    logs.capture(verbose=True)
    try:
        logs._on_log(2, b"general.name = a\x1b]0;title\x07b\xc2\x9b31m\xe2\x80\xaec\n", None)
    finally:
        logs.capture(verbose=False)
    assert capsys.readouterr().err == "general.name = a]0;titleb31mc\n"


def test_a_warning_names_the_line_outside_the_package() -> None:
    inside = compile("warn('x\\x1b[2J')", shown.__file__, "exec")
    with pytest.warns(RuntimeWarning, match="^x.2J$") as told:
        exec(inside, {"warn": shown.warn})
    assert [each.filename for each in told] == [__file__]
