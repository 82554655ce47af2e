"""Markdown on a terminal: it looks the same however it came, nothing is lost, and finished lines stay."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if sys.platform == "win32":
    pytest.skip("pseudo-terminals of POSIX", allow_module_level=True)

import pyte
from terminals import PlainScreen, lines_of, screen_after

from aded_cli.rendering import live, markdown, prose
from aded_cli.rendering.code import MOST_LINES, Highlighter
from aded_cli.rendering.flow import laid_out
from aded_cli.rendering.inline import inline
from aded_cli.rendering.markdown import MarkdownStream
from aded_cli.rendering.styles import BOLD, CODE, ITALIC, LINK, PLAIN, STRIKE
from aded_cli.rendering.tables import fitted
from aded_cli.rendering.widths import width


class Terminal:
    """A stream to a terminal of a given size, which shows what it is sent."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self.screen = PlainScreen(columns, rows, history=100_000, ratio=1.0)
        self._stream = pyte.Stream(self.screen)
        self.sent = ""

    def write(self, text: str) -> int:
        self.sent += text
        self._stream.feed(text.replace("\n", "\r\n"))
        return len(text)

    def flush(self) -> None:
        pass

    def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.screen.resize(rows, columns)

    def lines(self) -> list[str]:
        return lines_of(self.screen)

    def cells(self) -> list[list[Any]]:
        return [[self.screen.buffer[y][x] for x in range(self.columns)] for y in range(self.rows)]


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    def terminal_size(stream: Any) -> tuple[int, int]:
        return stream.columns, stream.rows

    for module in (live, markdown, prose):
        monkeypatch.setattr(module, "terminal_size", terminal_size)


def shown(pieces: Iterable[str], columns: int = 80, rows: int = 60) -> Terminal:
    terminal = Terminal(columns, rows)
    stream = MarkdownStream(terminal)  # type: ignore[arg-type]
    for piece in pieces:
        stream.write(piece)
    stream.finish()
    return terminal


ANSWER = '''\
# A title

Some **bold text**, *italic*, `code`, a [link](https://example.org/x), __init__ and 2*3*4. This paragraph is
long enough that it takes several lines of the terminal, at whatever width that is, and **it ends in bold**

- first, with a text that is longer than the line of a narrow terminal and hangs below itself
- second
  - nested *item*
1. one
2. two

```python
def f(x):
    """Doc
    more"""
    return {"a": 1, 'b': x}  # a comment
```

| name | value |
|------|------:|
| a | 1 |
| longer name | 22,000 |

> quoted text
> and more of it

你好世界，这是一个很长的中文句子，需要在没有空格的地方换行，因为它比一行更长。

---
The end ✓ 😀 👩‍💻.
'''

FRAGMENTS = st.sampled_from(
    [
        "a",
        "word ",
        "word",
        " ",
        "\n",
        "\n\n",
        "**",
        "*",
        "`",
        "_",
        "~~",
        "```",
        "```python\n",
        "# ",
        "- ",
        "1. ",
        "> ",
        "| a | b |\n",
        "|---|---|\n",
        "|",
        "[x](http://y)",
        "[",
        "](",
        ")",
        "\\",
        "你好",
        "，",
        "😀",
        "---\n",
        "    ",
        "def f():",
        '"""',
        "<http://z>",
        "a long stretch of words that goes on and on",
    ]
)


@settings(max_examples=50, deadline=None)
@given(st.lists(FRAGMENTS, max_size=25), st.data())
def test_what_is_shown_does_not_depend_on_how_it_came(fragments: list[str], data: st.DataObject) -> None:
    text = "".join(fragments)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=20).map(sorted))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    columns = data.draw(st.sampled_from([17, 40, 80]))
    assert shown(pieces, columns, 60).cells() == shown([text], columns, 60).cells()


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_an_answer_is_the_same_in_one_piece_and_character_by_character(columns: int) -> None:
    assert shown(ANSWER, columns, 70).cells() == shown([ANSWER], columns, 70).cells()


WORDS = st.lists(st.text("abcdefghij0123456789,.;:?'\"", min_size=1, max_size=30), min_size=1, max_size=60)


@settings(max_examples=30, deadline=None)
@given(WORDS, st.integers(5, 90))
def test_of_plain_text_every_word_is_shown_once_and_in_order(words: list[str], columns: int) -> None:
    text = "x " + " ".join(words)
    seen = shown([text[at : at + 3] for at in range(0, len(text), 3)], columns, 100).lines()
    assert "".join(seen).replace(" ", "") == text.replace(" ", "")
    assert all(len(line) <= columns for line in seen)


