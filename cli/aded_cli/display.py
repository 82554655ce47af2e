"""What the terminal shows: answers, notices, errors, dim lines, tables.

Text of others goes through ``aded_local.shown`` on its way.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

from aded_local.shown import one_line, visible

from .pacing import paced
from .rendering.styles import BOLD, PLAIN, Run, styled

if TYPE_CHECKING:
    from rich.console import Console

    from aded_local.api import Stats
    from aded_local.chat.style import AnswerStyle

    from .answer import Answer

PROGRAM = "aded-chat"

DUMB = ("dumb", "unknown")
"""Values of TERM for terminals that obey no escape sequence."""


def is_terminal(stream: IO[Any] | None) -> bool:
    """Whether a standard stream exists, is open, and is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def is_dumb() -> bool:
    """Whether the terminal shows text and nothing else."""
    return os.environ.get("TERM", "").lower() in DUMB


def is_styled(stream: IO[Any] | None) -> bool:
    """Whether dim and bold are for a stream: a terminal that knows them, and a user who wants them (NO_COLOR)."""
    return is_terminal(stream) and not is_dumb() and not os.environ.get("NO_COLOR")


def tolerate_narrow_encodings() -> None:
    """Let a terminal that cannot show a character show "?" instead of ending the chat with an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


@contextmanager
def answering(style: AnswerStyle | None = None, *, plain: bool = False) -> Iterator[Callable[[str], None]]:
    """Yields what writes an answer to standard output, piece by piece and at once.

    Its last line is ended with the block, also where the answer fails in the middle: what comes next stands below it.
    Where standard output is styled, thoughts are dim and Markdown is rendered.

    Args:
        style: of the answer.
        plain: all is written as it comes, wherever that is.
    """
    if not plain and is_styled(sys.stdout):
        from .rendering.answers import RenderedAnswer

        rendered = RenderedAnswer(sys.stdout, style)
        try:
            yield rendered.write
            rendered.finish()
        except OSError:  # nobody takes what is written
            raise
        except BaseException:
            if rendered.said:
                rendered.end()
            raise
        return
    said = _Said()
    try:
        yield said.write
    except OSError:
        raise
    except BaseException:
        if said.last:
            _end_line(said.last)
        raise
    _end_line(said.last)


class _Said:
    """What of an answer is on standard output; ``last`` is its last character."""

    def __init__(self) -> None:
        self._is_shown = is_terminal(sys.stdout)
        self.last = ""

    def write(self, text: str) -> None:
        """Write what comes next."""
        said = visible(text) if self._is_shown else text
        sys.stdout.write(said)
        sys.stdout.flush()
        self.last = said[-1:] or self.last


def _end_line(last: str) -> None:
    sys.stdout.write("" if last == "\n" else "\n")
    sys.stdout.flush()


def error(message: str, *, program: str = PROGRAM) -> None:
    """One line on standard error: the program's name and what went wrong; at a terminal wrapped at words."""
    click.echo(_wrapped(f"{program}: {one_line(message)}"), err=True)


def note(message: str) -> None:
    """A dim line on standard error, beside the conversation, at a terminal wrapped at words; none where there is
    nothing to say."""
    said = _wrapped(visible(message))
    if said:
        click.echo(click.style(said, dim=True) if is_styled(sys.stderr) else said, err=True)


def _wrapped(text: str) -> str:
    """The text as it goes to standard error. A terminal's last column stays free: terminals differ in what happens
    behind it."""
    if not is_terminal(sys.stderr):
        return text
    from .rendering.live import terminal_size
    from .rendering.widths import wrapped

    return wrapped(text, terminal_size(sys.stderr)[0] - 1)


def say(message: str) -> None:
    """A line on standard output, without control characters."""
    click.echo(visible(message))


