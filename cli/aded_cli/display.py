"""What the terminal shows: model text without control sequences, dim lines, tables.

Strings from a model or its file never reach a terminal raw: an escape sequence in them could retitle the
window, recolour it, or type on the user's behalf.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .answer import Answer

PROGRAM = "aded-chat"

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 without tab and line feed, DEL, C1


def visible(text: str) -> str:
    """The text without control characters (tab and line feed stay) and without lone surrogates."""
    return _CONTROL.sub("", text).encode("utf-8", "replace").decode("utf-8")


def is_terminal(stream: IO[Any] | None) -> bool:
    """Whether a standard stream exists, is open, and is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def tolerate_narrow_encodings() -> None:
    """Let a terminal that cannot show a character show "?" instead of ending the chat with an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def write_answer(text: str) -> None:
    """Write a piece of model text to standard output at once."""
    sys.stdout.write(visible(text) if is_terminal(sys.stdout) else text)
    sys.stdout.flush()


def error(message: str, *, program: str = PROGRAM) -> None:
    """One line on standard error: the program's name and what went wrong."""
    click.echo(f"{program}: {visible(' '.join(message.split()))}", err=True)


def note(message: str) -> None:
    """A dim line on standard error, beside the conversation."""
    click.secho(visible(message), dim=True, err=True)


def closing_line(answer: Answer) -> str:
    """The line below an answer: speed, tokens per pass, and why it ended where that is not plain."""
    parts = []
    if answer.stats is not None:
        parts.append(f"{answer.stats.tokens_per_second:.1f} tokens/s")
        parts.append(f"{answer.stats.tokens_per_pass:.2f} tokens per pass")
    if answer.stopped:
        parts.append("stopped")
    elif answer.finish_reason == "length":
        parts.append("cut at the limit")
    return " · ".join(parts)


@contextmanager
def loading(what: str, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A spinner on standard error beside ``what`` takes long, where that is a terminal and not ``quiet``.

    Yields a function that says what takes so long.
    """
    if quiet or not is_terminal(sys.stderr):
        yield lambda _what: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(what) as status:
        yield lambda what: status.update(Text(visible(what)))


def show_stats(description: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> None:
    """Print what holds for the loaded model, then the last answer's figures beside those of all answers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True)
    model = Table("model", "", box=None, header_style="bold", pad_edge=False)
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
            numbers.update({f"{name} {inner}": number for inner, number in value.items()})
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
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{_label(name)} {_shown(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(_shown(inner) for inner in value) or "none"
    return str(value)