@settings(max_examples=25, deadline=None)
@given(st.lists(FRAGMENTS, max_size=20))
def test_finished_lines_are_never_written_again(fragments: list[str]) -> None:
    """All but the paragraph that grows, and a table."""
    text = "".join(fragments).replace("|", "")
    terminal = Terminal(60, 40)
    stream = MarkdownStream(terminal)  # type: ignore[arg-type]
    before: list[str] = []
    for line in text.split("\n"):
        for character in line:
            stream.write(character)
            assert terminal.lines()[: len(before)] == before
        stream.write("\n")
        before = terminal.lines()


def test_a_long_answer_moves_up_by_a_paragraph_at_most() -> None:
    """What goes further up would flicker, and is out of reach where it has left the screen."""
    words = " ".join(f"word{n}" for n in range(1500))
    terminal = shown([f"{word} " for word in words.split(" ")], 80, 24)
    assert max((int(n) for n in re.findall(r"\x1b\[(\d+)A", terminal.sent)), default=0) <= markdown.MOST_LIVE
    assert " ".join(terminal.lines()).split() == words.split()
    assert len(terminal.sent) < 1.2 * len(words)  # little is written twice


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("plain", [("plain", PLAIN)]),
        ("**b** and *i*", [("b", BOLD), (" and ", PLAIN), ("i", ITALIC)]),
        ("***both***", [("both", BOLD | ITALIC)]),
        ("**a *b* c**", [("a ", BOLD), ("b", BOLD | ITALIC), (" c", BOLD)]),
        ("~~gone~~", [("gone", STRIKE)]),
        ("`a*b*c`", [("a*b*c", CODE)]),
        ("``a`b``", [("a`b", CODE)]),
        ("__init__ and snake_case_name", [("__init__ and snake_case_name", PLAIN)]),
        ("_it_", [("it", ITALIC)]),
        ("2*3*4 and 5 * 6 * 7", [("2*3*4 and 5 * 6 * 7", PLAIN)]),
        (r"\*no\* \(x\) \[y\]", [(r"*no* \(x\) \[y\]", PLAIN)]),
        ("**Note:**text", [("Note:", BOLD), ("text", PLAIN)]),
        ("**「重要」**です", [("「重要」", BOLD), ("です", PLAIN)]),
        ("(**b**)", [("(", PLAIN), ("b", BOLD), (")", PLAIN)]),
        ("a ** b", [("a ** b", PLAIN)]),
        ("*args, **kwargs", [("*args, **kwargs", PLAIN)]),
        ("<https://a.b>", [("https://a.b", LINK)]),
        ("open **never closed", [("open **never closed", PLAIN)]),
    ],
)
def test_what_is_emphasised(text: str, runs: list[tuple[str, int]]) -> None:
    assert inline(text) == runs


def test_a_link_shows_where_it_leads() -> None:
    assert "".join(part for part, _ in inline("[here](http://evil.example)")) == "here (http://evil.example)"
    assert "".join(part for part, _ in inline("![a picture](p.png)")) == "a picture (p.png)"


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("open **bo", [("open ", PLAIN), ("bo", BOLD)]),
        ("open **", [("open ", PLAIN)]),
        ("a `b *c", [("a ", PLAIN), ("b *c", CODE)]),
    ],
)
def test_what_is_open_is_shown_as_if_it_were_closed(text: str, runs: list[tuple[str, int]]) -> None:
    assert inline(text, is_complete=False) == runs


@given(st.text("ab *_`~[]()!<>\\", max_size=30))
def test_text_is_kept_but_for_marks(text: str) -> None:
    letters = "".join(part for part, _ in inline(text))
    assert [c for c in letters if c in "ab"] == [c for c in text if c in "ab"]


def test_code_is_coloured_line_by_line_and_texts_of_several_lines_stay_texts() -> None:
    terminal = shown(['```python\nx = """a\ndef b\n"""\nimport os\n```\n'])
    at = {line: y for y, line in enumerate(terminal.lines())}
    cell = terminal.screen.buffer
    assert cell[at["def b"]][0].fg == "green" and cell[at["import os"]][0].fg == "magenta"


def test_a_line_of_code_is_coloured_when_it_ends() -> None:
    terminal = Terminal()
    stream = MarkdownStream(terminal)  # type: ignore[arg-type]
    stream.write("```python\nimport o")
    row = terminal.screen.buffer[1]
    assert row[0].data == "i" and row[0].fg == "default"
    stream.write("s\n")
    assert terminal.screen.buffer[1][0].fg == "magenta"


@pytest.mark.parametrize(
    "language", ["", "no-such-language", "text", "python", "{.python}", "c", "css", "JSON"]
)
@given(lines=st.lists(st.text("ab \"'{}()/*#\\:;=<>@1", max_size=12), max_size=12))
@settings(max_examples=20, deadline=None)
def test_code_is_shown_as_it_is(language: str, lines: list[str]) -> None:
    highlighter = Highlighter(language)
    assert ["".join(part for part, _ in highlighter.line(line)) for line in lines] == lines