def say_rows(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), err: bool = False) -> None:
    """Rows as columns, two spaces apart.

    Args:
        rows: of equal length.
        right: columns of numbers.
        err: on standard error.
    """
    # A name may hold a line end, which must not look like another row.
    rows = [[visible(cell).replace("\n", " ").replace("\t", " ") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip(), err=err)


def tell(message: str) -> None:
    """A line on standard error, as it is: what a command of the chat was asked for."""
    click.echo(visible(message), err=True)


def tell_help(rows: Sequence[tuple[str, str]]) -> None:
    """Commands in two columns: what is typed, and what it does, wrapped at words."""
    widest = max(len(typed) for typed, _ in rows)
    room = max(NARROWEST_HELP, shutil.get_terminal_size().columns - widest - 3)
    for typed, words in rows:
        first, *others = textwrap.wrap(words, room)
        name = typed.ljust(widest)
        tell_styled((name, BOLD), (f"  {first}", PLAIN))
        for line in others:
            tell(" " * (widest + 2) + line)


NARROWEST_HELP = 24
"""Columns of a command's explanation at least."""

BAR = 40
"""Columns of the bar of ``/context``."""


def tell_bar(used: int, most: int) -> None:
    """How much of something is used, as a bar."""
    full = min(BAR, round(BAR * used / most))
    tell("█" * full + "░" * (BAR - full) + f" {used / most:.0%}")


def tell_styled(*runs: Run) -> None:
    """A line on standard error in several styles, where it has any."""
    is_shown = is_styled(sys.stderr)
    click.echo("".join(styled(visible(text), style if is_shown else PLAIN) for text, style in runs), err=True)


class Notices:
    """Notices of the engine. They come at any moment and from any thread, and are shown where a line begins."""

    def __init__(self) -> None:
        """Nothing is kept back yet."""
        self._lock = threading.Lock()
        self._kept: list[str] | None = None

    def __call__(self, message: str) -> None:
        """Show a notice, or keep it for ``show``."""
        with self._lock:
            if self._kept is not None:
                self._kept.append(message)
                return
        note(message)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within the block an answer is written or a line typed: notices wait for ``show``, or for the end of the
        outermost block."""
        with self._lock:
            is_inner = self._kept is not None
        if not is_inner:
            self._show([])
        try:
            yield
        finally:
            if not is_inner:
                self._show(None)

    def show(self) -> None:
        """Within ``kept``: a line begins here, so show what waits."""
        self._show([])

    def _show(self, kept_next: list[str] | None) -> None:
        with self._lock:
            due, self._kept = self._kept or [], kept_next
        for message in due:
            note(message)


notices = Notices()


def closing_line(answer: Answer, before: Stats | None = None) -> str:
    """The line below an answer: speed, tokens per pass, threads where other programs change them, what holds for the
    words where that changes, and why it ended where that is not plain.

    Args:
        answer: that ended.
        before: figures of the answer before it; what it said of threads and words is not said again.
    """
    parts = []
    if answer.stats is not None and answer.stats.tokens_per_second > 0:  # of one token there is no rate
        parts.append(f"{answer.stats.tokens_per_second:.1f} tokens/s")
        parts.append(f"{answer.stats.tokens_per_pass:.2f} tokens per pass")
    if answer.stats is not None:
        parts += _threads(answer.stats, before)
        parts += _words(answer.stats, before)
    if answer.stopped:
        parts.append("stopped")
    elif answer.finish_reason == "length":
        parts.append("cut at the limit")
    return " · ".join(parts)


def _threads(now: Stats, before: Stats | None) -> list[str]:
    was_contended = before is not None and before.contended
    if (now.contended, now.threads) == (was_contended, now.threads if before is None else before.threads):
        return []
    count = "1 thread" if now.threads == 1 else f"{now.threads} threads"
    if now.contended:
        return [f"other programs run: {count}"]
    return [f"{count} again"] if was_contended else []


def _words(now: Stats, before: Stats | None) -> list[str]:
    if before is None or (now.setting, now.same_words) == (before.setting, before.same_words):
        return []
    said = [f"now {now.setting}"] if now.setting != before.setting else []
    if now.same_words != before.same_words:
        said.append(
            "the words of plain decoding"
            if now.same_words
            else "words may part from plain decoding: keeping them is dear at this length (/stats)"
        )
    return said


@contextmanager
def loading(what: str, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A spinner on standard error beside ``what`` takes long, where that is a terminal and not ``quiet``.

    Yields a function that says what takes so long.
    """
    if quiet or not is_terminal(sys.stderr):
        yield lambda _what: None
        return
    if is_dumb():
        say = paced(note)
        say(what)
        yield say
        return
    from rich.text import Text

    # A notice would go on in the spinner's line.
    with notices.kept(), _console().status(Text(what)) as status:
        yield lambda what: status.update(Text(visible(what)))


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, color_system="auto" if is_styled(sys.stderr) else None)


def show_stats(description: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> None:
    """Print what holds for the loaded model, then the last answer's figures beside those of all answers."""
    from rich.table import Table
    from rich.text import Text

    console = _console()
    model = Table("what holds", "", box=None, header_style="bold", pad_edge=False)
    for name, value in description.items():
        model.add_row(Text(visible(_label(name))), Text(visible(_shown(value))))
    console.print(model)
    if not answers:
        console.print(Text("no answer yet", style="dim"))
        return
    figures = Table("figures", "last answer", "all answers", box=None, header_style="bold", pad_edge=False)
    total = sum_up(answers)
    for name, value in _flat(answers[-1]).items():
        last = str(value) if name == "seed" else _shown(value)  # to be typed again after --seed
        figures.add_row(_label(name), last, _shown(total.get(name, "")))
    console.print()
    console.print(figures)


COUNTS = ("prompt_tokens", "reused_tokens", "generated_tokens", "target_passes", "drafted", "accepted")


def sum_up(answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Several answers' figures (``Stats.to_dict()``) as one: counts and seconds added up, rates weighted.

    What has no meaningful sum (a seed, a waiting time) is left out.
    """
    flat = [_flat(answer) for answer in answers]
    total = {
        name: sum(one[name] for one in flat)
        for name in flat[0]
        if name in COUNTS or name.startswith("seconds ")
    }
    if total["target_passes"]:
        weighted = sum(one["tokens_per_pass"] * one["target_passes"] for one in flat)
        total["tokens_per_pass"] = weighted / total["target_passes"]
    timed = [one for one in flat if one["tokens_per_second"] > 0]
    writing = sum(one["generated_tokens"] / one["tokens_per_second"] for one in timed)
    if writing:
        total["tokens_per_second"] = sum(one["generated_tokens"] for one in timed) / writing
    return total


def _flat(answer: Mapping[str, Any]) -> dict[str, float]:
    """Numbers under joined names: {"seconds": {"draft": 1}} becomes {"seconds draft": 1}."""
    numbers: dict[str, float] = {}
    for name, value in answer.items():
        if isinstance(value, Mapping):
            numbers.update({f"{name} {inner}": number for inner, number in _flat(value).items()})
        elif isinstance(value, (int, float)):
            numbers[name] = value
    return numbers


def _label(name: str) -> str:
    return str(name).replace("_", " ")


def _shown(value: Any) -> str:
    """A value for a table cell: four significant digits, separators in large numbers, lists in a row."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if value is None:
        return "not known"
    if isinstance(value, Mapping):
        return ", ".join(f"{_label(name)} {_shown(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(_shown(inner) for inner in value) or "none"
    return str(value)