def test_a_long_block_looks_at_a_few_lines_again() -> None:
    highlighter = Highlighter("python")
    for n in range(3 * MOST_LINES):
        highlighter.line(f"    x = {n}")
    assert len(highlighter._context) == MOST_LINES


def test_a_long_line_of_code_is_one_line_to_whoever_copies_it() -> None:
    code = "x = [" + ", ".join(str(n) for n in range(60)) + "]"
    terminal = shown(["```python\n", *(code[at : at + 4] for at in range(0, len(code), 4)), "\n```"], 40)
    sent = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", terminal.sent).replace("\r", "")
    assert "".join(terminal.lines()[1:-1]) == code
    assert "\n" not in sent[sent.index("x = [") : sent.rindex("]")]


@pytest.mark.parametrize("columns", [10, 24, 80])
def test_the_lines_around_code_are_never_wider_than_the_terminal(columns: int) -> None:
    source = "> ```" + "verylonglanguage" * 4 + "\n> x\n> ```\nend"
    lines = shown([source], columns).lines()
    assert max(map(len, lines)) < columns and lines[-1] == "end" and "─" in lines[-2]
    assert len(lines) == 4


@pytest.mark.parametrize(("underline", "underlined"), [("===", True), ("---", False)])
def test_a_line_below_makes_a_heading(underline: str, underlined: bool) -> None:
    source = f"Some title\n{underline}\ntext\n"
    for pieces in ([source], list(source)):
        terminal = shown(pieces)
        assert terminal.lines() == ["Some title", "text"]
        cells = [row[0] for row in terminal.cells()[:2]]
        assert [(cell.bold, cell.underscore) for cell in cells] == [(True, underlined), (False, False)]


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("a\n\n---\nb", ["a", "", "─" * 40, "b"]),
        ("- a\n---\nb", ["• a", "─" * 40, "b"]),
        ("> a\n---\nb", ["▌ a", "─" * 40, "b"]),
        ("a\n- b", ["a", "• b"]),
        ("a\n=b", ["a", "=b"]),
        ("a | b\n---|---\n1 | 2", ["a │ b", "──┼──", "1 │ 2"]),
    ],
)
def test_what_looks_like_a_line_below_a_heading_and_is_none(source: str, lines: list[str]) -> None:
    for pieces in ([source], list(source)):
        assert shown(pieces).lines() == lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a &amp; b &lt;c&gt; &#x41;&#66;", "a & b <c> AB"),
        ("`&amp;` &nosuch; & &amp &#27;[31m &#10;", "&amp; &nosuch; & &amp &#27;[31m &#10;"),
        ("**&lt;b&gt;** &#42;x&#42;", "<b> *x*"),
    ],
)
def test_characters_of_html_are_decoded_outside_code(text: str, said: str) -> None:
    assert "".join(part for part, _ in inline(text)) == said
    for pieces in ([text], list(text)):
        assert shown(pieces).lines() == [said]


def test_an_unclosed_block_of_code_shows_all_of_it() -> None:
    assert shown(["```\na\n  b"]).lines()[1:] == ["a", "  b"]


def test_code_in_a_list_and_in_a_quotation() -> None:
    text = "1. see\n   ```sh\n   ls\n     -l\n   ```\n\n> ```\n> x\n> ```\n"
    lines = shown(text).lines()
    assert "   ls" in lines and "     -l" in lines and "▌ x" in lines


def test_a_table_stands_in_columns_and_grows_row_by_row() -> None:
    terminal = Terminal()
    stream = MarkdownStream(terminal)  # type: ignore[arg-type]
    stream.write("| a | **b** |\n|:-:|--:|\n| x | 1 |\n")
    assert terminal.lines() == [" a │ b", "───┼──", " x │ 1"] or terminal.lines()[0].split() == [
        "a",
        "│",
        "b",
    ]
    stream.write("| long cell | 1,000 |\n| \\| | ")
    assert "| \\| |" in terminal.lines()[-1]
    stream.write("2 |\n\nbehind")
    stream.finish()
    lines = terminal.lines()
    assert [line.index("│") for line in lines if "│" in line] == [10] * 4
    assert lines[-1] == "behind" and lines[-3].split() == ["|", "│", "2"]


def test_a_table_wider_than_the_terminal_is_wrapped_in_its_cells() -> None:
    row = "| " + " | ".join(["some words that take room"] * 4) + " |\n"
    lines = shown([row + "|---|---|---|---|\n" + row * 2], 60).lines()
    assert all(width(line) < 60 for line in lines)
    assert "".join("".join(lines).replace("│", "").split()).count("words") == 12


def test_a_table_longer_than_the_screen_is_shown_whole() -> None:
    rows = [f"| {n} | {'x' * (n % 7)}{n} |\n" for n in range(60)]
    lines = shown(["| a | b |\n|---|---|\n", *rows], 40, 12).lines()
    assert [line.split("│")[0].strip() for line in lines[2:]] == [str(n) for n in range(60)]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 200))
def test_the_widest_columns_give_way(wanted: list[int], most: int) -> None:
    found = fitted(wanted, most)
    assert all(0 < got <= want for got, want in zip(found, wanted, strict=True))
    assert sum(found) <= max(most, sum(min(4, want) for want in wanted))
    if sum(wanted) <= most:
        assert found == wanted


def test_bars_without_a_ruler_below_are_text() -> None:
    assert shown(["a | b\nc | d\n"]).lines() == ["a | b", "c | d"]


def test_wide_characters_take_two_columns_and_break_anywhere_but_before_a_stop() -> None:
    lines = laid_out([("你好世界你好，世界", PLAIN)], 12)
    assert ["".join(text for text, _ in line) for line in lines] == ["你好世界你", "好，世界"]


@settings(max_examples=100, deadline=None)
@given(st.text("ab 你好，。「」é😀", max_size=60), st.integers(4, 30))
def test_no_line_is_longer_than_the_terminal(text: str, columns: int) -> None:
    lines = ["".join(part for part, _ in line) for line in laid_out([(text, PLAIN)], columns)]
    assert all(width(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_lists_hang_and_keep_their_numbers() -> None:
    lines = shown(["3. " + "word " * 12 + "\n   - [x] done\n   - [ ] open\n"], 40).lines()
    assert lines[0].startswith("3. word") and lines[1].startswith("   word")
    assert lines[-2:] == ["   ☑ done", "   ☐ open"]


def test_a_number_at_the_beginning_is_shown_at_once() -> None:
    terminal = Terminal()
    stream = MarkdownStream(terminal)  # type: ignore[arg-type]
    stream.write("3")
    assert terminal.lines() == ["3"]
    stream.write(".")
    stream.write("14 is it")
    assert terminal.lines() == ["3.14 is it"]


@pytest.mark.parametrize("columns", [30, 64, 120])
@pytest.mark.parametrize("at", range(3, len(ANSWER), 89))
def test_another_size_while_it_streams_loses_nothing(at: int, columns: int) -> None:
    terminal = Terminal(70, 80)
    stream = MarkdownStream(terminal)  # type: ignore[arg-type]
    for n, character in enumerate(ANSWER):
        if n == at:
            terminal.resize(columns, 80)
        stream.write(character)
    stream.finish()
    sent = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", terminal.sent)  # the screen forgets what has no room for it
    sent = "".join(sent.split())
    left = iter(sent)  # a word that a new size cuts may begin twice
    for word in re.findall(
        r"[^\s*`\[\]()#>|~-]{3,}", ANSWER.replace("👩\u200d💻", "").replace("```python", "")
    ):
        assert all(character in left for character in word), word


def test_control_characters_do_not_reach_the_terminal() -> None:
    from aded_cli.rendering.answers import RenderedAnswer

    terminal = Terminal()
    answer = RenderedAnswer(terminal, None)  # type: ignore[arg-type]
    answer.write("a\x1b]0;title\x07b\r\u202ec **d\x1b[31m**\n```\n\x1b[2Je\n```")
    answer.finish()
    assert "\x1b]" not in terminal.sent and "\x1b[31m" not in terminal.sent and "\x1b[2J" not in terminal.sent
    assert terminal.lines()[0] == "a]0;titlebc d[31m"


def test_thoughts_are_dim_and_wrapped_and_stand_apart() -> None:
    from aded_cli.rendering.answers import RenderedAnswer
    from aded_local.chat.style import AnswerStyle

    terminal = Terminal(30)
    answer = RenderedAnswer(terminal, AnswerStyle(reasoning=("<think>", "</think>")))  # type: ignore[arg-type]
    for piece in ("<thi", "nk>\nhm, so **this** is longer than", " a line\n</think>\n", "\n", "yes"):
        answer.write(piece)
    answer.finish()
    assert terminal.lines() == ["hm, so **this** is longer", "than a line", "", "yes"]
    assert terminal.screen.buffer[0][0].fg == "808080" and terminal.screen.buffer[3][0].fg == "default"


def test_pieces_are_written_at_once() -> None:
    """Plain words go out with the piece that brings them, the first one too."""
    terminal = Terminal()
    stream = MarkdownStream(terminal)  # type: ignore[arg-type]
    for n, piece in enumerate(["Hel", "lo", " you", " and"]):
        stream.write(piece)
        assert terminal.lines() == [["Hel", "Hello", "Hello you", "Hello you and"][n]]


def test_the_screen_of_the_tests_knows_dim_text() -> None:
    assert screen_after(b"\x1b[2mx\x1b[0my").buffer[0][0].fg == "808080"
